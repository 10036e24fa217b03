"""Whether a checkpoint that came back can take the place of a shipped one."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cinelab.config import read_mapping, to_dict
from cinelab.errors import CinelabError
from cinelab.lab.recipe.returned import Returned
from cinelab.metrics.toybox.recogniser import load_recogniser
from cinelab.train import presets
from cinelab.train.stage import STAGES, stage_named
from cinelab.world.worlds import named_in, world_named
from cinelab.zoo import checkpoints as zoo

MODEL = "model"  # what makes films; besides: codec, recogniser


@dataclass(frozen=True)
class Checked:
    """A checkpoint that is sound: what it is, the shipped name that it goes by, the preset that its
    training is nearest to, and where it differs from that."""

    returned: Returned
    kind: str
    name: str
    preset: str
    differs: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    films: bool = True  # whether it makes films, which a card scores


def check_returned(
    found: Returned, name: str | None = None, codecs: dict[str, str] | None = None
) -> Checked:
    """Return what a checkpoint is. `name` is the shipped name that it is to go by (None: its own,
    or what its settings say); `codecs` are the hashes of the codecs that come with it, by name.

    Raises CinelabError where it is broken, was cut short, or belongs to another codec.
    """
    folder = zoo.find(found.folder)
    config = read_mapping(folder / zoo.CONFIG)
    _check_whole(folder, config)
    kind = kind_of_checkpoint(config)
    if kind == MODEL:
        _check_codec(found, config, codecs or {})
    OPENED[kind](folder, "cpu")
    preset, differs = nearest_preset(config, kind)
    return Checked(
        found,
        kind,
        name or name_for(found, config, kind),
        preset,
        differs,
        films=kind == MODEL and config.get("stage") != "bidirectional",
    )


# what opens a checkpoint, weights and checksums compared
OPENED: dict[str, Callable[..., Any]] = {
    MODEL: zoo.load,
    "codec": zoo.load_codec,
    "recogniser": load_recogniser,
}


def kind_of_checkpoint(config: dict) -> str:
    """Return what a checkpoint is: a model, a codec or a recogniser. Raises CinelabError for
    anything else."""
    for kind in (MODEL, "recogniser", "codec"):
        if isinstance(config.get(kind), dict):
            return kind
    raise CinelabError(
        f"{zoo.CONFIG} describes neither a model nor a codec nor a recogniser; copy the checkpoint "
        "again."
    )


def _check_whole(folder: Path, config: dict) -> None:
    """Raise CinelabError for a training that was cut short."""
    steps = (config.get("run") or {}).get("steps")
    wanted = (config.get("training") or {}).get("steps")
    if config.get("stopped") or (steps is not None and wanted is not None and steps < wanted):
        at = f" at step {steps} of {wanted}" if steps is not None else ""
        raise CinelabError(
            f"The training of {folder} was cut short{at}; run it again in its folder, which goes "
            "on, or give it more minutes."
        )


def _check_codec(found: Returned, config: dict, codecs: dict[str, str]) -> None:
    """Raise CinelabError where a model's films were encoded with another codec than its config.json
    names."""
    entry = config.get("codec")
    if not found.codec or not isinstance(entry, str):
        return
    mark = codecs.get(entry) or (zoo.fingerprint(entry) if entry in zoo.shipped() else "")
    if mark != found.codec:
        raise CinelabError(
            f"{found.folder} was trained on films of the codec {found.codec}, and {entry} is "
            f"{mark or 'not here'}; bring the codec that it belongs to with it."
        )


def name_for(found: Returned, config: dict, kind: str) -> str:
    """Return the shipped name of a checkpoint: its own where it is one, else by what it is."""
    if found.name in zoo.shipped() or kind != MODEL:
        return found.name
    stage = config.get("stage")
    # what a world's checkpoints are called after, such as toybox2
    family = world_named(named_in(config)).codec.removesuffix("-codec") or "toybox"
    if stage == "bidirectional":
        return f"{family}-bidirectional-24" if config["span"] > 8 else f"{family}-bidirectional"
    steps = config["sampling"]["steps"]
    few = config["sampling"].get("solver") == "consistency"
    chunk = "" if config["chunk"] == 1 else "chunk-"
    return f"{family}-{chunk}{steps}step" if few else f"{family}-{chunk}base"


def nearest_preset(config: dict, kind: str) -> tuple[str, dict[str, tuple[Any, Any]]]:
    """Return the preset that a training's settings are nearest to, and where they differ: setting
    -> (preset's, theirs). ("", {}) where nothing is known of its stage."""
    theirs = flat(without_places(config.get("training") or {}))
    known = _known_presets(config.get("stage") if kind == MODEL else kind, named_in(config))
    if not theirs or not known:
        return "", {}
    differences = {
        name: {
            key: (value, theirs[key])
            for key, value in flat(to_dict(settings)).items()
            if key in theirs and theirs[key] != value
        }
        for name, settings in known.items()
    }
    nearest = min(differences, key=lambda name: len(differences[name]))
    return nearest, differences[nearest]


def _known_presets(stage: str | None, world: str) -> dict[str, Any]:
    if stage in ("codec", "recogniser"):
        made = getattr(presets, stage)
        return {name: made(name, world=world) for name in ("smoke", "toy", "h100")}
    return stage_named(stage).presets(0) if stage is not None and stage in STAGES else {}


def flat(values: dict, before: str = "") -> dict[str, Any]:
    """Return nested settings with dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= (
            flat(value, f"{before}{key}.") if isinstance(value, dict) else {before + key: value}
        )
    return found


def without_places(value: Any) -> Any:
    """Return settings in which paths are the names at their ends: where a training lay says nothing
    of what it is."""
    if isinstance(value, dict):
        return {key: without_places(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_places(item) for item in value]
    is_path = isinstance(value, str) and "/" in value and " " not in value
    return Path(value).name if is_path else value
