"""Anti-aliased primitives on a supersampled canvas, in the coordinates of a moving, tilting figure.

canvas   uint8 (H * SS, W * SS, 3), drawn with OpenCV in fixed point, then area-averaged to (H, W,
3)"""

from dataclasses import dataclass

import cv2
import numpy as np

from cinelab.readable import Readable
from cinelab.world.toybox2.drawing import ONE, SHIFT, Colour

SS = 4  # supersampling per axis


@dataclass(frozen=True)
class Pen(Readable):
    """Draws in local units: origin (x, y) and `scale` in canvas pixels, y up, rotated by `tilt`
    radians."""

    canvas: np.ndarray
    x: float
    y: float
    scale: float
    tilt: float = 0.0
    stretch: float = 1.0  # squash and stretch: height factor, width gets the inverse

    def at(self, u: float, v: float) -> tuple[int, int]:
        """Local (u, v) to fixed-point canvas coordinates."""
        u = u / self.stretch * self.scale
        v = v * self.stretch * self.scale
        c = np.cos(self.tilt)
        s = np.sin(self.tilt)
        return round((self.x + c * u + s * v) * ONE), round((self.y + s * u - c * v) * ONE)

    def ellipse(
        self, u, v, ru, rv, colour: Colour, angle: float = 0.0, arc: tuple[int, int] = (0, 360)
    ) -> None:
        axes = (
            round(ru / self.stretch * self.scale * ONE),
            round(rv * self.stretch * self.scale * ONE),
        )
        turn = np.degrees(self.tilt) + angle
        cv2.ellipse(self.canvas, self.at(u, v), axes, turn, *arc, colour, -1, cv2.LINE_8, SHIFT)

    def circle(self, u, v, r, colour: Colour) -> None:
        cv2.circle(
            self.canvas,
            self.at(u, v),
            max(1, round(r * self.scale * ONE)),
            colour,
            -1,
            cv2.LINE_8,
            SHIFT,
        )

    def polygon(self, points, colour: Colour) -> None:
        corners = np.array([self.at(u, v) for u, v in points], np.int32)
        cv2.fillPoly(self.canvas, [corners], colour, cv2.LINE_8, SHIFT)

    def line(self, points, width: float, colour: Colour) -> None:
        corners = np.array([self.at(u, v) for u, v in points], np.int32)
        thickness = max(1, round(width * self.scale))
        cv2.polylines(self.canvas, [corners], False, colour, thickness, cv2.LINE_8, SHIFT)
