"""Cells as jobs: submitit's local executor for what jobs do, stand-ins of Slurm's commands for what
is asked of Slurm."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from cinelab.errors import CinelabError
from cinelab.lab.sweeps.cluster import LONG, Cluster, submitit_parameters
from cinelab.lab.sweeps.grid import Sweep, expand
from cinelab.lab.sweeps.sweep import run

WORK = """
import os, pathlib, time
folder = pathlib.Path(run_dir)
with open(folder / "began.txt", "a") as file:
    print(os.environ.get("OMP_NUM_THREADS"), file=file)
while mode == "waits" and not pathlib.Path("go").exists():
    time.sleep(0.05)
if mode == "raises":
    raise RuntimeError("the loss is nan")
if mode == "killed":
    os.kill(os.getppid(), 9)
"""
SBATCH = r"""#!/bin/sh
grep '#SBATCH' "$1" > asked.txt
case "$(cat asked.txt)" in
  *partition=wrong*) echo "sbatch: error: invalid partition specified: wrong" >&2; exit 1;;
esac
SLURM_JOB_ID=71 setsid sh -c 'echo RUNNING > state; sh "$0"; echo COMPLETED > state' "$1" \
  > job.log 2>&1 &
echo "Submitted batch job 71"
"""
SRUN = """#!/bin/sh
while [ "${1#--}" != "$1" ]; do
  case "$1" in --output|--error) shift;; esac
  shift
done
exec "$@"
"""
SACCT = '#!/bin/sh\necho "JobID|State|NodeList"; echo "71|$(cat state)|node1"\n'


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    defaults = 'seed = 0\nrun_dir = ""\nmode = "fine"'
    cells = [
        nbformat.v4.new_code_cell(defaults, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(WORK),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), "work.ipynb")
    yield tmp_path
    Path("go").touch()  # whatever a failed test left waiting ends


@pytest.fixture
def slurm(here, monkeypatch):
    """Slurm's three commands, as far as submitit asks them."""
    (here / "bin").mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT}.items():
        (here / "bin" / name).write_text(text)
        (here / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{here / 'bin'}:{os.environ['PATH']}")
    # a choice that would go before the options
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def sweep(*modes, seeds=(0,)):
    return Sweep("s", Path("work.ipynb"), grid={"mode": list(modes)}, seeds=list(seeds))


def began(cell):
    path = cell.folder() / "began.txt"
    return path.read_text().split() if path.exists() else []


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def start(seeds):
    """A driver in a process group of its own, whose cells wait; it prints to printed.txt."""
    sweep = f"Sweep('s', 'work.ipynb', grid={{'mode': ['waits']}}, seeds={seeds})"
    code = (
        f"from cinelab.lab.sweeps.sweep import Sweep, run; run({sweep}, workers=2, engine='local')"
    )
    with open("printed.txt", "w") as file:  # no pipe: the jobs keep it open
        streams = {"stdout": file, "stderr": subprocess.DEVNULL}
        return subprocess.Popen([sys.executable, "-c", code], start_new_session=True, **streams)


def job_of(cell):
    record = json.loads((cell.folder() / "job.json").read_text())
    assert record["engine"] == "local"
    (pickle,) = (cell.folder() / record["logs"]).glob("*_submitted.pkl")
    return psutil.Process(int(pickle.name.split("_")[0]))


@pytest.mark.parametrize(
    ("engine", "options", "words"),
    [
        (
            "slurm",
            {"gpu": 1},
            "option 'gpu' is unknown to engine 'slurm'; it takes time, gpus, cpus, memory, "
            "partition",
        ),
        (
            "local",
            {"partition": "a"},
            "option 'partition' is unknown to engine 'local'; it takes time.",
        ),
        (
            "slurm",
            {"time": "1h"},
            "option time is '1h'; give a whole number of minutes, such as time=4",
        ),
        (
            "slurm",
            {"memory": 0},
            "option memory is '0'; give a whole number of GB, such as memory=4",
        ),
        ("slurm", {"cpus": "-1"}, "option cpus is '-1'; give a whole number, such as"),
        ("slurm", {"account": ""}, "option account is ''; give a name"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_runs(engine, options, words):
    with pytest.raises(CinelabError) as error:
        run(sweep("fine"), engine=engine, options=options)
    assert words in str(error.value) and not Path("results").exists()


def test_options_in_the_words_of_submitit():
    given = {"time": "90", "gpus": 0, "cpus": 4, "memory": "16", "partition": "long"}
    asked = {
        "job_name": "cinelab",
        "time": 90,
        "gpus_per_node": 0,
        "cpus_per_task": 4,
        "mem": "16GB",
    }
    assert submitit_parameters("slurm", given) == asked | {"partition": "long"}
    assert submitit_parameters("local", {}) == {"timeout_min": LONG} and submitit_parameters(
        "local", {"time": 5}
    ) == {"timeout_min": 5}


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        CinelabError, match="this machine has no srun; start the sweep on a login node"
    ):
        run(sweep("fine"), engine="slurm")
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(
        CinelabError, match=r"needs submitit; install it with pip install 'cinelab\[cluster\]'"
    ):
        run(sweep("fine"), engine="local")


@pytest.mark.slow
def test_jobs_do_fail_and_crash_as_cells_do_here():
    cells = {cell.parameters["mode"]: cell for cell in expand(sweep("fine", "raises", "killed"))}
    summary = run(sweep("fine", "raises", "killed"), workers=2, engine="local")
    assert [cell.parameters["mode"] for cell in summary.done] == ["fine"]
    told = {cell.parameters["mode"]: why for cell, why in summary.failed}
    assert "work.ipynb, cell 3: RuntimeError: the loss is nan" in told["raises"]
    assert "was ended; see " in told["killed"] and "/jobs/" in told["killed"]
    assert (cells["fine"].folder() / "output.txt").exists() and began(cells["fine"]) == [
        str(max(1, os.cpu_count() // 2))
    ]
    record = json.loads((cells["fine"].folder() / "done.json").read_text())
    assert record["schema"] == 1 and record["peak_memory_mb"] > 10
    again = run(sweep("fine"), engine="local")
    assert again.skipped == summary.done and began(cells["fine"]) == began(cells["fine"])[:1]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_jobs_outlive_their_driver_and_are_taken_up(how):
    first, second, third = cells = expand(sweep("waits", seeds=[0, 1, 2]))
    driver = start([0, 1, 2])
    wait_for(lambda: began(first) and began(second))
    jobs = [job_of(first), job_of(second)]
    # a terminal's Ctrl-C reaches all of a group
    os.killpg(driver.pid, how) if how == signal.SIGINT else driver.kill()
    assert driver.wait(30) != 0
    if how == signal.SIGINT:
        ids = f"{jobs[0].pid} {jobs[1].pid}"
        words = (
            f"Jobs that go on: {ids}; the same command takes them up again, `kill {ids}` ends them"
        )
        assert words in Path("printed.txt").read_text()
    assert not began(third) and all(job.is_running() for job in jobs)
    Path("go").touch()
    summary = run(sweep("waits", seeds=[0, 1, 2]), workers=2, engine="local")
    assert summary.ok and len(summary.done) + len(summary.skipped) == 3
    assert [len(began(cell)) for cell in cells] == [1, 1, 1]


@pytest.mark.slow
def test_a_job_that_is_ended_by_hand_is_submitted_again():
    (cell,) = expand(sweep("waits"))
    driver = start([0])
    wait_for(lambda: began(cell))
    driver.kill()
    driver.wait()
    job = job_of(cell)
    family = [job, *job.children(recursive=True)]
    job.terminate()
    wait_for(
        lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family), 20
    )
    Path("go").touch()
    assert len(run(sweep("waits"), engine="local").done) == 1 and len(began(cell)) == 2


def test_a_record_of_a_job_that_is_no_more_is_no_job():
    (cell,) = expand(sweep("fine"))
    cluster = Cluster("local", {}, 1)
    logs = cell.folder() / "jobs" / "then"
    assert not cluster.already_runs(cell, cell.folder())
    logs.mkdir(parents=True)
    record = {"engine": "local", "host": os.uname().nodename, "logs": "jobs/then", "submitted": 0}
    (cell.folder() / "job.json").write_text(json.dumps(record))
    # its driver was killed before it was submitted
    assert not cluster.already_runs(cell, cell.folder())
    (logs / f"{os.getpid()}_submitted.pkl").touch()  # another process has been given its number
    assert not cluster.already_runs(cell, cell.folder())


@pytest.mark.slow
def test_slurm_is_asked_for_what_the_options_say(slurm, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # the tests' own, which a job would keep
    given = {"partition": "long", "time": "30", "gpus": 1, "memory": 8, "cpus": 3}
    summary = run(sweep("fine"), engine="slurm", options=given)
    assert summary.ok and len(summary.done) == 1 and began(summary.done[0]) == ["3"]
    asked = Path("asked.txt").read_text()
    for words in (
        "job-name=cinelab",
        "partition=long",
        "time=30",
        "gpus-per-node=1",
        "mem=8GB",
        "cpus-per-task=3",
    ):
        assert f"--{words}\n" in asked


def test_what_slurm_refuses_is_that_cells_failure(slurm):
    summary = run(sweep("fine"), engine="slurm", options={"partition": "wrong"})
    assert (
        "was not submitted (FailedJobError: sbatch: error: invalid partition specified: wrong)"
        in summary.failed[0][1]
    )
    assert not (summary.failed[0][0].folder() / "done.json").exists()


@pytest.mark.slow
def test_slurms_jobs_are_taken_up_while_slurm_knows_them(slurm):
    (cell,) = expand(sweep("waits"))
    first = Cluster("slurm", {}, 1)
    first.start(cell, cell.folder())
    assert (
        first.close()
        == "Jobs that go on: 71; the same command takes them up again, `scancel 71` ends them."
    )
    for state in ("PENDING", "CONFIGURING", "SUSPENDED"):
        Path("state").write_text(state)
        assert Cluster("slurm", {}, 1).already_runs(cell, cell.folder())
    wait_for(lambda: began(cell))
    second = Cluster("slurm", {}, 1)
    second.start(cell, cell.folder())
    Path("go").touch()
    ended = []
    wait_for(lambda: ended.extend(second.finished()) or ended)
    assert ended == [(1, ("done", ""))] and len(began(cell)) == 1
    assert not second.already_runs(cell, cell.folder())
