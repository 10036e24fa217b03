"""What a memory policy retrieved, as interactive figures: chunk by chunk and shot by shot.

Figures count from 1 (shots, chunks, layers, heads), the tables from 0.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from cinelab.errors import CinelabError
from cinelab.lab.reports.plots import QUIET, SEQUENTIAL, blank_figure, nothing, require_columns

KINDS = {"sink": "#BF8200", "window": "#868d9b", "routed": "#0072B2"}


ROUTING = ("chunk", "shot", "layer", "head", "kept_chunk", "kept_shot", "score", "kind")


def routing_map(
    routing: pd.DataFrame,
    timeline: Iterable | None = None,
    title: str = "What each chunk retrieved",
) -> go.Figure:
    """Which history chunks every chunk kept: a cell's colour is why, its depth in how many heads.

    routing has the columns of ROUTING (head -1 where all heads share a choice); `timeline`, the
    shot of every chunk or slots with `.shot`, draws chunks that kept nothing. A menu picks a layer.
    """
    require_columns(routing, ROUTING)
    if routing.empty:
        return nothing(title, "no chunk retrieved anything")
    shots = _shots(routing, timeline)
    layers = sorted(routing["layer"].unique())
    fig = blank_figure(title, "chunk being made (from 1)", "chunk retrieved (from 1)")
    choices = [("all layers", routing)]
    if len(layers) > 1:
        choices += [(f"layer {layer + 1}", routing[routing["layer"] == layer]) for layer in layers]
    for number, (name, chosen) in enumerate(choices):
        fig.add_trace(_routing_cells(chosen, shots, name, visible=number == 0))
    _kind_legend(fig, routing["kind"])
    _shot_lines(fig, shots)
    _menu(fig, [name for name, _ in choices])
    ends = [0.5, len(shots) + 0.5]
    fig.update_xaxes(range=ends, showgrid=False, constrain="domain")
    fig.update_yaxes(range=ends, showgrid=False, scaleanchor="x", constrain="domain")
    return fig.update_layout(height=720, margin={"t": 120})


def _routing_cells(routing: pd.DataFrame, shots: list[int], name: str, visible: bool) -> go.Heatmap:
    """Heat map (kept chunk, chunk); a value is the number of the kind plus the share of heads."""
    cells = _cells(routing)
    x, y = cells["chunk"].to_numpy(), cells["kept_chunk"].to_numpy()
    value = np.full((len(shots), len(shots)), np.nan)
    extra = np.zeros((len(shots), len(shots), 4), dtype=np.float32)
    # Shares stay just below 1, so that each kind keeps to its own third of the colours.
    value[y, x] = cells["kind"] + cells["share"].clip(0, 0.999)
    number = np.array(shots) + 1
    extra[y, x] = np.stack([number[x], number[y], cells["share"], cells["score"]], axis=1)
    hover = (
        "chunk %{x} (shot %{customdata[0]:.0f}) retrieved chunk %{y} (shot "
        "%{customdata[1]:.0f})<br>"
        "in %{customdata[2]:.0%} of layers and heads"
    )
    if cells["score"].notna().any():  # full attention and windows score nothing
        hover += ", mean score %{customdata[3]:.3f}"
    return go.Heatmap(
        z=value, x0=1, y0=1, zmin=0, zmax=len(KINDS), colorscale=_kind_colours(), showscale=False,
        customdata=extra, hovertemplate=hover + "<extra></extra>", name=name, visible=visible,
        xgap=1, ygap=1, hoverongaps=False,
    )  # fmt: skip


def _cells(routing: pd.DataFrame) -> pd.DataFrame:
    """One row per (chunk, kept_chunk): share of heads that kept it, mean score, number of its kind.

    Several rows of one head (units finer than a chunk, several denoising steps) count once.
    """
    place = ["chunk", "kept_chunk"]
    head = ["layer", "head"]
    # Counted per chunk: heads choose together (-1) while the whole history fits the budget.
    heads = routing.drop_duplicates(["chunk", *head]).groupby("chunk").size()
    kept = routing.drop_duplicates(place + head).groupby(place).size().div(heads, level="chunk")
    kinds = routing.groupby([*place, "kind"]).size().unstack("kind", fill_value=0)
    unknown = set(kinds.columns) - set(KINDS)
    if unknown:
        raise CinelabError(f"kind: {', '.join(map(str, unknown))} is none of {', '.join(KINDS)}")
    kind = kinds.reindex(columns=list(KINDS), fill_value=0).to_numpy().argmax(axis=1)
    score = routing.groupby(place)["score"].mean()
    return pd.DataFrame({"share": kept, "score": score, "kind": kind}).reset_index()


def _kind_colours() -> list[tuple[float, str]]:
    """One third of the scale for each kind, from faint to full."""
    scale = []
    for place, colour in enumerate(KINDS.values()):
        scale += [(place / 3, _faint(colour)), ((place + 1) / 3, colour)]
    return scale


def _faint(colour: str) -> str:
    """A colour through which a light or a dark page shows."""
    return f"rgba({','.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))},0.18)"


def _kind_legend(fig: go.Figure, kinds: Iterable[str]) -> None:
    """A square for every kind that the film has."""
    for kind in (name for name in KINDS if name in set(kinds)):
        colour = KINDS[kind]
        marker = {"symbol": "square", "size": 14, "color": colour}
        fig.add_scatter(
            x=[None], y=[None], mode="markers", marker=marker, name=kind, showlegend=True
        )
    fig.update_layout(
        legend={"title": {"text": "retrieved as<br><sub>fainter: by fewer heads</sub>"}}
    )


def _shots(routing: pd.DataFrame, timeline: Iterable | None) -> list[int]:
    """The shot of every chunk, from the timeline or else from both ends of the routing rows."""
    if timeline is not None:
        slots = getattr(timeline, "slots", timeline)
        shots = [int(getattr(slot, "shot", slot)) for slot in slots]
    else:
        known = dict(zip(routing["kept_chunk"], routing["kept_shot"], strict=True))
        known |= dict(zip(routing["chunk"], routing["shot"], strict=True))
        shots = [known.get(chunk, -1) for chunk in range(max(known) + 1)]
        # A chunk the table never names lies in the shot of the chunk before it.
        for place, shot in enumerate(shots):
            shots[place] = int(shot if shot >= 0 else shots[place - 1] if place else 0)
    last = int(max(routing["chunk"].max(), routing["kept_chunk"].max()))
    if last >= len(shots):
        raise CinelabError(f"timeline: has {len(shots)} chunks, but the routing names chunk {last}")
    return shots


def _shot_lines(fig: go.Figure, shots: list[int]) -> None:
    """A thin line at every cut, on both axes, and the number of each shot above its chunks."""
    starts = [0, *(i for i in range(1, len(shots)) if shots[i] != shots[i - 1])]
    for start in starts[1:]:
        line = {"color": QUIET, "width": 1, "dash": "dot"}
        fig.add_vline(x=start + 0.5, line=line)
        fig.add_hline(y=start + 0.5, line=line)
    for start, end in zip(starts, [*starts[1:], len(shots)], strict=True):
        fig.add_annotation(
            x=(start + end + 1) / 2, y=1, yref="paper", yanchor="bottom", showarrow=False,
            text=f"shot {shots[start] + 1}" if end - start > 2 else f"{shots[start] + 1}", font={"size": 13},
        )  # fmt: skip


def _menu(fig: go.Figure, names: list[str]) -> None:
    """A menu that shows one of the first len(names) traces; the later ones always stay."""
    if len(names) < 2:
        return
    always = [True] * (len(fig.data) - len(names))
    buttons = [
        {
            "label": name,
            "method": "update",
            "args": [{"visible": [n == name for n in names] + always}],
        }
        for name in names
    ]
    fig.update_layout(updatemenus=[{"buttons": buttons, "x": 1.02, "xanchor": "left", "y": 0.72}])


def routing_by_shot(
    routing: pd.DataFrame,
    kinds: Sequence[str] = ("routed",),
    title: str = "Which shots each shot retrieved",
) -> go.Figure:
    """Heat map: of all that a shot's chunks kept as `kinds`, the share that lies in each shot."""
    require_columns(routing, ROUTING)
    chosen = routing[routing["kind"].isin(list(kinds))]
    if chosen.empty:
        return nothing(title, f"nothing was retrieved as {' or '.join(kinds)}")
    count = int(max(routing["shot"].max(), routing["kept_shot"].max())) + 1
    table = np.zeros((count, count))  # (kept shot, shot)
    np.add.at(table, (chosen["kept_shot"].to_numpy(), chosen["shot"].to_numpy()), 1)
    total = table.sum(axis=0, keepdims=True)
    share = np.divide(table, total, out=np.full_like(table, np.nan), where=total > 0)
    share[table == 0] = np.nan
    names = [str(number + 1) for number in range(count)]
    fig = blank_figure(title, "shot being made", "shot retrieved")
    fig.add_heatmap(
        x=names, y=names, z=share, zmin=0, zmax=1, xgap=2, ygap=2, hoverongaps=False,
        colorscale=SEQUENTIAL, colorbar={"title": {"text": "share"}, "tickformat": ".0%"}, texttemplate="%{z:.0%}",
        hovertemplate="shot %{x} retrieved from shot %{y}: %{z:.1%}<extra></extra>",
    )  # fmt: skip
    fig.update_xaxes(type="category", showgrid=False, constrain="domain")
    fig.update_yaxes(type="category", showgrid=False, scaleanchor="x", constrain="domain")
    return fig.update_layout(height=640)
