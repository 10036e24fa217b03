"""The figures of a report: a metric over the settings, over the shots of long films, and quality against cost."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from cinelab.lab.plots import INK, PALETTE, QUIET, TEMPLATE
from cinelab.lab.pooling import TASKS, Cells, costs, pooled
from cinelab.score.metrics import told
from cinelab.score.stats import bootstrap

LONG = 12  # shots from which on a film is looked at shot by shot
MOST_PANELS = 4
POLICIES = ("camr", "full", "random", "sink", "window", "shot_sink", "random_shared")  # each keeps its colour in all figures
BETTER = {"pictures a CPU second": "high"}  # of the costs; the others are better low


def metric_figure(cells: Cells, metric: str, table: pd.DataFrame | None = None) -> go.Figure:
    """One metric with 95 % intervals: lines where a setting is a number, points where all are names; chance and truth dotted."""
    table = pooled(cells, [metric]) if table is None else table[table["metric"] == metric]
    x, colour, panel = _axes(cells, table)
    panels = list(dict.fromkeys(table[panel])) if panel else [None]
    panels = panels[:MOST_PANELS]
    fig = make_subplots(cols=len(panels), shared_yaxes=True, horizontal_spacing=0.03,
                        subplot_titles=[f"{panel} {value}" for value in panels] if panel else None)
    labels = list(dict.fromkeys(table[colour])) if colour else [metric]
    for column, value in enumerate(panels, 1):
        part = table if value is None else table[table[panel] == value]
        for number, label in enumerate(labels):
            line = part[part[colour] == label] if colour else part
            if len(line):
                fig.add_trace(_line(line, x, str(label), colour_of(str(label), number), column == 1), row=1, col=column)
        _bounds(fig, part, column)
    fig.update_layout(template=TEMPLATE, title=metric, height=430, margin={"t": 90, "b": 60}, legend={"title": colour},
                      showlegend=colour is not None)
    fig.update_xaxes(title_text=x if x != "_" else "")
    return fig.update_yaxes(title_text=told(metric, cells.about), col=1)


def colour_of(label: str, number: int) -> str:
    """A policy's own colour, or the palette's next."""
    return PALETTE[(POLICIES.index(label) if label in POLICIES else number) % len(PALETTE)]


def _axes(cells: Cells, table: pd.DataFrame) -> tuple[str, str | None, str | None]:
    """Which setting lies along x (the one with most numbers), which is the colour, which makes panels."""
    numbers = [name for name in cells.varied if pd.api.types.is_numeric_dtype(table[name]) and table[name].dtype != bool]
    along = max(numbers, key=lambda name: table[name].nunique(), default=None)
    rest = [name for name in cells.varied if name != along]
    colour = cells.which if cells.which in rest else next(iter(rest), None)
    rest = [name for name in rest if name != colour]
    if along is None:  # names only: the first along x, the next as colour
        along, colour, rest = colour, next(iter(rest), None), rest[1:]
    if along is None:
        table["_"], along = "all cells", "_"
    if len(rest) > 1:  # more than one left: their combinations are the panels
        table["_panel"] = table[rest].astype(str).agg(", ".join, axis=1)
        return along, colour, "_panel"
    return along, colour, next(iter(rest), None)


def _line(line: pd.DataFrame, x: str, name: str, colour: str, legend: bool) -> go.Scatter:
    number = pd.api.types.is_numeric_dtype(line[x])
    line = line.sort_values(x) if number else line
    up, down = (np.where(np.isfinite(edge), edge, np.nan) for edge in (line["high"] - line["value"], line["value"] - line["low"]))
    bars = {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "width": 4, "thickness": 1.5}
    hover = "%{x}: %{y:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}], n = %{customdata[2]}<extra>" + name + "</extra>"
    return go.Scatter(x=line[x] if number else line[x].astype(str), y=line["value"], error_y=bars, name=name, legendgroup=name,
                      showlegend=legend, mode="lines+markers" if number and len(line) > 1 else "markers",
                      marker={"size": 9, "color": colour}, line={"width": 2.5, "color": colour}, hovertemplate=hover,
                      customdata=line[["low", "high", "n"]].to_numpy())


def _bounds(fig: go.Figure, part: pd.DataFrame, column: int) -> None:
    for name, dash in (("chance", "dot"), ("upper", "dash")):
        level = pd.to_numeric(part[name], errors="coerce").mean()
        if np.isfinite(level):
            text = "chance" if name == "chance" else "truth"
            fig.add_hline(y=level, line={"color": QUIET, "dash": dash, "width": 1.2}, row=1, col=column,
                          annotation={"text": text, "font": {"size": 11, "color": QUIET}}, annotation_position="bottom right")


def shots_figure(cells: Cells, metric: str) -> go.Figure | None:
    """A metric along the shots of long films, a line a setting; None where films are short."""
    rows = cells.rows[cells.rows["source"] == "model"]
    names = {"prompt": ("size", "colour", "kind", "action", "setting", "time", "camera")}.get(metric, (metric,))
    rows = rows[rows["metric"].isin(names) & (rows["shot"] >= 0)]
    if rows.empty or rows["shot"].nunique() < LONG:
        return None
    fig = go.Figure(layout={"template": TEMPLATE, "title": f"{metric}, shot by shot", "height": 430, "margin": {"t": 90, "b": 60}})
    wide = 4
    bins = (rows["shot"] // wide).astype(int)
    for number, (label, part) in enumerate(rows.groupby(cells.varied, sort=False)):
        line = []
        for place, inside in part.groupby(bins):
            e = bootstrap(inside["value"].tolist(), groups=list(zip(inside["seed"], inside["film"], strict=True)), resamples=500)
            line.append((place * wide + (wide + 1) / 2, e.value, e.low, e.high))
        x, y, low, high = np.array(line).T
        name = ", ".join(map(str, label))
        colour = colour_of(name, number)
        fig.add_scatter(x=[*x, *x[::-1]], y=[*high, *low[::-1]], fill="toself", fillcolor=colour, opacity=0.13, line={"width": 0},
                        showlegend=False, hoverinfo="skip", legendgroup=name)
        fig.add_scatter(x=x, y=y, name=name, legendgroup=name, line={"color": colour, "width": 2.5}, mode="lines+markers")
    return fig.update_xaxes(title_text="shot").update_yaxes(title_text=f"{metric}, mean of {wide} shots")


def pareto_figure(cells: Cells, metric: str) -> go.Figure | None:
    """Quality against cost, a point a setting, a panel a task; what nothing beats in both is joined and named. None without cost."""
    price = costs(cells)
    names = [name for name in cells.varied if name in price]
    cost = next((name for name in ("pictures a CPU second", "memory seen, MiB", "chunks seen") if name in price), None)
    if cost is None:
        return None
    table = pooled(cells, [metric]).merge(price, on=names)
    tasks, methods = ([name for name in cells.varied if (name in TASKS) == wanted] for wanted in (True, False))
    table["panel"] = table[tasks].apply(lambda row: ", ".join(f"{k} {v}" for k, v in row.items()), axis=1) if tasks else ""
    table["label"] = table[methods].apply(said, axis=1) if methods else "all cells"
    panels = list(dict.fromkeys(table["panel"]))[:MOST_PANELS]
    fig = make_subplots(cols=len(panels), shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=panels if tasks else None)
    for column, panel in enumerate(panels, 1):
        _pareto_panel(fig, table[table["panel"] == panel], cost, cells.which if cells.which in methods else "label", column,
                      -1 if cells.better(metric) == "low" else 1)
    sized = "<br><sub>area: MiB of keys and values that a chunk sees</sub>" if _sizes(table, cost) is not None else ""
    fig.update_layout(template=TEMPLATE, title=f"{metric} against {cost}{sized}", height=430, margin={"t": 90, "b": 60})
    fig.update_xaxes(title_text=f"{cost} ({'more' if BETTER.get(cost) == 'high' else 'less'} is better)")
    about = told(metric, cells.about)
    return fig.update_yaxes(title_text=metric + (f" ({about})" if about else ""), col=1)


def said(row: pd.Series) -> str:
    """Settings in words: a name speaks for itself, a number needs the name of its setting."""
    return ", ".join(value if isinstance(value, str) else f"{name} {value}" for name, value in row.items())


def _pareto_panel(fig: go.Figure, table: pd.DataFrame, cost: str, colour: str, column: int, sign: int = 1) -> None:
    best = front(table[cost].to_numpy(), sign * table["value"].to_numpy(), BETTER.get(cost, "low"))
    edge, sizes = table[best].sort_values(cost), _sizes(table, cost)
    fig.add_scatter(x=edge[cost], y=edge["value"], mode="lines", line={"color": QUIET, "dash": "dot"}, name="nothing beats these",
                    legendgroup="front", showlegend=column == 1, row=1, col=column)
    hover = "%{customdata}<br>" + cost + " %{x}<br>%{y:.3f}<extra></extra>"
    for number, (name, part) in enumerate(table.groupby(colour, sort=False)):
        area = 11 if sizes is None else (9 + 24 * np.sqrt(sizes / sizes.max()))[part.index]
        bars = {"type": "data", "symmetric": False, "array": part["high"] - part["value"],
                "arrayminus": part["value"] - part["low"], "thickness": 1, "width": 0}
        fig.add_scatter(x=part[cost], y=part["value"], mode="markers+text", name=str(name), legendgroup=str(name), error_y=bars,
                        text=part["label"].where(part.index.isin(edge.index), ""), textposition="top center",
                        textfont={"size": 11, "color": INK}, customdata=part["label"], hovertemplate=hover, showlegend=column == 1,
                        marker={"size": area, "opacity": 0.8, "color": colour_of(str(name), number)}, row=1, col=column)


def _sizes(table: pd.DataFrame, cost: str) -> pd.Series | None:
    name = "memory seen, MiB"
    return table[name] if name in table and cost != name and table[name].max() > 0 else None


def front(cost: np.ndarray, value: np.ndarray, better: str = "low") -> np.ndarray:
    """Which points nothing beats in both: (n,) bool. A point is beaten by one at least as good in both and better in one."""
    cost = -cost if better == "high" else cost
    beaten = [bool(np.any((cost <= c) & (value >= v) & ((cost < c) | (value > v)))) for c, v in zip(cost, value, strict=True)]
    return ~np.array(beaten, bool)
