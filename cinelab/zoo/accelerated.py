"""A model by name, run in one of the ways of `cinelab.scale.acceleration.SPEEDS`."""

from pathlib import Path
from typing import Any

from cinelab.scale.acceleration import Speed, accelerate, running_speed, speed_named
from cinelab.zoo.bundle import Bundle
from cinelab.zoo.checkpoints import is_wan, load

PLAIN: dict[str, Any] = {"kernel": "auto", "compiled": False, "linears": "full", "graphs": False}


def load_at_speed(
    name: str | Path, speed: str | None = None, *, fallback: bool = False, device: str | None = None
) -> Bundle:
    """Return a model as `load` does, run as `speed` names.

    speed     exact, compiled or fast; None is what a Wan folder's cinelab.json says, else exact
    fallback  whether a model that cannot be run so is run as exact, with a warning, in place of
              the refusal
    """
    given: dict[str, Any] = {} if speed is None else {"speed": speed}
    if fallback:
        given["fallback"] = "exact"
    if is_wan(Path(name)):
        from cinelab.zoo.wan import load_wan  # here, so that the toybox loads without diffusers

        plain = PLAIN if speed == "exact" else {}
        return load_wan(name, device=device, **plain, **given)
    wanted = speed_named(speed or "exact", fallback=given.get("fallback", "none"))
    bundle = load(name, device)
    return bundle if wanted.mode == "exact" else at_speed(bundle, wanted)


def at_speed(bundle: Bundle, speed: Speed) -> Bundle:
    """Return the bundle (in place) with its model run as `speed` says; its codec is compiled where
    the model is and the codec can be."""
    accelerate(bundle.model, speed)
    codec: Any = bundle.codec
    if running_speed(bundle.model).compiled and hasattr(codec, "compiled_decoder"):
        codec.compiled_decoder()
    return bundle
