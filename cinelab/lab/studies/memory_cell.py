"""The memory ablation: one policy at one budget and absence, measured on films that differ in
nothing else."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from PIL import Image

from cinelab.errors import CinelabError
from cinelab.files import write_atomic, write_json
from cinelab.flow.sampler import Steps
from cinelab.lab.reports.routing_plots import routing_by_shot
from cinelab.lab.reports.toybox_figures import sheet
from cinelab.memory.cache import KVCache
from cinelab.memory.policy import Policy
from cinelab.memory.policy_registry import budget_of, label_of, policy_named, seeded
from cinelab.metrics.card import HELD_OUT, of_source, seeds_of
from cinelab.metrics.legacy import analysed
from cinelab.metrics.metric import METRICS
from cinelab.metrics.registered import compared_rows, try_registered
from cinelab.metrics.rows import WHOLE, Row, numbered_from, row_table, save_rows
from cinelab.metrics.stats import bootstrap
from cinelab.metrics.toybox.attributes import (
    Batch,
    absence_batch,
    decode,
    informed,
    make_frames,
    recall_rows,
    shuffled,
)
from cinelab.metrics.toybox.recogniser import Recogniser, load_recogniser
from cinelab.metrics.toybox.retrieval import hit_rows, touched
from cinelab.readable import Readable
from cinelab.world.plans import FilmPlan
from cinelab.zoo.bundle import Bundle
from cinelab.zoo.checkpoints import load

BATCH = 32  # films made at once
SHOT = 3  # latent frames a shot
DISTANCES = ("trained", "none")


@dataclass
class MemoryCell(Readable):
    """One policy at one budget and absence: the rows, the summary and what is needed to draw it."""

    rows: pd.DataFrame
    summary: pd.DataFrame
    batch: Batch
    made: np.ndarray  # frames of the first batch, uint8 (B, F, H, W, 3)
    truth: np.ndarray
    routing: pd.DataFrame


def memory_cell(
    run_dir: str | Path,
    model: str,
    policy: str | Policy | dict,
    budget: int,
    away: int,
    seed: int,
    films: int,
    steps: Steps = None,
    score: str = "mass",
    per_head: bool = False,
    positions: str | None = None,
    reframed: bool = False,
    summary: int | None = 3,
    shot_latents: int = SHOT,
    max_distance: str = "trained",
) -> MemoryCell:
    """Measure recall after an absence and write rows.parquet, routing.parquet and cell.json to
    `run_dir`.

    `policy` is a name, an import path, an object, or one that was written down (see
    `policy_named`). `shot_latents` is the latent frames a shot. `max_distance` places history
    that is farther back than the model's trained span: "trained" = at the end of that span, as in
    films; "none" = at its true distance.
    """
    if max_distance not in DISTANCES:
        raise CinelabError(f"max_distance is {max_distance!r}; use one of {', '.join(DISTANCES)}.")
    bundle = load(model)
    reader = load_recogniser(world=bundle.world)
    folder = Path(run_dir)
    bundle = bundle if max_distance == "trained" else replace(bundle, max_distance=None)
    more: dict[str, Any] = {"positions": positions} if positions else {}
    more |= {"score": score, "per_head": per_head, "summary": summary} if policy == "camr" else {}
    rule = seeded(policy_named(policy, budget, **more), seed)
    try_registered(bundle.world)
    parts = []
    held = []
    first: tuple[Batch, np.ndarray, np.ndarray, pd.DataFrame] | None = None
    batches = absence_films(
        bundle,
        rule,
        away=away,
        seed=seed,
        films=films,
        steps=steps,
        shot_latents=shot_latents,
        reframed=reframed,
    )
    for start, batch, frames, cache in batches:
        truth = decode(bundle, batch.latents)
        found = recall_and_hits(reader, cache, frames, truth=truth, batch=batch)
        parts.append(row_table(numbered_from(start, found)))
        held.append(touched(cache, batch.last_shot))
        first = first or (batch, frames, truth, cache.routing_table())
    if first is None:
        raise CinelabError(f"films is {films}; give at least 1.")
    routing = first[3]
    rows = pd.concat(parts, ignore_index=True)
    info = {
        "policy": label_of(policy),
        "budget": budget if isinstance(policy, str) else budget_of(rule, budget),
        "away": away,
        "seed": seed,
        "films": films,
        "score": score,
        "per_head": per_head,
        "positions": rule.positions,
        "pooled": summary or 0,
        "reframed": reframed,
        "history": batch.last_shot,
        "shot_latents": shot_latents,
        "max_distance": max_distance,
        "model": model,
    }
    info |= {
        f"held, {name}": round(float(np.mean([one[name] for one in held])), 2)
        for name in ("layer", "film")
    }
    save_rows(rows.assign(**info), folder / "rows.parquet")
    write_atomic(folder / "routing.parquet", lambda path: routing.to_parquet(path))
    write_json(
        folder / "cell.json", info | {"recogniser": reader.accuracy, "metrics": METRICS.about()}
    )
    return MemoryCell(rows, summarise(rows), *first)


def absence_films(
    bundle: Bundle,
    policy: Policy,
    *,
    away: int,
    seed: int,
    films: int,
    steps: Steps,
    shot_latents: int,
    reframed: bool,
) -> Iterator[tuple[int, Batch, np.ndarray, KVCache]]:
    """Make the last shots of `films` absence tests, `BATCH` at a time; yield each batch's first
    number, its plans, its frames uint8 (B, F, H, W, 3) and its KV cache."""
    for start in range(0, films, BATCH):
        numbers = range(start, min(start + BATCH, films))
        batch = absence_batch(bundle, HELD_OUT + seed, numbers, away, shot_latents, reframed)
        known = batch.last_shot * bundle.chunk
        frames, cache = make_frames(
            bundle,
            batch,
            informed(policy, batch.plans),
            seeds_of(seed, len(batch.plans), start),
            bundle.levels(steps),
            known,
        )
        yield start, batch, frames, cache


def recall_and_hits(
    reader: Recogniser, cache: KVCache, frames: np.ndarray, *, truth: np.ndarray, batch: Batch
) -> list[Row]:
    """Rows of the returns of one batch: what is recalled (model, truth, chance), what registered
    metrics measure, and whether the right pages were retrieved."""
    plans = batch.plans
    hits, drawn = hit_rows(cache, plans, batch.last_shot)
    return [
        *recall_rows(reader, frames, plans),
        *of_source("truth", recall_rows(reader, truth, plans)),
        *of_source("chance", recall_rows(reader, truth, shuffled(plans))),
        *last_shots(compared_rows(frames, truth, plans), plans),
        *hits,
        *drawn,
    ]


def last_shots(rows: list[Row], plans: Sequence[FilmPlan]) -> list[Row]:
    """Rows of whole films and of last shots, which alone are made."""
    return [row for row in rows if row.shot in (WHOLE, len(plans[int(row.clip)].shots))]


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Metric by source with 95 % intervals; films are the independent units. `rows` are as
    measured, or with labels already (`cinelab.metrics.legacy.analysed`)."""
    rows = analysed(rows)
    found = []
    for (metric, source), part in rows.groupby(["metric", "source"], sort=False):
        keys = part["clip"] if "seed" not in part else zip(part.seed, part["clip"], strict=True)
        guess = bootstrap(part.value.tolist(), groups=list(keys))
        found.append(
            {
                "metric": metric,
                "source": source,
                "value": guess.value,
                "low": guess.low,
                "high": guess.high,
                "n": guess.n,
            }
        )
    return pd.DataFrame(found).round(4)


def recalled_shots(cell: MemoryCell, films: int = 6) -> Image.Image:
    """A film a row: A's first appearance, its return as made, its return in truth."""

    def ends(frames, film: int, shot: int) -> list:
        start, stop = cell.batch.timelines[film].entry_spans[shot]
        return [frames[film][start + 1], frames[film][stop - 1]]

    return sheet(
        [
            (
                f"film {film}",
                ends(cell.truth, film, 1) + ends(cell.made, film, -1) + ends(cell.truth, film, -1),
            )
            for film in range(min(films, len(cell.made)))
        ]
    )


def routing_figure(cell: MemoryCell) -> go.Figure:
    """Which earlier shots each shot attended to (film 0 of the cell)."""
    return routing_by_shot(cell.routing, kinds=("routed", "window", "sink"))
