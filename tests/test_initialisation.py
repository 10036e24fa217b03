"""The initialisation study's budgets and teachers: what varies is measured, what is shared is
stated, and the course of DMD is one run."""

import itertools

import numpy as np
import pandas as pd
import pytest

from cinelab.errors import CinelabError
from cinelab.lab.studies import initialisation_costs as costs
from cinelab.lab.studies import initialisation_course as course
from cinelab.lab.studies import initialisation_study as study
from cinelab.lab.studies.initialisation_cell import (
    checked_updates,
    initialisation_cell,
    measured_once,
)
from cinelab.lab.studies.initialisation_starts import INITS, CellPlan, teacher_of
from cinelab.lab.studies.initialisation_study import Budget
from cinelab.lab.studies.injectivity_claims import injectivity_claims
from cinelab.lab.studies.teacher_given_past import Rounds
from cinelab.lab.studies.teachers import Teachers
from cinelab.lab.training import stages
from cinelab.runs import log_rows
from cinelab.texts import read_json
from cinelab.train.true_past import TRUE_PAST


def test_a_cell_measures_one_run_of_dmd_after_each_number_of_updates(tmp_path):
    store = stages.film_store(tmp_path / "store", "smoke")
    rows = initialisation_cell(
        tmp_path / "cell",
        store,
        tmp_path / "pairs",
        TRUE_PAST,
        0,
        (1,),
        preset="smoke",
        changes={"pairs": {"counted": 2}},
        teachers={TRUE_PAST: "toybox-bidirectional-24"},
        stage2_steps=2,
        updates=[2, 1],
    )
    stages_of = rows.groupby("stage").updates.unique().map(list).to_dict()
    assert stages_of == {"after DMD": [1, 2], "before DMD": [0], "the teacher": [0]}
    assert set(rows.trained) == {2} and len(list((tmp_path / "pairs").glob("*/pairs.json"))) == 1
    made = rows[(rows.source == "model") & (rows.stage == "after DMD")].metric.unique()
    assert {"motion", "diversity of identity", "identity", "prompt"} <= set(made)
    assert len(log_rows(tmp_path / "cell" / "dmd-1")) == 4  # one run, which went on
    record = read_json(tmp_path / "cell" / "cell.json")
    assert "base model" in record["shared"] and record["trained"] == 2
    assert set(study.init_table(rows).updates) == {0, 1, 2}
    again = measured_once(tmp_path / "cell" / "dmd-1" / "after-1.parquet", None)
    assert set(again.updates) == {1}  # the run stands at 2: it is not measured as if it were 1


def test_teachers_may_be_one_a_seed():
    found = Teachers({"autoregressive": ["a", "b"], TRUE_PAST: "c"})
    assert [found.of("autoregressive", seed) for seed in (0, 1)] == ["a", "b"]
    assert found.of("bidirectional", 7) == "toybox-bidirectional-24"
    assert found.in_common(["autoregressive", "bidirectional"]) == [
        "bidirectional teacher",
        "its ODE pairs",
        "real score",
        "critic's start",
    ]
    with pytest.raises(CinelabError, match="lists 2 checkpoints and the seed is 2"):
        found.of("autoregressive", 2)
    with pytest.raises(CinelabError, match=r"train one with `cinelab sweep experiments/teachers"):
        Teachers({}).of(TRUE_PAST, 0)
    with pytest.raises(CinelabError, match="teachers has 'causal'; its kinds are"):
        Teachers({"causal": "x"})
    with pytest.raises(CinelabError, match=r"teachers.autoregressive is \[\]; give a checkpoint"):
        Teachers({"autoregressive": []})


def test_a_start_knows_its_teacher_and_its_steps():
    assert teacher_of(TRUE_PAST) == TRUE_PAST and teacher_of("none") is None
    plan = {"seed": 0, "store": None, "pairs": "", "teachers": Teachers({TRUE_PAST: "toybox-base"})}
    for init in INITS:
        steps = CellPlan(init, **plan, stage2_steps=480).nominal_steps
        assert steps == (0 if init in study.UNTRAINED else 480)
    with pytest.raises(CinelabError, match="init is 'odd'; use one of"):
        CellPlan("odd", **plan)
    with pytest.raises(CinelabError, match="updates is"):
        checked_updates([50, 0])


# Made-up cells: 12 films of 3 trainings


def rows_of(values, metrics=("motion", "prompt", study.RECALLED), noise=0.01):
    """Rows of starts by (init, trained, updates) -> mean, before (updates 0) and after DMD."""
    rng = np.random.default_rng(0)
    found = [
        {
            "clip": f"f{film}",
            "metric": metric,
            "value": mean + noise * rng.normal(),
            "source": "model",
            "seed": seed,
            "steps": 2,
            "stage": "after DMD" if updates else "before DMD",
            "init": init,
            "trained": trained,
            "updates": updates,
            "edition": 2,
        }
        for (init, trained, updates), mean in values.items()
        for metric, seed, film in itertools.product(metrics, range(3), range(12))
    ]
    return pd.DataFrame(found)


def test_a_claim_is_made_at_every_budget_that_was_measured():
    values = {("consistency", n, 50): 0.6 + n / 10_000 for n in (120, 480, 1920)}
    values |= {("causal_ode", n, 50): 0.6 for n in (120, 480, 1920)} | {("none", 0, 50): 0.6}
    table = study.init_claims(rows_of(values), cells()).set_index("claim").verdict
    for steps, word in ((480, "undecided: its"), (1920, "undecided: its")):
        ahead = f"after DMD, 2 levels, {steps} steps: consistency (equal clips) is ahead of"
        assert table[f"{ahead} causal_ode in prompt"].startswith(word)  # no equal seconds here
        assert table[f"{ahead} none in prompt"] == "confirmed"
    assert not any("updates" in claim for claim in table.index)


def cells():
    cell = {"init": "none", "seed": 0, "edition": 2.0, "stage 2 seconds": 1.0, "pairs seconds": 1.0}
    return pd.DataFrame([cell | {"shared": ["base model"]}])


def test_the_costs_state_what_trainings_share():
    assert costs.init_costs(cells()).shared.tolist() == ["base model"]
    assert costs.init_costs(cells().drop(columns="shared")).shared.tolist() == ["not recorded"]


def test_the_course_has_a_verdict_for_every_checkpoint():
    values = {("none", 0, n): 1.0 - n / 2000 for n in (50, 150, 500)}
    values |= {("causal_ode", 480, n): 1.0 for n in (50, 150, 500)}
    rows = rows_of(values)
    table = course.course_claims(rows).set_index("claim").verdict
    assert table["2 levels: none loses motion from 50 updates to 500"] == "confirmed"
    assert table["2 levels: causal_ode loses motion from 50 updates to 500"] != "confirmed"
    kept = "after DMD, 2 levels, {} updates: none keeps 0.95 of the truth's motion"
    assert table[kept.format(50)] == "confirmed" and table[kept.format(500)] == "refuted"
    level = "after DMD, 2 levels, {} updates: none is level with causal_ode in prompt"
    assert table[level.format(50)] == "confirmed" and table[level.format(500)] == "refuted"
    assert len(course.course_figure(rows).data) == 2 * 3
    assert not any("diversity" in claim for claim in table.index)  # the truth's is not there


def test_variety_is_a_share_of_the_truths():
    rows = rows_of({("none", 0, 50): 0.6, ("causal_ode", 480, 50): 0.75}, (course.DIVERSITY,))
    truth = rows[rows.init == "none"].assign(source="truth", value=0.75, stage="before DMD")
    table = course.course_claims(pd.concat([rows, truth])).set_index("claim").verdict
    claim = "after DMD, 2 levels: {} keeps 0.9 of the truth's diversity of identity"
    assert table[claim.format("none")] == "refuted"
    assert table[claim.format("causal_ode")] == "confirmed"


def test_a_budget_is_named_by_what_varies():
    assert str(Budget(2, 480, 50)) == "2 levels"
    assert str(Budget(2, 480, 50, ("trained", "updates"))) == "2 levels, 480 steps, 50 updates"


def test_rounds_of_a_teacher_are_at_least_one():
    with pytest.raises(CinelabError, match="steps is 0, most is 8 and films is 24"):
        Rounds(steps=0)


def test_the_claims_of_injectivity_are_of_teachers_that_attend_to_the_future():
    rng = np.random.default_rng(1)
    found = []
    for history, seed, clip, steps in itertools.product(
        ("truth", "noisy"), range(3), range(12), (240, 4000)
    ):
        about = {"case": f"{history} past", "history": history, "clip": clip, "seed": seed}
        about |= {"t": 1.0, "past_noise": 0.0, "student_steps": steps}
        error = 2.0 if steps == 240 else 0.3
        for what, value in (("variance", 0.1), ("squared error", error), ("blur", 0.7)):
            found.append(about | {"what": what, "value": value + 0.01 * rng.normal()})
    table = injectivity_claims(pd.DataFrame(found)).set_index("claim").verdict
    assert table.to_dict() == {  # a tenth of the error of the longest training
        "noisy past: the unseen decides a tenth of the student's squared error": "confirmed",
        "noisy past: the mean end point is blurred": "confirmed",
    }
