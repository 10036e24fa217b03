"""The steps of a training from nothing, one YAML file each, taken in the order of their names.

name: toybox-base               # its result is FOLDER/toybox-base
why: what it is for
stage: teacher_forcing          # a registered stage, or store, codec, recogniser
init: toybox-bidirectional      # a step before it, or a shipped checkpoint
codec: toybox-codec             # of the result, where it has no init
reader: toybox-recogniser       # that validates it
store: films                    # a step before it
also: {longer-films: 0.2}       # further stores, and the share of the clips that each gives
changes: {optim.lr: 3.0e-4}     # of the preset, whichever it is; "step:NAME" is that step's result
presets: {h100: {steps: 900}}   # further changes, by preset
world: toybox-2                 # of a store, codec or recogniser
levels: 4                       # of a student, where its stage's settings do not state it
hours: {toy: 1.2, h100: 0.07}   # that it is expected to take
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cinelab.config import from_dict, override
from cinelab.errors import CinelabError
from cinelab.limits import MINUTES, shown_path
from cinelab.readable import Readable
from cinelab.texts import JOB, read_yaml
from cinelab.train import presets
from cinelab.train.stage import stage_named
from cinelab.world.worlds import DEFAULT
from cinelab.zoo import checkpoints as zoo

PRESETS = ("smoke", "toy", "h100")
STORE = "store"
OWN = ("codec", "recogniser")  # trainings that are no registered stage
STEP = "step:"  # before the name of a step, in `changes`
# the fields that name a step before this one, or a shipped checkpoint
PLACES = ("init", "teacher", "codec", "reader", "store")


@dataclass(frozen=True)
class RecipeStep(Readable):
    """See the head of the file."""

    name: str
    why: str
    stage: str
    hours: dict[str, float]
    init: str | None = None
    teacher: str | None = None
    codec: str | None = None
    reader: str | None = None
    store: str | None = None
    also: dict[str, float] = field(default_factory=dict)
    changes: dict = field(default_factory=dict)
    presets: dict[str, dict] = field(default_factory=dict)
    seed: int = 0
    levels: int | None = None  # of a student, where its stage's settings do not say it
    # the made world of a store, codec or recogniser; None: the default one. A film model is of its
    # store's.
    world: str | None = None

    def __post_init__(self):
        if not self.name.replace("-", "").isalnum():
            raise CinelabError(
                f"name is {self.name!r}; use letters, digits and hyphens, since it names a folder."
            )
        for name in (*self.hours, *self.presets):
            if name not in PRESETS:
                raise CinelabError(f"{name!r} is no preset; use some of {', '.join(PRESETS)}.")
        if odd := [hours for hours in self.hours.values() if not 0 < hours < MINUTES[1]]:
            raise CinelabError(f"hours has {odd[0]}; more than 0 is expected.")
        for preset in PRESETS:
            self.config(preset)

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the names of what it is made of: steps before it, and shipped checkpoints."""
        named = [getattr(self, name) for name in PLACES]
        in_changes = [
            value.removeprefix(STEP)
            for changes in (self.changes, *self.presets.values())
            for value in changes.values()
            if isinstance(value, str) and value.startswith(STEP)
        ]
        return tuple(dict.fromkeys(filter(None, (*named, *self.also, *in_changes))))

    def changed(self, preset: str, folder: Path | None = None) -> dict[str, Any]:
        """Return what is changed of a preset; results of steps are named by their places in
        `folder`."""
        changes = self.changes | self.presets.get(preset, {})
        return {
            key: str(place_in(folder, value.removeprefix(STEP)))
            if isinstance(value, str) and value.startswith(STEP)
            else value
            for key, value in changes.items()
        }

    def config(self, preset: str, folder: Path | None = None) -> Any:
        """Return the settings of the step. Raises CinelabError where a change is wrong."""
        changes = self.changed(preset, folder)
        if self.stage == STORE or self.stage in OWN:
            made = getattr(presets, self.stage)(preset, world=self.world or DEFAULT)
            return override(made, changes)
        return override(stage_named(self.stage).preset(preset, self.seed), changes)


def check_preset(preset: str) -> None:
    """Raise CinelabError for a preset that recipes have not."""
    if preset not in PRESETS:
        raise CinelabError(f"--preset is {preset!r:.60}; use one of {', '.join(PRESETS)}.")


def place_in(folder: Path | None, name: str) -> Path | str:
    """Return where a step's result lies in a recipe's folder; a shipped name where it is none of
    the steps'."""
    return name if folder is None or not (folder / name).exists() else folder / name


def read_recipe(files: Path) -> list[RecipeStep]:
    """Return the steps of a folder of files. Raises CinelabError with the file and the key that is
    wrong."""
    paths = sorted(files.glob("*.yaml")) if files.is_dir() else []
    if not paths:
        raise CinelabError(
            f"{shown_path(files)} holds no step of a recipe; give a folder of .yaml files, such as "
            "experiments/recipe."
        )
    steps = [_read(path) for path in paths]
    for place, (path, step) in enumerate(zip(paths, steps, strict=True)):
        before = [one.name for one in steps[:place]]
        if step.name in before:
            raise CinelabError(f"{shown_path(path)}: a step before it is {step.name!r} too.")
        for name in step.needs:
            if name not in before and name not in zoo.shipped():
                raise CinelabError(
                    f"{shown_path(path)}: {name!r} is neither a step before it nor a shipped "
                    f"checkpoint; the steps before it are {', '.join(before) or 'none'}."
                )
    return steps


def _read(path: Path) -> RecipeStep:
    values = read_yaml(path, JOB)
    if not isinstance(values, dict):
        raise CinelabError(
            f"{shown_path(path)} holds {type(values).__name__}, not settings; see "
            "experiments/recipe."
        )
    try:
        return from_dict(RecipeStep, values)
    except CinelabError as error:
        raise CinelabError(f"{shown_path(path)}: {error}") from error
