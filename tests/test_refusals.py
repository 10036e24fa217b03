"""What people type, name and have: text that looks like markup, places that cannot be written,
numbers without sense."""

import json
import os
import subprocess
import sys
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

import pytest
import typer

from cinelab.cli import commands as cli
from cinelab.cli import evaluation as cli_eval
from cinelab.config import from_dict, override
from cinelab.data.settings import DataConfig
from cinelab.errors import CinelabError, Failed
from cinelab.files import append_line, kept_in, read_lines, to_json, write_json
from cinelab.limits import PORT, SEED, check_number
from cinelab.printing import Plain, say, show_table
from cinelab.script.yaml_text import parse_settings
from cinelab.texts import SWEEP, read_yaml

ROOT = Path(__file__).parent.parent
ODD = "a [/x] [bold]b[/] :smile: 'cinelab[fp8]'"


@pytest.fixture
def told(monkeypatch, capsys):
    """The command line in this process: words -> (exit code, what stood on stderr)."""

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["cinelab", *words])
        with pytest.raises(SystemExit) as ended:
            cli.run_command()
        return ended.value.code, capsys.readouterr().err

    return run


# ---- text is text


def plain(width: int = 80, **more) -> Plain:
    return Plain(file=StringIO(), width=width, **more)


def test_no_console_reads_markup_emoji_or_control_characters():
    console = plain(200)
    console.print(ODD)
    say((ODD, "red"), "\x1b[31m \x07 \u202e \ud800", to=console)
    show_table([ODD], [[ODD], [(ODD, "green")]], title=ODD, console=console)
    said = console.file.getvalue()
    assert said.count(ODD) == 6
    assert (
        "\\x1b[31m" in said
        and "\\x07" in said
        and "\\u202e" in said
        and "\\ud800" in said
        and "\x1b" not in said
    )


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_what_is_to_be_copied_is_on_one_line_at_any_width(width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    command = "hf download openai/clip-vit-base-patch32 --local-dir '/a folder/of many/words'"
    console = plain(width)
    say(command, to=console)
    show_table(["what", "how"], [["clip", command]] * 2, console=console)
    lines = console.file.getvalue().splitlines()
    assert sum(command in line for line in lines) == 3 and "…" not in console.file.getvalue()


def test_a_table_that_nearly_fits_goes_without_its_lines(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    looks = []
    for words in (5, 7, 30):
        console = plain(40)
        show_table(["metric", "value", "by"], [["x" * 20, "0.5", "y" * words]], console=console)
        looks.append(console.file.getvalue())
    assert "│" in looks[0] and "│" not in looks[1] and "─" in looks[1] and "value: 0.5" in looks[2]
    assert all(max(map(len, look.splitlines())) <= 40 for look in looks)


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_table_that_is_too_wide_becomes_records_that_fit(width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    console = plain(width)
    names = [f"measure {i}" for i in range(10)]
    show_table(
        ["model", *names],
        [["toybox-base, 48 steps", *["0.123"] * 10], ["toybox-2step", *["12.3"] * 10]],
        console=console,
    )
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert all("\n".join(lines).count(text) == 2 or width == 200 for text in names), (
        "every record names its values"
    )
    assert any("toybox-base, 48 steps" in line for line in lines) and "…" not in "".join(lines)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["direct", "takes [final]/film.yaml"], "takes [final]/film.yaml cannot be read"),
        (["plan", "--policy", "[/b]"], "policy is '[/b]'"),
        (["sweep", "[/x].yaml"], "[/x].yaml cannot be read"),
        (["convert", "a[/b]"], "No target was given"),
        (["results", "[/x] = 1", "--folder", "."], "The question '[/x] = 1'"),
        (["[/x]"], "No such command '[/x]'"),
    ],
)
def test_a_refusal_says_what_was_typed(told, words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, stderr = told(*words)
    assert code == 2 and stderr.startswith(f"Error: {said}") and stderr.count("\n") == 1


def test_a_clip_that_failed_is_named_and_the_command_ends_with_1(capsys):
    from cinelab.metrics.rows import Row, failed

    with pytest.raises(typer.Exit) as ended:
        cli_eval.finish_rows(
            [Row("good", 1, "flicker", 0.5), failed("bad [/x]", "bad [/x].mp4 is broken")], None
        )
    assert (
        ended.value.exit_code == 1 and "failed: bad [/x].mp4 is broken" in capsys.readouterr().out
    )
    cli_eval.finish_rows([Row("good", 1, "flicker", 0.5)], None)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CinelabError("x"), 2),
        (Failed("x"), 1),
        (KeyboardInterrupt(), 130),
        (typer.Abort(), 130),
        (PermissionError(13, "Permission denied", "a"), 1),
        (None, 0),
    ],
)
def test_every_end_of_a_command_has_its_code(error, code, capsys):
    def run() -> None:
        if error:
            raise error

    assert cli.exit_code(run) == code
    assert capsys.readouterr().err.count("\n") == (code > 0)


# ---- numbers and settings


NUMBERS = [
    ("plan", "--chunks", "-5"),
    ("plan", "--chunk", "0"),
    ("plan", "--device", "nan"),
    ("plan", "--host", "inf"),
    ("plan", "--budget", "2"),
    ("plan", "--size", "16x99999984"),
    ("plan", "--chunks", "3000"),
    ("bench", "--chunks", "0"),
    ("bench", "--until", "20"),
    ("bench", "--steps", "0"),
    ("direct", "x.yaml", "--steps", "1,x"),
    ("race", "--many", "0"),
    ("race", "--chunks", "-1"),
    ("demo", "--port", "70000"),
    ("demo", "--visitors", "0"),
    ("demo", "--idle", "nan"),
    ("demo", "--chunks", "100000"),
    ("direct", "x.yaml", "--seed", "-1"),
    ("direct", "x.yaml", "--seed", str(SEED)),
    ("direct", "x.yaml", "--steps", "1000000"),
    ("direct", "x.yaml", "--budget", "9" * 30),
    ("score", "toybox-base", "--films", "1"),
    ("score", "x", "--seeds", "9" * 10),
    ("eval", "tasks", "x", "--films", "0"),
    ("eval", "videos", "x", "--tolerance", "-1"),
    ("eval", "vbench", "x", "--samples", "0"),
    ("sweep", "x", "--workers", "0"),
    ("train", "x", "--processes", "0"),
    ("train", "x", "--every", "0"),
    ("convert", "x", "y", "--shard-gib", "nan"),
    ("convert", "x", "y", "--lora-scale", "inf"),
    ("clips", "x", "y", "--share", "0/1"),
    ("plan", "--chunks", "1e3"),
]


def test_numbers_without_sense_are_refused_by_name(told):
    for words in NUMBERS:
        code, said = told(*words)
        option = next(word for word in reversed(words) if word.startswith("--"))
        assert (
            code == 2 and said.startswith("Error: ") and option in said and said.count("\n") == 1
        ), (words, said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": [480]}, "Setting 'size' is .480., but a list of 2 values"),
        ({"size": "480x832"}, "a list of 2 values"),
        ({"size": [480, 832, 3]}, "a list of 2 values"),
        ({"size": [480, "x"]}, r"'size\[1\]' is 'x', but a int"),
        ({"size": 5}, "a list"),
        ({"fps": float("nan")}, "a finite number"),
        ({"fps": 1e9}, "from 0.001 to 1000"),
        ({"fps": True}, "a float"),
        ({"chunk": 0}, "Setting 'chunk' is 0"),
        ({"group": 2**70}, "2\\*\\*63"),
        ({"cuts": ["given"]}, "a str"),
        ({"bf16": 1}, "a bool"),
    ],
)
def test_a_setting_of_the_wrong_shape_is_refused_by_name(change, said):
    with pytest.raises(CinelabError, match=said):
        override(DataConfig(), change)


@pytest.mark.parametrize(
    "values",
    [
        None,
        [],
        5,
        "x",
        {"kind": "films"},
        {"kind": None, "path": "x"},
        {"kind": "films", "path": 5},
    ],
)
def test_what_is_no_mapping_or_lacks_a_field_is_refused(values):
    from cinelab.jobs.job import Data

    with pytest.raises(CinelabError, match="Setting"):
        from_dict(Data, values)


def test_an_optional_setting_is_none_or_of_its_type():
    from cinelab.jobs.job import Job

    job = {"stage": "bidirectional", "run": "r", "store": {"kind": "noise", "path": "1x1x1"}}
    assert from_dict(Job, job | {"export": None}).export is None
    for wrong in (
        {"export": 5},
        {"init": 5},
        {"lora": {"rank": "x"}, "init": "a"},
        {"lora": 3},
        {"changes": [1]},
        {"seed": -1},
    ):
        with pytest.raises(CinelabError, match=f"Setting '{next(iter(wrong))}"):
            from_dict(Job, job | wrong)


def test_settings_on_the_command_line_are_yaml_with_powers_of_ten():
    assert parse_settings(["fps=1e1", "size=[48, 64]", "cuts=given"]) == {
        "fps": 10.0,
        "size": [48, 64],
        "cuts": "given",
    }
    for wrong, said in (
        (["fps=[1"], "--set fps is '.1'"),
        (["fps"], "name=value"),
        (["=1"], "name=value"),
        (["a=1", "a=2"], "twice"),
        (["a={{}: 1}"], "cannot be read"),
        (["a=" + "[" * 1200], "cannot be read"),
    ):
        with pytest.raises(CinelabError, match=said):
            parse_settings(wrong)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
    for old, new in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "unfold to more than"),
        ("a: 1\na: 2\n", "'a' is given twice"),
        ("[" * 3000, "too deeply"),
        ("a: [1", "not valid YAML"),
        ("a: &a [*a]", "unfold to more than"),
    ],
)
def test_a_yaml_file_that_cannot_be_meant_is_one_sentence(tmp_path, text, said):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(CinelabError, match=said):
        read_yaml(tmp_path / "x.yaml", SWEEP)


def test_limits_agree_with_each_other():
    from cinelab.lab.desk.hosting import DemoLimits
    from cinelab.limits import CHUNKS, DIRECTED, LATENTS, SECONDS, SHOTS, STEPS
    from cinelab.script import fields, screenplay

    assert (
        (fields.MAX_SHOTS, fields.MAX_SECONDS) == (SHOTS, SECONDS)
        and CHUNKS == LATENTS
        and 2 * DIRECTED <= SHOTS
    )
    screenplay.Screenplay("t", [screenplay.Shot("x", SECONDS, steps=STEPS)] * (2 * DIRECTED))
    with pytest.raises(CinelabError, match="chunks is 4001"):
        DemoLimits(chunks=CHUNKS + 1)
    with pytest.raises(CinelabError, match=f"port is {PORT + 1}"):
        check_number("port", PORT + 1, 0, PORT)


# ---- JSON that everybody reads


def strict(text: str):
    def no(word: str):
        raise ValueError(word)

    return json.loads(text, parse_constant=no)


def test_no_file_holds_what_json_does_not_know(tmp_path):
    odd = {"a": [float("nan"), {"b": float("-inf")}], "c": 1.5}
    write_json(tmp_path / "a.json", odd)
    append_line(tmp_path / "a.jsonl", odd)
    plain = {"a": [None, {"b": None}], "c": 1.5}
    assert (
        strict((tmp_path / "a.json").read_text())
        == strict(to_json(odd))
        == read_lines(tmp_path / "a.jsonl")[0]
        == plain
    )


def test_a_log_keeps_its_bad_losses_and_is_json(tmp_path):
    from cinelab.runs import Run
    from cinelab.train.optim import Optim

    run = Run(tmp_path, Optim())
    run.log(step=0, loss=float("nan"))
    strict((tmp_path / "log.jsonl").read_text())
    assert run.rows[0]["step"] == 0 and run.rows[0]["loss"] != run.rows[0]["loss"]


def test_a_sweep_refuses_what_no_notebook_can_hold():
    from cinelab.lab.sweeps.grid import Sweep

    for grid, said in (
        ({"a": [1.0, float("inf")]}, r"grid.a\[1\] is inf"),
        ({"a": [{"b": [float("nan")]}]}, r"grid.a\[0\].b\[0\] is nan"),
    ):
        with pytest.raises(CinelabError, match=said):
            Sweep("s", "n", grid=grid)
    with pytest.raises(CinelabError, match="make 1000000000 cells"):
        Sweep("s", "n", grid={name: list(range(1000)) for name in "abc"})
    for seed in (-1, SEED, True):
        with pytest.raises(CinelabError, match="seeds holds"):
            Sweep("s", "n", seeds=[seed])


def test_a_kernels_nan_does_not_reach_the_notebook_file():
    from cinelab.lab.sweeps.notebook import _browsable

    text = '{"cells": [{"outputs": [{"data": {"application/json": NaN}}], "source": "x = 1"}]}'
    assert strict(_browsable(text))["cells"][0]["outputs"][0]["data"] == {"application/json": None}
    assert _browsable('{"source": "1"}') == '{"source": "1"}'


def test_a_line_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "log.jsonl"
    write = os.write
    append_line(path, {"n": 0})
    for room in range(12):
        left = [room]

        def full(handle: int, data: bytes, left=left) -> int:
            if not left[0]:
                raise OSError(28, "No space left on device")
            count = write(handle, data[: left[0]])
            left[0] -= count
            return count

        with monkeypatch.context() as patch, pytest.raises(Failed, match="no space left"):
            patch.setattr(os, "write", full)
            append_line(path, {"number": 12345})
        assert path.read_text() == '{"n": 0}\n'
    path.write_text('{"n": 0}\n{"n": 1, "hal')
    assert read_lines(path) == [{"n": 0}]
    append_line(path, {"n": 2})
    assert read_lines(path) == [{"n": 0}, {"n": 2}]


# ---- no home, no temporary folder, no locale, no folder


def test_where_things_are_kept_needs_no_home_that_is_not_asked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(
        Path,
        "expanduser",
        lambda path: (_ for _ in ()).throw(RuntimeError("no home")) if "~" in str(path) else path,
    )
    monkeypatch.setenv("CINELAB_WEIGHTS", str(tmp_path))
    assert kept_in("CINELAB_WEIGHTS", "cinelab", "weights") == tmp_path
    monkeypatch.delenv("CINELAB_WEIGHTS")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert kept_in("CINELAB_WEIGHTS", "cinelab", "weights") == Path("/cache/cinelab/weights")
    monkeypatch.delenv("XDG_CACHE_HOME")
    with pytest.raises(CinelabError, match="not known; name a folder in .CINELAB_WEIGHTS"):
        kept_in("CINELAB_WEIGHTS", "cinelab", "weights")


def test_judges_without_a_home_are_absent_and_say_what_to_do(monkeypatch):
    from cinelab.lab.doctor import examine
    from cinelab.metrics.external import environments as outside
    from cinelab.metrics.video import features

    def homeless(*_: object) -> Path:
        raise CinelabError("The home folder is not known; name a folder in $X.")

    monkeypatch.setattr(features, "kept_in", homeless)
    monkeypatch.setattr(outside, "kept_in", homeless)
    found = {finding.what: finding for finding in examine()}
    assert (
        found["clip weights"].remedy.endswith("name a folder in $X")
        and found["vbench environment"].ok is None
    )


def test_a_terminal_of_any_alphabet_gets_the_sentence():
    command = [sys.executable, "-m", "cinelab", "direct", "ü\U0001f600.yaml"]
    ascii_only = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        command,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "0"} | ascii_only,
    )
    assert (
        done.returncode == 2
        and done.stderr.startswith(b"Error: ")
        and b"Traceback" not in done.stderr
    )
    stream = TextIOWrapper(BytesIO(), encoding="ascii", errors="backslashreplace")
    show_table(["was"], [["häuschen"]], console=Plain(file=stream, width=80))
    stream.flush()
    assert b"h\\xe4uschen" in stream.buffer.getvalue()


def test_a_folder_that_is_gone_is_one_sentence(tmp_path):
    (tmp_path / "gone").mkdir()
    script = f"cd {tmp_path}/gone && rmdir ../gone && exec {sys.executable} -m cinelab plan"
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert (
        done.returncode == 2
        and "not there any more" in done.stderr
        and done.stderr.count("\n") == 1
    )
