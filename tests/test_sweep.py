"""Sweeps: what a file may hold, which cells it means, and that nothing is lost, doubled or
mixed."""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest
from rich.console import Console

from cinelab.errors import CinelabError
from cinelab.lab.reports.report_origin import made_by
from cinelab.lab.sweeps import notebook as notebook_module
from cinelab.lab.sweeps.grid import Sweep, differing, expand, json_value, load_sweep
from cinelab.lab.sweeps.notebook import HOST, check_parameters, declared, execute
from cinelab.lab.sweeps.progress_table import ProgressTable, spoken_memory
from cinelab.lab.sweeps.server import LocalServer
from cinelab.lab.sweeps.sweep import record, run

PARAMETERS = (
    'seed: int = 0\nrun_dir: str = ""  # where to write\nsteps: int | None = 1\nmode = "fine"'
)
SLEEPER = """
    import time, pathlib
    folder = pathlib.Path(run_dir)
    with open(folder / "began.txt", "a") as file:
        print(seed, file=file)
    while seed and not pathlib.Path("go").exists():
        time.sleep(0.05)
    with open(folder / "ended.txt", "a") as file:
        print(seed, file=file)
"""
TROUBLE = """
    import os, pathlib, signal
    fixed = pathlib.Path("fixed").exists()
    with open(pathlib.Path(run_dir) / "runs.txt", "a") as file:
        print(mode, steps, seed, file=file)
    if mode == "raises" and not fixed:
        raise RuntimeError("the loss is nan\\nat step 3")
    if mode == "kernel dies" and not fixed:
        os._exit(1)
    if mode == "killed" and not fixed:
        os.kill(os.getppid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "experiments").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def notebook(*sources, parameters=PARAMETERS, name="work.ipynb"):
    lines = [source.strip().replace("\n    ", "\n") for source in sources]
    cells = [nbformat.v4.new_markdown_cell("# Work")]
    if parameters is not None:
        cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    cells += [nbformat.v4.new_code_cell(source) for source in lines]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), name)
    return Path(name)


def sweep_file(text):
    path = Path("experiments/toy.yaml")
    path.write_text(text)
    return path


def names(cells):
    return [cell.name for cell in cells]


def lines(cell, name, results="results"):
    return (cell.folder(results) / name).read_text().splitlines()


def test_grid_times_seeds_in_the_order_of_the_file():
    notebook()
    path = sweep_file(
        "notebook: work.ipynb\nbase: {lr: 1e-3}\nseeds: [0, 1]\n"
        "grid: {steps: [10, 20], mode: [sink, a/b]}"
    )
    cells = expand(path)
    assert [tuple(cell.parameters.values()) for cell in cells[:3]] == [
        (0.001, 10, "sink", 0),
        (0.001, 10, "sink", 1),
        (0.001, 10, "a/b", 0),
    ]
    assert names(cells)[:2] == ["mode=sink,steps=10,seed=0", "mode=sink,steps=10,seed=1"]
    assert cells[2].name.startswith("mode=a-b-") and len(set(names(cells))) == 8
    assert cells[0].folder() == Path("results/toy/mode=sink,steps=10,seed=0")
    assert cells[0].notebook == Path("work.ipynb").resolve()


def test_names_are_safe_short_unique_and_do_not_move_when_the_grid_grows():
    values = [
        1,
        1.0,
        "1",
        "1e3",
        True,
        "true",
        None,
        "null",
        [1, 2],
        {"a": 1},
        "a/b",
        "a b",
        "",
        -1,
    ]
    values += ["x" * 300, "x" * 301, "ein Häuschen"]
    wide = {f"parameter_{i}": ["x" * 20, "y"] for i in range(12)}
    small = names(expand(Sweep("s", "n", grid={"v": values})))
    large = names(expand(Sweep("s", "n", grid={"v": [*values, 3]})))
    long = names(expand(Sweep("s", "n", grid=wide)))
    assert large[:-1] == small
    for group in (small, long):
        assert len(set(group)) == len(group) and max(map(len, group)) <= 121
        assert not set("/\\ \"'[]{}:\n") & set("".join(group))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty; a sweep is a mapping of notebook, base, grid, seeds"),
        ("- 1", "holds [1]"),
        ("notebook: work.ipynb\nseeds: [0\ngrid: {}", "line 3: not valid YAML"),
        ("notebook: work.ipynb\nsedes: [0]", "unknown key 'sedes'; a sweep holds notebook, base"),
        ("seeds: [0]", "notebook is missing; add one, such as notebook: notebooks/train.ipynb"),
        ("notebook: work.ipynb", "seeds is missing; add one, such as seeds: [0, 1, 2]"),
        ("notebook: wrok.ipynb\nseeds: [0]", "notebook is 'wrok.ipynb', but there is no file"),
        (
            "notebook: notebooks/32_evaluate.ipynb\nseeds: [0]",
            "evaluate.ipynb; it is called 60_evaluate.ipynb now.",
        ),
        ("notebook: work.ipynb\nseeds: [0, yes]", "seeds holds True; give whole numbers"),
        ("notebook: work.ipynb\nseeds: 3", "seeds is 3; give a list"),
        ("notebook: work.ipynb\nseeds: [1, 1]", "seeds holds 1 twice"),
        ("notebook: work.ipynb\nseeds: [0]\ngrid: {steps: []}", "grid.steps is []; give a list"),
        ("notebook: work.ipynb\nseeds: [0]\ngrid: {steps: 3}", "grid.steps is 3; give a list"),
        ("notebook: work.ipynb\nseeds: [0]\nbase: [1]", "base is [1]; give names with values"),
        ("notebook: work.ipynb\nseeds: [0]\nbase: {seed: 1}", "'seed' in base or grid is given by"),
        ("notebook: work.ipynb\nseeds: [0]\nbase: {a-b: 1}", "'a-b' in base or grid is no name"),
        ("notebook: work.ipynb\nseeds: [0]\nbase: {a: 2026-01-31}", "base.a is datetime.date"),
        ("notebook: work.ipynb\nseeds: [0]\nbase: {a: 1}\ngrid: {a: [1]}", "in base and in grid"),
    ],
)
def test_a_bad_file_is_one_sentence(text, words):
    notebook()
    path = sweep_file(text)
    with pytest.raises(CinelabError) as error:
        load_sweep(path)
    message = str(error.value)
    assert words in message and str(path) in message and "\n" not in message


def test_missing_and_binary_files_are_refused():
    with pytest.raises(CinelabError, match="nowhere.yaml cannot be read .No such file"):
        load_sweep("nowhere.yaml")
    Path("film.yaml").write_bytes(b"\x00\x89PNG\xff")
    with pytest.raises(CinelabError, match="film.yaml:1: "):
        load_sweep("film.yaml")


def test_values_become_plain_json_types():
    mixed = {"a": np.float32(0.5), "b": (1, np.int64(2)), "c": Path("x/y"), "d": np.arange(2)}
    assert json_value(mixed, "base") == {"a": 0.5, "b": [1, 2], "c": "x/y", "d": [0, 1]}
    assert type(json_value(np.float64(1), "base")) is float
    with pytest.raises(CinelabError, match=r"base.a\[1\] is \{1\} \(set\)"):
        json_value({"a": [0, {1}]}, "base")


def test_undeclared_parameters_are_refused_before_anything_runs():
    path = notebook()
    assert declared(path) == ["seed", "run_dir", "steps", "mode"]
    with pytest.raises(CinelabError, match="declares no parameter 'step'; it declares steps"):
        run(Sweep("s", path, grid={"step": [1]}))
    notebook(parameters="seed = 0", name="homeless.ipynb")
    with pytest.raises(CinelabError, match="declares no parameter 'run_dir'"):
        run(Sweep("s", "homeless.ipynb"))
    with pytest.raises(CinelabError, match="no cell tagged 'parameters'"):
        check_parameters(notebook(parameters=None, name="none.ipynb"), {})
    with pytest.raises(CinelabError, match="line 1: .*keep to plain assignments"):
        check_parameters(notebook(parameters="!ls", name="magic.ipynb"), {})
    Path("text.ipynb").write_text("hello")
    with pytest.raises(CinelabError, match="is no notebook"):
        execute("text.ipynb", "out")
    assert not Path("results").exists() and not Path("out").exists()


def test_dry_run_only_and_smoke(capsys):
    path = notebook(parameters=PARAMETERS + "\nsmoke: bool = False")
    summary = run(Sweep("s", path, seeds=[0, 1, 12]), only="seed=1", dry_run=True, smoke=True)
    assert names(summary.planned) == ["seed=1", "seed=12"] and summary.ok
    assert {cell.sweep for cell in summary.planned} == {"s-smoke"}
    assert summary.planned[0].parameters == {"seed": 1, "smoke": True}
    assert "planned seed=12" in capsys.readouterr().out
    with pytest.raises(CinelabError, match="No cell's name holds 'seed=7'"):
        run(Sweep("s", path), only="seed=7")
    assert not Path("results").exists()


def test_a_sweep_records_what_was_run_and_the_report_says_it():
    notebook()
    path = Path("my_sweep.yaml")
    path.write_text("notebook: work.ipynb\n")
    folder = Path("results/my_sweep")
    folder.mkdir(parents=True)
    assert "not recorded" in made_by(folder)
    for only in (None, None, "seed=1"):  # the same command again is no other one
        record(folder, path, only)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    command = f"cinelab sweep my_sweep.yaml (file {digest})"
    assert made_by(folder) == f"{command}, {command.replace('.yaml', '.yaml --only seed=1')}"
    record(folder, Sweep("s", Path("work.ipynb")))
    assert made_by(folder).endswith("from Python")


def test_execute_shows_progress_and_passes_typed_values(capfd):
    path = notebook(
        "# look at the values\nprint('hello')",
        "import json, pathlib\nvalues = [seed, steps, mode, rate, flag]",
        "(pathlib.Path(run_dir) / 'values.json').write_text(json.dumps([values, str(type(rate))]))",
        parameters=PARAMETERS + "\nrate: float = 0.0\nflag: bool = False",
    )
    given = {"steps": None, "mode": ["a", 1.5, None], "rate": np.float32(0.25), "flag": True}
    output = execute(path, Path("out {x}"), given)
    assert output == Path("out {x}/notebook.ipynb").resolve()
    assert nbformat.read(output, as_version=4).metadata.papermill.exception is None
    values = json.loads(Path("out {x}/values.json").read_text())
    assert values == [[0, None, ["a", 1.5, None], 0.25, True], "<class 'float'>"]
    printed = capfd.readouterr()
    assert (
        "[1/5] parameters\n[3/5] look at the values\nhello\n[4/5] Work\n" in printed.out
        and "[5/5]" not in printed.out
    )
    assert "TCP" not in printed.err and "unknown parameter" not in printed.err
    assert not Path("out {x}/.lock").exists()


def test_a_failing_notebook_is_kept_and_said_in_one_sentence():
    path = notebook("print(1)", 'raise ValueError("too few\\nframes")')
    with pytest.raises(CinelabError, match=r"^work.ipynb, cell 4: ValueError: too few \(see .*\)$"):
        execute(path, Path("out"), {"steps": 2})
    assert nbformat.read("out/notebook.ipynb", as_version=4).metadata.papermill.exception is True


def test_a_sweep_survives_every_failure_and_skips_what_is_done(capsys):
    grid = {"mode": ["raises", "kernel dies", "killed", "fine"]}
    sweep = Sweep("s", notebook(TROUBLE), base={"steps": None}, grid=grid, seeds=[3])
    first = run(sweep, workers=2)
    assert [cell.parameters["mode"] for cell in first.done] == ["fine"] and not first.ok
    told = {cell.parameters["mode"]: why for cell, why in first.failed}
    assert "work.ipynb, cell 3: RuntimeError: the loss is nan" in told["raises"]
    assert "cell 3: DeadKernelError" in told["kernel dies"] and "signal 9" in told["killed"]
    assert "failed  mode=raises,seed=3: work.ipynb" in capsys.readouterr().out
    folders = {cell.parameters["mode"]: cell.folder() for cell in expand(sweep)}
    assert "loss is nan" in (folders["raises"] / "notebook.ipynb").read_text()
    assert not (folders["raises"] / "done.json").exists()

    Path("fixed").touch()
    second = run(sweep, workers=3)
    assert second.ok and len(second.done) == 3 and second.skipped == first.done
    counts = {cell.parameters["mode"]: len(lines(cell, "runs.txt")) for cell in expand(sweep)}
    assert counts == {"raises": 2, "kernel dies": 2, "killed": 2, "fine": 1}
    assert (folders["fine"] / "runs.txt").read_text() == "fine None 3\n"
    record = json.loads((folders["fine"] / "done.json").read_text())
    assert record["parameters"] == {"steps": None, "mode": "fine", "seed": 3}
    assert record["parameters"] == json.loads((folders["fine"] / "config.json").read_text())
    assert record["seconds"] > 0 and record["peak_memory_mb"] > 10 and record["hardware"]["cores"]
    assert run(sweep, dry_run=True).planned == []
    assert record["schema"] == 1 and record["notebook"] == "work.ipynb"


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_sweep_leaves_no_process_and_ends_as_an_undisturbed_one(here, how):
    sweep = Sweep("s", notebook(SLEEPER), seeds=[0, 1])  # seed 1 waits for the file `go`
    code = (
        "from cinelab.lab.sweeps.sweep import Sweep, run; "
        "run(Sweep('s', 'work.ipynb', seeds=[0, 1]), 2)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    first, second = (cell.folder() for cell in expand(sweep))
    wait_for(lambda: (first / "done.json").exists() and (second / "began.txt").exists())
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2  # the waiting cell and its kernel
    process.send_signal(how)
    assert process.wait(30) != 0
    wait_for(lambda: not any(p.is_running() and p.status() != "zombie" for p in family), 10)
    assert not (second / "done.json").exists()

    Path("go").touch()
    summary = run(sweep, workers=2)
    assert (names(summary.skipped), names(summary.done)) == (["seed=0"], ["seed=1"])
    assert (first / "began.txt").read_text() == (first / "ended.txt").read_text() == "0\n"
    assert (second / "began.txt").read_text() == "1\n1\n"
    assert (second / "ended.txt").read_text() == "1\n"


def test_one_writer_in_a_folder(monkeypatch):
    monkeypatch.setattr("cinelab.outputs.PATIENCE", 0.2)
    path = notebook()
    folder = Path("out")
    with notebook_module.writing(folder):
        with pytest.raises(CinelabError, match=f"by process {os.getpid()} on {HOST}; let it"):
            execute(path, folder)
    assert not list(folder.iterdir())
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        (folder / ".lock").write_text(f"99999999 {other.pid}")  # such as a kernel that lives on
        with pytest.raises(CinelabError, match=f"process {other.pid}"):
            execute(path, folder)
        other.stdin.close()
    with notebook_module.writing(folder):  # a dead owner's lock is taken over
        assert str(os.getpid()) in (folder / ".lock").read_text()
    (folder / ".lock").write_text(f"host=elsewhere {os.getppid()}")
    with notebook_module.writing(folder):  # of another host's processes only the lock itself tells
        assert f"host={HOST} {os.getpid()}" in (folder / ".lock").read_text()
    (folder / ".lock").write_text(str(os.getppid()))
    os.utime(folder / ".lock", (0, 0))
    with notebook_module.writing(
        folder
    ):  # a process that is younger than the lock is not its owner
        pass
    assert not (folder / ".lock").exists()


BOOKKEEPER = """
    import pathlib
    with open(pathlib.Path(run_dir).parents[1] / "ended.txt", "a") as file:
        print(pathlib.Path(run_dir).name, file=file)
"""


def finished_cell(**changes):
    """A sweep of one cell that another run has finished, with `changes` made to its done.json."""
    sweep = Sweep("s", notebook("pathlib_is_not_imported"), base={"steps": 2})
    cell = expand(sweep)[0]
    done = {"parameters": cell.parameters, "notebook": "work.ipynb", "seconds": 1.0} | changes
    cell.folder().mkdir(parents=True)
    text = json.dumps({key: value for key, value in done.items() if value is not None})
    (cell.folder() / "done.json").write_text(text)
    return sweep, cell.folder() / "done.json", text


def test_a_result_without_a_schema_is_of_the_first_one():
    for schema in (None, 1):
        sweep, done, text = finished_cell(schema=schema)
        assert len(run(sweep).skipped) == 1 and done.read_text() == text
        done.unlink(), done.parent.rmdir()


def test_a_result_of_a_notebook_under_its_earlier_name_is_done():
    work = notebook("pathlib_is_not_imported", name="60_evaluate.ipynb")
    cell = expand(Sweep("s", work))[0]
    cell.folder().mkdir(parents=True)
    done = {"parameters": cell.parameters, "notebook": "32_evaluate.ipynb", "seconds": 1.0}
    (cell.folder() / "done.json").write_text(json.dumps(done))
    assert len(run(Sweep("s", work)).skipped) == 1


def test_a_result_with_an_earlier_parameter_is_done():
    work = notebook("pathlib_is_not_imported", parameters="seed = 0\nmax_distance = ''")
    sweep = Sweep("s", work, base={"max_distance": "trained"})
    cell = expand(sweep)[0]
    cell.folder().mkdir(parents=True)
    old = {"parameters": {"reach": "clamp", "seed": 0}, "notebook": "work.ipynb", "seconds": 1.0}
    (cell.folder() / "done.json").write_text(json.dumps(old))
    assert cell.finished(cell.folder())


def test_a_parameter_and_a_sweep_under_earlier_names_are_answered():
    with pytest.raises(
        CinelabError, match="reach.yaml is not here; it is called max_distance.yaml"
    ):
        load_sweep(Path("experiments/reach.yaml"))
    path = notebook(parameters="run_dir = ''\nchanges = {}", name="50_wan_film.ipynb")
    with pytest.raises(CinelabError, match="'chunk'; it is an entry of changes now: changes = "):
        check_parameters(path, {"chunk": 3})


def test_a_notebook_that_has_another_name_now_is_answered_with_it():
    with pytest.raises(CinelabError, match="Cannot read .*13_dmd.ipynb.*called 16_dmd.ipynb now"):
        declared(Path("13_dmd.ipynb"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": 2}, "has schema 2, this cinelab knows 1; update cinelab or rename the sweep"),
        ({"schema": "new"}, "has schema 'new', this cinelab knows 1"),
        ({"notebook": None}, "holds no 'notebook'; remove that folder or rename the sweep"),
        ({"parameters": None}, "holds no 'parameters'"),
        (
            {"notebook": "old.ipynb"},
            'where notebook is "old.ipynb", the sweep asks for "work.ipynb"',
        ),
        ({"parameters": {"steps": 1, "seed": 0}}, "where steps is 1, the sweep asks for 2; remove"),
        ({"parameters": {"seed": 0}}, "where steps is absent, the sweep asks for 2"),
        (
            {"parameters": {"steps": 2, "seed": 0, "mode": "a"}},
            'where mode is "a", the sweep asks for absent',
        ),
        (
            {"parameters": {"steps": {"a": {"b": 1}}, "seed": 0}},
            'where steps is {"a": {"b": 1}}, the',
        ),
    ],
)
def test_the_result_of_another_cell_is_refused_and_kept(changes, words):
    sweep, done, text = finished_cell(**changes)
    for dry_run in (True, False):
        summary = run(sweep, dry_run=dry_run)
        assert not summary.ok and not summary.planned and not summary.done
        assert words in summary.failed[0][1] and str(done.parent) in summary.failed[0][1]
    assert done.read_text() == text and list(done.parent.iterdir()) == [done]


def test_where_nested_parameters_differ():
    old = {"dmd": {"steps": 45, "lr": 1.0}}
    new = {"dmd": {"steps": 45, "lr": 2.0}}
    assert differing(old, new) == ("dmd.lr", "1.0", "2.0")
    assert differing(old, {"dmd": {"steps": 45}}) == ("dmd.lr", "1.0", "absent")
    assert differing(old, dict(old)) is None and differing(1, 1.0) == ("", "1", "1.0")


def test_a_broken_result_is_refused_and_kept():
    sweep, done, _ = finished_cell()
    done.write_text("{")
    assert "done.json cannot be read; remove that folder" in run(sweep).failed[0][1]
    assert done.read_text() == "{"


def test_only_one_sweep_in_a_folder():
    path = notebook()
    with notebook_module.writing(Path("results/s")):
        words = f"results/s is written by process {os.getpid()} on {HOST}; let it end"
        with pytest.raises(CinelabError, match=words):
            run(Sweep("s", path))
        assert names(run(Sweep("s", path), dry_run=True).planned) == ["seed=0"]
        assert [p.name for p in Path("results/s").iterdir()] == [".lock"]
    (Path("results/s") / ".lock").write_text(f"host={HOST} 99999999")  # a driver that was killed
    assert run(Sweep("s", path)).ok


def test_bad_arguments_are_refused_before_anything_runs():
    sweep = Sweep("s", notebook())
    with pytest.raises(CinelabError, match="workers is 0; give at least 1 cell at a time"):
        run(sweep, workers=0)
    with pytest.raises(CinelabError, match="engine is 'ray'; give here, local or slurm"):
        run(sweep, engine="ray")
    with pytest.raises(CinelabError, match="option 'time' is for the engines local and slurm"):
        run(sweep, options={"time": 3})
    assert not Path("results").exists()


def test_the_end_of_the_process_that_starts_cells_is_said():
    engine = LocalServer(1)
    (server,) = [
        p for p in psutil.Process().children() if "cinelab.lab.sweeps.server" in p.cmdline()
    ]
    server.kill()
    with pytest.raises(
        CinelabError, match="starts the cells was ended; run the same command again"
    ):
        engine.finished()
    assert engine.close() == "" and not server.is_running()


def test_the_table_counts_foresees_and_is_drawn(tmp_path):
    (tmp_path / "done.json").write_text('{"seconds": 31.25, "peak_memory_mb": 1126}')
    screen = io.StringIO()
    table = ProgressTable(Console(file=screen, force_terminal=True, width=100, highlight=False))
    table.total = 5
    table.workers = 2
    assert table.line() == "0 done, 0 failed, 5 left"
    for key in (1, 2, 3):
        table.begin(key, f"seed={key}")
    table.running[1].began -= 60
    table.running[3].began -= 45
    table.end(1, tmp_path, "done", "")
    table.end(2, tmp_path, "failed", "no luck")
    # two cells of a minute and 15 seconds of the third, by two workers
    assert 66 < table.seconds_to_go(left=3) < 68
    assert "1 done, 1 failed, 3 left, about 1 min" in table.line()
    table.running[3].megabytes = 300.0
    with table:
        table.live.refresh()
    assert "seed=3" in screen.getvalue() and "300 MB" in screen.getvalue()
    assert "done    seed=1  31.2 s  1.1 GB" in screen.getvalue()
    assert "failed  seed=2: no luck" in screen.getvalue()


def test_the_time_to_go_goes_on_while_a_cell_takes_longer_than_all_before(tmp_path):
    (tmp_path / "done.json").write_text('{"seconds": 10.0, "peak_memory_mb": 80}')
    table = ProgressTable(Console(file=io.StringIO()))
    table.total = 2
    table.learn_times([tmp_path])  # a cell of an earlier sitting foretells the first one of this
    table.counts["skipped"] = 1
    table.begin(1, "seed=1")
    seen = []
    for since in (4, 9.8, 12, 14, 40):
        table.running[1].began = time.monotonic() - since
        seen.append(table.line().partition("about ")[2])
    assert seen == ["6 s to go", "under 1 s to go", "6 s to go", "7 s to go", "20 s to go"]


def test_ctrl_c_leaves_the_table_and_says_how_to_go_on():
    screen = io.StringIO()
    table = ProgressTable(Console(file=screen, force_terminal=True, width=100, highlight=False))
    table.total = 3
    with pytest.raises(KeyboardInterrupt), table:
        table.begin(1, "seed=1")
        raise KeyboardInterrupt
    left = screen.getvalue().rpartition("\x1b[2K")[2]  # behind what was wiped away
    assert (
        "stopped" in left
        and "seed=1" in left
        and "3 left" in left
        and "same command continues" in left
    )


def test_without_a_table_a_line_now_and_then_says_how_it_goes(monkeypatch):
    screen = io.StringIO()
    table = ProgressTable(Console(file=screen, width=100))
    table.total = 2
    table.begin(1, "seed=1")
    table.update(lambda key: None)
    assert screen.getvalue() == ""
    table.printed -= 61
    table.update(lambda key: None)
    assert screen.getvalue().startswith("running seed=1 for 0.0 s; 0 done, 0 failed, 2 left")


def test_memory_as_one_says_it():
    assert [spoken_memory(m) for m in (80, 999, 1126)] == ["80 MB", "999 MB", "1.1 GB"]


def test_workers_share_the_cores(monkeypatch, capsys):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    source = (
        "import os, pathlib\n"
        "(pathlib.Path(run_dir) / 'n').write_text(os.environ['OMP_NUM_THREADS'])"
    )
    summary = run(Sweep("s", notebook(source)), workers=10**6)
    assert (summary.done[0].folder() / "n").read_text() == "1"
    assert re.search(
        r"done    seed=0  \d+\.\d s  \d+ MB\n1 done, .* in \d+\.\d s", capsys.readouterr().out
    )


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "count"), [("here", 24), ("local", 8)])
def test_a_sweep_killed_three_times_does_each_cell_once(engine, count):
    sweep = Sweep("s", notebook(BOOKKEEPER), seeds=list(range(count)))
    dice = random.Random(7)
    kept = {}
    for done in (count // 4, count // 2, 3 * count // 4):
        family = kill_when(
            done, f"seeds=list(range({count}))), 2, engine={engine!r}", dice.random()
        )
        if engine == "here":  # a cluster's jobs go on
            wait_for(partial(none_lives, family), 10)
        assert done <= len(records()) < count
        kept |= records()
    summary = run(sweep, workers=2, engine=engine)
    assert summary.ok and len(summary.skipped) + len(summary.done) == count
    ended = (Path("results") / "ended.txt").read_text().split()
    assert (
        sorted({*ended})
        == sorted(names(expand(sweep)))
        == sorted(p.name for p in Path("results/s").iterdir() if p.is_dir())
    )
    # a kill may fall between a notebook's end and its record
    assert count <= len(ended) <= count + 3 * 2
    # no record was written twice
    assert len(records()) == count and kept.items() <= records().items()
    assert none_lives(p for p in psutil.process_iter() if in_here(p))


def kill_when(done, call, seconds):
    """Start a sweep, kill it some time after it has `done` cells, and return what it had
    started."""
    code = f"from cinelab.lab.sweeps.sweep import Sweep, run; run(Sweep('s', 'work.ipynb', {call})"
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    wait_for(lambda: len(records()) >= done or driver.poll() is not None)
    assert driver.poll() is None
    time.sleep(seconds)
    family = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.wait()
    return family


def records():
    return {path: path.stat().st_mtime_ns for path in Path("results/s").glob("*/done.json")}


def none_lives(processes):
    return not any(living(process) for process in processes)


def living(process):
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def in_here(process):
    """A kernel or a job of this test: it works in our folder."""
    with contextlib.suppress(psutil.Error):
        return process.pid != os.getpid() and Path(process.cwd()) == Path.cwd()


def test_the_writer_is_named_and_not_its_kernel_whose_number_may_be_lower(tmp_path):
    with open(tmp_path / ".lock", "w") as held:
        # numbers begin again when they run out
        print("host=elsewhere", 500, 20, file=held, flush=True)
        fcntl.flock(held, fcntl.LOCK_EX)
        with (
            pytest.raises(CinelabError, match="by process 500 on elsewhere"),
            notebook_module.writing(tmp_path, patience=0),
        ):
            pass
