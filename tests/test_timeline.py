"""The timeline: chunks tile the film, cuts stand where they were asked for."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cinelab.errors import CinelabError
from cinelab.memory.policy import Window
from cinelab.script import PromptChange, Screenplay, Shot, plan
from cinelab.script.timeline import change_text

pytestmark = pytest.mark.filterwarnings("ignore:.*is never shown")


def play(*shots, caption=""):
    return Screenplay("t", shots, caption=caption)


def test_two_shots_frame_by_frame():
    line = plan(play(Shot("a", 1), Shot("b", 1.5)), fps=8, stride=2, chunk=1)
    assert line.latent_frames == 4 + 6
    assert line.pixel_frames == 1 + 2 * 9
    assert [line.pixel_span(i) for i in (0, 1, 4)] == [(0, 1), (1, 3), (7, 9)]
    assert line.cuts == [7]
    assert line.shot_spans == line.entry_spans == [(0, 7), (7, 19)]
    assert line.shot_of_latent == line.prompt_of_latent == [0] * 4 + [1] * 6
    assert [slot.cut for slot in line.slots] == [False] * 4 + [True] + [False] * 5
    assert line.seconds == 19 / 8


def test_chunks_of_three_round_entries_up():
    line = plan(play(Shot("a", 1), Shot("b", 1.5)), fps=8, stride=2, chunk=3)
    assert [(slot.first, slot.frames) for slot in line.slots] == [(0, 3), (3, 3), (6, 3), (9, 3)]
    assert [slot.shot for slot in line.slots] == [0, 0, 1, 1]
    assert line.cuts == [1 + 2 * 5]
    assert line.pixel_frames == 23


def test_continue_switches_the_prompt_without_a_cut():
    shots = (Shot("a", 1), Shot("b", 1, "continue"), Shot("a", 1))
    line = plan(play(*shots), fps=4, stride=2, chunk=1)
    assert line.prompts == ("a", "then b")
    assert line.prompt_of_latent == [0, 0, 1, 1, 0, 0]
    assert line.shot_of_latent == [0, 0, 0, 0, 1, 1]
    assert [slot.entry for slot in line.slots] == [0, 0, 1, 1, 2, 2]
    assert line.cuts == [7]
    assert line.shot_spans == [(0, 7), (7, 11)]
    assert line.entry_spans == [(0, 3), (3, 7), (7, 11)]


@pytest.mark.parametrize(
    "at, chunk, want",
    [
        (1.0, 1, "aabb"),  # on a boundary: that chunk
        (0.9, 1, "aabb"),  # between boundaries: the next chunk
        (0.2, 1, "abbb"),
        (1.9, 1, "aaab"),  # after the last boundary: the last chunk
        (0.1, 3, "aaabbb"),
        (1.9, 3, "aaabbb"),
        (1.0, 4, "aaaa"),  # one chunk in all: the opening prompt keeps it
    ],
)
def test_a_change_waits_for_its_chunk(at, chunk, want):
    shots = (Shot("z", 2), Shot("a", 2, changes=(PromptChange(at, "b"),)))
    line = plan(play(*shots), fps=4, stride=2, chunk=chunk)
    shown = [
        line.prompts[slot.prompt].removeprefix("then ") * slot.frames
        for slot in line.slots
        if slot.entry == 1
    ]
    assert "".join(shown) == want


def test_a_change_falls_alike_in_every_entry():
    shot = Shot("a", 2.4, changes=(PromptChange(0.3, "b"), PromptChange(1.1, "c")))
    line = plan(play(shot, shot, shot), fps=10, stride=1, chunk=1)
    assert line.prompt_of_latent == ([0] * 3 + [1] * 8 + [2] * 13) * 3


@pytest.mark.filterwarnings("error")
def test_a_prompt_that_is_never_shown_is_warned_of():
    late = Shot("a", 1, changes=(PromptChange(0.5, "late"),))
    with pytest.warns(UserWarning, match=r"shot 2, change 1: 'late' is never shown.* of 1\.5 s"):
        plan(play(Shot("z", 1), late), fps=8, stride=4, chunk=3)
    both = Shot("a", 2, changes=(PromptChange(0.6, "b"), PromptChange(0.9, "c")))
    with pytest.warns(UserWarning, match="shot 1, change 1: 'b' is never shown"):
        line = plan(play(both), fps=4, stride=2, chunk=1)
    assert line.prompt_of_latent == [0, 0, 1, 1]


def test_caption_stands_in_front_and_equal_prompts_are_one():
    shots = (Shot("a  fox\n", 1), Shot("a fox", 1), Shot("a cat", 1))
    assert plan(play(*shots, caption="By night. "), 2, 1, 1).prompts == (
        "By night. a fox",
        "By night. a cat",
    )
    assert plan(play(*shots), 2, 1, 1).prompts == ("a fox", "a cat")


def test_the_shortest_entry_is_one_chunk():
    line = plan(play(Shot("a", 1e-9), Shot("b", 1e-9)), fps=16, stride=4, chunk=1)
    assert line.pixel_frames == 5 and line.cuts == [1]


@pytest.mark.parametrize(
    "settings_, words",
    [
        ((0, 2, 1), "fps is 0; give a finite number"),
        ((math.inf, 2, 1), "fps is inf"),
        ((math.nan, 2, 1), "fps is nan"),
        (("8", 2, 1), "fps is '8'"),
        ((8, 0, 1), "stride is 0; give a whole number"),
        ((8, 2.0, 1), "stride is 2.0"),
        ((8, 2, True), "chunk is True"),
        ((8, 2, -3), "chunk is -3"),
    ],
)
def test_bad_settings_are_refused(settings_, words):
    with pytest.raises(CinelabError) as caught:
        plan(play(Shot("a", 1)), *settings_)
    assert words in str(caught.value)


@pytest.mark.parametrize("index", [-1, 4])
def test_a_latent_frame_outside_the_film_is_an_index_error(index):
    with pytest.raises(IndexError):
        plan(play(Shot("a", 1)), fps=8, stride=2, chunk=1).pixel_span(index)


@st.composite
def entries(draw, first=False):
    seconds = draw(st.floats(0.01, 12))
    parts = draw(st.lists(st.floats(0.01, 0.99), max_size=3, unique=True))
    times = sorted({part * seconds for part in parts})
    changes = tuple(PromptChange(at, draw(st.sampled_from("abcd"))) for at in times)
    cut = "cut" if first else draw(st.sampled_from(["cut", "continue"]))
    return Shot(draw(st.sampled_from("abcd")), seconds, cut, changes)


@st.composite
def timelines(draw):
    shots = [draw(entries(first=True)), *draw(st.lists(entries(), max_size=5))]
    fps = draw(st.floats(1, 30))
    stride = draw(st.integers(1, 8))
    film = play(*shots, caption=draw(st.sampled_from(["", "d"])))
    return film, plan(film, fps, stride, draw(st.sampled_from([1, 2, 3, 5])))


def tiles(spans, stop):
    assert spans[0][0] == 0 and spans[-1][1] == stop
    assert all(a[1] == b[0] for a, b in zip(spans, spans[1:], strict=False))
    assert all(start < stop for start, stop in spans)


@given(timelines())
@settings(max_examples=150, deadline=None)
def test_everything_tiles_the_film(made):
    film, line = made
    slots = line.slots
    assert [slot.index for slot in slots] == list(range(len(slots)))
    assert len({slot.frames for slot in slots}) == 1
    tiles([(slot.first, slot.first + slot.frames) for slot in slots], line.latent_frames)
    tiles([line.pixel_span(i) for i in range(line.latent_frames)], line.pixel_frames)
    tiles(line.shot_spans, line.pixel_frames)
    tiles(line.entry_spans, line.pixel_frames)
    assert line.cuts == [start for start, _ in line.shot_spans[1:]]
    assert len(line.cuts) == sum(shot.cut == "cut" for shot in film.shots[1:])
    assert len(line.entry_spans) == len(film.shots)


@given(timelines())
@settings(max_examples=150, deadline=None)
def test_every_frame_knows_its_shot_and_prompt(made):
    film, line = made
    assert line.shot_of_latent == sorted(line.shot_of_latent)
    assert len(line.shot_of_latent) == len(line.prompt_of_latent) == line.latent_frames
    assert sorted(set(line.prompt_of_latent)) == list(range(len(line.prompts)))
    assert len(set(line.prompts)) == len(line.prompts)
    for entry, shot in enumerate(film.shots):
        mine = [slot for slot in line.slots if slot.entry == entry]
        asked = {shot.prompt, *(change.prompt for change in shot.changes)}
        assert line.prompts[mine[0].prompt].endswith(shot.prompt)
        assert {line.prompts[slot.prompt][-1] for slot in mine} <= asked
        wanted = shot.seconds * line.fps / line.stride
        assert -0.5 <= len(mine) * mine[0].frames - wanted <= mine[0].frames


def test_changes_are_told_at_the_frame_where_they_take_effect():
    calm = Shot(
        "a cat waits",
        2,
        changes=(
            PromptChange(1, "a cat jumps"),
            PromptChange(1.5, "a cat jumps", seed=8, policy=Window(window=4)),
        ),
    )
    line = plan(Screenplay("t", (Shot("a dog", 1), calm)), fps=8, stride=2, chunk=1)
    first, second = line.turns
    start = line.entry_spans[1][0]
    assert first == [] and [turn.frame - start for turn in second] == [8, 12]
    assert [turn.line for turn in second] == [
        "at 1.0 s: a cat jumps",
        "at 1.5 s: seed 8, policy Window",
    ]


def test_every_setting_of_a_change_is_told():
    assert (
        change_text(PromptChange(1, "x", steps=4, budget=3, recache=True), "x")
        == "budget 3, steps 4, recache"
    )
    assert (
        change_text(PromptChange(1, "y"), "x") == "y"
        and change_text(PromptChange(1, "x"), "x") == "x"
    )
