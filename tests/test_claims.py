"""Claims: verdicts by bounds and corrected p, one table a family, and what is withdrawn says so."""

import json
from pathlib import Path
from types import SimpleNamespace

import invented
import numpy as np
import pandas as pd
import pytest

from cinelab.errors import CinelabError
from cinelab.lab.reports import withdrawn
from cinelab.lab.reports.verdicts import (
    COLUMNS,
    Look,
    about_gap,
    about_mean,
    about_ratio,
    about_times,
    judged,
    shown,
    verdict,
)
from cinelab.lab.studies import initialisation_cell as initialisation
from cinelab.lab.studies import initialisation_costs as costs_of
from cinelab.lab.studies import initialisation_starts as starts
from cinelab.lab.studies import initialisation_study as claims
from cinelab.lab.studies.initialisation_cell import TEACHER_STAGE
from cinelab.lab.studies.memory_study import sweep_rows
from cinelab.metrics.stats import Estimate, holm

NEW = withdrawn.EDITION["initialisation"]


def look(low, high, kind="above", margin=0.0, p=0.001, **more):
    return Look("x", Estimate((low + high) / 2, low, high, 30), p, p, kind, margin, 30, **more)


@pytest.mark.parametrize(
    ("low", "high", "kind", "margin", "word"),
    [
        (0.01, 0.2, "above", 0.0, "confirmed"),
        (-0.2, -0.01, "above", 0.0, "refuted"),
        (-0.001, 0.3, "above", 0.0, "undecided: the interval holds the margin"),
        (0.0, 0.3, "above", 0.0, "undecided: the interval holds the margin"),
        (
            0.94,
            1.2,
            "above",
            0.95,
            "undecided: the interval holds the margin",
        ),  # 1.07 decides nothing
        (0.96, 1.2, "above", 0.95, "confirmed"),
        (-0.04, 0.04, "level", 0.05, "confirmed"),
        (-0.04, 0.06, "level", 0.05, "undecided: the interval holds the margin"),
        (-0.05, 0.01, "level", 0.05, "undecided: the interval holds the margin"),
        (0.051, 0.2, "level", 0.05, "refuted"),
        (-0.2, -0.051, "level", 0.05, "refuted"),
    ],
)
def test_bounds_decide(low, high, kind, margin, word):
    assert verdict(look(low, high, kind, margin), 0.01) == word


def test_a_corrected_p_above_the_level_leaves_it_open():
    assert verdict(look(0.01, 0.2), 0.05) == "confirmed"
    assert verdict(look(0.01, 0.2), 0.051) == "undecided: corrected p 0.051"
    assert verdict(look(-0.2, -0.1), 0.4).startswith("undecided")


def test_one_training_decides_nothing():
    assert verdict(look(0.1, 0.2, trainings=1), 0.001) == "undecided: 1 training"
    assert verdict(look(0.1, 0.2, trainings=2), 0.001) == "confirmed"


def test_p_is_corrected_over_the_whole_table():
    rng = np.random.default_rng(0)
    clear = rng.normal(0.12, 0.3, 40)
    alone = judged([about_mean("a", clear)]).iloc[0]
    assert alone.verdict == "confirmed" and alone.p == alone["corrected p"] < 0.05
    nothing = [about_mean(f"b{i}", rng.normal(0, 0.3, 40)) for i in range(25)]
    crowd = judged([about_mean("a", clear), *nothing])
    assert crowd["corrected p"].tolist() == holm(crowd.p.tolist())
    assert crowd.low[0] > 0 and crowd.verdict[0].startswith("undecided: corrected p")


def test_what_was_not_measured_is_no_look():
    table = judged([about_mean("a", [0.2, 0.3, 0.25] * 9), about_mean("b", [])])
    assert table.verdict[1] == "not measured" and pd.isna(table.p[1])
    assert table.p[0] == table["corrected p"][0]
    assert judged([]).columns.tolist() == list(COLUMNS)


def test_conditions_that_do_not_agree_decide_nothing():
    one, other = look(0.1, 0.2, twin="t"), look(-0.1, 0.2, twin="t")
    assert judged([one, other]).verdict[0] == "undecided: its conditions do not agree"
    assert judged([one, one]).verdict.tolist() == ["confirmed", "confirmed"]
    assert judged([one, look(-0.1, 0.2)]).verdict[0] == "confirmed"


def test_a_ratio_is_decided_by_its_own_interval():
    rng = np.random.default_rng(1)
    base = rng.random(60)
    noisy = base + rng.normal(0, 0.4, 60) + 0.03
    kept = judged([about_ratio("keeps 0.95", noisy, base, margin=0.95)]).iloc[0]
    assert kept.value > 0.95 > kept.low and kept.verdict.startswith("undecided")
    sure = judged([about_ratio("keeps 0.95", base, base, margin=0.95)]).iloc[0]
    assert sure.verdict == "confirmed" and sure.value == sure.low == 1


def test_times_carry_the_noise_of_timing():
    seeds = np.repeat([0, 1, 2], 5)
    steady = 4 * np.exp(np.random.default_rng(2).normal(0, 0.05, 15))
    rough = 4 * np.exp(np.random.default_rng(3).normal(0, 0.9, 15))
    assert judged([about_times("3 times", steady, seeds, margin=3)]).verdict[0] == "confirmed"
    found = judged([about_times("3 times", rough, seeds, margin=3)]).iloc[0]
    assert found.low < 3 < found.value and found.verdict.startswith("undecided")
    assert (
        judged([about_times("3 times", 1.68 * steady / 4, seeds, margin=3)]).verdict[0] == "refuted"
    )


def test_equality_needs_a_margin_that_holds_the_interval():
    rng = np.random.default_rng(4)
    a = rng.random(100)
    near = a + rng.normal(0, 0.05, 100)
    loose = a + rng.normal(0, 0.5, 100)
    words = [
        judged([about_gap("level", b, a, kind="level", margin=0.05)]).verdict[0]
        for b in (near, loose)
    ]
    assert words == ["confirmed", "undecided: the interval holds the margin"]
    apart = judged([about_gap("level", a + 0.2, a, kind="level", margin=0.05)]).iloc[0]
    assert apart.verdict == "refuted"


def test_every_row_says_what_it_rests_on():
    table = shown(judged([about_mean("a", [0.1, 0.2, 0.3, 0.2], [0, 0, 1, 1], margin=0.05)]))
    assert {"measured", "margin", "films", "trainings", "p", "corrected p", "verdict"} <= set(table)
    assert table.margin[0] == "> 0.05" and table.films[0] == 4 and table.trainings[0] == "2"
    with pytest.raises(CinelabError, match="no table of claims"):
        shown(pd.DataFrame({"claim": ["a"]}))


# The initialisation study


def cells(
    folder,
    ahead,
    protocol=NEW,
    noise=0.01,
    inits=("consistency", "consistency_equal_seconds", "causal_ode"),
):
    """Initialisations on 12 films by 3 seeds, all but causal ODE `ahead` of it by so much."""
    rng = np.random.default_rng(0)
    about = {} if protocol is None else {"protocol": protocol}
    for init in inits:
        plus = 0.0 if init == "causal_ode" else ahead
        rows = [
            {
                "film": f,
                "metric": m,
                "value": 0.5 + plus + noise * rng.normal(),
                "steps": 1,
                "stage": stage,
                "init": init,
                "seed": s,
                **about,
            }
            for f in range(12)
            for m in claims.SHOWN
            for stage in claims.STAGES
            for s in range(3)
        ]
        (folder / init).mkdir(parents=True)
        pd.DataFrame(rows).to_parquet(folder / init / "rows.parquet")
        turns = (
            {"turns": [{"causal_ode": 40 + i, "consistency": 10.0} for i in range(3)]}
            if "equal" in init
            else {}
        )
        (folder / init / "cell.json").write_text(
            json.dumps(
                {
                    "init": init,
                    "seed": 0,
                    "stage 2 seconds": 10.0,
                    "pairs seconds": 30.0 * (init == "causal_ode"),
                    "stored bytes": 5,
                    **about,
                    **turns,
                }
            )
        )
    return folder


def verdicts(folder):
    return (
        claims.init_claims(sweep_rows(folder), costs_of.init_cells(folder))
        .set_index("claim")
        .verdict
    )


@pytest.mark.parametrize("ahead, word", [(0.2, "confirmed"), (-0.2, "refuted"), (0.0, "undecided")])
def test_a_claim_on_starts_is_decided_by_its_interval(ahead, word, tmp_path):
    folder = cells(tmp_path / "sweep", ahead)
    found = verdicts(folder)
    assert found[
        "after DMD, 1 levels: consistency (equal clips) is ahead of causal_ode in prompt"
    ].startswith(word)
    assert (
        found["after DMD, 1 levels: causal_ode is ahead of bidirectional_ode in prompt"]
        == "not measured"
    )
    level = "confirmed" if not ahead else "refuted"
    assert (
        found["after DMD, 1 levels: consistency (equal seconds) is level with causal_ode in prompt"]
        == level
    )
    costs = costs_of.init_costs(costs_of.init_cells(folder)).set_index("init")
    assert costs["seconds before DMD"].to_dict() == {
        "causal_ode": 40,
        "consistency": 10,
        "consistency_equal_seconds": 10,
    }
    assert len(claims.init_points(sweep_rows(folder)).data) == 24


def test_a_mean_beyond_the_margin_decides_nothing(tmp_path):
    folder = cells(tmp_path / "sweep", 0.06, noise=0.5)
    table = claims.init_claims(sweep_rows(folder), costs_of.init_cells(folder)).set_index("claim")
    row = table.loc[
        "after DMD, 1 levels: consistency (equal clips) is level with causal_ode in prompt"
    ]
    assert row.low < -0.05 or row.high > 0.05
    assert row.verdict.startswith("undecided") and row.trainings == 3 and row.films == 36


def test_without_equal_seconds_consistency_is_undecided(tmp_path):
    found = verdicts(cells(tmp_path / "sweep", 0.2, inits=("consistency", "causal_ode")))
    word = found["after DMD, 1 levels: consistency (equal clips) is ahead of causal_ode in prompt"]
    assert word == "undecided: its conditions do not agree"
    assert found.iloc[-1] == "not measured"  # the cost: no turns were taken


def test_old_cells_are_shown_and_their_claims_withdrawn(tmp_path):
    folder = cells(tmp_path / "old", -0.2, protocol=None, inits=("consistency", "causal_ode"))
    table = claims.init_claims(sweep_rows(folder), costs_of.init_cells(folder)).set_index("claim")
    row = table.loc[
        "after DMD, 1 levels: consistency (equal clips) is ahead of causal_ode in prompt"
    ]
    assert row.verdict.startswith("withdrawn: consistency saw 480 clips") and row.high < 0
    assert table.verdict.iloc[-1].startswith("withdrawn: it had half the clips")
    assert "confirmed" not in set(table.verdict) and "refuted" not in set(table.verdict)
    cells(tmp_path / "new", -0.2, inits=("consistency_equal_seconds",))
    mixed = claims.init_claims(
        sweep_rows(folder, tmp_path / "new"), costs_of.init_cells(folder, tmp_path / "new")
    )
    assert not mixed.verdict.isin(["confirmed", "refuted"]).any()  # a new side against an old one


def test_teachers_that_differ_are_noted(tmp_path):
    folder = cells(tmp_path / "s", 0.1, inits=("causal_ode", "bidirectional_ode"))
    note = "after DMD, 1 levels: causal_ode is ahead of bidirectional_ode in prompt"
    table = claims.init_claims(sweep_rows(folder), costs_of.init_cells(folder)).set_index("claim")
    assert "no card of the teachers" in table.note[note]
    for init, value in (("causal_ode", 0.95), ("bidirectional_ode", 0.9)):
        rows = pd.read_parquet(folder / init / "rows.parquet")
        card = rows[(rows.stage == "after DMD") & (rows.metric == "prompt")]
        pd.concat([rows, card.assign(stage=TEACHER_STAGE, steps=12, value=value)]).to_parquet(
            folder / init / "rows.parquet"
        )
    table = claims.init_claims(sweep_rows(folder), costs_of.init_cells(folder)).set_index("claim")
    assert "the teachers' own prompt differs by 0.050" in table.note[note]
    assert set(claims.init_table(sweep_rows(folder)).stage) == {TEACHER_STAGE, *claims.STAGES}


def test_equal_seconds_come_from_turns():
    turns = [
        {"causal_ode": 277.0, "consistency": 309.0},
        {"causal_ode": 270.0, "consistency": 300.0},
    ]
    assert starts.equal_seconds(turns, 120) == 108
    assert starts.equal_seconds([{"causal_ode": 1.0, "consistency": 900.0}], 3) == 1


def test_the_list_of_withdrawn_claims():
    assert withdrawn.withdrawn("initialisation", ("causal_ode", "bidirectional_ode"), 1).startswith(
        "withdrawn: the baseline had"
    )
    assert withdrawn.withdrawn("initialisation", ("causal_ode", "bidirectional_ode"), NEW) == ""
    assert withdrawn.withdrawn("initialisation", ("score", "none"), 1).startswith(
        "withdrawn: its starts"
    )
    assert withdrawn.withdrawn("memory", ("camr", "full"), 1) == ""
    assert set(withdrawn.withdrawn_table().study) == {"initialisation", "injectivity", "memory"}
    assert len(withdrawn.withdrawn_table("injectivity")) == 3


def plan(init, changes, **more):
    return starts.CellPlan(init, 0, None, "", "toy", changes, **more)


def test_equal_seconds_are_what_the_cell_trains_for(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(starts, "cell_pairs", lambda *_, **__: None)
    monkeypatch.setattr(starts.students, "consistency", lambda *a, **k: asked.update(a[5]))
    (tmp_path / "turns").mkdir()
    (tmp_path / "turns" / "turns.json").write_text(
        json.dumps([{"causal_ode": 90.0, "consistency": 100.0}])
    )
    recipe = {"consistency": {"steps": 120, "batch": 8}}
    starts._consistent(tmp_path / "stage2", plan("consistency_equal_seconds", recipe))
    assert asked == {"steps": 108, "batch": 8}
    starts._consistent(tmp_path / "stage2", plan("consistency", recipe))
    assert asked == {"steps": 120, "batch": 8}
    starts._consistent(tmp_path / "stage2", plan("consistency", recipe, stage2_steps=480))
    assert asked == {"steps": 480, "batch": 8}


def test_the_study_gives_every_start_as_many_clips():
    from cinelab.config import override
    from cinelab.lab.sweeps.grid import expand
    from cinelab.train import presets

    for cell in expand(Path(__file__).parents[1] / "experiments" / "initialisation.yaml"):
        changes = cell.parameters["changes"]
        ode = override(presets.ode("toy"), changes["ode"])
        consistency = override(presets.consistency("toy"), changes["consistency"])
        assert ode.steps * ode.pairs.batch == consistency.steps * consistency.batch == 960


def test_the_baseline_has_a_level_a_chunk(tmp_path, monkeypatch):
    asked = {}
    pairs = SimpleNamespace(seconds=1.0, bytes=2)
    monkeypatch.setattr(starts, "cell_pairs", lambda *_, **__: pairs)
    monkeypatch.setattr(starts.students, "ode", lambda *a, **k: asked.update(a[5]))
    starts._regressed(tmp_path, plan("bidirectional_ode", {"ode": {"steps": 120}}))
    assert asked == {"history": "noisy", "levels": "chunk", "steps": 120}


def test_a_teachers_card_is_of_its_end_points():
    from cinelab.metrics.toybox.recogniser import load_recogniser
    from cinelab.train import presets

    rows = initialisation.teacher_rows(
        load_recogniser(), "toybox-base", 0, films=2, config=presets.pairs("smoke"), latents=6
    )
    means = rows.groupby("metric").value.mean()
    assert {"prompt", "action", "camera", "kind", "looks", "sharpness"} <= set(means.index)
    assert means["looks"] > 0.8  # it is given the true past


def test_shipped_tables_say_what_is_withdrawn():
    root = Path(__file__).parents[1]
    page = root / "results" / "reference" / "experiments.html"
    shown = page.read_text().split('<script type="application/json"')[0]
    assert shown.count("withdrawn: the baseline had one noise level a clip") == 2
    for path in (root / "results" / "reference").rglob("*.csv"):
        table = pd.read_csv(path)
        if path.stem.startswith(("initialisation", "teacher_alone", "injectivity")):
            # a table of today's edition states it, or has the columns of today's claims
            if "edition" in table or "corrected p" in table:
                continue
            old = table["protocol"] < 2 if "protocol" in table else table.index >= 0
            last = table["verdict" if "verdict" in table else "status"]
            assert last[old].str.startswith("withdrawn: ").all(), path


def test_the_notebook_of_claims_reads_a_sweep(tmp_path):
    """In smoke mode it shows the shipped tables; here it makes them from cells."""
    from cinelab.lab.sweeps.notebook import execute

    notebook = Path(__file__).parents[1] / "notebooks" / "31_initialisation_claims.ipynb"
    sweep = invented.initialisation_cells(tmp_path / "cells")
    settings = {"sweep": str(sweep), "also": [], "run_dir": str(tmp_path / "run")}
    execute(notebook, tmp_path / "run", settings)
    made = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"initialisation.csv", "initialisation_claims.csv", "initialisation_costs.csv"} <= made
    table = pd.read_csv(tmp_path / "run" / "initialisation.csv")
    assert "identity (recalled)" in set(table.metric) and set(table.edition) == {2}
