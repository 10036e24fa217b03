"""The initialisation sweep as a whole: its table, its figure, its costs, and claims with verdicts.

The seeds of a sweep are trainings, and are resampled first. What they share stands in their
cell.json (`shared`): where base model and teachers are among it, an interval says what another
training of the student would give, not what another teacher would. Cells of an old edition are
shown, and their claims are withdrawn (`cinelab.lab.reports.withdrawn`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from cinelab.lab.reports.plots import PALETTE, QUIET, TEMPLATE
from cinelab.lab.reports.verdicts import LEVEL, Look, about_mean, judged
from cinelab.lab.reports.withdrawn import with_edition, withdrawn
from cinelab.lab.studies.initialisation_cell import AFTER, BEFORE, TEACHER_STAGE
from cinelab.lab.studies.initialisation_costs import STUDY, cheaper
from cinelab.lab.studies.initialisation_starts import CONSISTENCIES, INITS, teacher_of
from cinelab.metrics.legacy import analysed, modern_columns
from cinelab.metrics.metric import METRICS
from cinelab.metrics.stats import Estimate, nested_bootstrap
from cinelab.train.true_past import TRUE_PAST

RECALLED = "identity (recalled)"
MEASURED = (
    "prompt",
    "action",
    "camera",
    "kind",
    RECALLED,
    "looks",
    "cut accuracy",
    "motion",
    "sharpness",
    "contrast",
    "identity above chance (kept)",
    "scenery above chance (kept)",
    "diversity of identity",
    "diversity of scenery",
)
SHOWN = ("prompt", RECALLED, "motion", "sharpness")
STAGES = (BEFORE, AFTER)
BUDGET = {"trained": 120, "updates": 15}  # of cells that do not state theirs
ORDER = [
    ("consistency", "causal_ode"),
    ("consistency_equal_seconds", "causal_ode"),
    ("causal_ode", "bidirectional_ode"),
    ("consistency", "none"),
]
CONSISTENCY = dict(zip(CONSISTENCIES, ("equal clips", "equal seconds"), strict=True))
BASELINES = {
    "bidirectional_ode": "Self Forcing's baseline: a noisy history, a level a chunk",
    "bidirectional_clean": "no paper's baseline: the end points of the past as history",
    TRUE_PAST: "a control: the same past and number of chunks, and the noisy future beside them",
}
UNTRAINED = ("none", "score")  # starts that have no steps of stage 2 to vary


@dataclass(frozen=True)
class Budget:
    """At what two starts are compared: levels, steps of stage 2, and updates of DMD's student.
    The text names those of which a table has several."""

    steps: int
    trained: int
    updates: int
    named: tuple[str, ...] = ()

    def __str__(self) -> str:
        more = {"trained": f"{self.trained} steps", "updates": f"{self.updates} updates"}
        return ", ".join([f"{self.steps} levels", *(more[name] for name in self.named)])


def stated_budget(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with their columns `trained` (steps of stage 2) and `updates` (of DMD's student), which
    older rows do not have."""
    unstated = {
        "trained": pd.Series(BUDGET["trained"], rows.index),
        "updates": (rows["stage"] == AFTER) * BUDGET["updates"],
    }
    given = {name: rows[name].fillna(unstated[name]) for name in BUDGET if name in rows}
    return rows.assign(**(unstated | given))


def per_film(rows: pd.DataFrame) -> pd.DataFrame:
    """One value a film: init, stage, steps, trained, updates, metric, seed, film, value, and the
    oldest edition. Rows of the truth are left out."""
    keys = ["init", "stage", "steps", "trained", "updates", "metric", "seed", "film"]
    rows = analysed(rows).rename(columns={"clip": "film"})
    rows = rows[rows.source == "model"] if "source" in rows else rows
    rows = stated_budget(with_edition(rows[rows.metric.isin(MEASURED)]))
    films = rows.groupby(keys, as_index=False)
    return films.agg(value=("value", "mean"), edition=("edition", "min"))


def nested_estimate(films: pd.DataFrame) -> Estimate:
    """Mean over films; seeds are resampled first, since each is a training of its own."""
    return nested_bootstrap(films.value.tolist(), films.seed.tolist())


def init_table(rows: pd.DataFrame) -> pd.DataFrame:
    """metric, stage, steps, trained, updates, init, value, low, high, n (films), trainings,
    edition.

    The stage TEACHER_STAGE is the card of the teacher whose pairs or steps an initialisation learnt
    from, on the films that its students are measured on.
    """
    found = []
    keys = ["metric", "stage", "steps", "trained", "updates", "init"]
    for key, films in per_film(rows).groupby(keys):
        e = nested_estimate(films)
        found.append((*key, e.value, e.low, e.high, e.n, films.seed.nunique(), films.edition.min()))
    names = [*keys, "value", "low", "high", "n", "trainings", "edition"]
    table = pd.DataFrame(found, columns=names).round(4)
    ranks = {"metric": MEASURED, "stage": (TEACHER_STAGE, *STAGES), "init": INITS}

    def place(column: pd.Series) -> pd.Series:
        return column.map(ranks[column.name].index) if column.name in ranks else column

    return table.sort_values(keys, key=place, ignore_index=True)


def _points(
    part: pd.DataFrame, names: list[str], levels: list[int], *, stage: str
) -> Iterator[go.Scatter]:
    """Yield the means and intervals of each initialisation by levels."""
    for number, init in enumerate(names):
        mine = part[part.init == init]
        # side by side, so that intervals do not hide each other
        aside = 0.13 * (number - (len(names) - 1) / 2)
        color = PALETTE[INITS.index(init) % len(PALETTE)]
        yield go.Scatter(
            x=[levels.index(steps) + aside for steps in mine.steps],
            y=mine.value,
            name=init,
            legendgroup=init,
            mode="markers",
            marker={"color": color, "size": 10, "symbol": number},
            error_y={
                "array": mine.high - mine.value,
                "arrayminus": mine.value - mine.low,
                "thickness": 2,
                "width": 4,
            },
            customdata=mine.steps,
            hovertemplate=f"{init}, %{{customdata}} levels: %{{y:.3f}}<extra>{stage}</extra>",
        )


def _largest(table: pd.DataFrame) -> pd.DataFrame:
    """Of each start, stage and level, what the most steps and updates gave."""
    budget = [name for name in BUDGET if name in table]
    if not budget:
        return table
    last = table.sort_values(budget)
    return last.drop_duplicates(["metric", "stage", "steps", "init"], keep="last").sort_index()


def init_points(rows: pd.DataFrame) -> go.Figure:
    """Mean and interval of every initialisation by levels: before DMD above, after DMD below.

    `rows` are a sweep's, or already its table.
    """
    table = modern_columns(rows) if "low" in rows else init_table(rows)
    table = _largest(table[table.stage.isin(STAGES)])
    names = [name for name in INITS if name in set(table.init)]
    levels = sorted(table.steps.unique())
    fig = make_subplots(
        2,
        len(SHOWN),
        subplot_titles=[*SHOWN, *[""] * len(SHOWN)],
        vertical_spacing=0.08,
        horizontal_spacing=0.05,
        shared_xaxes=True,
    )
    for row, stage in enumerate(STAGES, 1):
        for column, metric in enumerate(SHOWN, 1):
            part = table[(table.metric == metric) & (table.stage == stage)]
            for points in _points(part, names, levels, stage=stage):
                fig.add_trace(points.update(showlegend=(row, column) == (1, 1)), row, column)
            whole = table[table.metric == metric]
            ends = [whole.low.min(), whole.high.max()]
            if METRICS.of(metric).relative:
                fig.add_hline(y=1, line={"dash": "dash", "color": QUIET}, row=row, col=column)
                ends = [min(ends[0], 1), max(ends[1], 1)]
            fig.update_yaxes(
                range=[ends[0] - 0.03, ends[1] + 0.03], row=row, col=column
            )  # the same before and after
        fig.update_yaxes(title=stage, row=row, col=1)
    fig.update_xaxes(
        tickvals=list(range(len(levels))),
        ticktext=[str(n) for n in levels],
        range=[-0.5, len(levels) - 0.5],
    )
    return fig.update_xaxes(title="levels", row=2).update_layout(
        template=TEMPLATE,
        title="Initialisation of a few-step student",
        height=700,
        legend={"orientation": "h", "y": -0.12, "yanchor": "top"},
    )


def init_claims(rows: pd.DataFrame, cells: pd.DataFrame, margin: float = LEVEL) -> pd.DataFrame:
    """Each claim of the papers with its verdict (`cinelab.lab.reports.verdicts`); `margin` is that
    of "level".

    p is corrected by Holm over the whole table. A claim on consistency stands only where its rows
    at equal clips and at equal seconds agree.
    """
    films = per_film(rows)
    looks = [*_ahead(films), *_level(films, margin), *_teachers(films), *_sharper(films)]
    looks += [*_moves(films), *_covers(films), *_as_good(films, margin)]
    return judged([*looks, cheaper(cells)])


def budgets(films: pd.DataFrame, stage: str, init: str | None = None) -> list[Budget]:
    """The budgets at which a stage was measured, of one start or of all."""
    keys = ["steps", *BUDGET]
    students = films[films.stage.isin(STAGES) & ~films.init.isin(UNTRAINED)]
    named = tuple(name for name in BUDGET if students[students.stage == stage][name].nunique() > 1)
    part = films[(films.stage == stage) & (films.init == init if init else True)]
    trained = part[~part.init.isin(UNTRAINED)]
    found = (trained if len(trained) else part)[keys].drop_duplicates().sort_values(keys)
    rows = found.astype(int).itertuples(index=False, name=None)
    return [Budget(steps, trained, updates, named) for steps, trained, updates in rows]


def _ahead(films: pd.DataFrame) -> Iterator[Look]:
    """After DMD: is one start ahead of another?"""
    for better, worse in ORDER:
        for at in budgets(films, AFTER):
            for metric in SHOWN[:2]:
                yield start_look(films, better, worse, stage=AFTER, at=at, metric=metric)


def _level(films: pd.DataFrame, margin: float) -> Iterator[Look]:
    """After DMD: is consistency level with causal ODE?"""
    for one in CONSISTENCY:
        for at in budgets(films, AFTER):
            for metric in SHOWN[:2]:
                about: dict[str, Any] = {"stage": AFTER, "at": at, "metric": metric}
                yield start_look(films, one, "causal_ode", **about, level=margin)


def _teachers(films: pd.DataFrame) -> Iterator[Look]:
    """Before and after DMD: does the teacher's kind matter, under clean histories?"""
    for other in ("bidirectional_clean", TRUE_PAST):
        for stage in STAGES:
            for at in budgets(films, stage, other)[:1]:
                for metric in SHOWN[:2]:
                    yield start_look(films, "causal_ode", other, stage=stage, at=at, metric=metric)


def _sharper(films: pd.DataFrame) -> Iterator[Look]:
    """Before DMD: does regression to the bidirectional teacher blur?"""
    for other in ("bidirectional_ode", "bidirectional_clean", TRUE_PAST):
        for at in budgets(films, BEFORE, other):
            yield start_look(films, "causal_ode", other, stage=BEFORE, at=at, metric="sharpness")


def _moves(films: pd.DataFrame) -> Iterator[Look]:
    """After DMD: does a student of the autoregressive teacher move more?"""
    for at in budgets(films, AFTER):
        about: dict[str, Any] = {"stage": AFTER, "at": at, "metric": "motion"}
        yield start_look(films, "causal_ode", "bidirectional_ode", **about)


def _covers(films: pd.DataFrame) -> Iterator[Look]:
    """Before DMD: is consistency more varied than score distillation?"""
    for at in budgets(films, BEFORE, "score")[:1]:
        about: dict[str, Any] = {"stage": BEFORE, "metric": "diversity of identity"}
        yield start_look(films, "consistency", "score", at=at, **about)


def _as_good(films: pd.DataFrame, margin: float) -> Iterator[Look]:
    """The precondition of the control: does its teacher follow prompts as the other one does?"""
    for at in budgets(films, TEACHER_STAGE, TRUE_PAST):
        about: dict[str, Any] = {"stage": TEACHER_STAGE, "at": at, "metric": "prompt"}
        yield start_look(films, "causal_ode", TRUE_PAST, **about, level=margin)


def start_look(
    films: pd.DataFrame,
    one: str,
    other: str,
    *,
    stage: str,
    at: Budget,
    metric: str,
    level: float | None = None,
) -> Look:
    """One comparison as a claim, withdrawn where either side was measured under an old edition.

    It says that `one` is ahead of `other`, or with `level` that both are within this margin.
    """
    gap = paired_gap(films, one, other, stage=stage, at=at, metric=metric)
    word = "is ahead of"
    how: dict[str, Any] = {"kind": "above", "margin": 0.0}
    if level is not None:
        word = "is level with"
        how = {"kind": "level", "margin": level}
    named = f"consistency ({CONSISTENCY[one]})" if one in CONSISTENCY else one
    where = f"{stage}, {at}"
    what = f"{word} {other} in {metric}"
    apart = "" if stage == TEACHER_STAGE else _teachers_apart(films, one, other, metric)
    about: dict[str, Any] = {"note": "; ".join(filter(None, (BASELINES.get(other, ""), apart)))}
    if one in CONSISTENCY and other == "causal_ode":
        about["twin"] = f"{where}: {what}"
    if len(gap):
        about["withdrawn"] = withdrawn(STUDY, (one, other), gap.edition.min())
    claim = f"{where}: {named} {what}"
    return about_mean(claim, gap.value, gap.seed.tolist(), **how, **about)


def paired_gap(
    films: pd.DataFrame, one: str, other: str, *, stage: str, at: Budget, metric: str
) -> pd.DataFrame:
    """one - other on the same films and seeds: seed, film, value, edition; maybe empty."""
    part = films[(films.stage == stage) & (films.steps == at.steps) & (films.metric == metric)]
    part = part[part.updates == at.updates]
    part = part[(part.trained == at.trained) | part.init.isin(UNTRAINED)]
    sides = [part[part.init == name].set_index(["seed", "film"]) for name in (one, other)]
    gap = (sides[0].value - sides[1].value).dropna()
    old = pd.concat([side.edition.reindex(gap.index) for side in sides], axis=1).min(axis=1)
    return pd.DataFrame({"value": gap, "edition": old}).reset_index()


def _teachers_apart(films: pd.DataFrame, one: str, other: str, metric: str) -> str:
    """How far the two starts' teachers are apart themselves, where these are of two kinds.

    End points recall the looks of the past that they were given.
    """
    kinds = {teacher_of(one), teacher_of(other)}
    if None in kinds or len(kinds) == 1:
        return ""
    metric = "looks" if metric == RECALLED else metric
    cards = budgets(films, TEACHER_STAGE, other)
    about = {"stage": TEACHER_STAGE, "metric": metric}
    gap = paired_gap(films, one, other, at=cards[0], **about) if cards else films[:0]
    if gap.empty:
        return "not the teacher's kind alone: no card of the teachers"
    found = nested_estimate(gap)
    return f"not the teacher's kind alone: the teachers' own {metric} differs by {found}"
