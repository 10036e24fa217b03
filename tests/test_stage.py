"""A stage, a backbone and a codec are registered objects: found by their decorator in a notebook,
by their import path in another process, and read by planner and exporter."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import own_stage
import pytest
import torch
from test_train import Fake

from cinelab import Director, Screenplay, Shot, load, register
from cinelab.errors import CinelabError
from cinelab.jobs import worker
from cinelab.jobs.job import Data, Job, load_job
from cinelab.lab.training import launch, stages, students
from cinelab.model.backbone import build_backbone, model_from_dict, model_to_dict
from cinelab.scale.cost import Plan, memory, step_flops
from cinelab.scale.parallel import Layout, Parallel
from cinelab.states import read_state
from cinelab.train import presets
from cinelab.train.loop import OneProcess
from cinelab.train.stage import STAGES, Stage, stage_named
from cinelab.zoo import checkpoints as zoo

HERE = Path(__file__).parent
BASE = "toybox-base"
PLAY = Screenplay(title="One", shots=(Shot(prompt="a red robot walks on the beach", seconds=1),))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    stages.film_store(folder, "smoke", tell=lambda done: None)
    return folder


def steps_of(rows):
    return [row["step"] for row in rows]


# The registry


STAGE_NAMES = "bidirectional teacher_forcing ode consistency dmd forward_process".split()


@pytest.mark.parametrize("name", STAGE_NAMES)
def test_every_stage_states_all_that_is_read_of_it(name):
    stage = stage_named(name)
    config = stage.preset("toy", seed=3)
    assert isinstance(config, stage.config) and config.seed == 3
    assert getattr(presets, name)("toy", seed=3) == config
    assert stage.sampling(config, students.few_steps(1)).filled().shift == 2.0
    assert 1 <= stage.chunk(config) <= stage.span(config)
    assert stage.passes(4, 7) >= 4 and stage.roles[0].trained
    assert ("policy" in stage.trained_under(config)) == stage.causal


def test_an_unknown_stage_is_refused_with_the_nearest():
    with pytest.raises(CinelabError, match="stage is 'dmdd'; did you mean 'dmd'"):
        Job("dmdd", "run", Data("noise", "4x6x5"))
    with pytest.raises(CinelabError, match="Preset 'huge' is unknown here; use one of smoke, toy"):
        stage_named("ode").preset("huge")
    with pytest.raises(CinelabError, match="no class below cinelab.train.stage.Stage"):
        stage_named("own_stage:MeanCodec")


def test_a_stage_that_lacks_a_part_says_which():
    class Empty(Stage):
        pass

    with pytest.raises(NotImplementedError, match="Empty has no presets"):
        Empty("empty").preset("toy")


def test_the_planner_reads_what_a_stage_states():
    plain = Plan(presets.TOY, "bidirectional")
    taught = Plan(presets.TOY, "own_taught")
    assert taught.shown == 2 * plain.shown and {"teacher", "masks"} <= memory(taught).keys()
    assert memory(Plan(presets.TOY, "own_images")).keys() == memory(plain).keys()
    assert step_flops(taught) > 1.5 * step_flops(plain)


# In a notebook


def test_a_stage_defined_in_a_cell_trains_exports_and_opens(store, tmp_path):
    @register.stage("in_a_cell")
    class InACell(own_stage.OwnImages):
        def presets(self, seed):
            return {"tiny": replace(super().presets(seed)["few"], steps=2)}

    run = stages.train_stage(
        "in_a_cell", tmp_path / "run", store, preset="tiny", changes={"steps": 4}, seed=1
    )
    assert steps_of(run.train()) == [0, 1, 2, 3] and run.run.done
    opened = load(run.export(tmp_path / "checkpoint"))
    assert opened.config["stage"] == "in_a_cell" and opened.span == 8
    # what is exported is the average of what was trained
    average = read_state(tmp_path / "run" / "checkpoints" / "last.pt")["parts"]["ema"]["values"]
    torch.testing.assert_close(
        opened.model.proj_out.weight, average["proj_out.weight"], atol=1e-2, rtol=1e-2
    )
    STAGES._things.pop("in_a_cell")


def test_a_stage_that_needs_a_teacher_says_so(tmp_path):
    with pytest.raises(CinelabError, match="own_taught needs a teacher; name a checkpoint"):
        stages.train_stage("own_taught", tmp_path, None, preset="few")


def test_a_notebooks_stage_and_the_registered_one_are_the_same_training(store, tmp_path):
    """The named functions are thin: the same rows and weights come of the generic one."""
    named = stages.teacher_forcing(tmp_path / "named", store, "smoke", None)
    generic = stages.train_stage("teacher_forcing", tmp_path / "generic", store, preset="smoke")
    rows = [[{**row, "seconds": 0} for row in run.train()] for run in (named, generic)]
    assert rows[0] == rows[1] and named.describe() == generic.describe()


# As a job, in another process


def job_file(folder, store, stage, **more):
    values = {"stage": stage, "run": str(folder / "run"), "export": str(folder / "checkpoint")}
    values |= {"store": {"kind": "toybox", "path": str(store)}} | more
    (folder / "run.yaml").write_text(json.dumps(values))
    return folder / "run.yaml"


def test_another_process_finds_a_stage_by_its_import_path(store, tmp_path, monkeypatch):
    monkeypatch.setenv("CINELAB_PATH", str(HERE))
    job = launch.job(
        tmp_path / "run",
        "own_stage:OwnImages",
        "few",
        {"kind": "toybox", "path": str(store)},
        export=str(tmp_path / "checkpoint"),
    )
    assert steps_of(launch.train(job)) == [0, 1, 2]
    assert load(tmp_path / "checkpoint").config["stage"] == "own_stage:OwnImages"


SMALL = {"model.num_layers": 1, "model.num_attention_heads": 2, "model.ffn_dim": 64}


@pytest.mark.parametrize("kind", ["autoregressive", "bidirectional"])
def test_a_job_of_stage_ode_makes_its_pairs_trains_and_is_done(kind, store, tmp_path):
    history = {"autoregressive": "truth", "bidirectional": "noisy"}[kind]
    changes = SMALL | {"pairs.teacher": kind, "history": history}
    path = job_file(tmp_path, store, "ode", changes=changes, init="random", teacher="random")
    assert steps_of(worker.train(load_job(path), Parallel.here())) == [0, 1, 2]
    made = sorted((tmp_path / "run" / "pairs").glob("*.npz"))
    times = [place.stat().st_mtime_ns for place in made]
    student = load(tmp_path / "checkpoint")
    assert student.sampling.solver == "consistency" and student.sampling.at == (1, 0.75, 0.5, 0.25)
    assert student.span == 4 and student.config["stage"] == "ode"
    # done: nothing is made or trained again
    assert list(worker.train(load_job(path), Parallel.here())) == []
    assert [place.stat().st_mtime_ns for place in made] == times and len(made) == 2


def test_a_job_of_stage_ode_goes_on_where_it_stopped(store, tmp_path):
    whole = tmp_path / "whole"
    broken = tmp_path / "broken"
    rows = {}
    for folder in (whole, broken):
        folder.mkdir()
        job = load_job(
            job_file(folder, store, "ode", changes=SMALL, init="random", teacher="random")
        )
        training = worker.train(job, Parallel.here())
        if folder is broken:
            next(row for row in training if row["step"] == 1)
            training.close()
            training = worker.train(job, Parallel.here())
        rows[folder] = [{**row, "seconds": 0} for row in training]
    assert rows[whole][2:] == rows[broken]


def test_pairs_of_a_notebook_are_opened_by_a_job(store, tmp_path):
    pairs = students.build_pairs(
        tmp_path / "pairs", stages.film_store(store, "smoke"), BASE, "smoke"
    )
    path = job_file(
        tmp_path,
        store,
        "ode",
        init="toybox-base",
        teacher=BASE,
        pairs=str(pairs.folder),
        changes={"steps": 1},
    )
    assert len(list(worker.train(load_job(path), Parallel.here()))) == 1
    assert not (tmp_path / "run" / "pairs").exists()


def test_what_an_ode_job_does_not_do_is_one_sentence(store, tmp_path):
    path = job_file(tmp_path, store, "ode", init="random", teacher="random", preset="smoke")
    many = Parallel(world=2, layout=Layout(micro_batches=2))
    with pytest.raises(CinelabError, match="stage ode was started as 2 processes"):
        next(worker.train(load_job(path), many))
    with pytest.raises(CinelabError, match="stage ode needs a teacher"):
        Job("ode", "run", Data("noise", "4x6x5"))
    with pytest.raises(CinelabError, match="stage dmd draws clips; leave it out"):
        Job("dmd", "run", Data("noise", "4x6x5"), teacher="random", pairs="here")


def test_a_job_of_the_first_release_opens(tmp_path):
    (tmp_path / "run.yaml").write_text(
        "stage: teacher_forcing\nrun: r\nstore: {kind: noise, path: 4x6x5}\n"
        "layout: {parts: 4, recompute: true}\nchanges: {routed_from: 0.321, across_share: 0.2}\n"
    )
    job = load_job(tmp_path / "run.yaml")
    assert job.layout == Layout(micro_batches=4, activation_checkpointing=True)
    assert (job.config.routed_from, job.config.other_shots_share) == (0.321, 0.2)


# Backbones and codecs


def test_an_own_backbone_trains_exports_and_makes_a_film(store, tmp_path):
    run = stages.train_stage("own_network", tmp_path / "run", store, preset="few")
    assert isinstance(run.model, own_stage.Wider) and steps_of(run.train()) == [0, 1, 2]
    opened = load(run.export(tmp_path / "checkpoint", "fp32"))
    assert opened.config["model"]["kind"] == "own_stage:Wider"
    assert isinstance(opened.model, own_stage.Wider) and opened.model.config == own_stage.WIDER
    assert film_of(opened).shape[1:] == (48, 64, 3)


def test_an_own_backbone_is_a_jobs_network(store, tmp_path):
    path = job_file(tmp_path, store, "own_stage:OwnNetwork", preset="few")
    assert len(list(worker.train(load_job(path), Parallel.here()))) == 3
    assert isinstance(load(tmp_path / "checkpoint").model, own_stage.Wider)
    (tmp_path / "second").mkdir()
    path = job_file(
        tmp_path / "second",
        store,
        "own_stage:OwnNetwork",
        preset="few",
        init=str(tmp_path / "checkpoint"),
    )
    assert len(list(worker.train(load_job(path), Parallel.here()))) == 3


def film_of(bundle):
    return Director(bundle).render(PLAY).frames


def test_an_own_codec_makes_a_film(tmp_path):
    base = load("toybox-1step")
    for entry in ("own_mean", {"kind": "own_stage:MeanCodec", "level": 0.5}):
        folder = tmp_path / type(entry).__name__
        zoo.save_checkpoint(folder, base.model, {**base.config, "codec": entry})
        opened = load(folder)
        assert isinstance(opened.codec, own_stage.MeanCodec)
        assert film_of(opened).shape[1:] == (48, 64, 3)
    assert opened.codec.level == 0.5


@pytest.mark.parametrize(
    "entry, message",
    [
        ({"kind": "own_men"}, "codec is 'own_men'; did you mean 'own_mean'"),
        ({"level": 1.0}, "codec has no kind"),
        ({"kind": "own_mean", "colour": 1}, "codec 'own_mean' cannot be made"),
        ("own_stage:OwnImages", "cannot be made"),
    ],
)
def test_a_codec_that_is_none_is_refused(entry, message, tmp_path):
    base = load("toybox-1step")
    zoo.save_checkpoint(tmp_path / "m", base.model, {**base.config, "codec": entry})
    with pytest.raises(CinelabError, match=message):
        load(tmp_path / "m")


def test_a_backbone_has_a_config_of_its_own():
    with pytest.raises(CinelabError, match="has no Config"):
        register.backbone("bare", torch.nn.Linear)
    with pytest.raises(CinelabError, match="which is 'own_wider''s"):
        register.backbone("twice", type("Twice", (torch.nn.Module,), vars(own_stage.Wider).copy()))
    with pytest.raises(CinelabError, match="backbone is 'own_widr'; did you mean 'own_wider'"):
        model_from_dict({"kind": "own_widr"})
    assert model_to_dict(presets.SMOKE).keys() == vars(presets.SMOKE).keys()
    assert model_from_dict(model_to_dict(own_stage.WIDER)) == own_stage.WIDER
    assert type(build_backbone(own_stage.WIDER)) is own_stage.Wider


# The loop alone


def test_the_loop_trains_without_the_machine(tmp_path):
    """One process needs no `scale`: the default of the protocol."""
    processes = OneProcess()
    assert list(processes.micro_batches) == [0] and not processes.stop_requested()
    stage = stage_named("own_images")
    config = stage.preset("few")
    run = stages.Run(tmp_path, config)
    networks = {"student": build_backbone(config.model)}
    assert steps_of(stage.train(config, Fake(), networks, run=run)) == [0, 1, 2]


WITHOUT = """
import sys
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("cinelab.scale", "peft", "torchao")):
            raise ImportError(name)
sys.meta_path.insert(0, Gone())
import torch
from cinelab.model.backbone import initialised
from cinelab.runs import Run
from cinelab.train import presets
from cinelab.train.stage import stage_named
from cinelab.latent.store import Clips

class Store:
    def clips(self, count, frames, rng):
        text = torch.randn(count, 2, 24, 64, generator=rng)
        zeros = torch.zeros(count, frames, dtype=torch.long)
        latents = torch.randn(count, frames, 24, 6, 8, generator=rng)
        return Clips(latents, text, zeros, zeros)

config = presets.teacher_forcing("smoke")
networks = {"student": initialised(config.model)}
stage = stage_named("teacher_forcing")
rows = list(stage.train(config, Store(), networks, run=Run(sys.argv[1], config)))
print(len(rows), any(name.startswith("cinelab.scale") for name in sys.modules))
"""


def test_the_method_trains_where_the_machine_is_gone(tmp_path):
    command = [sys.executable, "-c", WITHOUT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["4", "False"], done.stderr[-2000:]
