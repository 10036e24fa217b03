"""Published weights into our transformer: what size they are, what is missing or too much, and filling a model with them.

    config_of("Wan2.1-T2V-1.3B-Diffusers")                       WanConfig
    load_into(model, "self_forcing.pt", dtype=torch.bfloat16)    Report; `model` may stand on the meta device
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cinelab.config import from_dict
from cinelab.errors import CinelabError
from cinelab.model.layouts import from_ours
from cinelab.model.lora import Factors, pair, read_lora
from cinelab.model.sources import Source, open_source
from cinelab.model.wan import CausalWan, WanConfig, kept_dtype

HEAD = 128  # width of a head in every published Wan2.1, where no config.json says otherwise
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BEGIN = {  # where a size that no config.json says can be read off: tensor, axis
    "in_channels": ("patch_embedding.weight", 1), "text_dim": ("condition_embedder.text_embedder.linear_1.weight", 1),
    "freq_dim": ("condition_embedder.time_embedder.linear_1.weight", 1), "ffn_dim": ("blocks.0.ffn.net.0.proj.weight", 0),
}


@dataclass(frozen=True)
class Report:
    """What became of every key. `mapped` is the file's name to ours (or to the target's); all others are in the file's naming."""

    source: str
    layout: str
    part: str | None
    parts: tuple[str, ...]
    config: WanConfig
    mapped: dict[str, str]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]  # name, shape found, shape expected
    dtypes: dict[tuple[str, str], int]  # (found, made) -> tensors
    lora: str  # what was merged, or ""
    bytes: int  # as made
    said: bool  # whether a config.json gave the size
    target: str = ""  # of a conversion
    to: str = ""

    @property
    def whole(self) -> bool:
        return not (self.missing or self.unexpected or self.wrong)

    def demand(self) -> None:
        """Refuse a half-match: every tensor of the config must be there, in its shape, and nothing else."""
        if self.whole:
            return
        if self.wrong:
            name, found, expected = self.wrong[0]
            example = f"{name} is {found}, expected {expected}"
        else:
            example = f"{self.missing[0]} is missing" if self.missing else f"{self.unexpected[0]} is unknown"
        remedy = "take the config.json that belongs to these weights, or a complete copy" if self.said else "take a complete copy of the checkpoint"
        raise CinelabError(f"{self.source} does not fit a Wan transformer of {self.config.num_layers} layers and width {self.config.width}: "
                           f"{len(self.missing)} of {len(self.mapped) + len(self.missing)} tensors missing, {len(self.wrong)} of another shape, "
                           f"{len(self.unexpected)} unknown (first: {example}); {remedy}.")


@dataclass(frozen=True)
class Weights:
    """A source ready to be read: its size, the LoRA to merge, and the dtype to give (None = as stored). `to_run` leaves what
    steers the model in fp32, whatever the dtype (see `model.wan.kept_dtype`)."""

    source: Source
    config: WanConfig
    lora: dict[str, Factors]
    dtype: torch.dtype | None
    to_run: bool = False

    def made(self, name: str) -> torch.dtype:
        if self.dtype is None:
            return self.source.dtype(name)
        return kept_dtype(name, self.dtype) if self.to_run else self.dtype

    def exact(self, name: str) -> Tensor:
        """One tensor before it is rounded to its dtype: the file's own, or in float32 with its LoRA merged."""
        tensor = self.source.tensor(name)
        return self.lora[name].merge(tensor) if name in self.lora else tensor

    def tensor(self, name: str) -> Tensor:
        """One tensor in its dtype; what the file holds so already is not copied."""
        return self.exact(name).to(self.made(name))

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, self.tensor(name)) for name in self.source.keys())

    def report(self) -> Report:
        """What fits and what does not, told from names and shapes alone."""
        source, expected = self.source, shapes_of(self.config)
        known = [name for name in source.keys() if name in expected]
        unexpected = [source.raw[name] for name in source.keys() if name not in expected]
        wrong = [(source.raw[name], source.shape(name), expected[name]) for name in known if source.shape(name) != expected[name]]
        dtypes = Counter((dtype_name(source.dtype(name)), dtype_name(self.made(name))) for name in known)
        scales = sorted({round(factors.scale, 6) for factors in self.lora.values()})
        merged = f"{len(self.lora)} weights, scale {', '.join(map(str, scales))}" if self.lora else ""
        return Report(str(source.path), source.layout, source.part, source.parts, self.config, {source.raw[name]: name for name in known},
                      tuple(from_ours(name, source.naming) for name in expected if name not in source.stored), (*unexpected, *source.strange), tuple(wrong),
                      dict(dtypes), merged, sum(prod(source.shape(name)) * self.made(name).itemsize for name in known), source.config is not None)


def open_weights(path: str | Path, part: str = "auto", dtype: torch.dtype | str | None = None, lora: str | Path | None = None,
                 lora_scale: float | None = None) -> Weights:
    """Open weights of any layout. A LoRA is merged whether it lies in the file or in one of its own (`lora`); `lora_scale`
    takes the place of alpha / r, and 0 leaves the LoRA out."""
    source = open_source(path, part)
    if source.lora and lora is not None:
        raise CinelabError(f"{path} holds a LoRA itself ({len(source.lora)} tensors) and {lora} is a second one; convert the first, then merge the second.")
    if lora_scale is not None and not (source.lora or lora):
        raise CinelabError(f"lora_scale is {lora_scale}, but {path} holds no LoRA and no other is given; leave it out or give lora (--lora).")
    if lora is not None:
        factors = read_lora(lora, lora_scale)
    else:
        factors = pair(source.lora, Path(path), lora_scale) if source.lora else {}
    for name, factor in factors.items():
        held = source.stored.get(name)
        if held is None or (held.shape[0], prod(held.shape[1:])) != factor.change:
            found = "has no such weight" if held is None else f"has {held.shape}"
            raise CinelabError(f"LoRA for {name} changes {factor.change}, but {path} {found}; give the LoRA that was trained on these weights.")
    return Weights(source, config_in(source), {name: factor for name, factor in factors.items() if factor.scale}, dtype_of(dtype))


def config_of(path: str | Path, part: str = "auto") -> WanConfig:
    """The transformer's size, from config.json, and what that does not say from the shapes."""
    return config_in(open_source(path, part))


def config_in(source: Source) -> WanConfig:
    said = source.said
    if said.get("image_dim") is not None or said.get("qk_norm", "rms_norm_across_heads") != "rms_norm_across_heads":
        raise CinelabError(f"{source.config} has image_dim {said.get('image_dim')!r} and qk_norm {said.get('qk_norm')!r}; expected none and "
                           "'rms_norm_across_heads', as in Wan2.1 text-to-video, so take one of those.")
    known = {field.name for field in fields(WanConfig)}
    read = _read_off(source)
    if not said and read.get("num_attention_heads") is None:
        width = source.shape("patch_embedding.weight")[0] if "patch_embedding.weight" in source.stored else "unknown"
        raise CinelabError(f"{source.path} has width {width} and no config.json beside it; without one a multiple of {HEAD} (the size of Wan's "
                           "heads) is expected, so put the config.json that belongs to it in the same folder.")
    return from_dict(WanConfig, read | {name: value for name, value in said.items() if name in known}, f"{source.config}: ")


def _read_off(source: Source) -> dict[str, Any]:
    """Everything of WanConfig that shapes tell, as far as the tensors are there."""
    read = {name: source.shape(key)[axis] for name, (key, axis) in BEGIN.items() if key in source.stored and len(source.shape(key)) > axis}
    blocks = [int(name.split(".")[1]) for name in source.keys() if name.startswith("blocks.")]
    read |= {"num_layers": max(blocks) + 1} if blocks else {}
    read["cross_attn_norm"] = any(name.endswith(".norm2.weight") for name in source.keys())
    patch = source.shape("patch_embedding.weight") if "patch_embedding.weight" in source.stored else ()
    if len(patch) == 5:
        read["patch_size"] = tuple(patch[2:])
        read |= {"num_attention_heads": patch[0] // HEAD, "attention_head_dim": HEAD} if patch[0] % HEAD == 0 else {}
        if "proj_out.weight" in source.stored:
            read["out_channels"] = source.shape("proj_out.weight")[0] // prod(patch[2:])
    return read


def shapes_of(config: WanConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of a transformer of this size, by our names."""
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in CausalWan(config).state_dict().items()}


def load_into(model: CausalWan, path: str | Path, dtype: torch.dtype | str | None = None, part: str = "auto", lora: str | Path | None = None,
              lora_scale: float | None = None, device: str | torch.device | None = None) -> Report:
    """Fill `model` with the weights at `path`, all of it or nothing: what does not fit is refused before a tensor is read.

    dtype   of the parameters but those that stay in fp32; None keeps the model's own, or the file's for parameters on the meta device
    part    "auto" takes generator_ema where a training checkpoint has it, else generator; the report says which
    device  where parameters on the meta device go; None = the CPU. Others stay where they are.
    """
    weights = open_weights(path, part, dtype, lora, lora_scale)
    differ = [name for name in weights.source.said if hasattr(model.config, name) and getattr(weights.config, name) != getattr(model.config, name)]
    if differ:
        found, expected = getattr(weights.config, differ[0]), getattr(model.config, differ[0])
        raise CinelabError(f"{weights.source.config} says {differ[0]} {found}, the model was built with {expected}; build it with config_of(path).")
    parameters = dict(model.named_parameters())
    if dtype is None and not all(parameter.is_meta for parameter in parameters.values()):
        weights = Weights(weights.source, weights.config, weights.lora, next(iter(parameters.values())).dtype)
    weights = replace(weights, to_run=dtype is not None)
    report = replace(weights, config=model.config).report()
    report.demand()
    for name, tensor in weights:
        _put(model, name, parameters[name], tensor, device)
    return report


def _put(model: nn.Module, name: str, parameter: nn.Parameter, tensor: Tensor, device: str | torch.device | None) -> None:
    """Write into the parameter where it stands, or put a new one in the place of one that has no memory or another dtype."""
    if not parameter.is_meta and parameter.dtype == tensor.dtype:
        parameter.data.copy_(tensor)
        return
    place = (device or "cpu") if parameter.is_meta else parameter.device
    owner, _, leaf = name.rpartition(".")
    copy = tensor.to(place, copy=True)  # not the file's own pages
    setattr(model.get_submodule(owner), leaf, nn.Parameter(copy, parameter.requires_grad))


def dtype_of(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A dtype by torch's object or by name (fp32, bf16, fp16)."""
    if dtype is None or dtype in DTYPES.values():
        return dtype
    if dtype not in DTYPES:
        raise CinelabError(f"dtype is {str(dtype)!r}; expected one of {', '.join(DTYPES)}, or none for what the file has.")
    return DTYPES[dtype]


def dtype_name(dtype: torch.dtype) -> str:
    return next((name for name, known in DTYPES.items() if known == dtype), str(dtype).removeprefix("torch."))
