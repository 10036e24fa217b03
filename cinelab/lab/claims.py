"""The initialisation sweep as a whole: one table, one figure, what each costs, and the papers' claims with a verdict."""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from cinelab.errors import CinelabError
from cinelab.files import write_atomic, write_json
from cinelab.lab.initialisation import INITS
from cinelab.lab.plots import PALETTE, QUIET, TEMPLATE
from cinelab.score.stats import Estimate, nested_bootstrap

METRICS = ("prompt", "action", "identity", "cuts", "motion of truth", "sharpness of truth", "contrast of truth")
SHOWN = ("prompt", "identity", "motion of truth", "sharpness of truth")
STAGES = ("before DMD", "after DMD")
ORDER = [("consistency", "causal_ode"), ("causal_ode", "bidirectional_ode"), ("consistency", "none")]


def per_film(rows: pd.DataFrame) -> pd.DataFrame:
    """One value a film: init, stage, steps, metric, seed, film, value."""
    keys = ["init", "stage", "steps", "metric", "seed", "film"]
    return rows[rows.metric.isin(METRICS)].groupby(keys, as_index=False).value.mean()


def estimate(films: pd.DataFrame) -> Estimate:
    """Mean over films; seeds are resampled first, since each is a training of its own."""
    return nested_bootstrap(films.value.tolist(), films.seed.tolist())


def init_table(rows: pd.DataFrame) -> pd.DataFrame:
    """metric, stage, steps, init, value, low, high, n."""
    found = []
    for (metric, stage, steps, init), films in per_film(rows).groupby(["metric", "stage", "steps", "init"]):
        e = estimate(films)
        found.append((metric, stage, steps, init, e.value, e.low, e.high, e.n))
    table = pd.DataFrame(found, columns=["metric", "stage", "steps", "init", "value", "low", "high", "n"]).round(4)
    ranks = {"metric": METRICS, "stage": STAGES, "init": INITS}
    return table.sort_values(list(table.columns[:4]), key=lambda c: c.map(ranks[c.name].index) if c.name in ranks else c,
                             ignore_index=True)


def init_points(rows: pd.DataFrame) -> go.Figure:
    """Mean and interval of every initialisation by levels: before DMD above, after DMD below."""
    table = init_table(rows)
    names = [name for name in INITS if name in set(table.init)]
    levels = sorted(table.steps.unique())
    fig = make_subplots(2, len(SHOWN), subplot_titles=[*SHOWN, *[""] * len(SHOWN)], vertical_spacing=0.08,
                        horizontal_spacing=0.05, shared_xaxes=True)
    for row, stage in enumerate(STAGES, 1):
        for column, metric in enumerate(SHOWN, 1):
            part = table[(table.metric == metric) & (table.stage == stage)]
            for number, init in enumerate(names):
                mine = part[part.init == init]
                aside = 0.13 * (number - (len(names) - 1) / 2)  # side by side, so that intervals do not hide each other
                fig.add_scatter(x=[levels.index(steps) + aside for steps in mine.steps], y=mine.value, name=init,
                                legendgroup=init, mode="markers", showlegend=(row, column) == (1, 1), row=row, col=column,
                                marker={"color": PALETTE[INITS.index(init)], "size": 10, "symbol": number},
                                error_y={"array": mine.high - mine.value, "arrayminus": mine.value - mine.low,
                                         "thickness": 2, "width": 4}, customdata=mine.steps,
                                hovertemplate=f"{init}, %{{customdata}} levels: %{{y:.3f}}<extra>{stage}</extra>")
            whole = table[table.metric == metric]
            ends = [whole.low.min(), whole.high.max()]
            if metric.endswith("truth"):
                fig.add_hline(y=1, line={"dash": "dash", "color": QUIET}, row=row, col=column)
                ends = [min(ends[0], 1), max(ends[1], 1)]
            fig.update_yaxes(range=[ends[0] - 0.03, ends[1] + 0.03], row=row, col=column)  # the same before and after
        fig.update_yaxes(title=stage, row=row, col=1)
    fig.update_xaxes(tickvals=list(range(len(levels))), ticktext=[str(n) for n in levels], range=[-0.5, len(levels) - 0.5])
    return fig.update_xaxes(title="levels", row=2).update_layout(
        template=TEMPLATE, title="Initialisation of a few-step student", height=700,
        legend={"orientation": "h", "y": -0.12, "yanchor": "top"})


def init_costs(*sweeps: str | Path) -> pd.DataFrame:
    """Seconds and bytes that each initialisation took, means over seeds."""
    cells = [json.loads(path.read_text()) for sweep in sweeps for path in sorted(Path(sweep).glob("*/cell.json"))]
    if not cells:
        raise CinelabError(f"{sweeps[0]} holds no finished cell; run `cinelab sweep experiments/initialisation.yaml` first.")
    table = pd.DataFrame(cells)
    numbers = [c for c in table if "seconds" in c or "bytes" in c]
    costs = table.groupby("init")[numbers].mean().reindex([name for name in INITS if name in set(table.init)])
    costs.insert(0, "seconds before DMD", costs["stage 2 seconds"] + costs["pairs seconds"])
    return costs.round(1).reset_index()


def init_claims(rows: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """Each claim of the papers: what was measured, and a verdict that the interval decides."""
    films, found = per_film(rows), []
    for better, worse in ORDER:
        for steps in sorted(films.steps.unique()):
            for metric in SHOWN[:2]:
                gap = difference(films, better, worse, "after DMD", steps, metric)
                found.append((f"after DMD, {steps} levels: {better} is ahead of {worse} in {metric}", gap, verdict(gap)))
    alone = [("bidirectional_ode", steps) for steps in sorted(films.steps.unique())]
    if "bidirectional_clean" in set(films.init):
        steps = films[films.init == "bidirectional_clean"].steps.min()
        alone.append(("bidirectional_clean", steps))
        for stage, metric in itertools.product(STAGES, SHOWN[:2]):
            gap = difference(films, "causal_ode", "bidirectional_clean", stage, steps, metric)
            found.append((f"{stage}, {steps} levels: causal_ode is ahead of bidirectional_clean in {metric}", gap, verdict(gap)))
    for other, steps in alone:
        gap = difference(films, "causal_ode", other, "before DMD", steps, "sharpness of truth")
        found.append((f"before DMD, {steps} levels: causal_ode is sharper than {other}", gap, verdict(gap)))
    found = [(claim, "not in the sweep" if gap is None else f"difference {gap}", word) for claim, gap, word in found]
    cost = costs.set_index("init")
    if {"consistency", "causal_ode"} <= set(cost.index):
        ratio = cost["seconds before DMD"]["causal_ode"] / max(cost["seconds before DMD"]["consistency"], 1e-9)
        stored = cost["stored bytes"]["causal_ode"] / 2**20
        found.append(("consistency costs about a quarter of causal_ode's time, and stores no pairs",
                      f"causal_ode takes {ratio:.2f} times as long and stores {stored:.0f} MiB",
                      "confirmed" if ratio >= 3 else "refuted at this scale"))
    return pd.DataFrame(found, columns=["claim", "measured", "verdict"])


def difference(films: pd.DataFrame, one: str, other: str, stage: str, steps: int, metric: str) -> Estimate | None:
    """Mean of one - other on the same films under the same seeds; None where a side is lacking."""
    part = films[(films.stage == stage) & (films.steps == steps) & (films.metric == metric)]
    sides = [part[part.init == name].set_index(["seed", "film"]).value for name in (one, other)]
    gap = (sides[0] - sides[1]).dropna().reset_index()
    return estimate(gap) if len(gap) else None


def verdict(gap: Estimate | None) -> str:
    if gap is None:
        return "not measured"
    return "confirmed" if gap.low > 0 else "refuted" if gap.high < 0 else "undecided: the interval holds 0"


def made_up(folder: Path) -> Path:
    """Four tiny invented cells, to try the notebook out."""
    rng = np.random.default_rng(0)
    for init in ("none", "bidirectional_ode", "causal_ode", "consistency"):
        parts = [pd.DataFrame({"film": range(4), "metric": metric, "value": rng.random(4), "steps": 1, "stage": stage,
                               "init": init, "seed": seed}) for metric in METRICS for stage in STAGES for seed in (0, 1)]
        rows = pd.concat(parts, ignore_index=True)
        write_atomic(folder / init / "rows.parquet", lambda path, rows=rows: rows.to_parquet(path))
        write_json(folder / init / "cell.json", {"init": init, "seed": 0, "stage 2 seconds": 1.0, "pairs seconds": 2.0,
                                                 "stored bytes": 10})
    return folder
