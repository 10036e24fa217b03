"""VisionReward without its model: the arithmetic by itself, and the whole way through the worker
with one that is made up."""

import json
import subprocess

import numpy as np
import pytest
from test_outside import make
from typer.testing import CliRunner

from cinelab.cli.evaluation import app
from cinelab.errors import CinelabError
from cinelab.metrics.external.clip_files import FilmFile
from cinelab.metrics.external.environments import VISIONREWARD
from cinelab.metrics.external.visionreward import (
    QUESTIONS,
    WEIGHTS,
    RewardModel,
    followed,
    pick_frames,
    preflight_reward,
    reward,
    statements,
    unclear,
    visionreward_rows,
)
from cinelab.stream.video import write_mp4

# Sees colour: yes to a part of the text that names the colour of the mean picture, and to every
# plain question.
MODEL = """
def load(job):
    def answer(frames, question):
        assert frames.dtype == "uint8" and frames.ndim == 4 and len(frames) <= 24
        mean = frames.mean((0, 1, 2))
        colour = ("red", "green", "blue")[int(mean.argmax())]
        if "broken" in question:
            raise RuntimeError("the model fell over")
        if "part of it" not in question:
            return "yes" if question.endswith("\\n") else "maybe"
        return "Yes." if colour in question.rsplit(":", 1)[1] else "no"
    return answer
"""


@pytest.fixture
def setting(tmp_path, monkeypatch) -> RewardModel:
    """The repository's true layout with three questions, and a made-up model in the place of the
    checkpoint."""
    monkeypatch.setenv("CINELAB_ENVS", str(tmp_path / "envs"))
    make(VISIONREWARD)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "painter.py").write_text(MODEL)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    home = tmp_path / "VisionReward"
    (home / QUESTIONS).parent.mkdir(parents=True)
    (home / QUESTIONS).write_text('Does it show "[[prompt]]"?\nIs it sharp?\nIs it calm?')
    (home / WEIGHTS).write_text(json.dumps([0.5, 0.25, 1.0]))
    return RewardModel(home, tmp_path / "model", "painter:load")


@pytest.fixture
def film(tmp_path):
    """Three seconds of red, then two of blue."""
    frames = np.zeros((40, 32, 32, 3), np.uint8)
    frames[:24, ..., 0] = frames[24:, ..., 2] = 200
    write_mp4(tmp_path / "film.mp4", frames, 8, scale=1)
    return tmp_path / "film.mp4"


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        (
            "wide shot of a blue rabbit that waves in the forest by day",
            ["wide shot", "a blue rabbit", "waves", "in the forest", "by day"],
        ),
        (
            "A red fox in the snow, at night. It looks up, then sleeps.",
            ["A red fox", "in the snow", "at night", "It looks up", "sleeps"],
        ),
        ("a person is riding a bike", ["a person is riding a bike"]),
        ("a cat, a cat and a dog", ["a cat", "a dog"]),
        (" \n ", []),
    ],
)
def test_a_prompt_falls_into_checkable_parts(prompt, parts):
    assert statements(prompt) == parts == statements(prompt.replace(" ", "  "))


def test_frames_are_a_second_apart_and_24_at_most():
    assert pick_frames(81, 16) == [0, 16, 32, 48, 64, 80]
    assert pick_frames(1, 8) == [0]
    assert pick_frames(4, 8) == [0]
    assert pick_frames(16, 8) == [0, 8, 15], (
        "the last second is rounded up, and shown by the nearest frame there is"
    )
    assert pick_frames(1000, 8) == [8 * second for second in range(24)]


def test_the_reward_is_the_mean_of_signed_weights():
    assert reward(["yes", "no", "Yes."], [0.5, 0.25, 1.0]) == pytest.approx((0.5 - 0.25 + 1.0) / 3)
    assert reward(["maybe"], [2.0]) == -2.0 and unclear(["maybe", "no", "YES", "no."]) == 1
    assert reward(["yes"], [-0.3]) == -0.3, "some questions ask for faults"
    for answers, weights in ((["yes"], [1.0, 2.0]), ([], [])):
        with pytest.raises(CinelabError, match="one answer a weight"):
            reward(answers, weights)


def test_following_is_a_share():
    assert followed(["yes", "no", "no", "yes"]) == 0.5 and followed(["no"]) == 0.0
    with pytest.raises(CinelabError, match="at least one statement"):
        followed([])


def test_both_scores_of_every_shot_through_the_worker(setting, film):
    video = FilmFile(
        film, spans=((0, 24), (24, 40)), prompts=("a red wall, a green door", "a red wall")
    )
    told = []
    rows = {
        (row.shot, row.metric): row
        for row in visionreward_rows([video], setting, whole=True, tell=told.append)
    }
    assert {shot for shot, _ in rows} == {0, 1, 2} and all(
        row.status == "ok" for row in rows.values()
    )
    # Two questions keep their line end and get a yes, the last one has none and gets a "maybe".
    assert all(
        rows[shot, "visionreward"].value == pytest.approx((0.5 + 0.25 - 1.0) / 3)
        for shot in (0, 1, 2)
    )
    assert "1 neither yes nor no" in rows[1, "visionreward"].detail
    assert (
        rows[1, "instruction following"].value == 0.5
        and "not seen: a green door" in rows[1, "instruction following"].detail
    )
    assert rows[2, "instruction following"].value == 0.0, (
        "the blue shot was judged by the red one's frames"
    )
    assert "4 frames shown" in rows[1, "visionreward"].detail and rows[1, "visionreward"].fps == 8
    assert rows[1, "visionreward"].version == "no revision, painter:load"
    assert told[0].startswith("clip 1 of 3, 5 questions")


def test_a_list_of_ones_own_takes_the_splitters_place(setting, film):
    asked = {"film": ["a red wall", "a blue wall", "a green wall"]}
    rows = visionreward_rows([FilmFile(film, "whatever")], setting, requirements=asked, tell=str)
    assert next(
        row.value for row in rows if row.metric == "instruction following"
    ) == pytest.approx(1 / 3)


def test_a_clip_that_fails_costs_the_others_nothing(setting, film, tmp_path):
    (tmp_path / "cut.mp4").write_bytes(film.read_bytes()[:-300])
    cut = FilmFile(tmp_path / "cut.mp4", "red")
    videos = [
        FilmFile(film, "broken"),
        cut,
        FilmFile(film, "red", clip="good"),
        FilmFile(film, clip="mute"),
    ]
    rows = visionreward_rows(videos, setting, tell=str)
    found = {row.clip: {one.metric: one for one in rows if one.clip == row.clip} for row in rows}
    assert all(
        row.status == "absent" and "the model fell over" in row.detail
        for row in found["film"].values()
    )
    assert found["cut"]["readable"].status == "failed"
    assert all(row.status == "ok" for row in found["good"].values())
    assert all(
        row.status == "absent" and "has no prompt" in row.detail and np.isnan(row.value)
        for row in found["mute"].values()
    )


def test_without_the_checkpoint_rows_are_absent_and_say_where_it_goes(setting, film):
    real = RewardModel(setting.home, setting.model)
    rows = visionreward_rows([FilmFile(film, "red")], real, tell=str)
    assert {row.status for row in rows} == {"absent"} and all(
        str(setting.model / "config.json") in row.detail for row in rows
    )


def test_preflight_counts_empty_files_and_the_shards_of_the_index(setting):
    real = RewardModel(setting.home, setting.model)
    setting.model.mkdir()
    for name in ("config.json", "tokenizer_config.json"):
        (setting.model / name).write_text("{}")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (setting.model / "model.safetensors.index.json").write_text(json.dumps(index))
    (setting.model / "model-1.safetensors").write_bytes(b"x")
    (setting.model / "model-2.safetensors").write_bytes(b"")
    lacks = [one.path.name for one in preflight_reward(real)]
    assert "model-2.safetensors" in lacks and "model-1.safetensors" not in lacks
    (setting.home / WEIGHTS).write_text("")
    assert WEIGHTS.name in [one.path.name for one in preflight_reward(real)]


def test_questions_and_weights_of_other_lengths_are_refused(setting, film):
    (setting.home / WEIGHTS).write_text("[1.0]")
    with pytest.raises(CinelabError, match="3 questions but 1 weights"):
        visionreward_rows([FilmFile(film, "red")], setting, tell=str)


def test_the_version_is_the_repositorys_revision(setting):
    def git(*words):
        names = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", *names, *words], cwd=setting.home, capture_output=True, text=True, check=True
        ).stdout

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "x")
    assert setting.version == f"{git('rev-parse', '--short=12', 'HEAD').strip()}, painter:load"


def test_the_command_line_says_what_is_missing(setting, monkeypatch):
    monkeypatch.setenv("VISIONREWARD_HOME", str(setting.home))
    monkeypatch.setenv("VISIONREWARD_MODEL", str(setting.model))
    done = CliRunner().invoke(app, ["check", "visionreward"])
    assert (
        done.exit_code == 1
        and str(setting.model / "config.json") in done.stdout
        and WEIGHTS.name not in done.stdout
    )
