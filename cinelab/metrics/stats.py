"""Every measured number with its 95 % interval: what a card and a table are made of.

Shots of one film share a cast, a place and a drift, so they are not independent: pass `groups`
(the film of every value) and whole films are resampled.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from cinelab.errors import CinelabError

Numbers = Sequence[float] | np.ndarray

DRAWS_AT_ONCE = 1_000_000  # bounds the memory of one batch of resamples


@dataclass(frozen=True)
class Estimate:
    """A mean, its interval and the number of values behind it."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] n={self.n}"


def bootstrap(
    values: Numbers,
    groups: Sequence | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Mean of `values` with a percentile-bootstrap interval; whole `groups` are resampled.

    Where resampling sees no spread it would claim certainty. Values of 0 and 1 then get the Wilson
    interval of as many independent trials as there are groups; a single measurement of anything
    else gets (-inf, inf), and several equal ones keep their interval of width zero.
    """
    values = _values("values", values)
    sums, counts = _totals(values, groups)
    _check_level(level, resamples)
    mean = float(values.mean())
    if np.ptp(sums / counts) > 1e-12:
        low, high = _percentiles(sums, counts, level, resamples=resamples, seed=seed)
    elif set(np.unique(values)) <= {0.0, 1.0}:
        sure = wilson(mean * len(sums), len(sums), level)
        low, high = sure.low, sure.high
    else:
        low, high = (-math.inf, math.inf) if len(sums) == 1 else (mean, mean)
    return Estimate(mean, low, high, len(values))


def paired_difference(
    a: Numbers,
    b: Numbers,
    groups: Sequence | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Mean of a - b, pair by pair (the same film and seed under two policies), as `bootstrap`.

    Where every pair differs by the same, scores between 0 and 1 get what could still hide to either
    side; of other values one pair gets (-inf, inf), and several an interval of width zero.
    """
    a, b = _values("a", a), _values("b", b)
    if len(a) != len(b):
        raise CinelabError(f"b: {len(b)} values against {len(a)} of a, a pair needs one of each")
    found = bootstrap(a - b, groups, level, resamples, seed)
    sums, counts = _totals(a - b, groups)
    if np.ptp(sums / counts) > 1e-12:
        return found
    if min(a.min(), b.min()) >= 0 and max(a.max(), b.max()) <= 1:
        # No pair differs from another: what could still hide is as for 0 of n successes.
        unseen = wilson(0, len(sums), level).high
        low, high = max(-1.0, found.value - unseen), min(1.0, found.value + unseen)
    else:
        low, high = (-math.inf, math.inf) if len(sums) == 1 else (found.value, found.value)
    return Estimate(found.value, low, high, found.n)


def nested_bootstrap(
    values: Numbers,
    outer: Sequence,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Mean of `values` whose `outer` labels (training seeds) are resampled first, then the values.

    Films alone would claim more certainty than the trainings give. What the interval of level 0.95
    covers was simulated with 3 labels of 24 values: 0.998 where trainings do not differ, 0.88
    where their standard deviation is twice the standard error of one training's films, 0.79 where
    it is four times. So it is cautious where trainings agree and too narrow where they do not;
    three trainings allow no more, and a claim says how many there were.
    """
    values, labels = _labelled(values, outer)
    _check_level(level, resamples)
    if np.ptp(values) < 1e-12:  # resampling would be certain
        return bootstrap(values, labels, level, resamples, seed)
    parts = _parts(values, labels)
    draws = _nested_draws(parts, resamples, seed)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    mean = float(np.mean([part.mean() for part in parts]))
    return Estimate(mean, float(low), float(high), len(values))


def _labelled(values: Numbers, outer: Sequence) -> tuple[np.ndarray, list]:
    values = _values("values", values)
    labels = list(outer)
    if len(labels) != len(values):
        raise CinelabError(f"outer: {len(labels)} labels for {len(values)} values, give one each")
    return values, labels


def _parts(values: np.ndarray, labels: list) -> list[np.ndarray]:
    """The values of each label, in the order in which the labels first appear."""
    return [values[[label == name for label in labels]] for name in dict.fromkeys(labels)]


def _nested_draws(parts: list[np.ndarray], resamples: int, seed: int) -> np.ndarray:
    """Means (resamples,) over labels drawn with replacement and values drawn within each."""
    rng = np.random.default_rng(seed)
    inner = np.stack([rng.choice(part, (resamples, len(part))).mean(1) for part in parts])
    drawn = rng.integers(len(parts), size=inner.shape)
    return np.take_along_axis(inner, drawn, 0).mean(0)


def paired_ratio(
    a: Numbers,
    b: Numbers,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    of: Callable = np.mean,
) -> Estimate:
    """Ratio of the means of a and b, whose pairs (of one film, or one turn) are resampled together.

    `of` may be np.median, for times that took turns on a machine with other work.
    Where a resampled mean of b is not above 0 the ratio has no bound, and the interval ends at inf.
    """
    a, b = _values("a", a), _values("b", b)
    if len(a) != len(b):
        raise CinelabError(f"b: {len(b)} values against {len(a)} of a, a pair needs one of each")
    _check_level(level, resamples)
    drawn = np.random.default_rng(seed).integers(len(a), size=(resamples, len(a)))
    ratios = _ratio(of(a[drawn], axis=1), of(b[drawn], axis=1))
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2], method="nearest")
    if len(a) == 1:  # a single pair says nothing of its spread
        low, high = -math.inf, math.inf
    return Estimate(float(_ratio(of(a), of(b))), float(low), float(high), len(a))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    known = below > 0
    return np.where(known, above / np.where(known, below, 1), np.inf)


def wilson(successes: float, n: int, level: float = 0.95) -> Estimate:
    """Share of `successes` in `n` independent trials with Wilson's interval, never of width
    zero."""
    if n < 1 or not 0 <= successes <= n:
        raise CinelabError(f"successes: {successes} of n={n}, needs n >= 1 and 0 <= successes <= n")
    _check_level(level)
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / n
    shrink = 1 + z * z / n
    middle = (share + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # Rounding must not put the share itself outside: at 0 and n the bound is exact.
    return Estimate(
        share, min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half)), n
    )


def _percentiles(sums, counts, level: float, *, resamples: int, seed: int) -> tuple[float, float]:
    """Interval of the mean over resampled groups, given each group's (G,) sum and count."""
    rng = np.random.default_rng(seed)
    size = len(sums)
    batch = max(1, DRAWS_AT_ONCE // size)
    means = []
    for start in range(0, resamples, batch):
        drawn = rng.integers(size, size=(min(batch, resamples - start), size))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _totals(values: np.ndarray, groups: Sequence | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each group, both (G,); every value alone without groups."""
    if groups is None:
        return values, np.ones(len(values))
    labels = list(groups)
    if len(labels) != len(values):
        raise CinelabError(f"groups: {len(labels)} labels for {len(values)} values, give one each")
    order = {label: place for place, label in enumerate(dict.fromkeys(labels))}
    member = np.array([order[label] for label in labels])
    return np.bincount(member, values), np.bincount(member).astype(float)


def _values(name: str, values: Numbers) -> np.ndarray:
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise CinelabError(f"{name}: expected a list of numbers ({error})") from error
    if found.ndim != 1 or not len(found):
        raise CinelabError(f"{name}: expected a list of numbers, at least one, found {found.shape}")
    if not np.isfinite(found).all():
        first = int(np.flatnonzero(~np.isfinite(found))[0])
        raise CinelabError(
            f"{name}: number {first} is {found[first]}, drop or repair what was not measured"
        )
    return found


def _check_level(level: float, resamples: int = 1) -> None:
    if not 0 < level < 1:
        raise CinelabError(f"level: {level} is not between 0 and 1, use 0.95")
    if resamples < 1:
        raise CinelabError(f"resamples: {resamples} is too few, use 2000")


def sign_flip(differences: Numbers, flips: int = 10_000, seed: int = 0) -> float:
    """Two-sided p of a paired permutation test: how often random signs make a mean as far from 0.

    The measured signs count as one of the draws, so p is never 0. Pass one difference per
    independent unit (film).
    """
    d = _values("differences", differences)
    means, _ = _flipped(d, flips, seed)
    return float((np.abs(means) >= abs(d.mean()) - 1e-12).sum() + 1) / flips


def _flipped(d: np.ndarray, flips: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of d under random signs, and the means of these signs, both (flips - 1,)."""
    means = [np.empty(0)]
    signs_alone = [np.empty(0)]
    batch = max(1, DRAWS_AT_ONCE // len(d))
    for start in range(0, flips - 1, batch):
        signs = _signs(min(batch, flips - 1 - start), len(d), seed, start).astype(float)
        means.append(signs @ d / len(d))
        signs_alone.append(signs.mean(1))
    return np.concatenate(means), np.concatenate(signs_alone)


@lru_cache(maxsize=64)  # of a megabyte each; the rows of a table share their signs
def _signs(rows: int, width: int, seed: int, start: int) -> np.ndarray:
    drawn = np.random.default_rng([seed, start]).integers(2, size=(rows, width), dtype=np.int8)
    return drawn * 2 - 1


def one_sided(
    values: Numbers,
    margin: float = 0.0,
    outer: Sequence | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """p of 'the mean is above `margin`' and p of 'it is below'; see `tails`."""
    return tails(values, [margin], outer, draws, seed)[0]


def tails(
    values: Numbers,
    margins: Numbers,
    outer: Sequence | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> list[tuple[float, float]]:
    """For each margin, p of 'the mean is above it' and p of 'it is below'; neither is ever 0.

    Films alone: sign flips of values - margin. With `outer` (training seeds): the share of nested
    bootstrap means on the wrong side, which is dual to the interval of `nested_bootstrap` and has
    its coverage; where nothing varies, a sign test over the trainings.
    """
    d = _values("values", values)
    if outer is not None:
        return _nested_tails(*_labelled(d, outer), margins, draws, seed)
    means, signs = _flipped(d, draws, seed)
    found = []
    for margin in margins:
        made = means - margin * signs
        observed = d.mean() - margin
        above = (made >= observed - 1e-12).sum()
        below = (made <= observed + 1e-12).sum()
        found.append((float(above + 1) / draws, float(below + 1) / draws))
    return found


def _nested_tails(d, labels, margins, draws: int, seed: int) -> list[tuple[float, float]]:
    parts = _parts(d, labels)
    if np.ptp(d) < 1e-12:
        sure = 0.5 ** len(parts)
        where = [np.sign(d[0] - margin) for margin in margins]
        return [(sure if side > 0 else 1.0, sure if side < 0 else 1.0) for side in where]
    means = _nested_draws(parts, draws, seed)
    wrong = [((means <= margin).sum(), (means >= margin).sum()) for margin in margins]
    return [(float(a + 1) / (draws + 1), float(b + 1) / (draws + 1)) for a, b in wrong]


def holm(p: Numbers) -> list[float]:
    """Holm's correction of several p values for being looked at together, in their order."""
    p = _values("p", p)
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    worst = 0.0
    for place, index in enumerate(order):
        worst = max(worst, min(1.0, (len(p) - place) * p[index]))
        corrected[index] = worst
    return corrected.tolist()
