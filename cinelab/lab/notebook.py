"""One notebook through papermill: its parameters checked, its output whole, one writer in its folder."""

import ast
import fcntl
import logging
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TextIO

import psutil

from cinelab.errors import CinelabError
from cinelab.files import write_text
from cinelab.lab.grid import plain
from cinelab.registry import elsewhere

PATIENCE = 5.0  # seconds that a lock is waited for: the kernel of a killed owner ends within one
HOST = socket.gethostname()
# Our own python's kernel, whatever kernel the notebook was saved with; without its TCP warning.
PAPERMILL = {"kernel_name": "python3", "language": "python", "progress_bar": False}
PAPERMILL |= {"autosave_cell_every": 10, "extra_arguments": ["--IPKernelApp.log_level=40"]}


def declared(notebook: Path) -> list[str]:
    """The names in the notebook's cell tagged `parameters`.

    Read by Python's own parser: papermill's pattern overlooks `steps: int | None = None`.
    """
    cells = [c for c in _read(notebook) if "parameters" in c.metadata.get("tags", [])]
    if not cells:
        raise CinelabError(f"{notebook} has no cell tagged 'parameters'; tag the one of defaults.")
    try:
        body = ast.parse(cells[0].source).body
    except SyntaxError as error:
        what = f"parameters cell, line {error.lineno}: {error.msg}"
        raise CinelabError(f"{notebook}, {what}; keep to plain assignments there.") from error
    targets = [getattr(n, "targets", None) or [getattr(n, "target", None)] for n in body]
    return [target.id for target in sum(targets, []) if isinstance(target, ast.Name)]


def check(notebook: Path, parameters: dict[str, Any]) -> None:
    """Refuse parameters that the notebook does not declare, and name the nearest that it does."""
    known = declared(notebook)
    for key in parameters:
        if key not in known:
            near = ", ".join(get_close_matches(key, known, n=3) or sorted(known)) or "nothing"
            remedy = f"it declares {near}: correct the name or add it to the parameters cell"
            raise CinelabError(f"{notebook} declares no parameter {key!r}; {remedy}.")


def _read(notebook: Path) -> list:
    import nbformat

    try:
        return nbformat.read(notebook, as_version=4).cells
    except OSError as error:
        raise CinelabError(f"Cannot read {notebook}: {error.strerror}; check the path.") from error
    except Exception as error:
        raise CinelabError(f"{notebook} is no notebook; save it again in JupyterLab.") from error


def execute(notebook: Path, out_dir: Path, parameters: dict[str, Any] | None = None) -> Path:
    """Run `notebook` in the foreground and return `<out_dir>/notebook.ipynb`.

    Shows each cell's first line and what the cell prints. A notebook that declares `run_dir` is
    given `out_dir`. A failed cell raises a CinelabError; the executed notebook is there anyway.
    """
    notebook, out_dir = Path(notebook), Path(out_dir)
    parameters = plain(parameters or {}, "parameters")
    if "run_dir" in declared(notebook):
        parameters = {"run_dir": str(out_dir.resolve())} | parameters
    check(notebook, parameters)
    with writing(out_dir) as note:
        return execute_locked(notebook, out_dir, parameters, note)


def execute_locked(notebook: Path, out_dir: Path, parameters: dict, note: Callable) -> Path:
    import papermill
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config

    _quiet_and_whole()
    output = out_dir.resolve() / "notebook.ipynb"
    count = _Count(sum(cell.cell_type == "code" for cell in _read(notebook)) + bool(parameters))
    paths = [str(path).replace("{", "{{").replace("}", "}}") for path in (notebook, output)]
    hooks = {"on_notebook_start": note, "on_cell_execute": count}
    hooks |= {"cwd": str(notebook.resolve().parent)}  # paths in a notebook mean what they mean in JupyterLab
    hooks |= {"stdout_file": sys.stdout, "stderr_file": sys.stderr}
    try:
        with tempfile.TemporaryDirectory(dir="/tmp") as sockets:  # a socket's path is short, $TMPDIR may be long
            own = {"transport": "ipc", "connection_file": f"{sockets}/kernel.json"}  # two kernels never race for a port
            with _found_again():
                papermill.execute_notebook(*paths, parameters, **PAPERMILL, **hooks, config=Config(KernelManager=own))
        return output
    except papermill.PapermillExecutionError as error:
        number, what = error.exec_count, f"{error.ename}: {first_line(error.evalue)}"
    except DeadKernelError:
        number, what = count.number, "DeadKernelError: the kernel died, perhaps for lack of memory"
    raise CinelabError(f"{notebook.name}, cell {number}: {what} (see {output})")


@contextmanager
def _found_again() -> Iterator[None]:
    """The kernel, which works in the notebook's folder, finds a user's modules where this process does."""
    more = elsewhere(dict(os.environ))
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


class _Count:
    """Shows each code cell as it begins, with the number that it has in the executed notebook."""

    def __init__(self, total: int):
        self.number, self.total = 0, total

    def __call__(self, cell: Any, cell_index: int) -> None:
        self.number += 1
        print(f"[{self.number}/{self.total}] {first_line(cell.source)}", flush=True)


def first_line(text: Any) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", str(text)).strip().partition("\n")[0]


def _quiet_and_whole() -> None:
    """papermill without its log, and its notebooks written whole or not at all."""
    from papermill.iorw import LocalHandler, papermill_io

    handler = LocalHandler()
    handler.write = lambda text, path: write_text(Path(path), text)
    papermill_io.register("/", handler)
    logging.getLogger("papermill").setLevel(logging.CRITICAL)


@contextmanager
def writing(folder: Path, patience: float | None = None) -> Iterator[Callable]:
    """One writer in `folder`. Yields a function that counts our kernel among the writers.

    The system frees the lock of a dead owner; the pids in it tell whether a kernel outlived it on
    this host. Of another host's processes only the lock itself tells.
    """
    with _acquire(folder / ".lock", PATIENCE if patience is None else patience) as handle:

        def note(notebook: Any = None) -> None:
            handle.truncate(0)
            pids = [os.getpid(), *(child.pid for child in psutil.Process().children())]
            print(f"host={HOST}", *pids, file=handle, flush=True)

        note()
        try:
            yield note
        finally:
            (folder / ".lock").unlink(missing_ok=True)


def _acquire(path: Path, patience: float) -> TextIO:
    deadline = time.monotonic() + patience
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = open(path, "a+")
        except OSError as error:
            raise CinelabError(f"{path.parent} cannot be written to ({error.strerror}); name a folder of your own, or copy it "
                               "to one.") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.path.samestat(os.stat(path), os.fstat(handle.fileno()))
        except OSError:  # held, or just removed by its owner
            ours = False
        host, owners = _owners(handle)
        if ours and (host != HOST or not set(owners) - {os.getpid()}):
            return handle
        handle.close()
        if time.monotonic() > deadline:
            who = f"process {owners[0]} on {host}" if owners else "another process"
            raise CinelabError(f"{path.parent} is written by {who}; let it end, then run again.")
        time.sleep(0.1)


def _owners(handle: TextIO) -> tuple[str, list[int]]:
    """The host that a lock names, and its processes there, the writer before its kernel: on our own host the living ones."""
    handle.seek(0)
    words, latest = handle.read().split(), os.fstat(handle.fileno()).st_mtime + 60
    noted = [int(word) for word in words if word.isdigit()]
    host = next((word[5:] for word in words if word.startswith("host=")), HOST)
    return host, noted if host != HOST else [pid for pid in noted if _lives(pid, latest)]


def _lives(pid: int, latest: float) -> bool:
    """Whether a process of that pid lives that began before `latest`: a later one was given an old pid."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() < latest
    except psutil.Error:
        return False
