"""Low-rank adapters (LoRA, arXiv 2106.09685, Eq. 3; by peft): a stage trains only them, and stores
them in a small file of their own.

    W x  becomes  W x + alpha / r  B A x        A (r, in), B (out, r); B is zero at the start

A file names its base by fingerprints of all numbers of the base's weights and is refused on
another. It is laid out as diffusers reads it.
"""

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cinelab.config import from_dict
from cinelab.errors import CinelabError
from cinelab.files import write_atomic
from cinelab.latent.checkpoint import as_dtype
from cinelab.scale.acceleration import Speed, running_speed
from cinelab.scale.checkpoints import load_tensors
from cinelab.seeds import rng_at
from cinelab.texts import check_regular, parse_json, problem
from cinelab.train.optim import whole

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")
PREFIX = "transformer."  # diffusers' name for the part of a pipeline that our network is
# letters of a fingerprint of the first kind, and how many numbers of each tensor it was made of
OLD = 16
PROBED = 64


@dataclass(frozen=True)
class Lora:
    """Rank, strength and the linears that get an adapter, by the end of their names."""

    rank: int = 32
    alpha: float = 32.0
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self):
        if self.rank < 1:
            raise CinelabError(f"lora.rank is {self.rank}; at least 1 is needed.")
        if not (isfinite(self.alpha) and self.alpha > 0):
            raise CinelabError(f"lora.alpha is {self.alpha}; a finite number above 0 is needed.")
        if not self.targets:
            raise CinelabError(f"lora.targets is empty; name linears like {', '.join(TARGETS)}.")


def add_lora(model: nn.Module, lora: Lora, seed: int = 0) -> nn.Module:
    """Give `model` (in place) adapters that change nothing yet; from now on they alone are
    trained."""
    from peft import LoraConfig, inject_adapter_in_model

    if running_speed(model) != Speed():
        raise CinelabError(
            "Adapters are given to a model that was accelerated, which would pass them by; load it "
            "without a speed, and accelerate what they are merged into."
        )
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if idle := [
        end for end in lora.targets if not any(name.endswith(f".{end}") for name in linears)
    ]:
        raise CinelabError(
            f"lora.targets has {idle[0]!r}, which no linear of the model ends with; use "
            f"{', '.join(TARGETS)}."
        )
    # peft types alpha as a whole number, and takes any
    settings: dict[str, Any] = {"r": lora.rank, "lora_alpha": lora.alpha}
    config = LoraConfig(**settings, target_modules=list(lora.targets))
    inject_adapter_in_model(config, model)
    load_tensors(model, initial_adapters(model.state_dict(), seed), "adapters", partly=True)
    return model


def initial_adapters(state: Mapping[str, Tensor], seed: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Yield the adapters of a state at their start, by name: A uniform within 1 / sqrt(in), drawn
    by its name, and B zero."""
    for name, value in state.items():
        if ".lora_A." in name:
            uniform = 2 * torch.rand(value.shape, generator=rng_at(seed, "lora", name)) - 1
            yield name, uniform / value.shape[1] ** 0.5
        elif ".lora_B." in name:
            yield name, torch.zeros(value.shape)


def adapters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the adapters of a model's state or averaged weights, by names such as
    blocks.0.attn1.to_q.lora_A.weight."""
    return {
        name.replace(".default.", "."): value for name, value in state.items() if ".lora_" in name
    }


def fingerprint_of(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return a short fingerprint of the weights that adapters are made for: the same before and
    after they are added, in any precision that holds bfloat16, sharded or not (then all processes
    must call together). It is made of every number, rounded to bfloat16."""
    return fingerprints_of(tensors)[0]


def fingerprints_of(tensors: Iterable[tuple[str, Tensor]]) -> tuple[str, str]:
    """Return `fingerprint_of`, and a second one of the unrounded numbers; both are the same where
    bfloat16 holds them all."""
    pairs = {plain_name(name): _hashes(value) for name, value in tensors if ".lora_" not in name}
    both = (hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16))
    for name in sorted(pairs):
        for digest, part in zip(both, pairs[name], strict=True):
            digest.update(name.encode() + part)
    return both[0].hexdigest(), both[1].hexdigest()


def _hashes(value: Tensor) -> tuple[bytes, bytes]:
    """Return hashes of a tensor's shape and numbers: rounded to bfloat16, and as they are."""
    full = whole(value.detach()).flatten().to("cpu")
    half = full.to(torch.bfloat16)
    head = str(tuple(value.shape)).encode()
    rounded_hash = _hash(head, half)
    if torch.equal(half.to(full.dtype), full):
        return rounded_hash, rounded_hash
    return rounded_hash, _hash(head, full.float())


def _hash(head: bytes, flat: Tensor) -> bytes:
    digest = hashlib.blake2b(head, digest_size=16)
    digest.update(flat.contiguous().view(torch.uint8).numpy().data)
    return digest.digest()


def _old_fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return the fingerprint that files of earlier versions carry, of the first numbers of each
    tensor."""
    probes = {}
    for name, value in tensors:
        if ".lora_" not in name:
            probe = whole(value.detach()).flatten()[:PROBED].to("cpu", torch.bfloat16)
            probes[plain_name(name)] = (
                str(tuple(value.shape)).encode() + probe.view(torch.uint8).numpy().tobytes()
            )
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(probes):
        digest.update(name.encode() + probes[name])
    return digest.hexdigest()


def plain_name(name: str) -> str:
    """Return a weight's name before an adapter was put around it."""
    return name.replace(".base_layer.", ".")


def save_lora(
    path: str | Path,
    state: Mapping[str, Tensor],
    lora: Lora,
    base: str,
    exact: str = "",
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write the adapters of a state and nothing else, with their settings and the fingerprints of
    their base (see `fingerprints_of`; without `exact`, bases that bfloat16 cannot tell apart are
    taken for one). Overflow where `dtype` cannot hold a number."""
    tensors = {
        PREFIX + name: as_dtype(
            whole(value.detach()).to("cpu"), dtype, f"LoRA {path}: {name}"
        ).contiguous()
        for name, value in adapters(state).items()
    }
    if not tensors:
        raise CinelabError(
            f"There are no adapters to write to {path}; call add_lora before training."
        )
    diffusers = {"r": lora.rank, "lora_alpha": lora.alpha, "target_modules": list(lora.targets)}
    about = {
        "format": "pt",
        "base": base,
        "lora": json.dumps(asdict(lora)),
        "lora_adapter_metadata": json.dumps(
            {PREFIX + key: value for key, value in diffusers.items()}
        ),
    }
    about |= {"base_exact": exact} if exact else {}
    write_atomic(path, lambda temporary: save_file(tensors, temporary, about))
    return Path(path)


def load_lora(model: nn.Module, path: str | Path) -> Lora:
    """Add the adapters of a file to the model that they were made for (in place); another one is
    refused."""
    about, tensors = _read(Path(path))
    _check_base(model, about, path)
    lora = _lora_of(about["lora"], path)
    state = add_lora(model, lora).state_dict()
    wanted = {
        PREFIX + name.replace(".default.", "."): value
        for name, value in state.items()
        if ".lora_" in name
    }
    for name in sorted(wanted.keys() ^ tensors.keys()):
        raise CinelabError(
            f"LoRA {path} {'lacks' if name in wanted else 'holds'} {name}, against its own "
            "settings; copy the file again."
        )
    for name, value in wanted.items():
        if tensors[name].shape != value.shape:
            raise CinelabError(
                f"LoRA {path}: {name} is {tuple(tensors[name].shape)}, expected "
                f"{tuple(value.shape)}; copy the file again."
            )
        if not tensors[name].is_floating_point() or tensors[name].dtype.itemsize < 2:
            raise CinelabError(
                f"LoRA {path}: {name} is {str(tensors[name].dtype).removeprefix('torch.')}; "
                "float32, float16 or bfloat16 is "
                "expected, so take the one that was written at the end of its training."
            )
        value.copy_(as_dtype(tensors[name], value.dtype, f"LoRA {path}: {name}"))
    return lora


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the header and the tensors of a file that `save_lora` wrote."""
    check_regular(path)
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise CinelabError(f"LoRA {path} cannot be read ({error}); copy the file again.") from error
    if not {"base", "lora"} <= about.keys():
        raise CinelabError(
            f"LoRA {path} does not say its base and settings, so it was not written here; merge "
            "it with "
            "`cinelab convert --lora` instead."
        )
    return about, tensors


def _lora_of(text: str, path: str | Path) -> Lora:
    """Return the settings in a file's header."""
    try:
        stated = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise CinelabError(
            f"LoRA {path} has settings that are no JSON ({problem(error)}); copy the file again."
        ) from error
    if not isinstance(stated, dict):
        raise CinelabError(
            f"LoRA {path} has a {type(stated).__name__} for settings; expected rank, alpha and "
            "targets, so copy the file again."
        )
    return from_dict(Lora, stated, f"{path}: lora.")


def _check_base(model: nn.Module, about: dict[str, str], path: str | Path) -> None:
    """Refuse weights that the adapters were not made for. A model that holds no more than bfloat16
    does may be the rounded copy of the base; of any other the unrounded numbers must be the base's
    as well."""
    stated = about["base"]
    if len(stated) == OLD:
        found = _old_fingerprint(model.state_dict().items())
        if found == stated:
            warnings.warn(
                f"LoRA {path} has a fingerprint of an older kind, which knows the first {PROBED} "
                "numbers of each weight of its base only; write it again with save_lora to have "
                "all of them compared.",
                stacklevel=3,
            )
    else:
        found, exact = fingerprints_of(model.state_dict().items())
        if found == stated and exact not in (found, about.get("base_exact", exact)):
            found = exact
    if found != stated:
        raise CinelabError(
            f"LoRA {path} was made for weights with fingerprint {stated}, and these have {found}; "
            "load the base that it was trained on."
        )


@torch.no_grad()
def merge_lora(model: nn.Module) -> nn.Module:
    """Add every adapter to its weight (in place) and forget it: the plain model again, with its
    plain names."""
    from peft.tuners.lora import LoraLayer

    for name, layer in [(n, m) for n, m in model.named_modules() if isinstance(m, LoraLayer)]:
        layer.merge()
        plain_layer: Any = layer.get_base_layer()
        weight = plain_layer.weight
        as_dtype(weight, weight.dtype, f"{name} with its adapter merged")
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, plain_layer)
    return model
