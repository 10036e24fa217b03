"""Losses by name: how far a prediction is from what it should be.

    @register.loss("huber")
    def huber(pred, target, t):
        return torch.nn.functional.huber_loss(pred, target, reduction="none")

Both are (B, F, C, H, W), `t` (B, F) is each frame's level; a loss that does not need it leaves it
out. The answer is one number, or a tensor that begins with (B, F) and is averaged by the stage.

    bidirectional, teacher_forcing   velocities
    ode, consistency                 clean clips
    dmd                              the student's clip and where the gradient sends it (t = 0); the
                                     critic's loss stays `mse`

A stage's settings hold the name (`loss`), so a run's config.json states which loss it descended.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch.nn.functional as fn
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.registry import Registry, resolve

LOSSES = Registry("loss")


@LOSSES.add("mse")
def mse(pred: Tensor, target: Tensor) -> Tensor:
    """Return the squared error of every number, of pred's shape."""
    return fn.mse_loss(pred, target, reduction="none")


def loss_name(loss: str | Callable) -> str:
    """Return the name by which settings hold a loss: a name or import path as it is, a function's
    registered name or path."""
    if isinstance(loss, str):
        LOSSES.get(loss)
        return loss
    name = LOSSES.name_of(loss)
    if ":" in name and _at(name) is not loss:
        raise CinelabError(
            f"The loss {name.partition(':')[2]!r} has no name that a run's settings could hold; "
            "register it: register.loss('my_loss')(...)."
        )
    return name


def _at(path: str) -> Any:
    try:
        return resolve(path)
    except CinelabError:
        return None


def with_loss(changes: dict | None, loss: str | Callable | None) -> dict:
    """Return a stage's changes with the loss that was given beside them."""
    return (changes or {}) | ({} if loss is None else {"loss": loss_name(loss)})


def error(
    name: str, pred: Tensor, target: Tensor, t: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """Return the loss of that name as one number; pred and target (B, F, C, H, W), t (B, F), None =
    0.

    `weight` (B, F) weighs the frames, by their levels.
    """
    loss = LOSSES.get(name)
    t = pred.new_zeros(pred.shape[:2]) if t is None else t
    takes = [one for one in inspect.signature(loss).parameters.values() if one.default is one.empty]
    found = loss(pred, target, t) if len(takes) > 2 else loss(pred, target)
    if not isinstance(found, Tensor) or (found.ndim and found.shape[:2] != pred.shape[:2]):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise CinelabError(
            f"The loss {name!r} gives {shape} for predictions {tuple(pred.shape)}; return one "
            "number, or a tensor that begins with films and frames."
        )
    if weight is None:
        return found.mean()
    if found.ndim < 2:
        raise CinelabError(
            f"The loss {name!r} gives one number, and the stage weighs frames by their levels; "
            "return a tensor that begins with films and frames."
        )
    return (found.flatten(2).mean(2) * weight).mean() if found.ndim > 2 else (found * weight).mean()
