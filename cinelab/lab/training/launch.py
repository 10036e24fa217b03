"""Trainings on many GPUs from a notebook: write the run's description, start torchrun on it, follow
its log, stop it when interrupted.

    store = {"kind": "films", "path": "data/films"}
    job = launch.job("results/wan/stage1", "teacher_forcing", "wan-1.3b", store, init=...)
    watch(launch.train(job, processes=8), job.config)
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cinelab.config import from_dict, to_dict
from cinelab.errors import CinelabError, Failed
from cinelab.files import write_json
from cinelab.jobs.job import Job
from cinelab.lab import inputs
from cinelab.limits import WORKERS, check_number
from cinelab.outputs import ready_folder, writing
from cinelab.runs import log_rows
from cinelab.scale.parallel import WATCHED
from cinelab.threads import shared_cores

# seconds that a training is given for its last step and its save when it is to end
PATIENCE = 120.0
OFTEN = 0.5  # seconds between two readings of the log
OUTPUT = "output.log"  # what the processes print


def job(
    run_dir: str | Path,
    stage: str,
    preset: str,
    store: dict,
    *,
    lora_rank: int | None = None,
    **more: Any,
) -> Job:
    """Return the description of a run, checked, its paths made absolute; `more` as in
    `cinelab.jobs.job.Job`. Raises CinelabError."""
    values = {
        "stage": stage,
        "run": str(Path(run_dir).resolve()),
        "preset": preset,
        "store": dict(store),
    } | more
    values |= {"lora": {"rank": lora_rank, "alpha": float(lora_rank)}} if lora_rank else {}
    for name in ("init", "teacher", "export", "pairs"):
        values[name] = _absolute(values.get(name))
    values["store"]["path"] = _absolute(values["store"]["path"])
    made = from_dict(Job, values)
    made.config  # noqa: B018, refuses a bad preset or change now and not in every process
    _check_inputs(made)
    return made


def _check_inputs(job: Job) -> None:
    """Refuse what is not there now, and not when every process has started."""
    for name in ("init", "teacher"):
        place = getattr(job, name)
        if place is not None and place != "random" and not Path(place).exists():
            inputs.check(**{name: place})
    if job.store.kind not in ("toybox", "noise") and not Path(job.store.path).exists():
        raise CinelabError(
            f"store: {job.store.path} is not here; encode your videos first, with notebook 04 or "
            "`cinelab clips`, or rehearse with kind toybox or noise."
        )


def train(job: Job, processes: int = 1) -> Iterator[dict]:
    """Start torchrun and yield the rows of the run's log as they are written, those of an earlier
    part of the run first.

    Interrupted, closed or killed, the processes save and end, and the next call waits for that. A
    refusal of theirs is raised here as the same sentence.
    """
    check_number("processes", processes, 1, WORKERS)
    for place in filter(None, (job.run, job.export)):
        ready_folder(place)
    folder = Path(job.run) / "torchrun"
    with (
        writing(folder, lend=True, ending=PATIENCE) as note,
        _Torchrun(job, processes, folder) as process,
    ):
        note()
        step = -1
        while (alive := process.poll() is None) or _new_rows(job.run, step):
            for row in _new_rows(job.run, step):
                step = row["step"]
                yield row
            if alive:
                time.sleep(OFTEN)
        if process.returncode:
            raise _refusal(folder / OUTPUT)


def rows(run_dir: str | Path) -> list[dict]:
    """Return the log of a run so far, one row a step, without a line that is just being written."""
    return log_rows(run_dir)


class _Torchrun:
    """The torchrun process; leaving the context for whatever reason has it save and end, and
    waits."""

    def __init__(self, job: Job, processes: int, folder: Path):
        write_json(folder / "job.json", to_dict(job))
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(processes),
            "-m",
            "cinelab.jobs.worker",
            str(folder / "job.json"),
        ]
        self.output = open(folder / OUTPUT, "w")
        # nothing is written to this pipe: its end tells the workers that this process has ended
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=self.output,
            stderr=subprocess.STDOUT,
            env=shared_cores(processes) | {WATCHED: "1"},
            start_new_session=True,  # so that Ctrl-C reaches this process alone
        )

    def __enter__(self) -> subprocess.Popen:
        return self.process

    def __exit__(self, *_: Any) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)  # torchrun and its processes
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.output.close()


def _new_rows(run_dir: str, step: int) -> list[dict]:
    return [row for row in rows(run_dir) if row["step"] > step]


def _refusal(output: Path) -> CinelabError:
    """Return the worker's own sentence, else where to look."""
    lines = [
        line.partition("cinelab: ")[2]
        for line in output.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.startswith("cinelab: ")
    ]
    if lines:
        return CinelabError(lines[-1])
    return Failed(f"The training ended with an error; what its processes printed is in {output}.")


def _absolute(place: str | None) -> str | None:
    """Return a path relative to this folder as an absolute one; a checkpoint's name stays."""
    if place is not None and ("/" in place or Path(place).exists()):
        return str(Path(place).resolve())
    return place
