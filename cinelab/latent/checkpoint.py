"""Weights into modules: read a file, compare it with what the module wants, fill the module; all of it or a sentence."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cinelab.errors import CinelabError


def read_weights(path: Path) -> dict[str, Tensor]:
    """A safetensors file; a broken one is a sentence."""
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CinelabError(f"Weights {path} are cut short or broken ({error}); copy the file again.") from error


def fill(module: nn.Module, state: dict[str, Tensor], where: Path, remedy: str = "use the config.json that was saved with them.",
         assign: bool = False) -> nn.Module:
    """Load `state` into `module`, all of it and nothing else, with shapes compared first. `assign` is for a module on the
    meta device: its parameters become the tensors of `state`."""
    wanted = module.state_dict()
    missing, extra = wanted.keys() - state.keys(), state.keys() - wanted.keys()
    wrong = [k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape]
    if missing or extra or wrong:
        example = sorted(wrong or missing or extra)[0]
        found = tuple(state[example].shape) if example in state else "absent"
        expected = tuple(wanted[example].shape) if example in wanted else "absent"
        raise CinelabError(f"Weights {where} do not fit their config: {len(missing)} keys missing, {len(extra)} unknown, "
                           f"{len(wrong)} of another shape (first: {example}, found {found}, expected {expected}); {remedy}")
    module.load_state_dict({k: v.to(wanted[k].dtype) for k, v in state.items()}, assign=assign)
    return module.eval().requires_grad_(False)


def on_meta(make, dtype: torch.dtype) -> nn.Module:
    """A module without memory, to be filled with `assign`."""
    with torch.device("meta"):
        return nn.Module.to(make(), dtype)  # diffusers' own `to` warns of casts that are meant
