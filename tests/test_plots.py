"""Figures: small tables in, the right numbers in the right cells out, one self-contained page."""

import os
import re

import numpy as np
import pandas as pd
import pytest

from cinelab.errors import CinelabError
from cinelab.lab.reports.plots import (
    CAUSES,
    DARK,
    LIGHT,
    PALETTE,
    ablation_lines,
    chunk_times,
    loss_curve,
    write_html,
)
from cinelab.lab.reports.routing_plots import KINDS, ROUTING, routing_by_shot, routing_map

SHOTS = [0, 0, 1, 1, 2, 2]


def routing(layers: int = 2, heads: int = 2) -> pd.DataFrame:
    """Six chunks in three shots; head 1 of layer 1 alone routes chunk 5 to chunk 3."""
    rows = []
    for chunk in range(1, 6):
        for layer in range(layers):
            for head in range(heads):
                kept = {0: "sink", chunk - 1: "window"} if chunk > 1 else {0: "sink"}
                odd = chunk == 5 and (layer, head) == (1, 1)
                if chunk >= 4:
                    kept[3 if odd else 1] = "routed"
                rows += [
                    (chunk, SHOTS[chunk], layer, head, k, SHOTS[k], 0.5 + 0.1 * k, kind)
                    for k, kind in kept.items()
                ]
    return pd.DataFrame(rows, columns=list(ROUTING)).drop_duplicates(list(ROUTING[:5]))


def cell(trace, chunk: int, kept: int) -> tuple[str, float]:
    """(kind, share) that a cell of the map shows, read back from its colour."""
    value = float(trace.z[kept][chunk])
    kind = min(int(value), len(KINDS) - 1)
    return list(KINDS)[kind], round(value - kind, 2)


def maps(fig) -> list:
    return [trace for trace in fig.data if trace.type == "heatmap"]


def test_routing_map_shows_why_and_in_how_many_heads():
    every, first, second = maps(routing_map(routing()))
    assert every.z.shape == (6, 6)
    assert cell(every, 5, 0) == ("sink", 1.0) and cell(every, 5, 4) == ("window", 1.0)
    assert cell(every, 5, 1) == ("routed", 0.75) and cell(every, 5, 3) == ("routed", 0.25)
    assert cell(second, 5, 1) == ("routed", 0.5) and np.isnan(first.z[3][5])
    assert np.isnan(every.z[5][5]) and np.isnan(every.z[5][0])  # nothing sees itself or the future


def test_routing_map_hover_names_shots_and_score():
    every = maps(routing_map(routing()))[0]
    assert every.customdata[1][5] == pytest.approx([3, 1, 0.75, 0.6])  # shots as a reader counts
    assert "shot" in every.hovertemplate and "score" in every.hovertemplate
    silent = routing().assign(score=float("nan"))
    assert "score" not in maps(routing_map(silent))[0].hovertemplate


def test_routing_map_counts_a_head_once():
    table = routing()
    twice = maps(routing_map(pd.concat([table, table])))[0]  # two denoising steps, say
    np.testing.assert_array_equal(twice.z, maps(routing_map(table))[0].z)
    # While all history fits the budget heads choose together: head -1, and still a share of 1.
    early = table[table["chunk"] < 4].assign(head=-1).drop_duplicates(list(ROUTING[:5]))
    mixed = maps(routing_map(pd.concat([early, table[table["chunk"] >= 4]])))[0]
    assert cell(mixed, 2, 0) == ("sink", 1.0) and cell(mixed, 5, 1) == ("routed", 0.75)


def test_routing_map_has_a_menu_of_layers_and_lines_at_cuts():
    fig = routing_map(routing())
    buttons = fig.layout.updatemenus[0].buttons
    assert [button.label for button in buttons] == ["all layers", "layer 1", "layer 2"]
    legend = [True] * len(set(routing()["kind"]))
    assert list(buttons[2].args[0]["visible"]) == [False, False, True, *legend]
    assert [trace.visible for trace in maps(fig)] == [True, False, False]
    assert {line.x0 for line in fig.layout.shapes if line.x0 == line.x1} == {2.5, 4.5}, (
        "chunks count from 1"
    )
    assert [note.text for note in fig.layout.annotations] == ["1", "2", "3"]
    assert (maps(fig)[0].x0, maps(fig)[0].y0) == (1, 1) and "from 1" in fig.layout.xaxis.title.text
    assert not routing_map(routing(layers=1)).layout.updatemenus


def test_routing_map_takes_a_timeline():
    class Slot:
        def __init__(self, shot):
            self.shot = shot

    class Timeline:
        slots = tuple(Slot(shot) for shot in [*SHOTS, 3, 3])

    for timeline in (Timeline, Timeline.slots, [*SHOTS, 3, 3]):
        fig = routing_map(routing(), timeline)
        assert maps(fig)[0].z.shape == (8, 8) and len(fig.layout.annotations) == 4
    with pytest.raises(CinelabError, match="timeline: has 3 chunks.*chunk 5"):
        routing_map(routing(), SHOTS[:3])


def test_routing_by_shot_shares_add_up():
    share = routing_by_shot(routing()).data[0].z
    assert share[0][2] == pytest.approx(7 / 8) and share[1][2] == pytest.approx(1 / 8)
    everything = np.nan_to_num(routing_by_shot(routing(), kinds=list(KINDS)).data[0].z)
    np.testing.assert_allclose(everything.sum(axis=0), 1)


def test_a_policy_without_memory_is_a_figure_that_says_so():
    nothing = routing_map(routing().iloc[:0])
    assert not nothing.data and "no chunk retrieved" in nothing.layout.annotations[0].text
    window = routing()[lambda table: table["kind"] == "window"]
    assert "nothing was retrieved as routed" in routing_by_shot(window).layout.annotations[0].text


def ablation() -> pd.DataFrame:
    rows = [
        (policy, away, budget, mean, mean - 0.1, mean + 0.05, 0.2 * budget)
        for policy, mean in (("full", 0.9), ("camr", 0.85))
        for away in (4, 1, 2)
        for budget in (1, 2)
    ]
    columns = ["policy", "absence", "budget", "recall", "low", "high", "luck"]
    return pd.DataFrame(rows, columns=columns)


def test_ablation_lines_draw_means_intervals_and_levels():
    fig = ablation_lines(
        ablation(),
        "absence",
        "recall",
        "policy",
        "low",
        "high",
        "budget",
        chance="luck",
        upper=0.98,
    )
    lines = [trace for trace in fig.data if trace.name == "camr"]
    assert len(lines) == 2 and [line.showlegend for line in lines] == [True, False]
    assert list(lines[0].customdata[:, 0]) == ["1", "2", "4"]  # sorted
    assert lines[0].error_y.array == pytest.approx([0.05] * 3)
    assert lines[0].error_y.arrayminus == pytest.approx([0.1] * 3)
    for name, wanted in (("chance", [0.2, 0.4]), ("upper bound", [0.98, 0.98])):
        assert [t.y[0] for t in fig.data if t.name == name] == pytest.approx(wanted)
    assert [note.text for note in fig.layout.annotations] == ["budget 1", "budget 2"]


def test_ablation_over_names_is_not_nudged():
    table = ablation().assign(absence=lambda t: t["absence"].map({1: "one", 2: "two", 4: "four"}))
    fig = ablation_lines(table[table["budget"] == 1], "absence", "recall", "policy", "low", "high")
    assert set(fig.data[0].x) == {"one", "two", "four"} and len(fig.data) == 2


def test_a_legend_names_only_the_kinds_that_a_film_has():
    def names(table):
        return [trace.name for trace in routing_map(table).data if trace.type == "scatter"]

    assert names(routing()) == ["sink", "window", "routed"]
    assert names(routing()[lambda table: table["kind"] != "sink"]) == ["window", "routed"]


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("paper", ["#ffffff", "#111111"])  # a white page, JupyterLab's dark theme
def test_figures_read_on_light_and_on_dark_paper(paper):
    fig = routing_map(routing())
    layout = fig.layout.template.layout
    assert layout.paper_bgcolor == layout.plot_bgcolor == "rgba(0,0,0,0)", "the page shows through"
    assert contrast(layout.font.color, paper) >= 4
    assert (
        min(contrast(colour, paper) for colour in [*PALETTE, *KINDS.values(), *CAUSES.values()])
        >= 3
    )
    assert contrast(LIGHT, "#ffffff") > 12 and contrast(DARK, "#111111") > 12


def test_loss_curve_smooths_without_lag():
    rows = [{"step": i, "loss": 100 - i} for i in range(100)] + [
        {"step": 50, "val": 3.0},
        {"note": 1},
    ]
    raw, bold, _, val = loss_curve(rows, ("loss", "val"), smooth=0.2).data
    assert list(raw.y) == list(range(100, 0, -1)) and (bold.name, val.name) == ("loss", "val")
    assert abs(bold.y[50] - raw.y[50]) <= 0.5  # a trailing average would be ten above
    assert list(val.x) == [50] and list(val.y) == [3.0]


def test_chunk_times_stack_in_milliseconds():
    table = pd.DataFrame(
        {"chunk": [0, 1], "text": [0.02, 0], "dit": [0.1, 0.11], "memory": 0.01, "decode": 0.05}
    )
    fig = chunk_times(table)
    assert list(fig.data[0].x) == [1, 2], "chunks count from 1"
    assert fig.layout.barmode == "stack"
    assert {bar.name: bar.y[0] for bar in fig.data} == pytest.approx(
        {"text": 20, "dit": 100, "memory": 10, "decode": 50}
    )


def test_shot_by_shot_figures_name_their_axes():
    from cinelab.lab.studies.evaluation import per_shot_figure

    rows = [("r", "a.mp4", shot, "sharpness", 0.1 * shot, "ok", "") for shot in (1, 2, 3)]
    fig = per_shot_figure(
        pd.DataFrame(rows, columns=["run", "clip", "shot", "metric", "value", "status", "backend"])
    )
    assert fig.layout.xaxis.title.text == "shot (from 1)" and fig.layout.yaxis.title.text == "value"


def test_page_is_whole_and_written_atomically(tmp_path):
    path = tmp_path / "deep" / "routing.html"
    write_html(routing_map(routing(), title="A film's memory"), path)
    page = path.read_text(encoding="utf-8")
    assert (
        "Plotly.newPlot" in page
        and "layer 2" in page
        and "prefers-color-scheme" in page
        and "A film's memory" in page
    )
    assert not re.search(r"<script[^>]+src=", page) and len(page) > 1_000_000  # needs no network
    assert os.listdir(path.parent) == ["routing.html"]


def test_a_failing_write_keeps_the_old_page(tmp_path):
    path = tmp_path / "routing.html"
    path.write_text("old")

    class Broken:
        def to_html(self, **_):
            raise OSError(28, "No space left on device")

    with pytest.raises(CinelabError, match="no space left"):
        write_html(Broken(), path)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["routing.html"]


@pytest.mark.parametrize(
    "call, said",
    [
        (
            lambda: routing_map(routing().drop(columns="score")),
            "lacks the column score; it has chunk",
        ),
        (lambda: routing_map(routing().assign(kind="lost")), "kind: lost is none of sink"),
        (lambda: chunk_times(pd.DataFrame({"chunk": [0]})), "lacks the column text, dit"),
        (lambda: ablation_lines(ablation(), "away", "recall", "policy", "low", "high"), "away"),
        (
            lambda: loss_curve([{"step": 1, "loss": 2.0}], ("lss",)),
            "'lss' is in no row.*loss, step",
        ),
        (lambda: loss_curve([], ("loss",)), "nothing"),
        (lambda: loss_curve([{"step": 1, "loss": 2.0}], smooth=2), "smooth: 2"),
    ],
)
def test_bad_input_is_named(call, said):
    with pytest.raises(CinelabError, match=said):
        call()
