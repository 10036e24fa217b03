"""Pictures of a rate and size of our own for training clips, one video after another, forwards;
nothing long is ever held."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cinelab.errors import CinelabError
from cinelab.stream.reader import Video, fitted

__all__ = ["Player", "Video", "fitted"]


@dataclass
class Player:
    """Pictures first .. first + count of one video after another, each decoded once as long as they
    are asked for in order."""

    fps: float
    size: tuple[int, int]

    def __post_init__(self):
        self._video = None
        self._next = 0

    def take(self, path: Path, first: int, count: int) -> np.ndarray:
        """uint8 (count, H, W, 3). Raises CinelabError if the video ends before."""
        if not self._video or path != self._video.path or first < self._next:
            self._video = Video(path)
            self._next = 0
            self._pictures = self._video.at(self.fps)
        out = np.empty((count, *self.size, 3), np.uint8)
        seen = None
        for k in range(self._next, first + count):
            number, frame = next(self._pictures, (-1, None))
            if frame is None:
                self._video = None
                raise CinelabError(
                    f"{path}: has {k} pictures at {self.fps:g} a second, and picture "
                    f"{first + count} is wanted; "
                    "it has changed since it was looked at, build again."
                )
            if k >= first:
                i = k - first
                out[i] = (
                    out[i - 1]
                    if i and number == seen
                    else fitted(frame, self.size, self._video.aspect)
                )
                seen = number
        self._next = first + count
        return out
