"""Wan weights from any layout into any other, shard by shard, bit for bit unless a dtype or a LoRA
is requested.

    diffusers   TARGET/transformer/{config.json, diffusion_pytorch_model*.safetensors}
    wan         TARGET/{config.json, diffusion_pytorch_model*.safetensors}
    training    TARGET.pt with {"generator": {"model.blocks.0...": tensor}}, or the source's part

Tensors are written in the model's own order, so that the same weights give the same files whatever
they came from. An interrupted conversion leaves nothing that could be taken for one: shards are
moved in when all are there, config.json last. The same conversion again finishes what a kill has
left, and a second one into the same place is refused while the first works.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from cinelab.config import to_dict
from cinelab.errors import CinelabError
from cinelab.files import SCRATCH, is_file, remove_dead, write_atomic, write_json
from cinelab.latent.checkpoint import as_dtype
from cinelab.model.wan import WanConfig
from cinelab.outputs import (
    passing_folder,
    ready_file,
    ready_folder,
    taken_up,
    together,
    writing_set,
)
from cinelab.states import save_pickle
from cinelab.weights.layouts import DIFFUSERS, LAYOUTS, TRAINING, WAN, from_ours
from cinelab.weights.load import (
    HEAD,
    Report,
    Weights,
    dtype_name,
    dtype_of,
    open_weights,
    shapes_of,
)
from cinelab.weights.sources import CONFIG, STEM

GIB = 2**30
TENSORS = "tensors"  # the kind of folder in which computed tensors wait
PICKLED = (".pt", ".pth", ".ckpt")


def convert_weights(
    source: str | Path,
    target: str | Path,
    to: str = DIFFUSERS,
    dtype: torch.dtype | str | None = None,
    shard_gib: float = 5,
    part: str = "auto",
    lora: str | Path | None = None,
    lora_scale: float | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Report:
    """Write the weights at `source` in the layout `to`; memory stays near one shard (near one
    tensor for training).

    dtype       fp32, bf16, fp16; None keeps what each tensor has
    part        of a training checkpoint; "auto" = generator_ema if it is there, else generator
    lora        a LoRA file to merge; lora_scale takes the place of alpha / r in W + scale * B A
    tell        hears "3 of 8: what is written" as it begins
    Raises CinelabError if the source does not match wholly, the target is taken, or the disk has
    not the room.
    """
    if to not in LAYOUTS:
        raise CinelabError(f"Layout {to!r} is unknown; expected one of {', '.join(LAYOUTS)}.")
    if not shard_gib > 0:
        raise CinelabError(f"shard_gib is {shard_gib}; expected a size above 0, such as 5.")
    weights = open_weights(source, part, dtype, lora, lora_scale)
    report = weights.report()
    report.demand()
    place = _place(Path(target), to)
    if to == TRAINING:
        _refuse_untold(weights)
    about = {
        "source": str(weights.source.path.absolute()),
        "to": to,
        "dtype": dtype_name(kind) if (kind := dtype_of(dtype)) else None,
        "shard_gib": shard_gib,
        "part": part,
        "lora": lora and str(Path(lora).absolute()),
        "lora_scale": lora_scale,
        "bytes": report.bytes,
    }
    _write(weights, place, to, shard_gib, about, tell)
    mapped = {raw: from_ours(name, to) for raw, name in report.mapped.items()}
    return replace(report, mapped=mapped, target=str(place), to=to)


def plan_conversion(sizes: dict[str, int], limit: float) -> list[list[str]]:
    """Names in order, cut into shards of at most `limit` bytes (a tensor beyond it is a shard of
    its own)."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def config_file(config: WanConfig, to: str) -> dict[str, Any]:
    """What config.json says, in the words of diffusers or of the original repository."""
    if to == DIFFUSERS:
        return {
            "_class_name": "WanTransformer3DModel",
            **to_dict(config),
            "qk_norm": "rms_norm_across_heads",
            "image_dim": None,
            "added_kv_proj_dim": None,
            "pos_embed_seq_len": None,
            "rope_max_seq_len": 1024,
        }
    return {
        "_class_name": "WanModel",
        "model_type": "t2v",
        "dim": config.width,
        "num_heads": config.num_attention_heads,
        "text_len": 512,
        "num_layers": config.num_layers,
        "ffn_dim": config.ffn_dim,
        "freq_dim": config.freq_dim,
        "in_dim": config.in_channels,
        "out_dim": config.out_channels,
        "eps": config.eps,
    }


def _write(
    weights: Weights, place: Path, to: str, shard_gib: float, about: dict, tell: Callable
) -> None:
    """Write all files and then move them in, alone in the folder; what a kill has left of the same
    conversion is finished."""
    folder, last = (place.parent, place.name) if to == TRAINING else (place, CONFIG)
    with writing_set(folder, last):
        remove_dead(folder, f"{SCRATCH}{TENSORS}-")
        if taken_up(folder, last, about):
            return
        _refuse_taken(place, to)
        _room(
            place, about["bytes"] * (2 if to == TRAINING and (weights.dtype or weights.lora) else 1)
        )
        names = list(shapes_of(weights.config))
        with together(folder, last, about, again=True) as scratch:
            if to == TRAINING:
                _write_training(weights, names, scratch / last, tell)
            else:
                _write_folder(weights, names, scratch, to, shard_gib, tell)


def _write_folder(
    weights: Weights, names: list[str], folder: Path, to: str, shard_gib: float, tell: Callable
) -> None:
    sizes = {name: prod(weights.source.shape(name)) * weights.made(name).itemsize for name in names}
    shards = plan_conversion(sizes, shard_gib * GIB)
    files = (
        [f"{STEM}.safetensors"]
        if len(shards) == 1
        else [f"{STEM}-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    )
    for number, (file, shard) in enumerate(zip(files, shards, strict=True), 1):
        tell(f"{number} of {len(files)}: {file}")
        write_atomic(folder / file, partial(_save, weights, shard, to))
    if len(shards) > 1:
        where = {
            from_ours(name, to): file
            for file, shard in zip(files, shards, strict=True)
            for name in shard
        }
        write_json(
            folder / f"{STEM}.safetensors.index.json",
            {"metadata": {"total_size": sum(sizes.values())}, "weight_map": where},
        )
    write_json(folder / CONFIG, config_file(weights.config, to))


def _save(weights: Weights, shard: list[str], to: str, path: Path) -> None:
    """Write one shard under the names of layout `to`."""
    save_file(
        {from_ours(name, to): weights.tensor(name).contiguous() for name in shard},
        path,
        {"format": "pt"},
    )


def _write_training(weights: Weights, names: list[str], path: Path, tell: Callable) -> None:
    """torch.save wants all tensors at once: those that had to be computed wait in files, the others
    lie in the source."""
    with passing_folder(TENSORS, path.parent.parent, SCRATCH) as scratch:
        tensors = {}
        for number, name in enumerate(names, 1):
            tell(f"{number} of {len(names)}: {name}")
            tensors[from_ours(name, TRAINING)] = _on_disk(weights, name, scratch)
        write_atomic(
            path,
            lambda temporary: save_pickle({weights.source.part or "generator": tensors}, temporary),
        )


def _refuse_untold(weights: Weights) -> None:
    """A training checkpoint has no config.json: a size that shapes do not tell would be lost in
    it."""
    merged = replace(
        weights.config,
        attention_head_dim=HEAD,
        num_attention_heads=weights.config.width // HEAD,
        eps=WanConfig().eps,
    )
    if merged != weights.config:
        raise CinelabError(
            f"{weights.source.path} has heads of {weights.config.attention_head_dim} and eps "
            f"{weights.config.eps}; a training checkpoint has no config.json, and without one "
            f"{HEAD} and {merged.eps} are taken, so convert to {DIFFUSERS} or {WAN}."
        )


def _on_disk(weights: Weights, name: str, scratch: Path) -> Tensor:
    tensor = weights.exact(name)
    dtype = weights.made(name)
    if tensor.dtype == dtype and name not in weights.lora and _is_alone(tensor):
        return as_dtype(tensor, dtype, weights.where(name))
    waiting = torch.from_file(str(scratch / name), shared=True, size=tensor.numel(), dtype=dtype)
    return waiting.view(tensor.shape).copy_(as_dtype(tensor, dtype, weights.where(name)))


def _is_alone(tensor: Tensor) -> bool:
    """Whether its memory is its own; a training checkpoint may hold views of one flat parameter."""
    return tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes


def _place(target: Path, to: str) -> Path:
    """Where to write: a file for training, else a folder; proved to be a place for one."""
    if to == TRAINING:
        if target.suffix not in PICKLED:
            raise CinelabError(
                f"Target {target} ends in {target.suffix!r}; a training checkpoint is one file, so "
                f"end it in {', '.join(PICKLED)}."
            )
        ready_file(target)
    else:
        if target.suffix in (*PICKLED, ".safetensors") or is_file(target):
            raise CinelabError(
                f"Target {target} is a file; the layout {to} is a folder, so name one."
            )
        target = target if to == WAN or target.name == "transformer" else target / "transformer"
        ready_folder(target)
    return target


def _refuse_taken(place: Path, to: str) -> None:
    """Nothing that is there is ever replaced."""
    ours = [place] if to == TRAINING else [*place.glob(f"{STEM}*"), place / CONFIG]
    if taken := next((path for path in ours if path.exists()), None):
        raise CinelabError(
            f"Target {taken} exists already; nothing is overwritten, so choose another target or "
            "remove it."
        )


def _room(place: Path, needed: int) -> None:
    there = next(folder for folder in place.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise CinelabError(
            f"{there} has {free / GIB:.1f} GiB free and {needed / GIB:.1f} GiB are needed; free "
            "some space or choose another target."
        )
