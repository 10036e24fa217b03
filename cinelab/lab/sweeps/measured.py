"""The table that any cell of a sweep may leave, and what it must hold: rows.parquet in its
`run_dir`.

    film     whole number: the independent unit; the same film has the same number in every cell
    metric   text
    value    number, finite
    shot     whole number from 0, -1 = the whole film (may be left out)
    source   model, truth or chance (may be left out: model)
    seed     whole number (may be left out: the cell's)

Further columns are settings that vary inside the cell. Tables of `cinelab eval` (`clip` in place of
`film`) are taken too. `keep_rows` writes one; a sweep checks every table that a cell leaves, and a
broken one fails the cell with a sentence.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cinelab.config import read_mapping
from cinelab.errors import CinelabError
from cinelab.files import write_atomic, write_json
from cinelab.lab.sweeps import renamed
from cinelab.tables import read_frame

ROWS = "rows.parquet"
CELL = "cell.json"
DONE = {
    "parameters": dict | None,
    "notebook": str | None,
    "git": str | None,
    "seconds": int | float | None,
    "peak_memory_mb": int | float | None,
    "hardware": dict | None,
    "versions": dict[str, str] | None,
    "device": str | None,
    "torch": str | None,
}
SOURCES = ("model", "truth", "chance")


def keep_rows(
    run_dir: str | Path,
    rows: pd.DataFrame,
    metrics: Mapping[str, Mapping] | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Check rows and write them, with cell.json, to `run_dir`; returns the mean of every metric by
    source.

    `settings` are what the cell was made with: a report groups by them where the notebook was run
    by hand. `metrics` says of a metric's name what a report should know: {"my metric": {"better":
    "low", "unit": "grey levels"}}; what is registered is known.
    """
    from cinelab.metrics.metric import METRICS

    rows = checked(rows, "rows")
    folder = Path(run_dir)
    write_atomic(folder / ROWS, lambda path: rows.to_parquet(path))
    known = {name: about for name, about in METRICS.about().items() if name in set(rows["metric"])}
    write_json(
        folder / CELL,
        settings
        | {"metrics": known | {name: dict(about) for name, about in (metrics or {}).items()}},
    )
    by = [name for name in ("metric", "source") if name in rows]
    return rows.groupby(by, sort=False)["value"].agg(["mean", "count"]).round(3).reset_index()


def check_cell(folder: str | Path) -> None:
    """Refuse a table that a report could not read, where the cell left one."""
    path = Path(folder) / ROWS
    if path.exists():
        read_rows(path)


def read_rows(path: Path) -> pd.DataFrame:
    """A cell's table, its settings under today's names. Raises CinelabError with what is wrong
    with it."""
    return checked(renamed.columns(read_frame(path, "run the cell again")), str(path))


def read_done(path: Path) -> dict:
    """What done.json says of a finished cell or training. Raises CinelabError where it is broken or
    of another shape."""
    return read_mapping(path, **DONE)


def read_info(path: Path) -> dict:
    """What cell.json says, {} where there is none: settings as the notebook gave them, and what a
    report knows of metrics."""
    return (
        read_mapping(
            path, metrics=dict[str, dict] | None, protocol=int | float | None, setting=dict | None
        )
        if path.exists()
        else {}
    )


def checked(rows: pd.DataFrame, where: str) -> pd.DataFrame:
    """Rows as they are, if they are what the head of the file says."""
    unit = "clip" if "clip" in rows and "film" not in rows else "film"
    if missing := [name for name in (unit, "metric", "value") if name not in rows]:
        raise CinelabError(
            f"{where}: has no column {missing[0]!r}; rows need film, metric and value (see "
            "docs/extending.md)."
        )
    if not len(rows):
        raise CinelabError(f"{where}: holds no row; write at least one measured film.")
    if not pd.api.types.is_numeric_dtype(rows["value"]) or rows["value"].dtype == bool:
        raise CinelabError(f"{where}: column 'value' holds {rows['value'].dtype}; write numbers.")
    if unit == "film" and not np.isfinite(rows["value"]).all():
        bad = rows[~np.isfinite(rows["value"])].iloc[0]
        raise CinelabError(
            f"{where}: {bad['metric']!r} of film {bad['film']} is {bad['value']}; leave out what "
            "was not measured."
        )
    if rows[unit].isna().any() or rows["metric"].isna().any():
        raise CinelabError(f"{where}: a row has no {unit} or no metric; name both in every row.")
    if "source" in rows and (odd := sorted(set(rows["source"]) - set(SOURCES))):
        raise CinelabError(f"{where}: column 'source' holds {odd[0]!r}; use {', '.join(SOURCES)}.")
    return rows
