"""The minutes that a training may take: it ends at the step boundary that still leaves time to
validate, save and export.

A step, a validation and a save are expected to take as long as before in the same training: the
longest save and validation of all, and the longest of the last few steps, since the first one pays
for what is compiled and allocated once.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf

from cinelab.limits import MINUTES, check_number

STEP = "step"
SAVE = "save"
VALIDATION = "validation"
RECENT = 8  # steps whose longest is what the next one is expected to take
UNKNOWN = 1.0  # seconds that a save is expected to take before there was one
MARGIN = 0.5  # seconds for what is not measured, such as the end of the process


class TimeLimit:
    """The time that is left of `minutes` (None: no end), and whether a training has to end now.

    The minutes are counted from when the limit is made; `clock` gives seconds.
    """

    def __init__(self, minutes: float | None, *, clock: Callable[[], float] = time.monotonic):
        if minutes is not None:
            check_number("minutes", minutes, *MINUTES, whole=False)
        self.minutes = minutes
        self.clock = clock
        self.ends = clock() + (inf if minutes is None else 60 * minutes)
        self._seconds: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))

    @contextmanager
    def timing(self, what: str) -> Iterator[None]:
        """Measure the seconds that something takes, inside: a STEP, a SAVE or a VALIDATION."""
        began = self.clock()
        try:
            yield
        finally:
            self._seconds[what].append(self.clock() - began)

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self.ends - self.clock()

    @property
    def reserved(self) -> float:
        """The seconds that another step and the end of the training are expected to take. An
        export writes no more than a save does."""
        step, save, validation = (
            max(self._seconds[what], default=unknown)
            for what, unknown in ((STEP, 0.0), (SAVE, UNKNOWN), (VALIDATION, 0.0))
        )
        return step + validation + 2 * save + MARGIN

    def end_now(self) -> None:
        """Let the training end at its next step boundary."""
        self.ends = self.clock()

    def is_up(self) -> bool:
        """Whether another step would leave too little time to end."""
        return self.left < self.reserved
