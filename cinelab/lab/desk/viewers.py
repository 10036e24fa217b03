"""The browsers that look at one film of the demo: each has a bounded outbox, so that the slowest
slows nobody else.

Answers keep their order. Of pictures and of the view only the newest waits, and of a view only what
has changed since this browser was told is sent. A browser for which more than MOST bytes wait is
let go of.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from cinelab.files import to_json
from cinelab.lab.desk.frame_channel import UNDER_WAY, jpeg

MOST = 8 * 2**20  # bytes of answers that may wait for a browser
STILLS = 2**19  # bytes of stills after which a message is full
LONG = 4  # a list of more values is sent row by row

Sent = tuple[str, list[bytes]]  # a JSON text, and the binary messages that follow it


def _nobody_waits() -> None:
    """What a viewer without a film calls."""


class Viewer:
    """One browser. Everything but `take` may be called from any thread; `wake` is called when there
    is something to take."""

    def __init__(self, wake: Callable[[], None] = _nobody_waits, directs: bool = True):
        self.directs = directs
        self.lost = False
        # called when there is room for pictures again
        self.freed: Callable[[], None] = _nobody_waits
        self._wake = wake
        self._lock = threading.Lock()
        self._answers: deque[Sent] = deque()
        self._waiting = 0  # bytes of the answers
        self._stills: dict[int, bytes] = {}
        self._pictures: tuple[dict, list[bytes]] | None = None
        self._take: tuple[dict, list[bytes]] | None = None
        self._view: dict | None = None
        self._known: dict = {}  # the view as this browser has it
        self._under_way: dict[int, float] = {}  # number -> when it should have been drawn

    # ---- what a desk asks of it

    def send(self, content: dict, buffers: list[bytes] | None = None) -> None:
        """Any message but pictures; stills wait by their lines, others in order."""
        buffers = buffers or []
        if content.get("kind") == "stills":
            with self._lock:
                self._stills.update(zip(content["lines"], buffers, strict=True))
            return self._wake()
        # as large as it may be; of several that wait the last one is wanted
        if content.get("kind") == "take":
            with self._lock:
                self._take = content, buffers
            return self._wake()
        return self.answer({"custom": content}, buffers)

    def answer(self, text: dict, buffers: list[bytes] | None = None) -> None:
        """A text that may not be left out. The browser is lost when too much waits."""
        told = to_json(text | {"buffers": len(buffers or [])})
        buffers = buffers or []
        with self._lock:
            self._waiting += _size((told, buffers))
            self.lost = self.lost or self._waiting > MOST
            if self.lost:
                self._answers.clear()
            else:
                self._answers.append((told, buffers))
        self._wake()

    def welcome(self, text: dict, view: dict) -> None:
        """The first message: the whole view, and what never changes."""
        with self._lock:
            self._known = view
            self._view = None
        self.answer(text | {"view": view})

    def show(self, view: dict) -> None:
        with self._lock:
            self._view = view
        self._wake()

    def put(self, content: dict, pictures: list[bytes]) -> None:
        with self._lock:
            self._pictures = content, pictures
        self._wake()

    def drawn(self, number: int) -> None:
        with self._lock:
            self._under_way.pop(number, None)
        self._wake()
        self.freed()

    def forget(self) -> None:
        with self._lock:
            self._under_way.clear()
        self._wake()
        self.freed()

    def late(self) -> float:
        """Seconds since the oldest message under way should have been drawn; below 0 while nothing
        is amiss."""
        with self._lock:
            return time.monotonic() - min(self._under_way.values()) if self._under_way else -1.0

    @property
    def room(self) -> bool:
        """Whether pictures given now would go at once."""
        with self._lock:
            return self._pictures is None and len(self._under_way) < UNDER_WAY and not self.lost

    # ---- what its connection asks of it

    def take(self) -> Sent | None:
        """What is to be sent next, None when nothing is."""
        with self._lock:
            for find in (self._answer, self._wanted, self._news, self._some_stills, self._newest):
                if (found := find()) is not None:
                    return found
        return None

    def _answer(self) -> Sent | None:
        if not self._answers:
            return None
        found = self._answers.popleft()
        self._waiting -= _size(found)
        return found

    def _news(self) -> Sent | None:
        if self._view is None:
            return None
        told = news(self._known, self._view)
        self._known = self._view
        self._view = None
        return (to_json({"news": told, "buffers": 0}), []) if told else None

    def _wanted(self) -> Sent | None:
        wanted = self._take
        self._take = None
        return _custom(*wanted) if wanted else None

    def _some_stills(self) -> Sent | None:
        lines = []
        stills = []
        size = 0
        while self._stills and size < STILLS:
            line = next(iter(self._stills))
            lines.append(line)
            stills.append(self._stills.pop(line))
            size += len(stills[-1])
        return _custom({"kind": "stills", "lines": lines}, stills) if lines else None

    def _newest(self) -> Sent | None:
        if self._pictures is None or len(self._under_way) >= UNDER_WAY:
            return None
        (content, pictures), self._pictures = self._pictures, None
        start = max([time.monotonic(), *self._under_way.values()])
        self._under_way[content["number"]] = start + content.get("gap", 0) * len(pictures)
        return _custom(content, pictures)


class Viewers:
    """All viewers of one film: what a desk has instead of the one mailbox of a notebook's views."""

    def __init__(self) -> None:
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
            viewer.freed = _nobody_waits
            self._all = tuple(one for one in self._all if one is not viewer)

    def wait(self, seconds: float) -> bool:
        """Whether any viewer has room for pictures, waiting for one if need be."""
        with self._changed:
            return self._changed.wait_for(lambda: any(viewer.room for viewer in self._all), seconds)

    def put(self, content: dict, frames: Any) -> None:
        """Pictures uint8 (f, H, W, 3) for everybody, made into JPEGs once; whoever has no room
        keeps the newest waiting."""
        self._number += 1
        content = content | {"kind": "pictures", "number": self._number}
        pictures = [jpeg(frame) for frame in frames]
        for viewer in self._all:  # a tuple: whoever comes or goes meanwhile makes another one
            viewer.put(content, pictures)

    def late(self) -> float:
        """That of the viewer that draws best; below 0 where there is none, whose film the house
        pauses."""
        return min((viewer.late() for viewer in self._all), default=-1.0)

    def forget(self) -> None:
        for viewer in self._all:
            viewer.forget()

    def send(self, content: dict, buffers: list[bytes] | None = None) -> None:
        for viewer in self._all:
            viewer.send(content, buffers)

    def show(self, view: dict) -> None:
        for viewer in self._all:
            viewer.show(view)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()


def news(old: dict, new: dict) -> dict:
    """What turns the view `old` into `new`: `set` has values, `rows` has of long lists their length
    and the rows that differ.

    {} when nothing has changed. A view keeps its names, so none is ever taken away.
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
    """[length, [place, row], ...] of the rows that differ."""
    return [
        len(new),
        *([place, row] for place, row in enumerate(new) if place >= len(old) or old[place] != row),
    ]


def _custom(content: dict, buffers: list[bytes]) -> Sent:
    return to_json({"custom": content, "buffers": len(buffers)}), buffers


def _size(sent: Sent) -> int:
    return len(sent[0]) + sum(map(len, sent[1]))
