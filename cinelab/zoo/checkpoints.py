"""Checkpoints by name, folder or file: a model with its codec, its text encoder and the settings it
was trained with.

A checkpoint is a folder: config.json, weights.safetensors, their checksums.json, and what its run
left (log.jsonl, card, curve). Shipped ones live in cinelab/checkpoints: the codec, the recogniser,
toybox-bidirectional (short clips) and toybox-bidirectional-24, toybox-base, and the few-step
students toybox-1step, -2step, -4step and -chunk-4step.
"""

import warnings
from math import inf
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from cinelab.checksums import changed, check_unchanged, checksum, write_checksums
from cinelab.config import from_dict, mapping, read_mapping, to_dict
from cinelab.devices import chosen_device
from cinelab.errors import CinelabError
from cinelab.files import write_atomic, write_json
from cinelab.flow.sampler import Sampling
from cinelab.latent.checkpoint import Module, as_dtype, fill, read_weights
from cinelab.latent.codec import Codec
from cinelab.latent.codecs import build_codec, codec_config, is_registered, made_codec
from cinelab.model.backbone import build_backbone, model_from_dict, model_to_dict
from cinelab.model.wan import CausalWan, WanConfig
from cinelab.outputs import finish, half_saved, together
from cinelab.script.prompts import TextEncoder, WordEncoder, WordEncoderConfig
from cinelab.world.plans import UNNAMED
from cinelab.world.worlds import WORLD, World, check_same_world, named_in, world_named
from cinelab.zoo.bundle import CONFIG, SPAN, Bundle

# parameters of a model that may be built before its weights are compared with it
SMALL = 10**8
WHOLE = {
    "model": dict,
    "text": dict,
    "codec": str | dict,
    "sampling": dict,
    "chunk": int,
    "span": int,
    "fps": int | float,
    "size": list,
}
SHIPPED = Path(__file__).parent.parent / "checkpoints"
WEIGHTS = "weights.safetensors"
ADAPTER = "lora.safetensors"  # what a training of adapters writes


def shipped() -> list[str]:
    """Names of the checkpoints in the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CONFIG}"))


def students() -> list[str]:
    """Names of the shipped few-step students, fewest levels first."""
    found = [
        (read_mapping(SHIPPED / name / CONFIG, sampling=dict | None).get("sampling", {}), name)
        for name in shipped()
    ]
    return [
        name
        for sampling, name in sorted(found, key=lambda pair: (pair[0].get("steps", 0), pair[1]))
        if sampling.get("solver") == "consistency"
    ]


def find(name: str | Path) -> Path:
    """Return the folder of a shipped name, of a folder, or of a weights file in a folder."""
    path = Path(name)
    for folder in (SHIPPED / path if path.parts == (path.name,) else path, path, path.parent):
        if half_saved(folder, CONFIG):  # a kill came between two moves, and all is there
            finish(folder, CONFIG)
        if (
            (folder / CONFIG).exists()
            and (folder / WEIGHTS).exists()
            and (folder != path.parent or path.exists())
        ):
            return folder
    _refuse_part(path)
    raise CinelabError(
        f"Checkpoint {str(name)!r} was not found: give one of "
        f"{', '.join(shipped()) or '(none shipped)'}, a folder with {CONFIG} and {WEIGHTS}, or a "
        "diffusers folder of Wan2.1."
    )


def _refuse_part(path: Path) -> None:
    """Raise CinelabError for a folder that holds only a part of a checkpoint: adapters, weights or
    a config.json alone."""
    if not path.is_dir():
        return
    config = (path / CONFIG).exists()
    adapter = (path / ADAPTER).exists()
    if adapter:
        raise CinelabError(
            f"Checkpoint {path} holds adapters alone ({ADAPTER}); merge them with `cinelab convert "
            f"BASE TARGET --lora {path / ADAPTER}`, then direct with TARGET as weights."
        )
    if config != (path / WEIGHTS).exists():
        there, lacks = (CONFIG, WEIGHTS) if config else (WEIGHTS, CONFIG)
        raise CinelabError(
            f"Checkpoint {path} holds {there} and no {lacks}; copy the whole folder."
        )


def save_checkpoint(
    folder: Path, module: nn.Module, config: dict, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Write weights (floats as `dtype`) and config, both or none. Overflow where `dtype` cannot
    hold a weight."""
    state = {
        name: as_dtype(value, dtype, f"{folder}: {name}").cpu().contiguous()
        for name, value in module.state_dict().items()
    }
    with together(folder, CONFIG) as scratch:
        write_atomic(scratch / WEIGHTS, lambda path: save_file(state, path))
        write_json(scratch / CONFIG, config)
        write_checksums(scratch, (WEIGHTS, CONFIG))


def fingerprint(folder: str | Path) -> str:
    """Return the short hash of a checkpoint's weights."""
    return checksum(find(folder) / WEIGHTS, size=8)


def load_codec(name: str | Path | None = None, device: str | None = None) -> Any:
    """Return a codec by name or folder (None: that of the default world) on `device` (None: the
    chosen one)."""
    device = chosen_device(device)
    folder = find(name or world_named().codec)
    codec = made_codec(codec_config(read_part(folder, "codec")))
    return load_weights(codec, folder).to(device)


def load_weights(
    module: Module, folder: Path, weights: dict[str, torch.Tensor] | None = None
) -> Module:
    """Return `module` with the weights of a checkpoint folder (given where they are read already):
    all of them, floats, finite, of the right shapes, and those that were written there. Warn where
    config.json has changed since, which may have been on purpose."""
    fill(module, read_weights(folder / WEIGHTS) if weights is None else weights, folder / WEIGHTS)
    check_unchanged(folder, WEIGHTS)
    if changed(folder, CONFIG):
        warnings.warn(
            f"{folder / CONFIG} has changed since it was written, for its checksum is another; "
            "copy it again unless you have changed it yourself.",
            stacklevel=3,
        )
    return module


def world_in(name: str | Path) -> str:
    """Return the name of the world of a checkpoint, or of whatever else has a config.json."""
    return named_in(read_mapping(find(name) / CONFIG))


def toy_encoder(
    config: WordEncoderConfig | None = None, world: str | World | None = None
) -> WordEncoder:
    """Return the encoder of a world's prompts (None: the default world)."""
    spoken = world_named(world)
    config = config or WordEncoderConfig(length=spoken.prompt_words)
    return WordEncoder(spoken.known_words(), config, spoken.families())


def read_part(folder: Path, key: str) -> Any:
    config = read_mapping(folder / CONFIG)
    if key == "text" and key not in config and "stage" in config:
        raise CinelabError(
            f'{folder} is a transformer alone, trained here at Wan\'s size; write {{"weights": '
            f'"{folder.resolve()}"}} into '
            "cinelab.json of a diffusers folder of Wan2.1, and name that folder."
        )
    if key not in config:
        raise CinelabError(
            f"{folder / CONFIG} has no {key!r}; it is not a checkpoint of the kind requested."
        )
    return config[key]


def model_config(
    model: WanConfig,
    encoder: WordEncoder,
    codec: str | dict,
    sampling: Sampling,
    chunk: int,
    span: int,
    fps: float,
    size: tuple[int, int],
    *,
    world: str = UNNAMED,
    **more: Any,
) -> dict:
    """Return the content of a model checkpoint's config.json."""
    return {
        "model": model_to_dict(model),
        "text": to_dict(encoder.config) | {"vocabulary": list(encoder.vocabulary)},
        "codec": codec,
        "sampling": to_dict(sampling.filled()),
        "chunk": chunk,
        "span": span,
        "fps": fps,
        "size": list(size),
        WORLD: world,
        **more,
    }


def load(name: str | Path, device: str | None = None) -> Bundle:
    """Return a ready model by shipped name, folder or file; also a folder of Wan's published
    weights (see `zoo.wan.load_wan`).

    `device` is "auto", "cpu", "cuda" or "cuda:1"; None is what CINELAB_DEVICE says, else auto: a
    GPU where one is there and works. Raise CinelabError for a device that is not there.
    """
    if is_wan(Path(name)):
        from cinelab.zoo.wan import load_wan  # here, so that the toybox loads without diffusers

        return load_wan(name, device=device)
    device = chosen_device(device)
    folder = find(name)
    config = {key: read_part(folder, key) for key in WHOLE} | read_mapping(folder / CONFIG)
    if odd := next((key for key, kind in WHOLE.items() if not isinstance(config[key], kind)), None):
        raise CinelabError(
            f"{folder / CONFIG} has {odd} {config[odd]!r:.60}, which is none; copy the folder "
            "again."
        )
    text = mapping(config["text"], f"{folder / CONFIG}: text", vocabulary=list[str] | None)
    world = _world_in(config, folder)
    encoder = WordEncoder(
        text.pop("vocabulary", ()), from_dict(WordEncoderConfig, text), world.families()
    )
    model = _transformer(model_from_dict(config["model"]), folder)
    codec = _codec_of(config["codec"], folder, device, world=world.name)
    _check_parts(model.config, codec, encoder, config, folder)
    return Bundle(
        folder.name,
        model.to(device),
        codec.to(device) if hasattr(codec, "to") else codec,
        encoder,
        from_dict(Sampling, config["sampling"]),
        config["chunk"],
        config["span"],
        config["fps"],
        tuple(config["size"]),
        config,
        lambda: fingerprint(folder),
        policy=config.get("policy"),
        max_distance=config.get("max_distance", config.get("reach", SPAN)),
    )


def _world_in(config: dict, folder: Path) -> World:
    """Return the world that a folder's config.json names."""
    try:
        return world_named(named_in(config))
    except CinelabError as error:
        raise CinelabError(f"{folder / CONFIG}: {error}") from None


def _codec_of(entry: str | dict, folder: Path, device: str, *, world: str) -> Codec:
    """Return the codec that a folder's config.json names: a registered class, or a checkpoint, a
    neighbour of the folder first. CinelabError for a codec of another world."""
    if isinstance(entry, dict) or is_registered(entry):
        return build_codec(entry, f"{folder / CONFIG}: ")
    near = folder.parent / entry
    codec = near if (near / CONFIG).exists() else entry
    check_same_world(
        world_in(codec),
        world,
        what=f"Codec {entry}",
        whose=str(folder),
        remedy=f"name the codec that it was trained with in {CONFIG}",
    )
    return load_codec(codec, device)


def _transformer(config: WanConfig, folder: Path) -> CausalWan:
    """Return a transformer with a folder's weights. Refuse one that is far larger than these before
    it takes any memory."""
    weights = read_weights(folder / WEIGHTS)
    held = sum(value.numel() for value in weights.values())
    try:
        with torch.device("meta"):
            wanted = sum(value.numel() for value in build_backbone(config).state_dict().values())
    except RuntimeError:  # more bytes than can be counted
        wanted = inf
    if wanted > max(2 * held, SMALL):
        raise CinelabError(
            f"{folder / CONFIG} describes a model of {wanted} numbers, and {WEIGHTS} holds {held}; "
            f"restore the {CONFIG} that belongs to these weights."
        )
    return load_weights(build_backbone(config), folder, weights)


def _check_parts(
    model: WanConfig, codec: Codec, encoder: TextEncoder, config: dict, folder: Path
) -> None:
    """Refuse parts of different models, and a chunk, a span or a size that is none."""
    if (model.in_channels, model.out_channels) != (codec.channels, codec.channels):
        raise CinelabError(
            f"{folder} takes {model.in_channels} channels and gives {model.out_channels}, but its "
            f"codec {config['codec']} has {codec.channels}; name the codec that it was trained "
            f"with in {CONFIG}."
        )
    if model.text_dim != encoder.width:
        raise CinelabError(
            f"{folder} reads prompts {model.text_dim} wide, but its text encoder makes "
            f"{encoder.width}; restore its {CONFIG}."
        )
    grain = [codec.scale * patch for patch in model.patch_size[1:]]
    size = config["size"]
    if len(size) != 2 or any(
        not isinstance(side, int) or side < 1 or side % each
        for side, each in zip(size, grain, strict=False)
    ):
        raise CinelabError(
            f"{folder / CONFIG} has size {size}, and whole multiples of {grain[0]} x {grain[1]} "
            "pixels are expected; restore it."
        )
    if not 1 <= config["chunk"] <= config["span"] or not config["fps"] > 0:
        raise CinelabError(
            f"{folder / CONFIG} has chunk {config['chunk']}, span {config['span']} and fps "
            f"{config['fps']}; chunk must be from 1 to span, fps above 0; restore it."
        )


def is_wan(folder: Path) -> bool:
    """Return whether a folder is of Wan's kind: the parts of a diffusers model, or the original
    files (which `load_wan` refuses with a sentence)."""
    return not (folder / CONFIG).exists() and any(
        (folder / name).exists()
        for name in ("model_index.json", "transformer", "vae", "Wan2.1_VAE.pth")
    )
