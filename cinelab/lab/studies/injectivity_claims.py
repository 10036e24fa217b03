"""What the injectivity study may claim, and its tables from the cells of a sweep.

    cause   what the student is not given decides at least a tenth of its squared error at t = 1
    blur    the mean end point, which least squares answers with, is less than 0.95 as sharp as the
            end points

Both are of the bidirectional teachers alone: under the autoregressive one they are decided by the
causal mask, and by nothing that was measured. A student that was trained for longer makes less
error that could be avoided, so the cause is looked at for the longest training.
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from cinelab.errors import CinelabError
from cinelab.files import write_text
from cinelab.lab.reports.verdicts import Look, about_mean, judged
from cinelab.lab.studies.injectivity import injectivity_table, share_of_error
from cinelab.lab.studies.memory_study import keep_raw_rows
from cinelab.tables import read_frame

ROWS = "injectivity_rows.parquet"
CAUSE = 0.10  # of the squared error
BLUR = 0.05  # of the sharpness


def cell_rows(*folders: str | Path) -> pd.DataFrame:
    """The rows of every finished cell below sweep folders, or of single runs."""
    paths = [path for one in map(Path, folders) for path in sorted(one.glob(f"**/{ROWS}"))]
    if not paths:
        raise CinelabError(
            f"{folders[0]} holds no {ROWS}; run `cinelab sweep experiments/injectivity.yaml` first."
        )
    return pd.concat([read_frame(path, "run the cell again") for path in paths], ignore_index=True)


def injectivity_claims(rows: pd.DataFrame) -> pd.DataFrame:
    """The claims with verdicts, p corrected by Holm over the table. Seeds are resampled first."""
    top = rows[(rows.history != "truth") & (rows.t == rows.t.max()) & (rows.past_noise == 0)]
    return judged([*_cause(top), *_blur(top)])


def _cause(rows: pd.DataFrame) -> Iterator[Look]:
    """Variance less a tenth of the squared error, by clip: above 0?"""
    trained = rows[rows.student_steps == rows.student_steps.max()]
    keys = ["case", "seed", "clip"]
    wide = trained.pivot_table(index=keys, columns="what", values="value", sort=False)
    for case, part in wide.groupby(level="case", sort=False) if "squared error" in wide else ():
        gap = (part["variance"] - CAUSE * part["squared error"]).dropna()
        seeds = gap.index.get_level_values("seed").tolist()
        share = part["variance"].mean() / part["squared error"].mean()
        yield about_mean(
            f"{case}: the unseen decides a tenth of the student's squared error",
            gap.tolist(),
            seeds,
            note=f"ratio of means {share:.3f}; the estimate is variance - {CAUSE:g} error",
        )


def _blur(rows: pd.DataFrame) -> Iterator[Look]:
    """How much less sharp than the end points is their mean?"""
    blur = rows[rows.what == "blur"].drop_duplicates(["case", "seed", "clip"])
    for case, part in blur.groupby("case", sort=False):
        claim = f"{case}: the mean end point is blurred"
        yield about_mean(claim, (1 - part.value).tolist(), part.seed.tolist(), margin=BLUR)


def write_injectivity_tables(rows: pd.DataFrame, folder: str | Path) -> None:
    """Write injectivity.csv, injectivity_share.csv, injectivity_claims.csv and the raw rows."""
    folder = Path(folder)
    longest = rows[rows.student_steps == rows.student_steps.max()]
    shares = [
        share_of_error(part).assign(student_steps=steps)
        for steps, part in rows.groupby("student_steps")
    ]
    tables = {"": injectivity_table(longest), "_share": pd.concat(shares)}
    tables["_claims"] = injectivity_claims(rows)
    for ending, table in tables.items():
        write_text(folder / f"injectivity{ending}.csv", table.to_csv(index=False))
    keep_raw_rows(rows, folder / ROWS)
