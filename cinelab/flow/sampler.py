"""Sampling: the levels, the solver and the guidance with which a chunk is made from noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, cast

import torch
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.flow.path import shifted
from cinelab.flow.solvers import SOLVERS, check_solver
from cinelab.limits import STEPS, check_levels, check_number, is_number, short

__all__ = ["SOLVERS", "Sampling", "Steps", "check_solver"]


@dataclass(frozen=True)
class Sampling:
    """How a chunk is made from noise.

    A many-step model integrates its flow (`euler`, or Adams-Bashforth of second order: `ab2`). A
    few-step student predicts the clean chunk and renoises it to the next level (`consistency`).

    What is None is the model's own: `Sampling(at=(1.0, 0.6, 0.3))` changes the levels of a student
    and leaves its solver, its shift and its guidance as they are. Without a model (in training, or
    at the sampler itself) None is 8 steps of ab2 with shift 2 and guidance 2; a consistency
    student's guidance is 1, since it is distilled in. `filled` is the one place where that is
    decided.
    """

    steps: int | None = None  # with `at`: as many as it has
    solver: str | None = None  # a registered name or an import path (see SOLVERS)
    guidance: float | None = None  # 1 = off
    shift: float | None = None  # of the timesteps
    # the levels themselves, before the shift; () = `steps` of them, evenly from 1 down
    at: tuple[float, ...] = ()
    # steps of the film's first chunk, where there is no history to lean on; None = the same
    first_steps: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", tuple(self.at))
        for name, steps in (("steps", self.steps), ("first_steps", self.first_steps)):
            if steps is not None:
                check_number(f"sampling.{name}", steps, 1, STEPS)
        if self.solver is not None:
            check_solver(self.solver)
        for name, value in (("guidance", self.guidance), ("shift", self.shift)):
            if value is not None and not is_number(value):
                raise CinelabError(f"sampling.{name} is {short(value)}; give a number.")
        if (self.shift is not None and not 0 < self.shift < inf) or (
            self.guidance is not None and not 0 <= self.guidance < inf
        ):
            raise CinelabError(
                f"sampling.shift is {self.shift} and guidance {self.guidance}; "
                "the shift must be above 0 and the guidance at least 0."
            )
        if self.at:
            check_levels(self.at, "sampling.at")
            if len(self.at) != (self.steps or len(self.at)):
                raise CinelabError(
                    f"sampling.at has {len(self.at)} levels, but sampling.steps is {self.steps}; "
                    "make them agree."
                )
            object.__setattr__(self, "steps", len(self.at))

    @property
    def whole(self) -> bool:
        """Whether nothing is left to a model."""
        return None not in (self.steps, self.solver, self.guidance, self.shift)

    def filled(self, own: "Sampling | None" = None) -> "Sampling":
        """Return the settings with what is None taken from `own`, those of the model that is
        sampled."""
        if self.whole:
            return self
        if own is None:
            solver = self.solver or "ab2"
            own = Sampling(8, solver, 1.0 if solver == "consistency" else 2.0, 2.0)
        own = own.filled()
        made = self
        if self.steps is None:
            first = self.first_steps or own.first_steps
            made = replace(made, steps=own.steps, at=own.at, first_steps=first)
        return replace(
            made,
            solver=own.solver if self.solver is None else self.solver,
            guidance=own.guidance if self.guidance is None else self.guidance,
            shift=own.shift if self.shift is None else self.shift,
        )

    def altered(self, changes: Mapping[str, Any]) -> "Sampling":
        """Return the settings with some fields changed. Another number of steps has levels of its
        own, evenly spaced; other levels are as many as they are."""
        if "at" in changes and "steps" not in changes:
            changes = {**changes, "steps": None if changes["at"] else self.steps}
        elif "steps" in changes and "at" not in changes:
            changes = {**changes, "at": ()}
        return replace(self, **changes)

    def levels(self, *, first: bool = False) -> Tensor:
        """Return the timesteps (steps + 1,) that the solver visits, shifted, from noise down to 0.

        `first` = those of the film's first chunk.
        """
        whole = self.filled()
        shift = cast(float, whole.shift)  # filled: nothing is None
        own = whole.first_steps if first else None
        if not own and whole.at:
            return shifted(torch.tensor([*whole.at, 0.0], dtype=torch.float64), shift)
        steps = own or cast(int, whole.steps)
        return shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift)

    def with_steps(self, steps: int) -> "Sampling":
        """Return the settings with another number of evenly spaced steps."""
        return replace(self, steps=steps, at=())


# what `steps` may be wherever a model is sampled
Steps = int | Sequence[float] | Sampling | Mapping | None
