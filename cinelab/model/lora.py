"""LoRA factors beside a transformer, and their merge: W + scale * B A.

    r rank   A (r, in) down   B (out, r) up   scale = alpha / r where alpha is said, else 1
"""

import json
from dataclasses import dataclass
from math import prod, sqrt
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from cinelab.config import read_json
from cinelab.errors import CinelabError
from cinelab.model.layouts import from_wan, lora_place, to_wan
from cinelab.model.sources import PICKLES, Stored, read_pickle, read_safetensors, stored

ADAPTER, SETTINGS = "adapter_model.safetensors", "adapter_config.json"  # as peft names them


@dataclass(frozen=True)
class Factors:
    """What one weight is to be changed by."""

    down: Stored
    up: Stored
    scale: float

    @property
    def change(self) -> tuple[int, int]:
        """Shape (out, in) of the change, convolutions flattened."""
        return self.up.shape[0], prod(self.down.shape[1:])

    def merge(self, weight: Tensor) -> Tensor:
        """W + scale * B A in float32, of W's shape; the caller rounds once."""
        change = self.up.read().float().flatten(1) @ self.down.read().float().flatten(1)
        return weight.float() + self.scale * change.view(weight.shape)


def read_lora(path: str | Path, scale: float | None = None) -> dict[str, Factors]:
    """Factors by our weight names, from a .safetensors, a .pt (plain, or with `generator_lora`) or a peft folder."""
    path = Path(path)
    file = path / ADAPTER if path.is_dir() else path
    if not file.is_file():
        raise CinelabError(f"LoRA {file} does not exist; name a .safetensors, a .pt or a folder with {ADAPTER}.")
    if file.suffix in PICKLES:
        held = read_pickle(file)
        tensors = stored(held.get("generator_lora", held))
    else:
        tensors = read_safetensors([file])
    return pair(tensors, path, scale, _settings(file))


def pair(tensors: dict[str, Stored], path: Path, scale: float | None = None, settings: dict | None = None) -> dict[str, Factors]:
    """Every module's two factors, by our name of the weight they change. Whatever is no factor is refused."""
    found: dict[str, dict[str, Stored]] = {}
    for key, value in tensors.items():
        place = lora_place(key)
        module = place and (place[0] if to_wan(place[0]) else from_wan(place[0]))
        if not module:
            raise CinelabError(f"LoRA {path}: {key} is no lora_A/lora_B (or lora_down/lora_up, alpha) of a module of the transformer; "
                               "expected plain LoRA of a text-to-video transformer, so merge it where it was trained.")
        if place[1] in (roles := found.setdefault(module, {})):
            raise CinelabError(f"LoRA {path}: {module} has two tensors for {place[1]} (one is {key}); keep one adapter.")
        roles[place[1]] = value
    if not found:
        raise CinelabError(f"LoRA {path} holds no tensor; expected names like blocks.0.attn1.to_q.lora_A.weight.")
    for module, roles in found.items():
        if not {"down", "up"} <= roles.keys() or roles["down"].shape[0] != roles["up"].shape[1]:
            shapes = ", ".join(f"{role} {value.shape}" for role, value in roles.items())
            raise CinelabError(f"LoRA {path}: {module} has {shapes}; expected down (r, in) and up (out, r); copy or export it again.")
    return {f"{module}.weight": Factors(roles["down"], roles["up"], _scale(roles, scale, settings or {})) for module, roles in found.items()}


def _scale(roles: dict[str, Stored], scale: float | None, settings: dict) -> float:
    rank = roles["down"].shape[0]
    if scale is not None:
        return float(scale)
    alpha = roles["alpha"].read().item() if "alpha" in roles else settings.get("lora_alpha", rank)
    return float(alpha) / (sqrt(rank) if settings.get("use_rslora") else rank)


def _settings(file: Path) -> dict:
    """What peft wrote beside the file, or diffusers into it; kinds of adapter that are not W + scale * B A are refused."""
    settings, beside = {}, file.parent / SETTINGS
    if file.name == ADAPTER and beside.is_file():
        settings = read_json(beside)
    elif file.suffix == ".safetensors":
        with safe_open(file, "pt") as opened:
            said = json.loads((opened.metadata() or {}).get("lora_adapter_metadata", "{}"))
        settings = {key.removeprefix("transformer."): value for key, value in said.items()}
    odd = [name for name in ("use_dora", "alpha_pattern", "lora_bias") if settings.get(name)]
    if odd:
        raise CinelabError(f"LoRA {file} was made with {odd[0]} = {settings[odd[0]]!r}; expected plain LoRA, so merge it where it was trained.")
    return settings
