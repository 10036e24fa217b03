"""The one table that every evaluation writes: what was measured, on which shot of which clip, by
what, and what is missing.

    run  clip  shot  metric  value  status  backend  version  fps  samples  rewriting  detail

`shot` counts from 1; 0 is the whole clip. `status` is "ok", "absent" (could not be measured here;
`detail` says what to install or to give) or "failed" (the clip is broken); `value` is NaN unless it
is "ok", so nothing absent passes for a zero. `samples` is how many videos of the same prompt stand
behind a benchmark's score, `rewriting` how prompts were rewritten.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cinelab.errors import CinelabError
from cinelab.files import write_atomic
from cinelab.tables import read_arrow, reading

SCHEMA = 1  # raise it when a column changes its meaning; older tables are then refused, not misread
KEY = b"cinelab.rows"


@dataclass(frozen=True)
class Row:
    """One measured, absent or failed value."""

    clip: str
    shot: int
    metric: str
    value: float
    status: str = "ok"
    backend: str = "pixels"
    version: str = ""
    detail: str = ""
    run: str = ""
    fps: float = float("nan")
    samples: int = 1
    rewriting: str = "none"


def absent(clip: str, metric: str, why: str, backend: str = "pixels", shot: int = 0, **more) -> Row:
    """A metric that could not be measured; `why` says what to install or to give."""
    return Row(clip, shot, metric, float("nan"), "absent", backend, detail=why, **more)


def failed(clip: str, why: str, **more) -> Row:
    """A clip that cannot be read at all."""
    return Row(clip, 0, "readable", float("nan"), "failed", "", detail=why, **more)


COLUMNS = (
    "run",
    "clip",
    "shot",
    "metric",
    "value",
    "status",
    "backend",
    "version",
    "fps",
    "samples",
    "rewriting",
    "detail",
)


def table(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows as a table, its columns in their order even when there is no row."""
    return pd.DataFrame([asdict(row) for row in rows], columns=list(COLUMNS))


def save(rows: pd.DataFrame, path: str | Path) -> None:
    """Write the table with its schema version, in one atomic step."""
    arrow = pa.Table.from_pandas(rows, preserve_index=False)
    arrow = arrow.replace_schema_metadata(
        {**(arrow.schema.metadata or {}), KEY: str(SCHEMA).encode()}
    )
    write_atomic(path, lambda temporary: pq.write_table(arrow, temporary))


def load(path: str | Path) -> pd.DataFrame:
    """Read a table; one of another schema is refused with both versions."""
    again = "make it again with `cinelab eval`"
    arrow = read_arrow(path, again)
    found = (arrow.schema.metadata or {}).get(KEY, b"none").decode(errors="replace")
    if found != str(SCHEMA):
        raise CinelabError(
            f"{path}: was written with schema {found}, this version reads {SCHEMA}; run its "
            "`cinelab eval` again."
        )
    with reading(path, again):
        return arrow.to_pandas()
