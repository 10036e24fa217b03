"""The cast: four kinds of characters, drawn from primitives with pose, pattern, accessory and two
colours.

A figure stands on local (0, 0), is about 2 units tall, and faces us.
"""

from dataclasses import dataclass
from math import pi, sin

from cinelab.world.toybox1.draw import Pen
from cinelab.world.toybox2.drawing import Colour, dimmed, tint
from cinelab.world.toybox2.figures import COLOURS, GOLD, INK, SECOND


@dataclass(frozen=True)
class Pose:
    """Where the limbs are: all in local units or radians."""

    dx: float = 0.0  # walked distance
    lift: float = 0.0  # height above ground
    tilt: float = 0.0
    stretch: float = 1.0
    stride: float = 0.0  # legs apart, signed
    arm: float = -0.5  # right hand height relative to the shoulder
    look: float = 0.0  # eyes and nose shifted to the side


def pose_at(action: str, seconds: float) -> Pose:
    """The pose of an action `seconds` after it began, `dx` counted from there. Every action starts
    on the same beat."""
    beat = 2 * pi * seconds
    if action in ("walk left", "walk right"):
        way = 1 if action == "walk right" else -1
        return Pose(
            dx=way * 0.5 * seconds,
            stride=0.28 * sin(1.2 * beat),
            tilt=0.05 * way,
            look=0.16 * way,
            lift=0.06 * abs(sin(1.2 * beat)),
        )
    if action == "jump":
        height = abs(sin(0.5 * beat))
        return Pose(lift=0.5 * height, stretch=0.92 + 0.14 * height, arm=-0.5 + 0.6 * height)
    if action == "wave":
        return Pose(arm=0.75 + 0.3 * sin(1.25 * beat))
    if action == "dance":
        return Pose(
            tilt=0.2 * sin(0.75 * beat), arm=0.1 + 0.5 * sin(0.75 * beat), stride=0.1, lift=0.05
        )
    return Pose(stretch=1.0 + 0.015 * sin(0.6 * beat))


def draw_actor(
    pen: Pen, look: dict[str, str], pose: Pose, light: tuple[float, float, float]
) -> None:
    """Draw the character `look` (kind, colour, pattern, accessory, second) in `pose`."""
    main = tint(COLOURS[look["colour"]], light)
    second = tint(SECOND[look["second"]], light)
    ink = tint(INK, light)
    dark = tint(COLOURS[look["colour"]], dimmed(light, 0.66))
    gold = tint(GOLD, light)
    if look["accessory"] == "balloon":
        balloon(pen, second, ink)
    BODIES[look["kind"]](pen, main, dark, ink, pose)
    PATTERNS[look["pattern"]](pen, second, look["kind"])
    arms(pen, dark, pose)
    face(pen, look["kind"], ink, pose.look)
    if look["accessory"] != "balloon":
        WEAR[look["accessory"]](pen, second, ink, gold, look["kind"])


def legs(pen: Pen, dark: Colour, pose: Pose) -> None:
    for side in (-1, 1):
        pen.ellipse(side * 0.26 + side * pose.stride, 0.09, 0.22, 0.13, dark)


def arms(pen: Pen, dark: Colour, pose: Pose) -> None:
    pen.line([(-0.5, 0.92), (-0.72, 0.52)], 0.17, dark)
    pen.line([(0.5, 0.92), (0.5 + 0.36, 0.92 + pose.arm * 0.8)], 0.17, dark)


def round_body(pen: Pen, main: Colour, ink: Colour) -> None:
    for grow, colour in ((0.06, ink), (0.0, main)):
        pen.ellipse(0, 0.62, 0.56 + grow, 0.6 + grow, colour)
    for grow, colour in ((0.06, ink), (0.0, main)):
        pen.circle(0, 1.52, 0.52 + grow, colour)


def cat(pen: Pen, main: Colour, dark: Colour, ink: Colour, pose: Pose) -> None:
    pen.line([(0.4, 0.25), (0.85, 0.3), (0.98, 0.72)], 0.15, dark)
    legs(pen, dark, pose)
    for side in (-1, 1):
        pen.polygon([(side * 0.56, 1.58), (side * 0.06, 1.94), (side * 0.52, 2.36)], ink)
    round_body(pen, main, ink)
    for side in (-1, 1):
        pen.polygon([(side * 0.5, 1.6), (side * 0.12, 1.92), (side * 0.48, 2.24)], main)


def rabbit(pen: Pen, main: Colour, dark: Colour, ink: Colour, pose: Pose) -> None:
    legs(pen, dark, pose)
    for side in (-1, 1):
        for grow, colour in ((0.06, ink), (0.0, main), (-0.09, dark)):
            pen.ellipse(side * 0.25, 2.2, 0.17 + grow, 0.5 + grow, colour, angle=side * 8)
    round_body(pen, main, ink)


def robot(pen: Pen, main: Colour, dark: Colour, ink: Colour, pose: Pose) -> None:
    for side in (-1, 1):
        x = side * 0.26 + side * pose.stride
        pen.polygon([(x - 0.17, 0), (x + 0.17, 0), (x + 0.17, 0.25), (x - 0.17, 0.25)], ink)
    pen.line([(0, 2.0), (0, 2.3)], 0.1, ink)
    pen.circle(0, 2.36, 0.13, dark)
    for grow, colour in ((0.06, ink), (0.0, main)):
        actor_box(pen, -0.56 - grow, 0.12 - grow, 0.56 + grow, 1.12 + grow, colour)
        actor_box(pen, -0.52 - grow, 1.2 - grow, 0.52 + grow, 2.0 + grow, colour)
    actor_box(pen, -0.4, 1.4, 0.4, 1.82, (226, 232, 240) if max(ink) > 40 else (150, 154, 176))


def ghost(pen: Pen, main: Colour, dark: Colour, ink: Colour, pose: Pose) -> None:
    for grow, colour in ((0.06, ink), (0.0, main)):
        pen.ellipse(0, 1.3, 0.62 + grow, 0.8 + grow, colour)
        actor_box(pen, -0.62 - grow, 0.25, 0.62 + grow, 1.3, colour)
        for k in (-1, 0, 1):
            pen.circle(0.41 * k + 0.3 * pose.stride, 0.22, 0.21 + grow, colour)


def actor_box(pen: Pen, left, low, right, high, colour: Colour) -> None:
    pen.polygon([(left, low), (right, low), (right, high), (left, high)], colour)


def stripes(pen: Pen, second: Colour, kind: str) -> None:
    for v, half in ((0.98, 0.4), (0.64, 0.52), (0.3, 0.42)):
        actor_box(pen, -half, v - 0.09, half, v + 0.09, second)


def dots(pen: Pen, second: Colour, kind: str) -> None:
    for u, v in ((-0.27, 0.9), (0.27, 0.9), (0, 0.62), (-0.27, 0.34), (0.27, 0.34)):
        pen.circle(u, v, 0.13, second)


def belly(pen: Pen, second: Colour, kind: str) -> None:
    pen.ellipse(0, 0.58, 0.34, 0.44, second)


def half(pen: Pen, second: Colour, kind: str) -> None:
    if kind in ("robot", "ghost"):
        actor_box(pen, 0, 0.14, 0.54, 1.1, second)
    else:
        pen.ellipse(0, 0.62, 0.54, 0.58, second, arc=(-90, 90))


def face(pen: Pen, kind: str, ink: Colour, look: float) -> None:
    for side in (-1, 1):
        pen.ellipse(side * 0.2 + look, 1.6, 0.085, 0.12, ink)
    if kind == "robot":
        return
    pen.line([(-0.1 + look, 1.34), (look, 1.3), (0.1 + look, 1.34)], 0.06, ink)


def head_top(kind: str) -> float:
    return {"robot": 2.0, "ghost": 2.04}.get(kind, 1.98)


def hat(pen: Pen, second: Colour, ink: Colour, gold: Colour, kind: str) -> None:
    v = head_top(kind)
    actor_box(pen, -0.5, v - 0.1, 0.5, v + 0.04, ink)
    actor_box(pen, -0.32, v, 0.32, v + 0.5, ink)
    actor_box(pen, -0.32, v + 0.06, 0.32, v + 0.2, second)


def crown(pen: Pen, second: Colour, ink: Colour, gold: Colour, kind: str) -> None:
    v = head_top(kind) - 0.12
    for grow, colour in ((0.06, ink), (0.0, gold)):
        pen.polygon(
            [
                (-0.4 - grow, v - grow),
                (0.4 + grow, v - grow),
                (0.46 + grow, v + 0.46 + grow),
                (0.2, v + 0.22),
                (0, v + 0.54 + grow),
                (-0.2, v + 0.22),
                (-0.46 - grow, v + 0.46 + grow),
            ],
            colour,
        )


def scarf(pen: Pen, second: Colour, ink: Colour, gold: Colour, kind: str) -> None:
    for grow, colour in ((0.05, ink), (0.0, second)):
        actor_box(pen, -0.44 - grow, 1.06 - grow, 0.44 + grow, 1.26 + grow, colour)
        actor_box(pen, 0.14 - grow, 0.9 - grow, 0.38 + grow, 1.2, colour)


def balloon(pen: Pen, second: Colour, ink: Colour) -> None:
    pen.line([(-0.72, 0.52), (-0.95, 1.6)], 0.05, ink)
    for grow, colour in ((0.06, ink), (0.0, second)):
        pen.ellipse(-0.98, 1.98, 0.34 + grow, 0.4 + grow, colour)


BODIES = {"cat": cat, "rabbit": rabbit, "robot": robot, "ghost": ghost}
PATTERNS = {"stripes": stripes, "dots": dots, "belly": belly, "half": half}
WEAR = {"hat": hat, "crown": crown, "scarf": scarf}
