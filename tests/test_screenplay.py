"""The screenplay: every bad input is one sentence with its line, every good one survives a save."""

import json
import math
import os
import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cinelab.errors import CinelabError
from cinelab.script import PromptChange, Screenplay, Shot
from cinelab.texts import SCREENPLAY

GOOD = """\
title: A walk home
seed: 7
caption: a storybook film
shots:
  - prompt: a red fox walks in the forest
    seconds: 2
  - prompt: "the red fox: it sits"
    seconds: 3.5
    cut: continue
    changes:
      - at: 1.5
        prompt: the red fox jumps
      - {at: 2, prompt: the red fox sleeps}
"""


def film(*lines: str, seconds="2") -> str:
    """A screenplay whose first shot ends with the given lines, from line 5 on."""
    head = ["title: t", "shots:", "  - prompt: a fox", f"    seconds: {seconds}"]
    return "\n".join(head + [f"    {line}" for line in lines]) + "\n"


def sentence(text: str) -> str:
    with pytest.raises(CinelabError) as caught:
        Screenplay.parse(text, name="film.yaml")
    return one_sentence(str(caught.value))


def one_sentence(message: str) -> str:
    assert "\n" not in message and message[-1] in ".?"
    assert len(re.findall(r"[.?] ", message)) == 0, message
    return message


def test_reads_every_field():
    play = Screenplay.parse(GOOD)
    changes = (PromptChange(1.5, "the red fox jumps"), PromptChange(2, "the red fox sleeps"))
    shots = (
        Shot("a red fox walks in the forest", 2),
        Shot("the red fox: it sits", 3.5, "continue", changes),
    )
    assert play == Screenplay("A walk home", shots, 7, "a storybook film")
    assert play.seconds == 5.5


def test_defaults_and_empty_optional_fields():
    play = Screenplay.parse(film("cut:", "changes:") + "seed:\ncaption:\n")
    assert play == Screenplay("t", [Shot("a fox", 2)])


LAUGHS = "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
    for old, new in zip("abcdef", "bcdefg", strict=True)
)
BAD = {
    "empty": ("", 1, "empty; write title and shots"),
    "only a comment": ("# nothing\n", 1, "empty"),
    "null": ("null\n", 1, "the screenplay is empty"),
    "a list": ("- a\n- b\n", 1, "the screenplay is a list; write the fields title, shots"),
    "a word": ("hello\n", 1, "the screenplay is 'hello'"),
    "no title": ("shots:\n  - {prompt: a, seconds: 1}\n", 1, "title is missing; add it"),
    "empty title": ('title: ""\nshots: [{prompt: a, seconds: 1}]\n', 1, "title is empty"),
    "number as title": ("title: 1984\nshots: []\n", 1, "title is 1984; write text, in quotes"),
    "date as title": ("title: 2026-12-01\nshots: []\n", 1, "title is 2026-12-01; write text"),
    "list as title": ("title: [a]\nshots: []\n", 1, "title is a list; write text"),
    "no shots": ("title: a\n", 1, "shots is missing"),
    "empty shots": ("title: a\nshots: []\n", 2, "shots is empty; add at least one shot"),
    "null shots": ("title: a\nshots:\n", 2, "shots is empty"),
    "shots a mapping": ("title: a\nshots: {prompt: a}\n", 2, "shots is a mapping; write a list"),
    "shots a word": ("title: a\nshots: fox\n", 2, "shots is 'fox'; write a list of shots"),
    "shot a word": ("title: a\nshots:\n  - fox\n", 3, "shot 1 is 'fox'; write the fields prompt"),
    "misspelt root": ("titel: a\nshots: []\n", 1, "no field 'titel'; did you mean 'title'?"),
    "misspelt shot": (film("secnods: 3"), 5, "shot 1 has no field 'secnods'; did you mean 'sec"),
    "case": (film("Cut: cut"), 5, "shot 1 has no field 'Cut'; did you mean 'cut'?"),
    "unknown": (film("wxyz: 3"), 5, "'wxyz'; the fields are prompt, seconds, cut, changes"),
    "list as key": (film("? [a, b]", ": c"), 5, "shot 1 has no field a list; the fields"),
    "misspelt change": (film("changes: [{att: 1}]"), 5, "shot 1, change 1 has no field 'att'"),
    "twice": (film("seconds: 3"), 5, "shot 1: seconds is given twice, lines 4 and 5; keep one"),
    "twice root": ("title: a\ntitle: b\n", 2, "title is given twice, lines 1 and 2"),
    "twice change": (film("changes:", "- at: 1", "  at: 1"), 7, "change 1: at is given twice"),
    "no prompt": ("title: a\nshots:\n  - seconds: 1\n", 3, "shot 1: prompt is missing"),
    "no seconds": ("title: a\nshots:\n\n  - prompt: b\n", 4, "shot 1: seconds is missing"),
    "null prompt": ("title: a\nshots:\n  - seconds: 1\n    prompt:\n", 4, "prompt is empty; say"),
    "blank prompt": (film().replace("a fox", '"  "'), 3, "shot 1: prompt is empty; say what"),
    "bool prompt": (film().replace("a fox", "yes"), 3, "prompt is True; write text, in quotes"),
    "long prompt": (
        film().replace("fox", "x" * 2000),
        3,
        "prompt has 2002 characters; keep it to 2000",
    ),
    "long caption": (film() + f"caption: {'x' * 2001}\n", 5, "caption has 2001 characters"),
    "blank caption": (film() + 'caption: " "\n', 5, "caption is empty; write a caption or"),
    "zero": (film(seconds="0"), 4, "shot 1: seconds is 0; give a number of seconds above 0"),
    "negative": (film(seconds="-1.5"), 4, "shot 1: seconds is -1.5; give a number"),
    "nan": (film(seconds=".nan"), 4, "seconds is nan"),
    "infinite": (film(seconds=".inf"), 4, "seconds is inf"),
    "bool": (film(seconds="true"), 4, "seconds is True; give a number"),
    "words": (film(seconds="two"), 4, "seconds is 'two'; give a number"),
    "quoted": (film(seconds="'2'"), 4, "seconds is '2'; give a number"),
    "null seconds": (film(seconds=""), 4, "seconds is empty; give a number"),
    "list": (film(seconds="[2]"), 4, "seconds is a list"),
    "too long": (film(seconds="600.5"), 4, "seconds is 600.5; give a number of seconds above 0 an"),
    "huge": (film(seconds="9" * 5000), 4, "seconds is '999"),
    "cut": (film("cut: wipe"), 5, "shot 1: cut is 'wipe'; write cut or continue"),
    "near cut": (film("cut: continued"), 5, "cut is 'continued'; did you mean 'continue'?"),
    "bool cut": (film("cut: no"), 5, "cut is False; write cut or continue"),
    "first continue": (film("cut: continue"), 5, "shot 1: cut is 'continue'; leave it out, sinc"),
    "at zero": (film("changes: [{at: 0, prompt: b}]"), 5, "shot 1, change 1: at is 0; give a num"),
    "at end": (film("changes:", "- prompt: b", "  at: 2"), 7, "at is 2; give a time inside its sh"),
    "at text": (film("changes: [{at: x, prompt: b}]"), 5, "change 1: at is 'x'"),
    "at missing": (film("changes:", "- prompt: b"), 6, "shot 1, change 1: at is missing"),
    "change prompt": (film("changes: [{at: 1, prompt: }]"), 5, "change 1: prompt is empty; say"),
    "changes a mapping": (film("changes: {at: 1}"), 5, "shot 1: changes is a mapping; write a li"),
    "not increasing": (
        film("changes:", "- {at: 1, prompt: b}", "- {at: 1, prompt: c}"),
        7,
        "shot 1, change 2: at is 1; give a time after the change before it, 1",
    ),
    "negative seed": (film() + "seed: -1\n", 5, "seed is -1; give a whole number"),
    "fraction seed": (film() + "seed: 1.5\n", 5, "seed is 1.5; give a whole number"),
    "bool seed": (film() + "seed: true\n", 5, "seed is True"),
    "word seed": (film() + "seed: lucky\n", 5, "seed is 'lucky'"),
    "huge seed": (film() + f"seed: {2**63}\n", 5, "below 2**63"),
    "tab": ("title: a\nshots:\n\t- prompt: b\n", 3, "a tab stands where YAML wants spaces; put sp"),
    "tab after colon": ("title: a\nseed:\t\t@\n", 2, "not valid YAML"),
    "colon in text": (film().replace("a fox", "fox: red: x"), 3, "put text that holds a colon in"),
    "open quote": ('title: "a\nshots: []\n', 1, "not valid YAML"),
    "open bracket": ("title: a\nshots: [\n", 3, "not valid YAML"),
    "indent": ("title: a\n shots: []\n", 2, "not valid YAML"),
    "two documents": ("title: a\n---\ntitle: b\n", 2, "keep one screenplay in a file"),
    "unknown tag": ("title: !fox a\nshots: 3\n", 2, "shots is 3"),
    "python tag": ("title: a\nshots: !!python/object:os.system x\n", 2, "shots is 'x'"),
    "broken int": ('title: a\nshots: []\nseed: !!int ""\n', 2, "shots is empty"),
    "control character": ("title: a\x01\n", 1, "character 0x1 is not text"),
    "beyond unicode": ('title: a\nseed: "\\U99999999"\n', 2, "escape names no character"),
    "half a pair": ('title: a\nshots: [{prompt: "\\ud83e", seconds: 1}]\n', 2, "half of a char"),
    "deep": ("[" * 5000, 1, "nested too deeply"),
    "alias to itself": ("title: a\nshots: &a [*a]\n", 1, "its aliases unfold to more than"),
    "laughs": ("title: &a [x, x]\n" + LAUGHS, 1, "its aliases unfold to more than"),
    "many values": (
        "title: a\nshots: [" + "a, " * 70000 + "]",
        2,
        "it holds more than 60000 values; write title and shots",
    ),
    "a very long number": ("title: a\nshots: []\nseed: " + ":1" * 50000, 2, "shots is empty"),
    "JSON": (
        '{\n\t"title": "a",\n\t"shots": [{"prompt": "b", "seconds": 0}]\n}',
        3,
        "seconds is 0",
    ),
}


@pytest.mark.parametrize("text, line, words", BAD.values(), ids=BAD.keys())
def test_bad_text_is_one_sentence_with_its_line(text, line, words):
    message = sentence(text)
    assert message.startswith(f"film.yaml:{line}: ")
    assert words in message
    assert len(message) < 300


def test_two_hundred_shots_pass_and_more_are_refused():
    shot = "  - {prompt: a, seconds: 1}\n"
    assert len(Screenplay.parse("title: t\nshots:\n" + shot * 200).shots) == 200
    message = sentence("title: t\nshots:\n" + shot * 1000)
    assert "shots lists 1000 shots and the limit is 200; split the film" in message


def test_limits_themselves_are_allowed():
    Screenplay("t", [Shot("x" * 2000, 600)], seed=2**63 - 1)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Shot("", 1), "prompt is empty"),
        (lambda: Shot(None, 1), "prompt is empty"),
        (lambda: Shot(3, 1), "prompt is 3; write text"),
        (lambda: Shot("a", 0), "seconds is 0;"),
        (lambda: Shot("a", True), "seconds is True;"),
        (lambda: Shot("a", math.nan), "seconds is nan;"),
        (lambda: Shot("a", 10**400), "seconds is 1000"),
        (lambda: Shot("a", 10**5000), "seconds is a huge number"),
        (lambda: Shot("a", 1, "wipe"), "cut is 'wipe'"),
        (lambda: Shot("a", 1, changes="b"), "changes is 'b'; write a list"),
        (lambda: Shot("a", 1, changes=["b"]), "change 1 is 'b'; make it a PromptChange"),
        (lambda: Shot("a", 1, changes=(PromptChange(1, "b"),)), "change 1: at is 1;"),
        (lambda: PromptChange(-1, "b"), "at is -1;"),
        (lambda: PromptChange(1, " "), "prompt is empty"),
        (lambda: Screenplay("t", ()), "shots is empty"),
        (lambda: Screenplay("t", ({},)), "shot 1 is a mapping; make it a Shot"),
        (lambda: Screenplay("t", (Shot("a", 1),) * 201), "split the film"),
        (lambda: Screenplay("t", (Shot("a", 1, "continue"),)), "shot 1: cut is 'continue'"),
        (lambda: Screenplay("t", (Shot("a", 1),), seed=-1), "seed is -1"),
        (lambda: Screenplay("t", (Shot("a", 1),), seed=1.0), "seed is 1.0"),
        (lambda: Screenplay("", (Shot("a", 1),)), "title is empty"),
    ],
)
def test_python_objects_hold_the_same_rules(make, words):
    with pytest.raises(CinelabError) as caught:
        make()
    assert words in one_sentence(str(caught.value))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_lists_and_numpy_numbers_are_taken(tmp_path):
    play = Screenplay("t", [Shot("a", np.float32(1.5))], seed=np.int64(3))
    assert isinstance(play.shots, tuple) and hash(play)
    assert Screenplay.load(play.save(tmp_path / "a.yaml")) == play


def test_a_json_file_is_a_screenplay(tmp_path):
    path = tmp_path / "film.json"
    play = {"title": "a \U0001f98a", "shots": [{"prompt": "b\n\tc", "seconds": 1e1}]}
    for indent in (None, 2, "\t"):
        path.write_text(json.dumps(play, indent=indent))
        assert Screenplay.load(path) == Screenplay("a \U0001f98a", (Shot("b\n\tc", 10),))
    path.write_text('{"title":"a","shots":[{"prompt":"b","seconds":1e1}]}')
    assert Screenplay.load(path).seconds == 10


def load_error(path) -> str:
    with pytest.raises(CinelabError) as caught:
        Screenplay.load(path)
    return one_sentence(str(caught.value).replace(str(path), "FILE"))


def test_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "film.yaml"
    assert "FILE cannot be read (No such file or directory); give" in load_error(path)
    assert "FILE cannot be read (Is a directory)" in load_error(tmp_path)
    path.write_bytes(b"title: a\n\x89PNG\r\n\xff")
    assert "FILE:2: this is not UTF-8 text; give" in load_error(path)
    path.write_bytes(b"title: a\0b")
    assert "FILE:1: a zero byte stands there" in load_error(path)
    path.write_bytes(b"#" * (SCREENPLAY.most + 1))
    assert "FILE is above 2097152 bytes" in load_error(path)
    assert "cannot be read" in load_error("a\0b")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission(tmp_path):
    path = tmp_path / "film.yaml"
    path.write_text(GOOD)
    path.chmod(0)
    assert "FILE cannot be read (Permission denied)" in load_error(path)


def test_load_names_the_file_and_takes_a_byte_order_mark(tmp_path):
    path = tmp_path / "film.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert Screenplay.load(path) == Screenplay.parse(GOOD)
    path.write_text(GOOD.replace("3.5", "-3"))
    with pytest.raises(CinelabError, match=re.escape(f"{path}:8: shot 2: seconds is -3;")):
        Screenplay.load(str(path))


def test_a_failed_save_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "film.yaml"
    Screenplay.parse(GOOD).save(path)
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CinelabError, match=r"cannot be written \(no space left on device\)"):
        Screenplay("other", [Shot("a", 1)]).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["film.yaml"]


def test_save_makes_the_folder_and_refuses_a_file_in_its_place(tmp_path):
    play = Screenplay.parse(GOOD)
    assert Screenplay.load(play.save(tmp_path / "a" / "b" / "film.yaml")) == play
    with pytest.raises(CinelabError, match="cannot be written"):
        play.save(tmp_path / "a" / "b" / "film.yaml" / "c.yaml")


def test_yaml_is_written_as_a_person_would():
    assert Screenplay.parse(GOOD).to_yaml() == GOOD.replace(
        '"the red fox: it sits"', "'the red fox: it sits'"
    ).replace("{at: 2, prompt: the red fox sleeps}", "at: 2\n        prompt: the red fox sleeps")


words = st.one_of(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=30),
    st.text("a \n\t'\":#\x85\u2028\xa0\ufeff", min_size=1, max_size=200),
    st.sampled_from(["yes", "1e3", "12", "null", "~", "a: b", "- a", "2026-12-01", "a #b", "<<"]),
).filter(str.strip)
seconds = st.one_of(st.integers(1, 600), st.floats(0, 600, exclude_min=True))


@st.composite
def shots(draw, first=False):
    length = draw(seconds)
    inside = st.floats(0, length, exclude_min=True, exclude_max=True)
    times = draw(st.lists(inside, max_size=3, unique=True)) if length > 1e-300 else []
    changes = tuple(PromptChange(at, draw(words)) for at in sorted(times))
    cut = "cut" if first else draw(st.sampled_from(["cut", "continue"]))
    return Shot(draw(words), length, cut, changes)


@st.composite
def screenplays(draw):
    entries = [draw(shots(first=True)), *draw(st.lists(shots(), max_size=4))]
    caption = draw(st.just("") | words)
    return Screenplay(draw(words), tuple(entries), draw(st.integers(0, 2**63 - 1)), caption)


@given(play=screenplays())
@settings(max_examples=150, deadline=None)
def test_a_saved_screenplay_reads_back_equal(tmp_path_factory, play):
    folder = tmp_path_factory.getbasetemp()
    assert Screenplay.parse(play.to_yaml()) == play
    assert Screenplay.load(play.save(folder / "round.yaml")) == play
    assert Screenplay.load(play.save(folder / "round.json")) == play


@given(text=st.text(alphabet="ab:-{}[]\"'#&*!|>?,\n\t 01.~\x00\x85") | st.text())
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_screenplay_or_one_sentence(text):
    try:
        Screenplay.parse("title: a\nshots:\n  - " + text)
    except CinelabError as error:
        assert "\n" not in str(error)
