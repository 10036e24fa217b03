"""The film states of a session that stay in memory; all others are computed again from the
latents."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from cinelab.stream.generator import FilmState

RECENT = 2  # the newest states
OPENINGS = 4  # and those that shots began from, for retakes


@dataclass
class StateCache:
    """States by the number of the chunk that they follow. Those that wait for a retake have their
    decoder in main memory (`park`)."""

    park: Callable[[FilmState], FilmState]
    openings: set[int] = field(default_factory=set)  # chunks that a shot was cut after
    _states: "OrderedDict[int, FilmState]" = field(default_factory=OrderedDict)

    def __contains__(self, number: int) -> bool:
        return number in self._states

    def __getitem__(self, number: int) -> FilmState:
        return self._states[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self._states)

    def put(self, number: int, state: FilmState) -> None:
        """Store a state as the newest, and drop those that are neither recent nor an opening."""
        self._states[number] = state
        self._states.move_to_end(number)
        openings = [one for one in self._states if one in self.openings]
        others = [one for one in self._states if one not in self.openings]
        for one in openings[:-OPENINGS] + others[:-RECENT]:
            del self._states[one]
        for one in openings[-OPENINGS:]:
            if one != number:
                self._states[one] = self.park(self._states[one])
