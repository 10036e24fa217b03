"""The film's tree as a desk shows it: the shots on the path to the head, and beside each shot its takes.

A *line* is a take, or a way to go on that leaves a take in mid-shot; it is known by the chunk it begins with. A `Board` grows by
a chunk at a time and walks only the path, so it may be asked many times a second.
"""

from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from cinelab.stream.session import Node, Session


@dataclass
class Board:
    """Belongs to one viewer's thread; nodes never change, so it may hold the session's own."""

    nodes: dict[int, Node] = field(default_factory=dict)
    prompts: dict[str, None] = field(default_factory=dict)  # as said, in order
    _line: dict[int, int] = field(default_factory=dict)  # of a chunk
    _opening: dict[int, int] = field(default_factory=dict)  # line -> the chunk that opens its shot
    _last: dict[int, int] = field(default_factory=dict)  # line -> its newest chunk
    _beside: dict[int | None, list[int]] = field(default_factory=dict)  # the chunk before a shot -> lines of that shot
    _gone_on: set[int] = field(default_factory=set)  # chunks that their shot goes on from

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
        if not opens:
            self._gone_on.add(node.parent)
        return begins

    @property
    def lines(self) -> list[int]:
        return list(self._opening)

    def shots(self, head: int | None, cut: bool) -> list[dict]:
        """A row a shot, as plain values; with `cut` or at the beginning also the shot that comes next; at the end, without a
        number, the shots that hang on the path but are not on it. So every take is in sight of one that is."""
        path = self._path(head)
        rows = [self._row(list(numbers)) for _, numbers in groupby(path, lambda number: self.nodes[number].shot)]
        if cut or head is None:
            rows.append(_coming(len(rows), self._takes(head, None)))
        shown = {take["line"] for row in rows for take in row["takes"]}
        others = [take for number in path for take in self._takes(number, None) if take["line"] not in shown]
        return [*rows, _coming(None, others)] if others else rows

    def _row(self, numbers: list[int]) -> dict:
        first, last = numbers[0], numbers[-1]
        node, line = self.nodes[first], self._line[last]
        return {"shot": node.shot, "line": line, "last": last, "chunks": len(numbers), "prompt": node.said.prompt,
                "takes": self._takes(node.parent, line)}

    def _takes(self, before: int | None, on: int | None) -> list[dict]:
        return [{"line": line, "last": self._last[line], "on": line == on, "prompt": self.nodes[line].said.prompt}
                for line in self._beside.get(before, [])]

    def _path(self, number: int | None) -> list[int]:
        found = []
        while number is not None:
            found.append(number)
            number = self.nodes[number].parent
        return found[::-1]


def _coming(shot: int | None, takes: list[dict]) -> dict:
    """A row that has no chunk on the path."""
    return {"shot": shot, "line": None, "last": None, "chunks": 0, "prompt": "", "takes": takes}


def pictures(session: Session, node: Node) -> np.ndarray:
    """A finished chunk's pictures uint8 (f, H, W, 3), from its file and its parent's. The toy decoder looks back one latent, so they
    are exact; Wan's looks back farther, so its first pictures may differ a little from the film's: they are for stills.

    Reads nothing that an engine changes.
    """
    state = session.reel.begin()
    if node.parent is not None:
        state, _ = session.reel.decode(state, session.latents(node.parent))
    return session.reel.decode(state, session.latents(node.number))[1][0]
