"""One notebook through papermill: its parameters checked, its output whole, one writer in its
folder."""

import ast
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from cinelab.errors import CinelabError, Failed
from cinelab.files import to_json, write_text
from cinelab.lab.sweeps import renamed
from cinelab.lab.sweeps.grid import json_value
from cinelab.outputs import HOST, passing_folder, writing
from cinelab.registry import elsewhere
from cinelab.texts import check_regular

__all__ = [
    "HOST",
    "PAPERMILL",
    "check_parameters",
    "declared",
    "execute",
    "execute_locked",
    "plain_first_line",
    "writing",
]

LONGEST_SOCKET = 100  # characters of a socket's path that every system takes
NOT_JSON = re.compile(r"\b(NaN|Infinity)\b")
# Our own python's kernel, whatever kernel the notebook was saved with; without its TCP warning.
PAPERMILL: dict[str, Any] = {
    "kernel_name": "python3",
    "language": "python",
    "progress_bar": False,
    "autosave_cell_every": 10,
    "extra_arguments": ["--IPKernelApp.log_level=40"],
}


def declared(notebook: Path) -> list[str]:
    """Return the names in the notebook's cell tagged `parameters`.

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


def check_parameters(notebook: Path, parameters: dict[str, Any]) -> None:
    """Refuse parameters that the notebook does not declare. Raises CinelabError with the nearest
    names."""
    known = declared(notebook)
    for key in parameters:
        if key not in known:
            near = ", ".join(get_close_matches(key, known, n=3) or sorted(known)) or "nothing"
            nearest = f"it declares {near}: correct the name or add it to the parameters cell"
            remedy = renamed.moved(Path(notebook).stem, key) or nearest
            raise CinelabError(f"{notebook} declares no parameter {key!r}; {remedy}.")


def _read(notebook: Path) -> list:
    import nbformat

    check_regular(notebook)
    try:
        return nbformat.read(notebook, as_version=4).cells
    except OSError as error:
        remedy = renamed.remedy(notebook, "check the path")
        raise CinelabError(f"Cannot read {notebook}: {error.strerror}; {remedy}.") from error
    except Exception as error:
        raise CinelabError(f"{notebook} is no notebook; save it again in JupyterLab.") from error


def execute(
    notebook: Path,
    out_dir: Path,
    parameters: dict[str, Any] | None = None,
    tell: Callable[[str], None] | None = None,
) -> Path:
    """Run `notebook` in the foreground and return `<out_dir>/notebook.ipynb`.

    Prints the heading of each cell and what the cell prints; with `tell`, the headings go there
    instead, as "3 of 9: heading". A notebook that declares `run_dir` is given `out_dir`. A failed
    cell raises Failed; the executed notebook is there anyway.
    """
    notebook = Path(notebook)
    out_dir = Path(out_dir)
    parameters = json_value(parameters or {}, "parameters")
    if "run_dir" in declared(notebook):
        parameters = {"run_dir": str(out_dir.resolve())} | parameters
    check_parameters(notebook, parameters)
    with writing(out_dir, lend=True) as note:
        return execute_locked(notebook, out_dir, parameters, note=note, tell=tell)


def execute_locked(
    notebook: Path,
    out_dir: Path,
    parameters: dict,
    *,
    note: Callable,
    tell: Callable[[str], None] | None = None,
) -> Path:
    """Run `notebook` as `execute` does, in a folder that the caller has locked; `note` is called
    when the kernel runs."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config

    _configure_papermill()
    output = out_dir.resolve() / "notebook.ipynb"
    headings = _Headings(captions(_read(notebook)), injected=bool(parameters), tell=tell)
    paths = [str(path).replace("{", "{{").replace("}", "}}") for path in (notebook, output)]
    hooks: dict[str, Any] = {
        "on_notebook_start": note,
        "on_cell_execute": headings,
        # paths in a notebook mean what they mean in JupyterLab
        "cwd": str(notebook.resolve().parent),
        "stdout_file": sys.stdout,
        "stderr_file": sys.stderr,
    }
    try:
        with _kernel_address() as own, _own_modules():
            papermill.execute_notebook(
                *paths, parameters, **PAPERMILL, **hooks, config=Config(KernelManager=own)
            )
        return output
    except papermill.PapermillExecutionError as error:
        number = error.exec_count
        what = f"{error.ename}: {plain_first_line(error.evalue)}"
    except DeadKernelError:
        number = headings.number
        what = "DeadKernelError: the kernel died, perhaps for lack of memory"
    raise Failed(f"{notebook.name}, cell {number}: {what} (see {output})")


@contextmanager
def _kernel_address() -> Iterator[dict]:
    """Yield how a kernel is reached: by sockets in a folder of its own, so that no two race for a
    port.

    A socket's path is short, and $TMPDIR may be long or not writable; where no folder will do,
    ports are used. Where no home folder is known, the kernel's is that folder too.
    """
    with passing_folder("k", _short_folder()) as sockets, _with_home(str(sockets)):
        file = f"{sockets}/kernel.json"
        yield (
            {"transport": "ipc", "connection_file": file}
            if len(file) < LONGEST_SOCKET - 10
            else {"connection_file": file}
        )


def _short_folder() -> str | None:
    """Return a folder for sockets that can be written to; None = the system's own choice."""
    places = filter(None, ("/tmp", os.environ.get("XDG_RUNTIME_DIR"), "/var/tmp", "/dev/shm"))
    return next(
        (place for place in places if os.path.isdir(place) and os.access(place, os.W_OK | os.X_OK)),
        None,
    )


@contextmanager
def _with_home(place: str) -> Iterator[None]:
    """Give a user without a home folder, which Jupyter needs, a place that is removed later."""
    if os.path.expanduser("~") != "~":
        yield
        return
    os.environ["HOME"] = place
    try:
        yield
    finally:
        del os.environ["HOME"]


@contextmanager
def _own_modules() -> Iterator[None]:
    """Let the kernel, which works in the notebook's folder, find a user's modules where this
    process does."""
    more = elsewhere(dict(os.environ))
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


class _Headings:
    """Prints the caption of each code cell as it begins, with its number in the executed
    notebook."""

    def __init__(self, captions: list[str], *, injected: bool, tell: Callable[[str], None] | None):
        self.captions = ["parameters"] * injected + captions
        self.number = 0
        self.tell = tell

    def __call__(self, cell: Any, cell_index: int) -> None:
        caption = self.captions[self.number]
        of = len(self.captions)
        self.number += 1
        if self.tell:
            self.tell(f"{self.number} of {of}: {caption}")
        elif self.number == 1 or caption != self.captions[self.number - 2]:
            print(f"[{self.number}/{of}] {caption}", flush=True)


def captions(cells: list) -> list[str]:
    """Return a caption for each code cell: the comment that it begins with, else the heading above
    it."""
    found = []
    heading = "the notebook"
    for cell in cells:
        if cell.cell_type == "code":
            comment = re.match(r"#+ *([^!%\s].*)", cell.source)
            tagged = "parameters" in cell.metadata.get("tags", [])
            found.append("parameters" if tagged else comment[1].strip() if comment else heading)
        elif titles := re.findall(r"^#+ +(.+)", cell.source, re.MULTILINE):
            heading = titles[-1].strip()
    return found


def plain_first_line(text: Any) -> str:
    """Return the first line of a message, without terminal colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", str(text)).strip().partition("\n")[0]


def _configure_papermill() -> None:
    """Silence papermill's log, and have its notebooks written whole or not at all."""
    from papermill.iorw import LocalHandler, papermill_io

    class AtomicHandler(LocalHandler):
        def write(self, buf: str, path: str) -> None:
            write_text(Path(path), _browsable(buf))

    papermill_io.register("/", AtomicHandler())
    logging.getLogger("papermill").setLevel(logging.CRITICAL)


def _browsable(text: str) -> str:
    """Return a notebook's JSON as a browser reads it: a kernel's output may hold NaN."""
    if not NOT_JSON.search(text):
        return text
    return to_json(json.loads(text), indent=1, ensure_ascii=False) + "\n"
