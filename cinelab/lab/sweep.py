"""One notebook, or a grid of them: papermill runs in folders that can be resumed.

    notebook: notebooks/train.ipynb
    base: {steps: 2000}
    grid: {policy: [full, camr], lr: [1e-3, 1e-4]}
    seeds: [0, 1, 2]

A cell of a sweep is one choice from the grid with one seed, in `results/<sweep>/<cell>/`:
config.json (the parameters), notebook.ipynb (executed), output.txt (what was printed) and, last,
done.json. These names are the sweep's: a notebook that trains keeps its run in a folder below its
`run_dir`. Cells run as processes of their own, which end when the sweep does, however it ends.
"""

import ast
import fcntl
import hashlib
import itertools
import json
import logging
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import psutil
import yaml
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TimeElapsedColumn

from cinelab.errors import CinelabError
from cinelab.runs import hardware, write_json, write_text

KNOWN = {"notebook": "notebooks/train.ipynb", "base": "{}", "grid": "{}", "seeds": "[0, 1, 2]"}
LONGEST_VALUE, LONGEST_NAME = 24, 120  # characters in a cell's name
PATIENCE = 5.0  # seconds that a lock is waited for: the kernel of a killed owner ends within one
# Our own python's kernel, whatever kernel the notebook was saved with; without its TCP warning.
PAPERMILL = {"kernel_name": "python3", "language": "python", "progress_bar": False}
PAPERMILL |= {"autosave_cell_every": 10, "extra_arguments": ["--IPKernelApp.log_level=40"]}


@dataclass(frozen=True)
class Sweep:
    """What a sweep file holds. Values become plain JSON types; bad ones raise a CinelabError."""

    name: str
    notebook: Path
    base: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, list] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])

    def __post_init__(self):
        for key in ("base", "grid", "seeds"):
            object.__setattr__(self, key, plain(getattr(self, key), key))
        _check_names(self.base, self.grid)
        for key, values in self.grid.items():
            _check_list(f"grid.{key}", values)
        _check_list("seeds", self.seeds)
        if wrong := [seed for seed in self.seeds if type(seed) is not int]:
            raise CinelabError(f"seeds holds {wrong[0]!r}; give whole numbers, such as [0, 1, 2].")


@dataclass(frozen=True)
class Cell:
    """One run of the notebook: `parameters` with a seed, without the `run_dir` it will be given."""

    sweep: str
    name: str
    notebook: Path
    parameters: dict[str, Any]

    def folder(self, results: Path = Path("results")) -> Path:
        return Path(results) / self.sweep / self.name

    def finished(self, folder: Path) -> bool:
        """Whether `folder` holds this cell's done.json, with the same parameters."""
        try:
            done = json.loads((folder / "done.json").read_text())
        except (OSError, ValueError):
            return False
        return _json(done.get("parameters")) == _json(self.parameters)


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


class _Loader(yaml.SafeLoader):
    """SafeLoader that also takes 1e-3 for a number."""


_POWER = re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _POWER, list("-+0123456789"))


def load(path: str | Path) -> Sweep:
    """Read a sweep file; every mistake is one sentence with the file, the field and a remedy."""
    path = Path(path)
    values = _read_yaml(path)
    for key in values:
        if key not in KNOWN:
            raise CinelabError(f"{path}: unknown key {key!r}; a sweep holds {', '.join(KNOWN)}.")
    for key in ("notebook", "seeds"):
        if values.get(key) is None:
            raise CinelabError(f"{path}: {key} is missing; add one, such as {key}: {KNOWN[key]}.")
    rest = {key: {} if values.get(key) is None else values[key] for key in ("base", "grid")}
    try:
        return Sweep(path.stem, _find(path, values["notebook"]), seeds=values["seeds"], **rest)
    except CinelabError as error:
        raise CinelabError(f"{path}: {error}") from None


def expand(sweep: Sweep | str | Path) -> list[Cell]:
    """Every cell of the grid, in the order of the file, the seeds innermost."""
    sweep = sweep if isinstance(sweep, Sweep) else load(sweep)
    cells = []
    for values in itertools.product(*sweep.grid.values(), sweep.seeds):
        chosen = dict(zip([*sweep.grid, "seed"], values, strict=True))
        cells.append(Cell(sweep.name, _name(chosen), sweep.notebook, sweep.base | chosen))
    return cells


def plain(value: Any, where: str) -> Any:
    """`value` in JSON's types: papermill would pass a NumPy number, a tuple or a Path as text."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: plain(item, f"{where}.{key}") for key, item in value.items()}
    if value is None or type(value) in (bool, int, float, str):
        return value
    wanted = "a number, text in quotes, true, false, null, or a list or mapping of these"
    raise CinelabError(f"{where} is {value!r} ({type(value).__name__}); give {wanted}.")


def _read_yaml(path: Path) -> dict:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise CinelabError(f"Cannot read {path}: {error.strerror}; check the path.") from error
    except (yaml.YAMLError, ValueError) as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        place = f"{path}, line {mark.line + 1}" if mark else path
        raise CinelabError(f"{place}: not valid YAML ({problem or error}); correct it.") from error
    if not isinstance(values, dict) or not values:
        found = f"holds {values!r:.40}" if values else "is empty"
        raise CinelabError(f"{path} {found}; a sweep is a mapping of {', '.join(KNOWN)}.")
    return values


def _find(path: Path, name: Any) -> Path:
    """The notebook, relative to the folder that holds `experiments/`, else to where we are."""
    inside = path.resolve().parent.name == "experiments"
    notebook = (path.resolve().parent.parent if inside else Path.cwd()) / str(name)
    if not notebook.is_file():
        raise CinelabError(f"notebook is {name!r}, but there is no file {notebook}; correct it.")
    return notebook


def _check_names(base: Any, grid: Any) -> None:
    for key, value in (("base", base), ("grid", grid)):
        if not isinstance(value, dict):
            raise CinelabError(f"{key} is {value!r}; give names with values, or {{}} for none.")
    for key in [*base, *grid]:
        if key in ("seed", "run_dir") or not key.isidentifier():
            why = "is given by the runner" if key.isidentifier() else "is no name of a parameter"
            raise CinelabError(f"{key!r} in base or grid {why}; take it out or correct it.")
    if both := sorted(set(base) & set(grid)):
        raise CinelabError(f"{both[0]!r} stands in base and in grid; keep one of them.")


def _check_list(place: str, values: Any) -> None:
    if not isinstance(values, list) or not values:
        raise CinelabError(f"{place} is {values!r}; give a list with at least one value.")
    texts = [_json(value) for value in values]
    if twice := [text for text in texts if texts.count(text) > 1]:
        raise CinelabError(f"{place} holds {twice[0]} twice; keep one of them.")


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _name(chosen: dict[str, Any]) -> str:
    """Sorted key=value, the seed last. It depends on nothing but the cell, so a grid may grow."""
    name = ",".join(f"{key}={_short(chosen[key])}" for key in sorted(chosen) if key != "seed")
    seed = f"seed={chosen['seed']}"
    if len(name) + len(seed) > LONGEST_NAME:
        name = f"{name[: LONGEST_NAME - len(seed) - 10]}-{_hash(chosen)}"
    return f"{name},{seed}" if name else seed


def _short(value: Any) -> str:
    """`value` as a part of a file name; where that loses something, a hash keeps it unique."""
    like_others = r"[-+]?[\d.]+([eE][-+]?\d+)?|true|false|null|NaN|-?Infinity"  # as text: ambiguous
    text = value if isinstance(value, str) else _json(value)
    safe = re.sub(r"[^A-Za-z0-9._+-]+", "-", text)
    ambiguous = isinstance(value, str) and re.fullmatch(like_others, value)
    if safe == text and len(safe) <= LONGEST_VALUE and not ambiguous:
        return safe
    return f"{safe.strip('-')[:LONGEST_VALUE]}-{_hash(value)}"


def _hash(value: Any) -> str:
    return hashlib.sha256(_json(value).encode()).hexdigest()[:8]


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
    with _lock(out_dir) as note:
        return _execute(notebook, out_dir, parameters, note)


def _execute(notebook: Path, out_dir: Path, parameters: dict, note: Callable) -> Path:
    import papermill
    from nbclient.exceptions import DeadKernelError

    _quiet_and_whole()
    output = out_dir.resolve() / "notebook.ipynb"
    count = _Count(sum(cell.cell_type == "code" for cell in _read(notebook)) + bool(parameters))
    paths = [str(path).replace("{", "{{").replace("}", "}}") for path in (notebook, output)]
    hooks = {"on_notebook_start": note, "on_cell_execute": count}
    hooks |= {"stdout_file": sys.stdout, "stderr_file": sys.stderr}
    try:
        papermill.execute_notebook(*paths, parameters, **PAPERMILL, **hooks)
        return output
    except papermill.PapermillExecutionError as error:
        number, what = error.exec_count, f"{error.ename}: {_first_line(error.evalue)}"
    except DeadKernelError:
        number, what = count.number, "DeadKernelError: the kernel died, perhaps for lack of memory"
    raise CinelabError(f"{notebook.name}, cell {number}: {what} (see {output})")


class _Count:
    """Shows each code cell as it begins, with the number that it has in the executed notebook."""

    def __init__(self, total: int):
        self.number, self.total = 0, total

    def __call__(self, cell: Any, cell_index: int) -> None:
        self.number += 1
        print(f"[{self.number}/{self.total}] {_first_line(cell.source)}", flush=True)


def _first_line(text: Any) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", str(text)).strip().partition("\n")[0]


def _quiet_and_whole() -> None:
    """papermill without its log, and its notebooks written whole or not at all."""
    from papermill.iorw import LocalHandler, papermill_io

    handler = LocalHandler()
    handler.write = lambda text, path: write_text(Path(path), text)
    papermill_io.register("/", handler)
    logging.getLogger("papermill").setLevel(logging.CRITICAL)


@contextmanager
def _lock(folder: Path) -> Iterator[Callable]:
    """One writer in `folder`. Yields a function that counts our kernel among the writers.

    The system frees the lock of a dead owner; the pids in it tell whether a kernel outlived it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _acquire(folder / ".lock") as handle:

        def note(notebook: Any = None) -> None:
            handle.truncate(0)
            pids = [os.getpid(), *(child.pid for child in psutil.Process().children())]
            print(*pids, file=handle, flush=True)

        note()
        try:
            yield note
        finally:
            (folder / ".lock").unlink(missing_ok=True)


def _acquire(path: Path) -> TextIO:
    deadline = time.monotonic() + PATIENCE
    while True:
        handle = open(path, "a+")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.path.samestat(os.stat(path), os.fstat(handle.fileno()))
        except OSError:  # held, or just removed by its owner
            ours = False
        owners = _owners(handle)
        if ours and not owners - {os.getpid()}:
            return handle
        handle.close()
        if time.monotonic() > deadline:
            who = f"process {min(owners)}" if owners else "another process"
            raise CinelabError(f"{path.parent} is written by {who}; let it end, then run again.")
        time.sleep(0.1)


def _owners(handle: TextIO) -> set[int]:
    """The living processes that a lock names; a later one that was given an old pid is none."""
    handle.seek(0)
    noted, latest = handle.read().split(), os.fstat(handle.fileno()).st_mtime + 60
    living = psutil.process_iter(["status", "create_time"])
    named = [p for p in living if str(p.pid) in noted and p.info["status"] != psutil.STATUS_ZOMBIE]
    return {process.pid for process in named if process.info["create_time"] < latest}


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
    with _lock(folder) as note:
        if cell.finished(folder):
            return "skipped"
        with open(folder / "output.txt", "wb") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        (folder / "done.json").unlink(missing_ok=True)
        write_json(folder / "config.json", cell.parameters)
        git, began = _revision(cell.notebook.parent), time.perf_counter()
        _execute(cell.notebook, folder, cell.parameters | {"run_dir": str(folder.resolve())}, note)
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
        answer = "failed", _first_line(error)
    except Exception as error:
        traceback.print_exc()
        answer = "failed", f"{type(error).__name__}: {_first_line(error)}"
    write_json(Path(reply), answer)


if __name__ == "__main__":
    _main()
