"""The injectivity measurement itself: its controls are exactly zero, and what is held fixed is held fixed."""

import torch
from test_students import FakeStore, net

from cinelab.lab import injectivity
from cinelab.lab.injectivity import Setting, alone, end_points, measure, spread, summary
from cinelab.model.zoo import load
from cinelab.seeds import rng_at

SMALL = Setting(clips=2, frames=4, frame=2, repeats=3, levels=(0.5, 1.0), histories=(0.3,), steps=2)


class Loose:
    """A bundle of a smoke-sized random network."""

    model = net().requires_grad_(False)


def test_only_the_autoregressive_teacher_gives_one_end_point():
    clips = FakeStore().clips(2, 4, rng_at(0))
    for t in SMALL.levels:
        causal = end_points(Loose, "autoregressive", clips, 0, t, SMALL)
        assert spread(causal) < 1e-10  # rounding: the mask hides what is varied
        assert spread(end_points(Loose, "bidirectional", clips, 0, t, SMALL)) > 1e-6
        assert spread(end_points(Loose, "autoregressive", clips, 0, t, SMALL, own=True)) > 1e-3
    assert spread(end_points(Loose, "autoregressive", clips, 0, 1.0, SMALL, history=0.3)) > 1e-6  # a self-made past


def test_the_same_lot_twice_gives_no_variance():
    clips = FakeStore().clips(2, 4, rng_at(0))
    for kind in ("autoregressive", "bidirectional"):
        assert spread(end_points(Loose, kind, clips, 0, 1.0, SMALL, varied=False)) < 1e-10


def test_the_table_has_an_interval_for_every_question(monkeypatch):
    monkeypatch.setattr(injectivity.zoo, "load", lambda name: load("toybox-base"))
    store = FakeStore()
    teachers = {"causal": ("autoregressive", "a"), "both ways": ("bidirectional", "b")}
    table = summary(measure(teachers, store, SMALL))
    assert {"variance", "own", "share", "blur", "control"} == set(table.what)
    assert (table.low <= table.value + 1e-12).all() and (table.n == 2).all()
    control = table[(table.what == "control") & (table.value == 0)]
    assert (control.high == 0).all()
    assert set(table[table.history > 0].teacher) == {"causal"}
    many = alone(store.clips(2, 4, rng_at(0)), 1, 3)
    assert many.latents.shape[0] == 3 and torch.equal(many.latents[0], many.latents[2])
