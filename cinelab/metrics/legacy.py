"""Tables and names of earlier versions, as they are called now: the one place that knows them.

Until version 0.2 a metric's name held its protocol ("identity after 3 away"), films were numbered in
a column `film` with shots from 0 (-1: the whole film), and one measurement had several names.
`modern` brings such a table up to date, `current_label` the name of a metric in a finished table or
in a question.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import pandas as pd

from cinelab.metrics.metric import METRICS, labelled, metric_label
from cinelab.metrics.rows import WHOLE, clip_of

ABSENT = (
    "identity",
    "scenery",
    "hit rate",
)  # measured after an absence, where no protocol is named
STUDIES = ("away", "init")  # columns by which the tables of the two studies are known
AWAY = re.compile(r"(identity|scenery|hit rate) after (\d+) away(, reframed)?")
PATTERNS = (
    (re.compile(r"(identity|scenery) kept above chance"), r"\1 above chance", "kept"),
    (re.compile(r"(identity|scenery) kept"), r"\1", "kept"),
    (re.compile(r"keeps (identity|scenery)"), r"\1", "kept"),
    (re.compile(r"(identity|scenery) across shots"), r"\1", "across_shots"),
    (re.compile(r"(identity|scenery) recalled"), r"\1", "recalled"),
    (re.compile(r"(motion|saturation|contrast|sharpness) of truth"), r"\1", ""),
    (re.compile(r"shows (size|colour|kind|action|setting|time|camera)"), r"\1", ""),
    (re.compile(r"share of the history, a layer"), "share of the history", "one layer"),
    (re.compile(r"share of the history, all layers"), "share of the history", "all layers"),
    (re.compile(r"cuts"), "cut accuracy", ""),
)
SCENEDETECT = "cuts (PySceneDetect)"
STRANGERS = ", strangers"


@dataclass(frozen=True)
class Name:
    """What an earlier name stands for; an empty backend or source leaves the row's own."""

    metric: str
    protocol: str = ""
    backend: str = ""
    source: str = ""


def current_name(name: str) -> Name:
    """The present name of an earlier one; a name that never changed is returned as it is."""
    if name.endswith(STRANGERS):
        return replace(current_name(name.removesuffix(STRANGERS)), source="chance")
    if name == SCENEDETECT:
        return Name("cut accuracy", backend="PySceneDetect")
    if match := AWAY.fullmatch(name):
        return Name(match[1], f"away={match[2]}" + " reframed" * bool(match[3]))
    for pattern, metric, protocol in PATTERNS:
        if match := pattern.fullmatch(name):
            return Name(match.expand(metric), protocol)
    return Name(name)


def current_label(name: str) -> str:
    """An earlier name of a metric in a finished table (of a card, of a study) as a present label."""
    found = current_name(name)
    if name in ABSENT:
        found = Name(name, "recalled")
    return metric_label(found.metric, found.protocol, found.backend)


def current_labels(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """Names of metrics that somebody gives, as labels: those in `known` as they are."""
    known = set(known)
    return [name if name in known else current_label(name) for name in names]


def modern_columns(table: pd.DataFrame) -> pd.DataFrame:
    """A finished table (a column `metric` of names, no rows of clips) with present labels."""
    if "metric" not in table:
        return table
    names = {name: current_label(name) for name in table["metric"].dropna().unique()}
    return table.assign(metric=table["metric"].map(names).fillna(table["metric"]))


def modern_metrics(metrics: Mapping[str, Mapping]) -> dict[str, dict]:
    """The metrics of a card by present labels."""
    return {current_label(name): dict(about) for name, about in metrics.items()}


def modern(rows: pd.DataFrame) -> pd.DataFrame:
    """A table of rows of any earlier version with the present columns and names.

    A present table is returned as it is. A table of one's own that has film, metric and value alone
    becomes one of rows too; what it does not state is left at the row's defaults.
    """
    if "protocol" in rows and rows["protocol"].dtype.kind in "if":  # of a study, a number
        rows = rows.rename(columns={"protocol": "edition"})
    if "protocol" not in rows:
        rows = _renamed(rows)
    if "film" in rows and "clip" not in rows:
        rows = _numbered(rows)
    blanks = {"run": "", "shot": WHOLE, "source": "model", "status": "ok"}
    return rows.assign(**{name: value for name, value in blanks.items() if name not in rows})


def _numbered(rows: pd.DataFrame) -> pd.DataFrame:
    """Films by number as clips by name, shots from 1."""
    shots = {"shot": rows["shot"] + 1} if "shot" in rows else {}
    clips = {number: clip_of(int(number)) for number in rows["film"].unique()}
    return rows.assign(clip=rows["film"].map(clips), **shots).drop(columns="film")


def _renamed(rows: pd.DataFrame) -> pd.DataFrame:
    """Names taken apart into metric, protocol, backend and source."""
    study = any(name in rows for name in STUDIES)
    before = rows["metric"].astype(object)
    names = {}
    for name in before.dropna().unique():
        found = current_name(str(name))
        names[name] = Name(name, "recalled") if study and name in ABSENT else found
    parts = {
        part: before.map({name: getattr(one, part) for name, one in names.items()})
        for part in ("metric", "protocol", "backend", "source")
    }
    known = {name: METRICS.of(name).backend for name in parts["metric"].dropna().unique()}
    default = rows["backend"] if "backend" in rows else parts["metric"].map(known)
    source = rows["source"].astype(object) if "source" in rows else "model"
    return rows.assign(
        metric=parts["metric"],
        protocol=parts["protocol"],
        backend=parts["backend"].where(parts["backend"] != "", default),
        source=parts["source"].where(parts["source"] != "", source),
    )


def analysed(rows: pd.DataFrame) -> pd.DataFrame:
    """A table of rows of any version as analyses take it: a label in the column `metric`, clips in
    `clip`. A table that is of that form is returned as it is."""
    return labelled(modern(rows))
