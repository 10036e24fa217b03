"""The rows of a training's log, in the order of its steps. On a GPU each is read one step late, so
that no step waits for the numbers of the one before.

A step's columns hold tensors of one number. Late, they are copied to the host when their step is
launched, and read when the next one is. Whatever depends on a step's success (a save, a validation,
the end) reads its row first.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from cinelab.readable import Readable
from cinelab.train.optim import require_finite

Row = dict[str, Any]  # columns of a row of the log
CHECKED = {"loss": "loss", "grad_norm": "gradient"}  # column -> what a sentence calls it
DIGITS = 4  # to which other columns are rounded that a stage gives as tensors


class Named(Protocol):
    """What is known of a learner here: its name, and what its columns begin with."""

    name: str
    prefix: str


def read_columns(columns: Row) -> Row:
    """Return columns with their tensors as numbers, waiting for them."""
    return {
        name: round(value.item(), DIGITS) if isinstance(value, Tensor) else value
        for name, value in columns.items()
    }


@dataclass(frozen=True)
class LaunchedStep(Readable):
    """A step whose numbers are under way to the host: its columns, in their order."""

    step: int
    began: float  # by perf_counter
    columns: Row
    numbers: Tensor  # (n,), those of the columns that are tensors
    copied: Any = None  # an event of the device

    @classmethod
    def of(cls, step: int, began: float, columns: Row) -> "LaunchedStep":
        """Start the copy of a step's numbers."""
        there = [x.detach().float().reshape(()) for x in columns.values() if isinstance(x, Tensor)]
        if not there:
            return cls(step, began, columns, torch.empty(0))
        numbers = torch.stack(there).to("cpu", non_blocking=True)
        copied = torch.cuda.Event() if there[0].is_cuda else None
        if copied is not None:
            copied.record()
        return cls(step, began, columns, numbers, copied)

    def wait(self) -> None:
        """Wait for the copy."""
        if self.copied is not None:
            self.copied.synchronize()

    def read(self, learners: Sequence[Named]) -> Row:
        """Return the columns as numbers, when the copy is there. CinelabError with the step where a
        loss or a gradient is not finite."""
        self.wait()
        names = [name for name, value in self.columns.items() if isinstance(value, Tensor)]
        row = self.columns | dict(zip(names, self.numbers.tolist(), strict=True))
        checked = [(one, column) for one in learners for column in CHECKED]
        for learner, column in checked:
            if learner.prefix + column in names:
                value = row[learner.prefix + column]
                require_finite(CHECKED[column], value, self.step, learner.name)
        rounded = set(names) - {learner.prefix + column for learner, column in checked}
        return {name: round(x, DIGITS) if name in rounded else x for name, x in row.items()}


@dataclass
class StepLog:
    """The rows of the steps of some learners; `late`: each is read when the next step is
    launched."""

    learners: Sequence[Named]
    late: bool
    _launched: list[LaunchedStep] = field(default_factory=list)
    _read_at: float = 0.0

    def add(self, step: int, began: float, columns: Row) -> None:
        """Take in a step that is computed, or launched; `began` is when, by perf_counter."""
        self._launched.append(LaunchedStep.of(step, began, columns))

    def wait(self) -> None:
        """Wait for the steps before the newest one: the device is at most a step behind."""
        for launched in self._launched[:-1]:
            launched.wait()

    def due(self, *, everything: bool) -> Iterator[Row]:
        """Yield the rows that are due: late, all but the newest one, or `everything`. CinelabError
        with its step where a loss or a gradient is not finite."""
        while len(self._launched) > (1 if self.late and not everything else 0):
            yield self._row(self._launched.pop(0))

    def _row(self, launched: LaunchedStep) -> Row:
        row = launched.read(self.learners)
        # late, a step was launched before the last one was read
        since = max(launched.began, self._read_at)
        self._read_at = time.perf_counter()
        seconds = round(self._read_at - since, 4)
        return {"step": launched.step, **row, "seconds": seconds}
