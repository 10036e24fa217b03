"""The film's tree as a desk shows it: the shots on the path to the head, and beside each shot its
takes.

A *line* is a take, or a way to go on that leaves a take in mid-shot; it is known by the chunk it
begins with. A `Board` grows by a chunk at a time and walks only the path, so it may be asked many
times a second.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import groupby

import numpy as np

from cinelab.limits import cut
from cinelab.stream.commands import Settings, policy_label
from cinelab.stream.session import Node, Session

SHOWN = 6  # changes of a take beside the film, the last ones; a view is sent many times a second


@dataclass
class Board:
    """Belongs to one viewer's thread; nodes never change, so it may hold the session's own."""

    nodes: dict[int, Node] = field(default_factory=dict)
    prompts: dict[str, None] = field(default_factory=dict)  # as said, in order
    _line: dict[int, int] = field(default_factory=dict)  # of a chunk
    _opening: dict[int, int] = field(default_factory=dict)  # line -> the chunk that opens its shot
    _last: dict[int, int] = field(default_factory=dict)  # line -> its newest chunk
    # the chunk before a shot -> lines of that shot
    _beside: dict[int | None, list[int]] = field(default_factory=dict)
    _gone_on: set[int] = field(default_factory=set)  # chunks that their shot goes on from
    # line -> what changed in its shot, in order
    _changes: dict[int, list[dict]] = field(default_factory=dict)

    def add(self, node: Node) -> bool:
        """Take a chunk in; True when it begins a line, whose picture is to be shown."""
        self.nodes[node.number] = node
        self.prompts[node.said.prompt] = None
        opens = node.parent is None or node.cut
        begins = opens or node.parent in self._gone_on
        line = node.number if begins else self._line[node.parent]
        self._line[node.number], self._last[line] = line, node.number
        if begins:
            opening = node.number if opens else self._opening[self._line[node.parent]]
            self._opening[line] = opening
            self._beside.setdefault(self.nodes[opening].parent, []).append(line)
            self._changes[line] = [] if opens else self._changes_up_to(node.parent)
        if not opens:
            self._gone_on.add(node.parent)
            self._note(node, line)
        return begins

    def _changes_up_to(self, number: int) -> list[dict]:
        place = self._place(number)
        return [change for change in self._changes[self._line[number]] if change["at"] <= place]

    def _note(self, node: Node, line: int) -> None:
        """Write down what a chunk in mid-shot was told otherwise than the one before."""
        what = change(self.nodes[node.parent].said, node.said)
        if what:
            self._changes[line].append({"at": self._place(node.number), "what": what})

    def _place(self, number: int) -> int:
        """How many chunks of its shot lie before a chunk."""
        return self.nodes[number].index - self.nodes[self._opening[self._line[number]]].index

    @property
    def lines(self) -> list[int]:
        return list(self._opening)

    def shots(self, head: int | None, cut: bool) -> list[dict]:
        """A row a shot, as plain values; with `cut` or at the beginning also the shot that comes
        next; at the end, without a number, the shots that hang on the path but are not on it. So
        every take is in sight of one that is."""
        path = self._path(head)
        rows = [
            self._row(list(numbers))
            for _, numbers in groupby(path, lambda number: self.nodes[number].shot)
        ]
        if cut or head is None:
            rows.append(_coming(len(rows), self._takes(head, None)))
        shown = {take["line"] for row in rows for take in row["takes"]}
        others = [
            take
            for number in path
            for take in self._takes(number, None)
            if take["line"] not in shown
        ]
        return [*rows, _coming(None, others)] if others else rows

    def _row(self, numbers: list[int]) -> dict:
        first, last = numbers[0], numbers[-1]
        node = self.nodes[first]
        line = self._line[last]
        return {
            "shot": node.shot,
            "line": line,
            "last": last,
            "chunks": len(numbers),
            "prompt": node.said.prompt,
            "changes": self._changes_up_to(last),
            "takes": self._takes(node.parent, line),
        }

    def _takes(self, before: int | None, on: int | None) -> list[dict]:
        return [
            {
                "line": line,
                "last": self._last[line],
                "on": line == on,
                "changes": self._changes[line][-SHOWN:],
                "prompt": self.nodes[self._opening[line]].said.prompt,
                "shot": self.nodes[line].shot,
            }
            for line in self._beside.get(before, [])
        ]

    def take(self, last: int) -> list[Node]:
        """The chunks of a shot up to its chunk `last`, in order."""
        found = [self.nodes[last]]
        while found[-1].parent is not None and not found[-1].cut:
            found.append(self.nodes[found[-1].parent])
        return found[::-1]

    def _path(self, number: int | None) -> list[int]:
        found = []
        while number is not None:
            found.append(number)
            number = self.nodes[number].parent
        return found[::-1]


def _coming(shot: int | None, takes: list[dict]) -> dict:
    """A row that has no chunk on the path."""
    return {
        "shot": shot,
        "line": None,
        "last": None,
        "chunks": 0,
        "prompt": "",
        "changes": [],
        "takes": takes,
    }


def change(before: Settings, after: Settings) -> str:
    """What one chunk's settings change in the last one's, in a few words; empty if nothing."""
    found = [] if before.prompt == after.prompt else [words_changed(before.prompt, after.prompt)]
    for name, value in (
        ("seed", lambda said: said.seed),
        ("policy", policy_label),
        ("budget", lambda said: said.budget),
        ("levels", lambda said: said.steps),
    ):
        was = value(before)
        now = value(after)
        if was != now:
            found.append(f"{name} {_short(was)} → {_short(now)}")
    return ", ".join(found)


def _short(value, most: int = 24) -> str:
    text = "the model's own" if value is None else str(value)
    return cut(text, most, "…")


def words_changed(before: str, after: str) -> str:
    """The words that differ between two prompts: "waits → jumps"; "+ at night" and "- at night"
    where words only come or go."""
    old = before.split()
    new = after.split()
    found = []
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        was = " ".join(old[a:b])
        now = " ".join(new[c:d])
        if kind != "equal":
            found.append(f"{was} → {now}" if was and now else f"+ {now}" if now else f"- {was}")
    return _short(", ".join(found), 80)


def pictures(session: Session, node: Node) -> np.ndarray:
    """A finished chunk's pictures uint8 (f, H, W, 3); see `chunk_frames`."""
    return next(chunk_frames(session, [node]))


def chunk_frames(session: Session, nodes: Sequence[Node]) -> Iterator[np.ndarray]:
    """Frames uint8 (f, H, W, 3) of one chunk after another of a shot, decoded from their files and
    that of the chunk before.

    The toy decoder looks back one latent frame, so they are exact. Wan's looks back farther, so the
    first frames may differ a little from the film's: they are to be looked at. Reads nothing that
    an engine changes.
    """
    state = session.reel.begin()
    if nodes[0].parent is not None:
        state, _ = session.reel.decode(state, session.latents(nodes[0].parent))
    for node in nodes:
        state, frames = session.reel.decode(state, session.latents(node.number))
        yield frames[0]
