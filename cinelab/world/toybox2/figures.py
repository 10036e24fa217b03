"""The cast: five kinds of characters, drawn from primitives in a pose, with a pattern, an accessory
and two colours.

A figure stands on local (0, 0), is about 2 units tall, and faces us.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi, sin

from cinelab.world.toybox2.drawing import Colour, Light, Pen, Point, dimmed, tint
from cinelab.world.toybox2.state import FPS, WAY, Appearance

COLOURS: dict[str, Colour] = {
    "red": (214, 48, 49),
    "orange": (240, 138, 36),
    "yellow": (250, 214, 60),
    "green": (64, 172, 82),
    "blue": (52, 112, 222),
    "purple": (146, 76, 190),
}
SECOND: dict[str, Colour] = {
    "white": (250, 250, 246),
    "black": (34, 32, 38),
    "pink": (255, 150, 190),
    "teal": (70, 214, 204),
}
INK: Colour = (38, 30, 44)
GOLD: Colour = (255, 200, 40)
EDGE = 0.05  # of the outline
HEAD_TOP = {"robot": 2.0, "ghost": 2.06, "bear": 2.02}


@dataclass(frozen=True)
class Pose:
    """Where the limbs are: all in local units or radians."""

    lift: float = 0.0  # height above ground
    tilt: float = 0.0
    stretch: float = 1.0
    stride: float = 0.0  # legs apart, signed
    arm: float = -0.5  # right hand height relative to the shoulder
    look: float = 0.0  # eyes and nose shifted to the side


def pose_of(action: str, ticks: int) -> Pose:
    """Return the pose of an action so many ticks after it began. All begin on the same beat."""
    beat = 2 * pi * ticks / FPS
    if action in WAY:
        way = WAY[action]
        return Pose(
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
        sway = sin(0.75 * beat)
        return Pose(tilt=0.2 * sway, arm=0.1 + 0.5 * sway, stride=0.1, lift=0.05)
    return Pose(stretch=1.0 + 0.015 * sin(0.6 * beat))


@dataclass(frozen=True)
class Paint:
    """The colours of a figure under a light."""

    main: Colour
    dark: Colour
    bright: Colour
    second: Colour
    ink: Colour
    gold: Colour
    pale: Colour  # of eyes and screens

    @classmethod
    def of(cls, looks: Appearance, light: Light) -> "Paint":
        """Return the colours of a character under a light."""
        main = COLOURS[looks.colour]
        return cls(
            tint(main, light),
            tint(main, dimmed(light, 0.68)),
            tint(main, light, add=0.13),
            tint(SECOND[looks.second], light),
            tint(INK, light),
            tint(GOLD, light),
            tint((246, 248, 252), light),
        )


def draw_figure(pen: Pen, looks: Appearance, pose: Pose, light: Light) -> None:
    """Draw a character in a pose."""
    paint = Paint.of(looks, light)
    if looks.accessory == "balloon":
        balloon(pen, paint)
    legs(pen, paint, looks.kind, pose)
    BODIES[looks.kind](pen, paint, pose)
    PATTERNS[looks.pattern](pen, paint.second, looks.kind)
    arms(pen, paint, pose)
    face(pen, paint, looks.kind, pose.look)
    if looks.accessory != "balloon":
        WEAR[looks.accessory](pen, paint, looks.kind, pose.look)


def outlined(draw: Callable[[float, Colour], None], paint: Paint) -> None:
    """Draw a shape twice: grown in ink, then in the main colour."""
    draw(EDGE, paint.ink)
    draw(0.0, paint.main)


def legs(pen: Pen, paint: Paint, kind: str, pose: Pose) -> None:
    """Draw two feet; a robot's are boxes, a ghost has none."""
    if kind == "ghost":
        return
    for side in (-1, 1):
        x = side * 0.26 + side * pose.stride
        if kind == "robot":
            pen.box((x - 0.19, 0), (x + 0.19, 0.27), paint.ink)
            pen.box((x - 0.14, 0.05), (x + 0.14, 0.27), paint.dark)
        else:
            pen.ellipse(x, 0.1, (0.26, 0.16), paint.ink)
            pen.ellipse(x, 0.11, (0.21, 0.12), paint.dark)


def arms(pen: Pen, paint: Paint, pose: Pose) -> None:
    """Draw the left arm hanging and the right one where the pose has it, with round hands."""
    hands: tuple[tuple[Point, Point], ...] = (
        ((-0.5, 0.94), (-0.74, 0.52)),
        ((0.5, 0.94), (0.86, 0.94 + pose.arm * 0.8)),
    )
    for shoulder, hand in hands:
        pen.line([shoulder, hand], 0.24, paint.ink)
        pen.line([shoulder, hand], 0.15, paint.dark)
        pen.circle(*hand, 0.14, paint.ink)
        pen.circle(*hand, 0.1, paint.main)


def round_body(pen: Pen, paint: Paint) -> None:
    """Draw the round body and head of the animals, lit from the upper left."""
    outlined(lambda grow, colour: pen.ellipse(0, 0.62, (0.56 + grow, 0.6 + grow), colour), paint)
    outlined(lambda grow, colour: pen.circle(0, 1.52, 0.52 + grow, colour), paint)
    pen.ellipse(-0.2, 1.76, (0.18, 0.1), paint.bright, angle=-25)


def cat(pen: Pen, paint: Paint, pose: Pose) -> None:
    """Draw a cat: a curled tail and pointed ears."""
    tail = [(0.4, 0.25), (0.85, 0.3), (0.98, 0.72)]
    pen.line(tail, 0.22, paint.ink)
    pen.line(tail, 0.13, paint.dark)
    for side in (-1, 1):
        pen.polygon([(side * 0.57, 1.56), (side * 0.04, 1.94), (side * 0.53, 2.38)], paint.ink)
    round_body(pen, paint)
    for side in (-1, 1):
        pen.polygon([(side * 0.5, 1.6), (side * 0.12, 1.92), (side * 0.48, 2.26)], paint.main)
        pen.polygon([(side * 0.45, 1.75), (side * 0.25, 1.93), (side * 0.43, 2.1)], paint.dark)


def rabbit(pen: Pen, paint: Paint, pose: Pose) -> None:
    """Draw a rabbit: long ears."""
    for side in (-1, 1):
        for grow, colour in ((EDGE, paint.ink), (0.0, paint.main), (-0.08, paint.dark)):
            pen.ellipse(side * 0.25, 2.2, (0.17 + grow, 0.5 + grow), colour, angle=side * 8)
    round_body(pen, paint)


def bear(pen: Pen, paint: Paint, pose: Pose) -> None:
    """Draw a bear: round ears and a snout."""
    for side in (-1, 1):
        for grow, colour in ((EDGE, paint.ink), (0.0, paint.main), (-0.1, paint.dark)):
            pen.circle(side * 0.5, 1.92, 0.24 + grow, colour)
    round_body(pen, paint)
    pen.ellipse(0.8 * pose.look, 1.36, (0.24, 0.19), paint.ink)
    pen.ellipse(0.8 * pose.look, 1.36, (0.2, 0.15), paint.bright)


def robot(pen: Pen, paint: Paint, pose: Pose) -> None:
    """Draw a robot: boxes, an antenna and a screen for a face."""
    pen.line([(0, 2.0), (0, 2.3)], 0.1, paint.ink)
    pen.circle(0, 2.36, 0.15, paint.ink)
    pen.circle(0, 2.36, 0.1, paint.dark)

    def boxes(grow: float, colour: Colour) -> None:
        pen.box((-0.56 - grow, 0.16 - grow), (0.56 + grow, 1.12 + grow), colour)
        pen.box((-0.52 - grow, 1.2 - grow), (0.52 + grow, 2.0 + grow), colour)

    outlined(boxes, paint)
    pen.box((-0.42, 1.38), (0.42, 1.84), paint.ink)
    pen.box((-0.38, 1.42), (0.38, 1.8), paint.pale)


def ghost(pen: Pen, paint: Paint, pose: Pose) -> None:
    """Draw a ghost: a dome with a waving hem."""

    def sheet(grow: float, colour: Colour) -> None:
        pen.ellipse(0, 1.3, (0.62 + grow, 0.8 + grow), colour)
        pen.box((-0.62 - grow, 0.25), (0.62 + grow, 1.3), colour)
        for k in (-1, 0, 1):
            pen.circle(0.41 * k + 0.3 * pose.stride, 0.22, 0.21 + grow, colour)

    outlined(sheet, paint)
    pen.ellipse(-0.25, 1.86, (0.18, 0.09), paint.bright, angle=-25)


def stripes(pen: Pen, second: Colour, kind: str) -> None:
    """Draw three stripes across the body."""
    for v, half_width in ((0.98, 0.4), (0.64, 0.52), (0.3, 0.42)):
        pen.box((-half_width, v - 0.09), (half_width, v + 0.09), second)


def dots(pen: Pen, second: Colour, kind: str) -> None:
    """Draw five dots on the body."""
    for u, v in ((-0.27, 0.9), (0.27, 0.9), (0, 0.62), (-0.27, 0.34), (0.27, 0.34)):
        pen.circle(u, v, 0.13, second)


def belly(pen: Pen, second: Colour, kind: str) -> None:
    """Draw an oval belly."""
    pen.ellipse(0, 0.58, (0.34, 0.44), second)


def half(pen: Pen, second: Colour, kind: str) -> None:
    """Colour the right half of the body."""
    if kind in ("robot", "ghost"):
        pen.box((0, 0.18), (0.54, 1.1), second)
    else:
        pen.ellipse(0, 0.62, (0.54, 0.58), second, arc=(-90, 90))


def checks(pen: Pen, second: Colour, kind: str) -> None:
    """Draw a chequered body: four squares, corner to corner."""
    for u, v in (
        (-0.36, 0.86),
        (0.12, 0.86),
        (-0.12, 0.62),
        (0.36, 0.62),
        (-0.36, 0.38),
        (0.12, 0.38),
    ):
        pen.box((u - 0.12, v - 0.12), (u + 0.12, v + 0.12), second)


def face(pen: Pen, paint: Paint, kind: str, look: float) -> None:
    """Draw eyes and a mouth; a bear has a nose."""
    for side in (-1, 1):
        u = side * 0.2 + look
        if kind != "robot":
            pen.ellipse(u, 1.6, (0.14, 0.17), paint.pale)
        pen.ellipse(u + 0.2 * look, 1.6, (0.085, 0.12), paint.ink)
    if kind == "robot":
        return
    if kind == "bear":
        pen.ellipse(look, 1.42, (0.09, 0.06), paint.ink)
        return
    pen.line([(-0.1 + look, 1.33), (look, 1.29), (0.1 + look, 1.33)], 0.06, paint.ink)


def head_top(kind: str) -> float:
    """Return where a kind's head ends."""
    return HEAD_TOP.get(kind, 1.98)


def hat(pen: Pen, paint: Paint, kind: str, look: float) -> None:
    """Draw a top hat with a band of the second colour, which leaves the ears to be seen."""
    v = head_top(kind)
    pen.box((-0.38, v - 0.1), (0.38, v + 0.02), paint.ink)
    pen.box((-0.26, v), (0.26, v + 0.5), paint.ink)
    pen.box((-0.26, v + 0.06), (0.26, v + 0.2), paint.second)


def crown(pen: Pen, paint: Paint, kind: str, look: float) -> None:
    """Draw a golden crown with three points, between the ears."""
    v = head_top(kind) - 0.12
    for grow, colour in ((EDGE, paint.ink), (0.0, paint.gold)):
        pen.polygon(
            [
                (-0.3 - grow, v - grow),
                (0.3 + grow, v - grow),
                (0.36 + grow, v + 0.44 + grow),
                (0.15, v + 0.2),
                (0, v + 0.52 + grow),
                (-0.15, v + 0.2),
                (-0.36 - grow, v + 0.44 + grow),
            ],
            colour,
        )


def scarf(pen: Pen, paint: Paint, kind: str, look: float) -> None:
    """Draw a scarf with a hanging end."""
    for grow, colour in ((EDGE, paint.ink), (0.0, paint.second)):
        pen.box((-0.44 - grow, 1.06 - grow), (0.44 + grow, 1.26 + grow), colour)
        pen.box((0.14 - grow, 0.8 - grow), (0.38 + grow, 1.2), colour)


def glasses(pen: Pen, paint: Paint, kind: str, look: float) -> None:
    """Draw thick round glasses."""
    pen.line([(-0.46, 1.62), (0.46, 1.62)], 0.09, paint.ink)
    for side in (-1, 1):
        u = side * 0.23 + look
        pen.circle(u, 1.6, 0.25, paint.ink)
        pen.circle(u, 1.6, 0.17, paint.second)
        pen.ellipse(u + 0.1 * look, 1.6, (0.06, 0.08), paint.ink)


def balloon(pen: Pen, paint: Paint) -> None:
    """Draw a balloon of the second colour on a string, in the left hand."""
    pen.line([(-0.74, 0.52), (-0.95, 1.6)], 0.05, paint.ink)
    for grow, colour in ((EDGE, paint.ink), (0.0, paint.second)):
        pen.ellipse(-0.98, 1.98, (0.34 + grow, 0.4 + grow), colour)


BODIES = {"cat": cat, "rabbit": rabbit, "robot": robot, "ghost": ghost, "bear": bear}
PATTERNS = {"stripes": stripes, "dots": dots, "belly": belly, "half": half, "checks": checks}
WEAR = {"hat": hat, "crown": crown, "scarf": scarf, "glasses": glasses}
