"""Cards: the truth has the best values, shuffled films those of chance, and a card is plain
JSON."""

import json

import numpy as np
import pandas as pd
import pytest

from cinelab import CAMR, load
from cinelab.errors import CinelabError
from cinelab.lab.reports.cards import card_table, compare_cards, comparison_note, print_card
from cinelab.metrics.card import CardConfig, card, measure_card
from cinelab.metrics.legacy import analysed
from cinelab.metrics.rows import row_table
from cinelab.metrics.toybox.attributes import (
    above_chance_rows,
    absence_batch,
    consistency_rows,
    diversity_rows,
    film_rows,
    own_chance_rows,
    recall,
    recall_rows,
    shuffled,
)
from cinelab.metrics.toybox.recogniser import load_recogniser
from cinelab.world.plans import FilmPlan, ShotPlan
from cinelab.world.worlds import world_named

WORLD = world_named()


@pytest.fixture(scope="module")
def reader():
    return load_recogniser()


@pytest.fixture(scope="module")
def bundle():
    return load("toybox-base")


def test_the_truth_scores_full_marks(reader):
    plans = [WORLD.cast_film(60_001, index, 18, shot_latents=(3, 6)) for index in range(12)]
    frames = np.stack([WORLD.render(plan).frames for plan in plans])
    rows, chance = (analysed(row_table(part)) for part in film_rows(reader, frames, plans))
    mean = rows.groupby("metric").value.mean()
    assert mean[list(WORLD.prompted)].min() > 0.93
    assert mean["cut accuracy"] > 0.99
    assert mean["identity (kept)"] > 0.95
    assert 0.15 < chance[chance.metric == "identity (kept)"].value.mean() < 0.35, (
        "four values each: one in four by chance"
    )
    assert 0.6 < mean["identity above chance (kept)"] < 0.85
    assert 0.65 < mean["diversity of identity"] < 0.85 and 0.4 < mean["diversity of scenery"] < 0.8
    assert abs(mean["drift"]) < 0.1


def test_a_wrong_film_scores_chance(reader):
    plans = [WORLD.absence(60_002, index, 1) for index in range(60)]
    frames = np.stack([WORLD.render(plan).frames for plan in plans])
    right = row_table(recall_rows(reader, frames, plans)).groupby("metric").value.mean()
    wrong = row_table(recall_rows(reader, frames, shuffled(plans))).groupby("metric").value.mean()
    assert right.min() > 0.95
    assert 0.1 < wrong["identity"] < 0.4, "four values each: one in four by chance"


def test_identity_kept_is_measured_against_the_film_itself():
    shots = [
        {"character": 0, "place": 0},
        {"character": 1, "place": 1},
        {"character": 0, "place": 0},
    ]
    base = WORLD.cast_film(1, 0, 6, shot_latents=(2, 2)).shots[0]
    plan = FilmPlan(
        tuple(ShotPlan(base.attributes, "", 2, s["character"], s["place"], 0) for s in shots)
    )
    seen = [base.attributes, base.attributes, base.attributes | {"accessory": "other"}]
    rows = [row for row in consistency_rows([seen], [plan]) if row.metric == "identity"]
    assert {row.protocol for row in rows} == {"kept"}
    assert [row.value for row in rows] == [1.0, 0.0, 1.0]


def test_drawing_every_character_alike_keeps_all_looks_and_is_no_merit():
    """Mode collapse: all looks are kept, none above the chance of the model's own films, and
    diversity is zero."""
    plans = [WORLD.cast_film(60_004, index, 18, shot_latents=(3, 6)) for index in range(6)]
    alike = dict(plans[0].shots[0].attributes)
    collapsed = [[alike] * len(plan.shots) for plan in plans]
    true = [[shot.attributes for shot in plan.shots] for plan in plans]

    def mean(rows, metric):
        return np.mean([row.value for row in rows if row.metric == metric])

    for seen, above, varied in ((collapsed, 0.0, 0.0), (true, 0.7, 0.7)):
        kept = consistency_rows(seen, plans)
        chance = own_chance_rows(seen, plans)
        assert mean(kept, "identity") == 1.0
        assert mean(above_chance_rows(kept, chance), "identity above chance") == pytest.approx(
            above, abs=0.15
        )
        assert mean(diversity_rows(seen, plans), "diversity of identity") == pytest.approx(
            varied, abs=0.15
        )


def test_only_the_return_is_made(bundle, reader):
    batch = absence_batch(bundle, 60_003, range(2), away=1)
    from dataclasses import replace

    rows, memory = recall(
        bundle, reader, batch, CAMR(budget=4), [0, 1], replace(bundle.sampling, steps=2)
    )
    assert {row.metric for row in rows} == {"identity", "scenery", "prompt"}
    assert memory.length == batch.latents.shape[1]


def test_a_small_card_is_complete_and_plain_json(bundle, reader, capsys):
    from dataclasses import replace

    from rich.console import Console

    inference_mode = replace(bundle, sampling=replace(bundle.sampling, steps=2))
    rows = measure_card(
        inference_mode,
        reader,
        CAMR(budget=4),
        CardConfig(seeds=(0,), films=2, latents=8, away=(1,)),
    )
    record = json.loads(
        json.dumps(card(rows, model="x", recogniser=reader.accuracy), allow_nan=False)
    )
    for metric in (
        *WORLD.prompted,
        "cut accuracy",
        "cut accuracy (PySceneDetect)",
        "identity (away=1)",
        "scenery (away=1)",
        "identity (away=3 reframed)",
        "drift",
    ):
        assert set(record["metrics"][metric]) == {"value", "low", "high", "n", "chance", "upper"}
    assert len(card_table(record)) == len(record["metrics"])
    print_card(record, Console(width=120))
    assert "identity (away=1)" in capsys.readouterr().out


def test_an_interval_that_is_not_known_is_null():
    rows = pd.DataFrame(
        {
            "film": [0],
            "shot": [0],
            "metric": ["drift"],
            "value": [0.3],
            "source": ["model"],
            "seed": [0],
        }
    )
    made = card(rows)["metrics"]["drift"]
    assert made["value"] == 0.3 and made["chance"] is None
    assert json.dumps(made, allow_nan=False)


def test_an_interval_that_is_not_known_is_printed_as_nothing(capsys):
    row = {"value": 0.261, "low": None, "high": None, "n": 1, "chance": None, "upper": None}
    print_card({"model": "x", "metrics": {"share": row}, "recogniser": {}})
    assert "0.261" in (said := capsys.readouterr().out) and " to " not in said


def test_a_card_needs_films():
    with pytest.raises(CinelabError, match="at least 1 seed and 2 films"):
        CardConfig(seeds=(), films=32)


def test_cards_side_by_side_are_paired_by_film(tmp_path):
    films = [(seed, film) for seed in (0, 1) for film in range(8)]
    for name, value, count in (("base", 0.8, 8), ("student", 0.6, 8), ("other", 0.4, 6)):
        rows = [
            {"seed": s, "film": f, "shot": 0, "metric": m, "value": value, "source": "model"}
            for s, f in films
            if f < count
            for m in ("kind", "action", "cuts")
        ]
        pd.DataFrame(rows).to_parquet(tmp_path / f"{name}.parquet")
    found = compare_cards(["base", "student", "other"], tmp_path).set_index(["metric", "model"])
    assert found.loc[("prompt", "student"), "share"] == pytest.approx(0.75)
    assert found.loc[("prompt", "student"), "share low"] == pytest.approx(0.75)
    assert pd.isna(found.loc[("cut accuracy", "other"), "share"]) and pd.isna(
        found.loc[("cut accuracy", "base"), "share"]
    )
    note = comparison_note(found.reset_index(), ["base", "student", "other"])
    assert (
        note.startswith("Mean over films [95 % interval]; x: the share of base's")
        and "Not set beside base: other," in note
    )
    alone = comparison_note(compare_cards(["base", "other"], tmp_path), ["base", "other"])
    assert (
        "x:" not in alone
        and "Not set beside base: other, since the films are not the same." in alone
    )
    assert (
        comparison_note(compare_cards(["base"], tmp_path), ["base"])
        == "Mean over films [95 % interval]."
    )
    with pytest.raises(CinelabError, match="run `cinelab score absent` first"):
        compare_cards(["absent"], tmp_path)
