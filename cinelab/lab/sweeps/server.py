"""Cells on this machine: their processes are forked from one that has imported papermill once.

`python -m cinelab.lab.sweeps.server` reads a job a line (its number, its cell, its folder) from the
driver's pipe and writes `{"number", "pid"}` when it begins and `{"number", "code"}` when it ends;
the cell's result is a file. A cell's process is a fork: it has resource counts of its own, and a
crash is its alone. It holds the reading end of the driver's pipe, whose only writing end is the
driver's, and so notices the driver's end, a SIGKILL included.
"""

import json
import os
import select
import signal
import subprocess
import sys
import traceback
from contextlib import ExitStack, suppress
from dataclasses import astuple
from pathlib import Path

import psutil

from cinelab.devices import SharedGpus, visible_gpus
from cinelab.errors import CinelabError
from cinelab.files import write_json
from cinelab.lab.sweeps.cell import CellResult, end_with, run_cell
from cinelab.lab.sweeps.grid import SweepCell
from cinelab.outputs import passing_folder
from cinelab.threads import shared_cores

WAIT = 0.5  # seconds until the driver's table is drawn again, if no cell ends before
CRASH = "its process ended with {}; see output.txt, or try fewer workers"


class LocalServer:
    """The driver's side (an `Engine`): starts the server, gives it cells, and ends it with all that
    it started."""

    def __init__(self, workers: int):
        self._server = subprocess.Popen(
            [sys.executable, "-m", "cinelab.lab.sweeps.server"],
            env={"PYDEVD_DISABLE_FILE_VALIDATION": "1"} | shared_cores(workers),
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert self._server.stdin is not None and self._server.stdout is not None  # both are pipes
        self._to_server = self._server.stdin
        self._from_server = self._server.stdout
        self._resources = ExitStack()
        self._gpus = SharedGpus(visible_gpus())
        self._results = self._resources.enter_context(passing_folder("sweep"))
        self._pids: dict[int, int] = {}
        self._count = 0
        self._text = b""

    def already_runs(self, cell: SweepCell, folder: Path) -> bool:
        """Return False: here no cell outlives its driver."""
        return False

    def start(self, cell: SweepCell, folder: Path) -> int:
        self._count += 1
        job = [self._count, *astuple(cell), folder.absolute(), self._result_file(self._count)]
        job.append(self._gpus.take(self._count))
        with suppress(BrokenPipeError):  # `finished` reports what happened to the server
            _write(self._to_server.fileno(), json.dumps(job, default=str))
        return self._count

    def finished(self) -> list[tuple[int, CellResult]]:
        """Return the cells that have ended since, after WAIT seconds at most."""
        if not select.select([self._from_server], [], [], WAIT)[0]:
            return []
        if not (read := os.read(self._from_server.fileno(), 2**16)):
            raise CinelabError(
                "The process that starts the cells was ended; run the same command again, it goes "
                "on."
            )
        *lines, self._text = (self._text + read).split(b"\n")
        events = [json.loads(line) for line in lines]
        self._pids |= {event["number"]: event["pid"] for event in events if "pid" in event}
        return [(event["number"], self._result(**event)) for event in events if "code" in event]

    def _result(self, number: int, code: int) -> CellResult:
        self._pids.pop(number, None)
        self._gpus.give_back(number)
        file = self._result_file(number)
        if file.exists():
            status, why = json.loads(file.read_text())
            return status, why
        return "failed", CRASH.format(f"signal {-code}" if code < 0 else "an error")

    def _result_file(self, number: int) -> Path:
        return self._results / f"{number}.json"

    def memory(self, number: int) -> float | None:
        """Return the megabytes that the cell's process and its kernel use now."""
        return tree_memory(self._pids.get(number))

    def close(self) -> str:
        """End what still runs, and wait until it has ended."""
        self._to_server.close()
        self._server.wait()
        self._from_server.close()
        self._resources.close()
        return ""


def tree_memory(pid: int | None) -> float | None:
    """Return the megabytes of a process and its children; None where it has ended."""
    with suppress(psutil.Error):
        process = psutil.Process(pid) if pid else None
        family = [process, *process.children(recursive=True)] if process else []
        return sum(member.memory_info().rss for member in family) / 2**20 if family else None
    return None


def _write(pipe: int, line: str) -> None:
    data = f"{line}\n".encode()
    while data:
        data = data[os.write(pipe, data) :]


def serve_jobs() -> None:
    """Fork a process for every job until the driver's pipe ends; then wait for the cells, which end
    by themselves."""
    import nbclient.exceptions  # noqa: F401
    import papermill.iorw  # noqa: F401

    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # a child's end wakes the select below
    numbers: dict[int, int] = {}  # pid -> number of the job
    text = b""
    read = b"-"
    while read:
        ready = select.select([0, wake], [], [])[0]
        if wake in ready:
            os.read(wake, 2**10)
            _report_ends(numbers)
        if 0 in ready:
            read = os.read(0, 2**16)
            *lines, text = (text + read).split(b"\n")
            for line in lines:
                _fork(json.loads(line), numbers)
    for pid in numbers:
        os.waitpid(pid, 0)


def _fork(job: list, numbers: dict[int, int]) -> None:
    if pid := os.fork():
        numbers[pid] = job[0]
        _report({"number": job[0], "pid": pid})
        return
    code = 1
    try:
        _run_job(job)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # never back into the server's loop


def _run_job(job: list) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    end_with(os.dup(0))
    with open(os.devnull, "r+b", buffering=0) as null:
        os.dup2(null.fileno(), 0)
        os.dup2(null.fileno(), 1)
    _, sweep, name, notebook, parameters, threads, folder, result, environment = job
    os.environ.update(environment)  # its GPU; nothing has imported torch yet
    cell = SweepCell(sweep, name, Path(notebook), parameters, threads)
    write_json(result, run_cell(cell, Path(folder), Path(result).parent))


def _report_ends(numbers: dict[int, int]) -> None:
    for pid in list(numbers):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            _report({"number": numbers.pop(pid), "code": os.waitstatus_to_exitcode(status)})


def _report(event: dict) -> None:
    with suppress(
        BrokenPipeError
    ):  # the driver is gone; the end of its other pipe ends this server
        _write(1, json.dumps(event))


if __name__ == "__main__":
    serve_jobs()
