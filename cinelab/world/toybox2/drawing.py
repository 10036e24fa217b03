"""Anti-aliased primitives on a canvas of twice the frame's size, in the coordinates of a moving,
tilting figure.

canvas   uint8 (H SS, W SS, 3), drawn with OpenCV in fixed point, then area-averaged to (H, W, 3)
"""

from dataclasses import dataclass
from math import cos, degrees, sin

import cv2
import numpy as np

from cinelab.readable import Readable

SS = 2  # canvas pixels a frame pixel and axis; edges are anti-aliased besides
SHIFT = 4  # fractional bits of OpenCV's fixed-point coordinates
ONE = 1 << SHIFT
Colour = tuple[int, int, int]
Light = tuple[float, float, float]
Point = tuple[float, float]


def tint(colour: Colour, light: Light = (1.0, 1.0, 1.0), add: float = 0.0) -> Colour:
    """Return a colour under coloured light, brightened by `add` (-1..1 of full scale)."""
    red, green, blue = (
        int(min(255, max(0, c * l + 255 * add))) for c, l in zip(colour, light, strict=True)
    )
    return red, green, blue


def dimmed(light: Light, share: float, base: float = 0.0) -> Light:
    """Return `base` + `share` * `light`."""
    red, green, blue = light
    return base + share * red, base + share * green, base + share * blue


@dataclass(frozen=True)
class Pen(Readable):
    """Draws in local units: origin (x, y) and `scale` in canvas pixels, y up, tilted by `tilt`
    radians."""

    canvas: np.ndarray
    x: float
    y: float
    scale: float
    tilt: float = 0.0
    stretch: float = 1.0  # squash and stretch: height factor, width gets the inverse

    def at(self, u: float, v: float) -> tuple[int, int]:
        """Return local (u, v) as fixed-point canvas coordinates."""
        u = u / self.stretch * self.scale
        v = v * self.stretch * self.scale
        c = cos(self.tilt)
        s = sin(self.tilt)
        return round((self.x + c * u + s * v) * ONE), round((self.y + s * u - c * v) * ONE)

    def ellipse(
        self,
        u: float,
        v: float,
        radii: Point,
        colour: Colour,
        *,
        angle: float = 0.0,
        arc: tuple[int, int] = (0, 360),
    ) -> None:
        """Fill an ellipse about (u, v), or an arc of it, in degrees."""
        axes = (
            max(1, round(radii[0] / self.stretch * self.scale * ONE)),
            max(1, round(radii[1] * self.stretch * self.scale * ONE)),
        )
        turn = degrees(self.tilt) + angle
        cv2.ellipse(self.canvas, self.at(u, v), axes, turn, *arc, colour, -1, cv2.LINE_AA, SHIFT)

    def circle(self, u: float, v: float, radius: float, colour: Colour) -> None:
        """Fill a circle about (u, v)."""
        size = max(1, round(radius * self.scale * ONE))
        cv2.circle(self.canvas, self.at(u, v), size, colour, -1, cv2.LINE_AA, SHIFT)

    def polygon(self, points: list[Point], colour: Colour) -> None:
        """Fill a polygon."""
        corners = np.array([self.at(u, v) for u, v in points], np.int32)
        cv2.fillPoly(self.canvas, [corners], colour, cv2.LINE_AA, SHIFT)

    def line(self, points: list[Point], width: float, colour: Colour) -> None:
        """Draw a line of a width through points."""
        corners = np.array([self.at(u, v) for u, v in points], np.int32)
        thickness = max(1, round(width * self.scale))
        cv2.polylines(self.canvas, [corners], False, colour, thickness, cv2.LINE_AA, SHIFT)

    def box(self, low: Point, high: Point, colour: Colour) -> None:
        """Fill the box between two corners."""
        self.polygon([low, (high[0], low[1]), high, (low[0], high[1])], colour)
