"""Film plans to frames, with exact ground truth.

frames   uint8 (F, H, W, 3) RGB; the first latent frame is one frame, each later one STRIDE
frames"""

from dataclasses import dataclass

import cv2
import numpy as np

from cinelab.world.plans import FilmPlan, Rendered, ShotPlan, frames_of, with_truth
from cinelab.world.toybox1.actors import draw_actor, pose_at
from cinelab.world.toybox1.draw import SS, Pen
from cinelab.world.toybox1.sets import panorama, view
from cinelab.world.toybox1.vocab import FPS, HEIGHT, STRIDE, WIDTH
from cinelab.world.toybox2.drawing import dimmed
from cinelab.world.toybox2.sets import HORIZON, light_of

ACTOR = {"wide": 11.0, "medium": 15.0, "close": 20.0}  # frame pixels per unit of figure
# where the feet stand, in frame heights from the top
FEET = {"wide": 0.86, "medium": 1.0, "close": 1.12}
BACKDROP = {"wide": 1.0, "medium": 1.08, "close": 1.18}  # zoom of the set behind
# the figure's reach in its own units
TALL = 2.8
LEFT = {"balloon": 1.4, "hat": 1.0, "crown": 1.0, "scarf": 1.0}
LENS = 0.45  # blur of the lens, pixels
# camera speed: frame heights, and share, per second
PAN = 0.07
ZOOM = 0.07


def camera_at(move: str, seconds: float) -> tuple[float, float]:
    """(sideways in frame heights, zoom) of a camera move `seconds` after the shot began."""
    sideways = {"pan left": -1, "pan right": 1}.get(move, 0) * PAN * seconds
    zoom = {"zoom in": 1, "zoom out": -1}.get(move, 0) * ZOOM * seconds
    return sideways, (1 + zoom if zoom >= 0 else 1 / (1 - zoom))


@dataclass(frozen=True)
class Carry:
    """The state of a frame when the next prompt goes on without a cut."""

    camera_seconds: float = 0.0
    x: float = 0.0  # of the figure, in its own units


def opening(action: str) -> Carry:
    """A walker enters from the side it comes from; everyone else stands in the middle."""
    return Carry(x={"walk left": 0.4, "walk right": -0.4}.get(action, 0.0))


def render_shot(
    shot: ShotPlan, count: int, carry: Carry | None = None
) -> tuple[np.ndarray, np.ndarray, Carry]:
    """`count` frames of a shot: uint8 (count, H, W, 3), boxes (count, 4), and where it ends."""
    attributes = shot.attributes
    start = carry or opening(attributes["action"])
    backdrop = panorama(attributes, shot.scenery_seed, HEIGHT)
    light = light_of(attributes["time"])
    figure_light = dimmed(light, 0.4, 0.6)  # faces stay readable at night
    frames = np.empty((count, HEIGHT, WIDTH, 3), np.uint8)
    boxes = np.empty((count, 4), np.float32)
    for i in range(count):
        sideways, zoom = camera_at(attributes["camera"], start.camera_seconds + i / FPS)
        canvas = view(backdrop, sideways, zoom * BACKDROP[attributes["size"]], HEIGHT, WIDTH)
        pose = pose_at(attributes["action"], i / FPS)
        scale = ACTOR[attributes["size"]] * zoom * SS
        x = WIDTH * SS / 2 + (start.x + pose.dx) * scale - 0.5 * sideways * HEIGHT * SS
        y = (FEET[attributes["size"]] - HORIZON) * HEIGHT * SS * zoom + HORIZON * HEIGHT * SS
        pen = Pen(canvas, x, y - pose.lift * scale, scale, pose.tilt, pose.stretch)
        draw_actor(pen, attributes, pose, figure_light)
        small = cv2.resize(canvas, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        frames[i] = cv2.GaussianBlur(small, (3, 3), LENS)
        foot = y - pose.lift * scale
        boxes[i] = (
            np.array(
                [
                    x - LEFT[attributes["accessory"]] * scale,
                    foot - TALL * pose.stretch * scale,
                    x + scale,
                    foot,
                ]
            )
            / SS
        )
    end = Carry(
        start.camera_seconds + count / FPS, start.x + pose_at(attributes["action"], count / FPS).dx
    )
    return frames, boxes.clip(0, [WIDTH, HEIGHT, WIDTH, HEIGHT]), end


def render(plan: FilmPlan) -> Rendered:
    """Draw a whole film."""
    frames = []
    boxes = []
    carry = None
    for number, shot in enumerate(plan.shots):
        count = frames_of(shot.latents, STRIDE, first=number == 0)
        part, where, carry = render_shot(shot, count, carry if shot.continues else None)
        frames.append(part)
        boxes.append(where)
    return with_truth(plan, np.concatenate(frames), np.concatenate(boxes), STRIDE)
