"""An installed wheel does what a checkout does: built from a copy of the sources, installed into an
environment of its own, and used from an empty folder."""

import shutil
import signal
import subprocess
import sys
import sysconfig
import urllib.request
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("cinelab", "notebooks", "experiments", "results/reference")
FILES = (
    *("pyproject.toml", "setup.py", "README.md", "LICENSE", "constraints.txt", "results/README.md"),
    *("environment.yml", "environment-vbench.yml", "environment-visionreward.yml"),
)
PLAY = "title: A walk\nshots:\n  - prompt: a robot walks on the beach\n    seconds: 1\n"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built without the network from a copy, so that no older build can leak into it."""
    sources = tmp_path_factory.mktemp("sources")
    unwanted = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in SOURCES:
        shutil.copytree(ROOT / name, sources / name, ignore=unwanted)
    for name in FILES:
        shutil.copy(ROOT / name, sources / name)
    out = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-build-isolation", "--no-deps", "--no-index", "-w", str(out), str(sources))
    (found,) = out.glob("cinelab-*.whl")
    return found


def pip(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *words],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder of programs of an environment that has the wheel, and our other packages by a path
    entry: an editable cinelab among them is behind it."""
    place = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    python = place / "bin/python"
    pip("--python", str(python), "install", "--no-deps", "--no-index", str(wheel))
    (site,) = place.glob("lib/python*/site-packages")
    (site / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


@pytest.fixture
def run(installed, tmp_path, monkeypatch):
    """Run a program of the environment in an empty folder; returns the finished process."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CINELAB_ENVS", str(tmp_path.parent / "envs"))
    return lambda program, *words: subprocess.run(
        [installed / program, *words], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )


def test_the_package_that_runs_is_the_wheels(run, installed):
    done = run("python", "-c", "import cinelab; print(cinelab.__version__, cinelab.__file__)")
    import cinelab

    version, file = done.stdout.split()
    assert version == cinelab.__version__
    assert Path(file).is_relative_to(installed.parent)


def test_the_help_names_every_command(run):
    done = run("cinelab", "--help")
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("film", "direct", "demo", "eval", "lab", "sweep"))


def test_a_film_is_directed_from_an_empty_folder(run, tmp_path):
    (tmp_path / "walk.yaml").write_text(PLAY)
    done = run("cinelab", "direct", "walk.yaml")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results/films/walk/film.mp4").stat().st_size > 0


def test_a_film_is_made_by_the_notebook_that_the_wheel_carries(run, tmp_path):
    (tmp_path / "walk.yaml").write_text(PLAY)
    done = run("cinelab", "film", "walk.yaml")
    assert done.returncode == 0, done.stderr
    made = {path.name for path in (tmp_path / "results/films/walk").iterdir()}
    assert {"film.mp4", "storyboard.png", "notebook.ipynb"} <= made


def test_the_lab_is_copied_out_once_and_a_changed_notebook_is_left_alone(run, tmp_path):
    first = run("cinelab", "lab", "--copy-only")
    assert first.returncode == 0, first.stderr
    copied = tmp_path / "cinelab-lab"
    for name in SOURCES[1:]:
        ours = {path.relative_to(ROOT) for path in (ROOT / name).rglob("*.[iyjc]*")}
        assert {path for path in ours if ".ipynb_checkpoints" not in path.parts} <= {
            path.relative_to(copied) for path in copied.rglob("*")
        }
    changed = copied / "notebooks/00_first_film.ipynb"
    changed.write_text("{}")
    second = run("cinelab", "lab", "--copy-only")
    assert ": 0 files written" in second.stdout
    assert "00_first_film.ipynb" in second.stdout and changed.read_text() == "{}"


def test_an_experiment_that_was_copied_out_finds_its_notebook(run):
    run("cinelab", "lab", "--copy-only", "mine")
    done = run("cinelab", "sweep", "mine/experiments/memory.yaml", "--dry-run")
    assert done.returncode == 0, done.stderr


def test_the_environments_of_other_tools_are_described(run):
    done = run(
        "python",
        "-c",
        "from cinelab.metrics.external.environments import TOOLS, requirements\n"
        "print(all(requirements(tool)[1] for tool in TOOLS.values()))",
    )
    assert done.stdout == "True\n", done.stderr


def test_the_demo_serves_its_page(installed, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    command = [installed / "cinelab", "demo", "--port", "0"]
    with open(tmp_path / "errors.txt", "w") as errors:
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        address = next(word for line in process.stdout for word in line.split() if "http" in word)
        with urllib.request.urlopen(address, timeout=60) as page:
            assert page.status == 200 and b"desk" in page.read()
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def test_what_is_missing_is_a_sentence(run):
    done = run("cinelab", "direct", "none.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ") and len(done.stderr.splitlines()) == 1


def test_a_wheel_holds_no_test_and_nothing_of_a_users(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"cinelab", next(top for top in tops if top.endswith(".dist-info"))}
    runs = [name for name in names if "/results/" in name]
    assert all("/results/reference/" in name or name.endswith("README.md") for name in runs)
    assert str(ROOT).encode() not in b"".join(
        zipfile.ZipFile(wheel).read(name) for name in names if name.endswith((".py", "METADATA"))
    )
