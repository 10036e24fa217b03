"""A film with any model, watched while it is made: what notebook 50 shows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from cinelab.errors import CinelabError
from cinelab.flow.sampler import Steps
from cinelab.lab.first_film import save_findings
from cinelab.memory.policy import Policy
from cinelab.script.screenplay import Screenplay
from cinelab.stream.batch import TimedChunk, film_footprint, policy_for
from cinelab.stream.director import Director, Film, require_new_folder
from cinelab.stream.video import read_image, watchable_scale
from cinelab.zoo.bundle import Bundle
from cinelab.zoo.checkpoints import is_wan, load
from cinelab.zoo.footprint import free_bytes


def open_model(model: str, **settings) -> Bundle:
    """Open a shipped model by name, or a folder of Wan under those `WanSettings` that are not None.
    Raises CinelabError where settings are given for a shipped model."""
    given = {name: value for name, value in settings.items() if value is not None}
    if is_wan(Path(model)):
        from cinelab.zoo.wan import load_wan

        return load_wan(model, **given)
    if given:
        name, value = next(iter(given.items()))
        raise CinelabError(
            f"{name} is {value!r}, a setting of Wan folders, and {model} is none; leave it out, "
            "or name a diffusers folder."
        )
    return load(model)


def room(
    bundle: Bundle, play: Screenplay, policy: str | Policy | None = None, budget: int | None = None
) -> pd.DataFrame:
    """Return what the film will take beside the weights, and what is free: GiB by cause."""
    director = Director(bundle, policy_for(bundle, policy, budget))
    line = director.timeline(play)
    need = film_footprint(
        bundle,
        director.policy,
        len(line.slots),
        guided=bundle.sampling.guidance != 1,
        overlap=True,
        prompts=len(line.prompts) + 1,
    )
    rows = [
        {"what": what, "GiB": round(gib, 3), "where": where}
        for what, gib, where in need.lines()
        if gib
    ]
    free = free_bytes(bundle.device) / 2**30
    return pd.DataFrame([*rows, {"what": "free now", "GiB": round(free, 3), "where": "device"}])


def make_film(
    bundle: Bundle,
    play: Screenplay,
    folder: str | Path,
    *,
    policy: str | Policy | None = None,
    budget: int | None = None,
    seed: int | None = None,
    steps: Steps = None,
    overlap: bool | None = None,
    fused: bool = True,
    first: str | None = None,
) -> Film:
    """Stream the film, show its newest frame on the way, and save it with its findings; an existing
    film is not overwritten.

    overlap   decode in a stream of its own; None = on a GPU (on a CPU decoding and the model only
              compete for cores)
    fused     the clean pass of a chunk and the first level of the next in one pass
    first     an image file that the film begins with (frame-wise models)
    """
    folder = require_new_folder(folder)
    overlap = bundle.device.type == "cuda" if overlap is None else overlap
    director = Director(
        bundle,
        policy_for(bundle, policy, budget),
        seed,
        bundle.levels(steps),
        overlap=overlap,
        fused=fused,
    )
    image = None if first is None else read_image(first, bundle.size)
    film = director.render(play, first=image, show=_screen(), keep=folder)
    film.save(folder, save_findings)
    return film


def pace(film: Film) -> pd.DataFrame:
    """Return the seconds to the first frame, the frames per second once the film runs, and where
    the time goes."""
    causes = film.timings.drop(columns="chunk")
    frames = len(film.frames) / len(causes)
    steady = causes.iloc[1:] if len(causes) > 1 else causes
    row = {
        "first frame s": causes.iloc[0].sum(),
        "frames/s, one after the other": frames / steady.sum(axis=1).median(),
    }
    return pd.DataFrame(
        [row | {f"{cause} s a chunk": steady[cause].median() for cause in causes}]
    ).round(3)


def _screen() -> Callable[[TimedChunk], None]:
    """Return what shows every chunk's last frame in place of the one before, in a notebook; nothing
    elsewhere."""
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        return lambda timed: None
    if get_ipython() is None:
        return lambda timed: None
    handles: list[Any] = []

    def show(timed: TimedChunk) -> None:
        image = Image.fromarray(timed.frames[0][-1])
        scale = watchable_scale(image.height, image.width)
        image = image.resize((image.width * scale, image.height * scale))
        if handles:
            handles[0].update(image)
        else:
            handles.append(display(image, display_id=True))

    return show
