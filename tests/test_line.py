"""The line between method and machine: with `scale/` removed, the toybox trains, streams and is
measured."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cinelab"
METHOD = ("ops", "flow", "memory", "model", "train")
TRAINS = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from test_train import Fake
from cinelab.model.wan import CausalWan
from cinelab.runs import Run
from cinelab.train import consistency, dmd, presets, teacher_forcing
from dataclasses import replace

def net():
    torch.manual_seed(0)
    return CausalWan(presets.SMOKE)

stages = ((teacher_forcing, "teacher_forcing", 0), (consistency, "consistency", 1), (dmd, "dmd", 2))
for stage, name, others in stages:
    config = replace(getattr(presets, name)("smoke"), model=presets.SMOKE, steps=2, bf16=False)
    nets = [net() for _ in range(others + 1)]
    rows = list(stage.train(config, *nets, Fake(), Run(name, config)))
    assert len(rows) == 2, rows
"""
FILMS = """
from cinelab import CAMR, Director, Screenplay, Shot, load
from cinelab.metrics.toybox.film import plain_values

play = Screenplay("Two", (Shot("a red cat waves in the meadow by day", 0.5),
                          Shot("a blue robot jumps in the city at night", 0.5)))
director = Director(load("toybox-2step"), policy=CAMR(budget=3))
film = director.render(play)
film.save("film")
print(len(plain_values(film.frames, film.timeline, film.timings)))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The package without its machine."""
    root = tmp_path_factory.mktemp("without_scale")
    skip = shutil.ignore_patterns("__pycache__", "scale")
    shutil.copytree(PACKAGE, root / "cinelab", ignore=skip)
    assert not (root / "cinelab" / "scale").exists()
    return root


def run(copy, code, *args):
    environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *args]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_scale_every_stage_trains(copy):
    run(copy, TRAINS, str(Path(__file__).parent))


def test_without_scale_films_are_made_and_measured(copy):
    assert int(run(copy, FILMS).split()[-1]) > 0
    assert (copy / "film" / "film.mp4").exists()


def test_the_method_names_no_machine(copy):
    """Importing all of the method loads neither processes, adapters, quantizers nor meters."""
    rooms = ", ".join(repr(room) for room in METHOD)
    code = f"""
import importlib, pkgutil, sys
import cinelab
import torch
before = set(sys.modules)
for room in ({rooms}):
    package = importlib.import_module("cinelab." + room)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
machine = ("cinelab.scale", "cinelab.jobs", "cinelab.zoo", "peft", "torchao", "psutil")
print([name for name in sys.modules if name.startswith(machine)])
"""
    assert run(copy, code).strip() == "[]"
