"""Figures of reports as a paper prints them: nothing cut, nothing on top of each other, every axis
named, panels in order."""

import itertools
import re
import xml.etree.ElementTree as xml

import numpy as np
import pandas as pd
import pytest

from cinelab.lab.reports.cost_figures import pareto_figure
from cinelab.lab.reports.paper import INK, PaperFigure, apart, colours, drawn_texts
from cinelab.lab.reports.report_figures import metric_figure, shots_figure
from cinelab.lab.reports.sweep_cells import Cells
from cinelab.metrics.rows import clip_of

LONG = "LastOfShots(budget=5, keep=2, scored='by the mean of all heads')"
GRIDS = {
    "panels in no order": {
        "budget": (3, 5, 8, 12),
        "away": (9, 1, 5),
        "policy": ("camr", "random", "window"),
    },
    "names alone": {"policy": ("camr", "full", LONG)},
    "two kinds of names": {
        "policy": ("camr", LONG),
        "model": ("toybox-base", "toybox-2step", "toybox-4step"),
    },
    "a wide range": {"steps": (1, 2, 4, 8, 64), "model": ("toybox-1step", "toybox-2step")},
    "many panels": {"budget": (3, 6), "away": (1, 3, 5, 7, 9, 11), "policy": ("camr", "full")},
    "one number": {"budget": (3, 5)},
    "panels of names": {
        "policy": ("camr", "full"),
        "model": ("a", "b"),
        "init": ("i0", "i1", "i2"),
        "score": ("x", "y"),
    },
    "many numbers": {"budget": tuple(range(1, 40))},
    "any letters": {"policy": ("café", "猫 & <b>", "$x_1$")},
    "numbers and words": {"steps": (2, 4, "default"), "policy": ("camr", "full")},
}


def cells(
    varied: dict, films: int = 3, level: float = 0.5, shots: int = 1, chance: float | None = 0.25
) -> Cells:
    """Cells of every combination, as `load_cells` gives them; the more of each setting, the more
    the metric and its cost."""
    rows = []
    table = []
    for values in itertools.product(*varied.values()):
        setting = dict(zip(varied, values, strict=True))
        rng = np.random.default_rng(len(table))
        mean = level + 0.01 * len(table) % 0.3
        rows += [
            setting
            | {
                "clip": clip_of(film),
                "shot": shot + 1,
                "metric": "identity",
                "value": mean + rng.normal(0, 0.02),
                "source": "model",
                "seed": 0,
            }
            for film in range(films)
            for shot in range(shots)
        ]
        for source, value in (("chance", chance), ("truth", 1.0)):
            rows += (
                []
                if value is None
                else [
                    setting
                    | {
                        "clip": clip_of(0),
                        "shot": 1,
                        "metric": "identity",
                        "value": value,
                        "source": source,
                        "seed": 0,
                    }
                ]
            )
        table.append(
            {
                "status": "done",
                "parameters": setting,
                "info": {"speed": {"cpu_s_per_frame": 0.01 * (1 + len(table))}},
            }
        )
    return Cells((), pd.DataFrame(table), pd.DataFrame(rows), list(varied), False)


def faults(drawn: PaperFigure) -> list[str]:
    """Texts that overlap or leave the figure."""
    found = []
    boxes = drawn_texts(drawn.figure)
    edge = drawn.figure.bbox
    found += [
        f"{a!r} lies on {b!r}"
        for (a, one), (b, other) in itertools.combinations(boxes, 2)
        if one.overlaps(other)
    ]
    return found + [
        f"{a!r} is cut"
        for a, box in boxes
        if box.x0 < -1 or box.y0 < -1 or box.x1 > edge.width + 1 or box.y1 > edge.height + 1
    ]


@pytest.mark.parametrize("name", GRIDS)
def test_no_label_is_cut_or_lies_on_another(name):
    some = cells(GRIDS[name])
    for drawn in (metric_figure(some, "identity"), pareto_figure(some, "identity")):
        assert faults(drawn) == []


def test_a_name_is_written_as_it_is():
    page = metric_figure(cells(GRIDS["any letters"]), "identity").page_svg()
    assert {
        one.text for one in xml.fromstring(page).iter("{http://www.w3.org/2000/svg}text")
    } >= set(GRIDS["any letters"]["policy"])


def test_panels_are_in_the_order_of_their_numbers():
    some = cells(GRIDS["panels in no order"])
    for figure in (metric_figure(some, "identity"), pareto_figure(some, "identity")):
        assert [axes.get_title(loc="left") for axes in figure.figure.axes] == [
            "away 1",
            "away 5",
            "away 9",
        ]


def test_the_lowest_panel_of_every_column_says_its_values():
    figure = metric_figure(cells(GRIDS["panels of names"]), "identity").figure
    shown = [axes.xaxis.get_tick_params()["labelbottom"] for axes in figure.axes]
    assert shown == [False, False, True, True, True, True]


def test_of_many_points_that_nothing_beats_some_are_named():
    figure = pareto_figure(cells(GRIDS["many numbers"]), "identity").figure
    names = next(
        box for box in figure.legends if box.get_title().get_text() == "some that nothing beats"
    )
    assert len(names.get_texts()) == 16 and len(figure.axes[0].texts) == 16


def test_axes_say_what_they_measure_and_in_what():
    axes = metric_figure(cells(GRIDS["one number"]), "identity").figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("budget (chunks)", "identity (mean, 0 to 1)")
    many = metric_figure(cells(GRIDS["panels in no order"]), "identity").figure
    assert many.get_supylabel() == "identity (mean, 0 to 1)" and "budget (chunks)" in [
        axes.get_xlabel() for axes in many.axes
    ]
    cost = pareto_figure(cells(GRIDS["one number"]), "identity").figure.axes[0]
    assert cost.get_xlabel() == "frames per CPU second: more is better"


def test_chance_is_named_beside_the_panel():
    axes = metric_figure(cells(GRIDS["one number"]), "identity").figure.axes[0]
    names = {note.get_text(): note.get_window_extent().x0 for note in axes.texts}
    assert set(names) == {"chance", "truth"} and min(names.values()) > axes.get_window_extent().x1
    rows = metric_figure(cells(GRIDS["names alone"]), "identity").figure.axes[0]
    assert (
        all(note.get_window_extent().y0 > rows.get_window_extent().y1 for note in rows.texts)
        and len(rows.texts) == 2
    )


def test_a_panel_with_one_number_is_dots_side_by_side():
    some = cells({"budget": (5, 8), "away": (1, 5), "policy": ("camr", "full")})
    some.rows = some.rows[~((some.rows["away"] == 1) & (some.rows["budget"] == 8))]
    axes = metric_figure(some, "identity").figure.axes[0]
    assert axes.get_title(loc="left") == "away 1"
    dots = [line for line in axes.lines if (line.get_gid() or "").startswith("series")]
    assert [line.get_linestyle() for line in dots] == ["None"] * 2 and dots[0].get_xdata()[
        0
    ] < 5 < dots[1].get_xdata()[0]
    axes.figure.draw_without_rendering()
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["5"]


def test_values_are_never_minus_zero_nor_endless():
    some = cells({"budget": (3, 5)}, films=1, chance=None)  # one film has no interval
    some.rows.loc[some.rows["source"] == "model", "value"] = -0.0001
    drawn = metric_figure(some, "identity")
    assert not any(
        re.fullmatch(r"[-−]0(\.0*)?", text) or "inf" in text
        for text, _ in drawn_texts(drawn.figure)
    )
    said = " ".join(itertools.chain(*drawn.said.values()))
    assert "inf" not in said and "-0.000" not in said and "0.000, n = 1" in said


def test_every_series_is_in_the_legend_in_a_colour_and_with_a_marker_of_its_own():
    some = cells({"budget": (3, 5), "away": (1, 5), "policy": ("camr", "mine", "full")})
    # not in the first panel
    some.rows = some.rows[~((some.rows["away"] == 1) & (some.rows["policy"] == "full"))]
    figure = metric_figure(some, "identity").figure
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["camr", "mine", "full"]
    handles = figure.legends[0].legend_handles
    assert (
        len({line.get_color() for line in handles})
        == len({line.get_marker() for line in handles})
        == 3
    )


def test_known_policies_keep_their_colours():
    one, other = (
        colours(["mine", "camr"], ["camr", "full"]),
        colours(["full", "yours", "camr"], ["camr", "full"]),
    )
    assert (
        one["camr"] == other["camr"]
        and len(set(one.values())) == 2
        and len(set(other.values())) == 3
    )


def test_names_of_levels_move_apart_and_no_further():
    assert apart([0.2, 0.8], 0.1) == [0.2, 0.8]
    assert apart([0.5, 0.52], 0.1) == pytest.approx([0.5, 0.6])
    assert apart([0.97, 0.99], 0.1) == pytest.approx([0.9, 1.0])


def test_marks_say_their_numbers_and_a_page_gives_its_colours():
    drawn = metric_figure(cells(GRIDS["one number"]), "identity")
    tree = xml.fromstring(drawn.svg())
    titles = [one.text for one in tree.iter("{http://www.w3.org/2000/svg}title")]
    assert any(
        re.fullmatch(r"identity, budget 3: 0\.\d{3} \[0\.\d{3}, 0\.\d{3}\], n = 3", title or "")
        for title in titles
    )
    page = drawn.page_svg()
    assert (
        xml.fromstring(page) is not None
        and f"var(--ink, {INK})" in page
        and 'width="' not in page.split(">")[0]
    )
    ids = [re.findall(r'\bid="([^"]+)"', one.page_svg()) for one in (drawn, drawn.named("another"))]
    assert not set(ids[0]) & set(ids[1]), "two figures in one page have no id in common"
    assert page in drawn._repr_html_()


def test_figures_are_saved_as_svg_and_pdf_with_text_as_text(tmp_path):
    drawn = pareto_figure(cells(GRIDS["names alone"]), "identity")
    paths = drawn.named("my sweep-identity against cost").save(tmp_path)
    assert [path.name for path in paths] == [
        "my-sweep-identity-against-cost.svg",
        "my-sweep-identity-against-cost.pdf",
    ]
    assert (
        ">camr</text>" in paths[0].read_text()
        and "<image" not in paths[0].read_text()
        and "var(" not in paths[0].read_text()
    )
    content = paths[1].read_bytes()
    assert (
        content.startswith(b"%PDF")
        and b"/Type3" not in content
        and b"/Subtype /Image" not in content
    )
    assert paths[0].read_bytes() == drawn.named("my sweep-identity against cost").svg().encode(), (
        "the same figure is the same file"
    )


def test_long_films_have_a_line_and_a_band_a_setting():
    drawn = shots_figure(cells({"policy": ("camr", LONG)}, shots=16), "identity")
    assert (
        faults(drawn) == []
        and len(drawn.figure.axes[0].lines) == len(drawn.figure.axes[0].collections) == 2
    )
