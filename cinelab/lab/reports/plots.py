"""Every interactive figure of the workbench: tables in, plotly figures out, one look for all of
them.

What a reader sees counts from 1: shots, chunks, layers and heads, as at the desk and on the
storyboard. The tables keep indices from 0. Paper is transparent and ink a grey that reads on white
and on JupyterLab's dark theme alike; a page of its own (`write_html`) takes the reader's light or
dark ink.
"""

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from cinelab.errors import CinelabError
from cinelab.files import replacing

# After Okabe and Ito, distinct with any colour vision; each at least 3 : 1 against white and
# against #111111.
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#C56D9E", "#BF8200", "#3895D0", "#8E62B8", "#75808F"]
INK = "#767a82"
QUIET = "#868d9b"
GRID = "rgba(134,141,155,0.25)"
# ink of a page of its own
LIGHT = "#1d2433"
DARK = "#e6e8ec"
SEQUENTIAL = [(0, "#a9c9e0"), (1, "#00588a")]
CAUSES = {"text": "#C56D9E", "dit": "#0072B2", "memory": "#BF8200", "decode": "#009E73"}
POINTS = 1000  # of a curve, at most about twice as many

TEMPLATE = go.layout.Template(
    layout={
        "font": {
            "family": "Inter, Segoe UI, Helvetica, Arial, sans-serif",
            "size": 15,
            "color": INK,
        },
        "title": {
            "font": {"size": 20},
            "x": 0.02,
            "xanchor": "left",
            "yref": "container",
            "y": 0.96,
        },
        "colorway": PALETTE,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 80, "r": 30, "t": 90, "b": 70},
        "xaxis": {"gridcolor": GRID, "linecolor": QUIET, "zeroline": False, "ticks": "outside"},
        "yaxis": {"gridcolor": GRID, "linecolor": QUIET, "zeroline": False, "ticks": "outside"},
        "legend": {"bgcolor": "rgba(0,0,0,0)"},
        "hoverlabel": {"bgcolor": "white", "font": {"color": LIGHT}},
    }
)


FOLLOW_THEME = f"""
const dark = matchMedia("(prefers-color-scheme: dark)");
const colour = () => (dark.matches ? "{DARK}" : "{LIGHT}");
const ink = () => Plotly.relayout("{{plot_id}}", {{"font.color": colour()}});
dark.addEventListener("change", ink);
ink();
"""
PAGE = (
    "<style>:root { color-scheme: light dark } "
    "body { margin: 12px; background: Canvas; color: CanvasText }</style></head>"
)


def write_html(fig: go.Figure, path: str | Path) -> None:
    """Write a figure as one page that needs no network (about 5 MB), light or dark as the reader's,
    in one atomic step."""
    with replacing(path) as temporary:
        page = fig.to_html(
            include_plotlyjs=True,
            full_html=True,
            default_width="100%",
            post_script=FOLLOW_THEME,
            config={"displaylogo": False, "responsive": True},
        )
        head = f'<meta name="viewport" content="width=device-width, initial-scale=1">{PAGE}'
        temporary.write_text(page.replace("</head>", head, 1), encoding="utf-8")


def loss_curve(
    rows: Sequence[dict], keys: Sequence[str] = ("loss",), smooth: float = 0.03
) -> go.Figure:
    """Training log to curves over `step`: raw values pale, a centred mean of a share `smooth` bold.

    Rows without a key are left out of its curve, so rare validation rows are fine.
    """
    if not 0 <= smooth <= 1:
        raise CinelabError(f"smooth: {smooth} is not in 0..1, use 0.03")
    fig = blank_figure("Loss", "step", keys[0] if len(keys) == 1 else "value")
    for number, key in enumerate(keys):
        points = [(row["step"], row[key]) for row in rows if "step" in row and key in row]
        if not points:
            known = ", ".join(sorted({name for row in rows for name in row})) or "nothing"
            raise CinelabError(f"keys: {key!r} is in no row of the log, which has {known}")
        _curve(
            fig,
            key,
            np.array(points, dtype=float),
            smooth=smooth,
            colour=PALETTE[number % len(PALETTE)],
        )
    return fig


def _curve(fig: go.Figure, name: str, points: np.ndarray, *, smooth: float, colour: str) -> None:
    """Draw (step, value) points (N, 2) twice: as they are, and averaged."""
    steps, values = points.T
    pale = {"color": colour, "width": 1}
    bold = {"color": colour, "width": 3}
    few = thinned(len(steps))
    plain = {"x": steps[few], "mode": "lines"}
    fig.add_scatter(
        y=values[few], line=pale, opacity=0.25, showlegend=False, hoverinfo="skip", **plain
    )
    # Centred: a trailing average lags behind a falling loss and flatters no one.
    window = max(1, round(smooth * len(values)))
    average = centred_mean(values, window)
    fig.add_scatter(y=average[few], name=name, line=bold, **plain)


def centred_mean(values: Sequence[float], window: int) -> np.ndarray:
    """Means of `window` neighbours, of fewer at both ends."""
    return pd.Series(values).rolling(window, center=True, min_periods=1).mean().to_numpy()


def thinned(count: int, most: int = POINTS) -> np.ndarray:
    """At most about `most` places of `count`, the last among them: a live figure is sent again and
    again."""
    return np.arange(count)[:: -max(1, count // most)][::-1]


def svg(fig: go.Figure, width: int = 820, height: int = 420) -> str:
    """The lines of a figure as SVG, with each panel's range: for pages that have no plotly."""
    panels: dict[str, list] = {}
    for trace in fig.data:
        if trace.type == "scatter" and trace.x is not None and len(trace.x):
            panels.setdefault(trace.xaxis or "x", []).append(trace)
    parts = [
        _svg_panel(fig, key, traces, width=width, height=height) for key, traces in panels.items()
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
    return f'{head} font-family="sans-serif" font-size="12" fill="{QUIET}">{"".join(parts)}</svg>'


def _svg_panel(fig: go.Figure, key: str, traces: list, *, width: int, height: int) -> str:
    """One pair of axes: a line a trace, the range at its corners, a name for every shown trace."""
    x0, x1 = fig.layout["xaxis" + key[1:]].domain or (0, 1)
    y0, y1 = fig.layout["yaxis" + key[1:]].domain or (0, 1)
    left, right = 60 + x0 * (width - 160), 60 + x1 * (width - 160)
    top, bottom = 20 + (1 - y1) * (height - 60), 20 + (1 - y0) * (height - 60)
    xs, ys = (np.concatenate([np.asarray(one[a], float) for one in traces]) for a in "xy")
    (low, high), (first, last) = (np.nanmin(ys), np.nanmax(ys)), (xs.min(), xs.max())
    parts = [
        f'<rect x="{left:.0f}" y="{top:.0f}" width="{right - left:.0f}" '
        f'height="{bottom - top:.0f}" fill="none" stroke="{QUIET}"/>',
        f'<text x="{left - 6:.0f}" y="{top + 10:.0f}" text-anchor="end">{high:.3g}</text>',
        f'<text x="{left - 6:.0f}" y="{bottom:.0f}" text-anchor="end">{low:.3g}</text>',
        f'<text x="{left:.0f}" y="{bottom + 16:.0f}">{first:.0f}</text>',
        f'<text x="{right:.0f}" y="{bottom + 16:.0f}" text-anchor="end">step {last:.0f}</text>',
    ]
    for number, one in enumerate(traces):
        x = left + (np.asarray(one.x, float) - first) / max(last - first, 1e-9) * (right - left)
        y = bottom - (np.asarray(one.y, float) - low) / max(high - low, 1e-9) * (bottom - top)
        good = np.isfinite(y)
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x[good], y[good], strict=True))
        colour = one.line.color or PALETTE[0]
        pale = 1 if one.opacity is None else one.opacity
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" '
            f'stroke-width="{one.line.width or 2}" opacity="{pale}"/>'
        )
        if one.showlegend is not False and one.name:
            parts.append(
                f'<text x="{right + 6:.0f}" y="{top + 12 + 14 * number:.0f}" '
                f'fill="{colour}">{html.escape(one.name)}</text>'
            )
    return "".join(parts)


def ablation_lines(
    table: pd.DataFrame,
    x: str,
    y: str,
    colour: str,
    low: str,
    high: str,
    facet: str | None = None,
    chance: float | str | None = None,
    upper: float | str | None = None,
    title: str | None = None,
) -> go.Figure:
    """Mean and interval (columns y, low, high) over x, one line a `colour`, one panel a `facet`.

    `chance` and `upper` draw levels to compare with: a number, or a column averaged per panel.
    """
    columns = [x, y, colour, low, high] + [c for c in (facet, chance, upper) if isinstance(c, str)]
    require_columns(table, columns)
    if table.empty:
        return nothing(title or y, "the table has no rows")
    panels = list(table.groupby(facet, sort=True)) if facet else [(None, table)]
    names = [f"{facet} {value}" for value, _ in panels] if facet else None
    fig = make_subplots(1, len(panels), shared_yaxes=True, subplot_titles=names)
    fig.update_layout(template=TEMPLATE, title=title or f"{y} by {colour}", height=520)
    lines = list(dict.fromkeys(table[colour]))  # the table's own order
    for column, (_, panel) in enumerate(panels, 1):
        for number, name in enumerate(lines):
            rows = panel[panel[colour] == name].sort_values(x)
            trace = _with_interval(
                rows,
                x,
                y,
                low=low,
                high=high,
                name=str(name),
                number=number,
                count=len(lines),
                everything=table[x],
            )
            fig.add_trace(trace.update(showlegend=column == 1), row=1, col=column)
        for level, label in ((upper, "upper bound"), (chance, "chance")):
            if level is not None:
                value = panel[level].mean() if isinstance(level, str) else level
                trace = _level(value, label, table[x]).update(showlegend=column == 1)
                fig.add_trace(trace, row=1, col=column)
    if table[x].nunique() <= 12:
        fig.update_xaxes(tickvals=sorted(table[x].unique()))
    return fig.update_xaxes(title=x).update_yaxes(title=y, row=1, col=1)


def _with_interval(rows, x, y, *, low, high, name, number, count, everything) -> go.Scatter:
    """One policy's line; numeric x are nudged apart, so that error bars do not hide each other."""
    place = rows[x]
    shape = PALETTE[number % len(PALETTE)]
    if pd.api.types.is_numeric_dtype(everything):
        span = float(everything.max() - everything.min())
        place = place + (number - (count - 1) / 2) * 0.008 * span
    bars = {"type": "data", "array": rows[high] - rows[y], "arrayminus": rows[y] - rows[low]}
    return go.Scatter(
        x=place,
        y=rows[y],
        name=name,
        legendgroup=name,
        mode="lines+markers",
        line={"color": shape, "width": 2.5},
        marker={"size": 9, "symbol": number},
        error_y={**bars, "thickness": 1.5, "width": 4},
        customdata=np.stack([rows[x].astype(str), rows[low], rows[high]], axis=1),
        hovertemplate=f"{name}, {x} %{{customdata[0]}}<br>%{{y:.3f}} "
        "[%{customdata[1]:.3f}, %{customdata[2]:.3f}]<extra></extra>",
    )


def _level(value: float, label: str, everything: pd.Series) -> go.Scatter:
    """A level line over the whole range of x."""
    ends = sorted(everything.unique())[:: max(1, everything.nunique() - 1)]
    dash = "dot" if label == "chance" else "dash"
    return go.Scatter(
        x=ends,
        y=[value] * len(ends),
        name=label,
        legendgroup=label,
        mode="lines",
        line={"color": QUIET, "dash": dash, "width": 2},
        hovertemplate=f"{label} {value:.3f}<extra></extra>",
    )


def chunk_times(timings: pd.DataFrame, title: str = "Time per chunk") -> go.Figure:
    """Stacked bars of where each chunk's time went; columns chunk, and seconds for each of
    CAUSES."""
    require_columns(timings, ("chunk", *CAUSES))
    fig = blank_figure(title, "chunk (from 1)", "milliseconds")
    for cause, colour in CAUSES.items():
        hover = f"chunk %{{x}}: {cause} %{{y:.1f}} ms<extra></extra>"
        fig.add_bar(
            x=timings["chunk"] + 1,
            y=timings[cause] * 1000,
            name=cause,
            marker_color=colour,
            hovertemplate=hover,
        )
    return fig.update_layout(barmode="stack", bargap=0.1)


def blank_figure(title: str, x: str, y: str) -> go.Figure:
    fig = go.Figure(layout={"template": TEMPLATE, "title": title, "height": 480})
    return fig.update_xaxes(title=x).update_yaxes(title=y)


def nothing(title: str, why: str) -> go.Figure:
    """A figure that says why it is empty: a policy without memory is a result, not an error."""
    fig = blank_figure(title, "", "")
    fig.add_annotation(text=why, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    return fig.update_xaxes(visible=False).update_yaxes(visible=False)


def require_columns(table: pd.DataFrame, columns: Iterable[str]) -> None:
    lacking = [column for column in columns if column not in table.columns]
    if lacking:
        raise CinelabError(
            f"table: lacks the column {', '.join(lacking)}; it has "
            f"{', '.join(map(str, table.columns))}"
        )
