"""Torch's threads: the user's choice stays, ours is made before torch is there, and a busy machine
costs its share, no more."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cinelab import lab, threads
from cinelab.lab.doctor import examine
from cinelab.stream import batch as engine
from cinelab.zoo.checkpoints import load

ROOT = Path(__file__).parents[1]
TOLD = """
import json, os, sys
{first}
import cinelab
from cinelab import threads
names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "CINELAB_CORES")
own = threads.own("OMP_NUM_THREADS")
print(json.dumps([threads.late, own, "torch" in sys.modules, *map(os.environ.get, names)]))
"""
# A film's seconds of the cores by torch's threads and by one, in turns; and how often threads slept
# in a thousand products,
# each of which has a part for every thread.
FILM = """
import json, resource, time
from cinelab import CAMR, Director, Screenplay, Shot, load
import torch
director, matrix = Director(load("toybox-2step"), CAMR(budget=3)), torch.randn(160, 160)
film = Screenplay("busy", [Shot("wide shot of a red cat that waves in the meadow by day", 1.5)])
threads, seconds = torch.get_num_threads(), [0.0, 0.0]
for turn in range(8):
    torch.set_num_threads(1 if turn % 2 else threads)
    began = time.process_time()
    director.render(film)
    seconds[turn % 2] += time.process_time() - began if turn > 1 else 0.0
torch.set_num_threads(threads)
slept = -resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
with torch.no_grad():
    for _ in range(1000):
        matrix @ matrix
print(json.dumps([threads, seconds, slept + resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw]))
"""


def environment(**own):
    """This process's, without what is said about threads, but for `own`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OMP_", "KMP_", "GOMP_", "CINELAB_C"))
    }
    return kept | {"PYTHONPATH": str(ROOT)} | own


def python(code, **own):
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(**own),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def told(first="", **own):
    return python(TOLD.format(first=first), **own)


def test_threads_are_chosen_before_torch_is_there():
    assert told() == [False, None, False, str(len(os.sched_getaffinity(0))), "PASSIVE", "0", None]


@pytest.mark.parametrize(
    ("own", "number", "policy"),
    [
        ({"OMP_NUM_THREADS": "7"}, "7", "PASSIVE"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, None, "ACTIVE"),
        ({"GOMP_SPINCOUNT": "9"}, None, None),
        ({"KMP_BLOCKTIME": "200"}, None, None),
    ],
)
def test_what_the_user_has_set_stays(own, number, policy):
    late, mine, _, *_, found, block, _ = told(**own)
    assert (late, mine, found) == (False, number, policy) and block == own.get(
        "KMP_BLOCKTIME", "0" if policy == "PASSIVE" else None
    )


def test_a_torch_that_was_there_first_is_said_and_nothing_is_pretended():
    assert told("sys.modules['torch'] = None") == [True, None, True, None, None, None, None]


def test_a_process_beside_others_has_its_share_which_is_no_choice_of_the_users():
    """And whoever is started by it may be given another."""
    assert told(CINELAB_CORES="1")[1:4] == [None, False, "1"]
    code = """
import json, os
os.sched_getaffinity = lambda _: range(8)
from cinelab import threads
threads.quota = lambda: None
shared = threads.shared_cores(2)
print(json.dumps([shared['OMP_NUM_THREADS'], shared['CINELAB_CORES']]))
"""
    assert python(code) == ["4", "4"]
    assert python(code.replace("'CINELAB_CORES'", "'PATH'"), OMP_NUM_THREADS="3", PATH="p") == [
        "3",
        "p",
    ]


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({}, None),
        ({"cpu.max": "what"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
    ],
)
def test_a_containers_quota_is_read(files, cores, tmp_path):
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert threads.quota(tmp_path) == cores


def test_no_more_threads_than_the_quota_has_cores(monkeypatch):
    monkeypatch.setattr(threads, "quota", lambda: 0.5)
    assert threads.cores() == 1


def test_a_toybox_film_takes_one_thread_and_gives_the_others_back(monkeypatch):
    bundle = load("toybox-1step")
    before = torch.get_num_threads()
    monkeypatch.setattr(engine, "own", lambda name: None)
    monkeypatch.setattr(engine, "cores", lambda: 2)
    torch.set_num_threads(2)
    try:
        with engine.inference_mode(False, "cpu", engine.threads_for(bundle)):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        monkeypatch.setattr(engine, "SMALL", 1e6)
        assert engine.threads_for(bundle) is None  # a larger model takes them all
        monkeypatch.setattr(engine, "SMALL", 1e9)
        monkeypatch.setattr(engine, "own", lambda name: "2")
        assert engine.threads_for(bundle) is None  # as does the user who said so
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def busy():
    """A busy loop for each core."""
    loops = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in os.sched_getaffinity(0)
    ]
    yield
    for loop in loops:
        loop.kill()
        loop.wait()


@pytest.mark.slow
def test_beside_busy_loops_no_core_is_spent_on_waiting(busy):
    """Counted, since wall time depends on who else is here: threads that spin never sleep, and use
    cores up while they wait. Beside these loops a film by two of them took two to thirty times the
    seconds of one thread."""
    number, (film, alone), slept = python(FILM)
    assert number == len(os.sched_getaffinity(0)) and film < 1.6 * alone
    assert slept >= 1000 or number == 1


def test_doctor_says_who_waits_how_and_what_else_is_busy(monkeypatch):
    found = {one.what: one for one in examine()}
    assert (
        found["threads"].ok
        and "they " in found["threads"].found
        and "cores" in found["other work"].found
    )
    monkeypatch.setattr(threads, "late", True)
    late = lab.doctor._threads()
    assert (
        late.ok is None
        and "before cinelab" in late.found
        and "OMP_WAIT_POLICY=PASSIVE" in late.remedy
    )


def test_doctor_sees_a_busy_loop(busy):
    assert lab.doctor._others().ok is None


def test_doctor_names_what_the_user_set(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv(threads.MARK, "")
    assert "as you set (OMP_WAIT_POLICY=ACTIVE" in lab.doctor._threads().found
