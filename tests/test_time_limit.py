"""A training whose minutes are up ends at a step boundary: validated, saved, exported; called again
it goes on as one that was never limited."""

import json
from dataclasses import replace

import pytest
from test_train import Fake, model, parts_of, rows_of, same

from cinelab.checksums import read_sealed
from cinelab.config import from_dict
from cinelab.errors import CinelabError
from cinelab.jobs import worker
from cinelab.jobs.job import Job
from cinelab.runs import Run
from cinelab.scale.parallel import Layout, Parallel
from cinelab.train import presets
from cinelab.train.loop import Learner, train
from cinelab.train.stage import stage_named
from cinelab.train.time_limit import SAVE, STEP, VALIDATION, TimeLimit


class Clock:
    """Seconds that pass by themselves: so many between two looks."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.now = 0.0

    def __call__(self) -> float:
        self.now += self.seconds
        return self.now


def test_a_step_is_begun_only_if_the_end_still_fits_behind_it():
    clock = Clock(0.0)
    limit = TimeLimit(1, clock=clock)
    for what, seconds in ((STEP, 4.0), (SAVE, 6.0), (VALIDATION, 20.0)):
        with limit.timing(what):
            clock.now += seconds
    # a step, a validation, a save and an export of at most a save's length, and a margin
    assert limit.reserved == pytest.approx(4 + 20 + 2 * 6, abs=1)
    clock.now = 60 - limit.reserved
    assert not limit.is_up()
    clock.now += 0.1
    assert limit.is_up()


def test_what_the_first_step_compiles_is_not_expected_of_every_step():
    clock = Clock(0.0)
    limit = TimeLimit(10, clock=clock)
    for seconds in (90.0, *[1.0] * 8):
        with limit.timing(STEP):
            clock.now += seconds
    assert limit.reserved < 10


def test_no_minutes_never_end():
    assert not TimeLimit(None, clock=Clock(1e9)).is_up()


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), "13"])
def test_minutes_that_are_none_are_refused(minutes):
    with pytest.raises(CinelabError, match="minutes is"):
        TimeLimit(minutes)


def test_a_training_that_was_cut_by_its_time_goes_on_to_the_bit(tmp_path):
    stage = stage_named("teacher_forcing")
    config = stage.preset("smoke")

    def trained(name, limit=None):
        run = Run(tmp_path / name, config)
        run.time_limit = limit
        list(stage.train(config, Fake(), {"student": model()}, run=run))
        return run

    trained("whole")
    run = trained("cut", TimeLimit(0.2, clock=Clock(2.0)))
    assert 0 < run.step < config.steps and run.ended and not run.done
    assert run.done_info["steps"] == run.step and run.done_info["planned"] == config.steps
    assert trained("cut").done
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "cut")
    assert same(parts_of(tmp_path / "whole"), parts_of(tmp_path / "cut"))


def test_the_last_step_in_time_is_validated(tmp_path):
    config = presets.ode("smoke")
    run = Run(tmp_path, config)
    run.time_limit = TimeLimit(0.01)
    scores = iter([0.5, 0.75])

    def loss(net, step, micro_batch, rng):
        return net.proj_out.weight.square().sum() + 1, {}

    def validated(net):
        return {"score": next(scores)}

    rows = list(train([Learner(model(), loss, config.optim)], config, run, validated))
    assert [row["score"] for row in rows] == [0.75]
    assert (tmp_path / "checkpoints" / "best.pt").exists()


def test_a_job_is_exported_when_its_minutes_are_up(tmp_path, capsys):
    job = {
        "stage": "teacher_forcing",
        "run": str(tmp_path / "run"),
        "store": {"kind": "noise", "path": "6x8x4"},
        "preset": "smoke",
        "minutes": 0.01,
        "export": str(tmp_path / "made"),
    }
    place = tmp_path / "job.json"
    place.write_text(json.dumps(job))
    assert worker.main(str(place)) == 0
    said = capsys.readouterr().out
    assert f"time is up after 1 of 4 steps: {tmp_path / 'made'}" in said
    made = read_sealed(tmp_path / "made" / "config.json", "")
    assert made["run"]["steps"] == 1 and made["run"]["planned"] == 4
    assert worker.main(str(place), minutes=60) == 0
    assert "done:" in capsys.readouterr().out
    assert read_sealed(tmp_path / "made" / "config.json", "")["run"]["steps"] == 4


def test_processes_end_together():
    """One of them is late: all end at the same step."""
    alone = Parallel.here(Layout())
    assert alone.any(True) and not alone.any(False)


def test_pairs_that_are_not_integrated_in_time_are_kept(tmp_path):
    job = from_dict(
        Job,
        {
            "stage": "ode",
            "run": str(tmp_path),
            "store": {"kind": "noise", "path": "6x8x4"},
            "init": "random",
            "teacher": "random",
            "changes": {"pairs.clips": 3, "pairs.steps": 4},
            "minutes": 0.01,
        },
    )
    job = replace(job, changes=job.changes | {"model": vars(presets.SMOKE)})
    with pytest.raises(CinelabError, match="when 1 of 3 clips of ODE pairs"):
        list(worker.train(job, Parallel.here(Layout())))
    assert len(list((tmp_path / "pairs").glob("*.npz"))) == 1
