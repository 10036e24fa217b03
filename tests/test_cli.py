"""The command line as a user meets it: bad input is one sentence and a non-zero exit, and nothing
is lost."""

import errno
import json
import os
import subprocess
import sys
import warnings
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cinelab import lab
from cinelab.cli import commands as cli
from cinelab.errors import CinelabError
from cinelab.lab.doctor import examine

ROOT = Path(__file__).parent.parent
PLAY = """title: Two
shots:
  - {prompt: wide shot of a red cat that stands still in the beach by day, seconds: 0.5}
  - {prompt: close shot of a red cat that waves in the beach by day, seconds: 0.5}
"""


def cinelab(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """What the command does and says, in this process, which has torch already: a process of its
    own takes two seconds more."""
    told = StringIO()
    complained = StringIO()
    with (
        chdir(cwd),
        redirect_stdout(told),
        redirect_stderr(complained),
        warnings.catch_warnings(),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "argv", ["cinelab", *words])
        with pytest.raises(SystemExit) as ended:
            cli.run_command()
    return subprocess.CompletedProcess(
        words, ended.value.code, told.getvalue(), complained.getvalue()
    )


def process(*words: str) -> subprocess.CompletedProcess:
    """The real command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "cinelab", *words], cwd=ROOT, capture_output=True, text=True
    )


@pytest.fixture
def play(tmp_path) -> Path:
    path = tmp_path / "two.yaml"
    path.write_text(PLAY)
    return path


def test_direct_makes_everything_it_promises(play, tmp_path):
    done = process("direct", str(play), "-o", str(tmp_path / "out"), "--steps", "2")
    assert done.returncode == 0, done.stderr
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert made >= {
        "film.mp4",
        "storyboard.png",
        "routing.html",
        "metrics.parquet",
        "screenplay.yaml",
        "film.json",
    }
    again = process("direct", str(play), "-o", str(tmp_path / "out"), "--steps", "2")
    assert again.returncode == 2 and "already holds a film" in again.stderr


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seconds: 0.5", "seconds: -1", "seconds"),
        ("seconds: 0.5", "secnds: 1", "secnds"),
        ("title: Two", "title: ''", "title"),
        ("shots:", "shot:", "shot"),
    ],
)
def test_a_bad_screenplay_is_one_sentence(play, tmp_path, old, new, said):
    play.write_text(PLAY.replace(old, new, 1))
    done = cinelab("direct", str(play), "-o", str(tmp_path / "out"))
    assert done.returncode == 2
    assert said in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("Error:") == 1
    assert not (tmp_path / "out").exists(), (
        "nothing is written for a screenplay that cannot be read"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model", "toybox-bse"), "toybox-base"),
        (("--policy", "camra"), "camr"),
        (("--budget", "0"), "budget"),
        (("--steps", "0"), "steps"),
    ],
)
def test_bad_options_name_the_remedy(play, tmp_path, words, said):
    done = cinelab("direct", str(play), "-o", str(tmp_path / "out"), *words)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_unknown_words_are_named_with_their_neighbour(play, tmp_path):
    play.write_text(PLAY.replace("red cat", "red catt", 1))
    done = cinelab("direct", str(play), "-o", str(tmp_path / "out"), "--steps", "1")
    assert done.returncode == 0
    assert "catt" in done.stderr and "cat" in done.stderr.replace("catt", "")


def test_a_missing_file_is_one_sentence(tmp_path):
    done = cinelab("direct", str(tmp_path / "no.yaml"))
    assert done.returncode == 2 and "no.yaml" in done.stderr and "Traceback" not in done.stderr


def test_an_empty_folder_of_screenplays_is_a_sentence(tmp_path):
    (tmp_path / "experiments/screenplays").mkdir(parents=True)
    done = cinelab("film", cwd=tmp_path)
    assert done.returncode == 2 and "holds no screenplay; name a file" in done.stderr


def test_seeds_must_be_numbers():
    done = cinelab("score", "toybox-base", "--seeds", "a,b")
    assert done.returncode == 2 and "0,1,2" in done.stderr


def test_doctor_names_every_feature():
    result = CliRunner().invoke(cli.app, ["doctor"])
    assert result.exit_code == 0, result.output
    for word in (
        "torch",
        "GPU",
        "toybox-base",
        "video encoder",
        "papermill",
        "kernel flash3",
        "peft",
    ):
        assert word in result.output
    remedies = [
        finding.remedy for finding in examine() if not finding.ok and "cinelab[" in finding.remedy
    ]
    # what stands in brackets is no markup
    assert all(remedy.split()[-1] in result.output for remedy in remedies)


def test_doctor_reports_what_is_missing(monkeypatch):
    monkeypatch.setattr(lab.doctor, "shipped", lambda: ["toybox-codec"])
    missing = [finding for finding in examine() if finding.ok is False]
    assert {"toybox-base", "toybox-2step", "toybox-recogniser"} <= {
        finding.what for finding in missing
    }
    assert all(finding.remedy for finding in missing)


def test_bench_reports_every_policy(tmp_path):
    done = cinelab(
        "bench",
        "--chunks",
        "6",
        "--until",
        "26",
        "--steps",
        "1",
        "-o",
        str(tmp_path / "bench.json"),
    )
    assert done.returncode == 0, done.stderr
    rows = {row["policy"]: row for row in json.loads((tmp_path / "bench.json").read_text())["rows"]}
    assert set(rows) == {"full", "window", "sink", "camr"}
    assert all(
        row["frames/s"] > 0 and row["first frame s"] > 0 and row["peak GiB"] > 0
        for row in rows.values()
    )


def test_a_race_times_students_beside_the_base(tmp_path):
    done = cinelab(
        "race", "toybox-2step", "--chunks", "6", "--many", "3", "-o", str(tmp_path / "race.json")
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "race.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["toybox-base, 3 steps", "toybox-base", "toybox-2step"]
    assert all(row["low"] <= row["times the first"] <= row["high"] for row in rows)
    assert rows[0]["times the first"] == 1.0 and all(row["frames/s"] > 0 for row in rows)


def test_no_encoder_is_one_sentence(play, tmp_path, monkeypatch):
    from cinelab.stream import video

    def none() -> str:
        raise CinelabError("No video encoder works here.")

    monkeypatch.setattr(video, "pick_encoder", none)
    result = CliRunner().invoke(
        cli.app, ["direct", str(play), "-o", str(tmp_path / "out"), "--steps", "1"]
    )
    assert isinstance(result.exception, CinelabError)


def test_tasks_are_written_answered_and_scored(tmp_path):
    from cinelab.lab.studies.tasks import answer_tasks
    from cinelab.metrics.card import CardConfig
    from cinelab.world.worlds import world_of

    done = CliRunner().invoke(
        cli.app, ["eval", "tasks", str(tmp_path / "tasks"), "--seeds", "0", "--films", "2"]
    )
    assert done.exit_code == 0 and "8 tasks" in done.output
    answer_tasks(
        tmp_path / "tasks",
        lambda plan, given: world_of(plan).render(plan).frames,
        CardConfig(seeds=(0,), films=2),
        8.0,
        ["films/s0-f00"],
    )
    words = [
        "eval",
        "videos",
        str(tmp_path / "tasks"),
        "--backends",
        "toybox,dino",
        "-o",
        str(tmp_path / "rows.parquet"),
    ]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0 and "text alignment" in done.output and "not measured" in done.output
    assert (tmp_path / "rows.parquet").exists()
    (tmp_path / "tasks" / "films" / "s0-f01.mp4").write_bytes(b"x")
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 1 and "damaged" in done.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("eval", "tasks", "t", "--seeds", "a"), "--seeds is 'a'"),
        (("eval", "videos", "nowhere"), "nowhere: no such file"),
        (("eval", "videos", "experiments"), "holds no video"),
        (("eval", "setup", "vbnch"), "vbnch"),
        (("results", "--folder", "nowhere"), "nowhere: no such folder"),
        (("report", "nowhere"), "nowhere: no such folder"),
        (
            ("sweep", "experiments/memory.yaml", "--dry-run", "--option", "time"),
            "--option is 'time'; give KEY=VALUE",
        ),
        (("sweep", "experiments/memory.yaml", "--dry-run", "--engine", "ray"), "engine is 'ray'"),
    ],
)
def test_evaluation_and_results_refuse_in_one_sentence(words, said):
    done = cinelab(*words)
    assert (
        done.returncode == 2
        and done.stderr.startswith("Error:")
        and said in done.stderr
        and done.stderr.count("\n") == 1
    )


def test_the_shipped_cards_are_compared_from_any_folder(tmp_path):
    """The cards that go with the package are read where the folder of the user has none."""
    done = cinelab("compare", "toybox-base", "toybox-2step", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == cinelab("compare", "toybox-base", "toybox-2step").stdout
    named = cinelab("compare", "toybox-base", "--folder", "cards", cwd=tmp_path)
    assert named.returncode == 2 and "cinelab score toybox-base" in named.stderr


def test_a_paragraph_of_a_help_text_has_no_line_break():
    """typer would keep the breaks of a docstring in the list of commands."""
    for app in (cli.app, cli.evaluation.app, cli.data.app):
        helps = {command.name: command.help for command in app.registered_commands}
        assert helps
        for name, text in helps.items():
            assert text and "\n" not in text.replace("\n\n", ""), name


def test_a_question_about_no_column_is_one_sentence(tmp_path):
    done = cinelab("results", "polcy = 1", "--folder", str(tmp_path))
    assert done.returncode == 2 and "polcy" in done.stderr and "--columns" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            ["--place", "host", "--device", "80", "--host", "500"],
            0,
            "It fits 80 GiB of device memory and 500 GiB of host memory.",
        ),
        (
            ["--chunks", "200", "--place", "host", "--device", "80"],
            0,
            "Of host memory it takes 160.7 GiB",
        ),
        (["--chunks", "200", "--place", "host", "--host", "80"], 2, "pack it (--packing fp8,"),
        (["--device", "80", "--host", "500"], 2, "keep the history in host memory"),
        (["--policy", "full", "--device", "140", "--host", "500"], 2, "most of it is stored"),
        (["--model", "wan-14b", "--chunks", "7", "--device", "80"], 0, "41.3 GiB too much"),
        (["--place", "host", "--slots", "8", "--device", "24"], 0, "RTX 4090 │ 22.1 │ fits"),
        (["--place", "host", "--device", "24"], 0, "0.1 GiB too much"),
        (["--codec", "cinepak"], 2, "'cinepak'; use"),
        (["--size", "480x830"], 2, "multiples of 16"),
        (["--size", "big"], 2, "height x width"),
        (["--model", "nowhere"], 2, "nowhere"),
        (["--place", "moon"], 2, "device, host"),
    ],
)
def test_a_plan_says_what_a_film_takes(words, code, said):
    done = cinelab("plan", *words)
    assert done.returncode == code and said in " ".join((done.stdout + done.stderr).split())


def test_videos_become_clips_and_what_is_left_out_is_said(tmp_path):
    from cinelab.lab.training.video_data import sample_videos

    videos = str(sample_videos(tmp_path / "videos", 1, 10))
    store = str(tmp_path / "store")
    done = cinelab("clips", videos, store)
    assert done.returncode == 1 and "left out:" in done.stdout and "broken.mp4" in done.stdout, (
        done.stderr
    )
    (tmp_path / "videos" / "broken.mp4").unlink()
    store = str(tmp_path / "whole")
    assert cinelab("clips", videos, store).returncode == 0
    assert "every shard is whole" in cinelab("clips", videos, store, "--verify").stdout
    assert (
        "was built with shortest=2" in cinelab("clips", videos, store, "--set", "shortest=3").stderr
    )
    shard = next(Path(store).glob("000000-*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    assert cinelab("clips", videos, store, "--verify").returncode == 1
    assert (
        cinelab("clips", videos, store).returncode == 0
        and "whole" in cinelab("clips", videos, store, "--verify").stdout
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "fps"], "name=value"),
        (["--set", "cuts=best"], "cuts is 'best'"),
        (["--share", "3/2"], "mine/of"),
        (["--share", f"1/{10**300}"], "of 1024 at most"),
        (["--share", "1/\uff12"], "mine/of"),
        (["--model", "nowhere/at/all"], "no such folder"),
    ],
)
def test_bad_options_of_clips_are_one_sentence(tmp_path, words, said):
    with pytest.raises(CinelabError, match=said):
        CliRunner().invoke(
            cli.app,
            ["clips", str(tmp_path / "none"), str(tmp_path / "store"), *words],
            catch_exceptions=False,
        )


def test_words_that_are_not_utf8_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cinelab", "results", os.fsdecode(b"a = \xff")])
    assert cli.exit_code(lambda: pytest.fail("something was run")) == 2
    assert "is not UTF-8; type it again" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x"),
    ],
)
def test_a_full_disk_under_the_output_is_one_sentence(error, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cinelab"])

    def run():
        raise error

    assert cli.exit_code(run) == 1
    assert (
        "no space left on device" in (said := capsys.readouterr().err)
        and "free some space or choose another folder." in said
    )
