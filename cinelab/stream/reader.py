"""The one reader of videos, for training data and for metrics: frames by time stamp, upright, of
square pixels, in BT.709.

    VideoReader    one pass forwards at any rate, frame by frame; reports what cut it short
    DecodedVideo   a whole, undamaged video at a constant rate of its own, decoded in every pass

A *decoded* frame is one of the file; an *output* frame is one at a constant rate. Output frame k is
what the screen shows at k / fps seconds after the first frame: the decoded frame nearest by its
time stamp, of those that have begun by half an output frame later. So a frame that lasts (variable
frame rate) is repeated until the next one, and a fast video is thinned."""

from __future__ import annotations

import gc
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cinelab.errors import CinelabError, reason
from cinelab.optional import Later
from cinelab.stream.colour import rgb, unreadable
from cinelab.texts import check_regular

if TYPE_CHECKING:
    import av
else:
    av = Later("av", extra="lab", what="Reading and writing videos")

SLACK = 0.25  # of an output frame: what ends sooner after the last one gets no other
TINY = 1e-6  # seconds
# frames; a time stamp that goes back farther begins a new count (joined transport streams)
JUMP = 2
# containers whose own duration was written, not estimated
HEADED = ("matroska", "mov", "flv", "asf")
# bytes; a whole transport stream holds whole packets
PACKET = {".ts": (188,), ".m2ts": (188, 192), ".mts": (188, 192)}
# values that leave a property of the colours open
UNSTATED = {"color_trc": (0, 2), "color_primaries": (0, 2), "colorspace": (2,), "color_range": (0,)}
# of a decoder
THREADS = min(
    4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
)
LARGE = 2**21  # pixels of a frame; a decoder of larger ones is let go at once
MOST_ASPECT = 8.0  # a pixel is never longer than this; larger ratios are a file's mistake


class VideoReader:
    """One pass through a video file. As far as the pass has come, `damage` says what cut it short
    and `count` how many frames were decoded; `aspect` is a pixel's width to its height, `rates`
    what the file says of its frames a second, likeliest first, and `hidden` how many packets an
    edit list keeps from being shown."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.damage = ""
        self.aspect = 1.0
        self.count = 0
        self.rates: tuple[float, ...] = ()
        self.hidden = 0
        check_regular(path)
        if not self.path.is_file():
            raise CinelabError(f"{path}: no such video file; correct the path.")
        if not self.path.stat().st_size:
            raise CinelabError(f"{path}: is empty (0 bytes); make or copy it again.")

    def at(self, fps: float) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield, for output frame 0, 1, ...: (number of the decoded frame, the frame). Raise
        CinelabError if there is none at all."""
        k = 0
        half = 0.5 / fps
        held: tuple[float, float, int, av.VideoFrame] | None = None
        for number, (time, end, frame) in enumerate(self.frames()):
            while held and (k / fps < time - half - TINY or k / fps <= (held[0] + time) / 2 + TINY):
                yield held[2:]
                k += 1
            held = time, end, number, frame
        assert held is not None  # `frames` raises where there is none
        for _ in range(k, max(k if k else 1, math.ceil(held[1] * fps - SLACK))):
            yield held[2:]

    def frames(self) -> Iterator[tuple[float, float, av.VideoFrame]]:
        """(begin, end, frame), in seconds after the first frame, in order; stops at the first
        damage.

        Raises CinelabError if there is no frame at all, or its colours cannot be converted.
        """
        large = False
        try:
            for begin, end, frame in self._decoded():
                if not self.count and (coded := unreadable(frame)):
                    raise CinelabError(
                        f"{self.path}: its colours are coded as {coded}, which cannot be "
                        "converted; save it as BT.709 video."
                    )
                self.count = self.count + 1
                large = frame.height * frame.width > LARGE
                yield begin, end, frame
                del frame
        finally:
            if large:  # a decoder and its frames refer to each other, and wait for the collector
                gc.collect()
        if not self.count:
            raise CinelabError(
                f"{self.path}: {self.damage or 'the video stream has no frames'}; make or copy it "
                "again."
            )

    def _decoded(self) -> Iterator[tuple[float, float, av.VideoFrame]]:
        try:
            with av.open(str(self.path)) as container:
                if not container.streams.video:
                    raise CinelabError(f"{self.path}: has no video stream; give a film.")
                if _video_stream(container).codec_context is None:
                    self.damage = "is damaged or not a video (its coding is unknown)"
                    return
                yield from _Pass(self, container).run()
        except (MemoryError, BlockingIOError):  # of the machine, not of the file
            raise
        except (av.error.FFmpegError, OSError) as error:
            self.damage = f"is damaged or not a video ({reason(error)})"


class _Pass:
    """The decoding of one open file: time stamps from the first frame on, and what is compared with
    them at the end."""

    def __init__(self, video: VideoReader, container: av.container.InputContainer):
        self.video = video
        self.container = container
        self.stream = _video_stream(container)
        self.stream.thread_type = "AUTO"
        self.stream.codec_context.thread_count = THREADS
        stated = (self.stream.average_rate, self.stream.guessed_rate, self.stream.base_rate)
        video.rates = tuple(dict.fromkeys(float(rate) for rate in stated if rate)) or (25.0,)
        aspect = float(self.stream.sample_aspect_ratio or 1)
        video.aspect = aspect if 1 / MOST_ASPECT <= aspect <= MOST_ASPECT else 1.0
        # a container's tags are kept from the frames of a stream without its own
        context = self.stream.codec_context
        self.tags = {name: int(getattr(context, name)) for name in UNSTATED}
        self.avi = container.format.name == "avi"
        # AVI knows only the order of its packets, which is that of the frames
        self.stamps: deque[int] = deque()
        self.last: float | None = None  # seconds of the last frame after the first one
        self.zero = 0.0  # time stamp of the first one
        self.spent = 1 / video.rates[-1]  # seconds that the last frame is shown
        self.packets = 0  # of the video stream
        self.latest = 0.0  # end of whatever else the file holds, in seconds

    def run(self) -> Iterator[tuple[float, float, av.VideoFrame]]:
        for packet in self.container.demux():
            if packet.stream.index == self.stream.index:
                self._count(packet)
                for frame in packet.decode():
                    assert isinstance(frame, av.VideoFrame)
                    if frame.is_corrupt and self.last is not None:
                        self.video.damage = f"is damaged {self.last:.2f} s after its beginning"
                        return
                    if (time := self._place(frame)) is not None:
                        yield time, time + self.spent, self._tagged(frame)
            elif packet.pts is not None:
                end = (packet.pts + (packet.duration or 0)) * _known(packet.time_base)
                self.latest = max(self.latest, float(end))
        self._compare()

    def _count(self, packet: av.Packet) -> None:
        self.packets += packet.size > 0
        self.video.hidden += packet.is_discard
        if self.avi and packet.size and packet.dts is not None:
            self.stamps.append(packet.dts)

    def _place(self, frame: av.VideoFrame) -> float | None:
        """Return the frame's time after the first one; None for a frame whose time stamp does not
        come after the last one's."""
        stamp = self.stamps.popleft() if self.stamps else frame.pts
        unit = self.stream.time_base if self.avi else frame.time_base
        last = self.last
        after = 0.0 if last is None else last + self.spent
        time = after + self.zero if stamp is None else float(stamp * _known(unit))
        if last is None or time - self.zero < last - JUMP * self.spent:
            self.zero = time - after
        begin = time - self.zero
        if last is not None and begin <= last:
            return None
        self.last = begin
        if frame.duration and not self.avi:
            self.spent = float(frame.duration * _known(frame.time_base))
        return begin

    def _tagged(self, frame: av.VideoFrame) -> av.VideoFrame:
        for name, tag in self.tags.items():
            if (
                tag not in UNSTATED[name]
                and int(getattr(frame, name)) in UNSTATED[name]
                and not frame.format.is_rgb
            ):
                setattr(frame, name, tag)
        return frame

    def _compare(self) -> None:
        """Compare what a file declares with what could be read."""
        if self.last is None:
            return
        declared, read = self._declared(self.last + self.spent)
        if declared and read < declared - max(0.25, 2 * self.spent):
            self.video.damage = (
                f"is cut short, it says {declared:.2f} s and {read:.2f} s can be read"
            )
        elif "mov" in self.container.format.name and self.packets < (
            listed := len(self.stream.index_entries)
        ):
            self.video.damage = (
                f"is cut short, it lists {listed} frames and {self.packets} can be read"
            )
        elif ending := _ending(self.video.path):
            self.video.damage = ending

    def _declared(self, relative: float) -> tuple[float, float]:
        """Return (seconds that the file declares, seconds that were read), counted alike; (0, _)
        where it declares none. `relative` are the seconds read, from the first frame on."""
        absolute = relative + self.zero
        # the stream's duration is shortened to what is there, its header is not
        if self.avi and self.stream.frames:
            return self.stream.frames / self.video.rates[0], relative
        if self.stream.duration:
            return float(self.stream.duration * _known(self.stream.time_base)), max(
                relative, absolute
            )
        if "matroska" in self.container.format.name and (
            tag := _seconds(self.stream.metadata.get("DURATION", ""))
        ):
            return tag, absolute
        if self.container.duration and any(name in self.container.format.name for name in HEADED):
            return self.container.duration / av.time_base, max(absolute, self.latest)
        return 0.0, absolute


def _known(unit: Fraction | None) -> Fraction:
    """Return a time base, which every stream and frame that is decoded has."""
    assert unit is not None
    return unit


def _video_stream(container: av.container.InputContainer) -> av.VideoStream:
    """Return the stream that a player would show."""
    stream = container.streams.best("video")
    assert isinstance(stream, av.VideoStream)
    return stream


def _seconds(text: str) -> float:
    """Seconds of "hours:minutes:seconds" (Matroska's way), 0 where the text is none."""
    try:
        hours, minutes, seconds = text.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return 0.0


def _ending(path: Path) -> str:
    """What the last bytes say of a file that has no duration of its own; an empty text if it seems
    whole."""
    kind = path.suffix.lower()
    size = path.stat().st_size
    if kind in PACKET and all(size % packet for packet in PACKET[kind]):
        return "is cut short, it ends within a packet"
    if kind == ".gif":
        with open(path, "rb") as file:
            file.seek(max(0, size - 64))
            if not file.read().rstrip(b"\0").endswith(b";"):
                return "is cut short, it ends before its last byte"
    return ""


def display_rotation(frame: av.VideoFrame) -> tuple[int, bool]:
    """(quarter turns, counter-clockwise; mirrored before them) that set the frame upright, by its
    display matrix."""
    # PyAV's side data has no type of its own to iterate over
    side_data: Iterable[Any] = frame.side_data
    found = [data for data in side_data if data.type.name == "DISPLAYMATRIX"]
    if not found:
        return round(frame.rotation / 90) % 4, False
    a, b, _, c, d = np.frombuffer(found[0], np.int32)[:5].astype(float)
    mirrored = a * d - b * c < 0
    angle = -math.atan2(-b if mirrored else b, -a if mirrored else a)
    return round(angle / (math.pi / 2)) % 4, mirrored


def fitted(frame: av.VideoFrame, size: tuple[int, int], aspect: float = 1.0) -> np.ndarray:
    """uint8 (H, W, 3) of `size`: upright, scaled to cover it, cropped in the middle. `aspect` is a
    pixel's width to its height."""
    turns, mirrored = display_rotation(frame)
    rows, columns = size[::-1] if turns % 2 else size
    scale = max(rows / frame.height, columns / (frame.width * aspect))
    large = (
        max(rows, round(frame.height * scale)),
        max(columns, round(frame.width * aspect * scale)),
    )
    top = (large[0] - rows) // 2
    left = (large[1] - columns) // 2
    cropped = rgb(frame, large)[top : top + rows, left : left + columns]
    return np.rot90(cropped[:, ::-1] if mirrored else cropped, turns)


def upright(frame: av.VideoFrame, aspect: float = 1.0) -> tuple[int, int]:
    """(height, width) of the frame as it is shown, in square pixels of its own height."""
    size = frame.height, max(1, round(frame.width * aspect))
    return size[::-1] if display_rotation(frame)[0] % 2 else size
