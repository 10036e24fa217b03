"""The cells of one or several sweeps, read from their folders: what was run, and what was measured.

Cells of earlier versions are read under the present names (`cinelab.metrics.legacy`).
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from cinelab.config import read_mapping
from cinelab.errors import CinelabError
from cinelab.lab.reports.index import CELL, FINISHED
from cinelab.lab.reports.withdrawn import SETTINGS, edition_of, withdrawn
from cinelab.lab.sweeps import renamed
from cinelab.lab.sweeps.measured import read_done, read_info, read_rows
from cinelab.memory.policy_registry import label_of
from cinelab.metrics.metric import METRICS, labelled
from cinelab.metrics.rows import COLUMNS as ROW_COLUMNS
from cinelab.metrics.toybox.attributes import with_prompt
from cinelab.readable import Readable

# columns of rows.parquet that are no setting, and those of them that are read
NO_SETTING = (*ROW_COLUMNS, "seed")


READ = ("clip", "shot", "metric", "value", "source", "seed")


# settings that name a kind: these are compared with each other
WHICH = ("policy", "model", "init", "score", "stage")


UNREADABLE = "unreadable"


COLUMNS = (
    "path",
    "sweep",
    "cell",
    "status",
    "seconds",
    "peak_memory_mb",
    "git",
    "device",
    "cores",
    "torch",
    "notebook",
    "info",
    "detail",
    "versions",
    "parameters",
)  # of a table of cells


@dataclass
class Cells(Readable):
    """Every cell below some sweep folders. `table` has a row a cell, done or not; `rows` those of
    the done ones."""

    folders: tuple[Path, ...]
    table: pd.DataFrame
    rows: pd.DataFrame
    varied: list[str]
    trained: bool

    @property
    def name(self) -> str:
        return " + ".join(folder.name for folder in self.folders)

    @cached_property
    def films(self) -> pd.DataFrame:
        """Mean of every film: a row for every setting, source, metric, seed and film (clip)."""
        keys = [*self.varied, "metric", "source", "seed", "clip"]
        return (
            with_prompt(self.rows)
            .groupby(keys, sort=False, observed=True, dropna=False)["value"]
            .mean()
            .reset_index()
        )

    @cached_property
    def metrics(self) -> list[str]:
        """Labels of metrics: headlines first, the others as they come."""
        here = list(dict.fromkeys(self.films["metric"]))
        first = METRICS.headlines(here)
        return first + [name for name in here if name not in first]

    def study(self) -> tuple[str, str] | None:
        """(setting, study) where the cells are of a study that the list of withdrawn claims
        knows."""
        done = [cell for cell in self.table.to_dict("records") if cell["status"] == "done"]
        for setting, study in SETTINGS.items():
            if any(setting in cell["parameters"] or setting in cell["info"] for cell in done):
                return setting, study
        return None

    def edition(self, names: set) -> float:
        """The oldest edition of the cells of these names, or of all where none has one of them."""
        done = [cell for cell in self.table.to_dict("records") if cell["status"] == "done"]
        setting, _ = self.study() or ("", "")
        mine = [
            cell
            for cell in done
            if cell["parameters"].get(setting, cell["info"].get(setting)) in names
        ]
        infos = pd.DataFrame([cell["info"] for cell in mine or done])
        return edition_of(infos)

    def withdrawn(self, about: dict) -> str:
        """What stands in place of a verdict on a comparison; "" where it is judged."""
        if not (found := self.study()):
            return ""
        names = {name for name in (about.get(found[0]), about.get("against")) if name is not None}
        return withdrawn(found[1], names, self.edition(names))

    @cached_property
    def about(self) -> dict[str, dict]:
        """What the cells state of a user's own metrics: name -> better, unit, range."""
        return {
            name: about
            for info in self.table["info"]
            for name, about in info.get("metrics", {}).items()
            if name in self.metrics
        }

    def better(self, metric: str) -> str | None:
        """Whether more of a metric is better ("high"), less ("low"), or neither."""
        return METRICS.of(metric, self.about).better

    @property
    def which(self) -> str | None:
        """The setting whose values are compared with each other: one that names a kind, else the
        first."""
        named = [name for name in WHICH if name in self.varied]
        return next(iter(named or self.varied), None)


def load_cells(*folders: str | Path) -> Cells:
    """Read sweep folders that belong together. Raises CinelabError where nothing was measured."""
    paths = tuple(Path(folder) for folder in folders)
    found = [cell for path in paths for cell in _cells(path)]
    done = [
        cell
        for cell in found
        if cell["status"] == "done" and (cell["path"] / "rows.parquet").exists()
    ]
    measured = {id(cell): table for cell in done if (table := _table(cell)) is not None}
    done = [cell for cell in done if id(cell) in measured]
    if not done and (broken := [cell for cell in found if cell["status"] == UNREADABLE]):
        raise CinelabError(broken[0]["detail"])
    if not done:
        raise CinelabError(
            f"{', '.join(map(str, paths))}: no measured cell (a folder with {FINISHED} and "
            "rows.parquet); run "
            f"`cinelab sweep experiments/{paths[0].name}.yaml` first."
        )
    varied = _varied([cell["parameters"] for cell in done])
    done.sort(key=lambda cell: [_rank(cell["parameters"].get(name)) for name in [*varied, "seed"]])
    parts = []
    inner = []
    for cell in done:
        rows, more = _rows(cell, measured[id(cell)], varied)
        inner += [name for name in more if name not in inner]
        parts.append(rows)
    trained = any(next(cell["path"].glob("*/log.jsonl"), None) for cell in done)
    return Cells(
        paths, pd.DataFrame(found), pd.concat(parts, ignore_index=True), varied + inner, trained
    )


def _cells(folder: Path) -> list[dict]:
    if not folder.is_dir():
        raise CinelabError(f"{folder}: no such folder; name the results folder of a sweep.")
    swept = {
        path.parent
        for path in folder.glob("*/config.json")
        if (path.parent / "output.txt").exists()
    }
    by_hand = {
        path.parent for path in folder.glob(f"*/{CELL}") if (path.parent / "rows.parquet").exists()
    }
    return [_careful(path) for path in sorted(swept | by_hand)]


def _careful(path: Path) -> dict:
    """A cell; one whose records are broken is a row that says so, and the others go on."""
    try:
        return _cell(path)
    except CinelabError as error:
        return dict.fromkeys(COLUMNS) | {
            "path": path,
            "sweep": path.parent.name,
            "cell": path.name,
            "status": UNREADABLE,
            "info": {},
            "parameters": {},
            "detail": str(error),
        }


def _cell(path: Path) -> dict:
    """One cell of a sweep, or one whose notebook was run by hand: that one's settings are in its
    cell.json."""
    done = read_done(path / FINISHED) if (path / FINISHED).exists() else {}
    info = read_info(path / CELL)
    machine = done.get("hardware", {})
    swept = (path / "config.json").exists()
    return {
        "path": path,
        "sweep": path.parent.name,
        "cell": path.name,
        "status": "done" if done or not swept else "unfinished",
        "seconds": done.get("seconds"),
        "peak_memory_mb": done.get("peak_memory_mb"),
        "git": done.get("git"),
        "device": machine.get("device"),
        "cores": machine.get("cores"),
        "torch": machine.get("torch"),
        "notebook": done.get("notebook"),
        "info": info,
        "detail": "",
        "versions": _versions(done),
        "parameters": renamed.settings_today(
            done.get("parameters")
            or (read_mapping(path / "config.json") if swept else _settings(info))
        ),
    }


def _versions(done: dict) -> str | None:
    return (
        ", ".join(f"{name} {number}" for name, number in done["versions"].items())
        if "versions" in done
        else None
    )


def _settings(info: dict) -> dict:
    return info.get("setting") or {
        name: value for name, value in info.items() if not isinstance(value, (float, dict))
    }


def _varied(parameters: list[dict]) -> list[str]:
    names = dict.fromkeys(name for one in parameters for name in one if name != "seed")
    return [
        name
        for name in names
        if len({json.dumps(one.get(name), sort_keys=True) for one in parameters}) > 1
    ]


def _rank(value: Any) -> tuple:
    """Numbers by size, then texts by letter."""
    return (0, value, "") if is_numeric(value) else (1, 0, str(value))


def is_numeric(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _table(cell: dict) -> pd.DataFrame | None:
    """A cell's rows; None, and the cell says why, where they cannot be read."""
    try:
        return read_rows(cell["path"] / "rows.parquet")
    except CinelabError as error:
        cell |= {"status": UNREADABLE, "detail": str(error)}
        return None


def _rows(cell: dict, rows: pd.DataFrame, varied: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """A cell's rows with its varied settings as columns, and further columns that vary inside the
    cell."""
    taken = (*NO_SETTING, *varied)
    inner = [name for name in rows if name not in taken and rows[name].nunique() > 1]
    rows = labelled(rows[rows["status"] == "ok"])
    rows = rows[[name for name in READ if name in rows] + inner]
    fixed = {name: setting_text(cell["parameters"].get(name)) for name in varied}
    blanks = {"seed": cell["parameters"].get("seed", 0)}
    return rows.assign(**{k: v for k, v in blanks.items() if k not in rows}, **fixed), inner


def setting_text(value: Any) -> Any:
    """A setting as something that can be grouped by and read."""
    if value is None:
        return "default"
    if isinstance(value, dict) and "kind" in value:
        return _object(value)
    return json.dumps(value) if isinstance(value, (list, dict)) else value


def _object(value: dict) -> str:
    """What a policy that was written down is called, whether or not its class is here."""
    try:
        return label_of(value)
    except CinelabError:
        fields = ", ".join(f"{name}={one}" for name, one in value.items() if name != "kind")
        return f"{str(value['kind']).rpartition(':')[2]}({fields})"
