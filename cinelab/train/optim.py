"""What every stage shares: AdamW and its learning rate, gradient clipping, the exponential moving
average."""

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cinelab.errors import CinelabError
from cinelab.train.muon import MuonAdamW, hidden_matrices

METHODS = ("adamw", "muon")


@dataclass(frozen=True)
class Optim:
    """AdamW with linear warm-up, cosine decay to `floor`, gradient clipping and an averaged copy.

    With `method="muon"` the matrices of the blocks are stepped by Muon (`cinelab.train.muon`).

    The averaged copy is what is exported, and the target of consistency distillation. `ema` is its
    decay a step (0 = the last weights). With `ema_warm` the decay of update n is at most (1 + n) /
    (10 + n), so that a short training does not end on its first weights. Before step `ema_from` of
    the training nothing is averaged: the copy is the last weights.
    """

    lr: float = 1e-3
    floor: float = 0.05  # final rate as a share of lr
    warmup: int = 100
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.999
    ema_warm: bool = True
    ema_from: int = 0
    method: str = "adamw"

    def __post_init__(self) -> None:
        if not 0 <= self.ema < 1:
            raise CinelabError(
                f"ema is {self.ema}; give a decay of at least 0 and below 1 (0 = the last weights)."
            )
        if self.method not in METHODS:
            raise CinelabError(f"optim.method is {self.method!r}; use one of {', '.join(METHODS)}.")
        if self.ema_from < 0:
            raise CinelabError(
                f"ema_from is {self.ema_from}; give the step that averaging starts at, at least 0."
            )


def optimizer_of(model: nn.Module, config: Optim) -> Any:
    """Return the optimizer of what is trainable in a network."""
    if config.method == "adamw":
        return adamw(model, config)
    matrices = hidden_matrices(model)
    return MuonAdamW(list(matrices.values()), adamw(model, config, without=matrices), config.lr)


def adamw(model: nn.Module, config: Optim, *, without: Collection[str] = ()) -> torch.optim.AdamW:
    """Return AdamW of what is trainable, but the weights of some names, with weight decay on
    matrices only."""
    params = [p for name, p in model.named_parameters() if p.requires_grad and name not in without]
    groups = [
        {"params": [p for p in params if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0},
    ]
    # one kernel for all weights, where all are on a GPU
    fused = True if params and all(p.is_cuda for p in params) else None
    return OwnKernelAdamW(groups, lr=config.lr, betas=config.betas, fused=fused)


class OwnKernelAdamW(torch.optim.AdamW):
    """AdamW whose kernel is that of the device it is on, not of the one where its state was
    saved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, of the same groups of weights."""
        mine = [{"fused": group["fused"]} for group in self.param_groups]
        groups = [saved | own for saved, own in zip(state_dict["param_groups"], mine, strict=True)]
        super().load_state_dict(state_dict | {"param_groups": groups})


def rate(config: Optim, step: int, steps: int) -> float:
    """Return the learning rate of `step` out of `steps`: linear warm-up, then a half cosine."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, steps - config.warmup)
    cosine = 1 + math.cos(math.pi * min(1.0, progress))  # from 2 to 0
    return config.lr * (config.floor + (1 - config.floor) * 0.5 * cosine)


def require_finite(what: str, value: float, step: int, name: str = "") -> None:
    """Raise CinelabError with the step where the loss or the gradient of a learner called `name`
    is not finite."""
    if not math.isfinite(value):
        whose = f"The {name}'s" if name else "The"
        raise CinelabError(
            f"{whose} {what} is {value} at step {step}; lower {name or 'optim'}.lr and resume from "
            "the last save."
        )


def clip_gradients(optimizer: Any, clip: float) -> Tensor:
    """Scale the gradients of all weights together to a norm of at most `clip`, and return the norm
    before, a tensor of one number that nothing has waited for."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    return whole(torch.nn.utils.clip_grad_norm_(weights, clip))


def set_learning_rate(optimizer: Any, lr: float) -> None:
    """Set the learning rate of every group of weights; a group may have some `times` that of the
    others."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("times", 1.0)


# A weight may be one process's shard of a tensor that several hold. Such a tensor brings its own
# methods (torch's DTensor does), so that nothing of how it was sharded need be known here.


def whole(x: Tensor) -> Tensor:
    """Return a tensor whose shards lie in several processes, gathered; any other as it is."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def local(x: Tensor) -> Tensor:
    """Return this process's shard of such a tensor; any other as it is."""
    return x.to_local() if hasattr(x, "to_local") else x


class Ema:
    """An exponential moving average of a model's weights, frozen ones apart, and buffers.

    a <- d a + (1 - d) w after every step; `Optim` says what the settings mean.
    """

    def __init__(self, model: nn.Module, decay: float, *, warm: bool = True, start: int = 0):
        self.decay = decay
        self.warm = warm
        self.start = start
        self.count = 0
        frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
        self.values = {
            name: value.detach().clone()
            for name, value in model.state_dict().items()
            if name not in frozen
        }

    @torch.no_grad()
    def update(self, model: nn.Module, step: int | None = None) -> None:
        """Take in the model's weights after `step` of the training; None stands for a step at which
        averaging has begun."""
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count)) if self.warm else self.decay
        decay = 0.0 if step is not None and step < self.start else decay
        floats = [
            (local(a), local(b).detach()) for a, b in self.pairs(model) if a.is_floating_point()
        ]
        torch._foreach_lerp_([a for a, _ in floats], [b for _, b in floats], 1 - decay)

    def pairs(self, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
        """Return the averaged value and the model's own, for all that is averaged."""
        state = model.state_dict()
        return [(value, state[name]) for name, value in self.values.items()]

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Give `model` the averaged weights, inside. For passes without gradient: weights and
        averages are swapped in place, one at a time, so that no copy of all of them is made."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        for average, weight in self.pairs(model):
            trained = local(weight).clone()
            local(weight).copy_(local(average))
            local(average).copy_(trained)
        torch.clear_autocast_cache()  # which may hold the other weights' casts
        if callable(reshard := getattr(model, "reshard", None)):
            reshard()  # nor must sharded weights stay gathered, for these are the other ones

    def state_dict(self) -> dict:
        return {"values": self.values, "count": self.count}

    def load_state_dict(self, state: dict) -> None:
        self.values = state["values"]
        self.count = state["count"]
