"""What a memory policy retrieved, against what was there to be found, and how much of the film it
touched.

The KV cache's decisions are read (see `cinelab.memory.cache.KVCache`): per chunk and layer, the
pages of the history that each group of heads attends to; there is one group where a layer's heads
choose together. The measures are ours: CausalCine (arXiv:2605.12496) shows what its CAMR retrieves
as figures.

    B films   n pages of the history   G groups of heads   k pages retrieved
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import comb

import pandas as pd
import torch
from torch import Tensor

from cinelab.memory.cache import KVCache
from cinelab.metrics.rows import WHOLE, Row, clip_of
from cinelab.world.plans import FilmPlan


@dataclass(frozen=True)
class Retrieval:
    """What a group of heads retrieved for the shot that returns, and the same by chance.

    Pages beyond the pinned ones (window, sinks) are by chance drawn at random, as many of them. A
    page is right where it shows the returning character; a page is what the policy retrieves, a
    chunk or a latent frame.

    hit        whether any page that is attended to is right, pinned ones included
    precision  the share of right ones among the pages that are not pinned; None without such
    """

    film: int
    layer: int
    group: int
    hit: float
    hit_by_chance: float
    precision: float | None
    precision_by_chance: float | None


def retrievals(cache: KVCache, plans: Sequence[FilmPlan], chunk: int) -> Iterator[Retrieval]:
    """Yield what every group of heads retrieved of planned films for `chunk`, which begins their
    last shots, film by film and layer by layer."""
    for film, plan in enumerate(plans):
        right = torch.isin(history(cache, chunk, film), torch.tensor(shows_again(plan)))
        for layer, picks, fixed in choices(cache, chunk, film):
            for group, (pages, pinned) in enumerate(zip(picks, fixed, strict=True)):
                held = pages[pinned]
                yield Retrieval(
                    film,
                    layer,
                    group,
                    float(right[pages].any()),
                    _drawn(right, held, len(pages)),
                    *_precisions(right, pages[~pinned], held),
                )


def shows_again(plan: FilmPlan) -> list[int]:
    """The shots, from 0, that show the character of a film's last one."""
    *before, last = plan.shots
    return [shot for shot, entry in enumerate(before) if entry.character == last.character]


def retrieval_rows(cache: KVCache, plans: Sequence[FilmPlan], chunk: int) -> list[Row]:
    """Rows of "hit rate" and "retrieval precision", protocol `recalled`, for the shots that `chunk`
    begins, and the same by chance."""
    rows = []
    for one in retrievals(cache, plans, chunk):
        shot = len(plans[one.film].shots)
        rows.append(_row(one.film, shot, "hit rate", one.hit))
        rows.append(_row(one.film, shot, "hit rate", one.hit_by_chance, "chance"))
        if one.precision is not None and one.precision_by_chance is not None:
            name = "retrieval precision"
            rows.append(_row(one.film, shot, name, one.precision))
            rows.append(_row(one.film, shot, name, one.precision_by_chance, "chance"))
    return rows


def hit_rows(cache: KVCache, plans: Sequence[FilmPlan], chunk: int) -> tuple[list[Row], list[Row]]:
    """Rows of "hit rate" alone (see `retrieval_rows`): the model's, and by chance."""
    rows = [row for row in retrieval_rows(cache, plans, chunk) if row.metric == "hit rate"]
    made = [row for row in rows if row.source == "model"]
    return made, [row for row in rows if row.source == "chance"]


def retrieval_by_layer(cache: KVCache, plans: Sequence[FilmPlan], chunk: int) -> pd.DataFrame:
    """Return `retrievals` as a table, a row a film, layer and group of heads."""
    return pd.DataFrame(retrievals(cache, plans, chunk), columns=COLUMNS)


COLUMNS = list(Retrieval.__dataclass_fields__)


def _row(film: int, shot: int, metric: str, value: float, source: str = "model") -> Row:
    """A row of shot `shot` (from 1) of a planned film."""
    return Row(
        clip_of(film),
        shot,
        metric,
        value,
        backend="toybox",
        protocol="recalled",
        source=source,
    )


def history(cache: KVCache, chunk: int, film: int) -> Tensor:
    """(n,) the shot of every page that was finished before `chunk`."""
    pages = sum(number < chunk for number in cache.page_chunks)
    return cache.page_shots[min(film, len(cache.page_shots) - 1), :pages].cpu()


def choices(cache: KVCache, chunk: int, film: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Of every layer at `chunk`: its number, the pages (G, k) that a film's groups of heads attend
    to, and which of them are fixed."""
    for decision in cache.decisions:
        if decision["chunk"] == chunk and not decision["clean"]:
            picks, fixed = (
                part[min(film, len(part) - 1)].cpu()
                for part in (decision["picks"], decision["fixed"])
            )
            yield decision["layer"], picks, fixed


def _precisions(
    right: Tensor, drawn: Tensor, fixed: Tensor
) -> tuple[float, float] | tuple[None, None]:
    """The share of right pages among those that were retrieved, and among all that could have
    been."""
    if not len(drawn):
        return None, None
    free = torch.ones(len(right), dtype=torch.bool)
    free[fixed] = False
    return float(right[drawn].double().mean()), float(right[free].double().mean())


def _drawn(right: Tensor, fixed: Tensor, budget: int) -> float:
    """The chance that `budget` pages hold a right one, if all but the `fixed` ones are drawn
    without replacement."""
    if right[fixed].any():
        return 1.0
    free = len(right) - len(fixed)
    wrong = int((~right).sum()) - len(fixed)
    draws = budget - len(fixed)
    return 1.0 - comb(wrong, draws) / comb(free, draws)


def touched_rows(cache: KVCache) -> list[Row]:
    """Rows of what the last chunk of the films attended to, as shares of the history: one layer,
    and all layers together."""
    found = touched(cache)
    shares = {"one layer": found["layer"], "all layers": found["film"]}
    name = "share of the history"
    return [
        Row(
            clip_of(0),
            WHOLE,
            name,
            value / max(1.0, found["history"]),
            backend="KV cache",
            protocol=protocol,
        )
        for protocol, value in shares.items()
    ]


def touched(cache: KVCache, chunk: int | None = None) -> dict[str, float]:
    """How much of the film one chunk attends to (default: the last that was made), in pages, mean
    over films.

    `history` pages there are; `layer` of them are held by one layer's heads together (mean over
    layers): what must be on the device at once; `film` by all layers together: what must be stored
    at all.
    """
    chunk = cache.page_chunks[-1] if chunk is None else chunk
    films = len(cache.page_shots)
    layers = [
        [set(picks.flatten().tolist()) for _, picks, _ in choices(cache, chunk, film)]
        for film in range(films)
    ]
    a_layer = [len(held) for film in layers for held in film]
    return {
        "history": float(sum(number < chunk for number in cache.page_chunks)),
        "layer": sum(a_layer) / max(1, len(a_layer)),
        "film": sum(len(set().union(*film)) for film in layers) / films,
    }
