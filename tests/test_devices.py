"""Where the package computes: one place decides; the suite leaves a GPU alone, and its GPU tests
run here on a pretended one."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cinelab import Director, Screenplay, Shot, devices, load
from cinelab.devices import (
    SharedGpus,
    chosen_device,
    device_choice,
    device_name,
    device_of_process,
    device_of_rank,
    hardware_name,
    visible_gpus,
)
from cinelab.errors import CinelabError
from cinelab.runs import conditions, hardware

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cinelab"
# these ask for a GPU themselves: the kernels' switch, what hastens a model, tools with a torch of
# their own
ASK = {
    "devices.py",
    "ops/attention.py",
    "bench/wan_options.py",
    "metrics/external/workers/vbench_worker.py",
    "metrics/external/workers/visionreward_worker.py",
}
# numbers and weights that are on the CPU, whatever the model is on
ON_THE_CPU = {
    "latent/clips.py",
    "states.py",
    "scale/adapters.py",
    "scale/checkpoints.py",
    "train/codec.py",
    "train/provenance.py",
    "data/cutting.py",
    "script/umt5.py",
}
REHEARSED = (
    "fp32_is_the_cpus[camr] or chunk_at_most[camr] or waiting_host or coded_and_read "
    "or in_fp32_have_the_cpus_losses[teacher-forcing-fp32] or refuses or compiled_blocks_are"
)


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs that torch finds; the second does not compute."""
    made = torch.ones

    def ones(*args, device=None, **kwargs):
        if device == "cuda:1":
            raise RuntimeError("CUDA error: no kernel image is available. More follows.")
        return made(*args, **kwargs)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"A GPU, {device}")
    monkeypatch.setattr(torch, "ones", ones)
    monkeypatch.setattr(devices, "DRIVERS", ("/",))
    monkeypatch.delenv("CINELAB_DEVICE")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    forget()
    yield
    forget()


def forget() -> None:
    devices.why_no_gpu.cache_clear()
    devices._absence.cache_clear()


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CINELAB_DEVICE")
    forget()
    yield
    forget()


def test_a_gpu_is_taken_where_one_is(gpus):
    assert chosen_device() == chosen_device("auto") == "cuda"
    assert (chosen_device("cpu"), chosen_device("cuda:0")) == ("cpu", "cuda:0")
    assert device_choice().why == "a GPU is there and works"
    assert hardware()["device"] == conditions()["device"] == "A GPU, cuda"


def test_without_one_it_is_the_cpu_and_why_is_known(no_gpu):
    assert chosen_device() == chosen_device("auto") == "cpu"
    assert device_choice().why in ("torch finds no GPU", "this torch is built for the CPU alone")
    assert device_name() == "cpu" and hardware_name() == hardware()["device"] != "cpu"


def test_a_call_goes_before_the_environment(gpus, monkeypatch):
    monkeypatch.setenv("CINELAB_DEVICE", "cpu")
    assert (chosen_device(), chosen_device("cuda")) == ("cpu", "cuda")
    monkeypatch.setenv("CINELAB_DEVICE", "")
    assert chosen_device() == "cuda"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("gpu", "device 'gpu' is no device; use \"auto\""),
        ("cuda:7", "device 'cuda:7' cannot be used: the GPUs here are cuda:0, cuda:1"),
        ("cuda:1", "a GPU is there and does not compute .CUDA error: no kernel image is available"),
    ],
)
def test_a_device_that_is_none_is_one_sentence(gpus, name, sentence):
    with pytest.raises(CinelabError, match=sentence) as raised:
        chosen_device(name)
    assert "\n" not in str(raised.value)


def test_meta_tensors_are_for_calls_that_count_and_not_for_users(monkeypatch):
    assert chosen_device("meta") == "meta"
    assert chosen_device("cpu:3") == "cpu"
    monkeypatch.setenv("CINELAB_DEVICE", "meta")
    with pytest.raises(
        CinelabError, match="CINELAB_DEVICE=meta names no device that computes; use"
    ):
        chosen_device()
    with pytest.raises(CinelabError, match="device 'meta' names no device that computes"):
        with device_of_process("meta"):
            pass
    monkeypatch.setenv("CINELAB_DEVICE", "gpu")  # before a sweep fails cell by cell
    with pytest.raises(CinelabError, match="CINELAB_DEVICE=gpu is no device"):
        with device_of_process(None):
            pass


def test_a_gpu_that_is_not_there_is_one_sentence(no_gpu, monkeypatch):
    with pytest.raises(CinelabError, match="^device 'cuda' cannot be used: .*; use cpu, or auto.$"):
        load("toybox-1step", device="cuda")
    monkeypatch.setenv("CINELAB_DEVICE", "cuda")
    with pytest.raises(CinelabError, match="^CINELAB_DEVICE=cuda cannot be used: "):
        load("toybox-1step")


def test_a_driver_that_is_too_old_is_named(no_gpu, monkeypatch):
    def warns() -> bool:
        import warnings

        warnings.warn(
            "The NVIDIA driver on your system is too old (found 11). Update.", stacklevel=1
        )
        return False

    monkeypatch.setattr(torch.cuda, "is_available", warns)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(
        CinelabError, match=r"driver on your system is too old \(found 11\); use cpu"
    ):
        chosen_device("cuda")


def test_each_process_of_a_training_has_a_gpu_of_its_own(gpus, monkeypatch):
    assert device_of_rank(0) == "cuda:0"
    with pytest.raises(CinelabError, match="the GPUs here are"):
        device_of_rank(2)
    monkeypatch.setenv("CINELAB_DEVICE", "cpu")
    assert device_of_rank(1) == "cpu"


def test_workers_share_the_gpus_evenly(gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-8f")
    assert visible_gpus() == ["4", "GPU-8f"]
    shared = SharedGpus(visible_gpus())
    given = [shared.take(worker)["CUDA_VISIBLE_DEVICES"] for worker in range(3)]
    assert given == ["4", "GPU-8f", "4"]
    shared.give_back(1)
    assert shared.take(3) == {"CUDA_VISIBLE_DEVICES": "GPU-8f", "CINELAB_DEVICE": "cuda"}
    monkeypatch.setenv("CINELAB_DEVICE", "cuda:1")
    assert visible_gpus() == ["GPU-8f"]
    monkeypatch.setenv("CINELAB_DEVICE", "cpu")
    assert SharedGpus(visible_gpus()).take(0) == {}


def test_the_option_holds_for_the_process_and_those_it_starts(gpus):
    with device_of_process("cuda:0"):
        assert os.environ["CINELAB_DEVICE"] == "cuda:0" and chosen_device() == "cuda:0"
    assert "CINELAB_DEVICE" not in os.environ
    with pytest.raises(CinelabError, match="the GPUs here are"), device_of_process("cuda:5"):
        pass


def test_a_director_refuses_another_device_than_its_models():
    bundle = load("toybox-1step")
    assert Director(bundle, device="cpu").bundle is bundle
    with pytest.raises(CinelabError, match="the model toybox-1step is on cpu; load it there"):
        Director(bundle, device="meta")


def test_a_film_records_where_it_was_made():
    play = Screenplay("A walk", (Shot("a robot walks on the beach", 0.5),))
    director = Director(load("toybox-1step"))
    assert director.info(play)["device"] == "cpu"
    # so that chunks which earlier versions stored are found
    assert "device" not in director.identity(play)


def method_calls(name: str) -> dict[str, list[ast.Attribute]]:
    """What is called by a name, `name(...)` of anything, by the file that calls it."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if f".{name}(" in (text := path.read_text()):
            nodes = [node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
            mine = [one for one in nodes if isinstance(one, ast.Attribute) and one.attr == name]
            found[path.relative_to(PACKAGE).as_posix()] = mine
    return found


def test_one_place_asks_whether_a_gpu_is_there():
    asking = {
        name
        for name, calls in method_calls("is_available").items()
        if any("cuda" in ast.unparse(call.value) for call in calls)
    }
    assert asking <= ASK, "use cinelab.devices"


def test_numbers_come_back_from_the_device_before_numpy_has_them():
    bare = {
        name
        for name, calls in method_calls("numpy").items()
        if any(".cpu()" not in ast.unparse(call.value) for call in calls)
    }
    assert bare <= ON_THE_CPU, "write .cpu().numpy()"


def run_tests(*words: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return done.stdout


def test_the_tests_of_a_gpu_pass_on_a_pretended_one():
    said = run_tests("tests/gpu", "-k", REHEARSED, CINELAB_TEST_GPU="pretend")
    assert "6 passed, 1 skipped" in said
    assert "1 test needs a GPU and did not run" in said, "what only a real one shows is counted"


def test_beside_a_gpu_the_suite_stays_on_the_cpu():
    """Files that name a kernel, a stream or CUDA are collected, and some of their tests run, while
    torch says that a GPU is there and every kernel runs."""
    named = re.compile(r"available\(|torch\.cuda|fastest|accelerate\(|Maker|CUDA|overlap=")
    files = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "tests").glob("test_*.py"))
        if named.search(path.read_text()) and path.name != Path(__file__).name
    ]
    assert {"tests/test_fast.py", "tests/test_overlap.py", "tests/test_wan_speed.py"} <= set(files)
    # these ask CUDA's generator, and torch's compiler its device
    few = "(kernel or gives_the_same_bits or has_its_line) and not flex and not traced"
    said = run_tests("-p", "fake_gpu", *files, "-m", "not slow", "-k", few)
    assert " passed" in said
