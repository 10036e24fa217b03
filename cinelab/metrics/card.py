"""Cards: metric -> value, 95 % interval, n, chance and ground-truth upper bound.

`python -m cinelab score NAME` writes results/reference/<name>.json; anyone can make it again on
fresh seeds.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from cinelab.errors import CinelabError
from cinelab.memory.policy import Policy
from cinelab.memory.policy_registry import seeded
from cinelab.metrics.legacy import analysed
from cinelab.metrics.metric import METRICS
from cinelab.metrics.registered import compared_rows, try_registered
from cinelab.metrics.rows import Row, row_table
from cinelab.metrics.stats import bootstrap
from cinelab.metrics.toybox.attributes import (
    Batch,
    absence_batch,
    chance_rows,
    decode,
    encode_plans,
    film_rows,
    make_frames,
    recall,
    recall_rows,
    shuffled,
)
from cinelab.metrics.toybox.recogniser import Recogniser
from cinelab.metrics.toybox.retrieval import hit_rows, touched_rows
from cinelab.metrics.video.appearance import appearance_rows
from cinelab.runs import hardware
from cinelab.zoo.bundle import Bundle

HELD_OUT = 50_000  # seeds from here on are never trained on


@dataclass(frozen=True)
class CardConfig:
    """How much is measured. `films` for each seed; `away` shots without A in the recall test.

    After `reframed_away` shots the return is also measured in another shot size.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    films: int = 32
    latents: int = 24  # latent frames a film
    shot_latents: tuple[int, int] = (3, 6)
    away: tuple[int, ...] = (1, 3, 5)
    reframed_away: int = 3

    def __post_init__(self):
        if not self.seeds or self.films < 2:
            raise CinelabError(
                f"A card needs at least 1 seed and 2 films a seed, not {len(self.seeds)} and "
                f"{self.films}."
            )


def measure_card(
    bundle: Bundle,
    reader: Recogniser,
    policy: Policy,
    config: CardConfig,
    tell: Callable[[str], None] = lambda text: None,
) -> pd.DataFrame:
    """Rows of all films of all seeds, with a column `seed`; `tell` is called with "3 of 15: what"
    as each part begins."""
    absences = [*((away, False) for away in config.away), (config.reframed_away, True)]
    parts = []
    count = 0
    of = len(config.seeds) * (1 + len(absences))
    try_registered(bundle.world)
    for seed in config.seeds:
        rule = seeded(policy, seed)
        count += 1
        tell(f"{count} of {of}: whole films, seed {seed}")
        parts.append(row_table(_films(bundle, reader, rule, config=config, seed=seed), seed=seed))
        for away, reframed in absences:
            count += 1
            tell(
                f"{count} of {of}: a return after {away} "
                f"shot{'s' * (away != 1)}{', reframed' * reframed}, seed {seed}"
            )
            batch = absence_batch(
                bundle, HELD_OUT + seed, range(config.films), away, reframed=reframed
            )
            protocol = f"away={away}" + " reframed" * reframed
            noise = seeds_of(seed, config.films)
            rows = _recalls(bundle, reader, rule, batch=batch, noise=noise)
            parts.append(row_table(rows, seed=seed, protocol=protocol))
    return pd.concat(parts, ignore_index=True)


def _films(
    bundle: Bundle, reader: Recogniser, policy: Policy, *, config: CardConfig, seed: int
) -> list[Row]:
    plans = [
        bundle.world.cast_film(
            HELD_OUT + seed,
            i,
            config.latents,
            shot_latents=config.shot_latents,
            grain=bundle.chunk,
        )
        for i in range(config.films)
    ]
    batch = encode_plans(bundle, plans)
    frames, cache = make_frames(bundle, batch, policy, seeds_of(seed, config.films))
    truth = decode(bundle, batch.latents)
    return compare_films(reader, frames, truth, batch) + touched_rows(cache)


def seeds_of(seed: int, films: int, first: int = 0) -> list[int]:
    """Where the noise of film number `first`, first + 1, ... of an evaluation seed comes from."""
    return [1000 * seed + i for i in range(first, first + films)]


def compare_films(
    reader: Recogniser, frames: np.ndarray, truth: np.ndarray, batch: Batch
) -> list[Row]:
    """Rows of made films (source "model"), of the true ones ("truth") and of chance.

    The chance of looks that are kept is that of the made films themselves, so that drawing all
    characters alike is no merit.
    """
    spans = [line.entry_spans for line in batch.timelines]
    made, own_chance = film_rows(reader, frames, batch.plans)
    true, _ = film_rows(reader, truth, batch.plans)
    return [
        *made,
        *appearance_rows(frames, truth, spans),
        *of_source("truth", true),
        *of_source("chance", chance_rows(reader, truth, batch.plans)),
        *of_source("chance", own_chance),
        *compared_rows(frames, truth, batch.plans),
    ]


def of_source(source: str, rows: Iterable[Row]) -> list[Row]:
    """The rows with their source."""
    return [replace(row, source=source) for row in rows]


def _recalls(
    bundle: Bundle, reader: Recogniser, policy: Policy, *, batch: Batch, noise: list[int]
) -> list[Row]:
    """Rows of identity, scenery and hit rate after one absence."""
    made, cache = recall(bundle, reader, batch, policy, noise)
    hits, drawn = hit_rows(cache, batch.plans, batch.last_shot)
    true = decode(bundle, batch.latents)
    rows = [
        *made,
        *of_source("truth", recall_rows(reader, true, batch.plans)),
        *of_source("chance", recall_rows(reader, true, shuffled(batch.plans))),
        *hits,
        *drawn,
    ]
    return [row for row in rows if row.metric != "prompt"]


def card(rows: pd.DataFrame, **info) -> dict:
    """Label -> {value, low, high, n, chance, upper}; films are the independent units."""
    metrics = {}
    for metric, part in analysed(rows).groupby("metric", sort=False):
        made = part[part.source == "model"]
        if made.empty:
            continue
        estimate = bootstrap(
            made.value.tolist(), groups=list(zip(made["seed"], made["clip"], strict=True))
        )
        mean = part.groupby("source").value.mean()
        numbers = {
            "value": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
            "chance": mean.get("chance"),
            "upper": mean.get("truth"),
        }
        metrics[metric] = {name: _rounded(number) for name, number in numbers.items()} | {
            "n": estimate.n
        }
    own = {name: about for name, about in METRICS.about().items() if name in metrics}
    return {"metrics": metrics, **({"own": own} if own else {}), **info, **hardware()}


def _rounded(value: float | None) -> float | None:
    """JSON knows no infinity: an interval that is not known is null."""
    return None if value is None or not np.isfinite(value) else round(float(value), 4)
