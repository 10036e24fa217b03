"""Videos read at a rate and size of our own, forwards, a picture at a time: nothing long is ever held.

Picture k is what the screen shows at k / fps seconds: the decoded frame nearest by its time stamp, of those that have begun by
half a picture later. So a frame that stands still (variable frame rate) is held until the next one, and a fast video is thinned.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from cinelab.errors import CinelabError
from cinelab.stream.video import rgb

SLACK = 0.25  # of a picture: what ends sooner after the last one is not worth another
TINY = 1e-6  # seconds


class Video:
    """One pass through a video file. As far as the pass has come, `damage` says what cut it short and `count` how many frames
    were decoded; `aspect` is a pixel's width to its height."""

    def __init__(self, path: str | Path):
        self.path, self.damage, self.aspect, self.count = Path(path), "", 1.0, 0
        if not self.path.is_file():
            raise CinelabError(f"{path}: no such video file; correct the path.")
        if not self.path.stat().st_size:
            raise CinelabError(f"{path}: is empty (0 bytes); make or copy it again.")

    def at(self, fps: float) -> Iterator[tuple[int, av.VideoFrame]]:
        """For picture 0, 1, ...: (number of the decoded frame, the frame). Raises CinelabError if there is none at all."""
        k, half, held = 0, 0.5 / fps, None
        for number, (time, end, frame) in enumerate(self._timed()):
            while held and (k / fps < time - half - TINY or k / fps <= (held[0] + time) / 2 + TINY):
                yield held[2:]
                k += 1
            held, self.count = (time, end, number, frame), number + 1
        if held is None:
            raise CinelabError(f"{self.path}: {self.damage or 'the video stream has no pictures'}; make or copy it again.")
        for _ in range(k, max(k if k else 1, math.ceil(held[1] * fps - SLACK))):
            yield held[2:]

    def _timed(self) -> Iterator[tuple[float, float, av.VideoFrame]]:
        """(begin, end, frame), in seconds after the first frame, in order; stops at the first damage."""
        try:
            with av.open(str(self.path)) as container:
                if not container.streams.video:
                    raise CinelabError(f"{self.path}: has no video stream; give a film.")
                stream = container.streams.video[0]
                stream.thread_type = "AUTO"
                rate = float(stream.average_rate or stream.guessed_rate or 25)
                self.aspect = float(stream.sample_aspect_ratio or 1)
                zero = last = None
                for frame in container.decode(stream):
                    if frame.is_corrupt and zero is not None:
                        self.damage = f"is damaged {last:.2f} s after its beginning"
                        return
                    time = float(frame.pts * frame.time_base) if frame.pts is not None else (last or 0) + (zero or 0) + 1 / rate
                    zero = time if zero is None else zero
                    if last is not None and time - zero <= last:
                        continue  # a time stamp that goes back
                    last = time - zero
                    spent = float(frame.duration * frame.time_base) if frame.duration else 1 / rate
                    yield last, last + spent, frame
                self._compare(_declared(container, stream), last, spent if last is not None else 0)
        except (av.error.FFmpegError, OSError) as error:
            self.damage = f"is damaged or not a video ({str(error.strerror or error).lower()})"

    def _compare(self, declared: float, last: float | None, spent: float) -> None:
        if last is not None and declared and last + spent < declared - max(0.25, 2 * spent):
            self.damage = f"is cut short, it says {declared:.2f} s and {last + spent:.2f} s can be read"


def _declared(container, stream) -> float:
    """Seconds of pictures that the file says it has, 0 where it does not say."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    hours, _, rest = stream.metadata.get("DURATION", "").partition(":")  # Matroska's way
    minutes, _, seconds = rest.partition(":")
    try:
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return 0.0


def fitted(frame: av.VideoFrame, size: tuple[int, int], aspect: float = 1.0) -> np.ndarray:
    """uint8 (H, W, 3) of `size`: upright, scaled to cover it, cropped in the middle. `aspect` is a pixel's width to its height."""
    turns = round(frame.rotation / 90) % 4  # counter-clockwise, to be upright
    rows, columns = size[::-1] if turns % 2 else size
    scale = max(rows / frame.height, columns / (frame.width * aspect))
    large = max(rows, round(frame.height * scale)), max(columns, round(frame.width * aspect * scale))
    top, left = (large[0] - rows) // 2, (large[1] - columns) // 2
    return np.rot90(rgb(frame, large)[top : top + rows, left : left + columns], turns)


@dataclass
class Player:
    """Pictures first .. first + count of one video after another, each decoded once as long as they are asked for in order."""

    fps: float
    size: tuple[int, int]

    def __post_init__(self):
        self._video, self._next = None, 0

    def take(self, path: Path, first: int, count: int) -> np.ndarray:
        """uint8 (count, H, W, 3). Raises CinelabError if the video ends before."""
        if not self._video or path != self._video.path or first < self._next:
            self._video, self._next = Video(path), 0
            self._pictures = self._video.at(self.fps)
        out, seen = np.empty((count, *self.size, 3), np.uint8), None
        for k in range(self._next, first + count):
            number, frame = next(self._pictures, (-1, None))
            if frame is None:
                self._video = None
                raise CinelabError(f"{path}: has {k} pictures at {self.fps:g} a second, and picture {first + count} is wanted; "
                                   "it has changed since it was looked at, build again.")
            if k >= first:
                i = k - first
                out[i] = out[i - 1] if i and number == seen else fitted(frame, self.size, self._video.aspect)
                seen = number
        self._next = first + count
        return out
