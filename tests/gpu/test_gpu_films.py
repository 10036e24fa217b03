"""Films on a GPU: those of the CPU to rounding, and of the GPU itself to the bit.

`pytest -m gpu` on a machine with one; tests/test_devices.py rehearses them on a pretended one.
"""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from cinelab import CAMR, Director, Full, Screenplay, Shot, Sink, Window, load
from cinelab.stream.commands import Settings
from cinelab.stream.generator import ChunkGenerator, ChunkRequest
from cinelab.stream.session import Session

pytestmark = pytest.mark.gpu
CAT = "a red cat waves in the meadow by day"
ROBOT = "a blue robot jumps in the city at night"
PLAY = Screenplay("There and back", (Shot(CAT, 0.75), Shot(ROBOT, 0.5), Shot(CAT, 0.5)))
SYNCS = 2  # of a chunk: times that the host may wait for the device, its frames left out


@pytest.fixture(autouse=True)
def full_precision():
    """Convolutions of fp32 in fp32: cuDNN would round their factors to TF32."""
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


def film(device, policy=None, model="toybox-2step", memory=None, **how):
    bundle = load(model, device)
    bundle.memory = memory or {}
    return Director(bundle, policy or CAMR(budget=2), seed=7, **how).render(PLAY)


def apart(one, other) -> tuple[float, int]:
    """Mean and largest difference of two films' frames, in grey levels of 255."""
    difference = np.abs(one.frames.astype(int) - other.frames)
    return float(difference.mean()), int(difference.max())


def picks(film) -> list:
    names = ["chunk", "layer", "retrieved"]
    columns = [name for name in film.routing.columns if name in names] or film.routing.columns[:3]
    return film.routing[columns].to_numpy().tolist()


@pytest.mark.parametrize(
    "policy",
    [
        CAMR(budget=2),
        Full(),
        Window(window=2),
        Sink(sink=1, window=1),
        CAMR(budget=2, per_head=True),
    ],
    ids=["camr", "full", "window", "sink", "camr-per-head"],
)
def test_a_film_in_fp32_is_the_cpus(gpu, policy):
    here = film("cpu", policy)
    there = film(gpu, policy)
    mean, most = apart(here, there)
    assert mean < 0.1 and most <= 8
    same = [a == b for a, b in zip(picks(here), picks(there), strict=True)]
    assert np.mean(same) > 0.97  # scores that are level to rounding may swap two pages


def test_chunk_wise_and_guided_films_are_the_cpus(gpu):
    for model in ("toybox-chunk-4step", "toybox-base"):
        mean, most = apart(film("cpu", model=model), film(gpu, model=model))
        assert mean < 0.2 and most <= 16


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_a_film_made_twice_is_the_same_to_the_bit(gpu, bf16):
    assert np.array_equal(film(gpu, bf16=bf16).frames, film(gpu, bf16=bf16).frames)


def test_decoding_beside_the_model_changes_no_bit(gpu):
    assert np.array_equal(film(gpu).frames, film(gpu, overlap=True).frames)


def test_a_fused_clean_pass_changes_rounding_only(gpu):
    mean, most = apart(film(gpu), film(gpu, fused=True))
    assert mean < 0.1 and most <= 8


def test_history_in_host_memory_changes_no_bit(gpu):
    away = film(gpu, memory={"place": "host", "slots": 3})
    assert np.array_equal(film(gpu).frames, away.frames)


@pytest.mark.parametrize("place", ["device", "host"])
@pytest.mark.parametrize("packing", ["int8", "fp8"])
def test_packed_history_is_the_cpus_packed_history(gpu, packing, place):
    memory = {"packing": packing, "place": place}
    mean, _ = apart(film("cpu", memory=memory), film(gpu, memory=memory))
    assert mean < 0.5
    assert apart(film(gpu), film(gpu, memory=memory))[0] < 5


def test_the_record_names_the_gpu(gpu):
    assert film(gpu).info["device"] != film("cpu").info["device"] == "cpu"


def test_a_session_goes_on_to_the_bit(gpu, tmp_path):
    def session(folder, stop):
        made = Session.create(folder, load("toybox-2step"), Settings(CAT, seed=3))
        for _ in range(stop):
            made.step()
        made.close()
        made = Session.resume(folder, load("toybox-2step"))
        for _ in range(4 - stop):
            made.step()
        made.close()
        return Session.read(folder, load("toybox-2step")).frames()

    assert np.array_equal(session(tmp_path / "a", 1), session(tmp_path / "b", 3))


def waits(gpu, work) -> int:
    """How often the host waits for the device in `work()`."""
    if gpu == "pretend":
        import pretend

        before = len(pretend.synchronisations)
        work()
        return len(pretend.synchronisations) - before
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(one.message) for one in raised)


@pytest.mark.parametrize(
    "policy", [CAMR(budget=2), Full(), Window(window=2)], ids=["camr", "full", "window"]
)
def test_the_host_waits_twice_a_chunk_at_most(gpu, policy):
    bundle = load("toybox-2step", gpu)
    generator = ChunkGenerator(bundle)
    request = ChunkRequest(CAT, 0, seed=1, policy=policy)
    state = generator.begin()
    for _ in range(4):  # pages enough to choose from; what is made once is made
        state, _ = generator.step(state, request, decode=False)

    def chunk():
        generator.step(state, replace(request), decode=False)

    assert waits(gpu, chunk) <= SYNCS


def test_a_waiting_host_is_counted(gpu):
    x = torch.ones(3, device=gpu)
    assert waits(gpu, lambda: x.sum().item()) >= 1


def test_a_gpu_refuses_what_is_on_the_cpu(gpu):
    x = torch.ones(3, device=gpu)
    assert (x @ x + 1).cpu().tolist() == 4.0
    with pytest.raises(RuntimeError, match="same device"):
        x + torch.ones(3)
    with pytest.raises((RuntimeError, TypeError)):
        x.numpy()


def test_the_memory_of_a_film_is_the_gpus(cuda):
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    film(cuda)
    assert torch.cuda.max_memory_allocated() > before
