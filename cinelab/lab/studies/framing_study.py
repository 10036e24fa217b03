"""Does the adversarial head hold subjects in the frame? All cells together: curves and claims.

A claim is on pairs of the same film and training: what a student is after its last update against
its start, or one kind of head against another. Trainings are resampled before films, and p is
corrected over the table (`cinelab.lab.reports.verdicts`).
"""

from collections.abc import Iterator
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from cinelab.errors import CinelabError
from cinelab.lab.reports.plots import PALETTE, QUIET, TEMPLATE
from cinelab.lab.reports.verdicts import Look, about_mean, judged
from cinelab.lab.studies.framing_cell import HEADS
from cinelab.metrics.legacy import analysed
from cinelab.metrics.stats import nested_bootstrap

FRAMING = ("framing offset", "framing drift", "at the edge")
ABOVE_CHANCE = "identity above chance (kept)"
# metric -> by how much it may fall for the head to count as harmless, in its own unit
KEPT = {
    "prompt": 0.02,
    ABOVE_CHANCE: 0.05,
    "diversity of identity": 0.05,
    "motion": 0.05,
    "identity (recalled)": 0.05,
}
SHOWN = (*FRAMING, *KEPT)


def framing_films(rows: pd.DataFrame) -> pd.DataFrame:
    """One value a film: source, head, seed, updates, metric, film, value."""
    keys = ["source", "head", "seed", "updates", "metric", "clip"]
    rows = analysed(rows)
    rows = rows[rows.metric.isin(SHOWN)]
    return rows.groupby(keys, as_index=False).value.mean().rename(columns={"clip": "film"})


def framing_table(rows: pd.DataFrame) -> pd.DataFrame:
    """metric, head, updates, value, low, high, n, trainings; the head "truth" is the true films."""
    films = framing_films(rows)
    films = films.assign(head=films["head"].where(films.source == "model", "truth"))
    films = films.drop_duplicates(["head", "seed", "updates", "metric", "film"])
    found = []
    for key, part in films.groupby(["metric", "head", "updates"]):
        e = nested_bootstrap(part.value.tolist(), part.seed.tolist())
        found.append((*key, e.value, e.low, e.high, e.n, part.seed.nunique()))
    names = ["metric", "head", "updates", "value", "low", "high", "n", "trainings"]
    return pd.DataFrame(found, columns=names).round(4)


def framing_curves(rows: pd.DataFrame) -> go.Figure:
    """Draw every metric over the student's updates, a line a kind of head; dashed: the truth."""
    table = framing_table(rows)
    shown = [name for name in SHOWN if name in set(table.metric)]
    fig = make_subplots(-(-len(shown) // 2), 2, subplot_titles=shown, vertical_spacing=0.09)
    for number, metric in enumerate(shown):
        cell = {"row": number // 2 + 1, "col": number % 2 + 1}
        part = table[table.metric == metric]
        for head, colour in zip(HEADS, PALETTE, strict=False):
            line = part[part["head"] == head]
            if len(line):
                fig.add_trace(_line(line, head, colour).update(showlegend=number == 0), **cell)
        for value in part[part["head"] == "truth"].value:
            fig.add_hline(y=value, line={"dash": "dash", "color": QUIET}, **cell)
    fig.update_xaxes(title="updates of the student", row=-(-len(shown) // 2))
    title = "DMD with and without its adversarial head"
    return fig.update_layout(template=TEMPLATE, title=title, height=260 * (-(-len(shown) // 2)))


def _line(line: pd.DataFrame, head: str, colour: str) -> go.Scatter:
    """A curve with its intervals."""
    error = {"array": line.high - line.value, "arrayminus": line.value - line.low}
    bars = {**error, "thickness": 1}
    return go.Scatter(x=line.updates, y=line.value, error_y=bars, name=head, line={"color": colour})


def framing_claims(rows: pd.DataFrame) -> pd.DataFrame:
    """What CausalCine says of its head, each with a verdict."""
    films = framing_films(rows)
    films = films[films.source == "model"]
    if films.empty:
        raise CinelabError("The rows hold no measured student; run experiments/framing.yaml first.")
    return judged(_looks(films))


def _looks(films: pd.DataFrame) -> Iterator[Look]:
    last = int(films.updates.max())
    for metric in FRAMING:
        gap = _paired(films, metric, ("none", last), ("none", 0))
        yield _look(f"without a head, {metric} grows over {last} updates", gap)
    for head in [name for name in HEADS[1:] if name in set(films["head"])]:
        for metric in FRAMING:
            gap = _paired(films, metric, ("none", last), (head, last))
            yield _look(f"the head ({head}) lowers {metric} after {last} updates", gap)
        for metric, margin in KEPT.items():
            gap = _paired(films, metric, (head, last), ("none", last))
            claim = f"the head ({head}) does not lower {metric} by {margin:g} or more"
            yield _look(claim, gap, margin=-margin)


def _look(claim: str, gap: pd.DataFrame, **more: Any) -> Look:
    return about_mean(claim, gap.value.tolist(), gap.seed.tolist(), **more)


def _paired(
    films: pd.DataFrame, metric: str, one: tuple[str, int], other: tuple[str, int]
) -> pd.DataFrame:
    """one - other, each (head, updates), on the same films and trainings: seed, film, value."""
    part = films[films.metric == metric]
    sides = [
        part[(part["head"] == head) & (part.updates == updates)].set_index(["seed", "film"]).value
        for head, updates in (one, other)
    ]
    return (sides[0] - sides[1]).dropna().reset_index()
