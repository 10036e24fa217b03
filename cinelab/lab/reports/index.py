"""The index of everything below `results/`, rebuilt from the folders at any time.

Two tables. **runs**: a row a run (path, kind, sweep, name, status, seed, parameters, seconds,
memory, git, hardware). **measures**: a row for every run and metric (path, metric, value, low,
high, n), the metric as a label (`cinelab.metrics.metric.metric_label`). `cinelab.lab.reports.query`
asks them.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

import pandas as pd

from cinelab.config import mapping, read_mapping
from cinelab.errors import CinelabError
from cinelab.files import to_json, write_atomic
from cinelab.lab.sweeps.measured import read_done, read_rows
from cinelab.limits import shown_path
from cinelab.metrics.legacy import current_label
from cinelab.metrics.metric import labelled
from cinelab.metrics.rows import load_rows
from cinelab.metrics.stats import bootstrap
from cinelab.metrics.toybox.attributes import with_prompt
from cinelab.tables import read_frame
from cinelab.texts import HALF_PAIR, read_json

SCHEMA = 2
RESAMPLES = 500  # of an interval in the index; reports take more
FINISHED = "done.json"
CELL = "cell.json"
# what a card must state
CARD = {
    "model": str,
    "policy": dict,
    "sampling": dict,
    "metrics": dict[str, dict],
    "own": dict | None,
    "memory": dict[str, dict] | None,
}
# and of a metric; null: no bound
NUMBERS = {"value": float, "low": float | None, "high": float | None, "n": int}
MEASURED = ("path", "metric", "value", "low", "high", "n")


@dataclass
class Found:
    """One run, as its folder tells it. `status`: done, running, unfinished or unreadable (`detail`
    says why)."""

    path: str
    kind: str  # cell, training, film, card or evaluation; folder where it could not be looked into
    sweep: str
    name: str
    status: str
    seed: int | None = None
    seconds: float | None = None
    peak_memory_mb: float | None = None
    git: str | None = None
    device: str | None = None
    torch: str | None = None
    finished: str | None = None
    detail: str = ""
    parameters: dict = field(default_factory=dict)
    stamp: int = 0  # when its folder last changed, in nanoseconds


def scan(results: str | Path = "results") -> list[Found]:
    """Every run below `results`; a broken one is listed as unreadable, with the reason."""
    root = Path(results)
    if not root.is_dir():
        raise CinelabError(
            f"{root}: no such folder; run a sweep or make a film first, or name another with "
            "--folder."
        )
    found = []
    for folder, inner, files in os.walk(root):
        # what is unfinished is hidden
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in [name for name in inner if HALF_PAIR.search(name)]:
            inner.remove(name)
            place = shown_path((Path(folder) / name).relative_to(root).as_posix())
            found.append(
                Found(
                    place,
                    "folder",
                    "",
                    shown_path(name),
                    "unreadable",
                    detail=f"{place} has a name that is not UTF-8; rename it.",
                )
            )
        for kind, look in (
            ("cell", _cell),
            ("training", _training),
            ("film", _film),
            ("evaluation", _evaluation),
        ):
            if run := _careful(look, kind, Path(folder), set(files), root):
                found.append(run)
                break
        found += filter(
            None,
            (
                _careful(_card, "card", Path(folder) / name, set(), root)
                for name in sorted(files)
                if name.endswith(".json") and Path(folder).name == "reference"
            ),
        )
    return found


def _careful(look, kind: str, path: Path, files: set[str], root: Path) -> Found | None:
    try:
        return look(path, files, root)
    except (CinelabError, AttributeError, KeyError, TypeError, ValueError) as error:
        return Found(
            path.relative_to(root).as_posix(),
            kind,
            _sweep(path, root),
            path.name,
            "unreadable",
            detail=str(error),
        )


def _cell(folder: Path, files: set[str], root: Path) -> Found | None:
    if not {"config.json", "output.txt"} <= files:
        return None
    done = read_done(folder / FINISHED) if FINISHED in files else {}
    parameters = done.get("parameters") or read_mapping(folder / "config.json")
    status = "done" if done else "running" if ".lock" in files else "unfinished"
    return _found(folder, root, "cell", status=status, done=done, parameters=parameters)


def _training(folder: Path, files: set[str], root: Path) -> Found | None:
    if not {"config.json", "log.jsonl"} <= files:
        return None
    done = read_done(folder / FINISHED) if FINISHED in files else {}
    return _found(
        folder,
        root,
        "training",
        status="done" if done else "unfinished",
        done=done,
        parameters=_flat(read_mapping(folder / "config.json")),
    )


def _film(folder: Path, files: set[str], root: Path) -> Found | None:
    if "film.json" not in files:
        return None
    info = read_mapping(folder / "film.json")
    return _found(
        folder,
        root,
        "film",
        status="done",
        done={"seconds": _making(folder / "timings.parquet")},
        parameters=_flat({k: v for k, v in info.items() if k != "cuts"}),
    )


def _making(timings: Path) -> float | None:
    """Seconds that the chunks of a film took; None where that was not kept, or cannot be read."""
    try:
        table = read_frame(timings, "make the film again")
    except CinelabError:
        return None
    return float(table.drop(columns="chunk", errors="ignore").sum(numeric_only=True).sum())


def _evaluation(folder: Path, files: set[str], root: Path) -> Found | None:
    if "rows.parquet" not in files or FINISHED in files or CELL in files:
        return None
    load_rows(folder / "rows.parquet")
    return _found(folder, root, "evaluation", status="done", done={}, parameters={})


def _card(path: Path, _: set[str], root: Path) -> Found | None:
    record = read_json(path)
    if not isinstance(record, dict) or "metrics" not in record:
        return None
    record = mapping(record, path, **CARD)
    parameters = {
        "model": record["model"],
        "policy": record["policy"].get("name"),
        "steps": record["sampling"].get("steps"),
    }
    return _found(path, root, "card", status="done", done=record, parameters=parameters)


def _found(
    path: Path, root: Path, kind: str, *, status: str, done: dict, parameters: dict
) -> Found:
    machine = done.get("hardware") or done
    seed = parameters.get("seed")
    stamp = path.stat().st_mtime_ns
    when = datetime.fromtimestamp(stamp / 1e9).isoformat(sep=" ", timespec="minutes")
    return Found(
        path.relative_to(root).as_posix(),
        kind,
        _sweep(path, root),
        path.name,
        status,
        seed if isinstance(seed, int) else None,
        done.get("seconds"),
        done.get("peak_memory_mb"),
        done.get("git"),
        machine.get("device"),
        machine.get("torch"),
        when,
        "",
        parameters,
        stamp,
    )


def _sweep(path: Path, root: Path) -> str:
    parts = path.relative_to(root).parts
    return parts[0] if len(parts) > 1 else ""


def _flat(values: dict, where: str = "") -> dict:
    """Nested settings with dotted names."""
    flat: dict = {}
    for key, value in values.items():
        flat |= (
            _flat(value, f"{where}{key}.") if isinstance(value, dict) else {f"{where}{key}": value}
        )
    return flat


def measures(run: Found, results: Path) -> Iterator[dict]:
    """What a run measured: metric, value, low, high, n. Nothing where it measured nothing."""
    path = Path(results) / run.path
    if run.kind == "card":
        for metric, row in read_mapping(path, **CARD)["metrics"].items():
            row = mapping(row, f"{path}: {metric}", **NUMBERS)
            yield {"path": run.path, "metric": current_label(metric)} | {
                key: row.get(key) for key in ("value", "low", "high", "n")
            }
        return
    if run.status != "done" or not (path / "rows.parquet").exists():
        return
    rows = read_rows(path / "rows.parquet")
    rows = rows[(rows["source"] == "model") & (rows["status"] == "ok")]
    rows = with_prompt(labelled(rows))
    for metric, part in rows.groupby("metric", sort=False):
        e = bootstrap(part["value"].tolist(), groups=part["clip"].tolist(), resamples=RESAMPLES)
        yield {
            "path": run.path,
            "metric": metric,
            "value": e.value,
            "low": e.low,
            "high": e.high,
            "n": e.n,
        }


def index(results: str | Path = "results") -> tuple[pd.DataFrame, pd.DataFrame]:
    """(runs, measures), freshly read, and kept as parquet in `<results>/index`. Unchanged runs are
    not measured again."""
    results = Path(results)
    found = scan(results)
    old_runs, old = _kept(results)
    good = old_runs[old_runs["status"] != "unreadable"]
    known = set(zip(good["path"], good["stamp"], strict=True))
    same = {run.path for run in found if (run.path, run.stamp) in known}
    lines = [line for run in found if run.path not in same for line in _measured(run, results)]
    fresh = pd.DataFrame(lines, columns=list(MEASURED))
    measured = pd.concat(
        [table for table in (old[old["path"].isin(same)], fresh) if len(table)] or [fresh],
        ignore_index=True,
    )
    runs = pd.DataFrame(
        [asdict(run) | {"parameters": to_json(run.parameters, sort_keys=True)} for run in found],
        columns=list(Found.__dataclass_fields__),
    )
    for name, table in (("runs", runs), ("measures", measured)):
        with suppress(CinelabError):  # it only saves time: the folder may not be ours to write to
            write_atomic(results / "index" / f"{name}-{SCHEMA}.parquet", table.to_parquet)
    return runs, measured


def _measured(run: Found, results: Path) -> list[dict]:
    """What a run measured; one whose table is broken or of an older version is marked, and the
    others go on."""
    try:
        return list(measures(run, results))
    except (CinelabError, KeyError, OSError, ValueError) as error:
        run.status = "unreadable"
        run.detail = f"rows.parquet: {error}; run it again"
        return []


def _kept(results: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The last index of this schema, or empty tables; whatever is wrong with it, the folders know
    better."""
    paths = [results / "index" / f"{name}-{SCHEMA}.parquet" for name in ("runs", "measures")]
    try:
        return tuple(
            read_frame(path, "it is made again", needed)
            for path, needed in zip(paths, (("path", "stamp", "status"), MEASURED), strict=True)
        )
    except CinelabError:
        return pd.DataFrame(columns=["path", "stamp", "status"]), pd.DataFrame(
            columns=list(MEASURED)
        )
