"""A whole folder of Wan2.1 as a `Bundle`: transformer, video autoencoder and text encoder, ready
for a director.

    bundle = load_wan("Wan2.1-T2V-1.3B-Diffusers", weights="self_forcing_dmd.pt")
    film = Director(bundle).render(Screenplay.load("film.yaml"))

What is not given is read from `cinelab.json` in the folder, if there is one, and else is as in
`WanSettings`; so a folder whose settings were written once is loaded by its name alone, `cinelab
direct film.yaml --model FOLDER`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cinelab.config import override, read_mapping, renamed, to_dict
from cinelab.devices import chosen_device
from cinelab.errors import CinelabError
from cinelab.files import glance
from cinelab.flow.sampler import Sampling
from cinelab.latent.taehv import TinyCodec
from cinelab.latent.wan_codec import WanCodec, check_size
from cinelab.limits import short
from cinelab.model.wan import CausalWan, WanConfig
from cinelab.readable import Readable
from cinelab.scale.acceleration import Speed, accelerate, running_speed, speed_named
from cinelab.script.umt5 import Umt5Encoder
from cinelab.texts import read_json
from cinelab.weights.load import DTYPES, config_of, dtype_name, load_into
from cinelab.world.worlds import WORLD
from cinelab.zoo.bundle import CONFIG, SPAN, Bundle, check_max_distance
from cinelab.zoo.footprint import check_weight_memory, free_bytes

SETTINGS = "cinelab.json"
TINY = "tiny:"  # before the file of a tiny codec
ENCODERS = ("free", "keep", "offload")
# of the KV cache's storage, as in memory.store
PLACES = ("device", "host")
PACKINGS = ("none", "int8", "fp8")
# what a bundle says of its films' KV cache and of the policy that reads it
KV_SETTINGS = ("place", "packing", "slots", "summary", "reuse_choice")
# of the published 4-step students
FEW = Sampling(4, "consistency", guidance=1.0, shift=5.0, at=(1.0, 0.75, 0.5, 0.25))


VideoCodec = WanCodec | TinyCodec


@dataclass(frozen=True)
class WanSettings(Readable):
    """The settings of a folder. Paths are relative to the folder."""

    # a student's checkpoint in any layout; None = the folder's own transformer
    weights: str | None = None
    part: str = "auto"  # of a training checkpoint: generator_ema, generator, critic
    codec: str = "vae"  # or "tiny:<file>", the file being taew2_1.safetensors or .pth
    chunk: int = 3  # latent frames: 3 = chunk-wise, 1 = frame-wise
    size: tuple[int, int] = (480, 832)  # height, width in pixels, multiples of 16
    sampling: Sampling = FEW
    dtype: str = "bf16"  # of transformer, codec and text encoder: fp32, bf16, fp16
    kernel: str = "auto"  # of attention
    # where encoded prompts are stored; cinelab.json can name a place within its folder only
    prompt_cache: str = "prompts"
    # the text encoder after use: freed, left on the device ("keep"), or in main memory ("offload")
    encoder: str = "free"
    # the prompt that guidance compares with: a text, or "published" (Wan's negative prompt)
    unconditional: str = "published"
    span: int = 21  # latent frames of the longest clip it was trained on
    # latent frames: temporal distances are clamped to it; "span" = span - 1, None = no limit
    max_distance: int | str | None = field(default=SPAN, metadata={"was": "reach"})
    # the memory policy of its training, as in config.json: {"name": "CAMR", "budget": 6, ...}
    policy: dict | None = None
    fps: float = 16.0
    # how the transformer is run: exact, compiled or fast (see scale.acceleration). What stands at
    # another value than its default in `kernel` or below goes before it
    speed: str = "exact"
    compiled: bool = False  # compile the blocks: slow to begin, faster after
    linears: str = "full"  # full, fp8, fp8-weights, int8-weights
    graphs: bool = False  # replay a chunk's later levels as one CUDA graph
    fallback: str = "none"  # "exact": run as exact, with a warning, where `speed` cannot be had
    # where the KV cache is stored: device, or host (memory), with `slots` pages a layer on the
    # device
    place: str = "device"
    packing: str = "none"  # of the KV cache: none, int8, fp8
    slots: int = 12
    # pooled tokens a page that routing searches, where `policy` is not the one of the film
    summary: int = 30
    # under CAMR a chunk's clean pass attends to what its first level retrieved
    reuse_choice: bool = True

    def __post_init__(self):
        check_size(self.size)
        for name, known in (
            ("dtype", tuple(DTYPES)),
            ("encoder", ENCODERS),
            ("place", PLACES),
            ("packing", PACKINGS),
        ):
            if getattr(self, name) not in known:
                raise CinelabError(
                    f"{name} is {getattr(self, name)!r}; use one of {', '.join(known)}."
                )
        _ = self.running
        check_max_distance(self.max_distance, "a Wan folder")
        if self.codec != "vae" and not (self.codec.startswith(TINY) and self.codec != TINY):
            raise CinelabError(
                f'codec is {self.codec!r}; use "vae", or "{TINY}<file>" with taew2_1.safetensors '
                "or taew2_1.pth."
            )
        if not 1 <= self.chunk <= self.span or not self.fps > 0:
            raise CinelabError(
                f"chunk is {self.chunk}, span {self.span} and fps {self.fps}; chunk must be from 1 "
                "to span, fps above 0."
            )

    @property
    def running(self) -> Speed:
        """How the transformer is run. Refuse unknown names."""
        return speed_named(
            self.speed,
            kernel=self.kernel,
            compiled=self.compiled,
            linears=self.linears,
            graphs=self.graphs,
            fallback=self.fallback,
        )


def load_wan(
    folder: str | Path,
    weights: str | Path | None = None,
    part: str | None = None,
    *,
    codec: str | None = None,
    dtype: torch.dtype | str | None = None,
    device: str | None = None,
    prompt_cache: str | Path | None = None,
    **more: Any,
) -> Bundle:
    """Return a diffusers folder of Wan2.1 text-to-video (transformer, vae, text_encoder, tokenizer)
    as a ready model.

    `more` are further fields of `WanSettings`, such as size=(480, 832), place="host" or
    linears="fp8". An argument goes before `cinelab.json`, that before what the config.json beside
    the weights states of their training (chunk, span, sampling, policy, max_distance), and that
    before `WanSettings`. None is "not given", but for `max_distance`, where it is no limit.
    `device` is as in `load`. The text encoder is read when a prompt is first
    encoded. Raise CinelabError where a part is absent, broken or of another model.
    """
    folder = wan_folder(folder)
    given = {
        "weights": _absolute(weights),
        "part": part,
        "codec": _absolute_codec(codec),
        "dtype": dtype_name(dtype) if isinstance(dtype, torch.dtype) else dtype,
        "prompt_cache": _absolute(prompt_cache),
    } | more
    settings = _settled(folder, given)
    device = chosen_device(device)
    precision = _precision(settings)
    source = folder / settings.weights if settings.weights else folder
    config = config_of(source, settings.part)
    video_codec = _codec(folder, settings, precision)
    text = _encoder(folder, settings, device, precision)
    _check_parts(config, video_codec, text, source, folder=folder)
    _check_device(config, settings, device, source)
    model, used = _transformer(config, settings, source, device)
    stated = to_dict(settings) | {"folder": str(folder), "model": to_dict(config), "part": used}
    stated |= {WORLD: None}
    return Bundle(
        str(folder),
        model,
        _on_device(video_codec, device, source, compiled=running_speed(model).compiled),
        text,
        settings.sampling.filled(FEW),
        settings.chunk,
        settings.span,
        settings.fps,
        settings.size,
        stated,
        lambda: glance(_weight_files(source)),
        {name: getattr(settings, name) for name in KV_SETTINGS},
        settings.policy,
        settings.max_distance,
        settings.unconditional,
    )


def _settled(folder: Path, given: Mapping[str, Any]) -> WanSettings:
    """Return the settings of a folder under those that are `given` (see `load_wan`)."""
    given = renamed(WanSettings, given)
    unlimited = "max_distance"  # the one setting of which None says something
    given = {name: value for name, value in given.items() if value is not None or name == unlimited}
    source = given.get("weights") or settings_of(folder).weights
    trained = trained_settings(folder / source) if source else {}
    return override(settings_of(folder, trained), given)


def _precision(settings: WanSettings) -> torch.dtype:
    return DTYPES[settings.dtype]


def _check_device(config: WanConfig, settings: WanSettings, device: str, source: Path) -> None:
    """Refuse a precision that a CPU is slow in, and weights that a GPU has no room for."""
    if device == "cpu" and _precision(settings) == torch.float16:
        raise CinelabError(
            "dtype is 'fp16' on a CPU, where it is a hundred times slower than fp32; use bf16."
        )
    if device.startswith("cuda"):
        check_weight_memory(config, settings.running.linears, free_bytes(device), str(source))


def _transformer(
    config: WanConfig, settings: WanSettings, source: Path, device: str
) -> tuple[CausalWan, str | None]:
    """Return the transformer with its weights, and the part of a training checkpoint that they
    are."""
    with torch.device("meta"):
        model = CausalWan(config)
    with _explain_room(source, device):
        report = load_into(model, source, _precision(settings), settings.part, device=device)
        model = model.eval().requires_grad_(False)
        if settings.running != Speed():
            model = accelerate(model, settings.running)
    return model, report.part


def _on_device(
    codec: VideoCodec, device: str, source: Path, *, compiled: bool = False
) -> VideoCodec:
    with _explain_room(source, device):
        codec = codec.to(device)
        if device.startswith("cuda"):
            codec.channels_last()
    return codec.compiled_decoder() if compiled else codec


@contextmanager
def _explain_room(source: Path, device: str) -> Iterator[None]:
    """Turn an allocator's error into one sentence."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise CinelabError(
            f"{source} does not fit on {device} ({str(error).splitlines()[0]}); use a smaller "
            "model, or free the device."
        ) from error


def load_parts(
    folder: str | Path, device: str | None = None, **given: Any
) -> tuple[VideoCodec, Umt5Encoder, WanSettings]:
    """Return what encodes training data: codec and text encoder of a folder, and its settings. The
    transformer is not read."""
    folder = wan_folder(folder)
    settings = override(
        settings_of(folder), {name: value for name, value in given.items() if value is not None}
    )
    device = chosen_device(device)
    precision = _precision(settings)
    return (
        _codec(folder, settings, precision).to(device),
        _encoder(folder, settings, device, precision),
        settings,
    )


def wan_folder(folder: str | Path) -> Path:
    """Return the folder if it is a diffusers one; else raise CinelabError with what it is and what
    to give."""
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise CinelabError(
            f"{folder} is not a folder; give one of the diffusers layout, with transformer, vae, "
            "text_encoder and tokenizer in it."
        )
    if not (folder / "vae").is_dir() and (folder / "Wan2.1_VAE.pth").exists():
        raise CinelabError(
            f"{folder} has the original layout of Wan2.1, whose codec and text encoder are not "
            "read; give the diffusers folder "
            f'(Wan-AI/Wan2.1-T2V-...-Diffusers), with weights="{folder}" if you want this '
            "transformer."
        )
    if not any((folder / name).is_dir() for name in ("transformer", "vae", "text_encoder")):
        held = ", ".join(sorted(path.name for path in folder.iterdir())[:6]) or "nothing"
        raise CinelabError(
            f"{folder} is no diffusers folder of Wan2.1 (found {held}); expected transformer, vae, "
            "text_encoder and tokenizer."
        )
    return folder


def settings_of(folder: Path, trained: dict[str, Any] | None = None) -> WanSettings:
    """Return `cinelab.json` of the folder over the settings of its weights' training (see
    `trained_settings`) over the defaults."""
    path = Path(folder) / SETTINGS
    base = override(WanSettings(), trained or {})
    if not path.exists():
        return base
    stated = read_mapping(path)
    cache = stated.get("prompt_cache", "")
    # it is written to
    if isinstance(cache, str) and (Path(cache).is_absolute() or ".." in Path(cache).parts):
        raise CinelabError(
            f"{path}: prompt_cache is {short(cache)}, which lies outside its folder; name a place "
            "within it, or give prompt_cache in Python (load_wan)."
        )
    try:
        return override(base, dict(_dotted(stated)))
    except CinelabError as error:
        raise CinelabError(f"{path}: {error}") from error


def trained_settings(source: Path) -> dict[str, Any]:
    """Return what the config.json beside weights that were trained here states of their films, as
    fields of WanSettings; {} for others'."""
    path = (source if source.is_dir() else source.parent) / CONFIG
    config = read_json(path) if path.exists() else {}
    if not isinstance(config, dict) or not {"model", "stage"} <= config.keys():
        return {}
    stated = renamed(WanSettings, config)
    names = ("chunk", "span", "sampling", "policy", "max_distance")
    return {name: stated[name] for name in names if name in stated}


def _dotted(stated: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield {"sampling": {"steps": 2}} as sampling.steps 2, so that what is not stated stays."""
    for name, value in stated.items():
        if isinstance(value, dict) and name != "policy":
            yield from ((f"{name}.{inner}", deeper) for inner, deeper in value.items())
        else:
            yield name, value


def _absolute(path: str | Path | None) -> str | None:
    """Resolve a path that was given in Python, which is relative to the working directory; one in
    `cinelab.json` is relative to the folder."""
    return None if path is None else str(Path(path).resolve())


def _absolute_codec(codec: str | None) -> str | None:
    if codec and codec.startswith(TINY) and codec != TINY:
        return f"{TINY}{_absolute(codec.removeprefix(TINY))}"
    return codec


def _codec(folder: Path, settings: WanSettings, dtype: torch.dtype) -> VideoCodec:
    if settings.codec == "vae":
        return WanCodec.load(folder / "vae", dtype)
    return TinyCodec.load(folder / settings.codec.removeprefix(TINY), dtype)


def _encoder(folder: Path, settings: WanSettings, device: str, dtype: torch.dtype) -> Umt5Encoder:
    return Umt5Encoder(
        folder,
        folder / settings.prompt_cache,
        device,
        dtype,
        keep=settings.encoder != "free",
        offload=settings.encoder == "offload",
    )


def _check_parts(
    config: WanConfig, codec: VideoCodec, text: Umt5Encoder, source: Path, *, folder: Path
) -> None:
    """Refuse parts of different models."""
    if (config.in_channels, config.out_channels) != (codec.channels, codec.channels):
        raise CinelabError(
            f"{source} takes {config.in_channels} channels and gives {config.out_channels}, but "
            f"the codec of {folder} has {codec.channels}; expected a text-to-video transformer of "
            "Wan2.1 with its own VAE."
        )
    if config.text_dim != text.width:
        raise CinelabError(
            f"{source} reads prompts {config.text_dim} wide, but the text encoder of {folder} "
            f"makes {text.width}; take both from one model."
        )


def _weight_files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    home = source / "transformer" if (source / "transformer").is_dir() else source
    return [path for path in home.iterdir() if path.suffix in (".safetensors", ".pt", ".pth")]
