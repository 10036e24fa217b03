"""Cards: metric -> value, 95 % interval, n, chance and ground-truth upper bound.

`python -m cinelab score NAME` writes results/reference/<name>.json; anyone can make it again on
fresh seeds.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from cinelab.errors import CinelabError
from cinelab.memory.policy import Policy
from cinelab.memory.policy_registry import seeded
from cinelab.metrics.legacy import analysed
from cinelab.metrics.metric import METRICS
from cinelab.metrics.registered import compared_rows, listed, try_registered
from cinelab.metrics.rows import Row, clip_of, row_table
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
from cinelab.metrics.toybox.held_films import held_film_rows
from cinelab.metrics.toybox.paired_histories import paired_batch, paired_rows
from cinelab.metrics.toybox.recogniser import Recogniser
from cinelab.metrics.toybox.retrieval import hit_rows, touched_rows
from cinelab.metrics.video.appearance import appearance_rows
from cinelab.metrics.video.held_shot import HELD
from cinelab.metrics.video.pixels import TIMING, floor_rows
from cinelab.runs import hardware
from cinelab.world.plans import FilmPlan
from cinelab.world.worlds import World
from cinelab.zoo.bundle import Bundle

HELD_OUT = 50_000  # seeds from here on are never trained on
BESIDE = 3  # shots of an absence beside those without A: the opening, A, and A again
DIVERSITIES = ("diversity of identity", "diversity of scenery")


@dataclass(frozen=True)
class CardConfig:
    """How much is measured. `films` for each seed; `away` shots without A in the recall test.

    After `reframed_away` shots the return is also measured in another shot size. `in_span` are
    further absences, whose films are as long as the longest clip that the model was trained on:
    their shots are as short as that takes. `pairs` of histories are made for each absence (None:
    half as many as films), and `held` films of one shot of `held_seconds` (None: a quarter).
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    films: int = 32
    latents: int = 24  # latent frames a film
    shot_latents: tuple[int, int] = (3, 6)
    away: tuple[int, ...] = (1, 3, 5)
    absence_latents: int = 3  # latent frames a shot of an absence, in whole chunks
    reframed_away: int = 3
    in_span: tuple[int, ...] = (9,)
    pairs: int | None = None
    held: int | None = None
    held_seconds: int = 12

    def __post_init__(self):
        if not self.seeds or self.films < 2:
            raise CinelabError(
                f"A card needs at least 1 seed and 2 films a seed, not {len(self.seeds)} and "
                f"{self.films}."
            )
        if self.held_seconds < HELD:
            raise CinelabError(
                f"held_seconds is {self.held_seconds}; a shot is held from {HELD:g} s on."
            )

    @classmethod
    def of(cls, world: World, **settings: Any) -> "CardConfig":
        """Return the settings for a world, whose films and shots have their own lengths."""
        return cls(
            latents=world.film_latents,
            shot_latents=world.film_shots,
            absence_latents=world.absence_latents,
            **settings,
        )

    @property
    def paired(self) -> int:
        """How many pairs of histories there are a seed and absence."""
        return max(1, self.films // 2) if self.pairs is None else self.pairs

    @property
    def held_films(self) -> int:
        """How many films of one held shot there are a seed."""
        return max(1, self.films // 4) if self.held is None else self.held


@dataclass(frozen=True)
class Absence:
    """How a return is tested: shots without the character, latent frames a shot, whether the return
    has another size."""

    away: int
    shot_latents: int
    reframed: bool = False
    in_span: bool = False

    @property
    def protocol(self) -> str:
        """What rows call it."""
        return f"away={self.away}" + " in span" * self.in_span + " reframed" * self.reframed

    def __str__(self) -> str:
        more = ", in the trained span" * self.in_span + ", reframed" * self.reframed
        return f"after {self.away} shot{'s' * (self.away != 1)}{more}"


def absences_of(config: CardConfig, span: int, chunk: int) -> list[Absence]:
    """Return the absences that a card tests a model at that was trained on `span` latent frames;
    those in span that its chunks cannot fit are left out."""
    usual = -(-config.absence_latents // chunk) * chunk
    found = [Absence(away, usual) for away in config.away]
    found.append(Absence(config.reframed_away, usual, reframed=True))
    for away in config.in_span:
        longest = span // (away + BESIDE) // chunk * chunk
        if longest:
            found.append(Absence(away, min(usual, longest), in_span=True))
    return found


def measure_card(
    bundle: Bundle,
    reader: Recogniser,
    policy: Policy,
    config: CardConfig,
    tell: Callable[[str], None] = lambda text: None,
) -> pd.DataFrame:
    """Rows of all films of all seeds, with a column `seed`; `tell` is called with "3 of 15: what"
    as each part begins."""
    try_registered(bundle.world)
    parts = [
        (seed, what, measure)
        for seed in config.seeds
        for what, measure in _parts(bundle, reader, seeded(policy, seed), config=config, seed=seed)
    ]
    tables = []
    for number, (seed, what, measure) in enumerate(parts, 1):
        tell(f"{number} of {len(parts)}: {what}, seed {seed}")
        tables.append(row_table(measure(), seed=seed))
    return pd.concat(tables, ignore_index=True)


def _parts(
    bundle: Bundle, reader: Recogniser, policy: Policy, *, config: CardConfig, seed: int
) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    """Yield what a card measures of a seed, one after another: in words, and the call that does."""
    use = (bundle, reader, policy)
    absences = absences_of(config, bundle.span, bundle.chunk)
    yield "whole films", partial(_films, *use, config=config, seed=seed)
    for one in absences:
        yield f"a return {one}", partial(_recalls, *use, absence=one, config=config, seed=seed)
    for one in absences if config.paired else ():
        if not one.reframed:
            yield f"pairs {one}", partial(_pairs, *use, absence=one, config=config, seed=seed)
    if config.held_films:
        noise = seeds_of(seed, config.held_films)
        held = partial(held_film_rows, *use, seconds=config.held_seconds, noise=noise)
        yield f"shots of {config.held_seconds} s", partial(held, seed=HELD_OUT + seed)


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
    drawn = [row for row in chance_rows(reader, truth, batch.plans) if row.metric != TIMING]
    return [
        *made,
        *relative_diversity_rows(made, true),
        *floors_of(batch.plans),
        *appearance_rows(frames, truth, spans),
        *of_source("truth", true),
        *of_source("chance", drawn),
        *of_source("chance", own_chance),
        *compared_rows(frames, truth, batch.plans),
    ]


def relative_diversity_rows(made: Iterable[Row], true: Iterable[Row]) -> list[Row]:
    """Rows of the made films' diversity as a share of the true films' mean."""
    rows = []
    for name in DIVERSITIES:
        whole = np.mean([row.value for row in true if row.metric == name] or [np.nan])
        mine = (row for row in made if row.metric == name and whole > 0)
        rows += [
            replace(row, metric=f"relative {name}", value=float(row.value / whole)) for row in mine
        ]
    return rows


def floors_of(plans: Iterable[FilmPlan]) -> list[Row]:
    """Rows of what SCA comes to in these films without listening to their plans."""
    lists = [listed(plan) for plan in plans]
    return [
        row
        for film, shots in enumerate(lists)
        for row in floor_rows(clip_of(film), shots.cuts, shots.frames)
    ]


def of_source(source: str, rows: Iterable[Row]) -> list[Row]:
    """The rows with their source."""
    return [replace(row, source=source) for row in rows]


def _recalls(
    bundle: Bundle,
    reader: Recogniser,
    policy: Policy,
    *,
    absence: Absence,
    config: CardConfig,
    seed: int,
) -> list[Row]:
    """Rows of identity, scenery and hit rate after one absence."""
    films = range(config.films)
    batch = absence_batch(
        bundle,
        HELD_OUT + seed,
        films,
        absence.away,
        absence.shot_latents,
        reframed=absence.reframed,
    )
    made, cache = recall(bundle, reader, batch, policy, seeds_of(seed, config.films))
    hits, drawn = hit_rows(cache, batch.plans, batch.last_shot)
    true = decode(bundle, batch.latents)
    rows = [
        *made,
        *of_source("truth", recall_rows(reader, true, batch.plans)),
        *of_source("chance", recall_rows(reader, true, shuffled(batch.plans))),
        *hits,
        *drawn,
    ]
    return [replace(row, protocol=absence.protocol) for row in rows if row.metric != "prompt"]


def _pairs(
    bundle: Bundle,
    reader: Recogniser,
    policy: Policy,
    *,
    absence: Absence,
    config: CardConfig,
    seed: int,
) -> list[Row]:
    """Rows of paired histories after one absence."""
    numbers = range(config.paired)
    paired = paired_batch(
        bundle, HELD_OUT + seed, numbers, away=absence.away, shot_latents=absence.shot_latents
    )
    return paired_rows(
        bundle,
        reader,
        policy,
        paired=paired,
        seeds=seeds_of(seed, config.paired),
        protocol=absence.protocol,
    )


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
