"""Trainings started from a notebook: followed while they run, ended with a save when interrupted,
refused with the worker's sentence."""

import pytest

from cinelab.errors import CinelabError
from cinelab.lab.training import launch, stages
from cinelab.scale.checkpoints import newest


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    stages.film_store(folder, "smoke", tell=lambda text: None)
    return {"kind": "toybox", "path": str(folder)}


def test_an_interrupted_training_is_saved_and_goes_on(store, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "OFTEN", 0.05)
    job = launch.job(
        tmp_path, "teacher_forcing", "smoke", store, changes={"steps": 60, "save_every": 1000}
    )
    rows = launch.train(job)
    first = [next(rows), next(rows)]
    rows.close()  # as an interrupt does
    step = newest(tmp_path)["step"]
    assert [row["step"] for row in first] == [0, 1] and 2 <= step < 60
    assert (
        [row["step"] for row in launch.train(job)]
        == list(range(60))
        == [row["step"] for row in launch.rows(tmp_path)]
    )


def test_refusals_reach_the_notebook(store, tmp_path):
    with pytest.raises(CinelabError, match="micro_batches is 3, which 2 processes"):
        list(
            launch.train(
                launch.job(tmp_path, "teacher_forcing", "smoke", store, layout={"parts": 3}), 2
            )
        )
    with pytest.raises(CinelabError, match="Preset 'huge' is unknown"):
        launch.job(tmp_path, "teacher_forcing", "huge", store)
    with pytest.raises(CinelabError, match="processes is 0"):
        list(launch.train(launch.job(tmp_path, "teacher_forcing", "smoke", store), 0))
