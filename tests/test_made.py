"""Where results come from: the command, the code and the weights, as they were; what is not known
is not made up."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from cinelab.cli import commands as cli
from cinelab.files import write_json
from cinelab.lab.reports import origin as room
from cinelab.lab.reports.cards import comparison_lines
from cinelab.lab.reports.origin import (
    command,
    made,
    note_beside,
    revision,
    short_revision,
    weights_mark,
)
from cinelab.lab.reports.report import report
from cinelab.lab.reports.report_origin import provenance, run_table
from cinelab.lab.reports.sweep_cells import load_cells
from cinelab.lab.sweeps.grid import Sweep
from cinelab.lab.sweeps.sweep import made_cells, record, recorded


def checkout(folder: Path) -> Path:
    """A git checkout with one commit."""

    def run(*words):
        return subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words],
            cwd=folder,
            check=True,
            capture_output=True,
        )

    folder.mkdir()
    (folder / "file").write_text("one")
    run("init")
    run("add", "file")
    run("commit", "-m", "first")
    return folder


def test_the_revision_says_whether_files_were_changed(tmp_path):
    folder = checkout(tmp_path / "code")
    clean = revision(folder)
    assert len(clean) == 40 and short_revision(clean) == clean[:10]
    (folder / "file").write_text("two")
    assert (
        revision(folder) == f"{clean}-dirty"
        and short_revision(f"{clean}-dirty") == f"{clean[:10]} and changes"
    )
    (tmp_path / "nowhere").mkdir()
    assert short_revision(None) == short_revision(float("nan")) == ""


def test_the_command_is_that_of_the_command_line_alone(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/venv/bin/cinelab", "score", "my model", "--seeds", "0"])
    assert command() == "cinelab score 'my model' --seeds 0"
    monkeypatch.setattr(sys, "argv", ["/src/cinelab/__main__.py", "race"])
    assert command() == "cinelab race"
    for other in ("/venv/lib/ipykernel_launcher.py", "my_script.py", ""):
        monkeypatch.setattr(sys, "argv", [other, "score"])
        assert command() is None


def test_weights_have_a_mark_of_their_content(tmp_path):
    assert (
        weights_mark("toybox-1step") != weights_mark("toybox-2step")
        and weights_mark("nowhere") is None
    )
    (tmp_path / "wan").mkdir()
    (tmp_path / "wan" / "part.safetensors").write_bytes(b"weights")
    first = weights_mark(tmp_path / "wan")
    (tmp_path / "wan" / "part.safetensors").write_bytes(b"Weights")
    assert first and weights_mark(tmp_path / "wan") != first
    assert made(["toybox-1step"], seeds=[1])["weights"] == {
        "toybox-1step": weights_mark("toybox-1step")
    }


def swept(root: Path, sweep: str, names: list[str]) -> Path:
    """Cells as a sweep leaves them, and one that was run by hand."""
    for number, name in enumerate(names):
        folder = root / sweep / name
        folder.mkdir(parents=True)
        (folder / "output.txt").write_text("")
        rows = [(film, 0, "identity", 0.5 + 0.01 * film, "model", 0) for film in range(3)]
        pd.DataFrame(
            rows, columns=["film", "shot", "metric", "value", "source", "seed"]
        ).to_parquet(folder / "rows.parquet")
        parameters = {"policy": name}
        if name == "by hand":
            (folder / "output.txt").unlink()
            write_json(folder / "cell.json", parameters)
            continue
        write_json(folder / "config.json", parameters)
        write_json(
            folder / "done.json",
            {
                "parameters": parameters,
                "notebook": "mine.ipynb",
                "git": "a" * 40 + "-dirty" * (number == 1),
                "seconds": 1.0,
            },
        )
    return root / sweep


@pytest.fixture
def folder(tmp_path):
    """Two cells of a sweep file, a third after the file was changed, one from Python, one by
    hand."""
    path = tmp_path / "elsewhere" / "my sweep.yaml"
    path.parent.mkdir()
    folder = swept(
        tmp_path / "results", "my sweep", ["camr", "full", "window", "random", "by hand"]
    )
    path.write_text("notebook: mine.ipynb\n")
    record(folder, path, None, cells=["camr", "full", "window"])
    path.write_text("notebook: mine.ipynb  # changed\n")
    record(folder, path, "window", cells=["window"])
    record(folder, Sweep("s", Path("mine.ipynb")), cells=["random"])
    return folder


def test_every_row_says_what_made_it(folder):
    path = folder.parents[1] / "elsewhere" / "my sweep.yaml"
    runs = run_table(load_cells(folder)).set_index("cell")
    first, changed = (
        hashlib.sha256(text.encode()).hexdigest()[:12]
        for text in ("notebook: mine.ipynb\n", "notebook: mine.ipynb  # changed\n")
    )
    assert (
        runs.loc["camr", "made by"]
        == f"cinelab sweep '{path}' (file {first})"
        == runs.loc["full", "made by"]
    )
    assert (
        runs.loc["window", "made by"] == f"cinelab sweep '{path}' --only window (file {changed})"
    ), "the run that made it last"
    assert runs.loc["random", "made by"] == "cinelab.lab.sweeps.sweep.run(...) from Python"
    assert runs.loc["by hand", ["made by", "notebook", "git"]].tolist() == ["not recorded"] * 3
    assert (
        runs.loc["full", "git"] == "aaaaaaaaaa and changes" and runs.loc["camr", "git"] == "a" * 10
    )
    facts = provenance(load_cells(folder))
    assert (
        f"(file {first}): 2 cells" in facts["made by"]
        and "not recorded: 1 cell" in facts["made by"]
    )
    assert facts["git revision"] == f"{'a' * 40}, {'a' * 40} and changes that are not committed"


def test_what_no_sweep_recorded_is_not_made_up(tmp_path):
    folder = swept(tmp_path, "memory", ["camr", "by hand"])  # named as one of experiments/
    facts = provenance(load_cells(folder))
    assert "not recorded" in facts["made by"] and "cinelab sweep" not in facts["made by"]
    assert set(run_table(load_cells(folder))["made by"]) == {"not recorded"}
    # as it was before
    write_json(
        folder / "sweep.json",
        {"runs": [{"command": "cinelab sweep a.yaml", "file": "/a.yaml", "sha256": "0" * 64}]},
    )
    assert provenance(load_cells(folder))["made by"] == "cinelab sweep a.yaml (file 000000000000)"
    assert set(run_table(load_cells(folder))["made by"]) == {"not recorded"}, (
        "nothing is claimed of a single cell"
    )


def test_the_same_run_is_recorded_once_and_takes_its_new_cells(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("x")
    for cells in (["a", "b"], ["b"], []):
        record(tmp_path, path, None, cells=cells)
    assert len(recorded(tmp_path)) == 1 and made_cells(tmp_path) == {"a": 0, "b": 0}


def test_tables_of_a_report_have_a_note(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cinelab", "report", "x"])
    page = report([folder], folder.parent / "r.html", tables=folder.parent / "tables").read_text()
    assert "by <code>cinelab report x</code>" in page
    told = json.loads((folder.parent / "tables" / "my sweep.made.json").read_text())
    assert (
        told["command"] == "cinelab report x"
        and len(told["cells"]) == 5
        and "my sweep.yaml" in told["sweeps"]["made by"]
    )


def cards(folder: Path) -> None:
    """Two score cards of four films, the second half as good and as steady."""
    for name, level in (("base", 0.8), ("student", 0.4)):
        rows = [
            (film, 0, metric, value, "")
            for film in range(4)
            for metric, value in (("action", level + 0.01 * film), ("drift", -0.0001 * film))
        ]
        made = pd.DataFrame(
            [(*row[:4],) for row in rows], columns=["film", "shot", "metric", "value"]
        ).assign(source="model", seed=0)
        made.to_parquet(folder / f"{name}.parquet")
        write_json(
            folder / f"{name}.json",
            {
                "model": name,
                "policy": {},
                "sampling": {},
                "metrics": {},
                "made": {"command": f"cinelab score {name}"},
            },
        )


def test_compare_prints_values_with_intervals_and_writes_only_where_it_is_asked(tmp_path):
    folder = tmp_path / "cards"
    folder.mkdir()
    cards(folder)
    before = sorted(path.name for path in folder.iterdir())
    call = ["compare", "base", "student", "--folder", str(folder)]
    done = CliRunner().invoke(cli.app, call, terminal_width=200)
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert (
        "0.815 [0.80" in said
        and "x 0.509 [" in said
        and "95 % interval" in said
        and "-0.000" not in said
    )
    assert sorted(path.name for path in folder.iterdir()) == before, (
        "nothing is written into a tracked folder"
    )
    done = CliRunner().invoke(cli.app, [*call, "-o", str(tmp_path / "table.csv")])
    told = json.loads((tmp_path / "table.csv.made.json").read_text())
    assert (
        done.exit_code == 0
        and pd.read_csv(tmp_path / "table.csv")["model"].tolist() == ["base", "student"] * 3
    )
    card = told["cards"]["student"]
    assert (
        card["sha256"] == hashlib.sha256((folder / "student.parquet").read_bytes()).hexdigest()
        and card["made"]["command"] == "cinelab score student"
    )


def test_a_difference_has_a_sign_and_an_unknown_interval_none():
    rows = pd.DataFrame(
        [
            {
                "metric": "drift",
                "model": "b",
                "value": -0.0001,
                "low": float("-inf"),
                "high": float("inf"),
                "minus": 0.01,
                "minus low": -0.02,
                "minus high": 0.04,
                "share": float("nan"),
            }
        ]
    )
    assert comparison_lines(rows, ["a", "b"]) == [["drift", "", "0.000; +0.010 [-0.020, 0.040]"]]
    assert "; -0.010" in comparison_lines(rows.assign(minus=-0.01), ["b"])[0][1]


def test_a_note_stands_beside_its_table(tmp_path):
    assert note_beside(tmp_path / "a.csv", {"command": None}).name == "a.csv.made.json"
    assert room.CODE.name == "cinelab"
