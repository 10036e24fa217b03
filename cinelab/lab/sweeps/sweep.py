"""A grid of papermill cells that can be resumed: `cinelab sweep experiments/memory.yaml`.

A cell lives in `results/<sweep>/<cell>/`: config.json (the parameters), notebook.ipynb (executed),
output.txt (what was printed) and, last, done.json; on a cluster also job.json and jobs/. These
names are the sweep's: a notebook that trains keeps its run in a folder below its `run_dir`. Beside
the cells, sweep.json says which command made them, from which file. Cells run as processes of their
own. On this machine they end when the sweep does, however it ends; the jobs of a cluster go on, and
the next sweep takes them up.
"""

import shlex
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cinelab.config import read_mapping
from cinelab.errors import CinelabError
from cinelab.files import write_json
from cinelab.lab.reports.origin import file_mark
from cinelab.lab.sweeps.grid import Cell, Sweep, expand
from cinelab.lab.sweeps.notebook import check, declared
from cinelab.lab.sweeps.progress_table import Board
from cinelab.lab.sweeps.server import Here
from cinelab.outputs import AT_ONCE, writing
from cinelab.progress import spoken

ENGINES = ("here", "local", "slurm")
RECORD = "sweep.json"  # beside the cells: the commands that made them


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

    def file(self, cell: Cell, status: str, why: str = "") -> None:
        getattr(self, status).append((cell, why) if status == "failed" else cell)


def run(
    sweep: Sweep | str | Path,
    workers: int = 1,
    only: str | None = None,
    dry_run: bool = False,
    smoke: bool = False,
    results: Path = Path("results"),
    engine: str = "here",
    options: dict[str, Any] | None = None,
) -> Summary:
    """Run every cell that is not done, `workers` at once, and show how it goes.

    `only` keeps the cells whose name holds it. `smoke` passes smoke=True to a notebook that
    declares it, in folders below `<sweep>-smoke`. A failed cell does not stop the others; Ctrl-C
    stops all, and the same call goes on later. `engine` is here, local or slurm: the last two run
    each cell as submitit's job, with `options` such as partition, time, gpus, cpus and memory.
    """
    began = time.monotonic()
    summary = Summary()
    board = Board()
    cells = _choose(sweep, only, smoke)
    check(cells[0].notebook, cells[0].parameters | {"run_dir": ""})
    start = _engine(engine, options or {}, workers)
    with ExitStack() as stack:
        folder = cells[0].folder(results).parent
        if not dry_run:
            stack.enter_context(writing(folder, AT_ONCE))
        _look(cells, results, board, summary)
        if not dry_run:
            record(folder, sweep, only, smoke, [cell.name for cell in summary.planned])
        if summary.planned and not dry_run:
            todo = summary.planned
            summary.planned = []
            _work(todo, workers, results, start(), stack.enter_context(board), summary)
    _report(summary, board, dry_run, time.monotonic() - began)
    return summary


def record(
    folder: Path,
    sweep: Sweep | str | Path,
    only: str | None = None,
    smoke: bool = False,
    cells: Sequence[str] = (),
) -> None:
    """Add to `<folder>/sweep.json` which command is run on which file (its SHA-256), and that it
    makes these `cells`."""
    entry: dict[str, Any] = {
        "command": "cinelab.lab.sweeps.sweep.run(...) from Python",
        "file": None,
        "sha256": None,
    }
    if not isinstance(sweep, Sweep):
        words = [
            "cinelab",
            "sweep",
            str(sweep),
            *(["--only", only] if only else []),
            *(["--smoke"] if smoke else []),
        ]
        entry |= {"command": shlex.join(words)} | file_mark(Path(sweep).resolve())
    runs = recorded(folder)
    makers = made_cells(folder)
    runs = runs if entry in runs else [*runs, entry]
    found = {"runs": runs, "cells": makers | dict.fromkeys(cells, runs.index(entry))}
    if found != {"runs": recorded(folder), "cells": makers}:
        write_json(folder / RECORD, found)


def recorded(folder: Path) -> list[dict]:
    """The runs that `record` wrote, oldest first; nothing where no sweep said what it was."""
    return _record(folder)["runs"]


def made_cells(folder: Path) -> dict[str, int]:
    """Which of the recorded runs makes each cell: a cell that is not among them was made in another
    way."""
    return _record(folder).get("cells", {})


def _record(folder: Path) -> dict:
    path = folder / RECORD
    return (
        read_mapping(path, runs=list[dict], cells=dict[str, int] | None)
        if path.exists()
        else {"runs": []}
    )


def _choose(sweep: Sweep | str | Path, only: str | None, smoke: bool) -> list[Cell]:
    cells = expand(sweep)
    chosen = [cell for cell in cells if (only or "") in cell.name]
    if not chosen:
        raise CinelabError(f"No cell's name holds {only!r}; the first one is {cells[0].name!r}.")
    if not smoke or "smoke" not in declared(cells[0].notebook):
        return chosen
    name = f"{cells[0].sweep}-smoke"
    return [replace(c, sweep=name, parameters=c.parameters | {"smoke": True}) for c in chosen]


def _engine(name: str, options: dict[str, Any], workers: int) -> Any:
    """What starts the engine, after everything that can be refused was."""
    if workers < 1:
        raise CinelabError(f"workers is {workers}; give at least 1 cell at a time.")
    if name not in ENGINES:
        raise CinelabError(f"engine is {name!r}; give {', '.join(ENGINES[:-1])} or {ENGINES[-1]}.")
    if name != "here":
        from cinelab.lab.sweeps.cluster import Cluster, settings

        settings(name, options)
        return lambda: Cluster(name, options, workers)
    if options:
        raise CinelabError(
            f"option {next(iter(options))!r} is for the engines local and slurm; take one or "
            "leave it out."
        )
    return lambda: Here(workers)


def _look(cells: list[Cell], results: Path, board: Board, summary: Summary) -> None:
    """Which cells are done, which are to do, and whose folder holds the result of another cell."""
    board.total = len(cells)
    for cell in cells:
        try:
            summary.file(cell, "skipped" if cell.finished(cell.folder(results)) else "planned")
        except CinelabError as error:
            summary.file(cell, "failed", str(error))
    board.remember(cell.folder(results) for cell in summary.skipped)
    board.counts |= {"skipped": len(summary.skipped), "failed": len(summary.failed)}


def _work(
    todo: list, workers: int, results: Path, engine: Any, board: Board, summary: Summary
) -> None:
    """Keep `workers` cells running until none is left, those of an earlier driver first."""
    active = {}
    board.workers = workers
    try:
        todo.sort(key=lambda cell: not engine.takes_up(cell, cell.folder(results)))
        while todo or active:
            while todo and len(active) < workers:
                cell = todo.pop(0)
                number = engine.start(cell, cell.folder(results))
                active[number] = cell
                board.begin(number, cell.name)
            for number, (status, why) in engine.ended():
                cell = active.pop(number)
                board.end(number, cell.folder(results), status, why)
                summary.file(cell, status, why)
            board.watch(engine)
    finally:
        if said := engine.close():
            board.console.print(said)


def _report(summary: Summary, board: Board, dry_run: bool, seconds: float) -> None:
    counts = [f"{len(v)} {k}" for k, v in vars(summary).items() if k != "planned" or dry_run]
    lines = [f"planned {cell.name}" for cell in summary.planned]
    lines += [", ".join(counts) + ("" if dry_run else f" in {spoken(seconds)}")]
    lines += [f"failed  {cell.name}: {why}" for cell, why in summary.failed]
    board.console.print("\n".join(lines))
