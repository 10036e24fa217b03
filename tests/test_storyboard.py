"""The storyboard: every shot is on it, in order, with its own frames, and nothing overlaps."""

import os

import numpy as np
import pytest
from PIL import Image

from cinelab.errors import CinelabError
from cinelab.script.timeline import Turn
from cinelab.stream.storyboard import _font, _lacks, _panels, _wrap, save_png, storyboard

COLOURS = np.array([[200, 40, 40], [40, 170, 60], [40, 60, 200], [210, 170, 30], [150, 60, 160]])


def plain_film(shots: int, frames: int = 6) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Each shot one plain colour: uint8 (F, 48, 64, 3) and the spans."""
    film = np.repeat(COLOURS[:shots], frames, axis=0)[:, None, None]
    spans = [(i * frames, (i + 1) * frames) for i in range(shots)]
    return np.broadcast_to(film, (shots * frames, 48, 64, 3)).astype(np.uint8), spans


def centre(image: Image.Image, colour: np.ndarray) -> tuple[float, float] | None:
    """Mean (row, column) of the pixels of a colour, None where there are hardly any."""
    near = np.abs(np.asarray(image).astype(int) - colour).max(-1) < 4
    return tuple(np.argwhere(near).mean(0)) if near.sum() > 5000 else None


def test_every_shot_is_there_in_reading_order():
    film, spans = plain_film(5)
    image = storyboard(film, spans, [f"shot of colour {i}" for i in range(5)], columns=2)
    assert image.mode == "RGB" and image.width == 2000
    places = [centre(image, colour) for colour in COLOURS]
    assert None not in places
    rows = [round(place[0]) for place in places]
    assert rows[0] == rows[1] < rows[2] == rows[3] < rows[4]
    assert places[0][1] == places[2][1] == places[4][1] < places[1][1] == places[3][1]


def test_first_middle_and_last_frames_are_shown():
    film, _ = plain_film(3, frames=1)  # one shot whose frames are red, green, blue
    image = storyboard(film, [(0, 3)], ["red, then green, then blue"])
    places = [centre(image, colour) for colour in COLOURS[:3]]
    assert None not in places
    assert places[0][1] < places[1][1] < places[2][1] and len({place[0] for place in places}) == 1


def test_a_shot_shows_no_frame_of_its_neighbours():
    film, spans = plain_film(3)
    image = storyboard(film, spans[1:2], ["the middle one"])
    assert centre(image, COLOURS[1]) and not centre(image, COLOURS[0])
    assert not centre(image, COLOURS[2])


def test_captions_numbers_and_times_are_written():
    film, spans = plain_film(2)
    plain = np.asarray(storyboard(film, spans, ["a cat waves", ""])).astype(int)
    other = np.asarray(storyboard(film, spans, ["a dog jumps", ""])).astype(int)
    slower = np.asarray(storyboard(film, spans, ["a cat waves", ""], fps=4)).astype(int)
    below = centre(Image.fromarray(plain.astype(np.uint8)), COLOURS[0])[0]
    assert {row > below for row in np.argwhere((plain != other).any(-1))[:, 0]} == {True}
    assert {row < below for row in np.argwhere((plain != slower).any(-1))[:, 0]} == {True}


def test_long_captions_and_titles_make_it_taller_not_wider():
    film, spans = plain_film(2)
    short = storyboard(film, spans, ["a cat", "a dog"])
    long = storyboard(film, spans, ["a cat " * 80, "a dog"], title="A very long title " * 12)
    assert long.width == short.width and long.height > short.height + 200
    right = np.asarray(long)[:, -40:]
    assert (right > 200).all()  # nothing is written over the margin


def test_a_change_in_mid_shot_is_written_under_a_frame_taken_after_it():
    film, _ = plain_film(3)  # red, then green, then blue, within one shot
    turns = [Turn(6, 0.75, "turns green"), Turn(12, 1.5, "turns blue")]
    assert _panels((0, 18), "is red", turns, 3) == [
        (0, "is red"),
        (11, "at 0.8 s: turns green"),
        (17, "at 1.5 s: turns blue"),
    ]
    assert _panels((0, 18), "is red", turns[:1], 3)[1:] == [(5, ""), (17, "at 0.8 s: turns green")]
    silent = storyboard(film, [(0, 18)], ["is red"])
    told = storyboard(film, [(0, 18)], ["is red"], turns=[turns])
    assert told.size == silent.size
    places = [centre(told, colour) for colour in COLOURS[:3]]
    below = max(place[0] for place in places) + 150
    changed = np.argwhere(
        (np.asarray(told) != np.asarray(silent)).any(-1) & (np.arange(told.height)[:, None] > below)
    )
    assert changed[:, 1].min() > places[0][1] + 100, (
        "the opening caption stays, the changes are told to its right"
    )


def test_many_changes_go_on_in_further_rows():
    film, _ = plain_film(5)
    turns = [Turn(6 * place, 0.75 * place, f"change {place}") for place in range(1, 5)]
    assert (
        storyboard(film, [(0, 30)], ["opens"], turns=[turns]).height
        > storyboard(film, [(0, 30)], ["opens"]).height + 300
    )


@pytest.mark.parametrize("text", ["a cat " * 40, "w" * 300, "a " + "w" * 90 + " b", "", "é — 猫"])
def test_wrapping_keeps_every_letter_within_the_width(text):
    font = _font(27, text)
    lines = _wrap(text, font, 300)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(font.getlength(line) <= 300 for line in lines)


def test_letters_that_the_font_lacks_are_noticed():
    font = _font(27)
    assert not _lacks(font, "A plain caption; 0123456789, it's done.") and _lacks(font, "猫")


def test_wan_frames_and_short_shots():
    film = np.full((2, 480, 832, 3), 90, np.uint8)
    image = storyboard(film, [(0, 1), (1, 2)], ["one frame", "another"], stills=4, columns=1)
    assert image.width == 2000 and centre(image, np.array([90, 90, 90]))


@pytest.mark.parametrize(
    "change, said",
    [
        ({"spans": []}, "at least one shot"),
        ({"captions": ["only one"]}, "1 for 2 shots"),
        ({"spans": [(0, 6), (6, 13)]}, r"shot 2 is \(6, 13\).*<= 12"),
        ({"spans": [(0, 6), (6, 6)]}, "shot 2"),
        ({"turns": [[]]}, "turns: 1 for 2 shots"),
        ({"columns": 0}, "columns: 0"),
        ({"stills": 0}, "stills: 0"),
        ({"frames": np.zeros((12, 48, 64, 3))}, "uint8"),
    ],
)
def test_bad_input_is_named(change, said):
    film, spans = plain_film(2)
    with pytest.raises(CinelabError, match=said):
        storyboard(**({"frames": film, "spans": spans, "captions": ["a", "b"]} | change))


def test_saving_is_atomic(tmp_path):
    film, spans = plain_film(1)
    path = tmp_path / "new" / "storyboard.png"
    save_png(storyboard(film, spans, ["a cat"]), path)
    assert Image.open(path).size[0] == 2000
    before = path.read_bytes()

    class Torn(Image.Image):
        def save(self, target, **_):
            with open(target, "wb") as file:
                file.write(b"half")
            raise OSError(28, "No space left on device")

    with pytest.raises(CinelabError, match="no space left"):
        save_png(Torn(), path)
    assert path.read_bytes() == before and os.listdir(path.parent) == ["storyboard.png"]
