"""The training queue with the time that is left: each job by `cinelab.jobs.worker`, resumable, best
first. A job that its limit cuts keeps the averaged weights of its last checkpoint."""

import signal
import subprocess
import sys
import time
from math import inf
from pathlib import Path

from benchmarks.gpu_bench import processes, toy_films
from benchmarks.gpu_bench.jobs import QueuedJob, found, read_queue
from benchmarks.gpu_bench.one import Task
from cinelab.config import to_dict
from cinelab.errors import CinelabError
from cinelab.files import read_lines, write_json
from cinelab.jobs.job import Job, load_job

SAVING = 12.0  # seconds that a job is given to save and export
SHARE = 0.2  # of its steps, below which a job is not begun
CARD = 45.0  # seconds that a card needs
STOPPED = "stopped: its limit came, and its last checkpoint is what counts"


def run(task: Task) -> None:
    """Run the jobs until the time is up."""
    end = time.monotonic() + task.seconds
    folder = task.work / "training"
    for queued in read_queue(task.queue or Path("experiments/gpu")):
        left = end - time.monotonic()
        with task.rows.trying(f"job {queued.name}"):
            one_job(task, queued, folder, left)
            if "card" in queued.keeps and end - time.monotonic() > CARD and not task.rehearsed:
                score(folder / queued.name, end - time.monotonic())


def one_job(task: Task, queued: QueuedJob, folder: Path, left: float) -> None:
    """Train one job for at most `left` seconds and record what it came to."""
    films = toy_films.freeze(folder / queued.store.name)
    if not films:
        raise CinelabError(f"job {queued.name} has no films yet; they are rendered beside others.")
    description = folder / f"{queued.name}.json"
    job = load_job(description) if description.exists() else described(task, queued, folder, left)
    write_json(description, to_dict(job))
    began = time.monotonic()
    log = task.work / "logs" / f"job-{queued.name}.log"
    minutes = inf if queued.minutes is None else queued.minutes
    ended = work(description, log, min(left, 60 * minutes + SAVING))
    rows = read_lines(Path(job.run) / "log.jsonl")
    assert job.export is not None  # every job of a queue has one
    if not (Path(job.export) / "config.json").exists():
        deliver(job)
    task.rows.note(
        f"job {queued.name}",
        len(rows),
        "steps",
        state=ended,
        of=job.config.steps,
        seconds=time.monotonic() - began,
        films=films * queued.store.shard,
        last=rows[-1] if rows else None,
        start=job.init,
    )


def described(task: Task, queued: QueuedJob, folder: Path, left: float) -> Job:
    """Return the job, with as many of its steps as there is time for. CinelabError where that is
    too little."""
    share = 1.0 if task.rehearsed else min(1.0, (left - SAVING) / queued.expected_seconds)
    if share < SHARE:
        raise CinelabError(
            f"job {queued.name} needs {queued.expected_seconds:.0f} s and {left:.0f} s are left."
        )
    start = found(queued.start, folder, task.starts)
    teacher = found(queued.teacher, folder, task.starts) if queued.teacher else None
    job = queued.job(folder, start=start, teacher=teacher)
    if share == 1.0 or queued.steps is None:
        return job
    steps = max(1, int(queued.steps * share))
    print(f"job {queued.name}: {steps} of {queued.steps} steps fit", flush=True)
    return queued.job(folder, start=start, teacher=teacher, changes={"steps": steps})


def work(description: Path, log: Path, left: float) -> str:
    """Run the worker on a description; it is asked to save where its time is up. Return how it
    ended."""
    log.parent.mkdir(parents=True, exist_ok=True)
    room = max(left - SAVING, 5.0)
    command = [sys.executable, "-m", "cinelab.jobs.worker", str(description)]
    command += ["--minutes", f"{room / 60:.3f}"]
    with open(log, "a") as output:
        worker = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        code = worker.wait(room + SAVING / 2)
    except subprocess.TimeoutExpired:
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(SAVING / 2)
        except subprocess.TimeoutExpired:
            worker.kill()
        return STOPPED
    if code:
        raise CinelabError(f"the worker ended with {code}: {processes.tail(log)}")
    return "ended by itself"


def deliver(job: Job) -> None:
    """Write the averaged weights of a run that was stopped, and what they are."""
    from cinelab.jobs.worker import result_entries
    from cinelab.latent.store import world_of_store
    from cinelab.scale.checkpoints import export
    from cinelab.world.worlds import WORLD, world_named
    from cinelab.zoo import checkpoints as zoo

    folder = Path(job.export or job.run)
    export(job.run, folder / zoo.WEIGHTS, dtype=job.export_dtype or "bf16")
    world = world_named(world_of_store(job.store.path))
    toybox = {"fps": world.fps, "size": world.size, WORLD: world.name}
    write_json(folder / zoo.CONFIG, result_entries(job, job.config, toybox) | {"stopped": True})


def score(run: Path, seconds: float) -> None:
    """Measure a card of the result, for as long as there is time."""
    words = ["score", str(run / "result"), "--films", "8", "--seeds", "0", "-o", str(run)]
    command = [sys.executable, "-m", "cinelab", *words]
    try:
        subprocess.run(command, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        print(f"no card of {run.name}: its time was up", flush=True)
