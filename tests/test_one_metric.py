"""One row, one list: a metric that is added in one place is measured and shown everywhere, and
tables of earlier versions are read under the present names."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cinelab import CAMR, Screenplay, Shot, load, register
from cinelab.lab.first_film import direct_film
from cinelab.lab.reports.cards import compare_cards, read_card
from cinelab.lab.reports.reference import Tables
from cinelab.lab.reports.report import report
from cinelab.lab.reports.sweep_cells import load_cells
from cinelab.lab.studies.film_cell import FilmSetting, film_cell
from cinelab.lab.studies.memory_study import claims, sweep_table
from cinelab.metrics.card import CardConfig, card, measure_card
from cinelab.metrics.legacy import analysed, current_label, modern
from cinelab.metrics.metric import METRICS, labelled, metric_label, metric_of
from cinelab.metrics.rows import COLUMNS, Row, row_table
from cinelab.metrics.toybox.recogniser import load_recogniser
from cinelab.metrics.toybox.validation import ValidationConfig, Validator
from cinelab.metrics.video.evaluate import evaluate
from cinelab.tables import read_frame

SHIPPED = Path(__file__).parents[1] / "results" / "reference"
SMALL = CardConfig(
    seeds=(0,),
    films=2,
    latents=6,
    shot_latents=(2, 3),
    away=(1,),
    reframed_away=1,
    in_span=(),
    held_seconds=4,
)
PLAY = Screenplay("two shots", (Shot("a red cat waves in the meadow by day", 0.75),) * 2, seed=1)


def warmth(frames, shots):
    """Red minus blue, one value a film."""
    return [float(film[..., 0].mean() - film[..., 2].mean()) for film in frames]


@pytest.fixture(scope="module", autouse=True)
def added():
    """The one place: a function and what is known of it."""
    register.metric("warmth", better="high", unit="grey levels", range=(-255, 255))(warmth)
    yield
    METRICS._things.pop("warmth")


@pytest.fixture(scope="module")
def bundle():
    return load("toybox-1step")


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    for policy in ("full", "window"):
        setting = FilmSetting("toybox-1step", policy, latents=6, shot_latents=(3, 3), films=2)
        film_cell(folder / policy, setting)
    return folder


def test_it_is_in_a_card_and_cards_are_compared_by_it(bundle, tmp_path):
    rows = measure_card(bundle, load_recogniser(), CAMR(budget=3), SMALL)
    record = card(rows, model="x", policy={}, sampling={}, recogniser={})
    assert record["metrics"]["warmth"].keys() >= {"value", "low", "chance", "upper"}
    rows.to_parquet(tmp_path / "x.parquet")
    (tmp_path / "x.json").write_text(json.dumps(record))
    assert "warmth" in set(compare_cards(["x"], tmp_path)["metric"])


def test_it_is_in_a_films_folder_and_in_an_evaluation_of_videos(tmp_path):
    folder = direct_film(PLAY, tmp_path / "film", "toybox-1step")
    rows = read_frame(folder / "metrics.parquet", "")
    assert "warmth" in set(rows["metric"]) and list(rows) == list(COLUMNS)
    found = evaluate([folder], ("colour",))
    assert "warmth" in set(found["metric"]) and list(found) == list(COLUMNS)


def test_it_is_in_a_sweeps_cells_and_in_its_report(cell, tmp_path):
    cells = load_cells(cell)
    assert "warmth" in cells.metrics and cells.better("warmth") == "high"
    page = report([cell], tmp_path / "report.html").read_text()
    assert "warmth, paired" in page and "grey levels" in page


def test_it_is_a_column_of_the_validation(bundle):
    config = ValidationConfig(films=2, latents=6, shot_latents=(2, 3), recalls=0)
    found = Validator(bundle, load_recogniser(), CAMR(budget=3), config)(bundle.model)
    assert "warmth" in found and found["warmth"] == pytest.approx(found["warmth"])
    chosen = [one.name for one in METRICS.validated(selects=True) if one.name in found]
    mean = np.mean([min(1.0, found[name]) for name in chosen])
    assert "warmth" not in chosen and found["score"] == pytest.approx(mean, abs=1e-3)


def test_every_evaluation_writes_the_row_and_names_listed_metrics(bundle, cell):
    listed = set(METRICS)
    measured = measure_card(bundle, load_recogniser(), CAMR(budget=3), SMALL)
    films = read_frame(cell / "full" / "rows.parquet", "")
    for rows in (measured, films):
        assert set(COLUMNS) <= set(rows)
        assert set(rows["metric"]) <= listed
        assert set(rows["source"]) == {"model", "truth", "chance"}
        assert rows["shot"].min() == 0
    protocols = set(measured[measured["metric"] == "identity"]["protocol"])
    assert protocols == {"kept", "away=1", "away=1 reframed", "held"}


def test_every_metric_states_where_it_comes_from():
    table = METRICS.table().set_index("name")
    built_in = table.drop(index="warmth")
    assert (built_in["source"] != "").all()
    assert METRICS.headlines(["warmth", "motion", "identity (kept)", "prompt"]) == [
        "identity (kept)",
        "prompt",
        "motion",
    ]


@pytest.mark.parametrize(
    "before, now",
    [
        ("identity kept", "identity (kept)"),
        ("keeps identity", "identity (kept)"),
        ("identity across shots", "identity (across_shots)"),
        ("identity recalled", "identity (recalled)"),
        ("identity", "identity (recalled)"),
        ("identity after 3 away", "identity (away=3)"),
        ("identity after 3 away, reframed", "identity (away=3 reframed)"),
        ("scenery kept above chance", "scenery above chance (kept)"),
        ("hit rate after 5 away", "hit rate (away=5)"),
        ("cuts", "cut accuracy"),
        ("cuts (PySceneDetect)", "cut accuracy (PySceneDetect)"),
        ("motion of truth", "motion"),
        ("share of the history, a layer", "share of the history (one layer)"),
        ("shows colour", "colour"),
        ("prompt", "prompt"),
        ("a user's own", "a user's own"),
    ],
)
def test_an_earlier_name_has_one_present_name(before, now):
    assert current_label(before) == now == current_label(now)
    assert metric_of(now) in METRICS or now == before


def test_what_strangers_came_to_is_the_chance_level():
    old = pd.DataFrame(
        {
            "clip": "a",
            "shot": [2, 0],
            "metric": ["identity across shots", "identity across shots, strangers"],
            "value": [0.9, 0.4],
            "status": "ok",
            "backend": "dino",
        }
    )
    rows = modern(old)
    assert rows["source"].tolist() == ["model", "chance"]
    assert set(labelled(rows)["metric"]) == {"identity (across_shots, dino)"}


def test_present_tables_are_returned_as_they_are():
    rows = row_table([Row("a", 1, "identity", 0.5, protocol="kept", backend="toybox")], seed=3)
    pd.testing.assert_frame_equal(modern(rows), rows)
    once = analysed(rows)
    assert once["metric"].tolist() == [metric_label("identity", "kept")]
    assert analysed(once)["metric"].tolist() == once["metric"].tolist()


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("toybox-*.json")), ids=lambda path: path.stem)
def test_shipped_cards_are_read_under_the_present_names(path):
    record = read_card(path)
    assert {"identity (kept)", "identity (away=5)", "cut accuracy", "motion"} <= set(
        record["metrics"]
    )
    rows = analysed(read_frame(path.with_suffix(".parquet"), ""))
    assert {metric_of(name) for name in rows["metric"]} <= set(METRICS)
    made = rows[(rows.source == "model") & (rows.metric == "identity (kept)")]
    assert made["value"].mean() == pytest.approx(
        record["metrics"]["identity (kept)"]["value"], abs=1e-4
    )


def test_shipped_tables_of_the_studies_are_read_under_the_present_names():
    rows = pd.read_parquet(SHIPPED / "memory_claims_rows.parquet")
    found = claims(rows, away=5, budget=5)
    assert found["verdict"].notna().all() and len(found) == 6
    table = sweep_table(rows[rows.policy == "full"])
    assert {"identity (recalled)", "hit rate (recalled)"} <= set(table["metric"])
    shipped = Tables("initialisation", "", SHIPPED, measured=False)
    assert {"identity (recalled)", "sharpness"} <= set(shipped("", None)["metric"])


def test_a_present_name_and_an_earlier_one_are_the_same_question(cell):
    from cinelab.lab.reports.sweep_table import pooled

    cells = load_cells(cell)
    now = pooled(cells, ["identity (kept)", "cut accuracy"])
    pd.testing.assert_frame_equal(pooled(cells, ["identity kept", "cuts"]), now)
