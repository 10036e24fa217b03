"""States to frames, and film plans to frames with exact ground truth.

frames   uint8 (F, H, W, 3) RGB; the first latent frame is one frame, each later one STRIDE frames
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import cv2
import numpy as np

from cinelab.world.plans import FilmPlan, Rendered, frames_of, with_truth
from cinelab.world.toybox2.casting import Toybox2Shot, with_composition
from cinelab.world.toybox2.drawing import SS, Light, Pen, dimmed
from cinelab.world.toybox2.figures import draw_figure, pose_of
from cinelab.world.toybox2.sets import HORIZON, light_of, panorama, view
from cinelab.world.toybox2.state import (
    FPS,
    HEIGHT,
    LENS,
    PAN,
    STRIDE,
    UNIT,
    WAY,
    WIDTH,
    Appearance,
    Camera,
    Figure,
    Place,
    State,
    advance,
    camera_action,
    walk_speed,
)
from cinelab.world.toybox2.words import IDENTITY, PARTNER

# where the feet stand, in frame heights from the top
FEET = {"wide": 0.88, "medium": 1.0, "close": 1.14}
RISE = 0.07  # of the feet of who stands behind, in frame heights at a wide shot's scale
BEHIND = 0.8  # its scale
APART = (0.75, 1.05)  # how far to their sides the first and its partner stand, in units
BLUR = 0.7  # of the lens, pixels
SHADOW = 0.82  # light on the ground under a figure
# the figure's reach in its own units
TALL = 2.8
LEFT = {"balloon": 1.4}
REACH = 1.0


def draw(state: State) -> np.ndarray:
    """Return the frame of a state, uint8 (H, W, 3)."""
    zoom = state.camera.zoom * LENS[state.size]
    canvas = view(panorama(state.place, state.time), state.camera, zoom)
    light = dimmed(light_of(state.time), 0.4, 0.6)  # faces stay readable at night
    for figure in sorted(state.figures, key=lambda figure: not figure.behind):
        draw_in_place(canvas, state, figure, light)
    small = cv2.resize(canvas, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    lens: np.ndarray = cv2.GaussianBlur(small, (5, 5), BLUR)
    return lens


def draw_in_place(canvas: np.ndarray, state: State, figure: Figure, light: Light) -> None:
    """Draw a figure where it stands, with its shadow; nothing where it is out of the frame."""
    x, ground, scale = foot(state, figure)
    if not -2 * scale < x < WIDTH + 2 * scale:
        return
    pose = pose_of(figure.action, figure.ticks)
    shade(canvas, x, ground, scale * (1 - 0.5 * pose.lift))
    lifted = (ground - pose.lift * scale) * SS
    pen = Pen(canvas, x * SS, lifted, scale * SS, pose.tilt, pose.stretch)
    draw_figure(pen, figure.looks, pose, light)


def shade(canvas: np.ndarray, x: float, ground: float, scale: float) -> None:
    """Darken the ground under a figure."""
    top = max(0, round((ground - 0.14 * scale) * SS))
    low = min(HEIGHT * SS, round((ground + 0.14 * scale) * SS))
    left = max(0, round((x - 0.7 * scale) * SS))
    right = min(WIDTH * SS, round((x + 0.7 * scale) * SS))
    if top >= low or left >= right:
        return
    part = canvas[top:low, left:right]
    mask = np.zeros(part.shape[:2], np.uint8)
    centre = (round(x * SS) - left, round(ground * SS) - top)
    axes = (max(1, round(0.62 * scale * SS)), max(1, round(0.12 * scale * SS)))
    cv2.ellipse(mask, centre, axes, 0, 0, 360, 255, -1, cv2.LINE_AA)
    dark = cv2.convertScaleAbs(part, alpha=SHADOW)
    cv2.copyTo(dark, mask, part)


def foot(state: State, figure: Figure) -> tuple[float, float, float]:
    """Return where a figure's feet are (x, y) and its scale, in frame pixels (a unit)."""
    zoom = state.camera.zoom
    scale = UNIT[state.size] * zoom * (BEHIND if figure.behind else 1.0)
    x = WIDTH / 2 + (figure.x - state.camera.x) * HEIGHT * zoom * LENS[state.size]
    feet = FEET[state.size] - (RISE * UNIT[state.size] / UNIT["wide"] if figure.behind else 0.0)
    return x, HEIGHT * (HORIZON + (feet - HORIZON) * zoom), scale


def box(state: State, figure: Figure) -> np.ndarray:
    """Return the box of a figure, float (4,): left, top, right, bottom in pixels, clipped to the
    frame."""
    x, ground, scale = foot(state, figure)
    pose = pose_of(figure.action, figure.ticks)
    low = ground - pose.lift * scale
    left = x - LEFT.get(figure.looks.accessory, REACH) * scale
    corners = [left, low - TALL * pose.stretch * scale, x + REACH * scale, low]
    return np.array(corners).clip(0, [WIDTH, HEIGHT, WIDTH, HEIGHT])


def looks_of(shot: Toybox2Shot) -> list[Appearance]:
    """Return what the first figure of a shot looks like, and its partner where it has one."""
    attributes = shot.attributes
    first = Appearance(attributes["kind"], attributes["colour"], *(attributes[n] for n in IDENTITY))
    if shot.partner is None:
        return [first]
    colour, kind = (attributes[name] for name in PARTNER)
    return [first, Appearance(kind, colour, *shot.partner_looks)]


def opening(shot: Toybox2Shot) -> State:
    """Return the first state of a shot.

    A walker begins on the side it comes from, and a camera that pans begins before where it goes,
    so that what the shot is about is in its middle half way.
    """
    attributes = shot.attributes
    size = attributes["size"]
    unit = UNIT[size] / (HEIGHT * LENS[size])
    seconds = shot.latents * STRIDE / FPS
    first, *partner = looks_of(shot)
    side = 1 if shot.mirrored else -1
    x = side * APART[0] * unit if partner else 0.0
    x -= WAY.get(attributes["action"], 0) * walk_speed(size) * seconds / 2
    figures = [Figure(first, x, attributes["action"])]
    figures += [Figure(looks, -side * APART[1] * unit, behind=True) for looks in partner]
    pan = camera_action(attributes["camera"]).sideways * PAN
    place = Place(
        attributes["setting"], attributes["landmark"], attributes["side"], shot.scenery_seed
    )
    camera = Camera(-pan * seconds / 2)
    return State(place, attributes["time"], size, camera, tuple(figures))


def track(state: State, camera: str, ticks: int) -> list[State]:
    """Return a state and those of the `ticks` after it, under a camera word."""
    move = camera_action(camera)
    states = [state]
    for _ in range(ticks):
        states.append(advance(states[-1], move))
    return states


def going_on(shot: Toybox2Shot, state: State) -> State:
    """Return the state in which the first figure begins the action of a shot that goes on from
    another."""
    first, *others = state.figures
    begun = replace(first, action=shot.attributes["action"], ticks=0)
    return replace(state, figures=(begun, *others))


def states_of(plan: FilmPlan) -> Iterator[State]:
    """Yield the state of every frame of a film."""
    after: State | None = None
    for number, shot in enumerate(map(with_composition, plan.shots)):
        count = frames_of(shot.latents, STRIDE, first=number == 0)
        begin = going_on(shot, after) if shot.continues and after else opening(shot)
        *shown, after = track(begin, shot.attributes["camera"], count)
        yield from shown


def drawn_frames(states: Iterable[State]) -> np.ndarray:
    """Return the frames of states, uint8 (F, H, W, 3)."""
    return np.stack([draw(state) for state in states])


def render(plan: FilmPlan) -> Rendered:
    """Draw a whole film."""
    states = list(states_of(plan))
    boxes = np.stack([box(state, state.figures[0]) for state in states])
    return with_truth(plan, drawn_frames(states), boxes.astype(np.float32), STRIDE)
