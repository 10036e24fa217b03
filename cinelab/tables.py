"""Parquet files that people, programs or earlier runs hand us, read in one place: a damaged,
foreign or boundless one is a CinelabError of one sentence with the file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cinelab.errors import CinelabError
from cinelab.limits import ROWS, shown_path
from cinelab.texts import check_regular

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

CELLS = 20 * ROWS  # rows x columns


def open_parquet(path: str | Path, remedy: str) -> "pa.parquet.ParquetFile":
    """Return a parquet file whose size is within bounds, none of its rows read yet. Raises
    CinelabError."""
    from pyarrow.parquet import ParquetFile

    check_regular(path)
    with reading(path, remedy):
        file = ParquetFile(path)
        rows, columns = file.metadata.num_rows, file.metadata.num_columns
    if rows > ROWS or rows * columns > CELLS:
        raise CinelabError(
            f"{shown_path(path)} has {rows} rows of {columns} columns, and {ROWS} rows are the "
            f"most; {remedy}."
        )
    return file


def read_arrow(path: str | Path, remedy: str, columns: Sequence[str] | None = None) -> "pa.Table":
    """Return the table of a parquet file, or some of its columns. Raises CinelabError."""
    file = open_parquet(path, remedy)
    with reading(path, remedy):
        return file.read(columns=columns)


def read_frame(path: str | Path, remedy: str, needed: Sequence[str] = ()) -> "pd.DataFrame":
    """Return a parquet file as a data frame that has the columns `needed`. Raises CinelabError."""
    table = read_arrow(path, remedy)
    with reading(path, remedy):
        frame = table.to_pandas()
    if absent := [name for name in needed if name not in frame]:
        raise CinelabError(f"{shown_path(path)} has no column {absent[0]!r}; {remedy}.")
    return frame


class reading:
    """Whatever a library raises of a damaged file inside this block becomes a CinelabError: pyarrow
    has kinds of its own, and what it makes of flipped bits is any."""

    def __init__(self, path: str | Path, remedy: str):
        self.path = path
        self.remedy = remedy

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, CinelabError):
            problem = " ".join((str(error).strip() or type(error).__name__).split())[:200]
            raise CinelabError(
                f"{shown_path(self.path)} cannot be read as a table ({problem}); {self.remedy}."
            ) from error
