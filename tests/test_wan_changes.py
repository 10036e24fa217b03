"""The `changes` of the notebooks at Wan's size: sorted by who takes them, refused where nobody
does."""

import inspect
from dataclasses import fields

import pytest

from cinelab.errors import CinelabError
from cinelab.lab import wan_bench, wan_changes, wan_film
from cinelab.lab.sweeps import renamed
from cinelab.lab.training import launch


def test_every_former_parameter_is_an_entry_of_changes():
    film, model = wan_changes.film(dict.fromkeys(renamed.IN_CHANGES["50_wan_film"]))
    assert {*film, *model} == set(renamed.IN_CHANGES["50_wan_film"])
    assert set(film) <= set(inspect.signature(wan_film.make_film).parameters)
    bench, options = wan_changes.bench(dict.fromkeys(renamed.IN_CHANGES["53_bench_wan"], True))
    assert {*bench, "options"} == set(renamed.IN_CHANGES["53_bench_wan"]) and options
    assert set(bench) <= set(inspect.signature(wan_bench.bench).parameters)
    run = {field.name for field in fields(wan_changes.TrainingRun)}
    former = renamed.IN_CHANGES["51_train_wan"]
    assert run == {renamed.ENTRIES.get(name, name) for name in former}


def test_an_unknown_entry_is_answered_with_the_nearest():
    with pytest.raises(CinelabError, match="no entry 'chunks'; use some of chunk"):
        wan_changes.film({"chunks": 3})
    with pytest.raises(CinelabError, match="no entry 'historie'; use some of history"):
        wan_changes.bench({"historie": [1]})
    with pytest.raises(CinelabError, match="weights"):
        wan_changes.film({"weights": "student.pt"})


def test_a_run_and_its_stage_are_sorted(tmp_path):
    changes = {
        "processes": 8,
        "micro_batches": 64,
        "store_kind": "noise",
        "steps": 5,
        "optim.lr": 1e-6,
    }
    run = wan_changes.training(changes, "4x6x5")
    assert run.processes == 8 and run.job["changes"] == {"steps": 5, "optim.lr": 1e-6}
    job = launch.job(tmp_path, "teacher_forcing", "smoke", **run.job)
    assert job.layout.micro_batches == 64 and job.store.kind == "noise"
    assert job.config.steps == 5 and job.config.optim.lr == 1e-6
    with pytest.raises(CinelabError, match="processes"):
        wan_changes.training({"processes": "many"}, "4x6x5")
