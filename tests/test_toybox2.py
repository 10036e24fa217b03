"""Toybox 2: the world is a state, and films are constant tracks of it."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from cinelab.errors import CinelabError
from cinelab.world.toybox2 import casting, filming, sets, state, words
from cinelab.world.toybox2.state import (
    Appearance,
    Camera,
    CameraAction,
    Figure,
    Place,
    State,
    advance,
)
from cinelab.world.worlds import world_named

FILMS = [casting.cast_film(5, index, 36) for index in range(40)]
LOOKS = Appearance("cat", "red", "dots", "hat", "white")
PLACE = Place("meadow", "house", "left", 3)
SCENE = State(PLACE, "day", "wide", figures=(Figure(LOOKS),))


def after(scene: State, ticks: int, camera: CameraAction = state.STAY) -> State:
    for _ in range(ticks):
        scene = advance(scene, camera)
    return scene


@pytest.mark.parametrize("way", [-1, 1])
def test_a_camera_moves_at_a_known_speed_and_comes_back(way):
    there = after(SCENE, 16, CameraAction(way))
    assert there.camera.x == pytest.approx(way * state.PAN * 16 / state.FPS)
    assert after(there, 16, CameraAction(-way)).camera.x == pytest.approx(0, abs=1e-12)
    zoomed = after(SCENE, 16, CameraAction(0, way))
    share = state.ZOOM * 16 / state.FPS
    assert zoomed.camera.zoom == pytest.approx(1 + share if way > 0 else 1 / (1 + share))
    assert after(zoomed, 16, CameraAction(0, -way)).camera.zoom == pytest.approx(1)


def test_a_walker_goes_on_off_screen():
    walker = replace(SCENE, figures=(Figure(LOOKS, action="walk right"),))
    gone = after(walker, 100)
    assert gone.figures[0].x == pytest.approx(state.walk_speed("wide") * 100 / state.FPS)
    alone = replace(gone, figures=())
    assert np.array_equal(filming.draw(gone), filming.draw(alone)), "it has left the frame"
    follow = replace(gone, camera=Camera(gone.figures[0].x))
    assert not np.array_equal(filming.draw(follow), filming.draw(replace(follow, figures=())))


def test_an_action_begins_on_its_own_beat():
    begun = advance(after(SCENE, 5), actions={0: "jump"})
    assert (begun.figures[0].action, begun.figures[0].ticks) == ("jump", 0)
    assert advance(begun).figures[0].ticks == 1


def test_three_figures_are_drawn_the_far_ones_first():
    others = (
        Figure(replace(LOOKS, kind="bear", colour="blue"), 0.3, behind=True),
        Figure(replace(LOOKS, kind="robot", colour="green"), -0.3, behind=True),
    )
    three = replace(SCENE, figures=(Figure(LOOKS), *others))
    frame = filming.draw(three)
    assert np.array_equal(frame, filming.draw(replace(three, figures=(*others, Figure(LOOKS)))))
    for number in range(3):
        fewer = replace(three, figures=three.figures[:number] + three.figures[number + 1 :])
        assert not np.array_equal(frame, filming.draw(fewer))


def test_a_set_is_eight_frame_heights_of_landmarks_that_no_prompt_names():
    canvas = sets.panorama(PLACE, "day")
    assert canvas.shape[1] == round(state.SPAN * canvas.shape[0]) and state.SPAN == 8
    found = sets.landmarks(PLACE)
    assert sorted(name for _, name in found) == sorted(words.UNPROMPTED["landmark"])
    assert found[0] == (-sets.HOME, "house") and len({x for x, _ in found}) == len(found)
    known = set(words.WORDING.known_words())
    assert not known & {*words.UNPROMPTED["landmark"], *words.UNPROMPTED["accessory"]}


def test_a_film_shows_its_states():
    plan = next(plan for plan in FILMS if any(shot.continues for shot in plan.shots))
    film = filming.render(plan)
    first = filming.opening(plan.shots[0])
    assert np.array_equal(film.frames[0], filming.draw(first))
    assert film.frames.shape == (2 * 36 - 1, state.HEIGHT, state.WIDTH, 3)
    assert film.boxes.shape == (71, 4) and (film.boxes[:, 3] > film.boxes[:, 1]).all()


def test_a_shot_of_attributes_alone_is_drawn():
    world = world_named("toybox-2")
    alone = world.render(world.shot_of({"kind": "bear"}, 2)).frames
    two = world.shot_of({"kind": "bear", "partner kind": "cat", "partner colour": "blue"}, 2)
    assert alone.shape == (3, *world.size, 3)
    assert not np.array_equal(alone, world.render(two).frames)


def test_nobody_leaves_the_frame_of_a_film():
    """Walks, pans and zooms are as long as what the shot is about stays in view."""
    for plan in FILMS[:25]:
        boxes = filming.render(plan).boxes
        middle = boxes[:, [0, 2]].mean(1) / state.WIDTH
        assert ((middle > 0.1) & (middle < 0.9)).all(), plan.seed


def test_shots_last_one_to_twelve_seconds():
    plans = [casting.cast_film(6, index, 96) for index in range(300)]
    shots = [shot for plan in plans for shot in plan.shots]
    lengths = np.array([shot.latents for shot in shots])
    assert casting.SHOTS == (4, 48) and casting.seconds_of(4) == 1 and casting.seconds_of(48) == 12
    assert lengths.max() > 40 and np.mean(lengths < 4) < 0.02
    assert 0.3 < np.mean(lengths <= 8) < 0.8, "quick shots are many"
    assert max(shot.latents + shot.held for shot in shots) <= casting.SHOTS[1]


@pytest.mark.parametrize("name", [*words.IDENTITY, *words.SCENERY])
def test_what_no_prompt_names_is_drawn_evenly(name):
    casts = [casting.absence(3, index, 1).shots[1].attributes[name] for index in range(600)]
    counts = Counter(casts)
    even = len(casts) / len(words.UNPROMPTED[name])
    assert set(counts) == set(words.UNPROMPTED[name])
    assert max(counts.values()) < 1.3 * even


def test_a_cast_differs_in_what_no_prompt_names():
    for plan in FILMS[:20]:
        looks = {shot.character: shot.attributes["pattern"] for shot in plan.shots}
        assert len(set(looks.values())) == len(looks)


@pytest.mark.parametrize("plan", FILMS[:12], ids=lambda plan: str(plan.seed))
def test_captions_are_english_and_name_the_partner(plan):
    for shot in plan.shots:
        spoken = f" {shot.caption} "
        for word in (" a orange", " a azure", " a amber", " a indigo", " a emerald", " a olive"):
            assert word not in spoken
        assert words.WORDING.read_prompt(shot.caption) == {
            name: shot.attributes[name] for name in words.PROMPTED
        }
        assert (shot.partner is None) == (shot.attributes["partner kind"] == words.NONE)


@pytest.mark.parametrize(
    "prompt, lead, partner",
    [
        ("a red cat waves beside a blue robot", ("red", "cat"), ("blue", "robot")),
        ("next to an azure android, the scarlet kitten hops", ("red", "cat"), ("blue", "robot")),
        ("a red cat waves", ("red", "cat"), (words.NONE, words.NONE)),
    ],
)
def test_a_prompt_tells_its_two_figures_apart(prompt, lead, partner):
    found = words.WORDING.read_prompt(prompt)
    assert (found["colour"], found["kind"]) == lead
    assert (found["partner colour"], found["partner kind"]) == partner


def test_a_prompt_without_a_figure_leaves_the_partner_open():
    assert words.WORDING.read_prompt("at night in the forest") == {
        "time": "night",
        "setting": "forest",
    }


@pytest.mark.parametrize(
    "make",
    [lambda: Figure(LOOKS, action="fly"), lambda: CameraAction(2), lambda: CameraAction(0, -3)],
)
def test_actions_that_do_not_exist_are_refused_in_a_sentence(make):
    with pytest.raises(CinelabError, match="use one of|it is -1, 0 or 1"):
        make()
