"""Tables of results/reference that no notebook and no report writes: `cinelab evidence --tables`.

students     students_claims.csv: what a student keeps of the base, from the cards' raw rows
span         in_span.csv and reach.csv: recall within the trained span and beyond it
routing      routing.csv: how pages are chosen, for whom, and where they stand
injectivity  injectivity*.csv and its raw rows
framing      framing.csv, framing_claims.csv and its raw rows: where figures stand, with DMD's head
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from cinelab.errors import CinelabError
from cinelab.files import write_text
from cinelab.lab.reports.cards import films_of_card
from cinelab.lab.reports.verdicts import Look, about_ratio, judged
from cinelab.lab.studies import injectivity_claims
from cinelab.lab.studies.framing_study import framing_claims, framing_table
from cinelab.lab.studies.memory_study import keep_raw_rows, sweep_rows, sweep_table

BASE = "toybox-base"
STUDENTS = ("toybox-4step", "toybox-2step", "toybox-1step")
KEPT = {  # metric -> what it is called in a claim
    "prompt": "prompt",
    "action": "action",
    "cut accuracy": "cuts",
    "identity (away=5)": "identity after 5 away",
    "diversity of identity": "diversity",
}
SHARE = 0.95


def student_claims(folder: str | Path) -> pd.DataFrame:
    """What each student keeps of the base's, on the films that both made, with verdicts."""
    folder = Path(folder)
    base = films_of_card(folder / f"{BASE}.parquet")
    looks = [look for name in STUDENTS for look in _looks(folder, name, base)]
    return judged(looks)


def _looks(folder: Path, name: str, base: pd.Series) -> Iterator[Look]:
    mine = films_of_card(folder / f"{name}.parquet")
    for metric, title in KEPT.items():
        if metric not in mine.index or metric not in base.index:
            continue
        both = pd.concat([mine.loc[metric], base.loc[metric]], axis=1, join="inner")
        claim = f"{name} keeps {SHARE:g} of the base's {title}"
        yield about_ratio(claim, both.iloc[:, 0].tolist(), both.iloc[:, 1].tolist(), margin=SHARE)


def _students(results: Path, reference: Path) -> None:
    table = student_claims(reference)
    write_text(reference / "students_claims.csv", table.to_csv(index=False))


def _budget(results: Path, reference: Path) -> None:
    _pooled(results / "budget", reference / "budget.csv", ("policy", "budget", "away"))


def _span(results: Path, reference: Path) -> None:
    for sweep, name, by in (
        ("in_span", "in_span", ("policy", "budget", "away")),
        ("max_distance", "reach", ("policy", "max_distance", "away")),
    ):
        _pooled(results / sweep, reference / f"{name}.csv", by)


def _routing(results: Path, reference: Path) -> None:
    _pooled(results / "routing", reference / "routing.csv", ("score", "per_head", "positions"))


def _pooled(sweep: Path, path: Path, by: tuple[str, ...]) -> None:
    write_text(path, sweep_table(sweep_rows(sweep), by).round(4).to_csv(index=False))


def _injectivity(results: Path, reference: Path) -> None:
    rows = injectivity_claims.cell_rows(results / "injectivity")
    injectivity_claims.write_injectivity_tables(rows, reference)


def _framing(results: Path, reference: Path) -> None:
    rows = sweep_rows(results / "framing")
    write_text(reference / "framing.csv", framing_table(rows).to_csv(index=False))
    write_text(reference / "framing_claims.csv", framing_claims(rows).to_csv(index=False))
    keep_raw_rows(rows, reference / "framing_rows.parquet")


MAKERS: dict[str, Callable[[Path, Path], None]] = {
    "students": _students,
    "budget": _budget,
    "span": _span,
    "routing": _routing,
    "injectivity": _injectivity,
    "framing": _framing,
}


def write_reference_table(name: str, results: Path) -> None:
    """Write the tables of one name into <results>/reference."""
    if name not in MAKERS:
        raise CinelabError(f"--tables is {name!r}; use one of {', '.join(MAKERS)}.")
    MAKERS[name](results, results / "reference")
