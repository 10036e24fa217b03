"""A whole video at a constant rate, decoded again in every pass (see `cinelab.stream.reader` for
what an output frame is)."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cinelab.errors import CinelabError
from cinelab.optional import Later
from cinelab.stream.colour import HLG, PQ
from cinelab.stream.reader import SLACK, TINY, VideoReader, display_rotation, fitted, upright
from cinelab.zoo.footprint import free_bytes

if TYPE_CHECKING:
    import av
else:
    av = Later("av", extra="lab", what="Reading and writing videos")

# bytes of frames that a DecodedVideo stores between its passes; a longer one is decoded again
STORED = 2**28
# frames per second between which a variable rate is made constant
SLOWEST = 8.0
FASTEST = 120.0
HIDDEN = "an edit list hides some of its frames"
VARIES = "its frame rate varies"


class DecodedVideo:
    """A video at a constant rate: `len(video)` output frames, uint8 (H, W, 3), one after another in
    every loop over it; all of them have `video.shape`.

    A video of constant rate keeps its frames one by one; one of variable rate is read at the rate
    of its finest stretch. `numbers` are the decoded frames that the output frames show, `decoded`
    is how many there are, `changes` why output frames are not the decoded frames as they stand.
    What fits in `keep` bytes is stored between loops, what is longer is decoded again. Raise
    CinelabError if the video is damaged or cut short."""

    dtype = np.dtype(np.uint8)

    def __init__(self, path: str | Path, keep: int = STORED):
        self.path = Path(path)
        self.changes: tuple[str, ...] = ()
        self._keep = keep
        self._stored: list[np.ndarray] | None = []
        sizes: set[tuple[int, int]] = set()
        video = VideoReader(path)
        times = array("d")
        last = 0.0
        for begin, end, frame in video.frames():
            if not times:
                self.size = upright(frame, video.aspect)
                self._note(frame, video)
            sizes.add((frame.height, frame.width))
            times.append(begin)
            last = end
            self._hold(frame, video.aspect)
        if video.damage:
            raise CinelabError(f"{path}: {video.damage}; make or copy it again.")
        self.decoded = len(times)
        stamps = np.frombuffer(times)
        rate = constant_rate(stamps, video.rates)
        self.constant = rate is not None
        self.fps = rate or finest_rate(stamps, video.rates)
        self.numbers = (
            np.arange(self.decoded) if self.constant else shown_at(stamps, last, self.fps)
        )
        self.changes += ("its frames differ in size",) * (len(sizes) > 1)
        self.changes += (HIDDEN,) * (video.hidden > 0)
        self.changes += (VARIES,) * (not self.constant)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(F, H, W, 3)."""
        return len(self), *self.size, 3

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[np.ndarray]:
        if self._stored is not None:
            yield from (self._stored[number] for number in self.numbers)
            return
        last = -1
        output = np.empty(0, np.uint8)
        for number, frame, aspect in self._pass():
            if number != last:
                output = np.ascontiguousarray(fitted(frame, self.size, aspect))
                last = number
            yield output

    def whole(self) -> np.ndarray:
        """Return all output frames as one array (F, H, W, 3), for what cannot read them one by one.
        Raise CinelabError where it does not fit."""
        try:
            if math.prod(self.shape) > free_bytes("cpu"):
                raise MemoryError
            frames = np.empty(self.shape, np.uint8)
        except MemoryError:
            raise CinelabError(
                f"{self.path}: its {len(self)} frames take {math.prod(self.shape) / 2**30:.1f} GiB "
                "at once, which are not free; give a shorter video."
            ) from None
        for place, frame in enumerate(self):
            frames[place] = frame
        return frames

    def raw(self) -> Iterator[av.VideoFrame]:
        """Yield the decoded frame of every output frame, as it is in the file."""
        return (frame for _, frame, _ in self._pass())

    def place(self, frame: int) -> int:
        """Return the first output frame that shows decoded frame `frame` or a later one; the number
        of output frames behind the last."""
        return int(np.searchsorted(self.numbers, frame))

    def _pass(self) -> Iterator[tuple[int, av.VideoFrame, float]]:
        """Yield (number of the decoded frame, the frame, a pixel's width to its height) of every
        output frame."""
        video = VideoReader(self.path)
        place = 0
        for number, (_, _, frame) in enumerate(video.frames()):
            while place < len(self) and self.numbers[place] == number:
                yield number, frame, video.aspect
                place += 1
        if place < len(self):
            raise CinelabError(f"{self.path}: has changed while it was read; try again.")

    def _note(self, frame: av.VideoFrame, video: VideoReader) -> None:
        """Note what of the first frame is changed for display."""
        self.changes += ("it is turned",) * (display_rotation(frame) != (0, False))
        self.changes += ("its pixels are not square",) * (
            round(frame.width * video.aspect) != frame.width
        )
        self.changes += ("its light has a high dynamic range",) * (frame.color_trc in (PQ, HLG))

    def _hold(self, frame: av.VideoFrame, aspect: float) -> None:
        """Store the frame, or none at all once they are more than may be stored."""
        if self._stored is None:
            return
        if (len(self._stored) + 1) * 3 * self.size[0] * self.size[1] > self._keep:
            self._stored = None
        else:
            self._stored.append(np.ascontiguousarray(fitted(frame, self.size, aspect)))


def pick(frames: Iterable[np.ndarray], wanted: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (number, frame) of the wanted ones among frames (H, W, 3), each once, in order; what
    follows is not read."""
    rest = sorted(set(wanted), reverse=True)
    for number, frame in enumerate(frames):
        if not rest:
            return
        if number == rest[-1]:
            rest.pop()
            yield number, frame


def constant_rate(times: np.ndarray, stated: Iterable[float]) -> float | None:
    """Frames a second of which every time stamp (seconds) is at most half a frame away, by the
    file's own word (`stated`) or the stamps themselves; None where the rate varies."""
    stated = tuple(stated)
    places = np.arange(len(times))
    if len(times) < 2:
        return stated[0]
    own = (len(times) - 1) / float(times[-1])
    for rate in (*stated, float(round(own)), round(own) * 1000 / 1001, own):
        if rate > 0 and np.abs(times * rate - places).max() <= 0.5:
            return rate
    return None


def finest_rate(times: np.ndarray, stated: Iterable[float]) -> float:
    """Frames a second of the fastest tenth of a video of variable rate, as the file or a whole
    number says it."""
    steps = np.diff(times)
    short = float(np.quantile(steps, 0.1))
    own = 1 / float(steps[(steps > 0.75 * short) & (steps < 1.35 * short)].mean())
    near = [rate for rate in (*stated, float(round(own))) if rate and abs(own / rate - 1) < 0.02]
    return min(max(near[0] if near else own, SLOWEST), FASTEST)


def shown_at(times: np.ndarray, end: float, fps: float) -> np.ndarray:
    """(K,) number of the frame that is shown at k / fps seconds, by the rule of `Video.at`."""
    count = max(1, math.ceil(end * fps - SLACK))
    middles = (times[1:] + times[:-1]) / 2  # until here the earlier frame is nearer
    late = times[1:] - 0.5 / fps  # before this the later one has not begun
    return np.searchsorted(
        np.maximum(middles + TINY, late - TINY), np.arange(count) / fps, side="left"
    )


def nominal(fps: float) -> Fraction:
    """A rate as the fraction that an encoder takes."""
    return Fraction(fps).limit_denominator(1001)
