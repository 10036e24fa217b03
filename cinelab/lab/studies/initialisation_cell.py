"""Which initialisation should a few-step student start DMD from? A cell: one of them, one seed.

Everything else is fixed: base model, films, the number of DMD updates, the real score, the critic's
start, the levels, and the weights that are measured (the last average; no validation picks lucky
ones). The seed moves stage 2, DMD and the films.

    none                  the autoregressive base model itself
    bidirectional_ode     ODE pairs of the bidirectional teacher, noisy history, a level a chunk
                          (Self Forcing, CausVid)
    bidirectional_clean   the same pairs, the past's end points as history (no paper's); differs
                          from causal_ode by the teacher, by that teacher's quality, and by a
                          history that was made instead of true
    causal_ode            ODE pairs of the autoregressive teacher, true history (Causal Forcing)
    consistency           causal consistency distillation (Causal Forcing++)
    consistency_equal_seconds
                          the same for as many steps as take causal_ode's seconds, pairs included
    score                 causal score distillation: DMD by autoregressive scores under the true
                          history, at 4 levels

A cell also holds the card of the teacher that its initialisation learnt from (TEACHER_STAGE): what
the end points of the teacher's ODE reach on the very films that the students are measured on.
Starts whose teachers' cards differ do not differ by the teacher's kind alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import numpy as np
import pandas as pd
import torch

from cinelab.config import override
from cinelab.errors import CinelabError
from cinelab.files import write_json
from cinelab.lab.reports.withdrawn import EDITION
from cinelab.lab.training import students
from cinelab.lab.training.run import StageRun
from cinelab.latent.store import Clips, Store
from cinelab.memory.policy import CAMR
from cinelab.metrics.card import HELD_OUT
from cinelab.metrics.rows import Row, clip_of, row_table, save_rows
from cinelab.metrics.toybox.attributes import (
    Batch,
    absence_batch,
    encode_plans,
    read_shots,
    recall,
)
from cinelab.metrics.toybox.recogniser import Recogniser, load_recogniser
from cinelab.metrics.toybox.validation import frame_rows, made_rows, seeds_for
from cinelab.model.wan import CausalWan
from cinelab.runs import hardware
from cinelab.seeds import rng_at
from cinelab.stream.batch import decode, embed, prompts_and_shots
from cinelab.texts import read_json
from cinelab.train import pairs as ode_pairs
from cinelab.train import presets
from cinelab.world.plans import FilmPlan
from cinelab.world.worlds import world_of
from cinelab.zoo import checkpoints as zoo
from cinelab.zoo.bundle import Bundle

CONSISTENCIES = ("consistency", "consistency_equal_seconds")
INITS = ("none", "bidirectional_ode", "bidirectional_clean", "causal_ode", *CONSISTENCIES, "score")
HISTORIES = {"causal_ode": "truth", "bidirectional_ode": "noisy", "bidirectional_clean": "clean"}
TEACHERS = {"autoregressive": "toybox-base", "bidirectional": "toybox-bidirectional-24"}
BASE = TEACHERS["autoregressive"]
TEACHER_STAGE = "the teacher"
SHARED = ("base model", "one teacher of each kind", "ODE pairs", "real score", "critic's start")
SMOKE = {"films": 2, "latents": 6, "away": 1}
ROUNDS = 5  # turns in which seconds are measured


def check_changes(changes: dict, preset: str = "toy") -> None:
    """Refuse changes by stage that a cell could only refuse hours later: unknown stages and
    settings."""
    makers = {name: getattr(presets, name) for name in ("ode", "consistency", "pairs", "dmd")}
    makers["score"] = presets.dmd
    for stage, settings in changes.items():
        if stage not in makers:
            raise CinelabError(f"changes has {stage!r}; its stages are {', '.join(makers)}.")
        override(makers[stage](preset), settings)


def teacher_of(init: str) -> str | None:
    """The kind of teacher that an initialisation learns from; None where it learns from none."""
    if init in (*CONSISTENCIES, "causal_ode", "score"):
        return "autoregressive"
    return "bidirectional" if init in HISTORIES else None


def stage_two(
    folder: Path,
    init: str,
    seed: int,
    *,
    store: Store,
    pairs: str | Path,
    preset: str,
    changes: dict,
) -> tuple[str | Path, dict]:
    """The checkpoint that DMD starts from, and what it cost.

    The cost has `stage 2 seconds`, `pairs seconds`, `stored bytes`, `clips seen` and, at equal
    seconds, the `turns` that these were measured by.
    """
    if init not in INITS:
        raise CinelabError(f"init is {init!r}; use one of {', '.join(INITS)}.")
    nothing = {"stage 2 seconds": 0.0, "clips seen": 0, "pairs seconds": 0.0, "stored bytes": 0}
    if init == "none":
        return BASE, nothing
    make = _regressed if init in HISTORIES else _scored if init == "score" else _consistent
    stage, cost = make(folder, init, seed, store, pairs, preset, changes)
    for _ in stage.train():
        pass
    clips = stage.config.pairs.batch if init in HISTORIES else stage.config.batch
    seen = {"clips seen": clips * stage.config.steps}
    took = {"stage 2 seconds": stage.run.done_info["seconds"]}
    return stage.export(folder / "checkpoint"), nothing | cost | seen | took


def _regressed(folder, init, seed, store, pairs, preset, changes) -> tuple[StageRun, dict]:
    """ODE regression to the end points of a teacher's pairs."""
    made = _pairs(pairs, teacher_of(init) or "", store, preset=preset, changes=changes)
    recipe = {"history": HISTORIES[init], "levels": "chunk"} | changes.get("ode", {})
    stage = students.ode(folder, made, BASE, preset, seed, recipe, validate=False)
    return stage, {"pairs seconds": made.seconds, "stored bytes": made.bytes}


def _scored(folder, init, seed, store, pairs, preset, changes) -> tuple[StageRun, dict]:
    """DMD under the true history, by autoregressive scores, at 4 levels."""
    recipe = {"known": 0.0, "score": "autoregressive", "history": "truth"}
    recipe |= {"sampling": students.few_steps(4)} | changes.get("score", {})
    return students.dmd(folder, store, BASE, BASE, preset, seed, recipe, validate=False), {}


def _consistent(folder, init, seed, store, pairs, preset, changes) -> tuple[StageRun, dict]:
    """Consistency distillation, for its own number of steps or for causal ODE's seconds."""
    recipe = changes.get("consistency", {})
    cost = {}
    if init == "consistency_equal_seconds":
        made = _pairs(pairs, "autoregressive", store, preset=preset, changes=changes)
        turns = taken_turns(
            folder.parent / "turns", store, made, preset=preset, seed=seed, changes=changes
        )
        steps = override(presets.consistency(preset), recipe).steps
        recipe = recipe | {"steps": equal_seconds(turns, steps)}
        cost = {"turns": turns}
    return students.consistency(folder, store, BASE, preset, seed, recipe, validate=False), cost


def _pairs(folder, kind: str, store: Store, *, preset: str, changes: dict) -> ode_pairs.Pairs:
    """The ODE pairs of a kind of teacher; all seeds share them."""
    where = Path(folder) / kind
    more = changes.get("pairs")
    return students.build_pairs(where, store, TEACHERS[kind], preset, kind, more)


def equal_seconds(turns: list[dict], steps: int) -> int:
    """Steps of consistency in causal ODE's seconds, where `steps` take what `turns` measured."""
    ratio = sum(turn["causal_ode"] for turn in turns) / sum(turn["consistency"] for turn in turns)
    return max(1, round(steps * ratio))


def taken_turns(
    folder: Path, store: Store, made: ode_pairs.Pairs, *, preset: str, seed: int, changes: dict
) -> list[dict]:
    """Seconds that causal ODE (pairs included) and consistency take, in ROUNDS turns.

    In a turn a shard of pairs, a few ODE steps and a few consistency steps run one after the other,
    and each is scaled to its whole recipe: both meet the same machine, and the turns' spread is the
    noise of timing. Kept in turns.json, so that a cell that is resumed trains as many steps.
    """
    if (folder / "turns.json").exists():
        return read_json(folder / "turns.json")
    about: dict[str, Any] = {"preset": preset, "seed": seed, "validate": False}
    trained = (
        students.ode(folder / "ode", made, BASE, changes=changes.get("ode"), **about),
        students.consistency(
            folder / "consistency", store, BASE, changes=changes.get("consistency"), **about
        ),
    )
    rounds, each = (1, 1) if preset == "smoke" else (ROUNDS, 2)
    turns = list(_turns(store, made, trained, rounds=rounds, each=each))
    write_json(folder / "turns.json", turns)
    return turns


def _turns(
    store: Store, made: ode_pairs.Pairs, trained, *, rounds: int, each: int
) -> Iterator[dict]:
    """Seconds of the whole recipes of causal ODE and consistency, a turn at a time."""
    teacher = zoo.load(BASE)
    config = made.config
    clips = ode_pairs.clips_of(config, store, 0).to(teacher.device)
    rng = rng_at(config.seed, "turn")
    noise = torch.randn(clips.latents.shape, generator=rng).to(clips.latents.device)
    running = [stage.train() for stage in trained]
    for steps in running:
        next(steps)  # the first step also sets up
    for _ in range(rounds):
        shard = _seconds(lambda: ode_pairs.trajectories(teacher.model, clips, config, noise))
        ode, consistency = (_seconds(partial(_advance, steps, each)) / each for steps in running)
        whole = shard * config.shards + ode * trained[0].config.steps
        yield {"causal_ode": whole, "consistency": consistency * trained[1].config.steps}
    for steps in running:
        steps.close()


def _advance(steps: Iterator, count: int) -> None:
    """Run so many steps of a training."""
    for _ in range(count):
        next(steps)


def _seconds(work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return perf_counter() - began


@torch.no_grad()
def teacher_rows(
    reader: Recogniser,
    kind: str,
    seed: int,
    *,
    films: int,
    config: ode_pairs.PairsConfig,
    latents: int = 24,
) -> pd.DataFrame:
    """Rows of a teacher's end points on the films that its students are measured on.

    They are made as the pairs of `config` are. The metric `looks` states whether what no prompt
    names is as in the true film, where a teacher that is given the true past can read it.
    """
    bundle = zoo.load(TEACHERS[kind])
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
    """Rows of held-out films and absence tests."""
    batch = encode_plans(bundle, planned(bundle, seed, films, latents))
    rows = made_rows(bundle, reader, batch, truth=decode(bundle, batch.latents), policy=CAMR())
    absences = absence_batch(bundle, HELD_OUT + seed, range(films), away)
    recalled, _ = recall(bundle, reader, absences, CAMR(), seeds_for(films))
    return row_table([*rows, *(row for row in recalled if row.metric == "identity")])


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
) -> pd.DataFrame:
    """Measure one initialisation before and after DMD at every number of levels.

    `changes` are dotted overrides by stage: {"ode": {...}, "consistency": {...}, "pairs": {...},
    "dmd": {...}}. Writes rows.parquet and cell.json and returns the rows.
    """
    folder = Path(run_dir)
    changes = changes or {}
    reader = load_recogniser(world=zoo.world_in(BASE))
    sizes = SMOKE if preset == "smoke" else {"films": films}
    start, cost = stage_two(
        folder / "stage2", init, seed, store=store, pairs=pairs, preset=preset, changes=changes
    )
    parts = _card_of_teacher(reader, init, seed, preset=preset, changes=changes, sizes=sizes)
    for steps in levels:
        sampling = students.few_steps(steps)
        bundle = replace(zoo.load(start), sampling=sampling)
        before = measure_student(bundle, reader, seed, **sizes)
        recipe = changes.get("dmd", {}) | {"sampling": sampling}
        real = TEACHERS["bidirectional"]
        where = folder / f"dmd-{steps}"
        stage = students.dmd(where, store, start, real, preset, seed, recipe, validate=False)
        for _ in stage.train():
            pass
        cost[f"DMD seconds, {steps} levels"] = round(stage.run.done_info["seconds"], 1)
        student = cast(CausalWan, stage.averaged())
        after = measure_student(replace(bundle, model=student), reader, seed, **sizes)
        stages = {"before DMD": before, "after DMD": after}
        parts += [rows.assign(steps=steps, stage=name) for name, rows in stages.items()]
        print(f"{init}, {steps} levels: measured", flush=True)
    about = {"init": init, "seed": seed, "edition": EDITION["initialisation"]}
    rows = pd.concat(parts, ignore_index=True).assign(**about)
    save_rows(rows, folder / "rows.parquet")
    write_json(folder / "cell.json", {**about, "shared": list(SHARED), **cost, **hardware()})
    return rows


def _card_of_teacher(reader, init, seed, *, preset, changes, sizes: dict) -> list[pd.DataFrame]:
    """The teacher's card as one table of rows, or none where there is no teacher."""
    if not (kind := teacher_of(init)):
        return []
    config = override(presets.pairs(preset, kind), changes.get("pairs") or {})
    latents = sizes.get("latents", 24)
    rows = teacher_rows(reader, kind, seed, films=sizes["films"], config=config, latents=latents)
    return [rows.assign(steps=config.steps, stage=TEACHER_STAGE)]
