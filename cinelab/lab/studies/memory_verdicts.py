"""Bases trained under rival memories (experiments/causalcine.yaml) as a whole: tables, figures, and
claims with verdicts.

The seeds of the sweep are trainings. An interval resamples trainings first and then their films,
and memories are compared on the same seed and film. All claims of the table are corrected together
by Holm; what an interval does not decide is undecided.
"""

from collections.abc import Iterator
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from cinelab.lab.reports.plots import PALETTE, TEMPLATE
from cinelab.lab.reports.verdicts import LEVEL, Look, about_mean, judged
from cinelab.lab.studies.memory_training import MEMORIES, OWN, RETRIEVED, WINDOWS
from cinelab.metrics.legacy import analysed
from cinelab.metrics.stats import nested_bootstrap
from cinelab.metrics.toybox.attributes import with_prompt

RECALLED = "identity (recalled)"
PRECISION = "retrieval precision (recalled)"
HIT_RATE = "hit rate (recalled)"
KEPT = "identity above chance (kept)"
OF_TESTS = (RECALLED, "scenery (recalled)", "prompt", HIT_RATE, PRECISION)
OF_FILMS = (KEPT, "prompt", "cut accuracy", "motion", "sharpness")
KEYS = ["memory", "variant", "away", "metric", "source"]


def memory_values(rows: pd.DataFrame) -> pd.DataFrame:
    """One value a film: KEYS, seed, clip, value; away 0 is of whole films."""
    whole = rows[rows.away == 0]
    rows = pd.concat([with_prompt(whole), rows[rows.away > 0]], ignore_index=True)
    rows = analysed(rows)
    known = rows["metric"].isin({*OF_TESTS, *OF_FILMS})
    return rows[known].groupby([*KEYS, "seed", "clip"], as_index=False).value.mean()


def memory_table(rows: pd.DataFrame) -> pd.DataFrame:
    """memory, variant, away, metric, source, value, low, high, n (films), trainings."""
    found = []
    for key, films in memory_values(rows).groupby(KEYS, sort=False):
        e = nested_bootstrap(films.value.tolist(), films.seed.tolist())
        found.append((*key, e.value, e.low, e.high, e.n, films.seed.nunique()))
    names = [*KEYS, "value", "low", "high", "n", "trainings"]
    return pd.DataFrame(found, columns=names).round(4)


def layer_table(layers: pd.DataFrame) -> pd.DataFrame:
    """What each layer retrieved under its base's own memory: memory, away, layer, and the means of
    hit and precision over trainings and films, each with its chance."""
    own = layers[(layers.variant == OWN) & (layers.away > 0)]
    means = ["hit", "hit_by_chance", "precision", "precision_by_chance"]
    found = own.groupby(["memory", "away", "layer"], as_index=False)[means].mean()
    return found.astype({"layer": int}).round(4)


def causalcine_figure(table: pd.DataFrame, metric: str = RECALLED) -> go.Figure:
    """Each memory by absence under which it was trained and tested, with nested intervals."""
    mine = table[(table.metric == metric) & (table.variant == OWN) & (table.away > 0)]
    figure = go.Figure()
    for number, name in enumerate(name for name in MEMORIES if name in set(mine.memory)):
        part = mine[(mine.memory == name) & (mine.source == "model")].sort_values("away")
        figure.add_scatter(
            x=part.away + 0.06 * (number - 2),  # side by side
            y=part.value,
            name=name,
            mode="lines+markers",
            marker={"color": PALETTE[number % len(PALETTE)], "symbol": number, "size": 9},
            error_y={"array": part.high - part.value, "arrayminus": part.value - part.low},
        )
    for source in ("chance", "truth"):
        line = mine[mine.source == source]
        if len(line):
            figure.add_hline(y=line.value.mean(), line_dash="dot", annotation_text=source)
    return figure.update_layout(
        template=TEMPLATE, title=f"Trained and tested under one memory: {metric}"
    ).update_xaxes(title="shots away")


def swept_table(table: pd.DataFrame, memory: str, metric: str = RECALLED) -> pd.DataFrame:
    """Every variant of a memory's bases at the absence of the sweep: variant, value, low, high."""
    mine = table[(table.memory == memory) & (table.metric == metric) & (table.source == "model")]
    swept = mine[mine.variant != OWN].away
    there = mine[mine.away == swept.iloc[0]] if len(swept) else mine.iloc[:0]
    return there[["variant", "value", "low", "high", "n", "trainings"]].reset_index(drop=True)


def memory_claims(rows: pd.DataFrame, margin: float = LEVEL) -> pd.DataFrame:
    """Each claim with its verdict (`cinelab.lab.reports.verdicts`); `margin` is that of "level".

    p is corrected by Holm over the whole table.
    """
    films = memory_values(rows)
    tests = sorted(films[(films.variant == OWN) & (films.away > 0)].away.unique().tolist())
    looks = [look for away in tests for look in _of_tests(films, away, margin)]
    # the precondition: after the shortest absence the window holds all that is to be recalled
    for away in tests[:1]:
        about: dict[str, Any] = {"away": away, "metric": RECALLED, "level": margin}
        looks.append(_rivals(films, "causalcine", "window", **about))
    looks += [*_of_films(films, margin), *_of_sweeps(films, margin)]
    return judged(looks)


def _of_tests(films: pd.DataFrame, away: int, margin: float) -> Iterator[Look]:
    """After an absence: does the paper's retrieval help, is ours level with it, what is left?"""
    about: dict[str, Any] = {"away": away, "metric": RECALLED}
    for other in ("window", "random"):
        yield _rivals(films, "causalcine", other, **about)
    yield _rivals(films, "ours", "causalcine", **about)
    yield _rivals(films, "ours", "causalcine", level=margin, **about)
    yield _rivals(films, "oracle", "causalcine", **about)
    yield _rivals(films, "oracle", "ours", **about)
    for memory in ("causalcine", "ours"):
        yield _chosen(films, memory, away)


def _of_films(films: pd.DataFrame, margin: float) -> Iterator[Look]:
    """In whole films: are looks kept, and nothing else lost?"""
    for other in ("window", "random", "ours"):
        yield _rivals(films, "causalcine", other, away=0, metric=KEPT)
    for metric in ("prompt", "cut accuracy"):
        for other in ("window", "ours"):
            yield _rivals(films, "causalcine", other, away=0, metric=metric, level=margin)


def _of_sweeps(films: pd.DataFrame, margin: float) -> Iterator[Look]:
    """Of bases trained under CAMR: what do k, window, unit, heads, score, layers do?"""
    swept = films[~films.variant.isin([OWN]) & (films.away > 0)].away.unique().tolist()
    for away in swept[:1]:
        for memory in ("causalcine", "ours"):
            yield _varied(films, memory, OWN, "k=0", away=away)
            for more in (f"k={RETRIEVED[-1]}", f"window={WINDOWS[0]}"):
                yield _varied(films, memory, OWN, more, away=away, level=margin)
            for other in ("unit=chunk", "per_head=True"):
                yield _varied(films, memory, OWN, other, away=away, level=margin)
            layers = films[(films.memory == memory) & films.variant.str.startswith("layers ")]
            for part in layers.variant.unique():
                yield _varied(films, memory, OWN, part, away=away, level=margin)


def _rivals(
    films: pd.DataFrame,
    one: str,
    other: str,
    *,
    away: int,
    metric: str,
    level: float | None = None,
) -> Look:
    """Two memories, each trained and tested by itself: is `one` ahead, or both level?"""
    sides = [_side(films, memory, OWN, away=away, metric=metric) for memory in (one, other)]
    return _look(f"{_where(away)}: {one} {{}} {other} in {metric}", *sides, level=level)


def _varied(
    films: pd.DataFrame,
    memory: str,
    one: str,
    other: str,
    *,
    away: int,
    level: float | None = None,
) -> Look:
    """Two variants of the same bases: is the first ahead, or both level?"""
    sides = [_side(films, memory, name, away=away, metric=RECALLED) for name in (one, other)]
    claim = f"{_where(away)}: {memory} as trained {{}} itself with {other} in {RECALLED}"
    return _look(claim, *sides, level=level)


def _chosen(films: pd.DataFrame, memory: str, away: int) -> Look:
    """Are a memory's retrieved frames right more often than frames drawn at random?"""
    sides = [
        _side(films, memory, OWN, away=away, metric=PRECISION, source=source)
        for source in ("model", "chance")
    ]
    return _look(f"{_where(away)}: {memory} {{}} chance in {PRECISION}", *sides)


def _where(away: int) -> str:
    return f"{away} shots away" if away else "whole films"


def _side(
    films: pd.DataFrame,
    memory: str,
    variant: str,
    *,
    away: int,
    metric: str,
    source: str = "model",
) -> pd.Series:
    """One value a film of one side of a comparison, by (seed, clip)."""
    wanted = {"memory": memory, "variant": variant, "away": away, "metric": metric}
    part = films[films.source == source]
    for name, value in wanted.items():
        part = part[part[name] == value]
    return part.set_index(["seed", "clip"]).value


def _look(claim: str, one: pd.Series, other: pd.Series, *, level: float | None = None) -> Look:
    """A claim on one minus other, on the same trainings' seeds and films; not measured where there
    are none."""
    gap = (one - other).dropna().reset_index()
    word = "is ahead of" if level is None else "is level with"
    how: dict[str, Any] = {"kind": "above", "margin": 0.0}
    if level is not None:
        how = {"kind": "level", "margin": level}
    return about_mean(claim.format(word), gap.value, gap.seed.tolist(), **how)
