"""Codecs by name: what a checkpoint's config.json names beside the codecs that are checkpoints.

@register.codec("mine")
class Mine:                   # encode, decode, channels, scale and stride as latent.codec.Codec
    ...

"codec": "toybox-codec"                             a checkpoint
"codec": "mine"                                     a registered name, or an import path
"codec": {"kind": "my_module:Mine", "scale": 8}     with settings: the arguments of its class
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from cinelab.config import KIND, from_dict, to_dict
from cinelab.errors import CinelabError
from cinelab.latent.codec import ToyCodec, ToyCodecConfig
from cinelab.latent.residual_codec import ResidualCodec, ResidualCodecConfig
from cinelab.registry import Registry

CODECS = Registry("codec")
# those that are trained here, by the kind that their config.json states: settings and class
TRAINED: dict[str, tuple[type, type[nn.Module]]] = {
    "toy": (ToyCodecConfig, ToyCodec),
    "residual": (ResidualCodecConfig, ResidualCodec),
}
UNNAMED = "toy"  # the kind of what was written before kinds had names
PARTS = ("encode", "decode", "channels", "scale", "stride")


def is_registered(entry: Any) -> bool:
    """Whether an entry `codec` of a config.json names a class, and not a checkpoint."""
    if isinstance(entry, Mapping):
        return True
    return isinstance(entry, str) and (":" in entry or entry in CODECS)


def build_codec(entry: str | Mapping[str, Any], where: str = "") -> Any:
    """Return the codec that such an entry names. CinelabError where it cannot be made, or is no
    codec."""
    settings = dict(entry) if isinstance(entry, Mapping) else {KIND: entry}
    name = settings.pop(KIND, None)
    if name is None:
        raise CinelabError(f"{where}codec has no {KIND}; give a registered name or an import path.")
    try:
        codec = CODECS.get(name)(**settings)
    except TypeError as error:
        raise CinelabError(f"{where}codec {name!r} cannot be made ({error}); correct it.") from None
    if lacking := [part for part in PARTS if not hasattr(codec, part)]:
        raise CinelabError(
            f"{where}codec {name!r} has no {lacking[0]}; a codec has {', '.join(PARTS)}."
        )
    return codec


def codec_config(entry: Mapping[str, Any]) -> Any:
    """Return the settings of a codec that is trained here, from the entry `codec` of its
    config.json."""
    settings = dict(entry)
    kind = settings.pop(KIND, UNNAMED)
    if kind not in TRAINED:
        raise CinelabError(f"The codec's {KIND} is {kind!r}; use one of {', '.join(TRAINED)}.")
    return from_dict(TRAINED[kind][0], settings)


def codec_entry(config: Any) -> dict[str, Any]:
    """Return the entry `codec` of the config.json of a codec with these settings."""
    kind = next(name for name, (settings, _) in TRAINED.items() if type(config) is settings)
    return {KIND: kind} | to_dict(config)


def made_codec(config: Any) -> Any:
    """Return a codec that is trained here, with fresh weights, by its settings."""
    return next(made for settings, made in TRAINED.values() if type(config) is settings)(config)
