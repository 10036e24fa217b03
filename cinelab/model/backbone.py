"""Backbones by name: the network of a checkpoint, of a stage's settings and of a preset.

    @register.backbone("mine")
    class Mine(nn.Module):
        Config = MineConfig                  # a frozen dataclass: the network's shape
        def __init__(self, config): ...
        def forward(self, x, t, condition, context): ...    # the velocity, as CausalWan's
        def encode_text(self, text): ...                    # keys and values, as CausalWan's

`Config` has in_channels, out_channels, text_dim and patch_size, by which data and codec are
checked. A checkpoint's config.json names its backbone by `"model": {"kind": ..., ...}`: an import
path, so that another process finds it, or nothing for Wan's.
"""

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from torch import nn

from cinelab.config import KIND, from_dict, to_dict
from cinelab.errors import CinelabError
from cinelab.model.wan import CausalWan, WanConfig, init_toy
from cinelab.registry import Registry, path_of

WAN = "wan"


class Backbones(Registry):
    """The registry of backbones. Each has a class of settings of its own, by which it is known."""

    def _check(self, name: str, thing: Any) -> None:
        super()._check(name, thing)
        config = config_class(thing)
        if not is_dataclass(config):
            raise CinelabError(
                f"The backbone {name!r} has no Config; give it one, the dataclass of its settings."
            )
        for other, kind in self._things.items():
            if other != name and config_class(kind) is config:
                raise CinelabError(
                    f"The backbone {name!r} has {config.__name__} for its Config, which is "
                    f"{other!r}'s; give it a class of its own (an empty one below that will do)."
                )


def config_class(kind: type) -> Any:
    """Return the class of a backbone's settings, or None where it has none."""
    return WanConfig if kind is CausalWan else vars(kind).get("Config")


BACKBONES = Backbones("backbone")
BACKBONES.add(WAN, CausalWan)


def backbone_of(config: Any) -> Any:
    """Return the class of the network with these settings. CinelabError where none is known."""
    for name in BACKBONES.names():
        kind = BACKBONES.get(name)
        if config_class(kind) is type(config):
            return kind
    raise CinelabError(
        f"model is a {type(config).__name__}, which is no registered backbone's Config; register "
        "the network with register.backbone."
    )


def build_backbone(config: Any) -> Any:
    """Return the network with these settings, its weights as it was constructed."""
    return backbone_of(config)(config)


def initialised(config: Any) -> Any:
    """Return a network to train from scratch; torch's global generator decides its weights."""
    model = build_backbone(config)
    return init_toy(model) if isinstance(model, CausalWan) else model


def is_wan_config(config: Any) -> bool:
    """Whether the settings are Wan's, so that its published layouts and ledgers hold."""
    return backbone_of(config) is CausalWan


def model_to_dict(config: Any) -> dict[str, Any]:
    """Return the entry `model` of a checkpoint's config.json."""
    kind = backbone_of(config)
    if kind is CausalWan:
        return to_dict(config)
    return {KIND: path_of(kind)} | to_dict(config)


def model_from_dict(values: Mapping[str, Any], where: str = "") -> Any:
    """Return the settings that `model_to_dict` wrote. CinelabError where the backbone or a setting
    is unknown."""
    kind = BACKBONES.get(values.get(KIND, WAN))
    config = config_class(kind) if isinstance(kind, type) else None
    if config is None or not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise CinelabError(
            f"{where}model is of kind {values[KIND]!r}, which is no network with a Config; give "
            "the import path of a registered backbone."
        )
    settings = {name: value for name, value in values.items() if name != KIND}
    return from_dict(config, settings)
