"""The table that any cell of a sweep may write, and what it must hold: rows.parquet in its
`run_dir`, the rows of `cinelab.metrics.rows`.

    clip     text, or `film`, a whole number: the independent unit, the same in every cell
    metric   text
    value    number, finite
    shot     whole number from 1, 0 = the whole clip (may be left out); beside `film` from 0, -1
    source   model, truth or chance (may be left out: model)
    seed     whole number (may be left out: the cell's)

What the table leaves out has the defaults of a row. Further columns are settings that vary inside
the cell. `keep_rows` writes one; a sweep checks the table of every cell, and a broken one fails the
cell with a sentence.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cinelab.config import read_mapping
from cinelab.errors import CinelabError
from cinelab.files import write_json
from cinelab.lab.sweeps import renamed
from cinelab.metrics.legacy import modern
from cinelab.metrics.metric import METRICS, labelled
from cinelab.metrics.rows import SOURCES, save_rows
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
    rows = modern(checked_rows(rows, "rows"))
    folder = Path(run_dir)
    save_rows(rows, folder / ROWS)
    names = set(rows["metric"])
    known = {name: about for name, about in METRICS.about().items() if name in names}
    known |= {name: dict(about) for name, about in (metrics or {}).items()}
    write_json(folder / CELL, settings | {"metrics": known})
    by = ["metric", "source"]
    return (
        labelled(rows)
        .groupby(by, sort=False)["value"]
        .agg(["mean", "count"])
        .round(3)
        .reset_index()
    )


def check_cell(folder: str | Path) -> None:
    """Refuse a table that a report could not read, where the cell wrote one."""
    path = Path(folder) / ROWS
    if path.exists():
        read_rows(path)


def read_rows(path: Path) -> pd.DataFrame:
    """Read a cell's table, its columns, settings and metrics under today's names. Raises
    CinelabError with what is wrong with it."""
    rows = renamed.columns(read_frame(path, "run the cell again"))
    return modern(checked_rows(rows, str(path)))


def read_done(path: Path) -> dict:
    """Read done.json of a finished cell or training. Raises CinelabError where it is broken or of
    another shape."""
    return read_mapping(path, **DONE)


def read_info(path: Path) -> dict:
    """Read cell.json, {} where there is none: settings as the notebook gave them, and what a report
    knows of metrics."""
    if not path.exists():
        return {}
    return read_mapping(
        path,
        metrics=dict[str, dict] | None,
        edition=int | float | None,
        protocol=int | float | None,
        setting=dict | None,
    )


def checked_rows(rows: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return rows unchanged, if they are what the head of this module asks for. Raises
    CinelabError."""
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
    measured = rows[rows["status"] == "ok"] if "status" in rows else rows
    if not np.isfinite(measured["value"]).all():
        bad = measured[~np.isfinite(measured["value"])].iloc[0]
        raise CinelabError(
            f"{where}: {bad['metric']!r} of {unit} {bad[unit]} is {bad['value']}; leave out what "
            "was not measured."
        )
    if rows[unit].isna().any() or rows["metric"].isna().any():
        raise CinelabError(f"{where}: a row has no {unit} or no metric; name both in every row.")
    if "source" in rows and (odd := sorted(set(rows["source"]) - set(SOURCES))):
        raise CinelabError(f"{where}: column 'source' holds {odd[0]!r}; use {', '.join(SOURCES)}.")
    return rows
