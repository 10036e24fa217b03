"""The sets: six settings by day and night, painted once per shot as a panorama wider than the
frame.

A panorama is drawn in units of the frame height, x = 0 in the middle, y up from the horizon line.
"""

from math import pi, sin

import cv2
import numpy as np

from cinelab.world.plans import rng_for
from cinelab.world.toybox1.draw import SS, Pen
from cinelab.world.toybox2.drawing import Colour, tint
from cinelab.world.toybox2.sets import GROUND, HORIZON, SKY, light_of

SPAN = 2.6  # panorama width in frame heights (a 4:3 frame is 1.33 wide)


def panorama(attributes: dict[str, str], seed: int, height: int) -> np.ndarray:
    """The painted set, uint8 (height * SS, SPAN * height * SS, 3)."""
    tall = height * SS
    wide = round(SPAN * height * SS)
    night = attributes["time"] == "night"
    light = light_of(attributes["time"])
    setting = attributes["setting"]
    canvas = gradient(tall, wide, *SKY[setting], night)
    pen = Pen(canvas, wide / 2, HORIZON * tall, tall)
    rng = rng_for(seed, 0)
    heavens(pen, rng, night, setting)
    box(pen, -SPAN, -1, SPAN, 0, tint(GROUND[setting], light))
    PAINT[setting](pen, rng, light, night)
    x = -0.44 if attributes["side"] == "left" else 0.44
    LANDMARKS[attributes["landmark"]](
        Pen(canvas, wide / 2 + x * tall, (HORIZON + 0.03) * tall, tall), light, night
    )
    return canvas


def gradient(tall: int, wide: int, top: Colour, low: Colour, night: bool) -> np.ndarray:
    if night:
        top = (18, 22, 58)
        low = tint(low, (0.32, 0.34, 0.62))
    ramp = np.linspace(0, 1, tall)[:, None] / HORIZON
    column = np.array(top) * (1 - ramp.clip(0, 1)) + np.array(low) * ramp.clip(0, 1)
    return np.ascontiguousarray(np.broadcast_to(column[:, None], (tall, wide, 3)).astype(np.uint8))


def heavens(pen: Pen, rng, night: bool, setting: str) -> None:
    x = rng.uniform(-0.3, 0.3)
    if night:
        for _ in range(14):
            pen.circle(
                rng.uniform(-1.3, 1.3),
                rng.uniform(0.2, 0.6),
                rng.uniform(0.012, 0.018),
                (250, 248, 220),
            )
        pen.circle(x, 0.46, 0.085, (250, 244, 210))
        pen.circle(x + 0.04, 0.48, 0.07, (30, 34, 76))
        return
    pen.circle(x, 0.46, 0.085, (255, 240, 150))
    for _ in range(0 if setting == "desert" else 4):
        u = rng.uniform(-1.2, 1.2)
        v = rng.uniform(0.3, 0.55)
        for k in (-1, 0, 1):
            pen.ellipse(u + 0.07 * k, v, 0.08, 0.035 + 0.015 * (k == 0), (252, 252, 252))


def box(pen: Pen, left, low, right, high, colour: Colour) -> None:
    pen.polygon([(left, low), (right, low), (right, high), (left, high)], colour)


def ridge(pen: Pen, rng, base: float, height: float, waves: float, colour: Colour) -> None:
    a, b = rng.uniform(0, 2 * pi), rng.uniform(0, 2 * pi)
    xs = np.linspace(-SPAN / 2, SPAN / 2, 60)
    tops = [
        (x, base + height * (0.5 + 0.3 * sin(waves * x + a) + 0.2 * sin(2.3 * waves * x + b)))
        for x in xs
    ]
    pen.polygon([(-SPAN / 2, -0.02), *tops, (SPAN / 2, -0.02)], colour)


def meadow(pen: Pen, rng, light, night: bool) -> None:
    ridge(pen, rng, 0.02, 0.2, 3.0, tint((96, 170, 96), light))
    ridge(pen, rng, -0.01, 0.1, 4.0, tint((112, 188, 84), light))
    for _ in range(14):
        colour = rng.choice(((255, 255, 255), (255, 214, 90), (240, 130, 170)))
        pen.circle(rng.uniform(-1.3, 1.3), rng.uniform(-0.36, -0.04), 0.022, tint(colour, light))


def beach(pen: Pen, rng, light, night: bool) -> None:
    box(pen, -SPAN, -0.1, SPAN, 0.0, tint((44, 132, 200), light))
    for row in range(3):
        for _ in range(4):
            u = rng.uniform(-1.3, 1.3)
            box(
                pen,
                u,
                -0.03 * row - 0.02,
                u + 0.14,
                -0.03 * row - 0.008,
                tint((210, 240, 250), light),
            )
    box(pen, -SPAN, -0.125, SPAN, -0.1, tint((250, 250, 244), light))


def desert(pen: Pen, rng, light, night: bool) -> None:
    ridge(pen, rng, 0.0, 0.22, 2.4, tint((212, 140, 70), light))
    ridge(pen, rng, -0.02, 0.1, 3.6, tint((238, 182, 104), light))
    for _ in range(5):
        u = rng.uniform(-1.3, 1.3)
        v = rng.uniform(-0.12, -0.02)
        green = tint((60, 130, 80), light)
        pen.line([(u, v), (u, v + 0.14)], 0.03, green)
        pen.line([(u - 0.05, v + 0.11), (u - 0.05, v + 0.06), (u, v + 0.06)], 0.022, green)


def city(pen: Pen, rng, light, night: bool) -> None:
    x = -SPAN / 2
    while x < SPAN / 2:
        w = rng.uniform(0.12, 0.22)
        h = rng.uniform(0.12, 0.4)
        wall = rng.choice(((134, 142, 166), (168, 144, 138), (120, 128, 140)))
        box(pen, x, -0.02, x + w, h, tint(wall, light))
        for i in range(int(w / 0.09)):
            for j in range(int(h / 0.11)):
                lit = (
                    (255, 226, 130)
                    if night and rng.random() < 0.6
                    else tint((214, 228, 240), light)
                )
                box(
                    pen,
                    x + 0.025 + 0.09 * i,
                    0.02 + 0.11 * j,
                    x + 0.07 + 0.09 * i,
                    0.08 + 0.11 * j,
                    lit,
                )
        x += w + 0.01
    for k in range(-7, 8):
        box(pen, 0.2 * k, -0.21, 0.2 * k + 0.11, -0.185, tint((240, 232, 190), light))


def forest(pen: Pen, rng, light, night: bool) -> None:
    ridge(pen, rng, 0.1, 0.16, 5.0, tint((70, 124, 86), light))
    for k in range(15):
        u = -1.3 + 0.19 * k + rng.uniform(-0.05, 0.05)
        v = rng.uniform(-0.03, 0.02)
        h = rng.uniform(0.3, 0.46)
        box(pen, u - 0.018, v, u + 0.018, v + 0.2, tint((96, 66, 44), light))
        for step in range(3):
            low = v + 0.1 + 0.25 * h * step
            half = 0.1 - 0.022 * step
            green = tint((38, 104 + 8 * step, 62), light)
            pen.polygon([(u - half, low), (u + half, low), (u, low + 0.45 * h)], green)


def snow(pen: Pen, rng, light, night: bool) -> None:
    for k in range(6):
        u = -1.3 + 0.5 * k + rng.uniform(-0.1, 0.1)
        h = rng.uniform(0.26, 0.42)
        pen.polygon([(u - 0.36, -0.01), (u + 0.36, -0.01), (u, h)], tint((118, 136, 168), light))
        pen.polygon(
            [(u - 0.13, 0.64 * h), (u + 0.13, 0.64 * h), (u, h)], tint((252, 252, 255), light)
        )
    ridge(pen, rng, -0.02, 0.07, 3.0, tint((224, 234, 246), light))


def house(pen: Pen, light, night: bool) -> None:
    box(pen, -0.13, 0, 0.13, 0.2, tint((232, 206, 170), light))
    pen.polygon([(-0.17, 0.19), (0.17, 0.19), (0, 0.36)], tint((190, 60, 50), light))
    box(pen, -0.03, 0, 0.04, 0.12, tint((110, 70, 50), light))
    box(pen, 0.06, 0.09, 0.11, 0.15, (255, 230, 130) if night else tint((150, 200, 230), light))


def lighthouse(pen: Pen, light, night: bool) -> None:
    for k in range(4):
        low = 0.1 * k
        half = 0.075 - 0.008 * k
        colour = tint((250, 250, 250) if k % 2 else (214, 60, 60), light)
        pen.polygon(
            [(-half - 0.008, low), (half + 0.008, low), (half, low + 0.1), (-half, low + 0.1)],
            colour,
        )
    box(pen, -0.045, 0.4, 0.045, 0.47, (255, 240, 120))
    pen.polygon([(-0.06, 0.47), (0.06, 0.47), (0, 0.53)], tint((60, 60, 80), light))


def windmill(pen: Pen, light, night: bool) -> None:
    pen.polygon([(-0.1, 0), (0.1, 0), (0.055, 0.32), (-0.055, 0.32)], tint((196, 164, 128), light))
    pen.polygon([(-0.07, 0.31), (0.07, 0.31), (0, 0.39)], tint((92, 72, 60), light))
    for k in range(4):
        a = pi / 4 + k * pi / 2
        u = 0.2 * np.cos(a)
        v = 0.2 * np.sin(a)
        pen.line([(0, 0.33), (u, 0.33 + v)], 0.05, tint((250, 246, 236), light))
    pen.circle(0, 0.33, 0.03, tint((60, 50, 50), light))


def blossom(pen: Pen, light, night: bool) -> None:
    box(pen, -0.028, 0, 0.028, 0.22, tint((110, 74, 60), light))
    for u, v, r in ((-0.1, 0.25, 0.1), (0.1, 0.25, 0.1), (0, 0.36, 0.13), (0, 0.24, 0.11)):
        pen.circle(u, v, r, tint((255, 170, 205), light))
    for u, v in ((-0.1, 0.28), (0.07, 0.3), (0, 0.4)):
        pen.circle(u, v, 0.03, tint((255, 214, 232), light))


PAINT = {
    "meadow": meadow,
    "beach": beach,
    "desert": desert,
    "city": city,
    "forest": forest,
    "snow": snow,
}
LANDMARKS = {"house": house, "lighthouse": lighthouse, "windmill": windmill, "blossom": blossom}


def view(canvas: np.ndarray, x: float, zoom: float, height: int, width: int) -> np.ndarray:
    """The panorama seen by a camera at `x` (frame heights) with `zoom`: uint8 (height*SS, width*SS,
    3).

    The zoom is about the horizon, so that the ground stays under the feet.
    """
    tall = height * SS
    wide = width * SS
    matrix = np.array(
        [
            [zoom, 0, wide / 2 - zoom * (canvas.shape[1] / 2 + x * tall)],
            [0, zoom, HORIZON * tall * (1 - zoom)],
        ]
    )
    return cv2.warpAffine(
        canvas, matrix, (wide, tall), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
