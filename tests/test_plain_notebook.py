"""Running a notebook does not change it for git; without the filter nothing breaks."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from cinelab.lab.plain_notebook import saved, stripped_notebook

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FILTER = re.search(r'git config (\S+) "(.*)" 2>', (ROOT / "Makefile").read_text())


def run_in_lab(path: Path) -> None:
    """Leave in a notebook what running and saving it in JupyterLab, and papermill, leave."""
    notebook = nbformat.read(path, as_version=4)
    for number, cell in enumerate(cell for cell in notebook.cells if cell.cell_type == "code"):
        cell.execution_count = number + 1
        cell.outputs = [nbformat.v4.new_output("stream", text="chunk 8 of 40\n")]
        cell.metadata |= {
            "execution": {"iopub.status.idle": "now"},
            "papermill": {"duration": 1.5},
            "collapsed": True,
        }
    notebook.metadata.kernelspec.display_name = "Python 3 (ipykernel)"
    notebook.metadata.language_info = {
        "name": "python",
        "version": "3.11.9",
        "file_extension": ".py",
    }
    notebook.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    nbformat.write(notebook, path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_is_plain_and_stays_so(path, tmp_path):
    text = path.read_text()
    assert stripped_notebook(text) == text
    copy = tmp_path / path.name
    copy.write_text(text)
    run_in_lab(copy)
    assert copy.read_text() != text and stripped_notebook(copy.read_text()) == text


def test_a_changed_cell_is_a_change_and_what_is_no_notebook_stays():
    text = NOTEBOOKS[0].read_text()
    changed = json.loads(text)
    changed["cells"][2]["source"] = ["1 + 1"]
    assert json.loads(stripped_notebook(json.dumps(changed)))["cells"][2]["source"] == ["1 + 1"]
    for other in ("", "{", "[]", '{"cells": 3}', '{"cells": [1]}', "no json"):
        assert stripped_notebook(other) == other


@pytest.mark.parametrize("python", [sys.executable, "gone/python", None])
def test_git_sees_no_change_where_the_filter_is_and_an_ordinary_one_where_not(tmp_path, python):
    def git(*words):
        return subprocess.run(
            ["git", *words], cwd=tmp_path, env=env, check=True, capture_output=True, text=True
        ).stdout

    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}
    for name in (
        ".gitattributes",
        "cinelab/lab/plain_notebook.py",
        "notebooks/00_first_film.ipynb",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    git("init", "-q")
    if python:
        git("config", FILTER[1], FILTER[2].replace("$(PY)", python))
    git("add", "-A")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first")
    notebook = tmp_path / "notebooks/00_first_film.ipynb"
    run_in_lab(notebook)
    assert bool(git("diff")) == (python != sys.executable)
    saved(os_path=str(notebook))
    changed = git("status", "--porcelain")
    assert changed == ("" if python == sys.executable else " M notebooks/00_first_film.ipynb\n")
    notebook.write_text(notebook.read_text().replace("The first film", "Another film"))
    saved(os_path=str(notebook))
    assert git("status", "--porcelain") == " M notebooks/00_first_film.ipynb\n", (
        "a change is not staged by itself"
    )
    git("add", "-A")  # goes through, whatever is missing
