"""What do rewards do to a few-step student? A cell: one arm, one method, one seed.

    arm                 rewards
    none                none count; the same training without them is the control
    identity            identity kept, alone: what can be had by moving less and varying less
    identity+guards     the same beside motion, diversity and prompt

    method              how they are taken in
    weighted_dmd        reward-weighted distribution matching (`cinelab.train.dmd`)
    forward_process     negative-aware fine-tuning (`cinelab.train.forward_process`)

All arms begin from one shipped student, draw the same clips, and log all rewards, also those that
do not count. The seed moves the training and the held-out films; START is the student before it.
The weights that are measured are the last average: no validation picks lucky ones.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from cinelab.config import override
from cinelab.errors import CinelabError
from cinelab.files import write_json
from cinelab.lab.studies.framing_cell import foretold
from cinelab.lab.studies.initialisation_cell import planned
from cinelab.lab.training import students
from cinelab.lab.training.run import StageRun
from cinelab.latent.store import Store
from cinelab.memory.policy import CAMR
from cinelab.metrics.card import HELD_OUT, of_source
from cinelab.metrics.rows import Row, row_table, save_rows
from cinelab.metrics.toybox.attributes import (
    Batch,
    absence_batch,
    encode_plans,
    film_rows,
    make_frames,
    recall,
)
from cinelab.metrics.toybox.recogniser import Recogniser, load_recogniser
from cinelab.metrics.toybox.validation import seeds_for
from cinelab.metrics.video.appearance import appearance_rows
from cinelab.model.wan import CausalWan
from cinelab.runs import hardware
from cinelab.stream.batch import decode
from cinelab.train import presets
from cinelab.world.worlds import prompted_names
from cinelab.zoo import checkpoints as zoo
from cinelab.zoo.bundle import Bundle

MEASURED_REWARDS = ("identity", "motion", "diversity", "prompt", "action")
ARMS: dict[str, dict[str, float]] = {
    "none": {},
    "identity": {"identity": 1.0},
    "identity+guards": {"identity": 1.0, "motion": 1.0, "diversity": 1.0, "prompt": 1.0},
}
REAL = "toybox-bidirectional-24"  # the real score of weighted_dmd
METHODS = ("weighted_dmd", "forward_process")
REWARDED_STAGES = ("before", "after")
SMOKE_FILMS: dict[str, Any] = {"films": 2, "latents": 6, "away": 1}


def reward_weights(arm: str) -> dict[str, float]:
    """Return the weights of an arm: 0 for what is only measured."""
    if arm not in ARMS:
        raise CinelabError(f"arm is {arm!r}; use one of {', '.join(ARMS)}.")
    return dict.fromkeys(MEASURED_REWARDS, 0.0) | ARMS[arm]


def check_method_changes(method: str, changes: Mapping[str, Any], preset: str) -> None:
    """Raise CinelabError for an unknown method, or for changes of settings that it does not have,
    before anything is trained."""
    if method not in METHODS:
        raise CinelabError(f"method is {method!r}; use one of {', '.join(METHODS)}.")
    makers = {"weighted_dmd": presets.dmd, "forward_process": presets.forward_process}
    for name, settings in changes.items():
        if name not in makers:
            raise CinelabError(f"changes has {name!r}; its methods are {', '.join(METHODS)}.")
        override(makers[name](preset), settings)


def reward_training(
    folder: str | Path,
    store: Store | str | Path,
    *,
    method: str,
    arm: str,
    student: str | Path,
    real: str | Path = REAL,
    preset: str = "toy",
    seed: int = 0,
    changes: Mapping[str, Any] | None = None,
) -> StageRun:
    """Set up the training of an arm by a method, from a student; it keeps its levels."""
    own: dict[str, Any] = {"reward": reward_weights(arm)} | dict((changes or {}).get(method, {}))
    if method == "forward_process":
        return students.forward_process(
            folder, store, student, preset, seed=seed, changes=own, validate=False
        )
    own = {"sampling": zoo.load(student).sampling} | own
    return students.dmd(
        folder, store, student, real, preset=preset, seed=seed, changes=own, validate=False
    )


def rewarded_rows(
    bundle: Bundle,
    reader: Recogniser,
    seed: int,
    *,
    films: int,
    latents: int = 24,
    away: int = 3,
) -> pd.DataFrame:
    """Return rows of held-out films, of what chance makes of them, of the truth, and of absence
    tests."""
    batch = encode_plans(bundle, planned(bundle, seed, films, latents))
    truth = decode(bundle, batch.latents)
    frames, _ = make_frames(bundle, batch, CAMR(), seeds_for(films))
    absences = absence_batch(bundle, HELD_OUT + seed, range(films), away)
    recalled, _ = recall(bundle, reader, absences, CAMR(), seeds_for(films))
    made, chance = _film_rows(reader, frames, batch, truth)
    true, _ = _film_rows(reader, truth, batch, truth)
    returns = (row for row in recalled if row.metric == "identity")
    return row_table([*made, *of_source("chance", chance), *of_source("truth", true), *returns])


def _film_rows(
    reader: Recogniser, frames: np.ndarray, films: Batch, truth: np.ndarray
) -> tuple[list[Row], list[Row]]:
    """Rows of films (B, N, Y, X, 3) against their plans, with `prompt` and their appearance; and
    what chance makes of the looks that they keep."""
    rows, chance = film_rows(reader, frames, films.plans)
    prompts = [replace(row, metric="prompt") for row in rows if row.metric in prompted_names()]
    spans = [line.entry_spans for line in films.timelines]
    return [*rows, *prompts, *appearance_rows(frames, truth, spans)], chance


def reward_cell(
    run_dir: str | Path,
    store: Store | str | Path,
    *,
    arm: str,
    method: str,
    seed: int,
    student: str | Path = "toybox-2step",
    real: str | Path = REAL,
    films: int = 32,
    preset: str = "toy",
    changes: Mapping[str, Any] | None = None,
) -> tuple[pd.DataFrame, list[dict]]:
    """Train one arm by one method and measure it before and after; return the rows, and the log of
    the training.

    `changes` are dotted overrides by method: {"weighted_dmd": {...}, "forward_process": {...}}.
    Writes rows.parquet and cell.json to `run_dir`; resumes a training that was cut short.
    """
    folder = Path(run_dir)
    sizes = SMOKE_FILMS if preset == "smoke" else {"films": films}
    bundle = zoo.load(student)
    reader = load_recogniser(world=bundle.world)
    training = reward_training(
        folder / "training",
        store,
        method=method,
        arm=arm,
        student=student,
        real=real,
        preset=preset,
        seed=seed,
        changes=changes,
    )
    for _ in foretold(training):
        pass
    after = replace(bundle, model=cast(CausalWan, training.averaged()))
    parts = [
        rewarded_rows(one, reader, seed, **sizes).assign(stage=stage)
        for one, stage in zip((bundle, after), REWARDED_STAGES, strict=True)
    ]
    training.export(folder / "checkpoint")
    about = {"arm": arm, "method": method, "seed": seed}
    rows = pd.concat(parts, ignore_index=True).assign(**about)
    save_rows(rows, folder / "rows.parquet")
    seconds = {"training seconds": training.run.done_info["seconds"]}
    write_json(folder / "cell.json", {**about, "student": str(student), **seconds, **hardware()})
    return rows, training.run.rows
