"""Quality against cost: what no other setting beats in both."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from cinelab.lab.reports.panels import (
    MOST_KEYS,
    NUMBERS,
    and_more,
    axis_name,
    draw_series,
    finish_axes,
    legend_columns,
    panel_grid,
    plain_value,
    settings_in_words,
    shortened,
    split_panels,
)
from cinelab.lab.reports.paper import (
    QUIET,
    PaperFigure,
    key,
    legend,
    paper,
    title,
)
from cinelab.lab.reports.sweep_table import TASKS, Cells, costs, pooled

# costs against which quality is drawn, the first that was measured
COSTS = ("frames per CPU second", "KV cache attended to, MiB", "chunks attended to")


BETTER = {"frames per CPU second": "high"}  # of the costs; the others are better low


def pareto_figure(cells: Cells, metric: str) -> PaperFigure | None:
    """Quality against cost, a point a setting, a panel a task; what nothing beats in both is
    joined, numbered and named below. None without cost."""
    price = costs(cells)
    cost = next((name for name in COSTS if name in price), None)
    if cost is None:
        return None
    table = pooled(cells, [metric]).merge(
        price, on=[name for name in cells.varied if name in price]
    )
    tasks, methods = (
        [name for name in cells.varied if (name in TASKS) == wanted] for wanted in (True, False)
    )
    table["label"] = table[methods].apply(settings_in_words, axis=1) if methods else "all cells"
    panels, left_out = split_panels(table, tasks)
    which = cells.which if cells.which in methods else "label"
    if table[which].nunique() > MOST_KEYS:  # too many to be distinct by colour
        table["any"], which = "settings", "any"
    sign = -1 if cells.better(metric) == "low" else 1
    better = BETTER.get(cost, "low")
    with paper():
        figure, grid = panel_grid(len(panels), tall=2.6)
        pointed: dict[str, list[str]] = {}
        labels = list(dict.fromkeys(table[which].map(plain_value)))
        keys: dict[str, int] = {}
        best_of_all = set()
        for axes, (name, part) in zip(grid, panels, strict=True):
            best = _pareto_panel(
                axes,
                part,
                cost,
                which=which,
                labels=labels,
                sign=sign,
                better=better,
                pointed=pointed,
            )
            axes.set_title(name, loc="left")
            best_of_all |= set(best["label"])
            for label in few(best["label"].tolist(), MOST_KEYS // len(panels) or 1):
                keys.setdefault(label, len(keys) + 1)
        direction = "more" if better == "high" else "less"
        finish_axes(
            figure,
            grid,
            f"{cost}: {direction} is better",
            axis_name(metric, cells),
            values_up=True,
        )
        legend(figure, None, [shortened(label) for label in labels], legend_columns(figure, labels))
        key(
            figure,
            "nothing beats in both" if len(keys) == len(best_of_all) else "some that nothing beats",
            [f"{number}  {shortened(label)}" for label, number in keys.items()],
        )
        title(figure, f"{metric} against cost{and_more(left_out)}")
        figure.draw_without_rendering()  # panels have their places
        for axes, (_, part) in zip(grid, panels, strict=True):
            _numbered(axes, part, cost, keys=keys, sign=sign, better=better)
    return PaperFigure(f"{metric} against cost", figure, True, pointed)


def _pareto_panel(
    axes: Axes,
    table: pd.DataFrame,
    cost: str,
    *,
    which: str,
    labels: Sequence[str],
    sign: int,
    better: str,
    pointed: dict,
) -> pd.DataFrame:
    """The points of one panel; returns those that nothing beats, along the cost."""
    edge = table[
        front(table[cost].to_numpy(), sign * table["value"].to_numpy(), better)
    ].sort_values(cost)
    axes.plot(edge[cost], edge["value"], ":", color=QUIET, linewidth=1.2, zorder=1)
    for label in labels:
        part = table[table[which].map(plain_value) == label]
        draw_series(
            axes,
            part,
            part[cost],
            y=part["value"],
            error="yerr",
            labels=labels,
            label=label,
            sentences=pointed,
            setting="label",
            joined=False,
        )
    axes.margins(x=0.12, y=0.16)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(NUMBERS)
    return edge


def few(values: list, most: int) -> list:
    """At most so many of them, the first and the last among them."""
    if len(values) <= most:
        return values
    return [values[place] for place in np.linspace(0, len(values) - 1, most).round().astype(int)]


def _numbered(
    axes: Axes, table: pd.DataFrame, cost: str, *, keys: dict[str, int], sign: int, better: str
) -> None:
    """The numbers of the points that nothing beats, inside the panel, beside their points where
    they meet neither each other nor a point."""
    edge = table[
        front(table[cost].to_numpy(), sign * table["value"].to_numpy(), better)
    ].sort_values(cost)
    edge = edge[edge["label"].isin(keys)]
    pixels = axes.figure.dpi / 72
    box = axes.get_window_extent()
    taken = list(axes.transData.transform(table[[cost, "value"]].to_numpy(float)))
    for place, row in zip(
        axes.transData.transform(edge[[cost, "value"]].to_numpy(float)),
        edge.to_dict("records"),
        strict=True,
    ):
        spot = max(AROUND, key=lambda one: _room(place + pixels * one, taken, box, pixels))
        taken.append(place + pixels * spot)
        axes.annotate(
            str(keys[row["label"]]),
            (row[cost], row["value"]),
            xytext=tuple(spot),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            fontweight="bold",
        )


def _room(spot: np.ndarray, taken: Sequence[np.ndarray], box: Bbox, pixels: float) -> float:
    """How far a place is from what is taken, in pixels; what is far enough is as good as what is
    farther, and the edge is taken."""
    inside = (
        min(spot[0] - box.x0, box.x1 - spot[0], spot[1] - box.y0, box.y1 - spot[1]) + 6 * pixels
    )
    return min(11 * pixels, inside, *(np.hypot(*(spot - one)) for one in taken))


AROUND = [
    radius * np.array((np.cos(angle), np.sin(angle)))
    for radius in (9, 14, 20)
    for angle in np.linspace(0, 2 * np.pi, 8, endpoint=False) + np.pi / 8
]


def front(cost: np.ndarray, value: np.ndarray, better: str = "low") -> np.ndarray:
    """Which points nothing beats in both: (n,) bool. A point is beaten by one at least as good in
    both and better in one."""
    cost = -cost if better == "high" else cost
    beaten = [
        bool(np.any((cost <= c) & (value >= v) & ((cost < c) | (value > v))))
        for c, v in zip(cost, value, strict=True)
    ]
    return ~np.array(beaten, bool)
