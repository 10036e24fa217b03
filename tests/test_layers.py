"""The import direction: a package imports only from rooms before its own, or from itself."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cinelab"
ROOMS = (
    "threads readable errors renamed optional devices assets limits texts tables files outputs "
    "printing progress registry config checksums seeds states runs script world ops flow latent "
    "memory model train weights scale zoo jobs stream metrics bench data lab cli __main__"
).split()
FORBIDDEN = {"model": {"memory"}}  # beyond the order, which keeps `flow` and `memory` from `model`
# The method says nothing of how it is spread over machines or made small: that is `scale`'s.
METHOD = ("ops", "flow", "memory", "model", "train")
MACHINE = ("torch.distributed", "peft", "torchao", "psutil")
ONLY_IN = {name: {"lab", "cli"} for name in ("ipywidgets", "papermill", "plotly", "matplotlib")} | {
    "rich": {"printing"}
}
NO_TORCH = {
    "script/fields.py",
    "script/screenplay.py",
    "script/timeline.py",
    "checksums.py",
    "config.py",
    "files.py",
    "outputs.py",
    "printing.py",
    "progress.py",
    "readable.py",
    "registry.py",
    "tables.py",
    "texts.py",
    "threads.py",
}


def modules(source: str, package: str) -> set[str]:
    """Every module the source imports, anywhere in it, by its absolute name."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: -node.level + 1 or None] if node.level else []
            base = ".".join(parents + ([node.module] if node.module else []))
            # from cinelab import flow: the room is the imported name, not the package
            bare = base in ("cinelab", "torch")
            found |= {f"{base}.{alias.name}" for alias in node.names} if bare else {base}
    return found


def offences(path: str, source: str) -> list[str]:
    """What breaks the law in the file at `path`, relative to the package: one sentence each."""
    parts = Path(path).with_suffix("").parts
    room = parts[0]
    package = ".".join(["cinelab", *parts[:-1]])
    if room not in ROOMS:
        return [f"{path}: {room} is not in the list of rooms; give it its place in the order"]
    said = []
    for name in sorted(modules(source, package)):
        top, _, rest = name.partition(".")
        said += (
            inner(path, room, rest.split(".")[0]) if top == "cinelab" else outer(path, room, name)
        )
    return said


def inner(path: str, room: str, other: str) -> list[str]:
    if other not in ROOMS:  # the public face, which imports everything itself
        return [] if room in ("lab", "cli", "__main__") else [f"{path} imports the public face"]
    below = ROOMS.index(other) > ROOMS.index(room) or other in FORBIDDEN.get(room, ())
    return [f"{path}: {room} imports {other}"] if below else []


def outer(path: str, room: str, name: str) -> list[str]:
    top = name.partition(".")[0]
    machine = room in METHOD and any(f"{name}.".startswith(f"{one}.") for one in MACHINE)
    if machine or room not in ONLY_IN.get(top, {room}) or (top == "torch" and path in NO_TORCH):
        return [f"{path} imports {name}"]
    return []


def test_every_file_keeps_the_direction():
    files = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")]
    files = [path for path in files if path != "__init__.py"]
    assert "script/timeline.py" in files
    assert [s for path in files for s in offences(path, (PACKAGE / path).read_text())] == []


@pytest.mark.parametrize(
    "path, source",
    [
        ("flow/path.py", "from cinelab.model import wan"),
        ("memory/cache.py", "import cinelab.model.wan"),
        ("model/wan.py", "from cinelab.memory.cache import Cache"),
        ("script/timeline.py", "from ..flow import path"),
        ("script/timeline.py", "from .. import flow"),
        ("script/__init__.py", "from ..world.toybox import render"),
        ("world/toybox.py", "from cinelab import train"),
        ("world/toybox.py", "from cinelab import Director"),
        ("seeds.py", "def f():\n    from .runs import save"),
        ("script/screenplay.py", "import torch.nn"),
        ("config.py", "from torch import Tensor"),
        ("metrics/tables.py", "import plotly.express as px"),
        ("train/loop.py", "from ipywidgets import HTML"),
        ("cli/commands.py", "from rich.console import Console"),
        ("lab/cards.py", "import rich"),
        ("train/optim.py", "from torch.distributed.tensor import DTensor"),
        ("model/wan.py", "def f():\n    import torch.distributed"),
        ("memory/store.py", "from torch import distributed"),
        ("train/loop.py", "import peft"),
        ("train/loop.py", "from cinelab.scale.parallel import Parallel"),
        ("attic/old.py", "import os"),
    ],
)
def test_the_law_sees_what_breaks_it(path, source):
    assert len(offences(path, source)) == 1


@pytest.mark.parametrize(
    "path, source",
    [
        ("flow/path.py", "from cinelab.errors import CinelabError"),
        ("flow/path.py", "from . import levels\nfrom .levels import shift\nimport torch"),
        ("flow/__init__.py", "from .levels import shift"),
        ("model/wan.py", "from ..flow.path import velocity"),
        ("lab/plots.py", "import plotly\nfrom cinelab import load"),
        ("cli/commands.py", "import papermill\nfrom ..lab import sweep\nfrom .. import load"),
        ("errors.py", "import os"),
    ],
)
def test_the_law_lets_good_files_be(path, source):
    assert offences(path, source) == []
