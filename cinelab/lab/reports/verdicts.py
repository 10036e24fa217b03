"""Claims with verdicts: by an interval beyond the margin and a p corrected for all looks.

    confirmed   the whole interval lies where the claim says, and the corrected p is at most 0.05
    refuted     the whole interval lies where the claim denies, and the corrected p is at most 0.05
    undecided   everything else

A point estimate decides nothing. A claim is of one of two kinds. `above`: the value is above the
margin (0 for "A is ahead of B", 0.95 for "keeps 0.95 of"). `level`: the value is within the margin
of 0 on both sides (two one-sided tests), the only way to say that two things are equal.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from cinelab.errors import CinelabError
from cinelab.metrics.stats import (
    Estimate,
    bootstrap,
    holm,
    nested_bootstrap,
    one_sided,
    paired_difference,
    paired_ratio,
    tails,
)

ALPHA = 0.05  # what a corrected p may be
LEVEL = 0.05  # the margin of "level with", in the metric's own units
CONFIRMED = "confirmed"
REFUTED = "refuted"
UNDECIDED = "undecided"
NOT_MEASURED = "not measured"
FEWEST = 2  # trainings that a claim about trainings needs
COLUMNS = (
    "claim",
    "value",
    "low",
    "high",
    "margin",
    "films",
    "trainings",
    "p",
    "corrected p",
    "verdict",
    "note",
)


@dataclass(frozen=True)
class Look:
    """One claim as it was looked at. `p_true`, `p_false`: one-sided p of it and of its contrary."""

    claim: str
    estimate: Estimate | None = None
    p_true: float = 1.0
    p_false: float = 1.0
    kind: str = "above"
    margin: float = 0.0
    films: int = 0
    trainings: int | None = None  # None where nothing was trained for the claim
    note: str = ""
    withdrawn: str = ""  # what stands in place of a verdict
    twin: str = ""  # looks of one twin are one claim under several conditions: all must agree

    @property
    def p(self) -> float:
        """Two-sided p of the look: as surprising as its more surprising side."""
        return min(1.0, 2 * min(self.p_true, self.p_false))

    @property
    def side(self) -> str:
        """Where the whole interval lies: confirmed, refuted or, across a bound, undecided."""
        assert self.estimate is not None  # only of what was measured
        low = self.estimate.low
        high = self.estimate.high
        margin = self.margin
        holds = low > margin if self.kind == "above" else -margin < low and high < margin
        fails = high < margin if self.kind == "above" else low > margin or high < -margin
        return CONFIRMED if holds else REFUTED if fails else UNDECIDED


def about_mean(
    claim: str,
    values: Sequence[float] | None,
    seeds: Sequence | None = None,
    *,
    margin: float = 0.0,
    kind: str = "above",
    draws: int = 10_000,
    **more,
) -> Look:
    """A look at the mean of `values`, one a film; without any, the claim was not measured.

    With `seeds`, the label of the training behind every value, trainings are resampled first.
    """
    values = [] if values is None else list(values)
    if not values:
        return Look(claim, kind=kind, margin=margin, **more)
    found = bootstrap(values) if seeds is None else nested_bootstrap(values, seeds)
    trainings = None if seeds is None else len(set(seeds))
    p = _p(values, seeds, margin, kind=kind, draws=draws)
    return Look(claim, found, *p, kind, margin, len(values), trainings, **more)


def about_gap(claim: str, a: Sequence[float], b: Sequence[float], **more) -> Look:
    """A look at mean a - b on the same films, nothing having been trained for it."""
    gaps = np.asarray(a, float) - np.asarray(b, float)
    return replace(about_mean(claim, gaps, **more), estimate=paired_difference(a, b))


def _p(values, seeds, margin: float, *, kind: str, draws: int) -> tuple[float, float]:
    """One-sided p of the claim and of its contrary."""
    (above, below), lower = tails(values, (margin, -margin), seeds, draws)
    return (above, below) if kind == "above" else level_p((above, below), lower)


def level_p(upper: tuple[float, float], lower: tuple[float, float]) -> tuple[float, float]:
    """p of 'within the margin' and of 'beyond', given (p above, p below) at margin and -margin."""
    return max(lower[0], upper[1]), min(upper[0], lower[1])


def about_ratio(
    claim: str, a: Sequence[float], b: Sequence[float], *, margin: float, **more
) -> Look:
    """A look at mean a over mean b on the same films: is it above `margin`?

    p is that of the mean of a - margin b, by sign flips.
    """
    gaps = np.asarray(a, float) - margin * np.asarray(b, float)
    return Look(claim, paired_ratio(a, b), *one_sided(gaps), "above", margin, len(gaps), **more)


def about_times(
    claim: str, ratios: Sequence[float] | None, seeds: Sequence, *, margin: float, **more
) -> Look:
    """A look at the geometric mean of ratios of times of two things that took turns.

    `seeds` label the runs that the turns are of.
    """
    if ratios is None or not len(ratios):
        return Look(claim, margin=margin, **more)
    logs = np.log(ratios).tolist()
    look = about_mean(claim, logs, list(seeds), margin=float(np.log(margin)), **more)
    e = look.estimate
    assert e is not None  # of ratios that were measured
    value, low, high = (float(np.exp(edge)) for edge in (e.value, e.low, e.high))
    shown = Estimate(value, low, high, e.n)
    return replace(look, estimate=shown, margin=margin)


def verdict(look: Look, corrected: float | None) -> str:
    """The verdict on one look, given its p corrected for all looks (None: it was not measured)."""
    if look.withdrawn:
        return look.withdrawn
    if look.estimate is None or corrected is None:
        return NOT_MEASURED
    if look.trainings is not None and look.trainings < FEWEST:
        return f"{UNDECIDED}: {look.trainings} training"
    if look.side == UNDECIDED:
        return f"{UNDECIDED}: the interval holds the margin"
    return look.side if corrected <= ALPHA else f"{UNDECIDED}: corrected p {corrected:.3f}"


def judged(looks: Iterable[Look]) -> pd.DataFrame:
    """Every look with its verdict: COLUMNS. p is corrected by Holm over all that were measured."""
    looks = list(looks)
    corrected = _corrected(looks)
    verdicts = [verdict(*pair) for pair in zip(looks, corrected, strict=True)]
    rows = zip(looks, corrected, _agreed(looks, verdicts), strict=True)
    return pd.DataFrame([_row(*row) for row in rows], columns=list(COLUMNS))


def _corrected(looks: list[Look]) -> list[float | None]:
    """Holm's p of every look; None where there was nothing to look at."""
    raw = [look.p for look in looks if look.estimate is not None]
    found = iter(holm(raw) if raw else [])
    return [None if look.estimate is None else next(found) for look in looks]


def _agreed(looks: list[Look], verdicts: list[str]) -> list[str]:
    """The verdicts, of which those of one twin that differ are undecided."""
    found: dict[str, set[str]] = {}
    for look, word in zip(looks, verdicts, strict=True):
        found.setdefault(look.twin, set()).add(word)
    apart = {twin for twin, words in found.items() if twin and len(words) > 1}
    return [
        f"{UNDECIDED}: its conditions do not agree"
        if look.twin in apart and word in (CONFIRMED, REFUTED)
        else word
        for look, word in zip(looks, verdicts, strict=True)
    ]


def _row(look: Look, corrected: float | None, word: str) -> tuple:
    """The cells of COLUMNS."""
    e = look.estimate
    sign = ">" if look.kind == "above" else "+-"
    numbers = (e.value, e.low, e.high) if e else (None, None, None)
    counts = (f"{sign} {look.margin:g}", look.films, look.trainings)
    return (look.claim, *numbers, *counts, look.p if e else None, corrected, word, look.note)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `judged` for readers: value and interval in one column, to three places."""
    if missing := [name for name in COLUMNS if name not in table]:
        raise CinelabError(
            f"This is no table of claims: column {missing[0]!r} is missing; make it with `judged`."
        )
    edges = zip(table.value, table.low, table.high, strict=True)
    measured = ["" if pd.isna(v) else f"{v:.3f} [{a:.3f}, {b:.3f}]" for v, a, b in edges]
    found = {"claim": table.claim, "measured": measured, "margin": table.margin}
    found |= {"films": table.films, "trainings": table.trainings.map(_count)}
    found |= {name: table[name].map(p_text) for name in ("p", "corrected p")}
    return pd.DataFrame(found | {"verdict": table.verdict, "note": table.note})


def _count(n: float | None) -> str:
    return "" if pd.isna(n) else f"{n:.0f}"


def p_text(p: float | None) -> str:
    """A p as it is printed: never 0, nothing where there is none."""
    return "" if p is None or pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"
