"""What each step of a recipe was made with, and of what: RECIPE/steps/NAME.json, sealed.

The records of all steps are the lineage of the last one: data, codec, stage 0, stage 1, student,
each with the hashes of what it was made of.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from cinelab.checksums import checksum_of, read_sealed, write_sealed
from cinelab.errors import CinelabError
from cinelab.lab.recipe.steps import STORE, RecipeStep, place_in
from cinelab.lab.reports.origin import revision
from cinelab.runs import hardware
from cinelab.zoo import checkpoints as zoo

STEPS = "steps"
REMEDY = "restore it, or remove it and the step's result to make that again"
# of a step, what its result does not depend on
SAID = ("why", "hours")


def record_path(folder: Path, step: RecipeStep) -> Path:
    """Return the file of a step's record."""
    return folder / STEPS / f"{step.name}.json"


def result_settings(step: RecipeStep, preset: str) -> dict[str, Any]:
    """Return the settings that a step's result depends on."""
    values = {key: value for key, value in asdict(step).items() if key not in SAID}
    return values | {"presets": step.presets.get(preset, {}), "preset": preset}


def mark_of(place: Path | str) -> str:
    """Return a hash of a step's result: of its weights, or of the recipe of a store."""
    index = Path(place) / "store.json"
    if index.is_file():
        shards = sorted(path.name for path in Path(place).glob("*.npz"))
        return checksum_of(index.read_bytes(), "\n".join(shards).encode(), size=8)
    return zoo.fingerprint(place)


def marks_of_needs(folder: Path, step: RecipeStep) -> dict[str, str]:
    """Return the hash of everything that a step is made of, by name."""
    return {name: mark_of(place_in(folder, name)) for name in step.needs}


def write_record(folder: Path, step: RecipeStep, preset: str, *, seconds: float) -> None:
    """Note that a step is done, by which settings and of what."""
    (folder / STEPS).mkdir(parents=True, exist_ok=True)
    write_sealed(
        record_path(folder, step),
        {
            "settings": result_settings(step, preset),
            "kind": STORE if step.stage == STORE else "weights",
            "needs": marks_of_needs(folder, step),
            "result": mark_of(folder / step.name),
            "seconds": round(seconds, 1),
            "hardware": hardware(),
            "code": revision(),
        },
    )


def is_done(folder: Path, step: RecipeStep, preset: str) -> bool:
    """Whether a step is done. Raises CinelabError where its result was made by other settings, or
    of something that has changed since."""
    path = record_path(folder, step)
    if not path.exists():
        return False
    record = read_sealed(path, REMEDY, settings=dict, needs=dict[str, str], result=str)
    again = (
        f"remove {path}, {folder / step.name} and {folder / 'runs' / step.name} to make it again"
    )
    wanted = result_settings(step, preset)
    if odd := [key for key in wanted if wanted[key] != record["settings"].get(key)]:
        raise CinelabError(
            f"Step {step.name} was made with {odd[0]} {record['settings'].get(odd[0])!r:.80}, and "
            f"the recipe says {wanted[odd[0]]!r:.80}; {again}, or name another folder."
        )
    for name, mark in marks_of_needs(folder, step).items():
        if record["needs"].get(name) != mark:
            raise CinelabError(
                f"Step {step.name} was made of another {name} than is there now; {again}."
            )
    if mark_of(folder / step.name) != record["result"]:
        raise CinelabError(f"{folder / step.name} has changed since it was made; {again}.")
    return True


def lineage_of(folder: Path) -> dict[str, dict]:
    """Return the records of all steps that are done in a recipe's folder, by name."""
    return {
        path.stem: read_sealed(path, REMEDY, settings=dict, needs=dict[str, str], result=str)
        for path in sorted((folder / STEPS).glob("[!.]*.json"))
    }
