"""One list of requirements: pyproject.toml says it, the other files agree."""

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# torchvision breaks transformers where it does not fit torch; the others have headless twins.
NEVER = {"torchvision", "lpips", "scenedetect", "opencv-python"}


def direct() -> list[str]:
    return PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]


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
    flash = specified(PROJECT["optional-dependencies"]["flash"])
    assert not NEVER & {*specified(direct()), *specified(conda()), *pins(), *flash}


def test_conda_uses_a_python_that_the_project_takes():
    parts = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    python = next(part for part in parts if str(part).startswith("python="))
    wanted = Requirement(f"cinelab{PROJECT['requires-python']}").specifier
    assert python.removeprefix("python=") in wanted


def test_the_command_line_is_installed():
    assert PROJECT["scripts"] == {"cinelab": "cinelab.cli:main"}
