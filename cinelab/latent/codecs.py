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

from cinelab.config import KIND
from cinelab.errors import CinelabError
from cinelab.registry import Registry

CODECS = Registry("codec")
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
