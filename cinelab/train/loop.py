"""The one training loop: a stage gives it its learners and gets a logged run back that resumes.

A stage has one learner (a network and the loss it descends) or, where two networks train each
other as in DMD, several that take turns. `optimization_step` is one step in time order: forward and
backward of every micro-batch, clip, set the rate, step, EMA.

The loop knows nothing of how a step is shared out: that is a `Processes`, this process alone
(`OneProcess`) or one among many (`cinelab.scale.parallel.Parallel`).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cinelab.errors import CinelabError
from cinelab.limits import short
from cinelab.runs import Run
from cinelab.seeds import rng_at
from cinelab.train.computing import generator_kind
from cinelab.train.moved import MovedWeights
from cinelab.train.optim import (
    Ema,
    Optim,
    adamw,
    clip_gradients,
    optimizer_of,
    rate,
    require_finite,
    set_learning_rate,
)
from cinelab.train.step_log import StepLog, read_columns
from cinelab.train.time_limit import SAVE, STEP, VALIDATION, TimeLimit

Columns = dict[str, Any]  # of one row of the log
# (model, step, number of the micro-batch, rng) -> the scalar to descend, further columns
Loss = Callable[[Any, int, int, torch.Generator], tuple[Tensor, Columns]]
# the averaged network -> columns for the log; "score" decides which is the best
Validator = Callable[[nn.Module], Columns]


class Processes(Protocol):
    """How a step of the training is shared out among processes.

    A step's batch is made of micro-batches, each drawn by its own number, so that a step is the
    same in any number of processes, and a smaller machine does more of them one after another.
    """

    @property
    def world(self) -> int:
        """How many processes there are."""

    @property
    def micro_batches(self) -> Sequence[int]:
        """The numbers of a step's micro-batches that this process does."""

    def before_backward(self, model: nn.Module, *, last: bool) -> None:
        """Prepare `model` for a micro-batch, `last` if it is this process's last of the step."""

    def mean_of_columns(self, columns: Sequence[Columns]) -> Columns:
        """Return the columns of all micro-batches, in all processes, as one row."""

    def stop_requested(self) -> bool:
        """Whether the training is to save and end; the same answer in all processes."""

    def any(self, flag: bool, /) -> bool:
        """Whether the flag is set in any process; the same answer in all."""


class OneProcess:
    """This process alone, with one micro-batch a step."""

    world = 1
    micro_batches = (0,)

    def before_backward(self, model: nn.Module, *, last: bool) -> None:
        """Prepare nothing."""

    def mean_of_columns(self, columns: Sequence[Columns]) -> Columns:
        """Return the columns of the one micro-batch."""
        return dict(columns[0])

    def stop_requested(self) -> bool:
        """Return False: one process is stopped by an interrupt only."""
        return False

    def any(self, flag: bool, /) -> bool:
        """Return the one process's flag."""
        return flag


class Learner:
    """A network under training, the loss it descends every `every` steps, its optimizer and its
    averaged copy.

    `loss(model, step, micro_batch, rng)` returns the scalar to descend and further columns for the
    log. All micro-batches of a step get a generator in the same state: what they must draw alike
    they draw from it, and what is their own from `fork_rng(rng, micro_batch)`. Learners but the
    first have a name, which their columns and their parts of a checkpoint begin with. `heads` are
    further modules that learn by the same loss and optimizer, by name, at `head_rate` times the
    rate; they are not averaged.
    """

    address: tuple[str, ...] = ("step",)  # of the random numbers of a step
    optimizer_part = "optimiser"  # its name in a checkpoint, from before the first release

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        optim: Optim,
        *,
        name: str = "",
        every: int = 1,
        averaged: bool = True,
        heads: Mapping[str, nn.Module] | None = None,
        head_rate: float = 1.0,
    ):
        self.model = model
        self.heads = dict(heads or {})
        self.loss = loss
        self.optim = optim
        self.every = every
        self.name = name
        self.prefix = name and f"{name}_"
        self.moved = MovedWeights(model)
        self.optimizer = optimizer_of(model, optim)
        for head in self.heads.values():
            for group in adamw(head, optim).param_groups:
                self.optimizer.add_param_group(group | {"times": head_rate})
        self.ema = (
            Ema(model, optim.ema, warm=optim.ema_warm, start=optim.ema_from) if averaged else None
        )

    @property
    def parts(self) -> dict[str, Any]:
        """The parts of a checkpoint, by name: whatever a step changes."""
        parts: dict[str, Any] = {"model": self.model, self.optimizer_part: self.optimizer}
        if self.ema:
            parts["ema"] = self.ema
        parts |= self.heads
        return {self.prefix + name: part for name, part in parts.items()}

    @property
    def average(self) -> Ema:
        """The averaged copy of the weights. CinelabError where the learner has none."""
        if self.ema is None:
            raise CinelabError(
                f"The learner {self.name!r} has no averaged copy; make it with averaged=True."
            )
        return self.ema

    def rng(
        self, seed: int, step: int, kind: type[torch.Generator] = torch.Generator
    ) -> torch.Generator:
        """Return the generator of a step, addressed by seed, learner and step: a resumed run draws
        the numbers of one that was never interrupted."""
        address = (*self.address, self.name) if self.name else self.address
        return rng_at(seed, *address, step, kind=kind)


def train(
    learners: Sequence[Learner], config: Any, run: Run, validator: Validator | None = None
) -> Iterator[Columns]:
    """Yield one log row per step. Calling it again on the same run resumes it, under the same
    conditions (see `cinelab.runs`) bit for bit.

    `config` has steps, seed, save_every and bf16, and validate_every where there is a `validator`:
    the first learner's averaged weights are validated before the first step, then every
    `validate_every` steps and after the last. The best ones by "score" are in checkpoints/best.pt;
    the state after the last save is in checkpoints/last.pt. The last step is the one at which
    `run.time_limit` is up, if there is one: the run then ends as one of fewer steps, and goes on
    when it is called again.
    """
    try:
        yield from _steps(learners, config, run, validator)
    finally:
        run.leave()  # the writer's lock, also when the caller stops early


def _steps(
    learners: Sequence[Learner], config: Any, run: Run, validator: Validator | None
) -> Iterator[Columns]:
    processes: Processes = run.parallel or OneProcess()
    limit: TimeLimit = run.time_limit or TimeLimit(None)
    parts = {name: part for learner in learners for name, part in learner.parts.items()}
    run.restore(**parts)
    how = Launching.of(config, run, learners[0].model, processes)
    log = StepLog(learners, how.late)
    for step in range(run.step, config.steps):
        began = time.perf_counter()
        columns: Columns = {}
        # Validated before the step, so that a run's first row measures what it starts from.
        if validator and step % config.validate_every == 0:
            with limit.timing(VALIDATION):
                columns |= _validate(validator, learners[0], run, step)
                columns |= moved_columns(learners, step, processes)
        with limit.timing(STEP):
            # In the order given: DMD's student moves before its critic.
            for learner in learners:
                if step % learner.every == 0:
                    with memory_for(step, run):
                        columns |= optimization_step(learner, step, config, how)
            log.add(step, began, columns)
            log.wait()
        last = step + 1 == config.steps or processes.any(limit.is_up())
        stop = processes.stop_requested()
        saved = (step + 1) % config.save_every == 0 or last or stop
        # What is saved or validated is known to be finite.
        known = saved or bool(validator and (step + 1) % config.validate_every == 0)
        rows = []
        for row in log.due(everything=known):
            if validator and last and row["step"] == step:
                row |= _validate(validator, learners[0], run, step + 1)
                row |= moved_columns(learners, step + 1, processes)
            rows.append(run.log(**row))
        if saved:
            with limit.timing(SAVE):
                run.save(step + 1, **parts)
            moved_columns(learners, step + 1, processes)  # for its warning
        yield from rows
        if last:
            break
        if stop:
            return
    run.finish()


@dataclass(frozen=True)
class Launching:
    """How a training's steps are computed on its device."""

    processes: Processes
    kind: type[torch.Generator] = torch.Generator  # what random numbers are drawn by
    # numbers of a step are left on the device, for a log that reads them later
    late: bool = False

    @classmethod
    def of(cls, config: Any, run: Run, model: nn.Module, processes: Processes) -> "Launching":
        """Return how a run's steps are computed on the device that a network is on."""
        device = device_kind(model)
        kind = generator_kind(config, run, device)
        # many processes average a step's numbers on the host, so that they wait for them anyway
        return cls(processes, kind, device == "cuda" and processes.world == 1)


@contextmanager
def memory_for(step: int, run: Run) -> Iterator[None]:
    """Turn a GPU's lack of memory, inside, into a CinelabError that says how a step needs less."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        saved = f"goes on from step {run.step}" if run.step else "has saved nothing yet"
        raise CinelabError(
            f"Step {step} needs more memory than the GPU has ({short(str(error), 120)}); set "
            f"layout.activation_checkpointing to true and start again, which {saved}, or begin "
            "another run with half the clips a batch and twice layout.micro_batches."
        ) from error


def device_kind(model: nn.Module) -> str:
    """Return the kind of device that a network is on, such as cuda."""
    return next(model.parameters()).device.type


def optimization_step(learner: Learner, step: int, config: Any, how: Launching) -> Columns:
    """Take one step of a learner and return its columns of the log. A loss or gradient that is not
    finite is a CinelabError with the step, unless the columns are read later."""
    model = learner.model
    numbers = how.processes.micro_batches
    learner.optimizer.zero_grad(set_to_none=True)
    columns = []
    for number in numbers:  # gradient accumulation
        how.processes.before_backward(model, last=number == numbers[-1])
        # alike for every micro-batch; the loss forks it
        rng = learner.rng(config.seed, step, how.kind)
        # Sharded weights are gathered anew for every pass, so their casts must not be cached.
        with torch.autocast(
            device_kind(model),
            torch.bfloat16,
            enabled=config.bf16,
            cache_enabled=how.processes.world == 1,
        ):
            loss, further = learner.loss(model, step, number, rng)
        # Divided before the backward pass: the accumulated gradient is the mean over micro-batches.
        (loss / len(numbers)).backward()
        # The norm's place in the row stands before the loss's own columns.
        if how.late:
            columns.append({"loss": loss.detach(), "grad_norm": 0.0, **further})
        else:
            columns.append({"loss": loss.item(), "grad_norm": 0.0, **read_columns(further)})
    row = how.processes.mean_of_columns(columns)
    # Checked and clipped before the weights change, so that the last save is still sound.
    if not how.late:
        require_finite("loss", row["loss"], step, learner.name)
    norm = clip_gradients(learner.optimizer, learner.optim.clip)
    row["grad_norm"] = norm if how.late else float(norm)
    if not how.late:
        require_finite("gradient", row["grad_norm"], step, learner.name)
    # The rate is a function of the step alone, so it needs no state to resume from.
    set_learning_rate(learner.optimizer, rate(learner.optim, step, config.steps))
    learner.optimizer.step()
    if learner.ema:
        learner.ema.update(model, step)
    return {learner.prefix + key: value for key, value in row.items()}


def _validate(validator: Validator, learner: Learner, run: Run, step: int) -> Columns:
    """Return the validation metrics of the averaged weights, which are saved where none before
    scored better."""
    metrics = validator(averaged(learner))
    best = max((row["score"] for row in run.rows if "score" in row), default=float("-inf"))
    if "score" in metrics and metrics["score"] > best:
        run.save_best(step, metrics["score"], ema=learner.ema)
    return metrics


def moved_columns(learners: Sequence[Learner], step: int, processes: Processes) -> Columns:
    """Return the share of each learner's weights that differ from the run's beginning, after `step`
    steps; and warn where they stand still (see `cinelab.train.moved`)."""
    columns = {}
    for learner in learners:
        moved, sampled = learner.moved.counts()
        # a process may hold a part of the weights
        sums = processes.mean_of_columns([{"moved": float(moved), "of": float(sampled)}])
        share = sums["moved"] / max(sums["of"], 1e-9)
        updates = -(-step // learner.every)
        learner.moved.warn_where_still(share, learner.name or "network", learner.optim, updates)
        columns[f"{learner.prefix}moved"] = round(share, 4)
    return columns


def averaged(learner: Learner) -> nn.Module:
    """Return a copy of the learner's network with its averaged weights."""
    model = deepcopy(learner.model).eval().requires_grad_(False)
    model.load_state_dict(learner.average.values, strict=False)  # frozen weights are not averaged
    return model
