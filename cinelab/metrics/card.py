"""Score cards: metric -> value, 95 % interval, n, chance and ground-truth upper bound.

`python -m cinelab score NAME` writes results/reference/<name>.json; anyone can make it again on
fresh seeds.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cinelab.errors import CinelabError
from cinelab.memory.cache import KVCache
from cinelab.memory.policy import Policy, seeded
from cinelab.metrics.metric import METRICS, compared_rows, rehearse
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
    table,
)
from cinelab.metrics.toybox.recogniser import Recogniser
from cinelab.metrics.toybox.retrieval import hit_rows, touched
from cinelab.metrics.video.appearance import picture_rows
from cinelab.runs import hardware
from cinelab.world import casting
from cinelab.zoo.bundle import Bundle

HELD_OUT = 50_000  # seeds from here on are never trained on


@dataclass(frozen=True)
class CardConfig:
    """How much is measured. `films` for each seed; `away` shots without A in the recall test.

    After `reframed_away` shots it is also asked whether A is recalled in another shot size.
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


def measure(
    bundle: Bundle,
    reader: Recogniser,
    policy: Policy,
    config: CardConfig,
    tell: Callable[[str], None] = lambda text: None,
) -> pd.DataFrame:
    """Rows (seed, film, shot, metric, value, source); source is model, truth or chance. `tell`
    hears "3 of 15: what" as it begins."""
    parts = []
    absences = [*((away, False) for away in config.away), (config.reframed_away, True)]
    count = 0
    of = len(config.seeds) * (1 + len(absences))
    rehearse()
    for seed in config.seeds:
        rule = seeded(policy, seed)
        count += 1
        tell(f"{count} of {of}: whole films, seed {seed}")
        parts.append(_films(bundle, reader, rule, config, seed))
        for away, reframed in absences:
            count += 1
            tell(
                f"{count} of {of}: a return after {away} "
                f"shot{'s' * (away != 1)}{', reframed' * reframed}, seed {seed}"
            )
            parts.append(_recalls(bundle, reader, rule, config, seed, away, reframed))
    return pd.concat(parts, ignore_index=True)


def _films(
    bundle: Bundle, reader: Recogniser, policy: Policy, config: CardConfig, seed: int
) -> pd.DataFrame:
    plans = [
        casting.cast_film(HELD_OUT + seed, i, config.latents, config.shot_latents, bundle.chunk)
        for i in range(config.films)
    ]
    batch = encode_plans(bundle, plans)
    frames, memory = make_frames(bundle, batch, policy, seeds_of(seed, config.films))
    rows = pd.concat(
        [compare_films(reader, frames, decode(bundle, batch.latents), batch), touched_rows(memory)]
    )
    return rows.assign(seed=seed)


def touched_rows(memory: KVCache) -> pd.DataFrame:
    """Rows of what the last chunk of the films attended to, as shares of the history: one layer,
    and all layers together."""
    found = touched(memory)
    shares = [
        (0, -1, f"share of the history, {what}", found[name] / max(1.0, found["history"]))
        for what, name in (("a layer", "layer"), ("all layers", "film"))
    ]
    return table(shares, source="model")


def seeds_of(seed: int, films: int, first: int = 0) -> list[int]:
    """Where the noise of film number `first`, first + 1, ... of an evaluation seed comes from."""
    return [1000 * seed + i for i in range(first, first + films)]


def compare_films(
    reader: Recogniser, frames: np.ndarray, truth: np.ndarray, batch: Batch
) -> pd.DataFrame:
    """Rows (film, shot, metric, value, source) of made films beside the true ones and what chance
    scores.

    The chance of looks that are kept is that of the made films themselves, so that drawing all
    characters alike is no merit.
    """
    spans = [line.entry_spans for line in batch.timelines]
    (made, own_chance), (true, _) = (
        film_rows(reader, frames, batch.plans),
        film_rows(reader, truth, batch.plans),
    )
    made = pd.concat([made, table(picture_rows(frames, truth, spans))])
    sources = {
        "model": made,
        "truth": true,
        "chance": pd.concat([chance_rows(reader, truth, batch.plans), own_chance]),
    }
    return pd.concat(
        [
            *(rows.assign(source=name) for name, rows in sources.items()),
            compared_rows(frames, truth, batch.plans),
        ]
    )


def _recalls(
    bundle: Bundle,
    reader: Recogniser,
    policy: Policy,
    config: CardConfig,
    seed: int,
    away: int,
    reframed: bool,
) -> pd.DataFrame:
    batch = absence_batch(bundle, HELD_OUT + seed, range(config.films), away, reframed=reframed)
    made, memory = recall(bundle, reader, batch, policy, seeds_of(seed, config.films))
    hits, drawn = (table(rows) for rows in hit_rows(memory, batch.plans, batch.last_shot))
    truth = recall_rows(reader, decode(bundle, batch.latents), batch.plans)
    chance = recall_rows(reader, decode(bundle, batch.latents), shuffled(batch.plans))
    rows = pd.concat(
        [
            made.assign(source="model"),
            truth.assign(source="truth"),
            chance.assign(source="chance"),
            hits.assign(source="model"),
            drawn.assign(source="chance"),
        ]
    )
    rows = rows[rows.metric != "prompt"]
    return rows.assign(
        seed=seed, metric=rows.metric + f" after {away} away" + ", reframed" * reframed
    )


def card(rows: pd.DataFrame, **info) -> dict:
    """Metric -> {value, low, high, n, chance, upper}; films are the independent units."""
    metrics = {}
    for metric, part in rows.groupby("metric", sort=False):
        made = part[part.source == "model"]
        if made.empty:
            continue
        estimate = bootstrap(
            made.value.tolist(), groups=list(zip(made.seed, made.film, strict=True))
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
