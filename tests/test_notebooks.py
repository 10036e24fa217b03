"""Every notebook: thin, without outputs, and its smoke run passes from start to end."""

import ast
import re
from importlib import import_module
from pathlib import Path

import nbformat
import pytest

from cinelab.errors import CinelabError
from cinelab.lab.reports.report import report
from cinelab.lab.sweeps import renamed
from cinelab.lab.sweeps.grid import expand
from cinelab.lab.sweeps.notebook import check_parameters, declared, execute
from cinelab.lab.sweeps.sweep import run

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PLOTLY = "application/vnd.plotly.v1+json"
TRAININGS = [path.stem for path in NOTEBOOKS if "watch(" in path.read_text()]
OWN = ("03_extend",)  # shows how classes and functions of one's own are written
# what every notebook of a decade declares: trainings, single cells, claims of a sweep
DECADES = {1: {"checkpoint", "preset"}, 2: {"seed"}, 3: {"sweep", "reference"}}
# what a stage writes beside its run
PLACES = {"checkpoint": "checkpoint", "store": "store", "pairs": "pairs"}


def test_numbers_are_by_decade_and_none_stands_twice():
    numbers = [re.fullmatch(r"(\d\d)_[a-z_]+", path.stem)[1] for path in NOTEBOOKS]
    assert len(set(numbers)) == len(numbers)
    for path in NOTEBOOKS:
        assert DECADES.get(int(path.stem[0]), set()) <= set(declared(path)), path.stem


def test_a_notebook_that_a_text_names_is_there():
    names = {path.stem for path in NOTEBOOKS}
    assert set(renamed.NOTEBOOKS.values()) <= names and not names & set(renamed.NOTEBOOKS)
    texts = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *NOTEBOOKS]
    for path in texts:
        # two pages name notebooks as they were called
        text = "" if path.name in ("LOG.md", "old_names.md") else path.read_text()
        named = {name for name in re.findall(r"\b\d\d_[a-z]+(?:_[a-z]+)*\b", text)}
        assert named <= names, path.name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_thin(path):
    cells = nbformat.read(path, 4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert cells[0].source.startswith("# ") and "\n" in cells[0].source, (
        "a title and a paragraph that says why"
    )
    assert {"smoke", "run_dir"} <= set(declared(path))
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in cells) == 1
    assert not any(cell.outputs or cell.execution_count for cell in code), (
        "committed notebooks carry no outputs"
    )
    body = [cell for cell in code if "parameters" not in cell.metadata.get("tags", [])]
    longest = 24 if path.stem in OWN else 12  # lines of a cell
    assert max(len(cell.source.splitlines()) for cell in body) <= longest
    defines = any(
        line.startswith(("def ", "class ")) for cell in code for line in cell.source.splitlines()
    )
    assert defines == (path.stem in OWN), "only what shows own things defines any"


@pytest.mark.filterwarnings("error::FutureWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_names_what_it_uses_as_it_is_called_today(path):
    modules = {}
    for cell in nbformat.read(path, 4).cells:
        tree = ast.parse(cell.source if cell.cell_type == "code" else "")
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("cinelab"):
                modules |= {alias.asname or alias.name: used(node, alias) for alias in node.names}
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.value.id in modules:
                    getattr(modules[node.value.id], node.attr, None)


def used(node, alias):
    """What an import takes from one of the package's modules. Fails where it is not there."""
    module = import_module(node.module)
    if hasattr(module, alias.name):
        return getattr(module, alias.name)
    return import_module(f"{node.module}.{alias.name}")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_smoke_run_passes(path, tmp_path):
    places = {
        name: str(tmp_path / place) for name, place in PLACES.items() if name in declared(path)
    }
    done = nbformat.read(execute(path, tmp_path / "run", {"smoke": True} | places), 4)
    shown = [
        output.get("data", {})
        for cell in done.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]
    assert any(
        "image/png" in data or PLOTLY in data or "<svg" in data.get("text/html", "")
        for data in shown
    )
    if path.stem in TRAININGS:
        check_panel(done, shown)


@pytest.mark.slow
def test_a_sweep_knows_the_policy_that_its_notebook_registers(tmp_path):
    chosen = {"only": "policy=last_of_shots,seed=0", "smoke": True, "results": tmp_path}
    assert run(ROOT / "experiments/extend.yaml", **chosen).ok
    page = report([tmp_path / "extend-smoke"], tmp_path / "report.html")
    assert "last_of_shots" in page.read_text() and "colour drift" in page.read_text()
    output = next((tmp_path / "extend-smoke").glob("*/output.txt")).read_text()
    assert "the shot made again is the same: True" in output
    assert "by own" in output, "the command that imports the module measures its metric"


def check_panel(notebook, shown):
    """One bar that says done, one figure, at most one sample film; and a page without plotly shows
    them too."""
    from nbconvert import HTMLExporter

    assert sum(PLOTLY in data for data in shown) == 1
    bars = [data["text/html"] for data in shown if "cinelab-panel" in data.get("text/html", "")]
    assert sum(">step<" in bar for bar in bars) == 1 and all(", done<" in bar for bar in bars)
    page = HTMLExporter().from_notebook_node(notebook)[0]
    assert (
        "data:image/svg+xml" in page
        and page.count("data:image/webp")
        == sum("cinelab-sample" in str(data) for data in shown)
        <= 1
    )


def test_an_unknown_parameter_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(CinelabError, match="declares no parameter 'budgett'.*budget"):
        execute(NOTEBOOKS[0], tmp_path / "run", {"budgett": 3})


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda path: path.stem
)
def test_an_experiment_fits_its_notebook(path):
    cells = expand(path)
    check_parameters(cells[0].notebook, cells[0].parameters)
    assert len({cell.parameters["seed"] for cell in cells}) >= 2
