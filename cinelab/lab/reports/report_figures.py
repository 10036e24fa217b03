"""The figures of a report: a metric over the settings, over the shots of long films, and quality
against cost.

Numbers lie along x as lines with their intervals, names stand as rows of dots. Every axis says what
it measures, panels are in the order of their numbers, levels to compare with are named beside the
panel, and every series has a marker of its own.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from cinelab.lab.reports.panels import (
    ACROSS,
    NUMBERS,
    POLICIES,
    and_more,
    axis_name,
    draw_series,
    finish_axes,
    legend_columns,
    panel_grid,
    plain_value,
    setting_name,
    shortened,
    split_panels,
)
from cinelab.lab.reports.paper import (
    PaperFigure,
    colours,
    legend,
    level,
    marker_at,
    name_levels,
    paper,
    title,
)
from cinelab.lab.reports.sweep_cells import Cells
from cinelab.lab.reports.sweep_table import pooled
from cinelab.metrics.rows import WHOLE
from cinelab.metrics.stats import bootstrap

LONG = 12  # shots from which on a film is looked at shot by shot
BIN = 4  # shots that are averaged there


def metric_figure(cells: Cells, metric: str, table: pd.DataFrame | None = None) -> PaperFigure:
    """One metric with 95 % intervals: lines where a setting is a number, rows of dots where all are
    names; chance dotted, truth dashed."""
    table = pooled(cells, [metric]) if table is None else table[table["metric"] == metric].copy()
    x, colour, facets = _axes(cells, table)
    panels, left_out = split_panels(table, facets)
    labels = _labels(table, colour, metric)
    number = pd.api.types.is_numeric_dtype(table[x]) and table[x].dtype != bool
    with paper():
        figure, grid = panel_grid(
            len(panels), rows=0 if number else table[x].nunique() * (1 if len(labels) < 4 else 1.6)
        )
        sentences: dict[str, list[str]] = {}
        for axes, (name, part) in zip(grid, panels, strict=False):
            draw = _lines if number else _dots
            draw(
                axes, part, x, colour, labels, list(dict.fromkeys(table[x].astype(str))), sentences
            )
            # above the names of the levels
            axes.set_title(name, loc="left", pad=None if number else 17)
        names = (setting_name(x) if x != "_" else "", axis_name(metric, cells))
        finish_axes(figure, grid, *(names if number else names[::-1]), values_up=number)
        _levels(figure, grid, [part for _, part in panels], upright=not number)
        if colour:
            legend(
                figure,
                colour,
                [shortened(label) for label in labels],
                legend_columns(figure, labels),
            )
        title(figure, metric + and_more(left_out))
    return PaperFigure(metric, figure, len(panels) > 2, sentences)


def _axes(cells: Cells, table: pd.DataFrame) -> tuple[str, str | None, list[str]]:
    """Which setting lies along x (the one with most numbers), which is the colour, which make
    panels."""
    numbers = [
        name
        for name in cells.varied
        if pd.api.types.is_numeric_dtype(table[name]) and table[name].dtype != bool
    ]
    along = max(numbers, key=lambda name: table[name].nunique(), default=None)
    rest = [name for name in cells.varied if name != along]
    colour = cells.which if cells.which in rest else next(iter(rest), None)
    rest = [name for name in rest if name != colour]
    if along is None:  # names only: the first in rows, the next as colour
        along = colour
        colour = next(iter(rest), None)
        rest = rest[1:]
    if along is None:
        table["_"], along = "all cells", "_"
    return along, colour, rest


def _labels(table: pd.DataFrame, colour: str | None, metric: str) -> list[str]:
    return [metric] if colour is None else list(dict.fromkeys(table[colour].map(plain_value)))


def _lines(
    axes: Axes,
    part: pd.DataFrame,
    x: str,
    colour: str | None,
    labels: Sequence[str],
    _: Sequence[str],
    sentences: dict,
) -> None:
    """A line a label over the numbers of x, with intervals; where only one number is there, dots
    side by side."""
    values = sorted(part[x].unique())
    logarithm = len(values) > 2 and values[0] > 0 and values[-1] / values[0] >= 16
    to, back = (np.log2, np.exp2) if logarithm else (lambda value: value, lambda value: value)
    span = to(values[-1]) - to(values[0])
    nudge = 0.008 * span if span else 0.12
    for number, label in enumerate(labels):
        line = (part[part[colour].map(plain_value) == label] if colour else part).sort_values(x)
        place = back(to(line[x].astype(float)) + (number - (len(labels) - 1) / 2) * nudge)
        draw_series(
            axes,
            line,
            place,
            y=line["value"],
            error="yerr",
            labels=labels,
            label=label,
            sentences=sentences,
            setting=x,
            joined=len(line) > 1,
        )
    if logarithm:
        axes.set_xscale("log", base=2)
    if not span:
        half = 0.12 * max(4, len(labels))
        axes.set_xlim(values[0] - half, values[0] + half)
    _number_ticks(axes, values, to)


def _number_ticks(axes: Axes, values: list[float], to: Callable) -> None:
    """Ticks at the numbers that were run, at fewer where they would touch."""
    span = max(to(values[-1]) - to(values[0]), 1e-9)
    kept = values[:1]
    for value in values[1:]:
        if (to(value) - to(kept[-1])) / span > 0.035 * len(plain_value(value)) + 0.02:
            kept.append(value)
    axes.xaxis.set_major_locator(FixedLocator(kept))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(NUMBERS)


def _dots(
    axes: Axes,
    part: pd.DataFrame,
    x: str,
    colour: str | None,
    labels: Sequence[str],
    names: Sequence[str],
    sentences: dict,
) -> None:
    """A row a name, a dot a label with its interval, from top to bottom in the table's order."""
    rows = part[x].map(plain_value) if part[x].dtype != object else part[x].astype(str)
    for number, label in enumerate(labels):
        chosen = part[colour].map(plain_value) == label if colour else rows.notna()
        shift = (number - (len(labels) - 1) / 2) * 0.7 / max(len(labels), 2)
        place = rows[chosen].map(lambda name: names.index(name)).astype(float) + shift
        draw_series(
            axes,
            part[chosen],
            part[chosen]["value"],
            y=place,
            error="xerr",
            labels=labels,
            label=label,
            sentences=sentences,
            setting=x,
            joined=False,
        )
    axes.set_yticks(
        range(len(names)), [shortened(name) if name != "all cells" else "" for name in names]
    )
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(NUMBERS)


def _levels(
    figure: Figure, grid: Sequence[Axes], parts: Sequence[pd.DataFrame], *, upright: bool
) -> None:
    """Chance and truth as lines, named beside the panel: beside the last of a row where they are
    the same in all of it."""
    found = [_levels_of(part) for part in parts]
    for axes, levels in zip(grid, found, strict=True):
        for name, value in levels:
            level(axes, value, {"chance": ":", "truth": "--"}[name], upright=upright)
    figure.draw_without_rendering()  # panels have their places and ranges
    for place, (axes, levels) in enumerate(zip(grid, found, strict=True)):
        last = place % ACROSS == ACROSS - 1 or place == len(grid) - 1
        if upright or last or not _alike(levels, found[place + 1]):
            name_levels(axes, levels, upright=upright)


def _levels_of(part: pd.DataFrame) -> list[tuple[str, float]]:
    means = {
        text: pd.to_numeric(part[name], errors="coerce").mean()
        for text, name in (("chance", "chance"), ("truth", "upper"))
    }
    return [(text, float(value)) for text, value in means.items() if np.isfinite(value)]


def _alike(one: list[tuple[str, float]], other: list[tuple[str, float]]) -> bool:
    def near(a: tuple[str, float], b: tuple[str, float]) -> bool:
        return a[0] == b[0] and abs(a[1] - b[1]) < 0.02

    return len(one) == len(other) and all(near(a, b) for a, b in zip(one, other, strict=True))


def shots_figure(cells: Cells, metric: str) -> PaperFigure | None:
    """A metric along the shots of long films, a line a setting with its 95 % band; None where films
    are short."""
    rows = cells.rows[cells.rows["source"] == "model"]
    names = {"prompt": ("size", "colour", "kind", "action", "setting", "time", "camera")}.get(
        metric, (metric,)
    )
    rows = rows[rows["metric"].isin(names) & (rows["shot"] > WHOLE)]
    if rows.empty or rows["shot"].nunique() < LONG:
        return None
    with paper():
        figure, (axes,) = panel_grid(1, tall=2.6)
        lines = {
            ", ".join(map(plain_value, label)): _band(part)
            for label, part in rows.groupby(cells.varied, sort=False)
        }
        chosen = colours(list(lines), POLICIES)
        for number, (name, (x, y, low, high)) in enumerate(lines.items()):
            axes.fill_between(x, low, high, color=chosen[name], alpha=0.15, linewidth=0)
            axes.plot(x, y, color=chosen[name], marker=marker_at(number), label=shortened(name))
        finish_axes(
            figure, [axes], "shot (from 1)", f"{metric} (mean of {BIN} shots)", values_up=True
        )
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        legend(
            figure,
            ", ".join(cells.varied),
            [shortened(name) for name in lines],
            legend_columns(figure, lines),
        )
        title(figure, f"{metric}, shot by shot")
    return PaperFigure(f"{metric} by shot", figure)


def _band(rows: pd.DataFrame) -> np.ndarray:
    """(shot, value, low, high) of every few shots, as four rows."""
    line = []
    for place, inside in rows.groupby(((rows["shot"] - 1) // BIN).astype(int)):
        groups = list(zip(inside["seed"], inside["clip"], strict=True))
        e = bootstrap(inside["value"].tolist(), groups=groups, resamples=500)
        line.append((place * BIN + (BIN + 1) / 2, e.value, e.low, e.high))
    found = np.array(line).T
    return np.where(np.isfinite(found), found, found[1])
