"""Toybox 1: its set-ups, its figures' boxes, and that every attribute can be seen."""

import numpy as np
import pytest

from cinelab.world.toybox1 import casting, render, vocab

FILMS = [casting.cast_film(5, index, 24) for index in range(60)]


def test_set_ups_return():
    """As in shot and reverse shot: the same who, where, size and time as in an earlier shot, with
    another between."""
    again = 0
    for plan in FILMS:
        keys = [
            (s.character, s.place, s.attributes["size"], s.attributes["time"])
            for s in plan.shots
            if not s.continues
        ]
        again += any(key in keys[: i - 1] for i, key in enumerate(keys) if i > 1)
    assert again > 0.4 * len(FILMS)


def test_the_box_holds_the_figure():
    """Another colour changes pixels inside the box only."""
    shot = next(
        s
        for plan in FILMS
        for s in plan.shots
        if s.attributes["size"] == "wide" and not s.continues
    )
    other = "red" if shot.attributes["colour"] != "red" else "blue"
    plain = shot.attributes | {"accessory": "scarf"}
    one = casting.ShotPlan(plain, "", 3, 0, 0, 0)
    two = casting.ShotPlan(plain | {"colour": other}, "", 3, 0, 0, 0)
    (first, boxes, _), (second, _, _) = render.render_shot(one, 5), render.render_shot(two, 5)
    for a, b, (left, top, right, bottom) in zip(first, second, boxes, strict=True):
        rows, columns = np.nonzero(np.abs(a.astype(int) - b).max(2) > 12)
        assert len(rows) > 20
        assert rows.min() >= top - 2 and rows.max() <= bottom + 2
        assert columns.min() >= left - 3 and columns.max() <= right + 3


@pytest.mark.parametrize("name", ["size", "colour", "kind", "setting", "time", *vocab.UNPROMPTED])
def test_every_attribute_can_be_seen(name):
    """Changing one attribute changes the picture; what cannot be seen cannot be scored."""
    shot = FILMS[0].shots[0]
    plain = shot.attributes | {
        "size": "medium",
        "time": "day",
        "action": "stand",
        "camera": "static",
    }
    pictures = []
    for value in vocab.ATTRIBUTES[name]:
        plan = casting.ShotPlan(plain | {name: value}, "", 2, 0, 0, 0)
        pictures.append(render.render_shot(plan, 1)[0][0].astype(int))
    for i, one in enumerate(pictures):
        for two in pictures[:i]:
            assert (np.abs(one - two).max(2) > 16).sum() >= 10


@pytest.mark.parametrize("name", ["action", "camera"])
def test_motion_can_be_seen(name):
    """Every action and camera move changes the picture over time in its own way."""
    shot = FILMS[0].shots[0]
    plain = shot.attributes | {
        "size": "medium",
        "time": "day",
        "action": "stand",
        "camera": "static",
    }
    changes = []
    for value in vocab.ATTRIBUTES[name]:
        plan = casting.ShotPlan(plain | {name: value}, "", 4, 0, 0, 0)
        frames = render.render_shot(plan, 7)[0].astype(int)
        changes.append(frames - frames[0])
    for i, one in enumerate(changes):
        for two in changes[:i]:
            assert (np.abs(one - two).max((0, 3)) > 16).sum() >= 10
