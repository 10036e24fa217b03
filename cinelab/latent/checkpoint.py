"""Weights into modules: read a file, compare it with what the module expects, fill the module, all
of it or nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cinelab.errors import CinelabError
from cinelab.texts import check_regular

Module = TypeVar("Module", bound=nn.Module)


class Overflow(CinelabError):
    """Numbers that are not finite, or that a precision cannot hold."""


def all_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity; reads it once and makes no copy of it."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # eight bits have no order in torch
    wide = tensor.detach() if tensor.dtype.itemsize > 1 else tensor.detach().float()
    return all(edge.isfinite().item() for edge in torch.aminmax(wide))  # NaN is both


def check_finite(module: Module, where: str | Path, remedy: str) -> Module:
    """Return `module`, which a library has filled. Raise Overflow with the first of its tensors
    that holds a number that is not finite."""
    if odd := next(
        (name for name, value in module.state_dict().items() if not all_finite(value)), None
    ):
        raise Overflow(
            f"Weights {where}: {odd} holds a number that is not finite (NaN or infinity); {remedy}."
        )
    return module


def as_dtype(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Return `tensor` in `dtype` (itself where it has that already). Raise Overflow, naming it by
    `name`, where a number of it is not finite or is too large for `dtype`."""
    made = tensor.to(dtype) if tensor.is_floating_point() else tensor
    if all_finite(made):
        return made
    if not all_finite(tensor):
        raise Overflow(
            f"{name} holds a number that is not finite (NaN or infinity); take weights from before "
            "the training that made them diverged."
        )
    raise Overflow(
        f"{name} holds {tensor.detach().abs().max().item():.6g}, and the largest "
        f"{str(made.dtype).removeprefix('torch.')} is {torch.finfo(made.dtype).max:.6g}; choose "
        "bf16 or fp32."
    )


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file. Raise CinelabError where it is broken."""
    check_regular(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CinelabError(
            f"Weights {path} are cut short or broken ({error}); copy the file again."
        ) from error


def fill(
    module: Module,
    state: dict[str, Tensor],
    where: Path,
    remedy: str = "use the config.json that was saved with them.",
    *,
    assign: bool = False,
) -> Module:
    """Load `state` into `module`, all of it and nothing else, with shapes compared first. `assign`
    is for a module on the meta device: its parameters become the tensors of `state`."""
    wanted = module.state_dict()
    if not state:
        raise CinelabError(
            f"Weights {where} hold no tensor, and {len(wanted)} are expected; copy the file again."
        )
    missing = wanted.keys() - state.keys()
    extra = state.keys() - wanted.keys()
    wrong = [k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape]
    if missing or extra or wrong:
        example = sorted(wrong or missing or extra)[0]
        found = tuple(state[example].shape) if example in state else "absent"
        expected = tuple(wanted[example].shape) if example in wanted else "absent"
        raise CinelabError(
            f"Weights {where} do not fit their config: {len(missing)} keys missing, {len(extra)} "
            f"unknown, {len(wrong)} of another shape (first: {example}, found {found}, expected "
            f"{expected}); {remedy}"
        )
    module.load_state_dict(
        {k: _as_wanted(k, v, wanted[k], where) for k, v in state.items()}, assign=assign
    )
    return module.eval().requires_grad_(False)


def _as_wanted(key: str, found: Tensor, wanted: Tensor, where: Path) -> Tensor:
    """A tensor in the dtype of the module's; refused where its numbers are of another kind
    (quantised) or not finite."""
    if wanted.is_floating_point() and (not found.is_floating_point() or found.dtype.itemsize < 2):
        kind = str(found.dtype).removeprefix("torch.")
        raise CinelabError(
            f"Weights {where} do not fit: {key} is {kind}, expected float32, float16 or bfloat16; "
            "take the weights before they were quantised."
        )
    return (
        as_dtype(found, wanted.dtype, f"Weights {where}: {key}")
        if wanted.is_floating_point()
        else found.to(wanted.dtype)
    )


def on_meta(make: Callable[[], Module], dtype: torch.dtype) -> Module:
    """Return a module on the meta device, to be filled with `assign`."""
    with torch.device("meta"):
        return nn.Module.to(make(), dtype)  # diffusers' own `to` warns of casts that are meant
