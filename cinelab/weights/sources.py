"""Weights on disk, read lazily: a folder of shards, one safetensors file, or what torch.save wrote.
Names come out as ours.

Nothing but names, shapes and dtypes is read until `WeightSource.tensor` is called, and what that
gives is backed by the file, so that going through a source of any size takes the memory of what its
reader keeps."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.readable import Readable
from cinelab.texts import read_json
from cinelab.weights.layouts import (
    HOLDERS,
    IMAGE,
    NETWORKS,
    PARTS,
    TRAINING,
    WRAPPERS,
    bare,
    lora_place,
    naming,
    to_ours,
)
from cinelab.weights.tensor_files import (
    AGAIN,
    FLOATS,
    PICKLES,
    Stored,
    first_line_of,
    read_pickle,
    read_safetensors,
    stored,
)

STEM = "diffusion_pytorch_model"
CONFIG = "config.json"
OURS = "weights.safetensors"
RUN = "model.pt"


@dataclass(frozen=True)
class WeightSource(Readable):
    """One transformer's weights, by our names. `raw` is what the file calls them, `strange` what
    has no name of ours."""

    path: Path
    naming: str  # diffusers or wan
    part: str | None  # of a training checkpoint: generator_ema, generator ...
    stored: dict[str, Stored]
    raw: dict[str, str]
    strange: tuple[str, ...]
    lora: dict[str, Stored]  # a LoRA that lies beside the weights, by its own names
    config: Path | None  # the config.json that goes with the weights
    stated: dict[str, Any]  # what config.json states, as fields of WanConfig and more
    parts: tuple[str, ...]  # all that a training checkpoint holds

    @property
    def layout(self) -> str:
        return TRAINING if self.part else self.naming

    def keys(self) -> list[str]:
        return list(self.stored)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.stored[name].shape

    def dtype(self, name: str) -> torch.dtype:
        dtype = self.stored[name].dtype
        assert isinstance(dtype, torch.dtype)  # others are refused when the source is opened
        return dtype

    def tensor(self, name: str) -> Tensor:
        """The tensor as stored, of the file's own dtype, on the CPU; the file backs it, so do not
        write into it."""
        try:
            return self.stored[name].read()
        except (SafetensorError, OSError, RuntimeError) as error:
            raise CinelabError(
                f"{self.path}: {self.raw[name]} cannot be read ({first_line_of(error)}); {AGAIN}."
            ) from error

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, self.tensor(name)) for name in self.stored)


def open_source(path: str | Path, part: str = "auto") -> WeightSource:
    """What lies at `path`: a diffusers folder (with `transformer/` or the transformer itself), a
    folder of the original repository, a checkpoint folder of ours, one .safetensors, or a .pt of
    training. `part` chooses in the last one."""
    files, config = _find(Path(path))
    chosen = None
    parts: tuple[str, ...] = ()
    lora: dict[str, Stored] = {}
    if files[0].suffix in PICKLES:
        tensors, chosen, parts, lora = _part(read_pickle(files[0]), part, Path(path))
    else:
        tensors = read_safetensors(files)
        if part != "auto":
            raise CinelabError(
                f"{path} has no part {part!r}: parts are what a training checkpoint (.pt) holds; "
                "leave part at 'auto'."
            )
    # of a model that was saved with its LoRA in place
    inside = {key: value for key, value in tensors.items() if lora_place(key)}
    tensors = {key: value for key, value in tensors.items() if key not in inside}
    if inside and not tensors:
        raise CinelabError(
            f"{path} holds a LoRA alone ({len(inside)} tensors); give the weights that it was "
            "trained on as source, and this file as lora (--lora)."
        )
    return _named(Path(path), tensors, {**lora, **inside}, config, chosen, parts)


def _find(path: Path) -> tuple[list[Path], Path | None]:
    """The files that hold the weights, and the config that goes with them."""
    if path.is_file():
        if re.search(r"-\d+-of-\d+\.", path.name):
            raise CinelabError(
                f"{path} is one shard of several; name the folder {path.parent} instead."
            )
        if path.name.endswith(".index.json"):
            return _find(path.parent)
        if path.suffix not in (".safetensors", *PICKLES):
            raise CinelabError(
                f"{path} ends in {path.suffix!r}; weights are a folder, a .safetensors or one of "
                f"{', '.join(PICKLES)}."
            )
        beside = path.parent / CONFIG
        return [path], beside if beside.is_file() and describe(beside) else None
    if not path.is_dir():
        raise CinelabError(
            f"{path} does not exist; name a folder of Wan2.1 weights, a .safetensors or a .pt file."
        )
    if (path / "transformer_2").is_dir():
        raise CinelabError(
            f"{path} holds two transformers, as Wan2.2 has for high and low noise; expected one, "
            f"so name {path / 'transformer'} or the other."
        )
    for folder in (path / "transformer", path):
        files = _weights_in(folder)
        if files:
            config = folder / CONFIG
            if files[0].suffix not in PICKLES and not (config.is_file() and describe(config)):
                state = (
                    "is not the config of a Wan transformer" if config.is_file() else "is missing"
                )
                raise CinelabError(
                    f"{config} {state}, so the folder is incomplete; copy the config.json that was "
                    "published with these weights."
                )
            return files, config if config.is_file() and describe(config) else None
    held = ", ".join(sorted(item.name for item in path.iterdir())[:6]) or "nothing"
    raise CinelabError(
        f"{path} holds no transformer weights (found {held}); expected "
        f"transformer/{STEM}*.safetensors (diffusers), {STEM}*.safetensors (original), {OURS} or "
        f"{RUN}, so name the folder that has them."
    )


def _weights_in(folder: Path) -> list[Path]:
    index = folder / f"{STEM}.safetensors.index.json"
    single = folder / f"{STEM}.safetensors"
    shards = sorted(folder.glob(f"{STEM}-*-of-*.safetensors"))
    if single.exists() and (index.exists() or shards):
        raise CinelabError(
            f"{folder} holds both {single.name} and shards of another copy; remove the one that "
            "you do not want."
        )
    if index.exists():
        return _of_index(index)
    if shards:
        wanted = int(shards[0].stem.rpartition("-of-")[2])
        raise CinelabError(
            f"{folder} holds {len(shards)} of {wanted} shards but no {index.name}, so the copy is "
            f"not complete; {AGAIN}."
        )
    return [file for file in (single, folder / OURS, folder / RUN) if file.exists()][:1]


def _of_index(index: Path) -> list[Path]:
    """The shards an index names, all of them there and holding what it says."""
    stated = read_json(index)
    places = stated.get("weight_map") if isinstance(stated, dict) else None
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise CinelabError(f"{index} has no 'weight_map' of tensors to files; {AGAIN}.")
    names = sorted(set(places.values()))
    absent = [name for name in names if not (index.parent / name).is_file()]
    if absent or not names:
        raise CinelabError(
            f"{index.parent} lacks {len(absent)} of the {len(names)} shards that {index.name} "
            f"names (first: {absent[0] if absent else 'none named'}); copy or download the missing "
            "ones."
        )
    files = [index.parent / name for name in names]
    differ = places.keys() ^ read_safetensors(files).keys()
    if differ:
        raise CinelabError(
            f"{index} and its shards disagree on {len(differ)} tensors (first: {min(differ)}); the "
            f"files are of two downloads, so {AGAIN}."
        )
    return files


def describe(config: Path) -> dict[str, Any] | None:
    """What a config.json says of a Wan transformer, as fields of WanConfig; None if it is the
    config of something else."""
    stated = read_json(config)
    if not isinstance(stated, dict):
        return None
    if isinstance(stated.get("model"), dict) and "num_attention_heads" in stated["model"]:
        stated = stated["model"]  # a checkpoint of ours
    if "num_attention_heads" in stated:
        return stated
    if "num_heads" in stated and "dim" in stated:
        return _original(stated, config)
    return None


def _original(stated: dict[str, Any], config: Path) -> dict[str, Any]:
    heads = stated["num_heads"]
    width = stated["dim"]
    if not (isinstance(heads, int) and isinstance(width, int) and heads > 0 and width % heads == 0):
        raise CinelabError(
            f"{config}: dim {width!r} is no multiple of num_heads {heads!r}; restore the "
            "config.json that was published."
        )
    names = {
        "num_layers": "num_layers",
        "ffn_dim": "ffn_dim",
        "in_dim": "in_channels",
        "out_dim": "out_channels",
        "freq_dim": "freq_dim",
        "text_dim": "text_dim",
        "patch_size": "patch_size",
        "cross_attn_norm": "cross_attn_norm",
        "eps": "eps",
    }
    return {"num_attention_heads": heads, "attention_head_dim": width // heads} | {
        ours: stated[name] for name, ours in names.items() if name in stated
    }


def _part(
    held: dict[str, Any], part: str, path: Path
) -> tuple[dict[str, Stored], str | None, tuple[str, ...], dict[str, Stored]]:
    """The tensors of a part, its name, all names, and the LoRA that the file holds for it."""
    parts = {
        key: value
        for key, value in held.items()
        if isinstance(value, dict) and any(isinstance(item, Tensor) for item in value.values())
    }
    if parts.keys() <= {"state_dict"}:  # Lightning's, or one flat dictionary
        parts = _by_network(parts.get("state_dict", held)) or parts
    if not parts:
        if part != "auto":
            raise CinelabError(
                f"{path} holds one set of weights and no part {part!r}; leave part at 'auto'."
            )
        return stored(held), None, (), {}
    whole = [name for name in parts if not name.endswith("_lora")]
    preferred = [name for name in PARTS if name in whole] or (whole if len(whole) == 1 else [])
    chosen = part if part != "auto" else preferred[0] if preferred else None
    if chosen not in whole:
        wanted = f"no part {part!r}" if part != "auto" else "no generator_ema and no generator"
        remedy = (
            f"choose one with part (--part): {', '.join(whole)}"
            if whole
            else "give the weights it was trained on as source, and this file as lora (--lora)"
        )
        raise CinelabError(f"{path} has {wanted}; it holds {', '.join(parts)}, so {remedy}.")
    lora = parts.get(f"{chosen.removesuffix('_ema')}_lora", {})
    return stored(parts[chosen]), chosen, tuple(parts), stored(lora)


def _by_network(held: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The networks of one flat dictionary whose names begin with theirs,
    generator.model.blocks.0...; {} where it holds one."""
    parts: dict[str, dict[str, Any]] = {}
    for key, value in held.items():
        words = [word for word in str(key).split(".") if word not in WRAPPERS]
        while words[0] in HOLDERS - set(NETWORKS) and len(words) > 1:
            words = words[1:]
        if words[0] in NETWORKS and isinstance(value, Tensor):
            parts.setdefault(words[0], {})[".".join(words[1:])] = value
    return parts


def _named(
    path: Path,
    tensors: dict[str, Stored],
    lora: dict[str, Stored],
    config: Path | None,
    part: str | None,
    parts: tuple[str, ...],
) -> WeightSource:
    """A source with our names, after everything that follows from names and dtypes is in
    order."""
    clean = {key: bare(key) for key in tensors}
    layouts = naming(list(clean.values()))
    if not layouts:
        first = next(iter(tensors), None)
        raise CinelabError(
            f"{path} holds no tensor of a Wan transformer "
            f"({f'first: {first}' if first else 'it is empty'}); expected names like "
            "blocks.0.attn1.to_q.weight or blocks.0.self_attn.q.weight, so name the transformer's "
            "weights."
        )
    if len(layouts) == 2:
        ours, theirs = layouts.values()
        raise CinelabError(
            f"{path} mixes two layouts: {ours} is named as in diffusers, {theirs} as in the "
            "original repository; expected one of them, so take all files from one download."
        )
    image = [key for key, name in clean.items() if IMAGE.search(name)]
    if image:
        raise CinelabError(
            f"{path} is an image-to-video transformer ({len(image)} tensors such as {image[0]}); "
            "expected text-to-video, which starts from an image by being given its first latent, "
            "so take a T2V checkpoint."
        )
    layout = next(iter(layouts))
    names = {}
    raw: dict[str, str] = {}
    strange: list[str] = []
    for key, name in clean.items():
        known = to_ours(name, layout)
        if known in raw:
            raise CinelabError(
                f"{path}: {raw[known]} and {key} are both {known}; keep one of them."
            )
        if known is None:
            strange.append(key)
            continue
        names[known] = tensors[key]
        raw[known] = key
        if names[known].dtype not in FLOATS.values():
            raise CinelabError(
                f"{path}: {key} is {str(names[known].dtype).removeprefix('torch.')}; float32, "
                "float16 or bfloat16 is expected, so take the weights before they were quantised."
            )
    stated = (describe(config) if config else None) or {}
    return WeightSource(path, layout, part, names, raw, tuple(strange), lora, config, stated, parts)
