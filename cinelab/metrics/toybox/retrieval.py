"""What a memory policy retrieved, against what was there to be found, and how much of the film it
touched.

The KV cache's decisions are read (see `cinelab.memory.cache.KVCache`): per chunk and layer, the
pages of the history that each group of heads attends to; there is one group where a layer's heads
choose together. The measures are ours: CausalCine (arXiv:2605.12496) shows what its CAMR retrieves
as figures.

    B films   n pages of the history   G groups of heads   k pages retrieved
"""

from collections.abc import Iterator, Sequence
from math import comb

import torch
from torch import Tensor

from cinelab.memory.cache import KVCache
from cinelab.metrics.rows import WHOLE, Row, clip_of
from cinelab.world.plans import FilmPlan


def hit_rows(cache: KVCache, plans: Sequence[FilmPlan], chunk: int) -> tuple[list[Row], list[Row]]:
    """Rows of "hit rate", protocol `recalled`, for the shot that `chunk` begins, and the same by
    chance.

    A hit: the pages that a group of heads attends to hold one that shows the returning character.
    By chance the pages beyond the fixed ones (window, sinks) are drawn at random.
    """
    made = []
    chance = []
    for film, plan in enumerate(plans):
        last = len(plan.shots) - 1
        shows = [
            shot for shot in range(last) if plan.shots[shot].character == plan.shots[last].character
        ]
        right = torch.isin(history(cache, chunk, film), torch.tensor(shows))
        for picks, fixed in choices(cache, chunk, film):
            made += [_hit(film, last, float(right[group].any())) for group in picks]
            chance += [
                _hit(film, last, _drawn(right, group[held], len(group)), "chance")
                for group, held in zip(picks, fixed, strict=True)
            ]
    return made, chance


def _hit(film: int, shot: int, value: float, source: str = "model") -> Row:
    """A row of the shot `shot` (from 0) of a planned film."""
    return Row(
        clip_of(film),
        shot + 1,
        "hit rate",
        value,
        backend="toybox",
        protocol="recalled",
        source=source,
    )


def history(cache: KVCache, chunk: int, film: int) -> Tensor:
    """(n,) the shot of every unit that was finished before `chunk`."""
    pages = sum(number < chunk for number in cache.page_chunks)
    return cache.page_shots[min(film, len(cache.page_shots) - 1), :pages].cpu()


def choices(cache: KVCache, chunk: int, film: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Of every layer at `chunk`: the pages (G, k) that a film's groups of heads attend to, and
    which of them are fixed."""
    for decision in cache.decisions:
        if decision["chunk"] == chunk and not decision["clean"]:
            yield tuple(
                part[min(film, len(part) - 1)].cpu()
                for part in (decision["picks"], decision["fixed"])
            )


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
        [set(picks.flatten().tolist()) for picks, _ in choices(cache, chunk, film)]
        for film in range(films)
    ]
    a_layer = [len(held) for film in layers for held in film]
    return {
        "history": float(sum(number < chunk for number in cache.page_chunks)),
        "layer": sum(a_layer) / max(1, len(a_layer)),
        "film": sum(len(set().union(*film)) for film in layers) / films,
    }
