"""Frames on their way to a browser, which acknowledges what it has drawn.

At most UNDER_WAY messages are sent and not yet drawn, so nothing ever piles up. While both are
under way newer frames wait in the engine's mailbox, where the newest replaces the others.
"""

import io
import threading
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
from PIL import Image

UNDER_WAY = 2  # messages sent and not yet drawn
QUALITY = 92  # of a JPEG, of 100

Send = Callable[[dict, list[bytes]], None]  # (content, buffers)


class MessageChannel(Protocol):
    """Where the replies to one viewer go, and what a desk notes of that viewer."""

    directs: bool  # whether the viewer may direct the film, not only watch it

    def send(self, content: dict, buffers: list[bytes] | None = None) -> None:
        """Send a message that holds no frames to draw."""

    def acknowledge(self, number: int) -> None:
        """Note that the viewer has drawn message `number`."""

    def reset(self) -> None:
        """Forget what is under way: a new view draws nothing that was sent before it."""


class FrameSink(MessageChannel, Protocol):
    """Where the sender's thread sends a film's frames to."""

    def wait_for_room(self, seconds: float) -> bool:
        """Wait at most so long. Return whether one more message of frames may be sent."""

    def send_frames(self, content: dict, frames: np.ndarray) -> None:
        """Send frames uint8 (f, H, W, 3), to be shown `content["gap"]` seconds apart."""

    def seconds_late(self) -> float:
        """Return the seconds since the oldest message under way should have been drawn; below 0
        while all are in time."""


class FrameChannel:
    """The frames of a notebook's desk, whose views all receive the same messages.

    `send(content, buffers)` may be called from any thread.
    """

    def __init__(self, send: Send):
        self.directs = True
        self._send = send
        self._number = 0
        self._under_way: dict[int, float] = {}  # number -> when it should have been drawn
        self._changed = threading.Condition()

    def send(self, content: dict, buffers: list[bytes] | None = None) -> None:
        """Send a message that holds no frames to draw; it goes at once."""
        self._send(content, buffers or [])

    def wait_for_room(self, seconds: float) -> bool:
        """Wait at most so long. Return whether one more message of frames may be sent."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._under_way) < UNDER_WAY, seconds)

    def send_frames(self, content: dict, frames: np.ndarray) -> None:
        """Send frames uint8 (f, H, W, 3), one JPEG each."""
        with self._changed:
            self._number += 1
            start = max([time.monotonic(), *self._under_way.values()])
            self._under_way[self._number] = start + content.get("gap", 0) * len(frames)
            content = content | {"kind": "frames", "number": self._number}
        self._send(content, [jpeg(frame) for frame in frames])

    def acknowledge(self, number: int) -> None:
        """Note that a view has drawn a message's last frame; of several views the first counts."""
        with self._changed:
            self._under_way.pop(number, None)
            self._changed.notify_all()

    def seconds_late(self) -> float:
        """Return the seconds since the oldest message under way should have been drawn; below 0
        while all are in time."""
        with self._changed:
            return time.monotonic() - min(self._under_way.values()) if self._under_way else -1.0

    def reset(self) -> None:
        """Forget what is under way: a new view draws nothing that was sent before it."""
        with self._changed:
            self._under_way.clear()
            self._changed.notify_all()


def jpeg(frame: np.ndarray) -> bytes:
    """Encode a frame uint8 (H, W, 3) with full chroma, for small frames are shown large."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()
