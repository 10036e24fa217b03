"""Pictures on their way to a browser that says what it has drawn: at most two messages under way,
so nothing ever piles up.

While both are under way newer pictures wait in the engine's mailbox, where the newest wins.
"""

import io
import threading
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

UNDER_WAY = 2
QUALITY = 92


class Post:
    """Counts what is under way. `send(content, buffers)` may be called from any thread."""

    def __init__(self, send: Callable[[dict, list[bytes]], None]):
        self._send = send
        self._number = 0
        self._under_way: dict[int, float] = {}  # number -> when it should have been drawn
        self._changed = threading.Condition()

    def send(self, content: dict, buffers: list[bytes] | None = None) -> None:
        """What is no picture goes at once."""
        self._send(content, buffers or [])

    def wait(self, seconds: float) -> bool:
        """Whether there is room for one more, waiting for it if need be."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._under_way) < UNDER_WAY, seconds)

    def put(self, content: dict, frames: np.ndarray) -> None:
        """Send pictures uint8 (f, H, W, 3), one JPEG each."""
        with self._changed:
            self._number += 1
            start = max([time.monotonic(), *self._under_way.values()])
            self._under_way[self._number] = start + content.get("gap", 0) * len(frames)
            content = content | {"kind": "pictures", "number": self._number}
        self._send(content, [jpeg(frame) for frame in frames])

    def drawn(self, number: int) -> None:
        """The browser has drawn a message's last picture; of several views the first to say so
        counts."""
        with self._changed:
            self._under_way.pop(number, None)
            self._changed.notify_all()

    def late(self) -> float:
        """Seconds since the oldest message under way should have been drawn; below 0 while nothing
        is amiss."""
        with self._changed:
            return time.monotonic() - min(self._under_way.values()) if self._under_way else -1.0

    def forget(self) -> None:
        """A new view has come: it will draw nothing that was sent before it."""
        with self._changed:
            self._under_way.clear()
            self._changed.notify_all()


def jpeg(frame: np.ndarray) -> bytes:
    """A picture uint8 (H, W, 3); with all its colour, for small pictures are shown large."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()
