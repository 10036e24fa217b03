"""The injectivity measurement itself: what is held is held exactly, its controls are zero, and the
student is measured on what it sees."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from test_students import FakeStore, net

from cinelab.errors import CinelabError
from cinelab.flow.solvers import trajectory
from cinelab.lab.studies import injectivity
from cinelab.lab.studies.injectivity import (
    Case,
    Setting,
    alone,
    end_points,
    injectivity_table,
    measure_cases,
    reference,
    seen_levels,
    share_of_error,
    spread,
    student_end,
)
from cinelab.seeds import rng_at
from cinelab.train.pairs import PairsConfig, trajectories
from cinelab.zoo.checkpoints import load

PAIRS = PairsConfig(steps=4, levels=(1.0, 0.5), frames=4, bf16=False)
SMALL = Setting(clips=2, frame=2, repeats=3, past_noise=(0.3,), pairs=PAIRS)
CASES = {history: Case("x", history) for history in ("truth", "noisy", "clean")}


class Loose:
    """A bundle of a smoke-sized random network."""

    model = net().requires_grad_(False)


@pytest.fixture(scope="module")
def clips():
    return FakeStore().clips(2, 4, rng_at(0))


@pytest.fixture(scope="module")
def held(clips):
    return {name: reference(Loose, case.kind, clips, 0, SMALL) for name, case in CASES.items()}


def ends(clips, held, history, level=0, **more):
    return end_points(Loose, CASES[history], clips, 0, level, SMALL, held[history], **more)


def test_the_causal_mask_alone_makes_the_autoregressive_variance_zero(clips, held):
    for level in (0, 1):
        # by construction, whatever the weights
        assert spread(ends(clips, held, "truth", level)) < 1e-10
        assert spread(ends(clips, held, "truth", level, own=True)) > 1e-3
        for history in ("noisy", "clean"):
            assert spread(ends(clips, held, history, level)) > 1e-6


@pytest.mark.parametrize("history", list(CASES))
def test_nothing_drawn_gives_the_reference(clips, held, history):
    for level in (0, 1):
        made = ends(clips, held, history, level, varied=False)
        assert spread(made) < 1e-10
        torch.testing.assert_close(made[:1], held[history].end[:, 2:3], atol=1e-4, rtol=1e-4)


def test_the_reference_is_what_the_pairs_store(clips, held):
    for history, case in CASES.items():
        config = replace(PAIRS, teacher=case.kind)
        states, end = trajectories(Loose.model, alone(clips, 0), config, held[history].noise)
        torch.testing.assert_close(held[history].states, states)
        torch.testing.assert_close(held[history].end, end)


@pytest.mark.parametrize("history, still", [("clean", [4, 4]), ("noisy", None)])
def test_what_the_student_sees_is_held_and_the_future_is_not(
    clips, held, history, still, monkeypatch
):
    """Follow all frames of a variant: the past stays on the reference down to the level where it is
    seen."""
    states = []
    monkeypatch.setattr(
        injectivity,
        "solve",
        lambda *a: [states.append(s) for s, _ in trajectory(*a)] and states[-1],
    )
    ends(clips, held, history, level=1)
    numbers = seen_levels(SMALL, 0, 1)[0]
    follows = still or [2 * int(n) for n in numbers[:2]]
    reached = [PAIRS.levels.index(level) for level in PAIRS.levels]
    for frame, steps in enumerate([*follows, 2]):  # u itself down to level 1, after 2 of 4 steps
        for number, step in zip(reached, (0, 2), strict=True):
            same = torch.allclose(
                states[step][:, frame], held[history].states[:, number, frame], atol=1e-5
            )
            assert same == (step <= steps)
    if still:
        assert torch.allclose(states[-1][:, :2], held[history].end[:, :2], atol=1e-5)
    assert not torch.allclose(states[0][:, 3], held[history].noise[:, 3])


def test_the_past_has_a_level_a_chunk():
    many = Setting(pairs=PairsConfig(chunk=3, frames=24), frame=10)
    numbers = seen_levels(many, 0, 2)[0].reshape(8, 3)
    assert (numbers == numbers[:, :1]).all() and (numbers[3] == 2).all()
    assert len({int(n) for i in range(6) for n in seen_levels(many, i, 2)[0, :9]}) > 2


def test_noise_on_a_past_that_both_see_is_called_sensitivity(clips, held):
    assert spread(ends(clips, held, "truth", past_noise=0.3)) > 1e-6
    assert not hasattr(injectivity, "history_figure")


def test_a_student_is_measured_on_what_it_sees(clips, held):
    for history, case in CASES.items():
        made = student_end(Loose, case, clips, 0, 1, SMALL, held[history])
        assert made.shape == held[history].end[:, 2:3].shape
        later = replace(
            held[history], states=held[history].states.clone(), end=held[history].end.clone()
        )
        later.states[:, :, 3], later.end[:, 3] = 9.0, 9.0  # the future, which it does not see
        torch.testing.assert_close(student_end(Loose, case, clips, 0, 1, SMALL, later), made)
        later.states[:, :, 2] = 9.0
        assert not torch.allclose(student_end(Loose, case, clips, 0, 1, SMALL, later), made)


def test_the_table_has_an_interval_for_every_question(monkeypatch):
    base = replace(load("toybox-base"), model=Loose.model)  # with a codec to look at
    monkeypatch.setattr(injectivity.zoo, "load", lambda name: base)
    cases = {"causal": Case("a", "truth", "s"), "both ways": Case("b", "noisy")}
    rows = measure_cases(cases, FakeStore().clips(2, 4, rng_at(0)), SMALL)
    table = injectivity_table(rows)
    wanted = {
        "variance",
        "own",
        "share",
        "blur",
        "control",
        "sensitivity",
        "squared error",
        "student's sharpness",
    }
    assert wanted == set(table.what) and (rows.edition == 2).all()
    assert (table.low <= table.value + 1e-12).all() and (table.n == 2).all()
    control = table[(table.what == "control") & (table.value == 0)]
    assert (control.high == 0).all()
    assert set(table[table.past_noise > 0].case) == {"causal"}
    assert set(share_of_error(rows).case) == {"causal"}


def test_the_share_of_the_error_is_a_ratio_with_its_own_interval():
    luck = np.random.default_rng(0).random(12) + 0.5
    parts = [
        pd.DataFrame(
            {
                "case": "c",
                "history": "noisy",
                "clip": range(12),
                "t": 1.0,
                "past_noise": 0.0,
                "what": what,
                "value": value,
            }
        )
        for what, value in (("variance", 0.1 * luck), ("squared error", 0.4 * luck))
    ]
    [found] = share_of_error(pd.concat(parts)).to_dict("records")
    assert found["value"] == pytest.approx(0.25) and found["low"] == pytest.approx(0.25)
    assert share_of_error(parts[0]).empty


def test_contradictions_are_refused():
    with pytest.raises(CinelabError, match="history is 'true'"):
        Case("x", "true")
    with pytest.raises(CinelabError, match="frame is 24; clips have 24"):
        Setting(frame=24)
    with pytest.raises(CinelabError, match="repeats is 1"):
        Setting(repeats=1)
