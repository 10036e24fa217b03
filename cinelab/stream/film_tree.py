"""The film's tree as a desk shows it: the shots on the path to the head, and beside each shot its
takes.

A *line* is a take, or a continuation that leaves a take in mid-shot; it is identified by the chunk
that it begins with. A `FilmTree` grows by a chunk at a time and walks only the path, so it may be
read many times a second.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import groupby

import numpy as np

from cinelab.limits import truncated
from cinelab.stream.commands import Settings, policy_label
from cinelab.stream.session import Node, Session

SHOWN = 6  # changes of a take beside the film, the last ones; a view is sent many times a second


@dataclass
class FilmTree:
    """Belongs to one viewer's thread; nodes never change, so it may hold the session's own."""

    nodes: dict[int, Node] = field(default_factory=dict)
    prompts: dict[str, None] = field(default_factory=dict)  # as stated, in order
    _line: dict[int, int] = field(default_factory=dict)  # chunk -> its line
    _opening: dict[int, int] = field(default_factory=dict)  # line -> the chunk that opens its shot
    _last: dict[int, int] = field(default_factory=dict)  # line -> its newest chunk
    # the chunk before a shot -> lines of that shot
    _beside: dict[int | None, list[int]] = field(default_factory=dict)
    _continued: set[int] = field(default_factory=set)  # chunks that their shot continues from
    # line -> what changed in its shot, in order
    _changes: dict[int, list[dict]] = field(default_factory=dict)

    def add(self, node: Node) -> bool:
        """Add a chunk. Return True when it begins a line, whose frames are to be shown."""
        self.nodes[node.number] = node
        self.prompts[node.settings.prompt] = None
        if node.parent is None or node.cut:
            self._begin(node, node.number, [])
            return True
        before = self._line[node.parent]
        branches = node.parent in self._continued
        if branches:
            self._begin(node, self._opening[before], self._changes_up_to(node.parent))
        else:
            self._line[node.number] = before
            self._last[before] = node.number
        self._continued.add(node.parent)
        self._note(node, node.parent)
        return branches

    def _begin(self, node: Node, opening: int, changes: list[dict]) -> None:
        """Begin a line with `node`, in the shot that the chunk `opening` opens."""
        line = node.number
        self._line[line] = line
        self._last[line] = line
        self._opening[line] = opening
        self._beside.setdefault(self.nodes[opening].parent, []).append(line)
        self._changes[line] = changes

    def _changes_up_to(self, number: int) -> list[dict]:
        place = self._place(number)
        return [change for change in self._changes[self._line[number]] if change["at"] <= place]

    def _note(self, node: Node, parent: int) -> None:
        """Record which settings of a chunk in mid-shot differ from those of the one before."""
        what = describe_change(self.nodes[parent].settings, node.settings)
        if what:
            self._changes[self._line[node.number]].append(
                {"at": self._place(node.number), "what": what}
            )

    def _place(self, number: int) -> int:
        """Return how many chunks of its shot lie before a chunk."""
        return self.nodes[number].index - self.nodes[self._opening[self._line[number]]].index

    @property
    def lines(self) -> list[int]:
        """All lines, in the order in which they were begun."""
        return list(self._opening)

    def shots(self, head: int | None, cut: bool) -> list[dict]:
        """Return a row a shot, as plain values; with `cut` or at the beginning also the shot that
        comes next; at the end, without a number, the shots that branch off the path. So every take
        is reached from one that is on it."""
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
            "prompt": node.settings.prompt,
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
                "prompt": self.nodes[self._opening[line]].settings.prompt,
                "shot": self.nodes[line].shot,
            }
            for line in self._beside.get(before, [])
        ]

    def take(self, last: int) -> list[Node]:
        """Return the chunks of a shot up to its chunk `last`, in order."""
        node = self.nodes[last]
        found = [node]
        while node.parent is not None and not node.cut:
            node = self.nodes[node.parent]
            found.append(node)
        return found[::-1]

    def _path(self, number: int | None) -> list[int]:
        found = []
        while number is not None:
            found.append(number)
            number = self.nodes[number].parent
        return found[::-1]


def _coming(shot: int | None, takes: list[dict]) -> dict:
    """Return a row that has no chunk on the path."""
    return {
        "shot": shot,
        "line": None,
        "last": None,
        "chunks": 0,
        "prompt": "",
        "changes": [],
        "takes": takes,
    }


def describe_change(before: Settings, after: Settings) -> str:
    """Return what one chunk's settings change in the last one's, in a few words; empty if
    nothing."""
    found = [] if before.prompt == after.prompt else [words_changed(before.prompt, after.prompt)]
    for name, value in (
        ("seed", lambda settings: settings.seed),
        ("policy", policy_label),
        ("budget", lambda settings: settings.budget),
        ("levels", lambda settings: settings.steps),
    ):
        was = value(before)
        now = value(after)
        if was != now:
            found.append(f"{name} {_short(was)} → {_short(now)}")
    return ", ".join(found)


def _short(value: object, most: int = 24) -> str:
    text = "the model's own" if value is None else str(value)
    return truncated(text, most, "…")


def words_changed(before: str, after: str) -> str:
    """Return the words that differ between two prompts: "waits → jumps"; "+ at night" and
    "- at night" where words are only added or removed."""
    old = before.split()
    new = after.split()
    found = []
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        was = " ".join(old[a:b])
        now = " ".join(new[c:d])
        if kind != "equal":
            found.append(f"{was} → {now}" if was and now else f"+ {now}" if now else f"- {was}")
    return _short(", ".join(found), 80)


def chunk_frames(session: Session, nodes: Sequence[Node]) -> Iterator[np.ndarray]:
    """Yield frames uint8 (f, H, W, 3) of one chunk after another of a shot, decoded from their
    files and that of the chunk before.

    The toy decoder depends on one earlier latent frame, so they are exact. Wan's depends on more,
    so the first frames may differ a little from the film's: they are for display. Nothing is read
    that an engine changes.
    """
    state = session.generator.begin()
    if nodes[0].parent is not None:
        state, _ = session.generator.decode(state, session.latents(nodes[0].parent))
    for node in nodes:
        state, frames = session.generator.decode(state, session.latents(node.number))
        yield frames[0]


def node_frames(session: Session, node: Node) -> np.ndarray:
    """Return a finished chunk's frames uint8 (f, H, W, 3); see `chunk_frames`."""
    return next(chunk_frames(session, [node]))
