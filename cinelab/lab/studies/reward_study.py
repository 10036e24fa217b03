"""The reward sweep as a whole: its curves, its table, and claims with verdicts.

The seeds of a sweep are trainings, and are resampled before the films; all of them begin from one
student, so an interval says what another training of it would give. Arms are compared with the arm
`none` of the same method and seed on the same films. Holm's correction is over the whole table.
"""

from collections.abc import Iterator, Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from cinelab.lab.reports.plots import PALETTE, QUIET, TEMPLATE, centred_mean
from cinelab.lab.reports.verdicts import Look, about_mean, judged
from cinelab.lab.studies.reward_cell import ARMS, MEASURED_REWARDS, METHODS, REWARDED_STAGES
from cinelab.metrics.legacy import analysed
from cinelab.metrics.stats import nested_bootstrap

ABOVE = "identity above chance (kept)"
DIVERSITY = "diversity of identity"
OUTCOMES = (
    ABOVE,
    "identity (kept)",
    "identity (recalled)",
    "prompt",
    "action",
    "motion",
    DIVERSITY,
    "cut accuracy",
    "sharpness",
)
AIM = 0.10  # of identity kept above own chance, over the same training without rewards
LOSS = 0.02  # of prompt or diversity that still counts as none
MOTION = 0.95  # of the truth's
CONTROL = "none"
GUARDED_ARM = "identity+guards"
REWARD_PANELS = ("identity", "motion", "diversity", "prompt")


def reward_films(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one value a film: arm, method, stage, source, metric, seed, film, value."""
    keys = ["arm", "method", "stage", "source", "metric", "seed", "film"]
    rows = analysed(rows).rename(columns={"clip": "film"})
    rows = rows[rows.metric.isin(OUTCOMES) & (rows.status == "ok")]
    return rows.groupby(keys, as_index=False).agg(value=("value", "mean"))


def reward_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return metric, method, stage, arm, value, low, high, n (films), trainings, truth, chance."""
    films = reward_films(rows)
    mean = films.groupby(["metric", "source"]).value.mean()
    found = []
    made = films[films.source == "model"]
    for key, part in made.groupby(["metric", "method", "stage", "arm"]):
        e = nested_bootstrap(part.value.tolist(), part.seed.tolist())
        bounds = [mean.get((key[0], source)) for source in ("truth", "chance")]
        found.append((*key, e.value, e.low, e.high, e.n, part.seed.nunique(), *bounds))
    names = "metric method stage arm value low high n trainings truth chance".split()
    table = pd.DataFrame(found, columns=names).round(4)
    ranks = {"metric": OUTCOMES, "method": METHODS, "stage": REWARDED_STAGES, "arm": tuple(ARMS)}
    return table.sort_values(
        names[:4], key=lambda column: column.map(ranks[column.name].index), ignore_index=True
    )


def reward_claims(rows: pd.DataFrame) -> pd.DataFrame:
    """Return each claim with its verdict (`cinelab.lab.reports.verdicts`), by method."""
    films = reward_films(rows)
    films = films[(films.source == "model") & (films.stage == "after")]
    present = [method for method in METHODS if method in set(films.method)]
    return judged(look for method in present for look in _looks(films, method))


def _looks(films: pd.DataFrame, method: str) -> Iterator[Look]:
    """Yield the claims on one method: that identity alone is hacked, and that guards cure it."""
    part = films[films.method == method]
    for metric in ("motion", DIVERSITY):
        claim = f"{method}: identity alone loses {metric}"
        yield _about(claim, _gap(part, metric, CONTROL, "identity"), 0.0)
    gained = _gap(part, ABOVE, GUARDED_ARM, CONTROL)
    yield _about(f"{method}: with guards identity gains {AIM} above own chance", gained, AIM)
    for metric in ("prompt", DIVERSITY):
        claim = f"{method}: with guards {metric} loses less than {LOSS}"
        yield _about(claim, _gap(part, metric, GUARDED_ARM, CONTROL), -LOSS)
    moving = part[(part.metric == "motion") & (part.arm == GUARDED_ARM)]
    yield _about(f"{method}: with guards motion is above {MOTION} of the truth's", moving, MOTION)


def _about(claim: str, found: pd.DataFrame, margin: float) -> Look:
    """Return a look at the mean of values, one a film, whose trainings are resampled first."""
    return about_mean(claim, found.value.tolist(), found.seed.tolist(), margin=margin)


def _gap(films: pd.DataFrame, metric: str, one: str, other: str) -> pd.DataFrame:
    """Return one arm minus another on the same films and seeds: seed, film, value."""
    part = films[films.metric == metric]
    sides = [part[part.arm == arm].set_index(["seed", "film"]).value for arm in (one, other)]
    return (sides[0] - sides[1]).dropna().rename("value").reset_index()


def reward_curves(rows: Sequence[dict], arm: str, smooth: int = 9) -> go.Figure:
    """Draw each measured reward of a training's own clips over its steps; those that count are
    drawn thick."""
    fig = make_subplots(2, 2, subplot_titles=REWARD_PANELS, horizontal_spacing=0.12)
    for place, name in enumerate(REWARD_PANELS):
        known = [row for row in rows if row.get(f"reward_{name}") == row.get(f"reward_{name}", "")]
        values = centred_mean([row[f"reward_{name}"] for row in known], smooth)
        width = 3 if ARMS[arm].get(name) else 1.5
        line = {"color": PALETTE[MEASURED_REWARDS.index(name)], "width": width}
        steps = [row["step"] for row in known]
        curve = go.Scatter(x=steps, y=values, line=line, mode="lines", name=name, showlegend=False)
        fig.add_trace(curve, row=place // 2 + 1, col=place % 2 + 1)
    fig.update_yaxes(range=[0, 1.02])
    fig.update_xaxes(title="step", row=2)
    return fig.update_layout(
        template=TEMPLATE, title=f"Rewards of its own clips: {arm}", height=560
    )


def reward_bars(table: pd.DataFrame, method: str) -> go.Figure:
    """Draw what each arm has after a method, with intervals, beside the truth."""
    metrics = (ABOVE, "motion", DIVERSITY, "prompt")
    fig = make_subplots(1, len(metrics), subplot_titles=metrics, horizontal_spacing=0.06)
    for place, metric in enumerate(metrics, 1):
        part = table[(table.metric == metric) & (table.method == method) & (table.stage == "after")]
        colours = [PALETTE[list(ARMS).index(arm)] for arm in part.arm]
        error = {"array": part.high - part.value, "arrayminus": part.value - part.low}
        bars = go.Bar(x=part.arm, y=part.value, error_y=error, marker_color=colours)
        fig.add_trace(bars.update(showlegend=False), row=1, col=place)
        truth = part.truth.dropna()
        if len(truth):
            fig.add_hline(truth.iloc[0], line={"dash": "dash", "color": QUIET}, row=1, col=place)
    return fig.update_layout(template=TEMPLATE, title=f"After {method}", height=420)
