"""One cell of a sweep in a process of its own: locked, run, recorded. done.json is written last.

Nothing here imports torch or papermill before a cell runs: a cell's process must start at once.
"""

import os
import resource
import select
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import psutil

from cinelab.config import read_mapping
from cinelab.errors import CinelabError
from cinelab.files import write_json
from cinelab.lab.sweeps.grid import SCHEMA, SweepCell
from cinelab.lab.sweeps.notebook import execute_locked, plain_first_line
from cinelab.outputs import writing
from cinelab.threads import TRAINING

CellResult = tuple[str, str]  # done, skipped or failed, and why it failed


def run_cell(cell: SweepCell, folder: Path, shared: Path | None = None) -> CellResult:
    """Run `cell` in `folder`. `shared` is a folder where the cells of one machine store what is the
    same for all."""
    try:
        return _run_locked(cell, folder, shared), ""
    except CinelabError as error:
        return "failed", plain_first_line(error)
    except Exception as error:
        traceback.print_exc()
        return "failed", f"{type(error).__name__}: {plain_first_line(error)}"


def _run_locked(cell: SweepCell, folder: Path, shared: Path | None) -> str:
    with writing(folder, lend=True) as note:
        if cell.finished(folder):
            return "skipped"
        with open(folder / "output.txt", "wb") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        write_json(folder / "config.json", cell.parameters)
        # not what --workers leaves of the cores: a training's bits depend on its threads
        os.environ[TRAINING] = str(cell.threads)
        git = _revision(cell.notebook.parent)
        began = time.perf_counter()
        execute_locked(
            cell.notebook,
            folder,
            cell.parameters | {"run_dir": str(folder.resolve())},
            note=note,
        )
        _check_rows(folder)
        write_json(folder / "done.json", _record(cell, git, time.perf_counter() - began, shared))
        return "done"


def _check_rows(folder: Path) -> None:
    """A cell whose table no report could read has failed."""
    if (folder / "rows.parquet").exists():
        from cinelab.lab.sweeps.measured import check_cell

        check_cell(folder)


def _record(cell: SweepCell, git: str | None, seconds: float, shared: Path | None) -> dict:
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # KiB, on macOS bytes
    megabytes = round(peak / (2**20 if sys.platform == "darwin" else 2**10))
    return {
        "schema": SCHEMA,
        "parameters": cell.parameters,
        "notebook": cell.notebook.name,
        "git": git,
        "seconds": round(seconds, 1),
        "peak_memory_mb": megabytes,
        "hardware": _hardware(shared),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Return the versions of what makes a result; none of these packages is imported for it."""
    names = ("cinelab", "torch", "diffusers", "transformers", "numpy", "papermill")
    python = ".".join(map(str, sys.version_info[:3]))
    return {"python": python} | {name: version(name) for name in names}


def _hardware(shared: Path | None) -> dict:
    """Return what torch knows of the machine. Importing it takes a second, so the first cells of a
    machine write the values down and the others read them."""
    if shared and (shared / "hardware.json").exists():
        return read_mapping(shared / "hardware.json")
    from cinelab.runs import hardware

    values = hardware()
    if shared:
        write_json(shared / "hardware.json", values)
    return values


def _revision(folder: Path) -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        git = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except OSError:  # there is no git
        return None
    return git.stdout.strip() or None


def end_with(pipe: int) -> None:
    """End this process and its kernel when the last writer of `pipe` ends, however it ends."""
    threading.Thread(target=_await_end, args=(pipe,), daemon=True).start()


def _await_end(pipe: int) -> None:
    poll = select.poll()
    poll.register(pipe, 0)  # hanging up alone: what is written there belongs to others
    poll.poll()
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            child.kill()
    os._exit(1)
