"""Which initialisation should a few-step student start DMD from? A cell: one of them, one seed.

Everything else is fixed: base model, films, the number of DMD updates, the real score, the critic's
start, the levels, and the weights that are measured (the last average; no validation picks lucky
ones). The seed moves stage 2, DMD and the films; and, where `teachers` lists one a seed, base model
and teachers too (`cinelab.lab.studies.teachers`). The starts are those of
`cinelab.lab.studies.initialisation_starts`.

A cell also holds the card of the teacher that its initialisation learnt from (TEACHER_STAGE): what
the end points of the teacher's ODE reach on the very films that the students are measured on.
Starts whose teachers' cards differ do not differ by the teacher's kind alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch

from cinelab.config import override, read_mapping
from cinelab.errors import CinelabError
from cinelab.files import write_json
from cinelab.lab.reports.withdrawn import EDITION
from cinelab.lab.studies.initialisation_starts import CellPlan, stage_two, teacher_of
from cinelab.lab.studies.teachers import Teachers
from cinelab.lab.training import students
from cinelab.latent.store import Clips, Store
from cinelab.memory.policy import CAMR
from cinelab.metrics.card import HELD_OUT, of_source
from cinelab.metrics.rows import Row, clip_of, row_table, save_rows
from cinelab.metrics.toybox.attributes import (
    Batch,
    above_chance_rows,
    absence_batch,
    consistency_rows,
    diversity_rows,
    encode_plans,
    make_frames,
    own_chance_rows,
    read_shots,
    recall,
)
from cinelab.metrics.toybox.recogniser import Recogniser, load_recogniser
from cinelab.metrics.toybox.validation import frame_rows, seeds_for
from cinelab.model.wan import CausalWan
from cinelab.runs import hardware
from cinelab.seeds import rng_at
from cinelab.stream.batch import decode, embed, prompts_and_shots
from cinelab.tables import read_frame
from cinelab.train import pairs as ode_pairs
from cinelab.train import presets
from cinelab.world.plans import FilmPlan
from cinelab.world.worlds import world_of
from cinelab.zoo import checkpoints as zoo
from cinelab.zoo.bundle import Bundle

TEACHER_STAGE = "the teacher"
SMOKE = {"films": 2, "latents": 6, "away": 1}
BEFORE = "before DMD"
AFTER = "after DMD"


@torch.no_grad()
def teacher_rows(
    reader: Recogniser,
    teacher: str | Path,
    seed: int,
    *,
    films: int,
    config: ode_pairs.PairsConfig,
    latents: int = 24,
) -> pd.DataFrame:
    """Rows of a teacher's end points on the films that its students are measured on.

    They are made as the pairs of `config` are, with every chunk counted. The metric `looks` states
    whether what no prompt names is as in the true film, where a teacher that is given the true past
    can read it.
    """
    bundle = zoo.load(teacher)
    config = replace(config, counted=0, frames=latents)
    batch = encode_plans(bundle, planned(bundle, seed, films, latents))
    clips = film_clips(bundle, batch)
    ends = []
    rng = rng_at(seed, "teacher's noise")
    noise = torch.randn(batch.latents.shape, generator=rng).to(batch.latents.device)
    for start in range(0, films, config.batch):
        some = slice(start, start + config.batch)
        part = Clips(clips.latents[some], clips.text[some], clips.slot[some], clips.shot[some])
        ends.append(ode_pairs.trajectories(bundle.model, part, config, noise[some])[1])
    frames = decode(bundle, torch.cat(ends).float())
    truth = decode(bundle, batch.latents)
    return row_table([*frame_rows(reader, frames, batch, truth), *looks(reader, frames, batch)])


def planned(bundle: Bundle, seed: int, films: int, latents: int) -> list[FilmPlan]:
    """The held-out films that a seed is measured on."""
    where = HELD_OUT + seed
    return [
        bundle.world.cast_film(where, i, latents, shot_latents=(3, 6), grain=bundle.chunk)
        for i in range(films)
    ]


def film_clips(bundle: Bundle, films: Batch) -> Clips:
    """Encoded films as training clips."""
    text = embed(bundle, films.timelines)
    slot, shot = prompts_and_shots(films.timelines)
    return Clips(films.latents, text, slot, shot).to(bundle.device)


def looks(reader: Recogniser, frames: np.ndarray, films: Batch) -> list[Row]:
    """Rows of `looks`: is each unprompted attribute of each shot what the true film shows?"""
    seen = read_shots(reader, frames, films.plans)
    return [
        Row(
            clip_of(film),
            shot,
            "looks",
            float(seen[film][shot - 1][name] == entry.attributes[name]),
            backend="toybox",
        )
        for film, plan in enumerate(films.plans)
        for shot, entry in enumerate(plan.shots, 1)
        for names in world_of(plan).looks.values()
        for name in names
    ]


def measure_student(
    bundle: Bundle, reader: Recogniser, seed: int, films: int, latents: int = 24, away: int = 3
) -> pd.DataFrame:
    """Rows of held-out films and absence tests. `diversity` also has rows of the truth. The columns
    `steps` (levels) and `updates` (0) say of what."""
    batch = encode_plans(bundle, planned(bundle, seed, films, latents))
    truth = decode(bundle, batch.latents)
    frames, _ = make_frames(bundle, batch, CAMR(), seeds_for(films))
    absences = absence_batch(bundle, HELD_OUT + seed, range(films), away)
    recalled, _ = recall(bundle, reader, absences, CAMR(), seeds_for(films))
    rows = [
        *frame_rows(reader, frames, batch, truth),
        *unprompted_rows(reader, frames, truth, batch),
        *(row for row in recalled if row.metric == "identity"),
    ]
    return row_table(rows).assign(steps=bundle.sampling.steps, updates=0)


def unprompted_rows(
    reader: Recogniser, frames: np.ndarray, truth: np.ndarray, films: Batch
) -> list[Row]:
    """Rows of looks that no prompt names: kept above the films' own chance, and their diversity
    (of the truth too). A collapsed model keeps everything, and has 0 and little of these."""
    seen = read_shots(reader, frames, films.plans)
    shown = read_shots(reader, truth, films.plans)
    kept = consistency_rows(seen, films.plans)
    return [
        *above_chance_rows(kept, own_chance_rows(seen, films.plans)),
        *diversity_rows(seen, films.plans),
        *of_source("truth", diversity_rows(shown, films.plans)),
    ]


def initialisation_cell(
    run_dir: str | Path,
    store: Store,
    pairs: str | Path,
    init: str,
    seed: int,
    levels: tuple[int, ...] = (1, 2, 4),
    films: int = 32,
    preset: str = "toy",
    changes: dict | None = None,
    *,
    teachers: dict | None = None,
    stage2_steps: int | None = None,
    updates: Sequence[int] = (),
) -> pd.DataFrame:
    """Measure one initialisation before and after DMD at every number of levels.

    `changes` are dotted overrides by stage: {"ode": {...}, "consistency": {...}, "pairs": {...},
    "dmd": {...}}. `teachers` names checkpoints by kind (`Teachers`), `stage2_steps` the steps of
    ODE and consistency. With `updates` the student is measured after each of so many updates of
    its own, on one DMD run at constant rates; without, after the run that `changes` describe.
    Writes rows.parquet and cell.json and returns the rows.
    """
    folder = Path(run_dir)
    plan = CellPlan(
        init, seed, store, pairs, preset, changes or {}, Teachers(teachers or {}), stage2_steps
    )
    reader = load_recogniser(world=zoo.world_in(plan.base))
    sizes = SMOKE if preset == "smoke" else {"films": films}
    start, cost = stage_two(folder / "stage2", plan)
    parts = _card_of_teacher(reader, plan, sizes)
    for steps in levels:
        where = folder / f"dmd-{steps}"
        bundle = replace(zoo.load(start), sampling=students.few_steps(steps))
        measure = partial(_measured, reader, seed, sizes)
        before = partial(measure, bundle)
        parts.append(measured_once(where / "before.parquet", before).assign(stage=BEFORE))
        counts: list[int | None] = [*checked_updates(updates)]
        for count in counts or [None]:
            after = partial(_after, where, plan, bundle, start=start, updates=count, how=measure)
            rows = measured_once(where / f"after-{count or 'all'}.parquet", after)
            parts.append(rows.assign(stage=AFTER))
            print(f"{init}, {steps} levels, {count or 'all'} updates: measured", flush=True)
        seconds = read_mapping(where / "done.json", seconds=float)["seconds"]
        cost[f"DMD seconds, {steps} levels"] = round(seconds, 1)
    about = {"init": init, "seed": seed, "edition": EDITION["initialisation"]}
    about |= {"trained": plan.nominal_steps}
    rows = pd.concat(parts, ignore_index=True).assign(**about)
    save_rows(rows, folder / "rows.parquet")
    shared = plan.teachers.in_common(plan.kinds)
    write_json(folder / "cell.json", {**about, "shared": shared, **cost, **hardware()})
    return rows


def _measured(reader: Recogniser, seed: int, sizes: dict[str, int], bundle: Bundle) -> pd.DataFrame:
    """Rows of a student on so many films."""
    return measure_student(bundle, reader, seed, **sizes)


def checked_updates(updates: Sequence[int]) -> list[int]:
    """The numbers of the student's updates after which it is measured, in order."""
    if any(type(count) is not int or count < 1 for count in updates):
        raise CinelabError(f"updates is {list(updates)}; give whole numbers of at least 1.")
    return sorted(set(updates))


def measured_once(path: Path, measure: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """Rows as they were measured before, else measured now: a run that has gone on cannot be
    measured again where it stood."""
    if not path.exists():
        save_rows(measure(), path)
    return read_frame(path, "remove the cell's folder and run it again")


def _after(
    folder: Path,
    plan: CellPlan,
    bundle: Bundle,
    *,
    start: str | Path,
    updates: int | None,
    how: Callable[[Bundle], pd.DataFrame],
) -> pd.DataFrame:
    """Rows of the averaged student after so many updates of its own; None: as `changes` have it.

    A call with more updates continues the run of an earlier one. For that the rates must not depend
    on where the run ends, so they are constant.
    """
    recipe = plan.recipe("dmd") | {"sampling": bundle.sampling}
    if updates is not None:
        config = override(presets.dmd(plan.preset), recipe)
        recipe |= {"optim.floor": 1.0, "critic.floor": 1.0}
        recipe |= {"steps": updates * config.critic_updates}
    about = (plan.real, plan.preset, plan.seed, recipe)
    stage = students.dmd(folder, plan.store, start, *about, validate=False)
    for _ in stage.train():
        pass
    made = -(-stage.config.steps // stage.config.critic_updates)
    student = cast(CausalWan, stage.averaged())
    return how(replace(bundle, model=student)).assign(updates=made)


def _card_of_teacher(reader: Recogniser, plan: CellPlan, sizes: dict) -> list[pd.DataFrame]:
    """The teacher's card as one table of rows, or none where there is no teacher."""
    if not (kind := teacher_of(plan.init)):
        return []
    config = override(presets.pairs(plan.preset, kind), plan.changes.get("pairs") or {})
    about = {"films": sizes["films"], "latents": sizes.get("latents", 24), "config": config}
    rows = teacher_rows(reader, plan.teachers.of(kind, plan.seed), plan.seed, **about)
    return [rows.assign(steps=config.steps, stage=TEACHER_STAGE, updates=0)]
