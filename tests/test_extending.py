"""A user's own policy, metric, loss and solver work wherever a name works, in this process and in
others."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_desk_talk import Talk
from test_students import net
from test_train import Fake

from cinelab import CAMR, Director, Policy, Sampling, Window, load, register
from cinelab.config import from_dict, override, to_dict, to_kind
from cinelab.errors import CinelabError
from cinelab.flow.solvers import solve, trajectory
from cinelab.jobs import worker
from cinelab.jobs.job import load_job
from cinelab.lab.desk.hosting import DemoLimits, FilmHost
from cinelab.lab.desk.viewers import Viewer
from cinelab.lab.reports.cards import compare_cards, score_card
from cinelab.lab.reports.query import query
from cinelab.lab.reports.report import foremost, report
from cinelab.lab.reports.sweep_cells import load_cells
from cinelab.lab.reports.sweep_table import compared, pooled
from cinelab.lab.studies.film_cell import FilmSetting, film_cell
from cinelab.lab.studies.memory_cell import memory_cell
from cinelab.lab.sweeps.grid import Sweep, expand
from cinelab.lab.sweeps.measured import check_cell, keep_rows
from cinelab.lab.training import stages
from cinelab.memory.context import FULL_HISTORY
from cinelab.memory.policy_registry import POLICIES, budget_of, name_of, policy_named, with_budget
from cinelab.metrics.card import CardConfig
from cinelab.metrics.metric import METRICS, Metric
from cinelab.metrics.registered import registered_rows, values
from cinelab.metrics.rows import row_table as row_table
from cinelab.metrics.toybox.film import plain_values
from cinelab.metrics.video.evaluate import evaluate
from cinelab.registry import HOMES, Registry, resolve
from cinelab.runs import Run
from cinelab.scale.parallel import Layout, Parallel
from cinelab.script.screenplay import PromptChange, Screenplay, Shot
from cinelab.script.shotlist import ListedShot
from cinelab.seeds import rng_at
from cinelab.stream.export import export_film
from cinelab.stream.session import Session, Settings
from cinelab.stream.session_from_film import session_from_run, session_from_screenplay
from cinelab.stream.whatif import Change, what_if
from cinelab.train import bidirectional, consistency, dmd, presets, teacher_forcing
from cinelab.train.losses import error, loss_name
from cinelab.train.optim import Ema
from cinelab.zoo.wan import WanSettings

HERE = Path(__file__).parent
CAT = "medium shot of a red cat that stands still in the meadow by day"
ROBOT = "medium shot of a blue robot that stands still in the city at night"
PLAY = Screenplay("Two", (Shot(CAT, 1.0), Shot(ROBOT, 0.75), Shot(CAT, 0.75)), seed=2)


@pytest.fixture(scope="module", autouse=True)
def own():
    """The user's module; what it registers is forgotten afterwards."""
    rooms = [resolve(home) for home in HOMES.values()]
    before = [{name: room.get(name) for name in room} for room in rooms]
    yield import_module("own_things")
    sys.modules.pop("own_things")
    for room, things in zip(rooms, before, strict=True):
        room._things = things


@pytest.fixture(scope="module")
def bundle():
    return load("toybox-1step")


# Names


def test_a_registry_knows_names_paths_and_the_nearest(own):
    assert (
        POLICIES.get("last_of_shots") is POLICIES.get("own_things:LastOfShots") is own.LastOfShots
    )
    with pytest.raises(CinelabError, match="did you mean 'last_of_shots'"):
        POLICIES.get("last_of_shot")
    with pytest.raises(CinelabError, match="use one of full, window"):
        POLICIES.get("qqq")
    with pytest.raises(CinelabError, match="no module 'nowhere'"):
        POLICIES.get("nowhere:Thing")
    with pytest.raises(CinelabError, match="own_things has no 'Nothing'"):
        POLICIES.get("own_things:Nothing")


def test_a_taken_name_is_refused_unless_the_same_cell_is_run_again():
    room = Registry("thing")
    cell = "def mine(): return {}"
    for answer in (1, 2):
        made = {"__name__": "__main__"}
        exec(cell.format(answer), made)
        room.add("mine", made["mine"])
    assert room.get("mine")() == 2
    with pytest.raises(CinelabError, match="'mine' is there already"):
        room.add("mine", print)
    for bad in ("", "a:b", None):
        with pytest.raises(CinelabError, match="without a colon"):
            room.add(bad, print)
    with pytest.raises(AttributeError, match="policy, solver, metric, loss"):
        register.nothing  # noqa: B018


def test_a_module_that_fails_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "broken_things.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CinelabError, match="its module fails with ZeroDivisionError"):
        POLICIES.get("broken_things:X")


def test_modules_named_in_the_environment_are_known(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from own_things import LastOfShots\nfrom cinelab import register\n"
        "register.policy('mine')(LastOfShots)\n"
    )
    code = (
        "from cinelab.memory.policy_registry import POLICIES\n"
        "print('mine' in POLICIES, 'last_of_shots' in POLICIES)"
    )
    env = {
        "CINELAB_IMPORT": "mine",
        "CINELAB_PATH": str(HERE),
        "PATH": "",
        "PYTHONPATH": str(HERE.parent),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.stdout.split() == ["True", "True"], done.stderr


# Policies


def own_policies(own):
    return [own.LastOfShots(3), own.Steadier(budget=3), own.OnlyFirst(), own.ByMeanKey()]


@pytest.mark.parametrize("number", range(4))
def test_a_policy_directs_and_its_film_can_be_gone_on_with(number, own, bundle, tmp_path):
    policy = own_policies(own)[number]
    film = Director(bundle, policy, seed=1).render(PLAY)
    told = film.info["policy"]
    assert told["name"] == f"own_things:{type(policy).__name__}"
    session = session_from_run(film.save(tmp_path / "run"), tmp_path / "session")
    assert np.array_equal(session.frames(), film.frames)
    again = Session.resume(tmp_path / "session", bundle)
    assert again.nodes == session.nodes and again.desk.settings.policy == policy


def test_names_and_objects_are_the_same_thing(own, bundle):
    ways = [
        own.LastOfShots(3),
        "last_of_shots",
        "own_things:LastOfShots",
        {"kind": "own_things:LastOfShots", "budget": 3},
    ]
    made = [policy_named(way, 3) for way in ways]
    assert made == [own.LastOfShots(3)] * 4 and {name_of(one) for one in made} == {"last_of_shots"}
    assert (
        policy_named("two_last", 9) == own.LastOfShots(2)
        and policy_named("own_things:OnlyFirst", 9) == own.OnlyFirst()
    )
    assert name_of(own.Steadier()) == "own_things:Steadier" and budget_of(own.OnlyFirst()) == 1
    assert with_budget(own.LastOfShots(3), 5).budget == 5
    with pytest.raises(CinelabError, match="has no budget that can be set"):
        with_budget(own.OnlyFirst(), 5)
    assert Director(bundle, "window").policy == Window(window=6)


def test_a_policy_below_full_sees_what_it_says(own, bundle):
    looked = Director(bundle, own.OnlyFirst()).render(PLAY).routing
    assert set(looked["kept_chunk"]) == {0}


def test_a_mistake_in_a_policy_is_one_sentence_before_any_work():
    class Undecorated(Policy):
        budget: int = 3

    @dataclass(frozen=True)
    class Unfinished(Policy):
        pass

    @dataclass(frozen=True)
    class Crooked(Policy):
        def budget_at(self, count):
            return 2

        def priority(self, shots, shot):
            return torch.zeros(7)

    @dataclass(frozen=True)
    class Half(Crooked):
        def budget_at(self, count):
            return count / 2

    for kind, words in (
        (Undecorated, "put @dataclass"),
        (Unfinished, "lacks budget_at"),
        (Crooked, "priority gives .7,."),
        (Half, "budget_at.3. is 1.5"),
    ):
        with pytest.raises(CinelabError, match=words):
            Director("toybox-1step", kind())
    with pytest.raises(CinelabError, match="give a name .full, window"):
        policy_named(Crooked)
    with pytest.raises(CinelabError, match="name a class of policies"):
        policy_named("os:getcwd")


def test_a_screenplay_may_hold_policies(own, bundle, tmp_path):
    play = replace(
        PLAY,
        shots=(
            Shot(
                CAT,
                0.5,
                policy=own.LastOfShots(3),
                changes=(PromptChange(0.25, CAT, policy="window", budget=4),),
            ),
            Shot(ROBOT, 0.5, policy="own_things:Steadier"),
            Shot(CAT, 0.5, budget=4),
        ),
    )
    path = play.save(tmp_path / "play.yaml")
    assert Screenplay.load(path) == play
    film = Director(bundle).render(play)
    session = session_from_screenplay(play, tmp_path / "s", bundle, settings=Settings(seed=2))
    assert [type(session.request(node).policy).__name__ for node in session.nodes.values()] == [
        "LastOfShots",
        "Window",
        "Steadier",
        "Steadier",
        "Steadier",
        "Steadier",
    ]
    assert session.request(session.nodes[5]).policy == own.Steadier(budget=4)
    again = Director(bundle).render(
        Screenplay.load(export_film(session, tmp_path / "film") / "screenplay.yaml")
    )
    assert np.array_equal(session.frames(), film.frames) and np.array_equal(
        again.frames, film.frames
    )
    path.write_text(
        path.read_text().replace("kind: own_things:LastOfShots", "kind: own_things:Nobody")
    )
    with pytest.raises(CinelabError, match="play.yaml:.*own_things has no 'Nobody'"):
        Screenplay.load(path)


def test_a_session_is_directed_under_own_policies_and_replayed_without_their_names(
    own, bundle, tmp_path, monkeypatch
):
    session = Session.create(tmp_path / "s", bundle, Settings(CAT, policy=own.LastOfShots(3)))
    for command, value in (
        ("budget", 5),
        ("policy", "camr"),
        ("policy", "last_of_shots"),
        ("budget", 4),
    ):
        session.do(command, value=value)
        session.step()
    kinds = [node.settings.policy for node in session.nodes.values()]
    assert kinds == [own.LastOfShots(5), "camr", own.LastOfShots(5), own.LastOfShots(4)]
    assert Session.resume(tmp_path / "s", bundle).desk == session.desk
    assert np.array_equal(what_if(session), session.frames())
    for change in (
        Change(own.Steadier(budget=3)),
        Change("own_things:LastOfShots", 3),
        Change(budget=3),
        Change({"kind": "CAMR"}),
    ):
        assert what_if(session, change).shape == session.frames().shape
    assert '"value": "last_of_shots"' not in (tmp_path / "s" / "log.jsonl").read_text()
    monkeypatch.setitem(sys.modules, "own_things", None)
    with pytest.raises(CinelabError, match="session.json: .*own_things"):
        Session.resume(tmp_path / "s", bundle)


def test_settings_of_a_training_hold_any_policy(own):
    config = presets.teacher_forcing("smoke")
    for change in (
        own.LastOfShots(2),
        "last_of_shots",
        {"kind": "own_things:LastOfShots"},
        own.Steadier(),
        Window(window=2),
    ):
        changed = override(config, {"camr": change})
        assert (
            isinstance(changed.camr, Policy)
            and from_dict(type(config), to_dict(changed)) == changed
        )
    assert "kind" not in to_dict(config)["camr"], "what was written before is written as before"
    assert from_dict(type(config), {**to_dict(config), "camr": {"budget": 5}}).camr == CAMR(
        budget=5
    )
    assert override(config, {"camr": own.Steadier(), "camr.calm": 1}).camr == own.Steadier(calm=1.0)
    assert override(presets.dmd("smoke"), {"policy": own.LastOfShots(2)}).policy == own.LastOfShots(
        2
    )
    for bad, words in (
        (3, "a Policy or its settings"),
        (own.LastOfShots, "a Policy or its settings"),
        ("nobody", "policy is 'nobody'"),
        ({"kind": "os:getcwd"}, "no Policy"),
    ):
        with pytest.raises(CinelabError, match=words):
            override(config, {"camr": bad})


def test_cells_and_sweeps_take_policies(own, tmp_path):
    cell = memory_cell(tmp_path / "memory", "toybox-1step", own.LastOfShots(3), 6, 1, 0, 2)
    rows = pd.read_parquet(tmp_path / "memory" / "rows.parquet")
    assert (
        set(rows["policy"]) == {"last_of_shots(budget=3)"}
        and set(rows["budget"]) == {3}
        and len(cell.summary)
    )
    assert set(rows["shot"]) == set(cell.rows["shot"]) and set(rows["shot_latents"]) == {3}
    # a setting that hides a column
    assert "shot" not in json.loads((tmp_path / "memory" / "cell.json").read_text())
    setting = FilmSetting(
        "toybox-1step",
        {"kind": "own_things:Steadier", "budget": 3},
        latents=6,
        shot_latents=(3, 3),
        films=2,
    )
    film_cell(tmp_path / "films", setting)
    assert (
        json.loads((tmp_path / "films" / "cell.json").read_text())["setting"]["policy"]["kind"]
        == "own_things:Steadier"
    )
    sweep = Sweep(
        "mine", "x.ipynb", grid={"policy": ["camr", own.LastOfShots(3), own.Steadier]}, seeds=[0]
    )
    assert [cell.parameters["policy"] for cell in expand(sweep)][1:] == [
        {"kind": "own_things:LastOfShots", "positions": "absolute", "unit": "chunk", "budget": 3},
        "own_things:Steadier",
    ]
    here = type("Here", (), {"__module__": "__main__", "__qualname__": "Here"})
    with pytest.raises(CinelabError, match="move it to a module"):
        Sweep("mine", "x.ipynb", grid={"policy": [here]}, seeds=[0])


def test_the_command_line_takes_an_import_path(tmp_path):
    PLAY.save(tmp_path / "two.yaml")
    command = [
        sys.executable,
        "-m",
        "cinelab",
        "direct",
        "two.yaml",
        "-o",
        "out",
        "--model",
        "toybox-1step",
    ]
    env = {
        "CINELAB_PATH": str(HERE),
        "PYTHONPATH": str(HERE.parent),
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        [*command, "--policy", "own_things:LastOfShots", "--budget", "3"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "film.json").read_text())["policy"]["budget"] == 3


# Metrics


def film_of(shots=(3, 5)):
    """Frames (F, H, W, 3) whose shots are red, then black."""
    frames = np.zeros((sum(shots), 8, 8, 3), np.uint8)
    frames[: shots[0], ..., 0] = 200
    return frames, (ListedShot(0, shots[0], "a"), ListedShot(shots[0], sum(shots), "b"))


def test_a_metric_is_measured_shot_by_shot_and_film_by_film(own):
    frames, shots = film_of()
    rows = row_table(registered_rows(np.stack([frames, frames]), [shots, shots]))
    assert rows[rows["metric"] == "redness"]["value"].tolist() == [200.0, 0.0] * 2
    assert rows[rows["metric"] == "brightness"][["clip", "shot", "value"]].values.tolist() == [
        ["0000", 0, 25.0],
        ["0001", 0, 25.0],
    ]
    assert METRICS.about()["redness"] == {"better": "low", "unit": "grey levels", "range": [0, 255]}


@pytest.mark.parametrize(
    "answer, words",
    [
        (lambda frames: 1 / 0, "fails with ZeroDivisionError"),
        (lambda frames: [1.0, 2.0], "2 answers for 1 films"),
        (lambda frames: [[1.0, 2.0, 3.0]], "3 values for a film of 2 shots"),
        (lambda frames: ["much"], "return numbers"),
        (lambda frames: [np.inf], "gives inf, outside its range"),
        (lambda frames: [7], "gives 7, outside its range 0 to 1"),
        (lambda frames: None, "gives NoneType for 1 films"),
    ],
)
def test_a_metric_that_answers_wrongly_is_one_sentence(answer, words):
    frames, shots = film_of()
    with pytest.raises(CinelabError, match=words):
        list(values(Metric("odd", answer, range=(0, 1)), frames[None], [shots]))
    assert list(values(Metric("nothing", lambda frames: [np.nan]), frames[None], [shots])) == []
    for bad in ({"better": "up"}, {"range": (1, 0)}, {"unti": "x"}):
        with pytest.raises(CinelabError, match="Metric 'bad'"):
            register.metric("bad", **bad)(answer)


class SmallCard(CardConfig):
    """A card of short films, whatever the world says."""

    @classmethod
    def of(cls, world, **settings):
        few = {"away": (1,), "reframed_away": 1, "in_span": (), "held": 0}
        return cls(latents=6, shot_latents=(3, 3), **few, **settings)


def test_own_metrics_are_in_films_evaluations_and_cards(own, bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("cinelab.lab.reports.cards.CardConfig", SmallCard)
    film = Director(bundle).render(PLAY)
    scores = plain_values(film.frames, film.timeline, film.timings)
    assert scores[scores["metric"] == "redness"]["shot"].tolist() == [1, 2, 3] and set(
        scores["metric"]
    ) >= {"brightness", "cut accuracy"}
    rows = evaluate([film.save(tmp_path / "film")], ("colour",))
    mine = rows[rows["backend"] == "own"]
    assert set(mine["metric"]) == {"redness", "brightness"} and set(mine["status"]) == {"ok"}
    card = json.loads(
        score_card(
            "toybox-1step", (0,), 2, own.LastOfShots(3), output=tmp_path, tell=lambda text: None
        ).read_text()
    )
    assert (
        card["own"]["redness"]["better"] == "low"
        and card["metrics"]["redness"]["upper"] is not None
    )
    assert card["policy"]["name"] == "last_of_shots"
    name = next(tmp_path.glob("*.parquet")).stem
    assert "redness" in set(compare_cards([name], tmp_path)["metric"])


def test_reports_know_the_direction_without_the_code(own, tmp_path):
    for number, policy in enumerate(("camr", "window")):
        rows = pd.DataFrame(
            {"film": range(8), "metric": "redness", "value": np.linspace(1, 2, 8) + number}
        )
        keep_rows(tmp_path / "mine" / policy, rows, policy=policy, seed=0)
    cells = load_cells(tmp_path / "mine")
    table = compared(cells, "redness", base="camr")
    assert cells.better("redness") == "low" and table["verdict"].tolist() == ["worse"]
    assert foremost(cells, ["redness"]) == ["redness"]
    page = report([tmp_path / "mine"], tmp_path / "report.html").read_text()
    assert "redness" in page and "less is better" in page and "worse" in page


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda rows: rows.drop(columns="film"), "has no column 'film'"),
        (lambda rows: rows.assign(value="much"), "write numbers"),
        (lambda rows: rows.assign(value=np.nan), "leave out what was not measured"),
        (lambda rows: rows[:0], "holds no row"),
        (lambda rows: rows.assign(source="me"), "'source' holds 'me'"),
        (lambda rows: rows.assign(metric=None), "no film or no metric"),
    ],
)
def test_a_table_that_no_report_could_read_is_one_sentence(change, words, tmp_path):
    rows = change(pd.DataFrame({"film": [0, 1], "metric": "m", "value": [0.0, 1.0]}))
    with pytest.raises(CinelabError, match=words):
        keep_rows(tmp_path, rows)
    rows.to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(CinelabError, match=words):
        check_cell(tmp_path)


# Losses


def test_every_stage_descends_the_loss_that_is_named(own, tmp_path):
    clips = Fake().clips(1, 4, rng_at(0))
    network = net()
    config = replace(presets.teacher_forcing("smoke"), chunk=1)
    plain, other, mine = (
        teacher_forcing.loss(
            network, clips, replace(config, loss=name), FULL_HISTORY, rng_at(1)
        ).item()
        for name in ("mse", "own_things:plain_l1", "huber")
    )
    assert len({plain, other, mine}) == 3 and mine < plain
    made = [
        (consistency, replace(presets.consistency("smoke"), loss="huber")),
        (bidirectional, replace(presets.bidirectional("smoke"), loss="huber")),
    ]
    run = Run(tmp_path, made[1][1])
    rows = list(bidirectional.train(replace(made[1][1], steps=2), net(), Fake(), run))
    assert len(rows) == 2 and json.loads((tmp_path / "config.json").read_text())["loss"] == "huber"
    student = net()
    drawn = consistency.loss(
        student,
        Ema(student, 0.9),
        network,
        clips,
        torch.tensor([1.0, 0.5, 0.0]),
        replace(made[0][1], frames=4),
        FULL_HISTORY,
        rng_at(2),
    )
    assert drawn.ndim == 0
    dmd_config = replace(
        presets.dmd("smoke"), bf16=False, known=0.0, policy=own.LastOfShots(2), loss="huber"
    )
    assert dmd.student_loss(net(), clips, network, net(1), dmd_config, rng_at(3))[0].ndim == 0


def test_a_loss_that_settings_could_not_name_is_refused(own):
    for bad, words in ((lambda pred, target: 0, "register it"), ("nobody", "loss is 'nobody'")):
        with pytest.raises(CinelabError, match=words):
            loss_name(bad)
    assert loss_name(own.huber) == "huber" and loss_name(own.plain_l1) == "own_things:plain_l1"
    with pytest.raises(CinelabError, match="loss is 'nobody'"):
        override(presets.ode("smoke"), {"loss": "nobody"})
    with pytest.raises(CinelabError, match="gives .3,. for predictions"):
        register.loss("odd")(lambda pred, target: torch.zeros(3))
        error("odd", torch.zeros(1, 2, 3), torch.zeros(1, 2, 3))
    ones = torch.ones(1, 2, 3)
    weight = torch.tensor([[1.0, 0.5]])
    assert error("mse", ones, 0 * ones, weight=weight).item() == 0.75
    with pytest.raises(CinelabError, match="the stage weighs frames"):
        error("own_things:plain_l1", ones, 0 * ones, weight=weight)


def test_a_run_of_before_losses_had_names_goes_on(tmp_path):
    config = presets.bidirectional("smoke")
    Run(tmp_path, config)
    told = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({name: value for name, value in told.items() if name != "loss"})
    )
    Run(tmp_path, config)
    with pytest.raises(CinelabError, match="started with loss='mse', not 'huber'"):
        Run(tmp_path, replace(config, loss="huber"))


def test_a_stage_takes_policy_and_loss_from_the_notebook(own, tmp_path):
    changes = {"camr": own.LastOfShots(2), "camr_share": 1.0, "routed_from": 0.0}
    stage = stages.teacher_forcing(tmp_path, Fake(), "smoke", None, 0, changes, loss=own.huber)
    assert {row["policy"] for row in stage.train()} == {"LastOfShots"}
    told = json.loads((tmp_path / "config.json").read_text())
    assert told["loss"] == "huber" and told["camr"]["kind"] == "own_things:LastOfShots"
    assert told.pop("drawn_at") == "host"  # beside the settings (see cinelab.runs.NOTED)
    assert from_dict(type(stage.config), told) == stage.config


# Solvers and levels


def test_an_own_solver_samples_and_makes_pairs(own, bundle):
    truth = torch.e ** torch.tensor(1.0, dtype=torch.float64)
    start = torch.ones(1, dtype=torch.float64)
    levels = torch.linspace(1, 0, 41, dtype=torch.float64)
    assert abs(solve(lambda x, t: -x, start, levels, "heun") - truth).item() < 1e-3
    films = [
        Director(bundle, sampling=Sampling(4, solver)).render(PLAY).frames
        for solver in ("heun", "own_things:leap")
    ]
    assert films[0].shape == films[1].shape and not np.array_equal(*films)
    assert len(list(trajectory(lambda x, t: -x, start, levels, "heun"))) == 41
    assert replace(presets.pairs("smoke"), solver="heun").sampling.solver == "heun"
    with pytest.raises(CinelabError, match="gives no state on its way"):
        replace(presets.pairs("smoke"), solver="own_things:leap")
    with pytest.raises(CinelabError, match="sampling.solver is 'huen'; did you mean 'heun'"):
        Sampling(solver="huen")


def test_what_is_not_given_is_the_models_own():
    student = Sampling(2, "consistency", 1.0, 5.0, first_steps=4)
    assert Sampling(at=(1.0, 0.5, 0.2)).filled(student) == Sampling(
        3, "consistency", 1.0, 5.0, (1.0, 0.5, 0.2)
    )
    assert Sampling(guidance=3.0).filled(student) == replace(student, guidance=3.0)
    assert Sampling(solver="euler").filled(student) == replace(student, solver="euler")
    assert (
        Sampling().filled() == Sampling(8, "ab2", 2.0, 2.0)
        and Sampling(4, "consistency").filled().guidance == 1.0
    )
    assert (
        presets.dmd("smoke").sampling.whole
        and replace(presets.dmd("smoke"), sampling=Sampling(4, "consistency")).sampling.guidance
        == 1.0
    )
    old = {
        "steps": 4,
        "solver": "consistency",
        "guidance": 1.0,
        "shift": 2.0,
        "at": [],
        "first_steps": None,
    }
    assert to_dict(from_dict(Sampling, old)) == old


@pytest.mark.parametrize(
    "change, levels",
    [
        ({"sampling.at": [1.0, 0.6, 0.3]}, (1.0, 0.6, 0.3)),
        ({"sampling": {"at": [1.0, 0.6, 0.3]}}, (1.0, 0.6, 0.3)),
        ({"sampling": Sampling(at=(1.0, 0.6, 0.3))}, (1.0, 0.6, 0.3)),
        ({"sampling.steps": 3}, ()),
        ({"sampling": {"steps": 3}}, ()),
        ({"sampling.steps": 3, "sampling.at": [1.0, 0.6, 0.3]}, (1.0, 0.6, 0.3)),
    ],
)
@pytest.mark.parametrize("own", [presets.dmd("smoke"), presets.dmd("wan-1.3b"), WanSettings()])
def test_a_partial_setting_in_a_configuration_leaves_the_rest_as_it_is(own, change, levels):
    assert override(own, change).sampling == replace(own.sampling, steps=3, at=levels)


def test_a_partial_setting_leaves_a_students_guidance_alone(bundle):
    made = Director(bundle, sampling=Sampling(steps=3, solver="consistency", at=(1.0, 0.6, 0.3)))
    assert made.sampling.guidance == bundle.sampling.guidance == 1.0
    for steps in ([1.0, 0.6, 0.3], Sampling(at=(1.0, 0.6, 0.3)), {"at": [1.0, 0.6, 0.3]}):
        assert bundle.levels(steps) == made.sampling
    with pytest.raises(CinelabError, match="steps is 'many'"):
        bundle.levels("many")


def test_levels_and_solvers_are_directed_and_replayed(own, bundle, tmp_path):
    session = Session.create(tmp_path / "s", bundle, Settings(CAT, steps=(1.0, 0.5)))
    session.step()
    for value in ([1.0, 0.7, 0.4], Sampling(2, "heun"), {"steps": 2, "solver": "heun"}, 1, None):
        session.do("levels", value=value)
        session.step()
    again = Session.resume(tmp_path / "s", bundle)
    assert again.nodes == session.nodes and again.desk == session.desk
    film = Director(bundle).render(
        Screenplay.load(export_film(session, tmp_path / "film") / "screenplay.yaml")
    )
    assert np.array_equal(film.frames, session.frames())
    with pytest.raises(CinelabError, match="fall strictly"):
        session.do("levels", value=[0.5, 1.0])


def test_a_later_shot_that_cannot_be_made_is_refused_before_the_first(bundle, tmp_path):
    for bad, words in (
        ({"policy": "nobody"}, "policy is 'nobody'"),
        ({"steps": (0.5, 1.0)}, "fall strictly"),
    ):
        play = replace(PLAY, shots=(*PLAY.shots, Shot(CAT, 0.5, **bad)))
        with pytest.raises(CinelabError, match=words):
            next(Director(bundle).stream(play))
        with pytest.raises(CinelabError, match=words):
            session_from_screenplay(play, tmp_path / "s", bundle, settings=Settings())
    assert not (tmp_path / "s").exists()


# The page that says all this


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A folder with the files that docs/extending.md shows, and its other blocks."""
    folder = tmp_path_factory.mktemp("page")
    text = (HERE.parent / "docs" / "extending.md").read_text()
    blocks = re.findall(r"```(python|yaml)(?: file=(\S+))?\n(.*?)```", text, re.S)
    for _, name, block in blocks:
        if name:
            (folder / name).write_text(block.replace("NOTEBOOKS", str(HERE.parent / "notebooks")))
    return folder, [block for kind, name, block in blocks if kind == "python" and not name]


def test_the_pages_examples_run(page, monkeypatch):
    folder, blocks = page
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    made = {}
    kept = {r: {name: r.get(name) for name in r} for r in map(resolve, HOMES.values())}
    try:
        for room in kept:
            room._things = {
                name: thing
                for name, thing in room._things.items()
                if "own_things" not in room.origin(thing)
            }
        for block in blocks:
            exec(block, made)
    finally:
        sys.modules.pop("my_things", None)
        for room, things in kept.items():
            room._things = things
    assert (
        np.array_equal(made["film"].frames, made["same"].frames)
        and made["teacher"].sampling.solver == "my_things:heun"
    )
    assert (folder / "results" / "by_hand" / "camr" / "cell.json").exists()


def test_the_pages_sweep_runs_in_processes_of_its_own(page, monkeypatch):
    folder, _ = page
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in ("CINELAB_PATH", "CINELAB_IMPORT")
    }
    command = [sys.executable, "-m", "cinelab", "--import", "my_things", "sweep", "my_sweep.yaml"]
    done = subprocess.run(
        command,
        cwd=folder,
        env=env | {"PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    cells = load_cells(folder / "results" / "my_sweep")
    assert (
        set(cells.rows["policy"]) == {"camr", "my_things:LastOfShots"}
        and cells.better("colour kept") == "low"
    )
    assert {"identity (recalled)", "colour kept"} <= set(cells.metrics)
    found = query(folder / "results", "policy = 'my_things:LastOfShots'")
    assert len(found) == 1 and "colour kept" in found


# The desk, the demo, a training's file


def test_the_desk_offers_own_policies_and_takes_no_path_from_a_browser(own, monkeypatch, tmp_path):
    talk = Talk(monkeypatch, tmp_path / "film", policy=own.LastOfShots(3))
    try:
        assert (
            talk.desk.view["settings"]["policy"] == "last_of_shots"
            and "two_last" in talk.desk.about["policies"]
        )
        json.dumps([talk.desk.about, talk.desk.view])
        assert talk.do("policy", value="two_last")["error"] == ""
        assert talk.desk.live.readout.desk.settings.policy == own.LastOfShots(2)
        for path, said in (
            ("os:getcwd", "use one of"),
            ("own_things:Steadier", "use one of"),
            ({"kind": "own_things:Steadier"}, "give text"),
        ):
            assert said in talk.do("policy", value=path)["error"]
    finally:
        talk.desk.close()


def test_a_demo_begins_with_what_it_was_given(own, bundle, tmp_path):
    films = FilmHost(tmp_path, bundle, DemoLimits(), policy="last_of_shots", budget=3)
    try:
        desk = films.open("abcdefghij", Viewer())
        assert desk.view["settings"]["policy"] == "last_of_shots"
    finally:
        films.close()


def test_a_trainings_file_names_own_things(tmp_path):
    (tmp_path / "run.yaml").write_text(f"""
stage: teacher_forcing
run: {tmp_path / "run"}
store: {{kind: noise, path: 6x8x24}}
changes:
  loss: "own_things:plain_l1"
  camr: {{kind: "own_things:LastOfShots", budget: 2}}
  camr_share: 1.0
  routed_from: 0.0
  steps: 2
""")
    rows = list(worker.train(load_job(tmp_path / "run.yaml"), Parallel.here(Layout())))
    assert [row["policy"] for row in rows] == ["LastOfShots"] * 2
    told = json.loads((tmp_path / "run" / "config.json").read_text())
    assert told["loss"] == "own_things:plain_l1" and told["camr"]["budget"] == 2


def test_a_report_needs_no_class(own, tmp_path):
    for policy in (own.LastOfShots(3), own.Steadier()):
        rows = pd.DataFrame({"film": range(4), "metric": "m", "value": [1.0, 2.0, 3.0, 4.0]})
        keep_rows(
            tmp_path / type(policy).__name__, rows, setting={"policy": to_kind(policy)}, seed=0
        )
    assert set(pooled(load_cells(tmp_path))["policy"]) == {"last_of_shots(budget=3)", "Steadier"}
    for path in tmp_path.glob("*/cell.json"):
        path.write_text(path.read_text().replace("own_things:", "gone_things:"))
    assert any(name.startswith("LastOfShots(") for name in pooled(load_cells(tmp_path))["policy"])


def test_a_models_own_settings_are_whole(bundle):
    assert replace(bundle, sampling=Sampling()).sampling.whole
