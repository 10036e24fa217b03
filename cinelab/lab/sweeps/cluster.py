"""Cells as jobs of a cluster, through submitit: `local` runs them on this machine, `slurm` submits
them with sbatch.

A job runs the same cell function as a sweep on this machine. Its logs lie in `<cell>/jobs/<when>/`;
job.json in the cell's folder names that folder before the job is submitted, and submitit writes
`<id>_submitted.pkl` there, without which a job does nothing. So a driver that starts again finds
the jobs of a killed one, and follows those that live. Jobs outlive their driver, Ctrl-C included; a
job that finds its cell finished or locked leaves it as it is.
"""

import json
import os
import re
import signal
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any

import psutil

from cinelab.config import read_mapping
from cinelab.devices import VISIBLE, SharedGpus, visible_gpus
from cinelab.errors import CinelabError
from cinelab.files import to_json, write_json
from cinelab.lab.sweeps.cell import CellResult, run_cell
from cinelab.lab.sweeps.grid import SweepCell
from cinelab.lab.sweeps.notebook import plain_first_line
from cinelab.lab.sweeps.server import tree_memory
from cinelab.registry import IMPORT, elsewhere
from cinelab.threads import cores, limited

NUMBERS = {"time": " of minutes", "gpus": "", "cpus": "", "memory": " of GB"}
TEXTS = ("partition", "account", "qos", "constraint", "exclude")
KNOWN = {"local": ["time"], "slurm": [*NUMBERS, *TEXTS]}
# submitit's, where they are not ours
NAMES = {"gpus": "gpus_per_node", "cpus": "cpus_per_task", "memory": "mem"}
ENDED = (
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "REVOKED",
    "TIMEOUT",
)
LONG = 60 * 24 * 365  # minutes; submitit would end a local job after two
POLL = {"local": 0.1, "slurm": 1.0}
UNSEEN = 3600  # seconds after which a job that the cluster does not know counts as gone


def submitit_parameters(engine: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return submitit's parameters for our options: time in minutes, memory in GB, gpus and cpus a
    cell, names as text. Raises CinelabError."""
    chosen = {key: _value(engine, key, str(value)) for key, value in options.items()}
    if engine == "local":
        return {"timeout_min": chosen.get("time", LONG)}
    if "memory" in chosen:
        chosen["memory"] = f"{chosen['memory']}GB"
    return {"job_name": "cinelab"} | {NAMES.get(key, key): value for key, value in chosen.items()}


def _value(engine: str, key: str, text: str) -> str | int:
    if key not in KNOWN[engine]:
        raise CinelabError(
            f"option {key!r} is unknown to engine {engine!r}; it takes {', '.join(KNOWN[engine])}."
        )
    if key in TEXTS and text:
        return text
    if key in NUMBERS and re.fullmatch("[0-9]+", text) and (int(text) or key == "gpus"):
        return int(text)
    wanted = f"a whole number{NUMBERS[key]}, such as {key}=4" if key in NUMBERS else "a name"
    raise CinelabError(f"option {key} is {text!r}; give {wanted}.")


class Cluster:
    """The jobs of a sweep's cells (an `Engine`). Nothing is lost with it: see `_living_job`."""

    def __init__(self, engine: str, options: dict[str, Any], workers: int):
        self.engine = engine
        self._parameters = submitit_parameters(engine, options)
        self._submitit = _submitit(engine)
        self._threads = max(1, cores() // workers) if engine == "local" else options.get("cpus")
        self._jobs: dict[int, Any] = {}
        self._refused: list[tuple[int, CellResult]] = []
        self._count = 0
        # of a cluster's jobs, slurm says which GPUs they have
        self._gpus = SharedGpus(visible_gpus() if engine == "local" else [])

    def already_runs(self, cell: SweepCell, folder: Path) -> bool:
        """Whether a job of an earlier driver still runs `cell`, or waits to."""
        return self._living_job(folder) is not None

    def start(self, cell: SweepCell, folder: Path) -> int:
        self._count += 1
        try:
            self._jobs[self._count] = self._living_job(folder) or self._submit(cell, folder)
        except Exception as error:  # of submitit or sbatch: a wrong partition, no room, no network
            what = f"{type(error).__name__}: {plain_first_line(error)}"
            why = f"it was not submitted ({what}); correct the options"
            self._refused.append((self._count, ("failed", why)))
        return self._count

    def finished(self) -> list[tuple[int, CellResult]]:
        """Return the cells whose jobs have ended, after a short wait."""
        refused = self._refused
        self._refused = []
        if refused:
            return refused
        time.sleep(POLL[self.engine])
        ended = [number for number, job in self._jobs.items() if not self._runs(job)]
        for number in ended:
            self._gpus.give_back(number)
        return [(number, _job_result(self._jobs.pop(number), self.engine)) for number in ended]

    def memory(self, number: int) -> float | None:
        """Return the megabytes of a local job; slurm's run elsewhere."""
        return (
            tree_memory(int(self._jobs[number].job_id))
            if self.engine == "local" and number in self._jobs
            else None
        )

    def close(self) -> str:
        """Return what becomes of the jobs that still run: they continue."""
        if not self._jobs:
            return ""
        ids = " ".join(job.job_id for job in self._jobs.values())
        end = f"{'kill' if self.engine == 'local' else 'scancel'} {ids}"
        return f"Jobs that go on: {ids}; the same command takes them up again, `{end}` ends them."

    def _submit(self, cell: SweepCell, folder: Path) -> Any:
        logs = (
            folder.absolute() / "jobs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        )
        executor = self._executor(logs)
        record = {
            "engine": self.engine,
            "host": socket.gethostname(),
            "logs": str(logs.relative_to(folder.absolute())),
        }
        write_json(folder / "job.json", record | {"submitted": time.time()})
        values = json.loads(to_json(astuple(cell), default=str))
        with _undisturbed():
            return executor.submit(run_job, values, str(folder.absolute()), self._environment())

    def _executor(self, logs: Path) -> Any:
        kind = (
            self._submitit.LocalExecutor if self.engine == "local" else self._submitit.SlurmExecutor
        )
        executor = kind(logs)
        executor.update_parameters(**self._parameters)
        return executor

    def _environment(self) -> dict[str, str | None]:
        """Return the environment of a job's process: submitit hides the GPUs from local jobs, which
        share this machine."""
        chosen: dict[str, str | None] = {}
        if self._threads:
            chosen |= limited(self._threads)
        # where a user's own modules are
        chosen |= elsewhere(dict(os.environ)) | {IMPORT: os.environ.get(IMPORT)}
        if self.engine == "local":
            chosen[VISIBLE] = os.environ.get(VISIBLE)
        return chosen | self._gpus.take(self._count)

    def _living_job(self, folder: Path) -> Any:
        """Return the job that job.json describes, if it waits or runs."""
        if not (folder / "job.json").exists():
            return None
        record = read_mapping(folder / "job.json", engine=str, host=str, logs=str, submitted=float)
        elsewhere = self.engine == "local" and record["host"] != socket.gethostname()
        submitted = next((folder / record["logs"]).glob("*_submitted.pkl"), None)
        if record["engine"] != self.engine or elsewhere or submitted is None:
            return None  # its cell's lock still keeps a second writer out
        kind = (
            self._submitit.local.local.LocalJob
            if self.engine == "local"
            else self._submitit.SlurmJob
        )
        job = kind(
            (folder / record["logs"]).absolute(), submitted.name.removesuffix("_submitted.pkl")
        )
        unseen = (
            self.engine == "slurm"
            and job.state == "UNKNOWN"
            and time.time() - record["submitted"] > UNSEEN
        )
        return job if self._runs(job) and not unseen else None

    def _runs(self, job: Any) -> bool:
        if self.engine == "slurm":  # what submitit calls done may be suspended or about to start
            known = job.done() and (
                job.paths.result_pickle.exists()
                or job.watcher.get_state(job.job_id).startswith(ENDED)
            )
            return not known
        with suppress(psutil.Error):  # submitit knows only its own children
            process = psutil.Process(int(job.job_id))
            return (
                process.status() != psutil.STATUS_ZOMBIE
                and str(job.paths.folder) in process.cmdline()
            )
        return False


def _job_result(job: Any, engine: str) -> CellResult:
    """Return the result of a cell's job, or that it ended without one."""
    # a result of slurm may arrive late, over the network
    if engine == "local" and not job.paths.result_pickle.exists():
        return "failed", f"its job {job.job_id} was ended; see {job.paths.folder}"
    try:
        return tuple(job.result())
    except Exception:
        return (
            "failed",
            f"its job {job.job_id} ended as {job.state}; see {job.paths.folder}, or give it more "
            "time or memory",
        )


def run_job(values: list, folder: str, environment: dict[str, str | None]) -> CellResult:
    """Run a cell inside its job, in the environment that the driver chose."""
    for key, value in environment.items():
        os.environ.pop(key, None)
        if value is not None:
            os.environ[key] = value
    if os.environ.get("SUBMITIT_EXECUTOR") == "local":
        # submitit ignores the signal; `kill` is how a local job is ended
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sweep, name, notebook, parameters, threads = values
    return run_cell(SweepCell(sweep, name, Path(notebook), parameters, threads), Path(folder))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A local job inherits what is blocked: a Ctrl-C or a closed terminal ends the driver, not its
    jobs."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _submitit(engine: str) -> Any:
    try:
        import submitit
    except ImportError:
        raise CinelabError(
            f"engine {engine!r} needs submitit; install it with pip install 'cinelab[cluster]'."
        ) from None
    if engine == "slurm" and submitit.SlurmExecutor.affinity() < 0:
        raise CinelabError(
            "engine is 'slurm', but this machine has no srun; start the sweep on a login node of "
            "the cluster."
        )
    return submitit
