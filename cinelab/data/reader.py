"""Frames at the rate and size of the data set, one video after another, forwards, in constant
memory."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cinelab.errors import CinelabError
from cinelab.stream.reader import VideoReader, fitted

__all__ = ["ClipReader", "VideoReader", "fitted"]


@dataclass
class ClipReader:
    """Read frames first .. first + count of one video after another. A video is decoded once as
    long as its frames are requested in order."""

    fps: float
    size: tuple[int, int]

    def __post_init__(self):
        self._video = None
        self._next = 0

    def read(self, path: Path, first: int, count: int) -> np.ndarray:
        """Return frames uint8 (count, H, W, 3). Raise CinelabError if the video ends before."""
        if not self._video or path != self._video.path or first < self._next:
            self._video = VideoReader(path)
            self._next = 0
            self._frames = self._video.at(self.fps)
        out = np.empty((count, *self.size, 3), np.uint8)
        seen = None
        for k in range(self._next, first + count):
            number, frame = next(self._frames, (-1, None))
            if frame is None:
                self._video = None
                raise CinelabError(
                    f"{path}: has {k} frames at {self.fps:g} frames/s, and frame {first + count} "
                    "is needed; it has changed since it was listed, so build again."
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
