"""The toybox benchmark for anyone's model: what to make, as files; `cinelab eval videos` then
measures what was made.

    <folder>/films/s0-f00.shots.json             a film to make from its prompts alone: s0-f00.mp4
    <folder>/absence/a5-s0-f00.shots.json, .npz  a history to go on from (frames uint8), of which
                                                 the last shot is to be made: a5-s0-f00.mp4
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from cinelab.checksums import read_arrays
from cinelab.files import write_atomic
from cinelab.lab.studies.film_cell import listed
from cinelab.metrics.card import HELD_OUT, CardConfig
from cinelab.script.shotlist import SUFFIX
from cinelab.stream.video import write_mp4
from cinelab.world.plans import FilmPlan
from cinelab.world.worlds import world_named, world_of


def task_plans(config: CardConfig, world: str | None = None) -> dict[str, FilmPlan]:
    """Name -> plan of every task of a world (None: the default one); the very films of `cinelab
    score`."""
    plans = {}
    drawn = world_named(world)
    for seed in config.seeds:
        for film in range(config.films):
            plans[f"films/s{seed}-f{film:02d}"] = drawn.cast_film(
                HELD_OUT + seed, film, config.latents, shot_latents=config.shot_latents
            )
            for away in config.away:
                plans[f"absence/a{away}-s{seed}-f{film:02d}"] = drawn.absence(
                    HELD_OUT + seed, film, away
                )
    return plans


def export_tasks(
    folder: str | Path,
    config: CardConfig,
    tell: Callable[[str], None] = lambda text: None,
    *,
    world: str | None = None,
) -> int:
    """Write every task; returns how many. What is there already is written again, alike."""
    plans = task_plans(config, world)
    for number, (name, plan) in enumerate(plans.items(), 1):
        tell(f"{number} of {len(plans)}: {name}")
        shots = replace(listed(plan), chunks=())
        path = Path(folder) / name
        if name.startswith("absence"):
            shots = replace(shots, given=shots.shots[-1].start)
            history = world_of(plan).render(plan).frames[: shots.given]
            save = partial(np.savez_compressed, frames=history)
            write_atomic(path.with_suffix(".npz"), save)
        shots.save(path.with_name(path.name + SUFFIX))
    return len(plans)


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
