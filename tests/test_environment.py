"""One list of requirements: pyproject.toml says it, the other files agree."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cinelab.errors import CinelabError
from cinelab.lab.workbench import copy_out, jupyter_command

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# torchvision breaks transformers where it does not fit torch; the others have headless twins.
NEVER = {"torchvision", "lpips", "scenedetect", "opencv-python"}


EXTRAS = PROJECT["optional-dependencies"]


def direct() -> list[str]:
    """The requirements of the core and of the extra `dev`, which has those of all parts."""
    return list(dict.fromkeys(PROJECT["dependencies"] + of_extra("dev")))


def of_extra(name: str) -> list[str]:
    """An extra's requirements, those of the extras that it names among them."""
    found = []
    for line in EXTRAS[name]:
        wanted = Requirement(line)
        inner = [of_extra(extra) for extra in sorted(wanted.extras)]
        found += sum(inner, []) if wanted.name == PROJECT["name"] else [line]
    return found


def conda() -> list[str]:
    parts = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    return next(part["pip"] for part in parts if isinstance(part, dict))


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in found}


def specified(lines: list[str]) -> dict[str, str]:
    found = [Requirement(line) for line in lines]
    assert len({canonicalize_name(one.name) for one in found}) == len(found), "named twice"
    return {canonicalize_name(one.name): str(one.specifier) for one in found}


def test_conda_and_pip_name_the_same_requirements():
    assert specified(conda()) == specified(direct())


def test_every_direct_requirement_has_an_upper_and_a_lower_bound():
    for line in direct():
        assert re.search(r">=[\d.]+,<\d+", line), line


def test_constraints_pin_every_direct_requirement_inside_its_range():
    pinned = pins()
    assert set(pinned) == set(specified(direct()))
    for line in direct():
        wanted = Requirement(line)
        (exact,) = pinned[canonicalize_name(wanted.name)].specifier
        assert exact.operator == "==" and exact.version in wanted.specifier, line


def test_what_we_keep_out_stays_out():
    flash = specified(EXTRAS["flash"])
    assert not NEVER & {*specified(direct()), *specified(conda()), *pins(), *flash}


def test_conda_uses_a_python_that_the_project_takes():
    parts = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    python = next(part for part in parts if str(part).startswith("python="))
    wanted = Requirement(f"cinelab{PROJECT['requires-python']}").specifier
    assert python.removeprefix("python=") in wanted


def test_an_editable_install_is_found_from_the_folder_above_the_clone(tmp_path):
    """There the clone's own folder is a namespace named cinelab, which hides whatever is found by a
    finder."""
    clone = tmp_path / "home" / "cinelab"
    site = tmp_path / "site"
    above = "from cinelab import CinelabError"
    for name in (
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "cinelab/__init__.py",
        "cinelab/threads.py",
        "cinelab/renamed.py",
        "cinelab/errors.py",
    ):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    build = f"from setuptools.build_meta import build_editable; build_editable({str(site)!r})"
    site.mkdir()
    subprocess.run([sys.executable, "-c", build], cwd=clone, check=True, capture_output=True)
    zipfile.ZipFile(next(site.glob("*.whl"))).extractall(site)
    # -S leaves this environment's own packages out, an installed cinelab among them
    command = [
        sys.executable,
        "-S",
        "-c",
        f"import site, sys; site.addsitedir(sys.argv[1]); {above}",
        str(site),
    ]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=clone.parent, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def clone(tmp_path):
    """A set-up clone in a folder with a space, whose programs only say with what they were called:
    make's lines."""
    folder = tmp_path / "my clone"
    (folder / ".venv/bin").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    for name in ("python", "cinelab", "ruff", "mkdocs"):
        (folder / ".venv/bin" / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (folder / ".venv/bin" / name).chmod(0o755)
    (folder / ".venv/.ready").touch()
    env = {
        name: value
        for name, value in os.environ.items()
        if name != "HOME" and not name.startswith("MAKE")
    }
    return lambda *words: (
        subprocess.run(
            ["make", *words], cwd=folder, env=env, capture_output=True, text=True, check=True
        ).stdout
    )


def test_jupyter_opens_on_the_clone_with_the_options_that_are_given(clone):
    assert clone("lab").strip() == "cinelab lab ."
    assert clone("lab", "LAB=--port=9000").strip() == "cinelab lab . -- --port=9000"


def test_jupyter_starts_as_root_too_and_on_the_notebooks(tmp_path):
    (tmp_path / "notebooks").mkdir()
    command = jupyter_command(tmp_path, ["--port=9000"])
    assert ("--allow-root" in command) == (os.geteuid() == 0)
    assert f"--ServerApp.root_dir={tmp_path}" in command
    assert "--LabApp.default_url=/lab/tree/notebooks" in command and command[-1] == "--port=9000"


def test_a_folder_without_notebooks_is_refused(tmp_path):
    with pytest.raises(CinelabError, match="has no folder notebooks"):
        jupyter_command(tmp_path)


def test_the_checkout_has_all_that_would_be_copied_out():
    assert copy_out(ROOT) == ([], [])


def test_every_test_runs_on_all_cores(clone):
    assert clone("test") == "python -m pytest -q -n auto\n"


def test_what_is_checked_is_the_same_everywhere(clone):
    assert clone("lint") == "ruff format --check .\nruff check .\n"
    assert clone("types") == "python -m mypy\n"
    assert clone("docs") == "mkdocs build --strict --quiet\n"
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    hosted = " ".join(jobs["check"]["strategy"]["matrix"]["target"]).split()
    ours = re.findall(r"^make (.*)", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert {"lint", "types", "test", "docs", "film"} <= set(hosted) & set(" ".join(ours).split())


def test_setting_up_says_two_lines_and_pips_errors(clone):
    """One -q leaves pip's warnings, of which a mirror's ignored location alone makes 90 lines."""
    said = clone("-B", ".venv/.ready").splitlines()
    # looked for pip; then pip itself
    assert [line.split()[0] for line in said[:3]] == ["python", "Installing", "python"], said
    assert said[2].startswith("python -m pip install --quiet --quiet ")


def test_the_command_line_is_installed():
    assert PROJECT["scripts"] == {"cinelab": "cinelab.cli:main"}


def test_the_version_is_written_once():
    assert "version" not in PROJECT and PROJECT["dynamic"] == ["version"]


def test_dev_has_every_part():
    parts = {line for name in ("lab", "wan", "eval", "train", "cluster") for line in of_extra(name)}
    assert parts <= set(direct())
