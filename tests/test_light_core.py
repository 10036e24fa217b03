"""The core needs torch and a dozen small packages; what only a part needs is imported when it is
used, and named with its extra where it is missing."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cinelab.optional import EXTRA_OF, MissingExtra, missing_extra, need

ROOT = Path(__file__).parents[1]
REFUSE = """
import sys
from importlib.machinery import PathFinder
REFUSED = set({refused!r})
class WithoutThem(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.partition(".")[0] in REFUSED
        return None if absent else PathFinder.find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutThem
"""
RENDER = """
from cinelab import CAMR, Director, Screenplay, Shot, load
play = Screenplay("A walk", shots=[Shot("a robot walks on the beach", seconds=1.0)])
film = Director(load("toybox-2step"), policy=CAMR(budget=6), seed=7).render(play)
print(film.frames.shape[1:], len(film.routing), film.storyboard().mode)
"""
SAVE = (
    RENDER
    + """
try:
    film.save("nowhere")
except Exception as error:
    print(type(error).__name__, error)
"""
)
COMMAND = """
from cinelab.cli import main
sys.argv = ["cinelab", *{words!r}]
main()
"""
IMPORTED = "import json, sys, cinelab; print(json.dumps(sorted(sys.modules)))"
HEAVY = {"torch", "numpy", "pandas", "yaml", "rich", "typer", "asyncio"}


def without(modules, code: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Run code in a Python that cannot import these packages."""
    program = REFUSE.format(refused=sorted(modules)) + code
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", program], cwd=cwd, env=env, capture_output=True, text=True
    )


def test_a_film_is_rendered_without_any_extra(tmp_path):
    done = without(EXTRA_OF, RENDER, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(48, 64, 3) ") and done.stdout.endswith(" RGB\n")


def test_saving_a_film_without_its_extra_is_a_sentence(tmp_path):
    done = without(EXTRA_OF, SAVE, tmp_path)
    last = done.stdout.splitlines()[-1]
    assert last.startswith("MissingExtra Saving a film needs av, ")
    assert last.endswith("run `pip install 'cinelab[lab]'`.")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "words", [["results"], ["eval", "videos", "film.mp4"], ["lab"], ["demo"]], ids=" ".join
)
def test_a_command_without_its_extra_ends_in_one_sentence(words, tmp_path):
    done = without(EXTRA_OF, COMMAND.format(words=words), tmp_path)
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: ") and "pip install 'cinelab[lab]'" in last


BARE = {"av", "scenedetect", "papermill", "jupyterlab", "nbclient", "nbformat", "ipykernel"}
TRAIN = """
import numpy
import cinelab.bench.wan_speed, cinelab.jobs.worker, cinelab.metrics.card
from cinelab.lab.training import stages
changes = {"steps": 1, "save_every": 1}
stage = stages.bidirectional("run", "store", "smoke", changes=changes)
print(len(list(stage.train())), stage.export("made").name)
from cinelab.stream.video import write_mp4
try:
    write_mp4("film.mp4", numpy.zeros((2, 16, 16, 3), "uint8"), 8)
except Exception as error:
    print(type(error).__name__, error)
"""


def test_scores_and_trainings_need_no_video_codecs_and_no_jupyter(tmp_path):
    done = without(BARE, TRAIN, tmp_path)
    assert done.returncode == 0, done.stderr
    made, refused = done.stdout.splitlines()[-2:]
    assert made == "1 made"
    assert refused.startswith("MissingExtra Reading and writing videos needs av, ")


def test_the_help_needs_no_extra(tmp_path):
    done = without(EXTRA_OF, COMMAND.format(words=["--help"]), tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_doctor_names_the_extra_of_what_is_missing(tmp_path):
    done = without(EXTRA_OF, COMMAND.format(words=["doctor"]), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "absent (film.mp4)" in done.stdout
    assert done.stdout.count("pip install 'cinelab[lab]'") >= 5
    assert "pip install 'cinelab[wan]'" in done.stdout


def test_importing_the_package_imports_nothing_large():
    done = without((), IMPORTED)
    loaded = set(json.loads(done.stdout))
    assert not HEAVY & loaded
    assert {name for name in loaded if name.startswith("cinelab")} == {
        "cinelab",
        "cinelab.renamed",
        "cinelab.threads",
    }


def test_every_extra_that_is_named_is_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(EXTRA_OF.values()) <= set(project["optional-dependencies"])


def test_a_module_that_is_installed_is_returned():
    assert need("json", extra="lab", what="A test") is json


def test_an_import_that_fails_inside_an_installed_module_is_not_explained_away(
    tmp_path, monkeypatch
):
    (tmp_path / "half_there.py").write_text("import no_such_module_anywhere")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError):
        need("half_there", extra="lab", what="A test")
    with pytest.raises(MissingExtra, match="^A test needs no_such_module_anywhere, "):
        need("no_such_module_anywhere", extra="lab", what="A test")


def test_an_import_of_no_extra_has_no_sentence():
    assert missing_extra(ModuleNotFoundError("no", name="somewhere.else")) is None
    assert "cinelab[wan]" in missing_extra(ModuleNotFoundError("no", name="diffusers.models"))
