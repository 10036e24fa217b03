"""The one training loop: every stage gives it its learners and gets a resumable, logged run back.

A stage has one learner (a network and the loss it descends) or, in a game like DMD, several that
take turns.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from cinelab.runs import Run
from cinelab.scale.parallel import HERE, Parallel
from cinelab.seeds import rng_at
from cinelab.train.optim import Ema, Optim, adamw, optimizer_step

Loss = Callable[[nn.Module, int, int, torch.Generator], tuple[Tensor, dict]]
# the averaged network -> columns for the log; "score" decides which is the best
Validator = Callable[[nn.Module], dict]


class Learner:
    """A network under training, the loss it descends every `every` steps, its optimiser and its
    averaged copy.

    `loss(model, step, part, rng)` returns the scalar to descend and extra columns for the log. A
    step may have several parts (see `train.parallel`): they share `rng`'s first lots, and what is
    their own they draw from `fork_rng(rng, part)`. Learners but the first have a name, which their
    columns and their parts of a checkpoint begin with.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        optim: Optim,
        name: str = "",
        every: int = 1,
        averaged: bool = True,
    ):
        self.model = model
        self.loss = loss
        self.optim = optim
        self.every = every
        self.name = name
        self.prefix = name and f"{name}_"
        self.optimizer = adamw(model, optim)
        self.ema = Ema(model, optim.ema, optim.ema_warm, optim.ema_from) if averaged else None

    @property
    def parts(self) -> dict:
        """What a checkpoint keeps."""
        parts = {"model": self.model, "optimiser": self.optimizer} | (
            {"ema": self.ema} if self.ema else {}
        )
        return {self.prefix + name: part for name, part in parts.items()}

    def learn(self, step: int, config: Any, parallel: Parallel = HERE) -> dict:
        """One descent; returns its columns."""
        self.optimizer.zero_grad(set_to_none=True)
        columns = parallel.averaged(
            [self._part(step, part, config, parallel) for part in parallel.mine]
        )
        columns["grad_norm"] = optimizer_step(
            self.optimizer, columns["loss"], self.optim, step, config.steps, self.name
        )
        if self.ema:
            self.ema.update(self.model, step)
        return {self.prefix + key: value for key, value in columns.items()}

    def _part(self, step: int, part: int, config: Any, parallel: Parallel) -> dict:
        """Forward and backward pass of one part; returns its loss and extra columns."""
        device = next(self.model.parameters()).device.type
        place = ("step", self.name, step) if self.name else ("step", step)
        rng = rng_at(config.seed, *place)
        half = torch.autocast(
            device, torch.bfloat16, enabled=config.bf16, cache_enabled=parallel.world == 1
        )
        parallel.announce(self.model, last=part == parallel.mine[-1])
        with half:
            error, extra = self.loss(self.model, step, part, rng)
        (error / len(parallel.mine)).backward()
        return {"loss": error.item(), "grad_norm": 0.0, **extra}


def train(
    learners: Sequence[Learner], config: Any, run: Run, validator: Validator | None = None
) -> Iterator[dict]:
    """Yield one log row per step. Calling it again on the same run resumes it, under the same
    conditions (see `cinelab.runs`) bit for bit.

    `config` has steps, seed, save_every and bf16, and exam_every where there is an `validator`: the
    first learner's averaged weights sit it before the first step, then every `validate_every` steps and
    after the last. The best ones by "score" are in checkpoints/best.pt; the state after the last
    save is in checkpoints/last.pt.
    """
    try:
        yield from _train(learners, config, run, validator)
    finally:
        run.leave()


def _train(
    learners: Sequence[Learner], config: Any, run: Run, validator: Validator | None
) -> Iterator[dict]:
    parts = {name: part for learner in learners for name, part in learner.parts.items()}
    parallel = run.parallel or HERE
    run.restore(**parts)
    first = learners[0]
    for step in range(run.step, config.steps):
        began = time.perf_counter()
        row = {}
        if validator and step % config.validate_every == 0:
            row |= _validate(validator, first, run, step)
        for learner in learners:
            if step % learner.every == 0:
                row |= learner.learn(step, config, parallel)
        last = step + 1 == config.steps
        if validator and last:
            row |= _validate(validator, first, run, step + 1)
        row = run.log(step=step, **row, seconds=round(time.perf_counter() - began, 4))
        stop = parallel.asked_to_stop()
        if (step + 1) % config.save_every == 0 or last or stop:
            run.save(step + 1, **parts)
        yield row
        if stop and not last:
            return
    run.finish()


def _validate(validator: Validator, learner: Learner, run: Run, step: int) -> dict:
    """The exam's columns; the weights are kept where none before were better."""
    metrics = validator(averaged(learner))
    if "score" in metrics and metrics["score"] > max(
        (row["score"] for row in run.rows if "score" in row), default=float("-inf")
    ):
        run.save_best(step, metrics["score"], ema=learner.ema)
    return metrics


def averaged(learner: Learner) -> nn.Module:
    """A copy of the learner's network with its averaged weights."""
    model = deepcopy(learner.model).eval().requires_grad_(False)
    model.load_state_dict(learner.ema.values, strict=False)  # frozen weights are not averaged
    return model
