"""The toybox: the same film for the same address, exact truth, words that can be read back."""

from collections import Counter
from random import Random

import numpy as np
import pytest

from cinelab.errors import CinelabError
from cinelab.world import casting, render, vocab

FILMS = [casting.cast_film(5, index, 24) for index in range(60)]


def test_a_film_is_a_function_of_its_address():
    again = casting.cast_film(5, 7, 24)
    assert again == FILMS[7] != FILMS[8]
    assert np.array_equal(render.render(again).frames, render.render(FILMS[7]).frames)


@pytest.mark.parametrize("shots", [1, 4, 12])
def test_films_of_one_to_a_dozen_shots(shots):
    plan = casting.cast_film(1, shots, 3 * shots, (3, 3))
    film = render.render(plan)
    assert len(plan.shots) == shots
    assert film.frames.shape == (2 * plan.latents - 1, render.HEIGHT, render.WIDTH, 3)
    assert film.frames.dtype == np.uint8


def test_lengths_fill_the_film_exactly():
    for seed in range(50):
        lengths = casting.shot_lengths(Random(seed), 24, 2, 4)
        assert sum(lengths) == 24 and max(lengths) <= 4


@pytest.mark.parametrize("plan", FILMS[:20], ids=lambda plan: str(plan.seed))
def test_a_caption_names_what_is_prompted_and_nothing_else(plan):
    for shot in plan.shots:
        assert vocab.read_prompt(shot.caption) == {
            name: shot.attributes[name] for name in vocab.PROMPTED
        }
        assert not set(vocab.words(shot.caption)) & {
            value for name in vocab.IDENTITY for value in vocab.UNPROMPTED[name]
        }


def test_every_word_of_a_caption_is_known():
    said = {word for plan in FILMS for shot in plan.shots for word in vocab.words(shot.caption)}
    assert said <= set(vocab.known_words())


def test_paraphrases_are_used_and_mean_the_same():
    shot = FILMS[0].shots[0]
    texts = {vocab.caption(shot.attributes, Random(i)) for i in range(40)}
    assert len(texts) > 20
    assert {tuple(sorted(vocab.read_prompt(text).items())) for text in texts} == {
        tuple(sorted(vocab.read_prompt(shot.caption).items()))
    }


def test_a_prompt_that_names_two_values_keeps_the_first():
    assert vocab.read_prompt("a red cat and a blue cat")["colour"] == "red"


def test_who_comes_back_looks_as_before():
    """Identity and scenery are fixed by first appearance, whatever the prompt says of the rest."""
    for plan in FILMS:
        cast = {}
        places = {}
        for shot in plan.shots:
            looks = tuple(shot.attributes[n] for n in (*vocab.IDENTITY, "kind", "colour"))
            scene = tuple(shot.attributes[n] for n in (*vocab.SCENERY, "setting")) + (
                shot.scenery_seed,
            )
            assert cast.setdefault(shot.character, looks) == looks
            assert places.setdefault(shot.place, scene) == scene
        assert len({(look[3], look[4]) for look in cast.values()}) == len(cast), (
            "a prompt must tell the cast apart"
        )
        assert len({scene[2] for scene in places.values()}) == len(places)


def test_returns_after_absence_are_common():
    """Without returns there is nothing to remember."""
    returns = 0
    for plan in FILMS:
        order = [shot.character for shot in plan.shots if not shot.continues]
        returns += any(
            order[i] in order[: i - 1] and order[i] != order[i - 1] for i in range(2, len(order))
        )
    assert returns > 0.5 * len(FILMS)


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


def test_identity_is_balanced():
    """A skewed identity would let a model guess."""
    for name in vocab.UNPROMPTED:
        counts = Counter(
            casting.absence(3, index, 1).shots[-1].attributes[name] for index in range(400)
        )
        even = 400 / len(vocab.UNPROMPTED[name])
        assert set(counts) == set(vocab.UNPROMPTED[name])
        assert max(counts.values()) < 1.35 * even


@pytest.mark.parametrize("away", [1, 5])
def test_an_absence_is_an_absence(away):
    for index in range(30):
        opening, first, *between, again = casting.absence(2, index, away).shots
        assert len(between) == away
        assert (first.character, first.place) == (again.character, again.place)
        for shot in (opening, *between):
            assert shot.character != first.character and shot.place != first.place
            assert (shot.attributes["kind"], shot.attributes["colour"]) != (
                first.attributes["kind"],
                first.attributes["colour"],
            )
            assert shot.attributes["setting"] != first.attributes["setting"]
        assert all(
            first.attributes[n] == again.attributes[n]
            for n in (*vocab.IDENTITY, *vocab.SCENERY, "size")
        )
        first, *_, again = casting.absence(2, index, away, reframed=True).shots[1:]
        assert first.attributes["size"] != again.attributes["size"]


def test_the_truth_of_a_rendered_film():
    plan = next(plan for plan in FILMS if any(shot.continues for shot in plan.shots))
    film = render.render(plan)
    line = casting.plan_timeline(plan, render.FPS, render.STRIDE)
    assert film.cuts == line.cuts
    assert len(film.shot_of_frame) == len(film.frames) == len(film.boxes) == line.pixel_frames
    changes = [
        i for i in range(1, len(film.frames)) if film.shot_of_frame[i] != film.shot_of_frame[i - 1]
    ]
    assert changes == film.cuts
    assert (film.boxes[:, 2] > film.boxes[:, 0]).all() and (
        film.boxes[:, 3] > film.boxes[:, 1]
    ).all()


def test_a_cut_is_a_jump_and_a_continuation_is_not():
    def jump(frames, at):
        return np.abs(frames[at].astype(int) - frames[at - 1]).mean()

    cuts = []
    flows = []
    for plan in FILMS[:25]:
        film = render.render(plan)
        starts = np.cumsum(
            [0, *(render.frames_of(shot.latents, i == 0) for i, shot in enumerate(plan.shots))]
        )
        for start, shot in zip(starts[1:], plan.shots[1:], strict=False):
            (flows if shot.continues else cuts).append(jump(film.frames, int(start)))
    assert len(flows) > 5 and np.median(cuts) > 5 * np.median(flows)


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


def test_a_timeline_needs_chunks_that_fit():
    plan = casting.cast_film(1, 0, 9, (3, 3))
    with pytest.raises(CinelabError, match="3 latent frames, which chunk=2 does not divide"):
        casting.plan_timeline(plan, 8, 2, chunk=2)
