"""Sweep files: what one may hold, and the cells that it describes.

    notebook: notebooks/train.ipynb
    base: {steps: 2000}
    grid: {policy: [full, camr], lr: [1e-3, 1e-4]}
    seeds: [0, 1, 2]
    threads: 1                  # of each training, default 1: a training's bits depend on it

A cell is one choice from the grid with one seed. Its name depends on nothing but itself.
"""

import hashlib
import inspect
import itertools
import json
import os
import re
from collections import Counter
from dataclasses import dataclass, field, is_dataclass
from math import isfinite, prod
from pathlib import Path
from typing import Any

import numpy as np

from cinelab.config import read_mapping, to_kind
from cinelab.errors import CinelabError
from cinelab.files import is_file
from cinelab.lab.sweeps import renamed
from cinelab.limits import SEED, WORKERS, short, shown_path
from cinelab.registry import path_of
from cinelab.texts import SWEEP, read_yaml

KNOWN = {
    "notebook": "notebooks/train.ipynb",
    "base": "{}",
    "grid": "{}",
    "seeds": "[0, 1, 2]",
    "threads": "1",
}
# characters in a cell's name
LONGEST_VALUE = 24
LONGEST_NAME = 120
MOST_CELLS = 100_000
SCHEMA = 1  # of done.json; one that names none has the layout of 1
ABSENT = object()


@dataclass(frozen=True)
class Sweep:
    """What a sweep file holds. Values become plain JSON types; bad ones raise a CinelabError."""

    name: str
    notebook: Path
    base: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, list] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])
    threads: int = 1  # of each training, however many cells run at once

    def __post_init__(self):
        for key in ("base", "grid", "seeds"):
            object.__setattr__(self, key, json_value(getattr(self, key), key))
        object.__setattr__(self, "notebook", Path(self.notebook))
        _check_names(self.base, self.grid)
        for key, values in self.grid.items():
            _check_list(f"grid.{key}", values)
        _check_list("seeds", self.seeds)
        if wrong := [seed for seed in self.seeds if type(seed) is not int or not 0 <= seed < SEED]:
            raise CinelabError(
                f"seeds holds {short(wrong[0])}; give whole numbers of at least 0 and below "
                "2**63, such as [0, 1, 2]."
            )
        if type(self.threads) is not int or not 1 <= self.threads <= WORKERS:
            raise CinelabError(
                f"threads is {short(self.threads)}; give a whole number from 1 to {WORKERS}."
            )
        if (cells := prod(map(len, self.grid.values())) * len(self.seeds)) > MOST_CELLS:
            raise CinelabError(
                f"grid and seeds make {cells} cells; keep to {MOST_CELLS}, in several sweeps."
            )


@dataclass(frozen=True)
class SweepCell:
    """One run of the notebook: `parameters` with a seed, without the `run_dir` it will be given."""

    sweep: str
    name: str
    notebook: Path
    parameters: dict[str, Any]
    threads: int = 1

    def folder(self, results: Path = Path("results")) -> Path:
        return Path(results) / self.sweep / self.name

    def finished(self, folder: Path) -> bool:
        """Whether `folder` holds this cell's result; the result of another cell is refused, never
        overwritten."""
        path = folder / "done.json"
        if not path.exists():
            return False
        done = _read_done(path)
        ours = {"notebook": self.notebook.name, "": renamed.settings_today(self.parameters)}
        theirs = {
            "notebook": renamed.notebook_today(done["notebook"]),
            "": renamed.settings_today(done["parameters"]),
        }
        if found := differing(theirs, ours):
            place, old, new = found
            raise CinelabError(
                f"{folder} holds a result where {place} is {old}, the sweep asks for {new}; "
                "remove that folder or rename the sweep."
            )
        return True


def load_sweep(path: str | Path) -> Sweep:
    """Read a sweep file. Raises CinelabError with the file, the field and a remedy."""
    path = Path(path)
    values = _read_yaml(path)
    for key in values:
        if key not in KNOWN:
            raise CinelabError(
                f"{path}: unknown key {short(key)}; a sweep holds {', '.join(KNOWN)}."
            )
    for key in ("notebook", "seeds"):
        if values.get(key) is None:
            raise CinelabError(f"{path}: {key} is missing; add one, such as {key}: {KNOWN[key]}.")
    rest = {key: {} if values.get(key) is None else values[key] for key in ("base", "grid")}
    rest |= {"threads": values["threads"]} if values.get("threads") is not None else {}
    try:
        return Sweep(path.stem, _find(path, values["notebook"]), seeds=values["seeds"], **rest)
    except CinelabError as error:
        raise CinelabError(f"{path}: {error}") from None


def expand(sweep: Sweep | str | Path) -> list[SweepCell]:
    """Return every cell of the grid, in the order of the file, the seeds innermost."""
    sweep = sweep if isinstance(sweep, Sweep) else load_sweep(sweep)
    cells = []
    for values in itertools.product(*sweep.grid.values(), sweep.seeds):
        chosen = dict(zip([*sweep.grid, "seed"], values, strict=True))
        cells.append(
            SweepCell(sweep.name, _name(chosen), sweep.notebook, sweep.base | chosen, sweep.threads)
        )
    return cells


def json_value(value: Any, where: str) -> Any:
    """Return `value` in JSON's types: papermill would pass a NumPy number or a Path as text.

    An object of settings, such as a policy, becomes its class and fields. Other types are refused,
    and so are NaN and infinity: a notebook that holds them cannot be opened.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return _object(value, where)
    if isinstance(value, type) or inspect.isfunction(value):
        return _importable(value, where)
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (list, tuple)):
        return [json_value(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: json_value(item, f"{where}.{key}") for key, item in value.items()}
    if type(value) is float and not isfinite(value):
        raise CinelabError(
            f"{where} is {value}; give a finite number, or null and let the notebook say what "
            "that means."
        )
    if value is None or type(value) in (bool, int, float, str):
        return value
    wanted = "a number, text in quotes, true, false, null, or a list or mapping of these"
    raise CinelabError(f"{where} is {short(value)} ({type(value).__name__}); give {wanted}.")


def _object(value: Any, where: str) -> dict:
    _importable(type(value), where)
    return to_kind(value)


def _importable(thing: Any, where: str) -> str:
    """Return the import path of a class or function, which a cell's own process can follow."""
    if thing.__module__ == "__main__" or "<" in thing.__qualname__:
        raise CinelabError(
            f"{where} holds {thing.__qualname__} of this notebook, which a cell, a process of its "
            "own, cannot see; move it to a module (a .py file) beside the sweep and import it from "
            "there."
        )
    return path_of(thing)


def _read_yaml(path: Path) -> dict:
    if (name := renamed.SWEEPS.get(path.stem)) and not is_file(path):
        raise CinelabError(f"{path} is not here; it is called {name}{path.suffix} now.")
    values = read_yaml(path, SWEEP)
    if not isinstance(values, dict) or not values:
        found = f"holds {short(values, 40)}" if values else "is empty"
        raise CinelabError(f"{path} {found}; a sweep is a mapping of {', '.join(KNOWN)}.")
    return values


def _find(path: Path, name: Any) -> Path:
    """Find the notebook, relative to the folder that holds `experiments/`, else to the working
    folder."""
    inside = path.resolve().parent.name == "experiments"
    notebook = (path.resolve().parent.parent if inside else Path.cwd()) / str(name)
    if not is_file(notebook):
        raise CinelabError(
            f"notebook is {short(name)}, but there is no file {shown_path(notebook)}; "
            f"{renamed.notebook_remedy(notebook, 'correct it')}."
        )
    return notebook


def _check_names(base: Any, grid: Any) -> None:
    for key, value in (("base", base), ("grid", grid)):
        if not isinstance(value, dict):
            raise CinelabError(
                f"{key} is {short(value)}; give names with values, or {{}} for none."
            )
    for key in [*base, *grid]:
        if key in ("seed", "run_dir") or not key.isidentifier():
            why = "is given by the runner" if key.isidentifier() else "is no name of a parameter"
            raise CinelabError(f"{key!r} in base or grid {why}; take it out or correct it.")
    if both := sorted(set(base) & set(grid)):
        raise CinelabError(f"{both[0]!r} stands in base and in grid; keep one of them.")


def _check_list(place: str, values: Any) -> None:
    if not isinstance(values, list) or not values:
        raise CinelabError(f"{place} is {short(values)}; give a list with at least one value.")
    if twice := [text for text, count in Counter(map(canonical, values)).items() if count > 1]:
        raise CinelabError(f"{place} holds {twice[0]:.60} twice; keep one of them.")


def _read_done(path: Path) -> dict:
    try:
        done = read_mapping(path)
        schema = done.get("schema", SCHEMA)
        missing = [key for key in ("parameters", "notebook") if key not in done]
    except CinelabError:
        raise CinelabError(
            f"{path} cannot be read; remove that folder or rename the sweep."
        ) from None
    if type(schema) is not int or schema > SCHEMA:
        raise CinelabError(
            f"{path} has schema {schema!r}, this cinelab knows {SCHEMA}; update cinelab or rename "
            "the sweep."
        )
    if missing:
        raise CinelabError(
            f"{path} holds no {missing[0]!r}; remove that folder or rename the sweep."
        )
    return done


def differing(old: Any, new: Any, place: str = "") -> tuple[str, str, str] | None:
    """Return where two values differ first, and what each holds there; None if they are equal."""
    if isinstance(old, dict) and isinstance(new, dict):
        parts = (
            (f"{place}.{key}".lstrip("."), old.get(key, ABSENT), new.get(key, ABSENT))
            for key in {**old, **new}
        )
        return next((found for key, a, b in parts if (found := differing(a, b, key))), None)
    was = _canonical_or_absent(old)
    now = _canonical_or_absent(new)
    return None if was == now else (place, was, now)


def _canonical_or_absent(value: Any) -> str:
    return "absent" if value is ABSENT else canonical(value)


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _name(chosen: dict[str, Any]) -> str:
    """Sorted key=value, the seed last. It depends on nothing but the cell, so a grid may grow."""
    name = ",".join(f"{key}={_short(chosen[key])}" for key in sorted(chosen) if key != "seed")
    seed = f"seed={chosen['seed']}"
    if len(name) + len(seed) > LONGEST_NAME:
        name = f"{name[: LONGEST_NAME - len(seed) - 10]}-{_hash(chosen)}"
    return f"{name},{seed}" if name else seed


def _short(value: Any) -> str:
    """`value` as a part of a file name; where that loses something, a hash keeps it unique."""
    like_others = r"[-+]?[\d.]+([eE][-+]?\d+)?|true|false|null|NaN|-?Infinity"  # as text: ambiguous
    text = value if isinstance(value, str) else canonical(value)
    safe = re.sub(r"[^A-Za-z0-9._+-]+", "-", text)
    ambiguous = isinstance(value, str) and re.fullmatch(like_others, value)
    if safe == text and len(safe) <= LONGEST_VALUE and not ambiguous:
        return safe
    return f"{safe.strip('-')[:LONGEST_VALUE]}-{_hash(value)}"


def _hash(value: Any) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:8]
