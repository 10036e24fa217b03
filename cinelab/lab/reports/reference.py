"""The tables of a study: made of its sweep, or, where none is named, as they are shipped."""

from collections.abc import Callable
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pandas as pd

from cinelab.errors import CinelabError
from cinelab.files import write_text
from cinelab.metrics.legacy import modern_columns
from cinelab.texts import TABLE, read_text


def table_of(path: Path) -> pd.DataFrame:
    """Return the table of a .csv file. Raises CinelabError where it is none."""
    try:
        return pd.read_csv(StringIO(read_text(path, TABLE)))
    except ValueError as error:
        raise CinelabError(f"{path} is no table ({error}); check it out again.") from error


@dataclass(frozen=True)
class Tables:
    """`Tables(name, run_dir, shipped, measured)("_claims", make)` is the table `<name>_claims.csv`.

    `measured`: it is made now and written to `run_dir`; else the one in `shipped` is read, and
    nothing is written.
    """

    name: str
    run_dir: str | Path
    shipped: str | Path
    measured: bool

    def __call__(self, ending: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """A table by the ending of its name. Raises CinelabError where no such table is shipped."""
        if self.measured:
            table = make()
            write_text(Path(self.run_dir) / f"{self.name}{ending}.csv", table.to_csv(index=False))
            return table
        path = Path(self.shipped) / f"{self.name}{ending}.csv"
        if not path.exists():
            raise CinelabError(f"{path} is not here; name the results folder of a sweep instead.")
        return modern_columns(table_of(path))
