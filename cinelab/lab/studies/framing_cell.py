"""Does the adversarial head hold subjects in the frame? A cell: one kind of head, one training.

    none       DMD without a head
    teacher    CausalCine's: real samples are clips of the real score's network
    data       DMD2's: real samples are the data

Start, real score, critic's start, films and settings are the same. The student's averaged weights
are measured before the first update and after every `every` of its updates, on held-out films of
many shots and on absence tests: framing, prompt, identity kept above its own chance, diversity,
motion and recall. No validation picks weights.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import numpy as np
import pandas as pd

from cinelab.errors import CinelabError
from cinelab.files import write_json
from cinelab.lab.studies.initialisation_cell import measure_student, planned
from cinelab.lab.training import students
from cinelab.lab.training.run import StageRun
from cinelab.latent.store import Store
from cinelab.metrics.card import HELD_OUT, of_source
from cinelab.metrics.rows import load_rows, row_table, save_rows
from cinelab.metrics.toybox.attributes import encode_plans
from cinelab.metrics.toybox.framing import locating_error, true_films
from cinelab.metrics.toybox.recogniser import Recogniser, load_recogniser
from cinelab.metrics.toybox.validation import frame_rows
from cinelab.model.wan import CausalWan
from cinelab.runs import hardware
from cinelab.states import read_state
from cinelab.stream.batch import decode
from cinelab.train import presets
from cinelab.train.gan import REALS
from cinelab.zoo import checkpoints as zoo
from cinelab.zoo.bundle import Bundle

HEADS = ("none", *REALS)
SMOKE = {"films": 2, "latents": 6, "away": 1}
TIMED = 3  # steps by which the length of a training is foretold
READ = 20  # true films by which the locator's error is stated


def framing_training(
    folder: Path,
    store: Store | str | Path,
    head: str,
    *,
    init: str,
    real: str,
    seed: int,
    updates: int,
    every: int,
    preset: str,
    changes: dict[str, Any],
) -> StageRun:
    """Set up DMD with a kind of head for so many updates of the student, saved every `every`."""
    if head not in HEADS:
        raise CinelabError(f"head is {head!r}; use one of {', '.join(HEADS)}.")
    times = changes.get("critic_updates", presets.dmd(preset).critic_updates)
    recipe: dict[str, Any] = {"steps": updates * times, "save_every": every * times} | changes
    recipe |= {} if head == "none" else {"gan.real": head}
    return students.dmd(folder, store, init, real, preset, seed, recipe, validate=False)


def framing_cell(
    run_dir: str | Path,
    store: Store | str | Path,
    head: str,
    *,
    init: str = "toybox-base",
    real: str = "toybox-bidirectional-24",
    seed: int = 0,
    updates: int = 500,
    every: int = 50,
    films: int = 24,
    preset: str = "toy",
    changes: dict[str, Any] | None = None,
) -> pd.DataFrame:
    """Train with one kind of head and return the rows of every measurement, with columns head, seed
    and updates. Writes rows.parquet and cell.json; a cell that was stopped goes on."""
    folder = Path(run_dir)
    stage = framing_training(
        folder / "dmd",
        store,
        head,
        init=init,
        real=real,
        seed=seed,
        updates=updates,
        every=every,
        preset=preset,
        changes=changes or {},
    )
    bundle = replace(zoo.load(init), sampling=stage.config.sampling)
    reader = load_recogniser(world=bundle.world)
    sizes = SMOKE if preset == "smoke" else {"films": films}
    parts = folder / "measured"
    for done, model in measured_students(stage, parts, bundle, updates=updates, every=every):
        student = replace(bundle, model=cast(CausalWan, model))
        began = perf_counter()
        rows = measure_student(student, reader, seed, **sizes)
        left = (updates - done) / every * (perf_counter() - began) / 60
        print(f"{done} updates: measured; {left:.0f} minutes of measuring are left", flush=True)
        if done == 0:
            rows = pd.concat([rows, true_rows(bundle, reader, seed, sizes)], ignore_index=True)
        save_rows(rows.assign(updates=done), parts / f"{done:05d}.parquet")
    tables = [load_rows(path) for path in sorted(parts.glob("*.parquet"))]
    rows = pd.concat(tables, ignore_index=True).assign(head=head, seed=seed)
    save_rows(rows, folder / "rows.parquet")
    error = locating_error(
        true_films(bundle.world, HELD_OUT + seed, 2 if preset == "smoke" else READ)
    )
    about = {
        "head": head,
        "seed": seed,
        "init": init,
        "seconds": stage.run.done_info["seconds"],
        "locating error": round(float(np.nanmean(np.abs(error))), 4),
        "figures not found": round(float(np.isnan(error).mean()), 4),
    }
    write_json(folder / "cell.json", about | hardware())
    return rows


def measured_students(
    stage: StageRun, parts: Path, bundle: Bundle, *, updates: int, every: int
) -> Iterator[tuple[int, Any]]:
    """Train, and yield (updates of the student so far, its network) for whatever is not measured in
    `parts` yet: the start, then the averaged weights after every `every` updates and the last."""

    def missing(done: int) -> bool:
        due = done % every == 0 or done == updates
        return due and not (parts / f"{done:05d}.parquet").exists()

    times = stage.config.critic_updates
    if missing(0):
        yield 0, bundle.model
    step, student = saved_student(stage)
    if step and missing(step // times):  # it was stopped between a save and its measurement
        yield step // times, student
    for row in foretold(stage):
        done, rest = divmod(row["step"] + 1, times)
        if rest == 0 and missing(done):
            yield done, saved_student(stage)[1]


def saved_student(stage: StageRun) -> tuple[int, Any]:
    """Return the step of a training's last save and its averaged network; 0 and None where nothing
    is saved."""
    path = stage.run.folder / "checkpoints" / "last.pt"
    if not path.exists():
        return 0, None
    state = read_state(path)
    model = deepcopy(stage.model).eval().requires_grad_(False)
    model.load_state_dict(state["parts"]["ema"]["values"], strict=False)
    return state["step"], model


def foretold(stage: StageRun) -> Iterator[dict]:
    """Yield the rows of a training, and print after some steps how long the rest will take."""
    # as many steps of the student as take part
    every = TIMED * getattr(stage.config, "critic_updates", 1)
    seconds = []
    for row in stage.train():
        seconds.append(row["seconds"])
        if len(seconds) == every:
            left = (stage.config.steps - row["step"] - 1) * float(np.mean(seconds)) / 60
            print(f"about {left:.0f} minutes of training are left", flush=True)
        yield row


def true_rows(bundle: Bundle, reader: Recogniser, seed: int, sizes: dict[str, int]) -> pd.DataFrame:
    """Return the same rows of the true films through the codec: the bound."""
    batch = encode_plans(bundle, planned(bundle, seed, sizes["films"], sizes.get("latents", 24)))
    truth = decode(bundle, batch.latents)
    return row_table(of_source("truth", frame_rows(reader, truth, batch, truth)))
