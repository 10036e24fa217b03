"""VBench: what is missing is named, what can run runs for real, and its numbers are the ones VBench
itself gives."""

import gzip
import json
import subprocess
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
from test_outside import make
from typer.testing import CliRunner

from cinelab.cli.evaluation import app
from cinelab.errors import CinelabError
from cinelab.metrics.external import vbench
from cinelab.metrics.external.clip_files import (
    FilmFile,
    ShotFile,
    cut_out_spans,
    find_film_files,
    lay_out,
)
from cinelab.metrics.external.environments import VBENCH, packages, ready
from cinelab.metrics.external.vbench import (
    ClipRules,
    even,
    meaningless,
    prompt_file_name,
    vbench_rows,
)
from cinelab.metrics.external.vbench_files import (
    DIMENSIONS,
    cache,
    flaw,
    preflight,
    preflight_long,
    waiting_for,
)
from cinelab.metrics.external.vbench_suite import (
    make_suite,
    missing_of_suite,
    suite,
    suite_rows,
    total,
    total_rows,
)
from cinelab.metrics.rows import load_rows
from cinelab.stream.video import read_video, write_mp4

UNTESTED = "VBENCH IS NOT TESTED: its environment is not made; run `cinelab eval setup vbench`"
real = pytest.mark.skipif(not ready(VBENCH), reason=UNTESTED)
FLICKER = """
import json, sys
sys.path.insert(0, {workers!r})
import vbench_worker
library = vbench_worker._import_torchvision()
from vbench import VBench
VBench("cpu", "", {out!r}).evaluate(
    {videos!r}, "x", dimension_list=["temporal_flickering"], mode="custom_input"
)
"""


@pytest.fixture(autouse=True)
def empty_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("VBENCH_CACHE_DIR", str(tmp_path / "vbench"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("VBENCH_LONG_HOME", raising=False)


@pytest.fixture
def no_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("CINELAB_ENVS", str(tmp_path / "envs"))


@pytest.fixture
def film(tmp_path) -> Path:
    """Two noisy shots of 9 and 11 frames, dark and bright."""
    rng = np.random.default_rng(5)
    noise = rng.integers(0, 40, (20, 32, 48, 3))
    frames = (noise + np.where(np.arange(20) < 9, 20, 180)[:, None, None, None]).astype(np.uint8)
    write_mp4(tmp_path / "film.mp4", frames, 8, scale=1)
    return tmp_path / "film.mp4"


def fill(dimension: str) -> list[Path]:
    """Every weight file of a dimension, whole, as small as it gets."""
    files = [
        cache(file.env) / file.path.replace("*", "abc") for file in DIMENSIONS[dimension].files
    ]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".gz":
            file.write_bytes(gzip.compress(b"words " * 99))
        else:
            with zipfile.ZipFile(file, "w") as zipped:
                zipped.writestr("data.pkl", b"0" * 999)
    return files


# ---- what is missing


def test_an_empty_machine_misses_the_files_of_15_dimensions():
    waits = waiting_for(preflight())
    assert set(DIMENSIONS) - set(waits) == {"temporal_flickering"} and len(DIMENSIONS) == 16
    for one in preflight(["aesthetic_quality", "background_consistency"]):
        assert (
            one.path.is_relative_to(cache())
            and one.get.startswith("https://")
            and one.state == "absent"
        )
    assert str(cache() / "clip_model/ViT-B-32.pt") in waits["appearance_style"]


@pytest.mark.parametrize(
    "dimension", [name for name, one in DIMENSIONS.items() if one.files and not one.packages]
)
def test_a_dimension_is_free_when_its_last_file_is_there(dimension):
    files = fill(dimension)
    assert preflight([dimension]) == []
    for file in files:
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2] if file.suffix in (".gz", ".pth", ".pt") else b"")
        (found,) = preflight([dimension])
        assert (
            found.path == file
            and found.state in ("partial", "empty")
            and found.dimensions == (dimension,)
        )
        file.write_bytes(whole)


@pytest.mark.parametrize(
    ("content", "state"),
    [
        (b"", "empty"),
        (b"   ", "empty"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"PK\x03\x04 half a file", "partial"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer to large storage, not the file"),
        (b"\x80\x02pickle", ""),
    ],
)
def test_what_is_wrong_with_a_weight_file(tmp_path, content, state):
    (tmp_path / "x.pth").write_bytes(content)
    assert flaw(tmp_path / "x.pth") == state


def test_the_four_of_grit_also_want_detectron2(no_environment):
    fill("color")
    (found,) = preflight(["color", "object_class"])
    assert found.path == packages(VBENCH) / "detectron2" and found.dimensions == (
        "color",
        "object_class",
    )
    found.path.mkdir(parents=True)
    assert preflight(["color", "object_class"]) == []


def test_an_unknown_dimension_is_named():
    with pytest.raises(CinelabError, match="'smoothness' is not one of VBench's"):
        preflight(["smoothness"])


def test_vbench_long_names_its_clone_and_packages(no_environment, tmp_path, monkeypatch):
    monkeypatch.setenv("VBENCH_LONG_HOME", str(tmp_path / "VBench"))
    lacks = {one.path.name: one for one in preflight_long()}
    assert {"__init__.py", "scenedetect", "editor.py", "av", "dreamsim"} == set(lacks)
    assert (
        "$VBENCH_LONG_HOME" in lacks["__init__.py"].get
        and "pip install dreamsim" in lacks["dreamsim"].get
    )


# ---- what is laid out


def decoded(path: Path) -> np.ndarray:
    """The pictures as the codec has them, before any conversion of colours."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray() for frame in container.decode(video=0)])


def test_a_shot_is_cut_out_without_loss(film, tmp_path):
    spans = {tmp_path / "1.mp4": (0, 9), tmp_path / "2.mp4": (9, 20), tmp_path / "3.mp4": (4, 12)}
    cut_out_spans(film, spans)
    for file, (first, end) in spans.items():
        assert np.array_equal(decoded(file), decoded(film)[first:end])
        assert read_video(file)[1] == 8 and np.array_equal(
            read_video(file)[0], read_video(film)[0][first:end]
        )


def test_one_shot_is_the_file_as_it_is(film, tmp_path):
    (tmp_path / "out").mkdir()
    (clip,) = lay_out(
        FilmFile(film, spans=[(0, 20)]), tmp_path / "out", lambda shot, prompt: "a.mp4"
    )
    assert (
        clip.shot == 1
        and clip.file.resolve() == film.resolve()
        and not clip.cut_out
        and clip.frames == 20
    )


def test_spans_beyond_the_film_or_empty_are_refused(film, tmp_path):
    with pytest.raises(CinelabError, match="has 20 frames, its last shot ends at 21"):
        lay_out(FilmFile(film, spans=[(0, 21)]), tmp_path, lambda shot, prompt: "a.mp4")
    for spans in ([(3, 3)], [(-1, 3)], []):
        with pytest.raises(CinelabError, match="spans"):
            FilmFile(film, spans=spans)


def test_a_run_folder_brings_its_shots_and_prompts(film, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    film.rename(run / "film.mp4")
    shots = [
        {"start": 0, "end": 5, "prompt": "a cat"},
        {"start": 5, "end": 9, "prompt": "it jumps.", "cut": False},
        {"start": 9, "end": 20, "prompt": "a dog"},
    ]
    (run / "film.shots.json").write_text(json.dumps({"shots": shots}))
    (video,) = find_film_files([run])
    assert (
        video.spans == ((0, 5), (5, 9), (9, 20))
        and video.prompts == ("a cat", "it jumps.", "a dog")
        and video.clip == "run"
    )
    assert video.prompt == "a cat. it jumps. a dog"
    (given,) = find_film_files([run], prompts={"film.mp4": "a hen"})
    assert given.prompt == "a hen" and given.prompts == () and given.spans == video.spans
    (run / "film.shots.json").write_text("{")
    with pytest.raises(CinelabError, match="film.shots.json is not valid JSON"):
        find_film_files([run])
    with pytest.raises(CinelabError, match="No video"):
        find_film_files([])


def test_file_names_carry_the_prompt_as_vbench_reads_it():
    assert (
        prompt_file_name(3, 1, "A person is riding a bike") == "A person is riding a bike-30001.mp4"
    )
    odd = prompt_file_name(0, 0, "a/b_c\nd" + "é" * 200)
    assert odd.startswith("a b c d") and not set("/_\n") & set(odd) and len(odd.encode()) < 200
    assert prompt_file_name(0, 0, "") == "video-00000.mp4"


# ---- what the numbers mean


def test_values_are_made_even():
    assert even("imaging_quality", 62.5)[0] == 0.625
    assert even("dynamic_degree", True)[0] == 1.0 and even("human_action", False)[0] == 0.0
    assert even("motion_smoothness", 0.9) == (0.9, "")


def test_clips_without_meaning_are_told(film):
    def clip(frames, prompt="", fps=8.0):
        return ShotFile(FilmFile(film), 1, film, prompt, fps, frames)

    assert "1 frames" in meaningless("subject_consistency", clip(1)) and not meaningless(
        "subject_consistency", clip(2)
    )
    assert meaningless("motion_smoothness", clip(2)) and not meaningless(
        "motion_smoothness", clip(3)
    )
    # It looks at 8 frames a second, and calls everything moving below three of them.
    assert meaningless("dynamic_degree", clip(6, fps=24.0)) and not meaningless(
        "dynamic_degree", clip(7, fps=24.0)
    )
    assert meaningless("human_action", clip(9, "a cat")) and not meaningless(
        "human_action", clip(9, "A person is dancing")
    )
    assert "no prompt" in meaningless("overall_consistency", clip(9))


def test_the_total_is_the_published_formula():
    best = {name: one.high for name, one in DIMENSIONS.items()}
    assert total(best) == {
        "quality score": pytest.approx(1),
        "semantic score": pytest.approx(1),
        "total score": pytest.approx(1),
    }
    assert total({name: one.low for name, one in DIMENSIONS.items()})[
        "total score"
    ] == pytest.approx(0)
    still = total(best | {"dynamic_degree": 0.0})
    assert still["quality score"] == pytest.approx(6 / 6.5) and still[
        "total score"
    ] == pytest.approx((4 * 6 / 6.5 + 1) / 5)
    assert total(best | {"scene": 0.4111})["semantic score"] == pytest.approx(8.5 / 9)
    assert sum(one.quality for one in DIMENSIONS.values()) == 7


def test_no_total_of_fewer_dimensions():
    rows = total_rows({"scene": 0.4}, {})
    assert (
        {row.status for row in rows} == {"absent"}
        and "temporal_flickering" in rows[0].detail
        and len(rows) == 3
    )


# ---- a made-up VBench in the true layout

ANSWER = """
import json, sys
job = json.loads(open(sys.argv[1]).read())
results = {
    name: {
        "average": 0.5,
        "videos": {file: 0.25 + 50 * (name == "imaging_quality") for file in files},
    }
    for name, files in job["dimensions"].items()
    if name != "motion_smoothness"
}
for found in results.values():
    found["videos"] = dict(reversed(found["videos"].items()))
answer = {
    "results": results,
    "errors": {"motion_smoothness": "RuntimeError: no memory"},
    "versions": {"vbench": "0.1.5", "torch": "2", "transformers": "4"},
    "device": "cpu",
}
open(sys.argv[2], "w").write(json.dumps(answer))
"""
ENTRIES = [
    {"prompt_en": "a dog", "dimension": ["temporal_flickering"]},
    {"prompt_en": "a cat", "dimension": ["scene"]},
    {"prompt_en": "a dog", "dimension": ["color"]},
]


@pytest.fixture
def made_up(no_environment, tmp_path, monkeypatch):
    make(VBENCH)
    (tmp_path / "worker.py").write_text(ANSWER)
    monkeypatch.setattr(
        vbench,
        "VBENCH",
        vbench.VBENCH.__class__("vbench", VBENCH.environment, tmp_path / "worker.py", ""),
    )
    (packages(VBENCH) / "vbench").mkdir(parents=True)
    (packages(VBENCH) / "vbench" / "VBench_full_info.json").write_text(json.dumps(ENTRIES))


def test_a_missing_environment_names_the_command(no_environment, film):
    for call in (lambda: vbench_rows([FilmFile(film)]), suite):
        with pytest.raises(CinelabError, match="cinelab eval setup vbench"):
            call()


def test_rows_of_a_film_with_good_failing_and_absent_dimensions(made_up, film, tmp_path):
    for name in ("imaging_quality", "motion_smoothness"):
        fill(name)
    (tmp_path / "broken.mp4").write_bytes(film.read_bytes()[:-300])
    videos = [
        FilmFile(tmp_path / "broken.mp4"),
        FilmFile(film, "a cat", [(0, 9), (9, 20)], run="r"),
    ]
    names = [
        "temporal_flickering",
        "imaging_quality",
        "motion_smoothness",
        "dynamic_degree",
        "scene",
    ]
    rows = vbench_rows(
        videos, names, ClipRules(whole=True, samples=5, rewriting="by hand"), tell=str
    )
    assert [(row.clip, row.status) for row in rows][0] == ("broken", "failed")
    found = {(row.shot, row.metric): row for row in rows[1:]}
    assert set(found) == {(shot, name) for shot in (0, 1, 2) for name in names}
    assert found[1, "temporal_flickering"].value == 0.25 and found[
        1, "imaging_quality"
    ].value == pytest.approx(0.5025)
    assert (
        "without loss, 9 frames" in found[1, "temporal_flickering"].detail
        and "of 100" in found[1, "imaging_quality"].detail
    )
    assert "without loss" not in found[0, "temporal_flickering"].detail
    reasons = {
        "motion_smoothness": "no memory",
        "dynamic_degree": "raft-things.pth is absent",
        "scene": "its own prompts",
    }
    for name, why in reasons.items():
        assert (
            found[2, name].status == "absent"
            and np.isnan(found[2, name].value)
            and why in found[2, name].detail
        )
    assert {(row.samples, row.rewriting) for row in rows} == {(5, "by hand")} and found[
        0, "scene"
    ].fps == 8


def test_long_clips_wait_for_vbench_long_where_it_is_asked_for(made_up, film, tmp_path):
    write_mp4(tmp_path / "long.mp4", np.zeros((40, 32, 32, 3), np.uint8), 8, scale=1)
    videos = [FilmFile(tmp_path / "long.mp4"), FilmFile(film)]
    short, late = (
        vbench_rows(videos, ["temporal_flickering"], ClipRules(long=long), tell=str)
        for long in (False, True)
    )
    assert [row.status for row in short] == ["ok", "ok"] and "asks for VBench-Long" in short[
        0
    ].detail
    assert [(row.status, row.backend) for row in late] == [
        ("absent", "vbench-long"),
        ("ok", "vbench"),
    ]
    assert "$VBENCH_LONG_HOME" in late[0].detail


def test_the_suite_names_every_film_once(made_up):
    jobs = suite()
    assert (
        len(jobs) == 10
        and jobs[0].name == "a dog-0.mp4"
        and jobs[0].dimensions == ("temporal_flickering", "color")
    )
    assert len({job.seed for job in jobs}) == 10 and jobs == suite() and len(suite(["scene"])) == 5


def test_an_incomplete_suite_is_refused_with_counts_and_names(made_up, film, tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    (folder / "a dog-0.mp4").write_bytes(film.read_bytes())
    (folder / "a dog-1.mp4").write_bytes(b"")
    assert [job.name for job in missing_of_suite(folder, ["color"])] == [
        f"a dog-{i}.mp4" for i in (1, 2, 3, 4)
    ]
    with pytest.raises(
        CinelabError,
        match="4 of 5 films of the suite are missing, first 'a dog-1.mp4', 'a dog-2.mp4'",
    ):
        suite_rows(folder, ["temporal_flickering"], tell=str)


def test_the_suite_is_made_resumed_and_scored(made_up, tmp_path):
    folder = tmp_path / "films"
    asked = []

    def maker(prompt, seed):
        asked.append((prompt, seed))
        if len(asked) == 4:
            raise KeyboardInterrupt
        return np.full((3, 32, 32, 3), seed % 200, np.uint8), 8.0

    with pytest.raises(KeyboardInterrupt):
        make_suite(folder, maker, tell=str)
    assert len(list(folder.glob("*.mp4"))) == 3
    assert make_suite(folder, maker, tell=str) == 7 and missing_of_suite(folder) == []
    assert asked[3] == asked[4], "the film that was not finished is made again with its seed"
    rows = {
        row.metric: row
        for row in suite_rows(folder, ["temporal_flickering", "scene"], "none", tell=str)
    }
    flicker = rows["temporal_flickering"]
    assert (flicker.value, flicker.samples, flicker.fps) == (0.5, 5, 8)
    assert rows["scene"].status == "absent" and rows["total score"].status == "absent"
    (folder / "a cat-0.mp4").write_bytes(b"no film")
    with pytest.raises(CinelabError, match="a cat-0.mp4: is damaged"):
        suite_rows(folder, ["scene"], tell=str)


def test_the_command_line_lists_the_suite_and_scores_videos(made_up, film, tmp_path):
    (tmp_path / "films").mkdir()
    listed = CliRunner().invoke(app, ["suite", str(tmp_path / "films")])
    assert (
        listed.exit_code == 1
        and "0 of 10 films" in listed.stdout
        and "a dog-0.mp4" in listed.stdout
    )
    (tmp_path / "prompts.json").write_text('{"film.mp4": "a cat"}')
    words = ["vbench", str(film), "--dimensions", "temporal_flickering", "--samples", "3"]
    done = CliRunner().invoke(
        app,
        [*words, "--prompts", str(tmp_path / "prompts.json"), "-o", str(tmp_path / "out.parquet")],
    )
    assert done.exit_code == 0, done.output
    rows = load_rows(tmp_path / "out.parquet")
    assert (
        rows.value.tolist() == [0.25]
        and rows.samples.tolist() == [3]
        and rows.backend.tolist() == ["vbench"]
    )
    lost = CliRunner().invoke(app, ["vbench", str(tmp_path / "nothing.mp4")])
    assert isinstance(lost.exception, CinelabError) and "nothing.mp4" in str(lost.exception)
    checked = CliRunner().invoke(app, ["check", "vbench"])
    assert checked.exit_code == 1 and str(cache() / "amt_model/amt-s.pth") in checked.stdout


# ---- the real one


@real
def test_our_numbers_are_vbenchs_own(film, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_mp4(
        folder / "other.mp4",
        np.random.default_rng(0).integers(0, 255, (7, 32, 32, 3)).astype(np.uint8),
        8,
        scale=1,
    )
    (folder / "film.mp4").write_bytes(film.read_bytes())
    code = FLICKER.format(
        workers=str(VBENCH.worker.parent), out=str(tmp_path / "out"), videos=str(folder)
    )
    subprocess.run([str(vbench.python_of(VBENCH)), "-c", code], check=True, capture_output=True)
    said = json.loads((tmp_path / "out" / "x_eval_results.json").read_text())[
        "temporal_flickering"
    ][1]
    own = {Path(one["video_path"]).stem: one["video_results"] for one in said}
    rows = vbench_rows(
        [FilmFile(path) for path in sorted(folder.iterdir())], ["temporal_flickering"], tell=str
    )
    assert {row.clip: row.value for row in rows} == own and len(own) == 2
    assert rows[0].version == "0.1.5" and "transformers 4.33.2" in rows[0].detail


@real
def test_a_shot_scores_as_if_it_were_alone_and_a_cut_is_not_punished(film):
    rows = vbench_rows(
        [FilmFile(film, spans=[(0, 9), (9, 20)])],
        ["temporal_flickering"],
        ClipRules(whole=True),
        tell=str,
    )
    whole, first, second = (row.value for row in rows)
    frames = read_video(film)[0].astype(np.float32)
    # by other colours than VBench's reader
    steps = 1 - np.abs(np.diff(frames, axis=0)).mean((1, 2, 3)) / 255
    assert first == pytest.approx(steps[:8].mean(), abs=5e-3) and second == pytest.approx(
        steps[9:].mean(), abs=5e-3
    )
    assert whole < min(first, second) - 0.01, "the cut is in the film's score, and in no shot's"


@real
def test_a_dimension_whose_weights_are_rubbish_costs_the_others_nothing(film):
    fill("motion_smoothness")
    rows = {
        row.metric: row
        for row in vbench_rows(
            [FilmFile(film)], ["motion_smoothness", "temporal_flickering"], tell=str
        )
    }
    assert rows["motion_smoothness"].status == "absent" and rows[
        "motion_smoothness"
    ].detail.startswith("VBench failed: ")
    assert rows["temporal_flickering"].status == "ok"


@real
def test_the_installed_suite_has_the_published_size():
    jobs = suite()
    assert len(jobs) == 944 * 5 and {name for job in jobs for name in job.dimensions} == set(
        DIMENSIONS
    )
    assert all(len(job.name.encode()) < 255 and "/" not in job.name for job in jobs)
    assert len(suite(["human_action"])) == 500
