"""What every stage shares: learning rate, one guarded descent, exponential moving average."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cinelab.errors import CinelabError


@dataclass(frozen=True)
class Optim:
    """AdamW with linear warm-up, cosine decay to `floor`, gradient clipping and an averaged copy."""

    lr: float = 1e-3
    floor: float = 0.05  # final rate as a share of lr
    warmup: int = 100
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.999


def adamw(model: nn.Module, config: Optim) -> torch.optim.AdamW:
    """Weight decay on matrices only."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)


def rate(config: Optim, step: int, steps: int) -> float:
    """Learning rate of `step` out of `steps`."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, steps - config.warmup)
    return config.lr * (config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def descend(optimiser: torch.optim.Optimizer, loss: Tensor, config: Optim, step: int, steps: int, name: str = "") -> float:
    """One step down; returns the gradient norm. A non-finite loss or gradient stops the run with the step."""
    whose, remedy = f"The {name}'s" if name else "The", f"lower {name or 'optim'}.lr and resume from the last save."
    if not torch.isfinite(loss):
        raise CinelabError(f"{whose} loss is {loss.item()} at step {step}; {remedy}")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    params = [p for group in optimiser.param_groups for p in group["params"]]
    norm = float(torch.nn.utils.clip_grad_norm_(params, config.clip))
    if not math.isfinite(norm):
        raise CinelabError(f"{whose} gradient is {norm} at step {step}; {remedy}")
    for group in optimiser.param_groups:
        group["lr"] = rate(config, step, steps)
    optimiser.step()
    return norm


class Ema:
    """An exponential moving average of a model's parameters and buffers, warmed up so that early steps count."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay, self.count = decay, 0
        self.values = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        floats = [(self.values[k], v) for k, v in model.state_dict().items() if v.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in floats], [b.detach() for _, b in floats], 1 - decay)

    def state_dict(self) -> dict:
        return {"values": self.values, "count": self.count}

    def load_state_dict(self, state: dict) -> None:
        self.values, self.count = state["values"], state["count"]
