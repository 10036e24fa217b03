"""The one row that every evaluation writes: what was measured, on which shot of which clip, how, by
what, and what is missing.

    run  clip  shot  metric  protocol  value  source  status  backend  version  fps  samples  ...

Cards, cells of sweeps and studies, films, validation, `cinelab eval videos`, VBench and
VisionReward all write it; further columns are the settings that the clips were made with (seed,
policy, ...).

`clip` is a file's name, or the number of a planned film as text (`clip_of`). `shot` counts from 1;
0 (WHOLE) is the whole clip. `protocol` is how the value was taken where a metric has several ways
(see `cinelab.metrics.catalogue`). `source` is "model", "truth" or "chance". `status` is "ok",
"absent" (it could not be measured here; `detail` states what to install or to give) or "failed"
(the clip is broken); `value` is NaN unless it is "ok", so nothing absent passes for a zero.
`samples` is how many videos of the same prompt stand behind a benchmark's value, `rewriting` how
prompts were rewritten.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from cinelab.errors import CinelabError
from cinelab.files import write_atomic
from cinelab.optional import Later
from cinelab.tables import read_arrow, reading

pa = Later("pyarrow", extra="lab", what="Writing a table of rows")
pq = Later("pyarrow.parquet", extra="lab", what="Writing a table of rows")

SCHEMA = (
    2  # raised when a column changes its meaning; older tables are brought up to date or refused
)
READABLE = ("1",)  # older schemas that `cinelab.metrics.legacy` knows
KEY = b"cinelab.rows"
WHOLE = 0  # the shot number of a value of the whole clip
SOURCES = ("model", "truth", "chance")
FIRST = ("run", "clip", "shot", "metric", "protocol", "value", "source", "status", "backend")


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
    protocol: str = ""
    source: str = "model"


COLUMNS = (*FIRST, *(one.name for one in fields(Row) if one.name not in FIRST))


def absent(
    clip: str, metric: str, why: str, backend: str = "pixels", shot: int = WHOLE, **more: Any
) -> Row:
    """A metric that could not be measured; `why` states what to install or to give."""
    return Row(clip, shot, metric, float("nan"), "absent", backend, detail=why, **more)


def failed(clip: str, why: str, **more: Any) -> Row:
    """A clip that cannot be read at all."""
    return Row(clip, WHOLE, "readable", float("nan"), "failed", "", detail=why, **more)


def clip_of(film: int) -> str:
    """The clip's name of a planned film, in digits that sort as the numbers do."""
    return f"{film:04d}"


def numbered_from(first: int, rows: Iterable[Row]) -> list[Row]:
    """Rows of planned films 0, 1, ... as those of films `first`, `first` + 1, ..."""
    return [replace(row, clip=clip_of(int(row.clip) + first)) for row in rows]


def row_table(rows: Iterable[Row], **settings: Any) -> pd.DataFrame:
    """Rows as a table, its columns in their order even when there is no row; `settings` are
    constant columns beside them, or new values for all rows."""
    found = pd.DataFrame([asdict(row) for row in rows], columns=list(COLUMNS))
    return found.assign(**settings)


def save_rows(rows: pd.DataFrame, path: str | Path) -> None:
    """Write the table with its schema version, in one atomic step."""
    arrow = pa.Table.from_pandas(rows, preserve_index=False)
    arrow = arrow.replace_schema_metadata(
        {**(arrow.schema.metadata or {}), KEY: str(SCHEMA).encode()}
    )
    write_atomic(path, lambda temporary: pq.write_table(arrow, temporary))


def load_rows(path: str | Path) -> pd.DataFrame:
    """Read a table. One of an older schema is brought up to date (`cinelab.metrics.legacy`); one of
    a schema that is not known here is refused with both versions."""
    from cinelab.metrics.legacy import modern

    again = "make it again with `cinelab eval`"
    arrow = read_arrow(path, again)
    found = (arrow.schema.metadata or {}).get(KEY, b"none").decode(errors="replace")
    if found not in (str(SCHEMA), *READABLE):
        raise CinelabError(
            f"{path}: was written with schema {found}, this version reads {SCHEMA}; run its "
            "`cinelab eval` again."
        )
    with reading(path, again):
        return modern(arrow.to_pandas())
