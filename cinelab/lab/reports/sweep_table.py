"""The cells of one or several sweeps as one table: pooled over seeds, with intervals, and compared
pair by pair.

Films are the independent units; where a cell trained something, its seed is one too, and is
resampled first.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from cinelab.config import read_mapping
from cinelab.errors import CinelabError
from cinelab.lab.reports.index import CELL, FINISHED, HEADLINES
from cinelab.lab.reports.verdicts import CONFIRMED, LEVEL, REFUTED, UNDECIDED, Look, judged, level_p
from cinelab.lab.reports.withdrawn import NOTE, SETTINGS, withdrawn
from cinelab.lab.sweeps import renamed
from cinelab.lab.sweeps.measured import read_done, read_info, read_rows
from cinelab.memory.policy import label_of
from cinelab.metrics.stats import bootstrap, nested_bootstrap, paired_difference, tails
from cinelab.metrics.toybox.attributes import with_prompt
from cinelab.readable import Readable

# columns of rows.parquet that are no setting
OWN = ("film", "shot", "metric", "value", "source", "seed")
# settings that name a kind: these are compared with each other
WHICH = ("policy", "model", "init", "score", "stage")
# settings that make the test harder or another
TASKS = ("away", "shots", "latents", "shot_latents", "grain", "reframed", "stage")
DRAWS = 10_000  # sign flips or resamples behind a p
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
# what the others are measured against, where it is among them
BASES = ("full", "toybox-base", "none")


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
        """Mean of every film: a row for every setting, source, metric, seed and film."""
        keys = [*self.varied, "metric", "source", "seed", "film"]
        return (
            with_prompt(self.rows)
            .groupby(keys, sort=False, observed=True, dropna=False)["value"]
            .mean()
            .reset_index()
        )

    @cached_property
    def metrics(self) -> list[str]:
        """Headlines first, the others as they come."""
        here = list(dict.fromkeys(self.films["metric"]))
        return [m for m in HEADLINES if m in here] + [m for m in here if m not in HEADLINES]

    def study(self) -> tuple[str, str] | None:
        """(setting, study) where the cells are of a study that `cinelab.lab.reports.withdrawn` knows."""
        done = [cell for cell in self.table.to_dict("records") if cell["status"] == "done"]
        for setting, study in SETTINGS.items():
            if any(setting in cell["parameters"] or setting in cell["info"] for cell in done):
                return setting, study
        return None

    def protocol(self, names: set) -> float:
        """The oldest protocol of the cells of these names, or of all where none has one of them."""
        setting, _ = self.study()
        done = [cell for cell in self.table.to_dict("records") if cell["status"] == "done"]
        kind = lambda cell: cell["parameters"].get(setting, cell["info"].get(setting))
        mine = [cell for cell in done if kind(cell) in names] or done
        return min(float(cell["info"].get("protocol", 1)) for cell in mine)

    def withdrawn(self, about: dict) -> str:
        """What stands in place of a verdict on a comparison; "" where it is judged."""
        if not (found := self.study()):
            return ""
        names = {about.get(found[0]), about.get("against")} - {None}
        return withdrawn(found[1], names, self.protocol(names))

    @cached_property
    def about(self) -> dict[str, dict]:
        """What the cells say of a user's own metrics: name -> better, unit, range."""
        return {
            name: about
            for info in self.table["info"]
            for name, about in info.get("metrics", {}).items()
            if name in self.metrics
        }

    def better(self, metric: str) -> str | None:
        """Whether more of a metric is better ("high"), less ("low"), or neither."""
        neither = metric == "drift" or metric.startswith("drift of ")
        return self.about.get(metric, {"better": None if neither else "high"}).get("better", "high")

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
        "parameters": renamed.settings(
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
    return (0, value, "") if _is_number(value) else (1, 0, str(value))


def _is_number(value: Any) -> bool:
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
    if "film" not in rows:
        raise CinelabError(
            f"{cell['path'] / 'rows.parquet'}: is a table of clips; a report is of films, so name "
            "them in a column 'film'."
        )
    inner = [
        name for name in rows if name not in OWN and name not in varied and rows[name].nunique() > 1
    ]
    rows = rows[[name for name in OWN if name in rows] + inner]
    fixed = {name: shown(cell["parameters"].get(name)) for name in varied}
    blanks = {"seed": cell["parameters"].get("seed", 0), "source": "model", "shot": -1}
    return rows.assign(**{k: v for k, v in blanks.items() if k not in rows}, **fixed), inner


def shown(value: Any) -> Any:
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


def pooled(cells: Cells, metrics: list[str] | None = None) -> pd.DataFrame:
    """A row for every setting and metric: value, low, high, n (films), seeds, chance, upper."""
    films = cells.films
    found = []
    films = films[films["metric"].isin(metrics or cells.metrics)]
    for key, part in _groups(films, [*cells.varied, "metric"]):
        made = part[part["source"] == "model"]
        if made.empty:
            continue
        e = estimate(made["value"].tolist(), made["seed"].tolist(), cells.trained)
        others = part.groupby("source")["value"].mean()
        found.append(
            key
            | {
                "value": e.value,
                "low": e.low,
                "high": e.high,
                "n": e.n,
                "seeds": made["seed"].nunique(),
                "chance": others.get("chance"),
                "upper": others.get("truth"),
            }
        )
    return pd.DataFrame(found)


def estimate(values: list[float], seeds: list, trained: bool):
    """Films resampled; where trainings stand behind the seeds, seeds first."""
    return nested_bootstrap(values, seeds) if trained else bootstrap(values)


def compared(cells: Cells, metric: str, base: Any = None, margin: float = LEVEL) -> pd.DataFrame:
    """One metric's table, as `comparisons` makes them; p is corrected over this table alone."""
    return comparisons(cells, [metric], base, margin)[metric]


def comparisons(
    cells: Cells, metrics: Sequence[str], base: Any = None, margin: float = LEVEL
) -> dict[str, pd.DataFrame]:
    """metric -> every value of `which` against `base`, on the films both made, all else equal.

    `base` is by default one of BASES, else the first or smallest. Columns: the other settings,
    `which`, against, difference, low, high, n (films), trainings, p, corrected p, level p, margin,
    verdict (of a user's own metric: by its direction). A row is looked at twice, for being above or
    below and for being level within `margin`;
    `level p` is the corrected p of the second. Both are corrected by Holm over all the tables.
    """
    pairs = {metric: _pairs(cells, metric, base) for metric in metrics}
    count = sum(map(len, pairs.values()))
    draws = max(DRAWS, 200 * count)  # so that the smallest p survives being corrected
    looks = [
        _looks(cells, about, both, margin, draws)
        for table in pairs.values()
        for about, both in table
    ]
    judgements = judged(look for pair in looks for look in pair)
    rows = iter(judgements.to_dict("records"))
    found = {}
    for metric, table in pairs.items():
        lines = [_line(about, next(rows), next(rows), margin) for about, _ in table]
        found[metric] = pd.DataFrame(lines)
        if metric in cells.about and lines:
            better = cells.better(metric)
            found[metric]["verdict"] = [directed(word, better) for word in found[metric]["verdict"]]
    return found


def _pairs(cells: Cells, metric: str, base: Any) -> list[tuple[dict, pd.DataFrame]]:
    """(settings of a row, the films that it and its base both made), a pair a comparison."""
    which = cells.which
    films = cells.films
    films = films[(films["metric"] == metric) & (films["source"] == "model")]
    if which is None or films.empty:
        return []
    values = list(dict.fromkeys(films[which]))
    base = next((name for name in BASES if name in values), values[0]) if base is None else base
    rest = [name for name in cells.varied if name != which]
    found = []
    for key, part in _groups(films, rest):
        kinds = part.groupby(which, sort=False)
        by = {name: one.set_index(["seed", "film"])["value"] for name, one in kinds}
        for name in by if base in by else ():
            both = pd.concat([by[name], by[base]], axis=1, join="inner")
            if name != base and len(both):
                found.append((key | {which: name, "against": base}, both))
    return found


def _looks(cells: Cells, about: dict, both: pd.DataFrame, margin: float, draws: int) -> list[Look]:
    """Is the first column apart from the second, and is it level with it?"""
    one, other = (both.iloc[:, place].tolist() for place in (0, 1))
    gaps = (both.iloc[:, 0] - both.iloc[:, 1]).tolist()
    seeds = both.index.get_level_values("seed").tolist() if cells.trained else None
    e = nested_bootstrap(gaps, seeds) if cells.trained else paired_difference(one, other)
    apart, upper, lower = tails(gaps, (0.0, margin, -margin), seeds, draws)
    same = {
        "films": len(gaps),
        "trainings": len(set(seeds)) if cells.trained else None,
        "withdrawn": cells.withdrawn(about),
    }
    return [
        Look("", e, *apart, "above", 0.0, **same),
        Look("", e, *level_p(upper, lower), "level", margin, **same),
    ]


def _line(about: dict, apart: dict, level: dict, margin: float) -> dict:
    """One row of a table of comparisons."""
    numbers = {"difference": apart["value"], "low": apart["low"], "high": apart["high"]}
    counts = {"n": apart["films"], "trainings": apart["trainings"]}
    p = {"p": apart["p"], "corrected p": apart["corrected p"], "level p": level["corrected p"]}
    word = _word(apart["verdict"], level["verdict"], margin)
    return about | numbers | counts | p | {"margin": margin, "verdict": word}


def _word(apart: str, level: str, margin: float) -> str:
    """What both looks say together."""
    if apart.startswith(NOTE):
        return apart
    side = {CONFIRMED: "above", REFUTED: "below"}.get(apart)
    near = f"level within {margin:g}" if level == CONFIRMED else ""
    if side and near:
        return f"{side}, by less than {margin:g}"
    return side or near or UNDECIDED


def directed(word: str, better: str | None) -> str:
    """A verdict on a user's own metric, by its direction: better or worse; higher or lower where
    neither is better."""
    names = {"high": ("better", "worse"), "low": ("worse", "better"), None: ("higher", "lower")}[
        better
    ]
    for side, name in zip(("above", "below"), names, strict=True):
        if word.startswith(side):
            return name + word.removeprefix(side)
    return word


def _groups(table: pd.DataFrame, names: list[str]):
    """(names -> values, part) in the order of the table."""
    if not names:
        yield {}, table
        return
    for key, part in table.groupby(names, sort=False, observed=True, dropna=False):
        yield dict(zip(names, key, strict=True)), part


def costs(cells: Cells) -> pd.DataFrame:
    """What a setting costs, from its cells' own records: pictures a second of processor time and by
    the clock, MiB of keys and values that a chunk sees, how much slower the last quarter of a film
    is; or how many chunks are seen. Median over seeds."""
    found = []
    for cell in cells.table.to_dict("records"):
        info = cell["info"]
        speed = (
            {name: value for name, value in info["speed"].items() if _is_number(value)}
            if isinstance(info.get("speed"), dict)
            else {}
        )
        # unlike the clock's, this does not know of other cells beside it
        spent = speed.get("cpu_s_per_frame")
        line = {
            "pictures a CPU second": spent and round(1 / spent, 2),
            "pictures a second": speed.get("frames_per_second"),
            "first picture s": speed.get("first_frame_s"),
            "memory seen, MiB": speed.get("kv_mib"),
            "last quarter / first": speed.get("late_over_early"),
        }
        if _is_number(info.get("history")) and _is_number(info.get("budget")):
            line["chunks seen"] = (
                info["history"]
                if info.get("policy") == "full"
                else min(info["budget"], info["history"])
            )
        if cell["status"] == "done":
            found.append(
                {
                    name: shown(cell["parameters"].get(name))
                    for name in cells.varied
                    if name in cell["parameters"]
                }
                | line
            )
    table = pd.DataFrame(found)
    names = [name for name in cells.varied if name in table]
    numbers = [name for name in table if name not in names and table[name].notna().any()]
    return (
        table.groupby(names, sort=False, dropna=False)[numbers].median().reset_index()
        if names and numbers
        else pd.DataFrame()
    )
