"""From a screenplay to a folder: film, storyboard, routing page, scores."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from cinelab.flow.sampler import Steps
from cinelab.lab.reports.routing_page import write_routing_page
from cinelab.memory.policy import Policy
from cinelab.metrics.rows import save_rows
from cinelab.metrics.toybox.film import film_values, plain_values
from cinelab.metrics.toybox.recogniser import load_recogniser
from cinelab.outputs import finish, ready_folder
from cinelab.script.screenplay import Screenplay
from cinelab.stream.batch import policy_for
from cinelab.stream.director import MARK, Director, Film, require_new_folder, saved_as
from cinelab.world.worlds import world_named
from cinelab.zoo.accelerated import load_at_speed


def director_for(
    model: str,
    policy: str | Policy | None = None,
    budget: int | None = None,
    *,
    seed: int | None = None,
    steps: Steps = None,
    speed: str | None = None,
    fallback: bool = False,
) -> Director:
    """Return a director from plain values, as a notebook or the command line has them. Without a
    policy it has the model's own (see `policy_for`), and it runs the model at the `speed` named
    (see `load_at_speed`)."""
    bundle = load_at_speed(model, speed, fallback=fallback)
    return Director(bundle, policy_for(bundle, policy, budget), seed, bundle.levels(steps))


def direct_film(
    play: Screenplay,
    folder: str | Path,
    model: str = "toybox-2step",
    *,
    policy: str | Policy | None = None,
    budget: int | None = None,
    seed: int | None = None,
    steps: Steps = None,
    speed: str | None = None,
    fallback: bool = False,
    progress: Callable[[int, int], None] | None = None,
    stage: Callable[[str], None] = lambda text: None,
) -> Path:
    """Make, score and save the film of a screenplay; an existing film is not overwritten.

    What can be refused is refused before the first chunk. A film that was stopped continues from
    its last finished chunk, and one whose saving was stopped is saved, if it is this one.
    `progress(done, of)` is called after every chunk, `stage(text)` when another part of the work
    begins.
    """
    folder = ready_folder(folder)
    director = director_for(
        model, policy, budget, seed=seed, steps=steps, speed=speed, fallback=fallback
    )
    if finish(folder, MARK) and saved_as(folder, play, director):
        return folder
    require_new_folder(folder)
    stage("making the film")
    film = director.render(play, progress, keep=folder)
    stage("writing the film and its storyboard")
    film.save(folder, lambda film, to: save_findings(film, to, stage))
    return folder


def save_findings(
    film: Film, folder: str | Path, stage: Callable[[str], None] = lambda text: None
) -> pd.DataFrame:
    """Write routing.html and metrics.parquet to a film's folder. Return its rows."""
    folder = Path(folder)
    stage("writing the routing page")
    write_routing_page(film, folder / "routing.html")
    stage("measuring the film")
    rows = score(film)
    save_rows(rows, folder / "metrics.parquet")
    return rows


def score(film: Film) -> pd.DataFrame:
    """Measure a film: its rows by the recogniser of its world; where its model has none, cuts and
    speed only."""
    if film.world is None or film.frames.shape[1:3] != world_named(film.world).size:
        return plain_values(film.frames, film.timeline, film.timings)
    reader = load_recogniser(world=film.world)
    prompts = [
        shot.changes[-1].prompt if shot.changes else shot.prompt for shot in film.screenplay.shots
    ]
    return film_values(reader, film.frames, film.timeline, prompts=prompts, timings=film.timings)
