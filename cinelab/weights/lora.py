"""LoRA beside a transformer, and its merge: W + scale * B A, and whatever else a file adds to
weights and biases.

    r rank   A (r, in) down   B (out, r) up   scale = alpha / r where alpha is given, else 1

Names are read as the trainers write them (`cinelab.weights.layouts`). Every tensor of a file is
used, or named as left out (those of a text encoder), or refused by its name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite, prod, sqrt
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.latent.checkpoint import Overflow, all_finite
from cinelab.texts import check_regular, parse_json, problem, read_json
from cinelab.weights.layouts import is_table, is_text, lora_place, module_named
from cinelab.weights.tensor_files import (
    AGAIN,
    FLOATS,
    PICKLES,
    Stored,
    broken,
    first_line_of,
    read_pickle,
    read_safetensors,
    stored,
)

# in a folder
ADAPTERS = (
    "adapter_model.safetensors",
    "adapter_model.bin",
    "pytorch_lora_weights.safetensors",
    "lora.safetensors",
)
SETTINGS = "adapter_config.json"  # as peft names it
# of a pickle's parts, in this order
HOLDS = ("generator_lora", "lora", "state_dict", "model", "module")
ALPHAS = ("alpha", "lora_alpha", "network_alpha")  # one number for a whole pickle
# peft's ways to begin that change the base's weights as well
FOREIGN = ("pissa", "olora", "corda", "loftq")
Roles = dict[str, tuple[str, Stored]]  # role -> the file's name and the tensor


@dataclass(frozen=True)
class Factors:
    """What one weight is to be changed by: scale * B A, and the sum of `added` tensors, each times
    its own number."""

    down: Stored | None = None
    up: Stored | None = None
    scale: float = 0.0
    added: tuple[tuple[Stored, float], ...] = ()

    @property
    def changes(self) -> list[tuple[int, int]]:
        """Shape (out, in) of every change, convolutions flattened."""
        pairs = [(up.shape[0], prod(down.shape[1:])) for down, up in self.factors]
        return pairs + [(value.shape[0], prod(value.shape[1:])) for value, _ in self.added]

    @property
    def factors(self) -> list[tuple[Stored, Stored]]:
        """The pair (A, B), where there is one."""
        return [(self.down, self.up)] if self.down and self.up else []

    @property
    def empty(self) -> bool:
        """Whether nothing changes, at scale 0."""
        return not (self.scale or any(times for _, times in self.added))

    def merge(self, weight: Tensor) -> Tensor:
        """W + scale * B A + ... in float32, of W's shape; the caller rounds once."""
        made = weight.float()
        for down, up in self.factors:
            made = made + self.scale * (_wide(up) @ _wide(down)).view(weight.shape)
        for value, times in self.added:
            made = made + times * value.read().float().view(weight.shape)
        return made


@dataclass(frozen=True)
class Adapter:
    """A LoRA: the changes by our names of the weights, and the file's names of what was left
    out."""

    factors: dict[str, Factors] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


def read_lora(path: str | Path, scale: float | None = None) -> Adapter:
    """A LoRA from a .safetensors, a .pt (plain, or in `generator_lora`, `state_dict` ...) or a
    folder of peft or diffusers.

    `scale` takes the place of alpha / r. CinelabError where a tensor has no place, no finite
    numbers or no partner.
    """
    path = Path(path)
    file = (
        next((path / name for name in ADAPTERS if (path / name).is_file()), path / ADAPTERS[0])
        if path.is_dir()
        else path
    )
    if not file.is_file():
        raise CinelabError(
            f"LoRA {file} does not exist; name a .safetensors, a .pt or a folder with "
            f"{ADAPTERS[0]}."
        )
    if file.suffix not in (".safetensors", *PICKLES):
        raise CinelabError(
            f"LoRA {file} ends in {file.suffix!r}; a LoRA is a .safetensors, one of "
            f"{', '.join(PICKLES)} or a folder."
        )
    settings = _settings(file)
    if file.suffix in PICKLES:
        held = _holding(read_pickle(file), file)
        tensors = stored({key: _as_tensor(value) for key, value in held.items()})
        alphas = [tensors.pop(name) for name in ALPHAS if name in tensors]
        settings |= {"lora_alpha": _number(alphas[0], file)} if alphas else {}
    else:
        tensors = read_safetensors([file])
    return pair(tensors, path, scale, settings)


def pair(
    tensors: Mapping[str, Stored],
    path: Path,
    scale: float | None = None,
    settings: dict | None = None,
) -> Adapter:
    """Every change by our name of the weight. What belongs to no weight of the transformer is
    refused by name."""
    found, left = _sorted(tensors, path)
    if not found:
        text = f" but {len(left)} of a text encoder (first: {left[0]})" if left else ""
        raise CinelabError(
            f"LoRA {path} holds no tensor{text}; expected names like "
            "blocks.0.attn1.to_q.lora_A.weight."
        )
    factors: dict[str, Factors] = {}
    for module, roles in found.items():
        factors |= _changes(module, roles, path, scale, settings or {})
    return Adapter(factors, tuple(left))


def _sorted(tensors: Mapping[str, Stored], path: Path) -> tuple[dict[str, Roles], list[str]]:
    """Tensors by module and role, and the names of a text encoder's."""
    found: dict[str, Roles] = {}
    left = []
    for key, value in tensors.items():
        if is_text(key):
            left.append(key)
            continue
        module, role = _place(key, path)
        if role in (roles := found.setdefault(module, {})):
            raise CinelabError(
                f"LoRA {path}: {module} has two tensors for {role} ({roles[role][0]} and {key}); "
                "keep one adapter."
            )
        _check_numbers(key, value, path)
        roles[role] = key, value
    return found, left


def _place(key: str, path: Path) -> tuple[str, str]:
    """Our name of the module that a LoRA tensor changes, and its role."""
    module, role = lora_place(key) or ("", "")
    if role == "diff_m":  # of a block, or of the head
        ours = module_named(f"{module}.modulation") or module_named(f"{module}_modulation")
    else:
        ours = module_named(module) if module else None
    if ours is None or (is_table(ours) and role not in ("diff", "diff_m")):
        raise CinelabError(
            f"LoRA {path}: {key} is no lora_A/lora_B (or lora_down/lora_up, alpha, diff, diff_b, "
            "diff_m) of a module of the transformer; expected plain LoRA of a text-to-video "
            "transformer, so merge it where it was trained."
        )
    return ours, "diff" if role == "diff_m" else role


def _check_numbers(key: str, value: Stored, path: Path) -> None:
    """Refuse a tensor of a LoRA that holds other than finite floats. Reads it: a LoRA is small
    beside its base."""
    if value.dtype not in FLOATS.values() and not (lora_place(key) or ("", ""))[1] == "alpha":
        kind = str(value.dtype).removeprefix("torch.")
        raise CinelabError(
            f"LoRA {path}: {key} is {kind}; float32, float16 or bfloat16 is expected."
        )
    try:
        finite = all_finite(value.read())
    except (SafetensorError, OSError, RuntimeError) as error:
        raise CinelabError(
            f"LoRA {path}: {key} cannot be read ({first_line_of(error)}); {AGAIN}."
        ) from error
    if not finite:
        raise Overflow(
            f"LoRA {path}: {key} holds a number that is not finite (NaN or infinity); take one "
            "from before its training diverged."
        )


def _changes(
    module: str, roles: Roles, path: Path, scale: float | None, settings: dict
) -> dict[str, Factors]:
    """The changes of a module's weight and bias (or of a modulation table)."""
    held = {role: value for role, (_, value) in roles.items()}
    times = 1.0 if scale is None else float(scale)
    whole = {"down", "up"} <= held.keys()
    if (
        not whole
        and held.keys() & {"down", "up", "alpha", "bias"}
        or (whole and not _fit(held["down"], held["up"]))
    ):
        shapes = ", ".join(f"{role} {value.shape}" for role, value in held.items())
        raise CinelabError(
            f"LoRA {path}: {module} has {shapes}; expected down (r, in) and up (out, r); copy or "
            "export it again."
        )
    strength = _strength(roles, path, scale, settings) if whole else 0.0
    weight = tuple((held[role], times) for role in ("diff",) if role in held)
    bias = tuple(
        (held[role], each) for role, each in (("diff_b", times), ("bias", strength)) if role in held
    )
    made = {}
    if whole or weight:
        made[module if is_table(module) else f"{module}.weight"] = Factors(
            held.get("down"), held.get("up"), strength, weight
        )
    if bias:
        made[f"{module}.bias"] = Factors(added=bias)
    return made


def _fit(down: Stored, up: Stored) -> bool:
    """Whether two factors have a rank in common."""
    return (
        len(down.shape) > 1
        and len(up.shape) > 1
        and down.shape[0] == up.shape[1] == prod(up.shape[1:]) > 0
    )


def _strength(roles: Roles, path: Path, scale: float | None, settings: dict) -> float:
    """What a product of factors is multiplied by."""
    rank = roles["down"][1].shape[0]
    if scale is not None:
        return float(scale)
    if "alpha" not in roles:
        alpha = settings.get("lora_alpha", rank)
    else:
        alpha = _number(roles["alpha"][1], f"{path}: {roles['alpha'][0]}")
    return float(alpha) / (sqrt(rank) if settings.get("use_rslora") else rank)


def _number(value: Stored, where: str | Path) -> float:
    """A tensor that is one finite number."""
    if prod(value.shape) != 1:
        raise CinelabError(
            f"LoRA {where} has an alpha of shape {value.shape}; one number is expected."
        )
    if not isfinite(number := value.read().item()):
        raise Overflow(
            f"LoRA {where} has the alpha {number}; a finite number is expected, so correct it."
        )
    return number


def _wide(value: Stored) -> Tensor:
    return value.read().float().flatten(1)


def _as_tensor(value: Any) -> Any:
    """A number that a pickle holds beside its tensors (an alpha) as a tensor."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return torch.tensor(float(value)) if is_number else value


def _holding(held: dict[str, Any], file: Path) -> dict[str, Any]:
    """The dictionary in a loaded file that holds the LoRA's tensors."""
    if any(
        isinstance(value, Tensor) and (lora_place(str(key)) or is_text(str(key)))
        for key, value in held.items()
    ):
        return {
            str(key): value
            for key, value in held.items()
            if isinstance(value, Tensor) or str(key) in ALPHAS or lora_place(str(key))
        }
    inner = {
        key: value for key, value in held.items() if isinstance(value, dict) and _has_tensors(value)
    }
    if not inner:
        return {str(key): value for key, value in held.items() if isinstance(value, Tensor)}
    name = next(
        (name for name in HOLDS if name in inner), next(iter(inner)) if len(inner) == 1 else None
    )
    if name is None:
        raise CinelabError(
            f"LoRA {file} holds {', '.join(map(str, inner))}; expected one of {', '.join(HOLDS)}, "
            "so save the LoRA alone."
        )
    alphas = {key: value for key, value in held.items() if key in ALPHAS}
    return alphas | _holding(inner[name], file)


def _has_tensors(held: dict) -> bool:
    return any(
        isinstance(value, Tensor) or (isinstance(value, dict) and _has_tensors(value))
        for value in held.values()
    )


def _settings(file: Path) -> dict:
    """What peft wrote beside the file, or diffusers into it; kinds of adapter that are not W +
    scale * B A are refused."""
    beside = file.parent / SETTINGS
    if file.stem == "adapter_model" and beside.is_file():
        settings = read_json(beside)
        where = str(beside)
    else:
        settings = _header(file)
        where = f"LoRA {file}: lora_adapter_metadata"
    if not isinstance(settings, dict):
        raise CinelabError(
            f"{where} is a {type(settings).__name__}, not settings by name; export the LoRA again."
        )
    settings = {str(key).removeprefix("transformer."): value for key, value in settings.items()}
    _check_settings(settings, where)
    return settings


def _header(file: Path) -> Any:
    """The settings in a safetensors header; none in other files."""
    if file.suffix != ".safetensors":
        return {}
    check_regular(file)
    try:
        with safe_open(file, "pt") as opened:
            stored = (opened.metadata() or {}).get("lora_adapter_metadata", "{}")
    except (SafetensorError, OSError) as error:
        raise broken(file, error) from error
    try:
        return parse_json(stored)
    except (ValueError, RecursionError) as error:
        raise CinelabError(
            f"LoRA {file}: lora_adapter_metadata in its header is no JSON ({problem(error)}); "
            "export the LoRA again."
        ) from error


def _check_settings(settings: dict, where: str | Path) -> None:
    odd = [
        name
        for name in ("use_dora", "alpha_pattern", "use_qalora", "trainable_token_indices")
        if settings.get(name)
    ]
    odd += ["peft_type"] if settings.get("peft_type", "LORA") != "LORA" else []
    odd += (
        ["init_lora_weights"]
        if str(settings.get("init_lora_weights")).lower().startswith(FOREIGN)
        else []
    )
    if odd:
        raise CinelabError(
            f"{where} has {odd[0]} = {settings[odd[0]]!r}; expected plain LoRA, so merge it where "
            "it was trained."
        )
    alpha = settings.get("lora_alpha", 1)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not isfinite(alpha):
        raise CinelabError(
            f"{where} has lora_alpha = {alpha!r}; a finite number is expected, so correct it or "
            "export the LoRA again."
        )
    if not isinstance(settings.get("use_rslora", False), bool | None):
        raise CinelabError(
            f"{where} has use_rslora = {settings['use_rslora']!r}; true or false is expected."
        )
