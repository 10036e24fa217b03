"""The course of DMD: what each start of the initialisation study has after so many updates of the
student (`updates` of the cell), from the first measured update to the last.

Three questions of Causal Forcing and Causal Forcing++ at each measured update:

    do starts converge      every start is level with every other in prompt and recall
    does motion die         motion stays at 0.95 of the truth's or above; and the last update has as
                            much of it as the first that was measured
    does variety die        diversity of what no prompt names stays at 0.90 of the truth's or above
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from cinelab.lab.reports.plots import PALETTE, TEMPLATE
from cinelab.lab.reports.verdicts import LEVEL, Look, about_mean, judged
from cinelab.lab.studies.initialisation_cell import AFTER
from cinelab.lab.studies.initialisation_starts import INITS
from cinelab.lab.studies.initialisation_study import (
    SHOWN,
    STAGES,
    Budget,
    budgets,
    init_table,
    per_film,
    start_look,
    stated_budget,
)
from cinelab.metrics.legacy import analysed, modern_columns

MOVING = 0.95  # of the truth's motion
VARIED = 0.90  # of the truth's diversity
DIVERSITY = "diversity of identity"
CURVES = (*SHOWN, "identity above chance (kept)", DIVERSITY)


def course_claims(rows: pd.DataFrame, margin: float = LEVEL) -> pd.DataFrame:
    """The verdicts after every measured update. p is corrected by Holm over all of them."""
    films = per_film(rows)
    return judged([*_converge(films, margin), *_moving(films), *_fading(films), *_varied(rows)])


def _converge(films: pd.DataFrame, margin: float) -> Iterator[Look]:
    """Is every start level with every other one?"""
    for at in budgets(films, AFTER):
        for one, other in combinations(_starts(films), 2):
            for metric in SHOWN[:2]:
                about: dict[str, Any] = {"stage": AFTER, "at": at, "metric": metric}
                yield start_look(films, one, other, **about, level=margin)


def _moving(films: pd.DataFrame) -> Iterator[Look]:
    """Does a start keep the truth's motion?"""
    for init in _starts(films):
        for at in budgets(films, AFTER, init):
            part = _part(films, init, at, "motion")
            claim = f"{AFTER}, {at}: {init} keeps {MOVING:g} of the truth's motion"
            yield about_mean(claim, part.value, part.seed.tolist(), margin=MOVING)


def _fading(films: pd.DataFrame) -> Iterator[Look]:
    """Has a start less motion at the last update than at the first that was measured?"""
    for init in _starts(films):
        found = budgets(films, AFTER, init)
        for steps in sorted({at.steps for at in found}):
            mine = [at for at in found if at.steps == steps]
            first, last = (
                _part(films, init, at, "motion").set_index(["seed", "film"]).value
                for at in (mine[0], mine[-1])
            )
            gap = (first - last).dropna().reset_index()
            claim = f"{steps} levels: {init} loses motion from {mine[0].updates} updates to "
            seeds = gap.seed.tolist()
            yield about_mean(f"{claim}{mine[-1].updates}", gap.value, seeds, margin=0.0)


def _varied(rows: pd.DataFrame) -> Iterator[Look]:
    """Does a start keep the truth's diversity? A film's is divided by the mean of the true films of
    its seed."""
    rows = analysed(rows)
    rows = rows[rows.metric == DIVERSITY]
    truth = rows[rows.source == "truth"].groupby("seed").value.mean()
    if truth.empty:
        return
    films = per_film(rows)
    films = films.assign(value=films.value / films.seed.map(truth)).dropna(subset="value")
    for init in _starts(films):
        for at in budgets(films, AFTER, init):
            part = _part(films, init, at, DIVERSITY)
            claim = f"{AFTER}, {at}: {init} keeps {VARIED:g} of the truth's {DIVERSITY}"
            yield about_mean(claim, part.value, part.seed.tolist(), margin=VARIED)


def _starts(films: pd.DataFrame) -> list[str]:
    measured = set(films[films.stage == AFTER].init)
    return [init for init in INITS if init in measured]


def _part(films: pd.DataFrame, init: str, at: Budget, metric: str) -> pd.DataFrame:
    """The films of a start at a budget."""
    part = films[(films.init == init) & (films.stage == AFTER) & (films.metric == metric)]
    return part[(part.steps == at.steps) & (part.updates == at.updates)]


def course_figure(rows: pd.DataFrame, steps: int | None = None) -> go.Figure:
    """Each start over the updates of DMD's student, 0 being before DMD, a panel a metric.

    `steps` are the student's levels (None: the fewest measured).
    """
    table = stated_budget(modern_columns(rows)) if "low" in rows else init_table(rows)
    table = table[table.stage.isin(STAGES)]
    steps = int(table.steps.min()) if steps is None else steps
    table = table[table.steps == steps].sort_values("updates")
    fig = make_subplots(2, 3, subplot_titles=CURVES, vertical_spacing=0.12)
    for place, metric in enumerate(CURVES):
        for init, part in table[table.metric == metric].groupby("init", sort=False):
            fig.add_trace(
                go.Scatter(
                    x=part.updates,
                    y=part.value,
                    name=init,
                    legendgroup=init,
                    showlegend=place == 0,
                    mode="lines+markers",
                    line={"color": PALETTE[INITS.index(init) % len(PALETTE)]},
                    error_y={"array": part.high - part.value, "arrayminus": part.value - part.low},
                ),
                place // 3 + 1,
                place % 3 + 1,
            )
    fig.update_xaxes(title="updates of the student", row=2)
    title = f"The course of DMD, {steps} levels"
    return fig.update_layout(template=TEMPLATE, title=title, height=640)
