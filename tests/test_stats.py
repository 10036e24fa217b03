"""Intervals: they cover the truth as often as they say, and are never falsely certain."""

import math

import numpy as np
import pytest

from cinelab.errors import CinelabError
from cinelab.metrics.stats import (
    Estimate,
    bootstrap,
    nested_bootstrap,
    one_sided,
    paired_difference,
    paired_ratio,
    sign_flip,
    wilson,
)


def coverage(make, truth: float, trials: int = 300) -> float:
    """Share of the trials whose interval holds the truth."""
    rng = np.random.default_rng(7)
    found = [make(rng) for _ in range(trials)]
    return float(np.mean([one.low <= truth <= one.high for one in found]))


@pytest.mark.parametrize("share, n", [(0.7, 80), (0.5, 40), (0.9, 100)])
def test_bootstrap_covers_bernoulli(share, n):
    found = coverage(lambda rng: bootstrap(rng.random(n) < share, resamples=600), share)
    assert 0.90 <= found <= 0.985


@pytest.mark.parametrize("share, n", [(0.7, 80), (0.9, 20)])
def test_wilson_covers_bernoulli(share, n):
    found = coverage(lambda rng: wilson((rng.random(n) < share).sum(), n), share)
    assert 0.92 <= found <= 0.985


def films(rng, count: int = 25, shots: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Scores of shots that share their film's luck, and the film of each."""
    scores = rng.normal(0.5, 0.2, (count, 1)) + rng.normal(0, 0.05, (count, shots))
    return scores.ravel(), np.repeat(np.arange(count), shots)


def test_resampling_films_is_honest_where_resampling_shots_is_not():
    def clustered(rng):
        values, groups = films(rng)
        return bootstrap(values, groups, resamples=600)

    naive = coverage(lambda rng: bootstrap(films(rng)[0], resamples=600), 0.5)
    assert coverage(clustered, 0.5) > 0.88 and naive < 0.7


def trainings(spread: float):
    """The interval of three trainings of 24 films; `spread` is in standard errors of the films."""

    def once(rng):
        films = rng.normal(size=(3, 24)) + rng.normal(0, spread / math.sqrt(24), (3, 1))
        return nested_bootstrap(films.ravel(), np.repeat(range(3), 24), resamples=300)

    return once


@pytest.mark.parametrize(("spread", "low", "high"), [(0, 0.97, 1), (2, 0.82, 0.93), (4, 0.7, 0.87)])
def test_nested_intervals_cover_what_their_docstring_says(spread, low, high):
    assert low <= coverage(trainings(spread), 0.0) <= high


def test_nested_intervals_are_not_certain_where_nothing_varies():
    found = nested_bootstrap(np.ones(12), np.repeat([1, 2, 3], 4))
    assert found.low == wilson(3, 3).low < 1
    assert nested_bootstrap([2.0, 2.0], ["one", "one"]).low == -math.inf


@pytest.mark.parametrize("outer", [None, np.repeat([0, 1, 2], 20)], ids=["films", "trainings"])
def test_one_sided_p_asks_about_the_margin(outer):
    values = np.random.default_rng(0).normal(0.3, 0.5, 60)
    above, below = one_sided(values, 0.0, outer)
    assert above < 0.01 and below > 0.99
    above, below = one_sided(values, values.mean(), outer)
    assert 0.3 < above < 0.7 and 0.3 < below < 0.7
    assert one_sided(values, 0.6, outer)[1] < 0.01


def test_both_sides_make_the_two_sided_p():
    values = np.random.default_rng(1).normal(0.05, 0.3, 40)
    assert 2 * min(one_sided(values)) == pytest.approx(sign_flip(values), abs=0.02)


def test_equal_trainings_are_a_sign_test_of_so_many():
    assert one_sided([0.2] * 6, 0.0, [0, 0, 1, 1, 2, 2]) == (0.125, 1.0)
    assert one_sided([0.0] * 6, 0.0, [0, 0, 1, 1, 2, 2]) == (1.0, 1.0)


def test_a_ratio_has_an_interval_of_its_own():
    rng = np.random.default_rng(2)
    luck = rng.random(80)
    found = paired_ratio(0.9 * luck + 0.02 * rng.random(80), luck)
    assert found.value == pytest.approx(0.92, abs=0.01) and 0.89 < found.low < found.high < 0.95
    unpaired = paired_ratio(0.9 * luck[::-1], luck)
    assert unpaired.high - unpaired.low > 3 * (found.high - found.low)
    assert paired_ratio([1.0, 1.0], [0.0, 0.0]).value == math.inf
    stalled = paired_ratio([2.0] * 20 + [90.0], [1.0] * 21, of=np.median)
    assert (stalled.value, stalled.low, stalled.high) == (2, 2, 2)
    assert paired_ratio([1.0], [2.0]).low == -math.inf


def test_groups_widen_the_interval_of_correlated_values():
    values, groups = films(np.random.default_rng(1))
    alone = bootstrap(values)
    together = bootstrap(values, groups)
    assert alone.value == together.value and together.n == len(values)
    assert together.high - together.low > 1.7 * (alone.high - alone.low)


def test_groups_of_one_are_no_groups():
    values = np.random.default_rng(2).random(50)
    assert bootstrap(values, groups=range(50)) == bootstrap(values)


def test_order_and_names_of_groups_do_not_matter():
    values, groups = films(np.random.default_rng(3), 4, 3)
    named = [("film", "abcd"[group]) for group in groups]
    assert bootstrap(values, named) == bootstrap(values, groups)
    uneven = bootstrap([0] + [1] * 9, ["a"] + ["b"] * 9, level=0.3)
    assert (uneven.value, uneven.low, uneven.high) == (0.9, 0.9, 0.9)  # over shots, not films


def test_same_seed_same_interval_and_level_widens():
    values = np.random.default_rng(4).random(40)
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3) != bootstrap(values, seed=4)
    assert bootstrap(values, level=0.99).low < bootstrap(values, level=0.8).low


def test_all_right_is_not_certainty():
    for n in (1, 5, 40):
        best = bootstrap(np.ones(n))
        assert (best.value, best.high) == (1, 1) and best.low == wilson(n, n).low < 1
        worst = bootstrap(np.zeros(n))
        assert (worst.value, worst.low) == (0, 0) and worst.high == wilson(0, n).high > 0


def test_all_right_in_few_films_counts_films():
    assert bootstrap(np.ones(12), np.repeat([1, 2, 3], 4)).low == wilson(3, 3).low


def test_equal_films_of_mixed_shots_are_not_certainty():
    found = bootstrap([1, 0, 1, 0], ["a", "a", "b", "b"])
    assert found.low < 0.25 and found.high > 0.75


def test_a_single_measurement_says_nothing_of_its_spread():
    assert bootstrap([3.5]) == Estimate(3.5, -math.inf, math.inf, 1)
    assert bootstrap([2.0, 3.0], ["one film", "one film"]).low == -math.inf
    assert bootstrap([3.5, 3.5]) == Estimate(3.5, 3.5, 3.5, 2)


def test_pairing_removes_what_the_pair_shares():
    rng = np.random.default_rng(5)
    luck = rng.normal(0, 1, 60)
    a, b = luck + 0.1 + rng.normal(0, 0.05, 60), luck + rng.normal(0, 0.05, 60)
    found = paired_difference(a, b)
    assert found.low < 0.1 < found.high and found.low > 0.05
    apart = bootstrap(a).low - bootstrap(b).high
    assert apart < 0 < found.low  # what two separate intervals would have hidden


def test_equal_answers_are_not_a_certain_tie():
    tie = paired_difference(np.ones(20), np.ones(20))
    assert tie.value == 0 and tie.high == -tie.low == wilson(0, 20).high
    win = paired_difference(np.ones(20), np.zeros(20))
    assert win.value == win.high == 1 and win.low == pytest.approx(wilson(20, 20).low)
    assert paired_difference([1, 0, 1, 1], [0, 0, 1, 1]).n == 4


def test_wilson_known_values():
    found = wilson(8, 10)  # as in the tables
    assert (found.value, found.n) == (0.8, 10)
    assert found.low == pytest.approx(0.4902, abs=1e-4)
    assert found.high == pytest.approx(0.9433, abs=1e-4)
    assert wilson(0, 10).low == 0 and wilson(10, 10).high == 1


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: bootstrap([]), "values: .*at least one"),
        (lambda: bootstrap([1.0, float("nan")]), "values: number 1 is nan"),
        (lambda: bootstrap([1.0, float("inf")]), "number 1 is inf"),
        (lambda: bootstrap(["a"]), "list of numbers"),
        (lambda: bootstrap([[1.0]]), r"found \(1, 1\)"),
        (lambda: bootstrap([1.0, 2.0], groups=[1]), "1 labels for 2 values"),
        (lambda: bootstrap([1.0, 2.0], level=95), "level: 95"),
        (lambda: bootstrap([1.0, 2.0], resamples=0), "resamples: 0"),
        (lambda: paired_difference([1.0], [1.0, 2.0]), "b: 2 values against 1"),
        (lambda: paired_ratio([1.0], [1.0, 2.0]), "b: 2 values against 1"),
        (lambda: one_sided([1.0, 2.0], outer=[1]), "1 labels for 2 values"),
        (lambda: paired_difference([1.0], [float("nan")]), "b: number 0 is nan"),
        (lambda: wilson(3, 2), "successes: 3 of n=2"),
        (lambda: wilson(0, 0), "n >= 1"),
    ],
)
def test_bad_input_is_named(call, said):
    with pytest.raises(CinelabError, match=said):
        call()


def test_prints_as_a_reader_wants_it():
    assert str(Estimate(0.9123, 0.87, 0.95, 240)) == "0.912 [0.870, 0.950] n=240"


def test_pairs_that_all_differ_by_the_same_hide_as_much_below_as_above():
    scores = paired_difference([0.5, 0.75], [0.5, 0.75])
    assert scores.value == 0 and -scores.low == pytest.approx(scores.high) and scores.high > 0.5
    ratios = paired_difference([1.2, 0.9], [1.2, 0.9])  # no scores: nothing bounds them
    assert (ratios.low, ratios.high) == (0, 0)
    assert paired_difference([1.2], [1.2]).high == float("inf")
