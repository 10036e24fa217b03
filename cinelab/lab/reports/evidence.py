"""Everything behind the pages by one command: `cinelab evidence`, or `make evidence`.

    experiments/evidence/items.yaml    what is measured, in its order
    results/evidence/<item>.json       that an item is made: of which weights, and how long it took
    results/reference                  its tables
    README.md, docs/results.md, ...    the pages, whose tables are made from them (`page_tables`)

An item runs its sweeps, whose finished cells are skipped, and then what makes its tables. Running
the command again continues after any stop. An item that was measured with other weights of the same
name is refused: its cells must be made again.
"""

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd

from cinelab.assets import asset
from cinelab.config import from_dict, read_mapping
from cinelab.errors import CinelabError, Failed
from cinelab.files import write_json, write_text
from cinelab.lab.reports.page_tables import PAGES, with_tables
from cinelab.lab.reports.reference import table_of
from cinelab.lab.sweeps.grid import expand, load_sweep
from cinelab.lab.sweeps.measured import read_done
from cinelab.texts import RECORD, SWEEP, read_text, read_yaml

ITEMS = "experiments/evidence/items.yaml"
REFERENCE = Path("results/reference")
TIMES = "cell_times.csv"  # in results/reference: item, seconds of a cell, where they were measured
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Item:
    """One thing to measure: see the head of experiments/evidence/items.yaml."""

    name: str
    why: str
    models: tuple[str, ...] = ()
    sweeps: tuple[str, ...] = ()
    then: tuple[dict, ...] = ()
    minutes: float = 1.0

    @property
    def stamp(self) -> str:
        """The name of the file that states that it is made."""
        return f"evidence/{self.name}.json"

    def folders(self, results: Path, *, smoke: bool) -> list[Path]:
        """The folders of its sweeps."""
        return [results / f"{name}{'-smoke' * smoke}" for name in self.sweeps]


@dataclass
class ItemPlan:
    """What is left of an item: its cells, how many are finished, and the minutes a cell. `measured`
    says where these come from."""

    item: Item
    cells: int
    finished: int
    minutes: float
    measured: str = field(default="stated")

    @property
    def hours(self) -> float:
        """Expected hours of what is left."""
        return (self.cells - self.finished) * self.minutes / 60


def load_items(path: str | Path | None = None, only: str | None = None) -> list[Item]:
    """The items of a file (None: the shipped one), or the one of that name."""
    path = asset(ITEMS) if path is None else Path(path)
    found = read_yaml(path, SWEEP)
    if not isinstance(found, list):
        raise CinelabError(f"{path} holds no list of items; see its head for what an item holds.")
    items = [from_dict(Item, one) for one in found]
    if only is None:
        return items
    chosen = [item for item in items if item.name == only]
    if not chosen:
        names = ", ".join(item.name for item in items)
        raise CinelabError(f"There is no evidence {only!r}; name one of {names}.")
    return chosen


def planned_items(items: Sequence[Item], results: Path, *, smoke: bool = False) -> list[ItemPlan]:
    """What is left of every item."""
    return [_plan(item, results, smoke=smoke) for item in items]


def _plan(item: Item, results: Path, *, smoke: bool) -> ItemPlan:
    """What is left of one item. One without sweeps has its commands as cells."""
    done = (results / item.stamp).exists() and not smoke
    if not item.sweeps:
        count = len(item.then)
        minutes, measured = _minutes(item, results, [])
        return ItemPlan(item, count, count * done, minutes, measured)
    folders = dict(zip(item.sweeps, item.folders(results, smoke=smoke), strict=True))
    cells = finished = 0
    records: list[Path] = []
    for name, folder in folders.items():
        names = [cell.name for cell in expand(load_sweep(_sweep_file(name)))]
        there = [folder / one / "done.json" for one in names]
        records += [path for path in there if path.exists()]
        cells += len(names)
        finished += sum(path.exists() for path in there)
    return ItemPlan(item, cells, finished, *_minutes(item, results, records))


def _minutes(item: Item, results: Path, records: Sequence[Path]) -> tuple[float, str]:
    """Minutes of a cell: of its finished ones here, else as shipped, else as stated."""
    if found := [seconds for path in records if (seconds := read_done(path).get("seconds"))]:
        return mean(found) / 60, f"{len(found)} cells here"
    path = results / "reference" / TIMES
    if path.exists():
        times = table_of(path).set_index("item")
        if item.name in times.index:
            row = times.loc[item.name]
            return float(row["seconds"]) / 60, f"on {row['device']}"
    return item.minutes, "stated"


def _sweep_file(name: str) -> Path:
    return asset(f"experiments/{name}.yaml")


def make_item(
    item: Item,
    results: Path,
    *,
    workers: int = 1,
    smoke: bool = False,
    tell: Tell = lambda text: None,
) -> bool:
    """Run what is left of an item; returns whether anything was. A trial (`smoke`) makes no
    tables."""
    from cinelab.lab.sweeps.sweep import run

    stamp = results / item.stamp
    _check_models(item, stamp)
    if stamp.exists() and not smoke:
        return False
    began = time.monotonic()
    write_json(_begun(stamp), {"models": _fingerprints(item)})
    for name in item.sweeps:
        summary = run(_sweep_file(name), workers, smoke=smoke, results=results)
        if not summary.ok:
            cell, why = summary.failed[0]
            raise Failed(f"{item.name}: cell {cell.name} of {name} failed: {why}")
    if smoke:
        return True
    for step in item.then:
        tell(f"{item.name}: {step.get('command') or step.get('notebook')}")
        _run_step(item, step, results)
    seconds = round(time.monotonic() - began, 1)
    write_json(stamp, {"models": _fingerprints(item), "seconds": seconds})
    _begun(stamp).unlink(missing_ok=True)
    _note_time(_plan(item, results, smoke=False), results)
    return True


def _begun(stamp: Path) -> Path:
    """The file that states with which weights an item was begun."""
    return stamp.with_suffix(".begun.json")


def _fingerprints(item: Item) -> dict[str, str]:
    from cinelab.zoo.checkpoints import fingerprint

    return {name: fingerprint(name) for name in item.models}


def _check_models(item: Item, stamp: Path) -> None:
    """Refuse to go on with cells that other weights of the same name have made."""
    place = stamp if stamp.exists() else _begun(stamp)
    if not place.exists():
        return
    old = read_mapping(place, models=dict[str, str])["models"]
    changed = [name for name, mark in _fingerprints(item).items() if old.get(name) != mark]
    if changed:
        raise CinelabError(
            f"{item.name} was measured with other weights of {changed[0]}; move its cells "
            f"({', '.join(item.sweeps) or 'none'}) and {place} away, or give --results FOLDER."
        )


def _run_step(item: Item, step: dict[str, Any], results: Path) -> None:
    """Run a command of cinelab, or a notebook with its parameters."""
    if "notebook" in step:
        from cinelab.lab.sweeps.notebook import execute

        notebook = asset(f"notebooks/{step['notebook']}.ipynb")
        execute(notebook, results / "evidence" / item.name, step.get("parameters") or {})
        return
    words = shlex.split(step["command"])
    done = subprocess.run([sys.executable, "-m", "cinelab", *words])
    if done.returncode:
        raise Failed(f"{item.name}: `cinelab {step['command']}` failed; see its lines above.")


def _note_time(plan: ItemPlan, results: Path) -> None:
    """Keep the measured seconds of a cell beside the tables, for the plans of others."""
    from cinelab.runs import hardware

    if plan.measured == "stated":
        return
    path = results / "reference" / TIMES
    table = table_of(path) if path.exists() else pd.DataFrame(columns=["item"])
    row = {"item": plan.item.name, "seconds": round(plan.minutes * 60, 1), "cells": plan.cells}
    row |= {"device": hardware()["device"]}
    rest = table[table["item"] != plan.item.name]
    found = pd.concat([rest, pd.DataFrame([row])], ignore_index=True)
    write_text(path, found.to_csv(index=False))


def write_pages(root: str | Path = ".", pages: Sequence[str] = PAGES) -> list[Path]:
    """Make the tables and figures of the pages anew from results/reference; returns the pages that
    changed."""
    from cinelab.lab.reports import claims_page
    from cinelab.lab.reports.page_figures import save_figures_of_pages

    root = Path(root)
    reference = root / REFERENCE
    if missing := [page for page in pages if not (root / page).is_file()]:
        raise CinelabError(f"{missing[0]} is not here; run `cinelab evidence` in a checkout.")
    texts = {root / page: with_tables(read_text(root / page, RECORD), reference) for page in pages}
    texts[root / claims_page.PAGE] = claims_page.claims_markdown(reference)
    changed = [path for path, text in texts.items() if _old(path) != text]
    for path in changed:
        write_text(path, texts[path])
    return [*changed, *save_figures_of_pages(reference, root / "docs")]


def _old(path: Path) -> str:
    return read_text(path, RECORD) if path.exists() else ""
