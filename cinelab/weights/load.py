"""Published weights into our transformer: what size they are, what is missing or too much, and
filling a model with them.

config_of("Wan2.1-T2V-1.3B-Diffusers")                       WanConfig load_into(model,
"self_forcing.pt", dtype=torch.bfloat16)    Report; `model` may stand on the meta device"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from math import isfinite, prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cinelab.config import from_dict
from cinelab.errors import CinelabError
from cinelab.latent.checkpoint import Overflow, as_dtype
from cinelab.model.wan import CausalWan, WanConfig, parameter_dtype
from cinelab.weights.layouts import from_ours
from cinelab.weights.lora import Adapter, Factors, pair, read_lora
from cinelab.weights.sources import WeightSource, open_source

HEAD = 128  # width of a head in every published Wan2.1, where no config.json says otherwise
# of anything that a config.json counts; of layers, which are built before weights are compared
LARGEST = 10**6
DEEPEST = 1000
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BEGIN = {  # where a size that no config.json says can be read off: tensor, axis
    "in_channels": ("patch_embedding.weight", 1),
    "text_dim": ("condition_embedder.text_embedder.linear_1.weight", 1),
    "freq_dim": ("condition_embedder.time_embedder.linear_1.weight", 1),
    "ffn_dim": ("blocks.0.ffn.net.0.proj.weight", 0),
}


@dataclass(frozen=True)
class Report:
    """What became of every key. `mapped` is the file's name to ours (or to the target's); all
    others are in the file's naming."""

    source: str
    layout: str
    part: str | None
    parts: tuple[str, ...]
    config: WanConfig
    mapped: dict[str, str]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    # name, shape found, shape expected
    wrong: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    dtypes: dict[tuple[str, str], int]  # (found, made) -> tensors
    lora: str  # what was merged, or ""
    bytes: int  # as made
    has_config: bool  # whether a config.json gave the size
    layers: int  # that the file holds, whatever its config.json says
    target: str = ""  # of a conversion
    to: str = ""

    @property
    def whole(self) -> bool:
        return not (self.missing or self.unexpected or self.wrong)

    def demand(self) -> None:
        """Refuse a half-match: every tensor of the config must be there, in its shape, and nothing
        else."""
        if self.whole:
            return
        if self.wrong:
            name, found, expected = self.wrong[0]
            example = f"{name} is {found}, expected {expected}"
        else:
            example = (
                f"{self.missing[0]} is missing"
                if self.missing
                else f"{self.unexpected[0]} is unknown"
            )
        remedy = (
            "take the config.json that belongs to these weights, or a complete copy"
            if self.has_config
            else "take a complete copy of the checkpoint"
        )
        layers = (
            f" (it holds {self.layers} layers)" if self.layers != self.config.num_layers else ""
        )
        raise CinelabError(
            f"{self.source} does not fit a Wan transformer of {self.config.num_layers} layers and "
            f"width {self.config.width}{layers}: {len(self.missing)} of "
            f"{len(self.mapped) + len(self.missing)} tensors missing, {len(self.wrong)} of another "
            f"shape, {len(self.unexpected)} unknown (first: {example}); {remedy}."
        )


@dataclass(frozen=True)
class Weights:
    """A source ready to be read: its size, the LoRA to merge, and the dtype to give (None = as
    stored). `to_run` leaves what steers the model in fp32, whatever the dtype (see
    `model.wan.parameter_dtype`)."""

    source: WeightSource
    config: WanConfig
    lora: dict[str, Factors]
    dtype: torch.dtype | None
    to_run: bool = False
    left_out: tuple[str, ...] = ()  # of the LoRA: what it holds for a text encoder

    def made(self, name: str) -> torch.dtype:
        if self.dtype is None:
            return self.source.dtype(name)
        return parameter_dtype(name, self.dtype) if self.to_run else self.dtype

    def exact(self, name: str) -> Tensor:
        """One tensor before it is rounded to its dtype: the file's own, or in float32 with its LoRA
        merged."""
        tensor = self.source.tensor(name)
        return self.lora[name].merge(tensor) if name in self.lora else tensor

    def tensor(self, name: str) -> Tensor:
        """One tensor in its dtype; what the file holds so already is not copied. Overflow where a
        number is not finite."""
        return as_dtype(self.exact(name), self.made(name), self.where(name))

    def where(self, name: str) -> str:
        """A tensor by the file's name, for a sentence."""
        merged = " with its LoRA merged" if name in self.lora else ""
        return f"{self.source.path}: {self.source.raw[name]}{merged}"

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, self.tensor(name)) for name in self.source.keys())

    def report(self) -> Report:
        """What fits and what does not, judged by names and shapes alone."""
        source = self.source
        expected = shapes_of(self.config)
        known = [name for name in source.keys() if name in expected]
        unexpected = [source.raw[name] for name in source.keys() if name not in expected]
        wrong = [
            (source.raw[name], source.shape(name), expected[name])
            for name in known
            if source.shape(name) != expected[name]
        ]
        dtypes = Counter(
            (dtype_name(source.dtype(name)), dtype_name(self.made(name))) for name in known
        )
        return Report(
            str(source.path),
            source.layout,
            source.part,
            source.parts,
            self.config,
            {source.raw[name]: name for name in known},
            tuple(from_ours(name, source.naming) for name in expected if name not in source.stored),
            (*unexpected, *source.strange),
            tuple(wrong),
            dict(dtypes),
            self._merged(),
            sum(prod(source.shape(name)) * self.made(name).itemsize for name in known),
            source.config is not None,
            _layers(source),
        )

    def _merged(self) -> str:
        """What a LoRA changes and with which scales, and what of it is left out; "" without one."""
        scales = sorted({round(one.scale, 6) for one in self.lora.values() if one.up})
        pairs = sum(bool(one.up) for one in self.lora.values())
        added = sum(len(one.added) for one in self.lora.values())
        parts = [f"{pairs} weights, scale {', '.join(map(str, scales))}"] if pairs else []
        parts += [f"{added} differences added"] if added else []
        parts += (
            [f"{len(self.left_out)} tensors of a text encoder left out (first: {self.left_out[0]})"]
            if self.left_out
            else []
        )
        return "; ".join(parts)


def open_weights(
    path: str | Path,
    part: str = "auto",
    dtype: torch.dtype | str | None = None,
    lora: str | Path | None = None,
    lora_scale: float | None = None,
) -> Weights:
    """Open weights of any layout. A LoRA is merged whether it lies in the file or in one of its own
    (`lora`); `lora_scale` takes the place of alpha / r, and 0 leaves the LoRA out."""
    if lora_scale is not None and not isfinite(lora_scale):
        raise Overflow(f"lora_scale (--lora-scale) is {lora_scale}; a finite number is expected.")
    source = open_source(path, part)
    if source.lora and lora is not None:
        raise CinelabError(
            f"{path} holds a LoRA itself ({len(source.lora)} tensors) and {lora} is a second one; "
            "convert the first, then merge the second."
        )
    if lora_scale is not None and not (source.lora or lora):
        raise CinelabError(
            f"lora_scale is {lora_scale}, but {path} holds no LoRA and no other is given; leave it "
            "out or give lora (--lora)."
        )
    if lora is not None:
        adapter = read_lora(lora, lora_scale)
    else:
        adapter = pair(source.lora, Path(path), lora_scale) if source.lora else Adapter()
    _check_adapter(adapter, source)
    factors = {name: factor for name, factor in adapter.factors.items() if not factor.empty}
    return Weights(source, config_in(source), factors, dtype_of(dtype), left_out=adapter.left_out)


def _check_adapter(adapter: Adapter, source: WeightSource) -> None:
    """Refuse a LoRA that changes what the weights have not, or have in another shape."""
    for name, factor in adapter.factors.items():
        held = source.stored.get(name)
        there = held and (*held.shape[:1], prod(held.shape[1:]))
        odd = next((change for change in factor.changes if change != there), None)
        if odd is not None:
            found = "has no such weight" if held is None else f"has {held.shape}"
            raise CinelabError(
                f"LoRA for {name} changes {odd}, but {source.path} {found}; give the LoRA that was "
                "trained on these weights."
            )


def config_of(path: str | Path, part: str = "auto") -> WanConfig:
    """The transformer's size, from config.json, and what that does not say from the shapes."""
    return config_in(open_source(path, part))


def config_in(source: WeightSource) -> WanConfig:
    stated = source.stated
    if (
        stated.get("image_dim") is not None
        or stated.get("qk_norm", "rms_norm_across_heads") != "rms_norm_across_heads"
    ):
        raise CinelabError(
            f"{source.config} has image_dim {stated.get('image_dim')!r} and qk_norm "
            f"{stated.get('qk_norm')!r}; expected none and 'rms_norm_across_heads', as in Wan2.1 "
            "text-to-video, so take one of those."
        )
    known = {field.name for field in fields(WanConfig)}
    read = _read_off(source)
    if not stated and read.get("num_attention_heads") is None:
        width = (
            source.shape("patch_embedding.weight")[0]
            if "patch_embedding.weight" in source.stored
            else "unknown"
        )
        raise CinelabError(
            f"{source.path} has width {width} and no config.json beside it; without one a multiple "
            f"of {HEAD} (the size of Wan's heads) is expected, so put the config.json that belongs "
            "to it in the same folder."
        )
    config = from_dict(
        WanConfig,
        read | {name: value for name, value in stated.items() if name in known},
        f"{source.config}: ",
    )
    _check_config(config, source)
    return config


def _check_config(config: WanConfig, source: WeightSource) -> None:
    """Refuse sizes that no transformer has, before one is built of them."""
    where = source.config or source.path
    counts = {
        name: value
        for name, value in vars(config).items()
        if isinstance(value, int) and not isinstance(value, bool)
    }
    odd = next((name for name, value in counts.items() if not 1 <= value <= LARGEST), None)
    if odd is None and (len(config.patch_size) != 3 or min(config.patch_size) < 1):
        odd = "patch_size"
    if odd is None and config.num_layers > DEEPEST:
        odd = "num_layers"
    if odd is not None:
        raise CinelabError(
            f"{where} has {odd} {getattr(config, odd)!r}, which no Wan transformer has; restore "
            "the config.json that was published."
        )


def _layers(source: WeightSource) -> int:
    """How many blocks a source holds, counted by the highest number."""
    return max(
        (int(name.split(".")[1]) + 1 for name in source.keys() if name.startswith("blocks.")),
        default=0,
    )


def _read_off(source: WeightSource) -> dict[str, Any]:
    """Everything of WanConfig that shapes tell, as far as the tensors are there."""
    read: dict[str, Any] = {
        name: source.shape(key)[axis]
        for name, (key, axis) in BEGIN.items()
        if key in source.stored and len(source.shape(key)) > axis
    }
    read |= {"num_layers": layers} if (layers := _layers(source)) else {}
    read["cross_attn_norm"] = any(name.endswith(".norm2.weight") for name in source.keys())
    patch = (
        source.shape("patch_embedding.weight") if "patch_embedding.weight" in source.stored else ()
    )
    if len(patch) == 5:
        read["patch_size"] = tuple(patch[2:])
        read |= (
            {"num_attention_heads": patch[0] // HEAD, "attention_head_dim": HEAD}
            if patch[0] % HEAD == 0
            else {}
        )
        if "proj_out.weight" in source.stored:
            read["out_channels"] = source.shape("proj_out.weight")[0] // prod(patch[2:])
    return read


def shapes_of(config: WanConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of a transformer of this size, by our names."""
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in CausalWan(config).state_dict().items()}


def load_into(
    model: CausalWan,
    path: str | Path,
    dtype: torch.dtype | str | None = None,
    part: str = "auto",
    lora: str | Path | None = None,
    lora_scale: float | None = None,
    device: str | torch.device | None = None,
) -> Report:
    """Fill `model` with the weights at `path`, all of it or nothing: what does not fit is refused
    before a tensor is read.

    dtype   of the parameters but those that stay in fp32; None keeps the model's own, or the file's
    for parameters on the meta device part    "auto" takes generator_ema where a training checkpoint
    has it, else generator; the report says which device  where parameters on the meta device go;
    None = the CPU. Others stay where they are."""
    weights = open_weights(path, part, dtype, lora, lora_scale)
    differ = [
        name
        for name in weights.source.stated
        if hasattr(model.config, name)
        and getattr(weights.config, name) != getattr(model.config, name)
    ]
    if differ:
        found = getattr(weights.config, differ[0])
        expected = getattr(model.config, differ[0])
        raise CinelabError(
            f"{weights.source.config} says {differ[0]} {found}, the model was built with "
            f"{expected}; build it with config_of(path)."
        )
    parameters = dict(model.named_parameters())
    if dtype is None and not all(parameter.is_meta for parameter in parameters.values()):
        weights = replace(weights, dtype=next(iter(parameters.values())).dtype)
    weights = replace(weights, to_run=dtype is not None)
    report = replace(weights, config=model.config).report()
    report.demand()
    for name, tensor in weights:
        _put(model, name, parameters[name], tensor, device)
    return report


def _put(
    model: nn.Module,
    name: str,
    parameter: nn.Parameter,
    tensor: Tensor,
    device: str | torch.device | None,
) -> None:
    """Write into the parameter where it stands, or put a new one in the place of one that has no
    memory or another dtype."""
    if not parameter.is_meta and parameter.dtype == tensor.dtype:
        parameter.data.copy_(tensor)
        return
    place = (device or "cpu") if parameter.is_meta else parameter.device
    owner, _, leaf = name.rpartition(".")
    copy = tensor.to(place, copy=True)  # not the file's own pages
    setattr(model.get_submodule(owner), leaf, nn.Parameter(copy, parameter.requires_grad))


def dtype_of(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Return a dtype by torch's object or by name (fp32, bf16, fp16)."""
    if dtype is None:
        return None
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CinelabError(
            f"dtype is {str(dtype)!r}; expected one of {', '.join(DTYPES)}, or none for what the "
            "file has."
        )
    return DTYPES[dtype]


def dtype_name(dtype: torch.dtype) -> str:
    return next(
        (name for name, known in DTYPES.items() if known == dtype),
        str(dtype).removeprefix("torch."),
    )
