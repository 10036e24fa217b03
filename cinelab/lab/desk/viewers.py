"""The browsers that watch one film of the demo: each has a bounded outbox, so that a slow one slows
no other.

Answers keep their order. Of frames and of the view only the newest waits, and of a view only what
this browser does not know yet is sent. A browser for which more than MOST bytes wait is
disconnected.
"""

import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np

from cinelab.files import to_json
from cinelab.lab.desk.frame_channel import UNDER_WAY, jpeg

MOST = 8 * 2**20  # bytes of answers that may wait for a browser
STILLS = 2**19  # bytes of stills after which a message is full
LONG = 4  # a list of more values is sent row by row

Sent = tuple[str, list[bytes]]  # a JSON text, and the binary messages that follow it


def _do_nothing() -> None:
    """The callback of a viewer without a film."""


class Viewer:
    """One browser (a `MessageChannel`).

    Everything but `take` may be called from any thread; `wake` is called when there is something to
    take. A browser that does not direct may only watch.
    """

    def __init__(self, wake: Callable[[], None] = _do_nothing, *, directs: bool = True):
        self.directs = directs
        self.lost = False
        # called when there is room for frames again
        self.freed: Callable[[], None] = _do_nothing
        self._wake = wake
        self._lock = threading.Lock()
        self._answers: deque[Sent] = deque()
        self._waiting = 0  # bytes of the answers
        self._stills: dict[int, bytes] = {}
        self._frames: tuple[dict, list[bytes]] | None = None
        self._take: tuple[dict, list[bytes]] | None = None
        self._view: dict | None = None
        self._known: dict = {}  # the view as this browser has it
        self._under_way: dict[int, float] = {}  # number -> when it should have been drawn

    # ---- called by a desk

    def send(self, content: dict, buffers: list[bytes] | None = None) -> None:
        """Queue any message but frames; stills wait by their lines, others in order."""
        buffers = buffers or []
        if content.get("kind") == "stills":
            with self._lock:
                self._stills.update(zip(content["lines"], buffers, strict=True))
            return self._wake()
        # a take may be large; of several that wait only the last one is wanted
        if content.get("kind") == "take":
            with self._lock:
                self._take = content, buffers
            return self._wake()
        return self.answer({"custom": content}, buffers)

    def answer(self, content: dict, buffers: list[bytes] | None = None) -> None:
        """Queue a message that may not be left out. The browser is lost when too much waits."""
        buffers = buffers or []
        text = to_json(content | {"buffers": len(buffers)})
        with self._lock:
            self._waiting += _size((text, buffers))
            self.lost = self.lost or self._waiting > MOST
            if self.lost:
                self._answers.clear()
            else:
                self._answers.append((text, buffers))
        self._wake()

    def welcome(self, content: dict, view: dict) -> None:
        """Queue the first message: what never changes, and the whole view."""
        with self._lock:
            self._known = view
            self._view = None
        self.answer(content | {"view": view})

    def show(self, view: dict) -> None:
        """Queue the newest view."""
        with self._lock:
            self._view = view
        self._wake()

    def offer_frames(self, content: dict, images: list[bytes]) -> None:
        """Queue the newest frames, as JPEGs."""
        with self._lock:
            self._frames = content, images
        self._wake()

    def acknowledge(self, number: int) -> None:
        """Note that the browser has drawn message `number`."""
        with self._lock:
            self._under_way.pop(number, None)
        self._wake()
        self.freed()

    def reset(self) -> None:
        """Forget what is under way: the browser draws nothing that was sent before."""
        with self._lock:
            self._under_way.clear()
        self._wake()
        self.freed()

    def seconds_late(self) -> float:
        """Return the seconds since the oldest message under way should have been drawn; below 0
        while all are in time."""
        with self._lock:
            return time.monotonic() - min(self._under_way.values()) if self._under_way else -1.0

    @property
    def has_room(self) -> bool:
        """Whether frames queued now would be sent at once."""
        with self._lock:
            return self._frames is None and len(self._under_way) < UNDER_WAY and not self.lost

    # ---- called by the connection

    def take(self) -> Sent | None:
        """Return what is to be sent next, None when nothing is."""
        queues = (
            self._next_answer,
            self._next_take,
            self._next_view,
            self._next_stills,
            self._next_frames,
        )
        with self._lock:
            for next_of_queue in queues:
                if (found := next_of_queue()) is not None:
                    return found
        return None

    def _next_answer(self) -> Sent | None:
        if not self._answers:
            return None
        found = self._answers.popleft()
        self._waiting -= _size(found)
        return found

    def _next_view(self) -> Sent | None:
        if self._view is None:
            return None
        changes = view_changes(self._known, self._view)
        self._known = self._view
        self._view = None
        return (to_json({"changes": changes, "buffers": 0}), []) if changes else None

    def _next_take(self) -> Sent | None:
        take = self._take
        self._take = None
        return _custom(*take) if take else None

    def _next_stills(self) -> Sent | None:
        lines = []
        stills = []
        size = 0
        while self._stills and size < STILLS:
            line = next(iter(self._stills))
            lines.append(line)
            stills.append(self._stills.pop(line))
            size += len(stills[-1])
        return _custom({"kind": "stills", "lines": lines}, stills) if lines else None

    def _next_frames(self) -> Sent | None:
        if self._frames is None or len(self._under_way) >= UNDER_WAY:
            return None
        content, images = self._frames
        self._frames = None
        start = max([time.monotonic(), *self._under_way.values()])
        self._under_way[content["number"]] = start + content.get("gap", 0) * len(images)
        return _custom(content, images)


class Viewers:
    """All viewers of one film (a `FrameSink`): what a hosted desk has in place of a notebook's one
    `FrameChannel`."""

    def __init__(self) -> None:
        self.directs = True  # each viewer has rights of its own
        self._all: tuple[Viewer, ...] = ()
        self._number = 0
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, viewer: Viewer) -> bool:
        return viewer in self._all

    def add(self, viewer: Viewer) -> None:
        with self._changed:
            viewer.freed = self._notify
            self._all = (*self._all, viewer)
            self._changed.notify_all()

    def remove(self, viewer: Viewer) -> None:
        with self._changed:
            viewer.freed = _do_nothing
            self._all = tuple(one for one in self._all if one is not viewer)

    def wait_for_room(self, seconds: float) -> bool:
        """Wait at most so long. Return whether any viewer has room for frames."""
        with self._changed:
            return self._changed.wait_for(self._any_has_room, seconds)

    def _any_has_room(self) -> bool:
        return any(viewer.has_room for viewer in self._all)

    def send_frames(self, content: dict, frames: np.ndarray) -> None:
        """Encode frames uint8 (f, H, W, 3) once, and queue them for every viewer; one without room
        keeps the newest waiting."""
        self._number += 1
        content = content | {"kind": "frames", "number": self._number}
        images = [jpeg(frame) for frame in frames]
        for viewer in self._all:  # a tuple: a viewer that comes or goes meanwhile makes another one
            viewer.offer_frames(content, images)

    def acknowledge(self, number: int) -> None:
        """Note that every viewer has drawn message `number`."""
        for viewer in self._all:
            viewer.acknowledge(number)

    def seconds_late(self) -> float:
        """Return the lateness of the viewer that draws best; below 0 where there is none, whose
        film the host pauses."""
        return min((viewer.seconds_late() for viewer in self._all), default=-1.0)

    def reset(self) -> None:
        for viewer in self._all:
            viewer.reset()

    def send(self, content: dict, buffers: list[bytes] | None = None) -> None:
        for viewer in self._all:
            viewer.send(content, buffers)

    def show(self, view: dict) -> None:
        for viewer in self._all:
            viewer.show(view)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()


def view_changes(old: dict, new: dict) -> dict:
    """Return what turns the view `old` into `new`, {} where they are equal.

    `set` has values; `rows` has of long lists their length and the rows that differ. A view keeps
    its names, so none is ever removed.
    """
    changed = {name: value for name, value in new.items() if name not in old or old[name] != value}
    rows = {
        name: _rows(old[name], value)
        for name, value in changed.items()
        if isinstance(value, list) and len(value) > LONG and isinstance(old.get(name), list)
    }
    values = {name: value for name, value in changed.items() if name not in rows}
    return {key: value for key, value in (("set", values), ("rows", rows)) if value}


def _rows(old: list, new: list) -> list:
    """Return [length, [place, row], ...] of the rows that differ."""
    return [
        len(new),
        *([place, row] for place, row in enumerate(new) if place >= len(old) or old[place] != row),
    ]


def _custom(content: dict, buffers: list[bytes]) -> Sent:
    return to_json({"custom": content, "buffers": len(buffers)}), buffers


def _size(sent: Sent) -> int:
    return len(sent[0]) + sum(map(len, sent[1]))
