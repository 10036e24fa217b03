"""The toybox benchmark for anyone's model: what to make, as files; `cinelab eval videos` then
measures what was made.

    <folder>/films/s0-f00.shots.json             a film to make from its prompts alone: s0-f00.mp4
    <folder>/held/s0-f00.shots.json              the same, of one long shot
    <folder>/absence/a5-s0-f00.shots.json, .npz  a history to go on from (frames uint8), of which
                                                 the last shot is to be made: a5-s0-f00.mp4
    <folder>/paired/a5-s0-f00-a.shots.json, ...  the same twice, with -a and -b: two histories that
                                                 differ in one fact; make both on the same noise
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from cinelab.checksums import read_arrays
from cinelab.files import write_atomic
from cinelab.lab.studies.film_cell import listed
from cinelab.metrics.card import HELD_OUT, Absence, CardConfig, absences_of
from cinelab.metrics.toybox.held_films import held_latents, held_plans
from cinelab.metrics.toybox.paired_histories import PROTOCOL, Fact, listed_fact, paired_plans
from cinelab.readable import Readable
from cinelab.script.shotlist import SUFFIX, ShotList
from cinelab.stream.video import write_mp4
from cinelab.world.plans import FilmPlan
from cinelab.world.worlds import World, world_named, world_of


@dataclass(frozen=True)
class Task(Readable):
    """One film to make: its plan; of a film that goes on from its history, the absence that it
    tests, and of one of a pair, the fact by which its history differs."""

    plan: FilmPlan
    absence: Absence | None = None
    fact: Fact | None = None

    @property
    def shots(self) -> ShotList:
        """The shot list that is written beside it."""
        if self.absence is None:
            return replace(listed(self.plan), chunks=())
        shots = listed(self.plan)
        if self.fact:
            shots = listed_fact(self.plan, self.fact, self.absence.protocol)
        elif self.absence.in_span:
            shots = _named(shots, self.absence.protocol)
        return replace(shots, chunks=(), given=shots.shots[-1].start)


def _named(shots: ShotList, protocol: str) -> ShotList:
    """The shots, of which the last one names the test's protocol."""
    *before, last = shots.shots
    return replace(shots, shots=(*before, replace(last, shows=last.shows | {PROTOCOL: protocol})))


def tasks_of(config: CardConfig, world: str | None = None) -> dict[str, Task]:
    """Return name -> task of every task of a world (None: the default one); the very films of
    `cinelab score`. In span is what is as long as the films."""
    drawn = world_named(world)
    return {
        name: task
        for seed in config.seeds
        for name, task in (*_whole(drawn, config, seed), *_returns(drawn, config, seed))
    }


def _whole(world: World, config: CardConfig, seed: int) -> Iterator[tuple[str, Task]]:
    """Yield the films that are made from start to end."""
    for film in range(config.films):
        plan = world.cast_film(
            HELD_OUT + seed, film, config.latents, shot_latents=config.shot_latents
        )
        yield f"films/s{seed}-f{film:02d}", Task(plan)
    latents = held_latents(world, config.held_seconds, 1)
    for film, plan in enumerate(held_plans(world, HELD_OUT + seed, config.held_films, latents)):
        yield f"held/s{seed}-f{film:02d}", Task(plan)


def _returns(world: World, config: CardConfig, seed: int) -> Iterator[tuple[str, Task]]:
    """Yield the films of which the last shot is made."""
    for absence in absences_of(config, config.latents, 1):
        if absence.reframed:
            continue
        name = f"a{absence.away}{'-in-span' * absence.in_span}-s{seed}"
        plans = [
            world.absence(HELD_OUT + seed, film, absence.away, shot_latents=absence.shot_latents)
            for film in range(max(config.films, config.paired))
        ]
        for film, plan in enumerate(plans[: config.films]):
            yield f"absence/{name}-f{film:02d}", Task(plan, absence)
        for film, plan in enumerate(plans[: config.paired]):
            for half, one, fact in zip("ab", *paired_plans(plan, film), strict=True):
                yield f"paired/{name}-f{film:02d}-{half}", Task(one, absence, fact)


def task_plans(config: CardConfig, world: str | None = None) -> dict[str, FilmPlan]:
    """Name -> plan of every task of a world (None: the default one)."""
    return {name: task.plan for name, task in tasks_of(config, world).items()}


def export_tasks(
    folder: str | Path,
    config: CardConfig,
    tell: Callable[[str], None] = lambda text: None,
    *,
    world: str | None = None,
) -> int:
    """Write every task; returns how many. What is there already is written again, alike."""
    tasks = tasks_of(config, world)
    for number, (name, task) in enumerate(tasks.items(), 1):
        tell(f"{number} of {len(tasks)}: {name}")
        shots = task.shots
        path = Path(folder) / name
        if shots.given:
            history = world_of(task.plan).render(task.plan).frames[: shots.given]
            save = partial(np.savez_compressed, frames=history)
            write_atomic(path.with_suffix(".npz"), save)
        shots.save(path.with_name(path.name + SUFFIX))
    return len(tasks)


def answer_tasks(
    folder: str | Path,
    make: Callable[[FilmPlan, np.ndarray | None], np.ndarray],
    config: CardConfig,
    fps: float | None = None,
    names: Sequence[str] | None = None,
    *,
    world: str | None = None,
) -> None:
    """Fill a task folder: `make(plan, history)` returns a film's frames uint8 (F, H, W, 3). What
    was made already is kept."""
    for name, plan in task_plans(config, world).items():
        video = Path(folder) / f"{name}.mp4"
        if video.exists() or (names and name not in names):
            continue
        history = video.with_suffix(".npz")
        given = (
            read_arrays(history, ("frames",), "remove it and lay out the tasks again")[0]
            if history.exists()
            else None
        )
        write_mp4(video, make(plan, given), fps or world_of(plan).fps)
