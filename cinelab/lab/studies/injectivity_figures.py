"""The figures of the injectivity study."""

import pandas as pd
import plotly.graph_objects as go

from cinelab.lab.reports.plots import ablation_lines
from cinelab.lab.studies.injectivity import injectivity_table, share_of_error


def variance_figure(rows: pd.DataFrame) -> go.Figure:
    """Share of a frame's freedom that hangs on what its student does not see, by noise level."""
    title = (
        "End point decided by what the student does not see (share of a fresh sample's variance)"
    )
    return _lines(injectivity_table(rows[rows.what == "share"]), "t", title)


def error_figure(rows: pd.DataFrame) -> go.Figure:
    """Share of the student's squared error that no training can remove, by noise level."""
    title = "Share of the student's squared error that the unseen decides"
    return _lines(share_of_error(rows), "t", title, upper=1.0)


def blur_figure(rows: pd.DataFrame) -> go.Figure:
    """Sharpness of the mean end point, the best that least squares can answer."""
    title = "Sharpness of the mean end point, as a share of the end points' own"
    return _lines(injectivity_table(rows[rows.what == "blur"]), "t", title, upper=1.0)


def sensitivity_figure(rows: pd.DataFrame) -> go.Figure:
    """How far the autoregressive teacher's end point moves with noise on the past it is shown."""
    top = rows[(rows.t == rows.t.max()) & (rows.history == "truth")]
    title = "Input sensitivity: variance of the end point by noise on a past that both see"
    fresh = top[top.what == "own"].value.mean()
    return _lines(
        injectivity_table(top[top.what == "sensitivity"]), "past_noise", title, upper=float(fresh)
    )


def _lines(table: pd.DataFrame, x: str, title: str, **more) -> go.Figure:
    return ablation_lines(
        table, x=x, y="value", colour="case", low="low", high="high", title=title, **more
    )
