"""Many processes train as one does: the same losses, the same weights; a run is resumed by another
number of them.

Two processes run every case of processes.py in one launch; each test runs its case again in this
process alone.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import processes
import pytest
import torch
from safetensors.torch import load_file

from cinelab.errors import CinelabError
from cinelab.jobs import worker
from cinelab.jobs.job import Data, Job, load_job
from cinelab.jobs.stores import open_store
from cinelab.lab.training import stages
from cinelab.model.wan import CausalWan
from cinelab.scale.adapters import Lora
from cinelab.scale.checkpoints import SharedRun, export, load_tensors, newest
from cinelab.scale.parallel import Layout, Parallel
from cinelab.train import presets
from cinelab.zoo import checkpoints as zoo

HERE = Path(__file__).parent
ROOT = str(HERE.parent)


def torchrun(*words):
    env = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")]),
    }
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        *map(str, words),
    ]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def alone(name, folder, **changes):
    """A case in this process: the same parts, the whole sequence."""
    layout = replace(processes.CASES[name], sequence=1, **changes)
    return processes.run(name, Parallel.here(layout), folder)


def near(a, b, rel=1e-4):
    return a == (pytest.approx(b, rel=rel, abs=1e-5) if isinstance(b, float) else b)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Results of two processes, by case. The resumed case was begun by one process and killed after
    its first save."""
    folder = tmp_path_factory.mktemp("two")
    begun = Parallel.here(processes.CASES["resumed"])
    processes.trained(
        begun,
        folder / "resumed",
        processes.teacher_forcing,
        processes.RESUMED,
        processes.model(begun),
        kill_after=2,
    )
    running = torchrun(HERE / "processes.py", folder)
    try:
        said, _ = running.communicate(timeout=300)
    finally:
        running.terminate()
    assert running.returncode == 0, said
    return folder


@pytest.mark.parametrize("name", processes.CASES)
def test_two_processes_train_as_one(name, two, tmp_path):
    one, other = alone(name, tmp_path), torch.load(two / f"{name}.pt")
    if name == "resumed":
        one["rows"] = one["rows"][-2:]  # the first two steps were done when two processes took over
    # bf16 rounds elsewhere, and Adam makes signs of it
    rel, far = (5e-3, 4e-3) if name == "half" else (1e-4, 2e-5)
    for a, b in zip(one["rows"], other["rows"], strict=True):
        assert a.keys() == b.keys() and all(near(a[key], b[key], rel) for key in a)
    for a, b in zip(one["weights"], other["weights"], strict=True):
        assert a.keys() == b.keys() and max((a[key] - b[key]).abs().max() for key in a) < far


def test_micro_batches_are_one_batch_cut_up(tmp_path):
    """More micro-batches see more clips: neither the loss nor the weights are those of one
    alone."""
    one, four = (
        alone("teacher_forcing", tmp_path / str(count), micro_batches=count) for count in (1, 4)
    )
    assert (
        one["rows"][0]["loss"] != four["rows"][0]["loss"]
        and one["rows"][0]["policy"] == four["rows"][0]["policy"]
    )


@pytest.mark.parametrize("name", ["dmd", "teacher_forcing"])
def test_computing_blocks_again_changes_nothing(name, tmp_path):
    kept, again = (
        alone(name, tmp_path / str(flag), activation_checkpointing=flag) for flag in (False, True)
    )
    assert kept["rows"] == again["rows"]
    assert all(
        torch.equal(a[key], b[key])
        for a, b in zip(kept["weights"], again["weights"], strict=True)
        for key in a
    )


def test_what_two_processes_saved_is_exported_whole(two, tmp_path):
    """Streamed from both shards, without any process group; the averaged weights of one process are
    the same."""
    run = two / "teacher_forcing"
    assert newest(run)["folder"] == "step-000003" and not (run / "checkpoints" / "last.pt").exists()
    weights = load_file(export(run, tmp_path / "weights.safetensors", "model", torch.float32))
    other = torch.load(two / "teacher_forcing.pt")["weights"][0]
    assert weights.keys() == other.keys() and all(
        torch.equal(weights[name], other[name]) for name in weights
    )
    alone("teacher_forcing", tmp_path / "one")
    ours = load_file(export(tmp_path / "one", tmp_path / "one.safetensors", dtype=torch.float32))
    theirs = load_file(export(run, tmp_path / "two.safetensors", dtype=torch.float32))
    assert all(torch.allclose(ours[name], theirs[name], atol=2e-5) for name in weights)


# The worker, from a file to a checkpoint


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    stages.film_store(folder, "smoke", tell=lambda text: None)
    return str(folder)


def write_job(path, films, run, **more):
    values = {
        "stage": "teacher_forcing",
        "run": str(run),
        "store": {"kind": "toybox", "path": films},
        "layout": {"parts": 2},
    }
    path.write_text(
        json.dumps(
            values
            | {"export": str(run / "checkpoint"), "changes": {"steps": 30, "bf16": False}}
            | more
        )
    )
    return path


def rows_of(run):
    log = run / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def test_two_processes_are_asked_to_stop_and_one_goes_on(store, tmp_path, capsys):
    job = write_job(tmp_path / "job.json", store, tmp_path / "run")
    run = tmp_path / "run"
    running = torchrun("-m", "cinelab.jobs.worker", job)
    deadline = time.monotonic() + 120
    while len(rows_of(run)) < 3 and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    said, _ = running.communicate(timeout=60)
    step = newest(run)["step"]
    assert "stopped: saved" in said and 3 <= step == len(rows_of(run)) < 30, said
    assert worker.main(str(job)) == 0  # one process goes on
    assert (
        len(rows_of(run)) == 30
        and (run / "done.json").exists()
        and not list((run / "checkpoints").glob("step-*"))
    )
    assert worker.main(str(write_job(tmp_path / "whole.json", store, tmp_path / "whole"))) == 0
    broken, whole = (
        [row["loss"] for row in rows_of(folder)] for folder in (run, tmp_path / "whole")
    )
    assert broken == pytest.approx(whole, rel=1e-4)
    bundle = zoo.load(run / "checkpoint")
    assert (
        bundle.chunk == 1
        and bundle.config["stage"] == "teacher_forcing"
        and "done" in capsys.readouterr().out
    )


def test_a_single_process_resumes_bit_for_bit(store, tmp_path):
    for name, stop in (("whole", None), ("broken", 7)):
        job = load_job(write_job(tmp_path / "job.json", store, tmp_path / name))
        for row in worker.train(job, Parallel.here(job.layout)):
            if row["step"] == stop:
                break
        assert (tmp_path / name / "done.json").exists() == (stop is None)
    for _ in worker.train(job, parallel := Parallel.here(job.layout)):
        if newest(tmp_path / "broken")["step"] == 0:
            # saved after its first step, in the middle of nowhere
            parallel.stops.append(signal.SIGTERM)
    for _ in worker.train(job, Parallel.here(job.layout)):
        pass
    assert [row["loss"] for row in rows_of(tmp_path / "whole")] == [
        row["loss"] for row in rows_of(tmp_path / "broken")
    ]
    files = [
        (tmp_path / name / "checkpoint" / "weights.safetensors").read_bytes()
        for name in ("whole", "broken")
    ]
    assert files[0] == files[1]


@pytest.mark.parametrize("stage", ["consistency", "dmd", "bidirectional"])
def test_the_worker_trains_every_stage(stage, store, tmp_path, capsys):
    teacher = {} if stage == "bidirectional" else {"teacher": "toybox-base"}
    begin = {} if stage == "bidirectional" else {"init": "toybox-base"}
    changes = {"steps": 1, "optim.lr": 0.0} if stage == "consistency" else {"steps": 1}
    job = write_job(
        tmp_path / "job.json",
        store,
        tmp_path / "run",
        stage=stage,
        changes=changes,
        **teacher,
        **begin,
    )
    assert worker.main(str(job)) == 0, capsys.readouterr().err
    assert len(rows_of(tmp_path / "run")) == 1
    if stage == "consistency":  # nothing was learnt: the start comes out as it went in
        out, into = (
            load_file(folder / zoo.WEIGHTS)
            for folder in (tmp_path / "run" / "checkpoint", zoo.find("toybox-base"))
        )
        assert all(torch.equal(out[name], into[name]) for name in into)


# Bad input


def test_bad_layouts_are_refused_by_name():
    with pytest.raises(CinelabError, match="micro_batches is 6, which 4 processes"):
        Parallel(world=4, layout=Layout(micro_batches=6))
    with pytest.raises(CinelabError, match="sequence is 3, which does not divide the 4 processes"):
        Parallel(world=4, layout=Layout(sequence=3))
    with pytest.raises(CinelabError, match="does not divide the model's 2 heads"):
        Parallel(world=3, layout=Layout(sequence=3)).shard(CausalWan(presets.SMOKE))
    with pytest.raises(CinelabError, match="layout.micro_batches is 0"):
        Layout(micro_batches=0)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"stage": "dreaming"}, "stage is 'dreaming'"),
        ({"stage": "dmd"}, "needs a teacher"),
        ({"teacher": "toybox-base"}, "has no teacher"),
        ({"lora": {"rank": 4}}, "lora is given without init"),
        ({"layout": {"pieces": 2}}, "Unknown setting 'layout.pieces'"),
        ({"preset": "wan-2b"}, "Preset 'wan-2b' is unknown"),
        ({"changes": {"stpes": 2}}, "did you mean 'steps'"),
        ({"store": {"kind": "toybox", "path": "/nowhere"}}, "Store /nowhere is not there"),
        ({"store": {"kind": "attic:Box", "path": "."}}, "cannot be opened"),
        ({"store": {"kind": "noise", "path": "big"}}, "rows x columns x words"),
        ({"init": "toybox-unknown"}, "was not found"),
        ({"init": "toybox-base"}, "do not fit the model"),  # the smoke preset is of another shape
    ],
    ids=str,
)
def test_a_bad_description_is_one_sentence(changes, words, store, tmp_path, capsys):
    assert (
        worker.main(str(write_job(tmp_path / "job.json", store, tmp_path / "run", **changes))) == 2
    )
    said = capsys.readouterr().err
    assert words in said and said.startswith("cinelab: ") and said.count("\n") == 1


def test_a_run_of_another_description_is_refused(store, tmp_path, capsys):
    assert (
        worker.main(
            str(write_job(tmp_path / "job.json", store, tmp_path / "run", changes={"steps": 1}))
        )
        == 0
    )
    assert (
        worker.main(
            str(
                write_job(
                    tmp_path / "job.json",
                    store,
                    tmp_path / "run",
                    changes={"steps": 1},
                    layout={"parts": 4},
                )
            )
        )
        == 2
    )
    assert "was started with parts=2, not 4" in capsys.readouterr().err


def test_a_file_that_is_no_description_is_one_sentence(tmp_path):
    for text, words in (
        ("[1, 2", "not valid YAML"),
        ("hello", "holds str"),
        ("stage: dmd", "does not say run"),
    ):
        (tmp_path / "job.yaml").write_text(text)
        with pytest.raises(CinelabError, match=words):
            load_job(tmp_path / "job.yaml")
    with pytest.raises(CinelabError, match="cannot be read"):
        load_job(tmp_path / "none.yaml")


def test_a_torn_state_is_refused_and_a_wrong_model_named(two, tmp_path):
    shutil.copytree(two / "teacher_forcing", tmp_path / "run")
    next((tmp_path / "run" / "checkpoints").glob("step-*/__1*")).unlink()
    with pytest.raises(CinelabError, match="cannot be read into this training"):
        parallel = Parallel.here(Layout(micro_batches=2))
        run = SharedRun(tmp_path / "run", processes.TF, parallel)
        run.restore(model=processes.model(parallel))
    with pytest.raises(CinelabError, match="1 unknown or of another shape.*first: extra"):
        load_tensors(
            processes.model(parallel),
            iter([*processes.model(parallel).state_dict().items(), ("extra", torch.zeros(1))]),
            "here",
        )


# the latter is treated as a GPU is: what is frozen is kept in bf16
@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_noise_and_random_weights_rehearse_a_run(device, tmp_path):
    """The path that a true-size rehearsal takes, small: weights made in place, clips of noise."""
    small = {
        "model.num_layers": 1,
        "model.num_attention_heads": 2,
        "model.attention_head_dim": 12,
        "model.ffn_dim": 32,
        "model.text_dim": 8,
    }
    job = Job(
        "teacher_forcing",
        str(tmp_path / "run"),
        noise := Data("noise", "4x6x5"),
        "wan-1.3b",
        small | {"steps": 1},
        "random",
        lora=Lora(rank=2),
        export=str(tmp_path / "out"),
    )
    assert open_store(noise, job.config).clips(1, 6, torch.Generator()).latents.shape == (
        1,
        6,
        16,
        4,
        6,
    )
    rows = list(worker.train(job, Parallel.here(Layout(activation_checkpointing=True), device)))
    assert len(rows) == 1 and (tmp_path / "out" / "lora.safetensors").exists()
