"""The memory ablation: one policy at one budget and absence, measured on films that differ in
nothing else."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from PIL import Image

from cinelab.errors import CinelabError
from cinelab.files import write_atomic, write_json
from cinelab.flow.sampler import Steps
from cinelab.lab.reports.plots import routing_by_shot
from cinelab.lab.reports.toybox_figures import sheet
from cinelab.memory.policy import Policy, budget_of, label_of, policy_named, seeded
from cinelab.metrics.card import HELD_OUT, seeds_of
from cinelab.metrics.metric import METRICS, WHOLE, compared_rows, rehearse
from cinelab.metrics.stats import bootstrap
from cinelab.metrics.toybox.attributes import (
    Batch,
    absence_batch,
    decode,
    informed,
    make_frames,
    recall_rows,
    shuffled,
    table,
)
from cinelab.metrics.toybox.recogniser import load_recogniser
from cinelab.metrics.toybox.retrieval import hit_rows, touched
from cinelab.readable import Readable
from cinelab.zoo.checkpoints import load

BATCH = 32  # films made at once
SHOT = 3  # latent frames a shot
DISTANCES = ("trained", "none")


@dataclass
class Cell(Readable):
    """One policy at one budget and absence: the rows, the summary and what is needed to draw it."""

    rows: pd.DataFrame
    summary: pd.DataFrame
    batch: Batch
    made: object  # frames of the first batch, uint8 (B, F, H, W, 3)
    truth: object
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
) -> Cell:
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
    reader = load_recogniser()
    folder = Path(run_dir)
    bundle = bundle if max_distance == "trained" else replace(bundle, max_distance=None)
    more = {"positions": positions} if positions else {}
    more |= {"score": score, "per_head": per_head, "summary": summary} if policy == "camr" else {}
    rule = seeded(policy_named(policy, budget, **more), seed)
    rehearse()
    parts = []
    held = []
    first = None
    for start in range(0, films, BATCH):
        batch = absence_batch(
            bundle,
            HELD_OUT + seed,
            range(start, min(start + BATCH, films)),
            away,
            shot_latents,
            reframed,
        )
        known = batch.last_shot * bundle.chunk
        frames, memory = make_frames(
            bundle,
            batch,
            informed(rule, batch.plans),
            seeds_of(seed, len(batch.plans), start),
            bundle.levels(steps),
            known,
        )
        truth = decode(bundle, batch.latents)
        sources = {
            "model": (frames, batch.plans),
            "truth": (truth, batch.plans),
            "chance": (truth, shuffled(batch.plans)),
        }
        own = last_shots(compared_rows(frames, truth, batch.plans), batch.plans)
        asked = [recall_rows(reader, *shown).assign(source=name) for name, shown in sources.items()]
        parts += [rows.assign(film=rows.film + start) for rows in (*asked, own)]
        hits = zip(("model", "chance"), hit_rows(memory, batch.plans, batch.last_shot), strict=True)
        parts += [
            table(found, source=name).assign(film=lambda t, s=start: t.film + s)
            for name, found in hits
        ]
        held.append(touched(memory, batch.last_shot))
        first = first or (batch, frames, truth, memory.routing_table())
    rows = pd.concat(parts, ignore_index=True)
    found = summarise(rows)
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
    write_atomic(folder / "rows.parquet", lambda path: rows.assign(**info).to_parquet(path))
    write_atomic(folder / "routing.parquet", lambda path: first[3].to_parquet(path))
    write_json(
        folder / "cell.json", info | {"recogniser": reader.accuracy, "metrics": METRICS.about()}
    )
    return Cell(rows, found, *first)


def last_shots(rows: pd.DataFrame, plans: list) -> pd.DataFrame:
    """Rows of whole films and of last shots, which alone are made."""
    last = rows["film"].map(lambda film: len(plans[film].shots) - 1)
    return rows[(rows["shot"] == WHOLE) | (rows["shot"] == last)]


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Metric by source with 95 % intervals; films are the independent units."""
    table = []
    for (metric, source), part in rows.groupby(["metric", "source"], sort=False):
        keys = part.film if "seed" not in part else list(zip(part.seed, part.film, strict=True))
        guess = bootstrap(part.value.tolist(), groups=list(keys))
        table.append(
            {
                "metric": metric,
                "source": source,
                "value": guess.value,
                "low": guess.low,
                "high": guess.high,
                "n": guess.n,
            }
        )
    return pd.DataFrame(table).round(4)


def recalled_shots(cell: Cell, films: int = 6) -> Image.Image:
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


def routing_picture(cell: Cell) -> go.Figure:
    """Which earlier shot each shot looked back to (film 0 of the cell)."""
    return routing_by_shot(cell.routing, kinds=("routed", "window", "sink"))
