"""Threads: they sleep while they wait, the user's own choice wins, and a film beside a busy machine falls off no cliff."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SAID = "import cinelab, json, os; print(json.dumps({k: os.environ.get(k) for k in ('OMP_WAIT_POLICY', 'OMP_NUM_THREADS')}))"
BUSY = "while True: pass"
FILM = """
import time
from cinelab import Director, Screenplay, Shot
director = Director("toybox-2step")
play = Screenplay("Busy", shots=(Shot("wide shot of a red cat that waves in the forest by day", 1.0),))
director.render(play)
began = time.perf_counter()
director.render(play)
print(time.perf_counter() - began)
"""


def run(code, **environment):
    """What Python code prints, in a process with no choice of threads but the one given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "KMP_", "GOMP_", "CINELAB_"))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True,
                          env=kept | {"PYTHONPATH": str(ROOT)} | environment)
    return json.loads(done.stdout)


def test_waiting_threads_sleep_unless_the_user_chose_otherwise():
    assert run(SAID)["OMP_WAIT_POLICY"] == "PASSIVE"
    own = run(SAID, OMP_WAIT_POLICY="ACTIVE", OMP_NUM_THREADS="3")
    assert own == {"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "3"}


@pytest.mark.slow
def test_a_film_beside_busy_loops_takes_little_more_than_by_one_thread():
    """One thread cannot wait for another: the film by the default threads is compared with it, in one run."""
    loops = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(2)]
    try:
        ours, one = run(FILM), run(FILM, OMP_NUM_THREADS="1")
    finally:
        for loop in loops:
            loop.kill()
    assert ours < 4 * one
