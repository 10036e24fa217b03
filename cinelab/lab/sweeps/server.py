"""Cells on this machine: their processes are forked from one that has imported papermill once.

`python -m cinelab.lab.sweeps.server` reads a job a line (its number, its cell, its folder) from the
driver's pipe and tells of each `{"number", "pid"}` when it begins and `{"number", "code"}` when it
ends; the cell's answer is a file. A cell's process is a fork: it has its own resource counts, and a
crash is its alone. It keeps the reading end of the driver's pipe, whose only writing end is the
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

from cinelab.errors import CinelabError
from cinelab.files import write_json
from cinelab.lab.sweeps.cell import Answer, answer, end_with
from cinelab.lab.sweeps.grid import Cell
from cinelab.outputs import passing_folder
from cinelab.threads import shared

WAIT = 0.5  # seconds until the driver's table is drawn again, if no cell ends before
CRASH = "its process ended with {}; see output.txt, or try fewer workers"


class Here:
    """The driver's side: starts the server, gives it cells, and ends it with all that it
    started."""

    def __init__(self, workers: int):
        env = {"PYDEVD_DISABLE_FILE_VALIDATION": "1"} | shared(workers)
        command = [sys.executable, "-m", "cinelab.lab.sweeps.server"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
        self._server = subprocess.Popen(command, env=env, start_new_session=True, **pipes)
        self._held = ExitStack()
        self._replies = self._held.enter_context(passing_folder("sweep"))
        self._pids: dict[int, int] = {}
        self._count = 0
        self._text = b""

    def takes_up(self, cell: Cell, folder: Path) -> bool:
        """Whether `cell` runs already: here none outlives its driver."""
        return False

    def start(self, cell: Cell, folder: Path) -> int:
        self._count += 1
        job = [self._count, *astuple(cell), folder.absolute(), self._reply(self._count)]
        with suppress(BrokenPipeError):  # `ended` says what happened to the server
            _write(self._server.stdin.fileno(), json.dumps(job, default=str))
        return self._count

    def ended(self) -> list[tuple[int, Answer]]:
        """The cells that have ended since, after a wait of half a second at most."""
        if not select.select([self._server.stdout], [], [], WAIT)[0]:
            return []
        if not (read := os.read(self._server.stdout.fileno(), 2**16)):
            raise CinelabError(
                "The process that starts the cells was ended; run the same command again, it goes "
                "on."
            )
        *lines, self._text = (self._text + read).split(b"\n")
        news = [json.loads(line) for line in lines]
        self._pids |= {new["number"]: new["pid"] for new in news if "pid" in new}
        return [(new["number"], self._answer(**new)) for new in news if "code" in new]

    def _answer(self, number: int, code: int) -> Answer:
        self._pids.pop(number, None)
        reply = self._reply(number)
        if reply.exists():
            return tuple(json.loads(reply.read_text()))
        return "failed", CRASH.format(f"signal {-code}" if code < 0 else "an error")

    def _reply(self, number: int) -> Path:
        return self._replies / f"{number}.json"

    def memory(self, number: int) -> float | None:
        """Megabytes that the cell's process and its kernel hold now."""
        return tree_memory(self._pids.get(number))

    def close(self) -> str:
        """End what still runs, and wait until it has."""
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()
        self._held.close()
        return ""


def tree_memory(pid: int | None) -> float | None:
    with suppress(psutil.Error):
        process = psutil.Process(pid) if pid else None
        family = [process, *process.children(recursive=True)] if process else []
        return sum(member.memory_info().rss for member in family) / 2**20 if family else None
    return None


def _write(pipe: int, line: str) -> None:
    data = f"{line}\n".encode()
    while data:
        data = data[os.write(pipe, data) :]


def serve() -> None:
    """Fork a process for every job until the driver's pipe ends; then wait for the cells, which end
    by themselves."""
    import nbclient.exceptions  # noqa: F401
    import papermill.iorw  # noqa: F401

    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # a child's end wakes the select below
    numbers = {}
    text = b""
    read = b"-"
    while read:
        ready = select.select([0, wake], [], [])[0]
        if wake in ready:
            os.read(wake, 2**10)
            _tell_ends(numbers)
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
        _tell({"number": job[0], "pid": pid})
        return
    code = 1
    try:
        _be_a_cell(job)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # never back into the server's loop


def _be_a_cell(job: list) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    end_with(os.dup(0))
    with open(os.devnull, "r+b", buffering=0) as null:
        os.dup2(null.fileno(), 0)
        os.dup2(null.fileno(), 1)
    _, sweep, name, notebook, parameters, threads, folder, reply = job
    cell = Cell(sweep, name, Path(notebook), parameters, threads)
    write_json(reply, answer(cell, Path(folder), Path(reply).parent))


def _tell_ends(numbers: dict[int, int]) -> None:
    for pid in list(numbers):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            _tell({"number": numbers.pop(pid), "code": os.waitstatus_to_exitcode(status)})


def _tell(news: dict) -> None:
    with suppress(BrokenPipeError):  # the driver is gone; the end of its other pipe says so
        _write(1, json.dumps(news))


if __name__ == "__main__":
    serve()
