"""A grid of papermill cells that can be resumed: `cinelab sweep experiments/memory.yaml`.

A cell lives in `results/<sweep>/<cell>/`: config.json (the parameters), notebook.ipynb (executed), output.txt
(what was printed) and, last, done.json. These names are the sweep's: a notebook that trains keeps its run in a
folder below its `run_dir`. Cells run as processes of their own, which end when the sweep does, however it ends.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TimeElapsedColumn

from cinelab.errors import CinelabError
from cinelab.files import write_json
from cinelab.lab.grid import Cell, Sweep, expand
from cinelab.lab.notebook import check, declared, execute_locked, first_line, writing
from cinelab.runs import hardware


@dataclass
class Summary:
    """How a sweep ended. The command line exits non-zero unless it is `ok`."""

    done: list[Cell] = field(default_factory=list)
    skipped: list[Cell] = field(default_factory=list)
    failed: list[tuple[Cell, str]] = field(default_factory=list)
    planned: list[Cell] = field(default_factory=list)  # what a dry run would run

    @property
    def ok(self) -> bool:
        return not self.failed


def run(
    sweep: Sweep | str | Path,
    workers: int = 1,
    only: str | None = None,
    dry_run: bool = False,
    smoke: bool = False,
    results: Path = Path("results"),
) -> Summary:
    """Run every cell that is not done, `workers` at once, and show how it goes.

    `only` keeps the cells whose name holds it. `smoke` passes smoke=True to a notebook that
    declares it, in folders below `<sweep>-smoke`. A failed cell does not stop the others; Ctrl-C
    stops all, and the same call goes on later.
    """
    cells, summary, board = _choose(sweep, only, smoke), Summary(), _board()
    check(cells[0].notebook, cells[0].parameters | {"run_dir": ""})
    for cell in cells:
        known = summary.skipped if cell.finished(cell.folder(results)) else summary.planned
        known.append(cell)
    if not dry_run:
        todo, summary.planned = summary.planned, []
        with board:
            _work(todo, max(1, workers), Path(results), board, summary)
    counts = [f"{len(v)} {k}" for k, v in vars(summary).items() if k != "planned" or dry_run]
    lines = [f"planned {cell.name}" for cell in summary.planned] + [", ".join(counts)]
    board.console.print(
        "\n".join(lines + [f"failed  {c.name}: {why}" for c, why in summary.failed])
    )
    return summary


def _choose(sweep: Sweep | str | Path, only: str | None, smoke: bool) -> list[Cell]:
    cells = expand(sweep)
    chosen = [cell for cell in cells if (only or "") in cell.name]
    if not chosen:
        raise CinelabError(f"No cell's name holds {only!r}; the first one is {cells[0].name!r}.")
    if not smoke or "smoke" not in declared(cells[0].notebook):
        return chosen
    name = f"{cells[0].sweep}-smoke"
    return [replace(c, sweep=name, parameters=c.parameters | {"smoke": True}) for c in chosen]


def _board() -> Progress:
    """On a terminal a live table of the running cells; `console` prints what has ended."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    columns = SpinnerColumn(), "{task.description}", TimeElapsedColumn()
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _work(todo: list, workers: int, results: Path, board: Progress, summary: Summary) -> None:
    """Keep `workers` processes busy until nothing is left; whatever happens, none outlives us."""
    active: dict[subprocess.Popen, tuple] = {}
    with tempfile.TemporaryDirectory() as replies:
        try:
            while todo or active:
                while todo and len(active) < workers:
                    cell, reply = todo.pop(0), Path(replies) / f"{len(todo)}.json"
                    process = _start(cell, cell.folder(results), reply, workers)
                    active[process] = cell, reply, board.add_task(cell.name, total=None)
                time.sleep(0.05)
                for process in [p for p in active if p.poll() is not None]:
                    cell, reply, task = active.pop(process)
                    board.remove_task(task)
                    _file(cell, reply, process, board, summary)
        finally:
            for process in active:
                process.stdin.close()
            for process in active:
                process.wait()


def _start(cell: Cell, folder: Path, reply: Path, workers: int) -> subprocess.Popen:
    """The cell in a process of its own. It ends when its standard input does, with us at the latest."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = str(max(1, cores // workers))
    env = {"OMP_NUM_THREADS": threads, "PYDEVD_DISABLE_FILE_VALIDATION": "1"} | dict(os.environ)
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "bufsize": 0}
    command = [sys.executable, "-m", "cinelab.lab.sweep"]
    process = subprocess.Popen(command, env=env, start_new_session=True, **streams)
    with suppress(BrokenPipeError):
        job = json.dumps([*astuple(cell), folder, reply], default=str)
        process.stdin.write(f"{job}\n".encode())
    return process


def _file(cell: Cell, reply: Path, process: Any, board: Progress, summary: Summary) -> None:
    process.stdin.close()
    how = f"signal {-process.returncode}" if process.returncode < 0 else "an error"
    crash = "failed", f"its process ended with {how}; see output.txt, or try fewer workers"
    status, error = json.loads(reply.read_text()) if reply.exists() else crash
    board.console.print(f"{status:<8}{cell.name}{error and ': '}{error}")
    getattr(summary, status).append((cell, error) if status == "failed" else cell)


def _run_cell(cell: Cell, folder: Path) -> str:
    """In the cell's own process: done.json is the last thing written."""
    with writing(folder) as note:
        if cell.finished(folder):
            return "skipped"
        with open(folder / "output.txt", "wb") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        (folder / "done.json").unlink(missing_ok=True)
        write_json(folder / "config.json", cell.parameters)
        git, began = _revision(cell.notebook.parent), time.perf_counter()
        execute_locked(cell.notebook, folder, cell.parameters | {"run_dir": str(folder.resolve())}, note)
        write_json(folder / "done.json", _record(cell, git, time.perf_counter() - began))
        return "done"


def _record(cell: Cell, git: str | None, seconds: float) -> dict:
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # KiB, on macOS bytes
    megabytes = round(peak / (2**20 if sys.platform == "darwin" else 2**10))
    values = {"parameters": cell.parameters, "notebook": cell.notebook.name, "git": git}
    values |= {"seconds": round(seconds, 1), "peak_memory_mb": megabytes}
    return values | {"hardware": hardware()}


def _revision(folder: Path) -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    with suppress(OSError):
        git = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        return git.stdout.strip() or None


def _end_with_parent() -> None:
    """Wait for the end of standard input, then end at once, the kernel first."""
    while os.read(0, 1):
        pass
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            child.kill()
    os._exit(1)


def _main() -> None:
    *values, folder, reply = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cell = Cell(values[0], values[1], Path(values[2]), values[3])
    try:
        answer = _run_cell(cell, Path(folder)), ""
    except CinelabError as error:
        answer = "failed", first_line(error)
    except Exception as error:
        traceback.print_exc()
        answer = "failed", f"{type(error).__name__}: {first_line(error)}"
    write_json(Path(reply), answer)


if __name__ == "__main__":
    _main()
