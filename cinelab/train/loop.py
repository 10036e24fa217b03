"""The one training loop: every stage gives it a loss and gets a resumable, logged run back."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cinelab.runs import Run
from cinelab.seeds import rng_at
from cinelab.train.optim import Ema, adamw, descend

Loss = Callable[[nn.Module, int, torch.Generator], tuple[Tensor, dict]]


def train(model: nn.Module, loss: Loss, config: Any, run: Run) -> Iterator[dict]:
    """Yield one log row per step. Calling it again on the same run resumes it, bit for bit.

    `loss(model, step, rng)` returns the scalar to descend and extra columns for the log. `config` has optim,
    steps, seed, save_every and bf16. The averaged weights are in `run`'s last checkpoint under "ema".
    """
    ema, optimiser = Ema(model, config.optim.ema), adamw(model, config.optim)
    run.restore(model=model, ema=ema, optimiser=optimiser)
    device = next(model.parameters()).device.type
    for step in range(run.step, config.steps):
        began = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=config.bf16):
            error, extra = loss(model, step, rng_at(config.seed, "step", step))
        norm = descend(optimiser, error, config.optim, step, config.steps)
        ema.update(model)
        row = run.log(step=step, loss=error.item(), grad_norm=norm, seconds=round(time.perf_counter() - began, 4), **extra)
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            run.save(step + 1, model=model, ema=ema, optimiser=optimiser)
        yield row
    run.finish()
