"""Limits of a directed film: what no screenplay could hold is refused before it is made, so that
every film of a session can be exported."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cinelab.errors import CinelabError
from cinelab.limits import DIRECTED, LATENTS, SECONDS
from cinelab.script.screenplay import ROOM as SCREENPLAY_ROOM
from cinelab.script.screenplay import PromptChange, screenplay_size
from cinelab.stream.commands import changed_settings, screenplay_settings
from cinelab.stream.session_entries import Node
from cinelab.zoo.bundle import Bundle

Nodes = Mapping[int, Node]


def check_length(bundle: Bundle, nodes: Nodes, head: Node, *, cut: bool) -> None:
    """Refuse a chunk after `head` where the film, its running shot or the number of its shots would
    become too large."""
    if (head.index + 2) * bundle.chunk > LATENTS:
        raise CinelabError(
            f"The film has {head.index + 1} chunks, which is the most; cut here and begin a new "
            "session."
        )
    seconds = bundle.chunk * bundle.codec.stride / bundle.fps  # of a chunk
    chunks = 1 if cut else 1 + _chunks_of_shot(nodes, head)
    if chunks * seconds > SECONDS:
        raise CinelabError(f"The shot lasts {SECONDS} s, which is the most; cut here and go on.")
    if cut and head.shot + 1 >= DIRECTED:
        raise CinelabError(
            f"The film has {DIRECTED} shots, which is the most; begin a new session."
        )


def _chunks_of_shot(nodes: Nodes, head: Node) -> int:
    """Return how many chunks the shot of `head` has up to it."""
    count = 0
    node: Node | None = head
    while node is not None and node.shot == head.shot:
        count += 1
        node = None if node.parent is None else nodes[node.parent]
    return count


@dataclass
class ScreenplaySize:
    """The size that a film takes as a screenplay, at most: (bytes, values). The sizes of films up
    to each chunk are stored, so that a chunk costs one addition."""

    nodes: Nodes
    _sizes: dict[int, tuple[int, int]] = field(default_factory=dict)

    def check(self, node: Node) -> None:
        """Refuse a chunk whose film would be a screenplay too large to be read."""
        before = (0, 0) if node.parent is None else self.up_to(node.parent)
        for name, most, size, more in zip(
            ("bytes", "values"), SCREENPLAY_ROOM, before, self._added(node), strict=True
        ):
            if size + more > most:
                raise CinelabError(
                    f"The film's prompts and settings take {most} {name} as a screenplay, which is "
                    "the most; begin a new session."
                )

    def up_to(self, number: int) -> tuple[int, int]:
        """Return the size of the film up to a chunk."""
        missing = []
        place: int | None = number
        while place is not None and place not in self._sizes:
            missing.append(place)
            place = self.nodes[place].parent
        total = (0, 0) if place is None else self._sizes[place]
        for one in reversed(missing):
            size, values = self._added(self.nodes[one])
            total = self._sizes[one] = (total[0] + size, total[1] + values)
        return total

    def _added(self, node: Node) -> tuple[int, int]:
        """Return what a chunk adds to its film: nothing where it goes on as before."""
        parent = None if node.parent is None else self.nodes[node.parent]
        before = None if parent is None else parent.settings
        opens = node.cut or node.recache or parent is None
        settings = node.settings
        if parent is not None and before is not None and not opens:
            continued = node.model_prompt not in (settings.prompt, parent.model_prompt)
            if not continued and screenplay_settings(settings) == screenplay_settings(before):
                return 0, 0
        changes = changed_settings(settings, before)
        return screenplay_size(
            PromptChange(SECONDS / 3, settings.prompt, recache=node.recache, **changes)
        )
