"""What the figures of a report share: panels in the order of their numbers, the names of axes,
and a series with its intervals."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from cinelab.lab.reports.number_text import interval, rounded_text
from cinelab.lab.reports.paper import colours, marker_at
from cinelab.lab.reports.sweep_cells import Cells
from cinelab.limits import truncated
from cinelab.metrics.metric import unit_and_direction

MOST_KEYS = 16  # points that are numbered and named
# panels in a row, and in a figure
ACROSS = 4
MOST_PANELS = 12
# each keeps its colour in all figures
POLICIES = ("camr", "full", "random", "sink", "window", "shot_sink", "random_shared")
NUMBERS = FuncFormatter(lambda value, _: f"{round(value, 9) + 0:g}")  # never -0
SETTING_UNITS = {
    "budget": "chunks",
    "away": "shots",
    "latents": "latent frames",
    "steps": "sampling steps",
    "guidance": "scale",
    "grain": "latent frames",
    "films": "films",
    "history": "chunks",
    "seconds": "s",
    "sink": "chunks",
    "window": "chunks",
}


def and_more(left_out: int) -> str:
    return f" ({left_out} more panels are in the tables)" if left_out else ""


def axis_name(metric: str, cells: Cells) -> str:
    """A metric and what it is counted in, on an axis."""
    about = unit_and_direction(metric, cells.about)
    return f"{metric} ({about})" if about else metric


def setting_name(name: str) -> str:
    """A setting and its unit, on an axis."""
    return f"{name} ({SETTING_UNITS[name]})" if name in SETTING_UNITS else name


def split_panels(
    table: pd.DataFrame, facets: Sequence[str]
) -> tuple[list[tuple[str, pd.DataFrame]], int]:
    """(name, rows) of every panel, numbers in their order, and how many did not fit."""
    if not facets:
        return [("", table)], 0
    found = [(key, part) for key, part in table.groupby(list(facets), sort=False, dropna=False)]
    found.sort(key=lambda one: [_rank(value) for value in one[0]])
    named = [
        (
            ", ".join(
                f"{name} {plain_value(value)}" for name, value in zip(facets, key, strict=True)
            ),
            part,
        )
        for key, part in found
    ]
    return named[:MOST_PANELS], max(0, len(named) - MOST_PANELS)


def _rank(value) -> tuple:
    """Numbers by size, then texts by letter."""
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    return (0, float(value), "") if number else (1, 0.0, str(value))


def plain_value(value) -> str:
    """A value as people write it: no trailing zeros, no -0."""
    return f"{value + 0:g}" if isinstance(value, (float, np.floating)) else str(value)


def panel_grid(count: int, rows: float = 0, tall: float = 2.35) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels that share their axes; `rows` of dots make it as high as they
    need."""
    across = min(ACROSS, count)
    down = -(-count // across)
    each = max(1.3, 0.3 * rows + 0.5) if rows else tall
    wide = {1: 5.6, 2: 7.2, 3: 9.2, 4: 11.0}[across]
    figure = Figure(figsize=(wide, down * (each + 0.25) + 1.15))
    grid = figure.subplots(down, across, sharex=bool(rows), sharey=True, squeeze=False)
    for spare in grid.flat[count:]:
        spare.remove()
    return figure, list(grid.flat[:count])


def shortened(name: str) -> str:
    return truncated(name, 34, "…")


def draw_series(
    axes: Axes,
    line: pd.DataFrame,
    x,
    *,
    y,
    error: str,
    labels: Sequence[str],
    label: str,
    sentences: dict,
    setting: str,
    joined: bool,
) -> None:
    """One series with its intervals; what is not finite has no bar. Notes what its markers say."""
    if line.empty:
        return
    bars = np.array([line["value"] - line["low"], line["high"] - line["value"]], float)
    bars = np.where(np.isfinite(bars), np.clip(bars, 0, None), 0)
    colour = colours(labels, POLICIES)[label]
    gid = f"series-{len(sentences)}"
    axes.errorbar(
        x,
        y,
        xerr=bars if error == "xerr" else None,
        yerr=bars if error == "yerr" else None,
        fmt="none",
        ecolor=colour,
        elinewidth=1.2,
        capsize=2,
        zorder=2,
    )
    axes.plot(
        x,
        y,
        label=shortened(label),
        gid=gid,
        color=colour,
        marker=marker_at(labels.index(label)),
        linestyle="-" if joined else "none",
        zorder=3,
    )
    sentences[gid] = [_sentence(label, setting, row) for row in line.to_dict("records")]


def _sentence(label: str, setting: str, row: dict) -> str:
    about = "" if setting == "_" else f", {setting} {plain_value(row[setting])}"
    between = interval(row["low"], row["high"])
    return f"{label}{about}: {rounded_text(row['value'])}{between}, n = {row['n']}"


def finish_axes(
    figure: Figure, grid: Sequence[Axes], along: str, up: str, *, values_up: bool
) -> None:
    """Names of the axes, once for all panels; values to a few places, never -0."""
    for place, axes in enumerate(grid):
        if values_up:
            axes.yaxis.set_major_formatter(NUMBERS)
        axes.tick_params(labelleft=place % ACROSS == 0)
        if not values_up:  # panels share the values below them; the last of each column says them
            axes.tick_params(labelbottom=place + ACROSS >= len(grid))
    lowest = grid[-(-len(grid) // ACROSS) * ACROSS - ACROSS :] if len(grid) > ACROSS else grid
    # not the figure's own label: a legend below it would cover that
    middle = (len(lowest) - 1) // 2
    lowest[middle].set_xlabel(along, x=0.5 if len(lowest) % 2 else 1.0)
    if len(grid) == 1:
        grid[0].set_ylabel(up)
    else:
        figure.supylabel(up, fontsize=9)


def legend_columns(figure: Figure, labels: Iterable[str]) -> int:
    """How many names of a legend fit beside each other."""
    longest = max((len(shortened(label)) for label in labels), default=1)
    return max(1, int(figure.get_figwidth() * 72 / (longest * 5.4 + 42)))


def settings_in_words(row: pd.Series) -> str:
    """Settings in words: a name speaks for itself, a number needs the name of its setting."""
    return ", ".join(
        value if isinstance(value, str) else f"{name} {plain_value(value)}"
        for name, value in row.items()
    )
