"""The sets: six settings by day and night, painted once as a panorama 8 frame heights wide, with
six landmarks that no prompt names.

A panorama is drawn in units of the frame height, x = 0 in the middle, y up from the horizon line.
Scenes happen about the middle, where the place's own landmark stands to the left or to the right;
the other landmarks stand farther out, where a camera has to go to show them.
"""

from functools import lru_cache
from math import cos, pi, sin
from random import Random

import cv2
import numpy as np

from cinelab.world.plans import rng_for
from cinelab.world.toybox2.drawing import SS, Colour, Light, Pen, Point, tint
from cinelab.world.toybox2.state import HEIGHT, SPAN, WIDTH, Camera, Place
from cinelab.world.toybox2.words import UNPROMPTED

HORIZON = 0.62  # horizon, measured from the top of the frame
NIGHT: Light = (0.42, 0.46, 0.72)
DAY: Light = (1.0, 1.0, 1.0)
EDGE = SPAN / 2 - 0.05
HOME = 0.42  # of the place's own landmark: so far to its side
FAR = (-3.3, -2.5, -1.7, 1.7, 2.5, 3.3)  # where the other landmarks stand, but one
KEPT = 64  # panoramas in memory

SKY: dict[str, tuple[Colour, Colour]] = {
    "meadow": ((112, 190, 245), (206, 236, 250)),
    "beach": ((86, 190, 232), (255, 232, 190)),
    "desert": ((250, 176, 96), (255, 226, 160)),
    "city": ((150, 178, 214), (222, 222, 232)),
    "forest": ((120, 178, 160), (196, 222, 180)),
    "snow": ((160, 186, 222), (232, 238, 248)),
}
GROUND: dict[str, Colour] = {
    "meadow": (126, 200, 88),
    "beach": (240, 214, 150),
    "desert": (226, 164, 84),
    "city": (112, 112, 122),
    "forest": (92, 116, 60),
    "snow": (240, 246, 252),
}


def light_of(time: str) -> Light:
    """Return the light of a time of day."""
    return NIGHT if time == "night" else DAY


@lru_cache(maxsize=KEPT)
def panorama(place: Place, time: str) -> np.ndarray:
    """Return the painted set, uint8 (H SS, SPAN H SS, 3)."""
    tall = HEIGHT * SS
    wide = round(SPAN * tall)
    night = time == "night"
    light = light_of(time)
    canvas = gradient(tall, wide, place.setting, night=night)
    pen = Pen(canvas, wide / 2, HORIZON * tall, tall)
    rng = rng_for(place.seed, 0)
    heavens(pen, rng, place.setting, night=night)
    pen.box((-SPAN, -1), (SPAN, 0), tint(GROUND[place.setting], light))
    PAINT[place.setting](pen, rng, light, night)
    for x, landmark in landmarks(place):
        at = Pen(canvas, wide / 2 + x * tall, (HORIZON + 0.03) * tall, tall)
        LANDMARKS[landmark](at, light, night)
    canvas.setflags(write=False)
    return canvas


def landmarks(place: Place) -> list[tuple[float, str]]:
    """Return the landmarks of a place as (x in frame heights, name): its own at home, and the five
    others in an order that its seed draws."""
    rng = rng_for(place.seed, 1)
    others = [name for name in UNPROMPTED["landmark"] if name != place.landmark]
    rng.shuffle(others)
    places = rng.sample(FAR, len(others))
    home = -HOME if place.side == "left" else HOME
    return [(home, place.landmark), *zip(places, others, strict=True)]


def gradient(tall: int, wide: int, setting: str, *, night: bool) -> np.ndarray:
    """Return the sky, uint8 (tall, wide, 3)."""
    top, low = SKY[setting]
    if night:
        top = (18, 22, 58)
        low = tint(low, (0.32, 0.34, 0.62))
    ramp = (np.linspace(0, 1, tall)[:, None] / HORIZON).clip(0, 1)
    column = np.array(top) * (1 - ramp) + np.array(low) * ramp
    return np.ascontiguousarray(np.broadcast_to(column[:, None], (tall, wide, 3)).astype(np.uint8))


def along(rng: Random, every: float, jitter: float = 0.4) -> list[float]:
    """Return places along the set, one in every so many frame heights."""
    count = int(2 * EDGE / every)
    return [-EDGE + every * (k + 0.5 + rng.uniform(-jitter, jitter)) for k in range(count)]


def heavens(pen: Pen, rng: Random, setting: str, *, night: bool) -> None:
    """Draw stars and a moon, or a sun and clouds; the sun stands near home."""
    x = rng.uniform(-0.3, 0.3)
    if night:
        for u in along(rng, 0.19):
            pen.circle(u, rng.uniform(0.2, 0.6), rng.uniform(0.007, 0.013), (250, 248, 220))
        pen.circle(x, 0.46, 0.085, (250, 244, 210))
        pen.circle(x + 0.04, 0.48, 0.07, (30, 34, 76))
        return
    pen.circle(x, 0.46, 0.1, (255, 244, 190))
    pen.circle(x, 0.46, 0.08, (255, 236, 130))
    for u in [] if setting == "desert" else along(rng, 0.65):
        v = rng.uniform(0.3, 0.55)
        for k in (-1, 0, 1):
            pen.ellipse(u + 0.07 * k, v, (0.08, 0.035 + 0.015 * (k == 0)), (252, 252, 252))


def ridge(
    pen: Pen, rng: Random, base: float, *, height: float, waves: float, colour: Colour
) -> None:
    """Draw a line of hills along the whole set."""
    a, b = rng.uniform(0, 2 * pi), rng.uniform(0, 2 * pi)
    tops: list[Point] = [
        (x, base + height * (0.5 + 0.3 * sin(waves * x + a) + 0.2 * sin(2.3 * waves * x + b)))
        for x in np.linspace(-SPAN / 2, SPAN / 2, 160).tolist()
    ]
    pen.polygon([(-SPAN / 2, -0.02), *tops, (SPAN / 2, -0.02)], colour)


def meadow(pen: Pen, rng: Random, light: Light, night: bool) -> None:
    """Draw hills and flowers."""
    ridge(pen, rng, 0.02, height=0.2, waves=3.0, colour=tint((96, 170, 96), light))
    ridge(pen, rng, -0.01, height=0.1, waves=4.0, colour=tint((112, 188, 84), light))
    for u in along(rng, 0.16):
        colour = rng.choice(((255, 255, 255), (255, 214, 90), (240, 130, 170)))
        v = rng.uniform(-0.36, -0.05)
        pen.line([(u, v - 0.035), (u, v)], 0.01, tint((70, 140, 60), light))
        pen.circle(u, v, 0.018, tint(colour, light))


def beach(pen: Pen, rng: Random, light: Light, night: bool) -> None:
    """Draw the sea with waves, and a line of foam."""
    pen.box((-SPAN, -0.1), (SPAN, 0.0), tint((44, 132, 200), light))
    for row in range(3):
        v = -0.03 * row - 0.02
        for u in along(rng, 0.6):
            pen.box((u, v), (u + 0.14, v + 0.01), tint((210, 240, 250), light))
    pen.box((-SPAN, -0.125), (SPAN, -0.1), tint((250, 250, 244), light))
    for u in along(rng, 0.5):
        pen.ellipse(u, rng.uniform(-0.34, -0.18), (0.02, 0.012), tint((214, 178, 120), light))


def desert(pen: Pen, rng: Random, light: Light, night: bool) -> None:
    """Draw dunes and cacti."""
    ridge(pen, rng, 0.0, height=0.22, waves=2.4, colour=tint((212, 140, 70), light))
    ridge(pen, rng, -0.02, height=0.1, waves=3.6, colour=tint((238, 182, 104), light))
    for u in along(rng, 0.5):
        v = rng.uniform(-0.12, -0.02)
        green = tint((60, 130, 80), light)
        pen.line([(u, v), (u, v + 0.14)], 0.03, green)
        pen.line([(u - 0.05, v + 0.11), (u - 0.05, v + 0.06), (u, v + 0.06)], 0.022, green)


def city(pen: Pen, rng: Random, light: Light, night: bool) -> None:
    """Draw houses with windows, and a street with marks."""
    x = -SPAN / 2
    while x < SPAN / 2:
        wide = rng.uniform(0.16, 0.26)
        high = rng.uniform(0.12, 0.4)
        wall = rng.choice(((134, 142, 166), (168, 144, 138), (120, 128, 140)))
        pen.box((x, -0.02), (x + wide, high), tint(wall, light))
        for i in range(int(wide / 0.09)):
            for j in range(int(high / 0.11)):
                lit = night and rng.random() < 0.6
                colour = (255, 226, 130) if lit else tint((214, 228, 240), light)
                low = (x + 0.025 + 0.09 * i, 0.02 + 0.11 * j)
                pen.box(low, (low[0] + 0.045, low[1] + 0.06), colour)
        x += wide + 0.01
    for k in range(-20, 20):
        pen.box((0.2 * k, -0.21), (0.2 * k + 0.11, -0.185), tint((240, 232, 190), light))


def forest(pen: Pen, rng: Random, light: Light, night: bool) -> None:
    """Draw a wooded ridge and firs before it."""
    ridge(pen, rng, 0.1, height=0.16, waves=5.0, colour=tint((70, 124, 86), light))
    for u in along(rng, 0.2, 0.25):
        v = rng.uniform(-0.03, 0.02)
        high = rng.uniform(0.3, 0.46)
        pen.box((u - 0.018, v), (u + 0.018, v + 0.2), tint((96, 66, 44), light))
        for step in range(3):
            low = v + 0.1 + 0.25 * high * step
            wide = 0.1 - 0.022 * step
            green = tint((38, 104 + 8 * step, 62), light)
            pen.polygon([(u - wide, low), (u + wide, low), (u, low + 0.45 * high)], green)


def snow(pen: Pen, rng: Random, light: Light, night: bool) -> None:
    """Draw mountains with white tops."""
    for u in along(rng, 0.5, 0.2):
        high = rng.uniform(0.26, 0.42)
        rock = tint((118, 136, 168), light)
        pen.polygon([(u - 0.36, -0.01), (u + 0.36, -0.01), (u, high)], rock)
        top = tint((252, 252, 255), light)
        pen.polygon([(u - 0.13, 0.64 * high), (u + 0.13, 0.64 * high), (u, high)], top)
    ridge(pen, rng, -0.02, height=0.07, waves=3.0, colour=tint((224, 234, 246), light))


def house(pen: Pen, light: Light, night: bool) -> None:
    """Draw a house with a red roof."""
    pen.box((-0.13, 0), (0.13, 0.2), tint((232, 206, 170), light))
    pen.polygon([(-0.17, 0.19), (0.17, 0.19), (0, 0.36)], tint((190, 60, 50), light))
    pen.box((-0.03, 0), (0.04, 0.12), tint((110, 70, 50), light))
    window = (255, 230, 130) if night else tint((150, 200, 230), light)
    pen.box((0.06, 0.09), (0.11, 0.15), window)


def lighthouse(pen: Pen, light: Light, night: bool) -> None:
    """Draw a red and white lighthouse."""
    for k in range(4):
        low = 0.1 * k
        wide = 0.075 - 0.008 * k
        colour = tint((250, 250, 250) if k % 2 else (214, 60, 60), light)
        foot = wide + 0.008
        pen.polygon([(-foot, low), (foot, low), (wide, low + 0.1), (-wide, low + 0.1)], colour)
    pen.box((-0.045, 0.4), (0.045, 0.47), (255, 240, 120))
    pen.polygon([(-0.06, 0.47), (0.06, 0.47), (0, 0.53)], tint((60, 60, 80), light))


def windmill(pen: Pen, light: Light, night: bool) -> None:
    """Draw a windmill with four sails."""
    wall = tint((196, 164, 128), light)
    pen.polygon([(-0.1, 0), (0.1, 0), (0.055, 0.32), (-0.055, 0.32)], wall)
    pen.polygon([(-0.07, 0.31), (0.07, 0.31), (0, 0.39)], tint((92, 72, 60), light))
    for k in range(4):
        turn = pi / 4 + k * pi / 2
        tip = (0.2 * cos(turn), 0.33 + 0.2 * sin(turn))
        pen.line([(0, 0.33), tip], 0.045, tint((250, 246, 236), light))
    pen.circle(0, 0.33, 0.03, tint((60, 50, 50), light))


def blossom(pen: Pen, light: Light, night: bool) -> None:
    """Draw a tree in blossom."""
    pen.box((-0.028, 0), (0.028, 0.22), tint((110, 74, 60), light))
    for u, v, r in ((-0.1, 0.25, 0.1), (0.1, 0.25, 0.1), (0, 0.36, 0.13), (0, 0.24, 0.11)):
        pen.circle(u, v, r, tint((255, 170, 205), light))
    for u, v in ((-0.1, 0.28), (0.07, 0.3), (0, 0.4)):
        pen.circle(u, v, 0.03, tint((255, 214, 232), light))


def tower(pen: Pen, light: Light, night: bool) -> None:
    """Draw a stone tower with battlements."""
    stone = tint((150, 148, 150), light)
    pen.box((-0.1, 0), (0.1, 0.4), stone)
    for k in (-2, 0, 2):
        pen.box((0.05 * k - 0.03, 0.4), (0.05 * k + 0.03, 0.46), stone)
    pen.box((-0.03, 0), (0.03, 0.11), tint((90, 62, 48), light))
    pen.box((-0.025, 0.25), (0.025, 0.33), (255, 230, 130) if night else tint((60, 60, 72), light))


def tent(pen: Pen, light: Light, night: bool) -> None:
    """Draw a striped tent with a pennant."""
    for k in range(4):
        colour = tint((64, 150, 190) if k % 2 else (248, 244, 232), light)
        low = -0.2 + 0.1 * k
        pen.polygon([(low, 0), (low + 0.1, 0), (0, 0.3)], colour)
    pen.line([(0, 0.3), (0, 0.4)], 0.014, tint((80, 60, 50), light))
    pen.polygon([(0, 0.4), (0.09, 0.37), (0, 0.34)], tint((230, 80, 80), light))


PAINT = {
    "meadow": meadow,
    "beach": beach,
    "desert": desert,
    "city": city,
    "forest": forest,
    "snow": snow,
}
LANDMARKS = {
    "house": house,
    "lighthouse": lighthouse,
    "windmill": windmill,
    "blossom": blossom,
    "tower": tower,
    "tent": tent,
}


def view(canvas: np.ndarray, camera: Camera, zoom: float) -> np.ndarray:
    """Return the panorama before a camera, uint8 (H SS, W SS, 3).

    The zoom is about the horizon, so that the ground stays under the feet. A set ends at its edge,
    which is drawn out.
    """
    tall = HEIGHT * SS
    wide = WIDTH * SS
    left = wide / 2 - zoom * (canvas.shape[1] / 2 + camera.x * tall)
    matrix = np.array([[zoom, 0, left], [0, zoom, HORIZON * tall * (1 - zoom)]])
    border = cv2.BORDER_REPLICATE
    return cv2.warpAffine(canvas, matrix, (wide, tall), flags=cv2.INTER_LINEAR, borderMode=border)
