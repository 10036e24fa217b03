"""A student is directed under the memory that it was trained under, unless its user says
otherwise."""

import json
import shutil
from dataclasses import replace

import pytest

from cinelab import Director, load
from cinelab.errors import CinelabError
from cinelab.jobs import worker
from cinelab.jobs.job import Data, Job
from cinelab.lab.desk.widget import open_or_create_session
from cinelab.lab.first_film import director_for
from cinelab.lab.training import stages, students
from cinelab.lab.wan_film import open_model
from cinelab.memory.policy import CAMR, Full, Sink, Window
from cinelab.memory.policy_io import policy_from_dict, policy_to_dict
from cinelab.stream.batch import empty_cache, named_policy, policy_for
from cinelab.train import presets
from cinelab.train.trained_policy import trained_under
from cinelab.zoo import checkpoints as zoo

PACKED = CAMR(budget=3, sink=1, positions="packed")


@pytest.fixture(scope="module")
def shipped():
    return load("toybox-1step")


def checkpoint(folder, **said):
    """The shipped one-step student with further entries in its config.json."""
    shutil.copytree(zoo.find("toybox-1step"), folder / "student")
    place = folder / "student" / "config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | said))
    return folder / "student"


# What a training says


@pytest.mark.parametrize(
    ("config", "policy"),
    [
        (presets.teacher_forcing("toy"), CAMR()),
        (replace(presets.teacher_forcing("toy"), camr_share=0.0), Full()),
        (replace(presets.consistency("toy"), camr=PACKED), PACKED),
        (presets.ode("toy"), CAMR()),
        (replace(presets.dmd("toy"), policy=Window(window=2)), Window(window=2)),
        (presets.dmd("wan-1.3b"), Full()),
        (presets.dmd("wan-14b-camr"), presets.WAN_CAMR),
        (presets.bidirectional("toy"), None),
    ],
    ids=str,
)
def test_config_json_says_under_which_memory_a_stage_trained(config, policy):
    said = json.loads(json.dumps(trained_under(config)))
    assert (policy_from_dict(said["policy"], "config.json") if "policy" in said else None) == policy
    assert said.get("max_distance", "none") == getattr(config, "max_distance", "none")


@pytest.mark.parametrize("stage", ["teacher_forcing", "consistency", "dmd"])
@pytest.mark.parametrize("kind", ["toybox", "noise"])
def test_a_job_exports_it(stage, kind):
    teacher = None if stage == "teacher_forcing" else "random"
    preset = "toy" if kind == "toybox" else "wan-1.3b-camr"
    job = Job(stage, "run", Data(kind, "4x6x5"), preset, init="random", teacher=teacher)
    said = worker.result_entries(
        job,
        job.config,
        {"fps": 8.0, "size": (48, 64), "world": "toybox-1"} if kind == "toybox" else None,
    )
    assert said["policy"] == policy_to_dict(CAMR() if kind == "toybox" else presets.WAN_CAMR)
    assert ("max_distance" in said) == (stage == "dmd") and said["span"] == (
        24 if kind == "toybox" else 21
    )
    guidance = {"toybox": 2.0, "noise": 3.0}[kind] if stage == "teacher_forcing" else 1.0
    assert said["sampling"]["guidance"] == guidance and said["sampling"]["shift"] == (
        2.0 if kind == "toybox" else 5.0
    )


def test_a_notebooks_stages_export_it(tmp_path):
    stage = students.dmd(
        tmp_path / "dmd",
        None,
        "toybox-1step",
        preset="toy",
        changes={"policy": PACKED},
        validate=False,
    )
    assert (
        stage.describe()["policy"] == policy_to_dict(PACKED)
        and stage.describe()["max_distance"] == 23
    )
    stage = students.dmd(
        tmp_path / "near",
        None,
        "toybox-1step",
        preset="toy",
        changes={"reach": None},
        validate=False,
    )
    assert stage.describe()["max_distance"] is None  # what is said goes before what it starts from
    changes = {"camr": CAMR(budget=4)}
    assert (
        stages.teacher_forcing(tmp_path / "tf", None, "smoke", None, changes=changes).describe()[
            "policy"
        ]["budget"]
        == 4
    )
    assert "policy" not in stages.bidirectional(tmp_path / "b", None, "smoke").describe()


# What a film is made under


def test_a_film_is_made_under_it_unless_something_else_is_said(tmp_path):
    student = load(checkpoint(tmp_path, policy=policy_to_dict(PACKED), max_distance=9))
    assert Director(student).policy == PACKED and empty_cache(student, PACKED).max_distance == 9
    assert Director(student, Full()).policy == Full()
    # its name says no more than what it was trained under
    assert policy_for(student, "camr") == PACKED
    assert (
        policy_for(student, budget=5) == policy_for(student, "camr", 5) == replace(PACKED, budget=5)
    )
    assert (
        policy_for(student, "sink", 5) == Sink(sink=1, window=4)
        and policy_for(student, "full") == Full()
    )
    assert named_policy(student) == ("camr", 3) and named_policy(student, "window", 4) == (
        "window",
        4,
    )
    path = str(tmp_path / "student")
    assert director_for(path).policy == PACKED and director_for(path, "sink", 4).policy == Sink(
        sink=1, window=3
    )
    session = open_or_create_session(tmp_path / "desk", student)
    assert (session.desk.settings.policy, session.desk.settings.budget) == ("camr", 3)
    session = open_or_create_session(tmp_path / "other", student, policy="window", budget=4)
    assert (session.desk.settings.policy, session.desk.settings.budget) == ("window", 4)


def test_another_budget_of_a_policy_keeps_what_it_leaves_open(tmp_path):
    student = load(
        checkpoint(tmp_path, policy=policy_to_dict(Sink(sink=1, window=3, positions="packed")))
    )
    assert policy_for(student).window == 3
    assert policy_for(student, budget=6) == Sink(sink=1, window=5, positions="packed")
    student = replace(student, policy=policy_to_dict(Full(positions="packed")))
    assert policy_for(student, budget=4) == Full(positions="packed")


def test_checkpoints_of_before_open_as_before(shipped):
    assert (
        shipped.policy is None
        and shipped.max_distance == shipped.span - 1 == 23
        and shipped.unconditional == ""
    )
    assert Director(shipped).policy == policy_for(shipped, "camr", 6) == policy_for(shipped)
    assert policy_for(shipped, budget=4).budget == 4 and named_policy(shipped) == ("camr", 6)


def test_no_limit_to_the_reach_is_kept(tmp_path):
    assert load(checkpoint(tmp_path, max_distance=None)).max_distance is None


@pytest.mark.parametrize("max_distance", [0, -3, "far", True, 2.5], ids=str)
def test_a_reach_that_is_none_is_refused(max_distance, tmp_path):
    with pytest.raises(
        CinelabError, match="max_distance of student is .*give latent frames, at least 1"
    ):
        load(checkpoint(tmp_path, max_distance=max_distance))


def test_a_policy_that_nobody_knows_is_refused_before_the_film(tmp_path):
    student = load(checkpoint(tmp_path, policy={"name": "Unheard"}))
    with pytest.raises(
        CinelabError, match="The config of student names the policy 'Unheard'; known are CAMR"
    ):
        Director(student)
    assert Director(student, Full()).policy == Full()  # what is said goes before


def test_wan_settings_stay_refused_for_the_toybox():
    with pytest.raises(CinelabError, match="max_distance is 5, a setting of Wan folders"):
        open_model("toybox-1step", max_distance=5)
