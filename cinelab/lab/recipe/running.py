"""A recipe's steps, run in order: `run_recipe("results/recipe", "toy")`.

    RECIPE/NAME          what a step makes: weights, or a store of films
    RECIPE/runs/NAME     its training's run, which is resumed
    RECIPE/steps/NAME    what it was made with and of

A step that is done is skipped. SIGTERM, and the end of the minutes, end the running one with a save
at its next step; the same call goes on from there.
"""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch

from cinelab.data.toybox_jobs import build_at_once
from cinelab.devices import chosen_device
from cinelab.errors import CinelabError
from cinelab.lab.recipe.records import is_done, write_record
from cinelab.lab.recipe.steps import OWN, STORE, RecipeStep, check_preset, place_in, read_recipe
from cinelab.lab.training import stages, students
from cinelab.lab.training.run import StageRun
from cinelab.latent.mixed import MixedStore
from cinelab.latent.store import Store, world_of_store
from cinelab.outputs import AT_ONCE, writing
from cinelab.runs import log_rows
from cinelab.world.worlds import DEFAULT, world_named
from cinelab.zoo import checkpoints as zoo

GIB = 2**30
# what a preset needs: GiB of a GPU's memory, and of the host's
GPU_MEMORY = {"h100": 40.0}
HOST_MEMORY = {"toy": 4.0, "h100": 16.0}
RUNS = "runs"


@dataclass
class Sitting:
    """One call of the recipe: when its minutes are up, and whether it has to end."""

    minutes: float | None = None
    ending: bool = False
    training: StageRun | None = None
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float | None:
        """Return the minutes that are left; None = no end."""
        spent = (time.monotonic() - self.began) / 60
        return None if self.minutes is None else max(self.minutes - spent, 0.01)

    def end(self, *_: Any) -> None:
        """End with a save: a training at its next step, anything else now."""
        self.ending = True
        limit = None if self.training is None else self.training.run.time_limit
        if limit is None:
            raise KeyboardInterrupt
        limit.end_now()


@contextmanager
def ending_on_signals(sitting: Sitting) -> Iterator[None]:
    """Let SIGTERM, and the end of the minutes, end a sitting."""
    before = {
        number: signal.signal(number, sitting.end) for number in (signal.SIGTERM, signal.SIGALRM)
    }
    signal.setitimer(signal.ITIMER_REAL, 60 * (sitting.left or 0))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def check_machine(preset: str) -> None:
    """Raise CinelabError where this machine cannot hold a preset."""
    wanted = GPU_MEMORY.get(preset, 0.0)
    device = chosen_device()
    if wanted and not device.startswith("cuda"):
        raise CinelabError(
            f"Preset {preset} needs a GPU of {wanted:g} GiB, and this machine computes on the CPU; "
            "use --preset toy."
        )
    if wanted and (have := torch.cuda.get_device_properties(device).total_memory / GIB) < wanted:
        raise CinelabError(
            f"Preset {preset} needs a GPU of {wanted:g} GiB, and this one has {have:.0f} GiB; use "
            "--preset toy."
        )
    if (have := psutil.virtual_memory().total / GIB) < (wanted := HOST_MEMORY.get(preset, 0.0)):
        raise CinelabError(
            f"Preset {preset} needs {wanted:g} GiB of memory, and this machine has {have:.1f} GiB; "
            "use a smaller preset."
        )


def plan_lines(folder: Path, preset: str, steps: Sequence[RecipeStep]) -> list[list[str]]:
    """Return a line a step: its name, its stage, the hours it is expected to take, and whether it
    is done."""
    lines = []
    for step in steps:
        hours = step.hours.get(preset)
        lines.append(
            [
                step.name,
                step.stage,
                "" if hours is None else f"{hours:.2f}",
                _state(folder, preset, step),
            ]
        )
    return lines


def _state(folder: Path, preset: str, step: RecipeStep) -> str:
    if is_done(folder, step, preset):
        return "done"
    share = _share_done(folder, preset, step)
    return f"{share:.0%} done" if share else ""


def _share_done(folder: Path, preset: str, step: RecipeStep) -> float:
    """Return how much of an unfinished step is done, by its log."""
    if step.stage == STORE or not (folder / RUNS / step.name).is_dir():
        return 0.0
    return min(len(log_rows(folder / RUNS / step.name)) / step.config(preset).steps, 1.0)


def hours_left(folder: Path, preset: str, steps: Sequence[RecipeStep]) -> float:
    """Return the hours that the steps which are not done are expected to take."""
    return sum(
        step.hours.get(preset, 0.0) * (1 - _share_done(folder, preset, step))
        for step in steps
        if not is_done(folder, step, preset)
    )


def run_recipe(
    folder: str | Path,
    preset: str,
    files: str | Path = "experiments/recipe",
    *,
    until: str | None = None,
    minutes: float | None = None,
    jobs: int | None = None,
    tell: Callable[[str], None] = print,
) -> bool:
    """Run every step of a recipe that is not done, in order. Return whether all are done.

    `until` is the last step that is wanted, `jobs` the processes that build a store (None: one a
    core). Raises CinelabError where the machine cannot hold the preset, or what a step was made of
    is another thing now.
    """
    check_preset(preset)
    check_machine(preset)
    folder = Path(folder)
    steps = up_to(read_recipe(Path(files)), until)
    sitting = Sitting(minutes)
    with writing(folder, AT_ONCE, lend=True), ending_on_signals(sitting):
        for step in steps:
            if is_done(folder, step, preset):
                continue
            tell(f"{step.name}: {step.stage}")
            began = time.monotonic()
            if not run_step(folder, step, preset, sitting=sitting, jobs=jobs):
                return False
            write_record(folder, step, preset, seconds=time.monotonic() - began)
            if sitting.ending:
                return False
    return True


def up_to(steps: list[RecipeStep], until: str | None) -> list[RecipeStep]:
    """Return the steps up to one of them, that included. Raises CinelabError where it is none."""
    names = [step.name for step in steps]
    if until is None:
        return steps
    if until not in names:
        raise CinelabError(f"--until is {until!r}; use one of {', '.join(names)}.")
    return steps[: names.index(until) + 1]


def run_step(
    folder: Path, step: RecipeStep, preset: str, *, sitting: Sitting, jobs: int | None
) -> bool:
    """Make what a step makes; whether it is done."""
    if step.stage == STORE:
        config = step.config(preset, folder)
        codec = place_in(folder, step.codec or world_named(config.world).codec)
        build_at_once(folder / step.name, config, codec, jobs=jobs)
        return True
    training = training_of(folder, step, preset)
    sitting.training = training
    try:
        training.watch(minutes=sitting.left)
    finally:
        sitting.training = None
    if not training.run.done:
        return False
    training.export(folder / step.name)
    return True


def training_of(folder: Path, step: RecipeStep, preset: str) -> StageRun:
    """Return the training of a step, set up in its run's folder."""
    run = folder / RUNS / step.name
    changes = step.changed(preset, folder)
    if step.stage in OWN:
        world = step.world or DEFAULT
        return getattr(stages, step.stage)(run, preset, step.seed, changes, world=world)
    return stages.train_stage(
        step.stage,
        run,
        _store_of(folder, step),
        preset=preset,
        init=step.init and place_in(folder, step.init),
        teacher=step.teacher and place_in(folder, step.teacher),
        codec=step.codec and place_in(folder, step.codec),
        reader=step.reader and place_in(folder, step.reader),
        seed=step.seed,
        changes=changes,
        sampling=None if step.levels is None else students.few_steps(step.levels),
    )


def _store_of(folder: Path, step: RecipeStep) -> Store | MixedStore:
    """Return what a step draws its clips from."""
    if step.store is None:
        raise CinelabError(f"Step {step.name} names no store; add store: and a step's name.")
    encoder = zoo.toy_encoder(world=world_of_store(folder / step.store))
    if not step.also:
        return Store(folder / step.store, encoder)
    shares = {str(folder / step.store): 1 - sum(step.also.values())}
    return MixedStore(shares | {str(folder / k): v for k, v in step.also.items()}, encoder)
