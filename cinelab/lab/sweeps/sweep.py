"""A grid of papermill cells that can be resumed: `cinelab sweep experiments/memory.yaml`.

A cell lives in `results/<sweep>/<cell>/`: config.json (the parameters), notebook.ipynb (executed),
output.txt (what was printed) and, last, done.json; on a cluster also job.json and jobs/. These
names are the sweep's: a notebook that trains stores its run in a folder below its `run_dir`. Beside
the cells, sweep.json records which command made them, from which file. Cells run as processes of
their own. On this machine they end when the sweep does, however it ends; the jobs of a cluster go
on, and the next sweep follows them.
"""

import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from cinelab.config import read_mapping
from cinelab.errors import CinelabError
from cinelab.files import write_json
from cinelab.lab.reports.origin import file_mark
from cinelab.lab.sweeps.cell import CellResult
from cinelab.lab.sweeps.grid import Sweep, SweepCell, expand
from cinelab.lab.sweeps.notebook import check_parameters, declared
from cinelab.lab.sweeps.progress_table import ProgressTable
from cinelab.lab.sweeps.server import LocalServer
from cinelab.outputs import AT_ONCE, writing
from cinelab.progress import spoken

ENGINES = ("here", "local", "slurm")
RECORD = "sweep.json"  # beside the cells: the commands that made them


class Engine(Protocol):
    """What runs the cells of a sweep: `LocalServer` or `Cluster`."""

    def already_runs(self, cell: SweepCell, folder: Path) -> bool:
        """Whether an earlier driver started `cell`, and it still runs or waits to."""

    def start(self, cell: SweepCell, folder: Path) -> int:
        """Start a cell. Return its number."""

    def finished(self) -> list[tuple[int, CellResult]]:
        """Return the numbers and results of cells that have ended, after a short wait."""

    def memory(self, number: int) -> float | None:
        """Return the megabytes that a cell uses now, None where they are not known."""

    def close(self) -> str:
        """End. Return a sentence on what still runs, "" where nothing does."""


@dataclass
class SweepSummary:
    """How a sweep ended. The command line exits non-zero unless it is `ok`."""

    done: list[SweepCell] = field(default_factory=list)
    skipped: list[SweepCell] = field(default_factory=list)
    failed: list[tuple[SweepCell, str]] = field(default_factory=list)
    planned: list[SweepCell] = field(default_factory=list)  # what a dry run would run

    @property
    def ok(self) -> bool:
        return not self.failed

    def add(self, cell: SweepCell, status: str, why: str = "") -> None:
        """Add a cell that is done, skipped, failed or planned."""
        getattr(self, status).append((cell, why) if status == "failed" else cell)


def run(
    sweep: Sweep | str | Path,
    workers: int = 1,
    only: str | None = None,
    *,
    dry_run: bool = False,
    smoke: bool = False,
    results: Path = Path("results"),
    engine: str = "here",
    options: dict[str, Any] | None = None,
) -> SweepSummary:
    """Run every cell that is not done, `workers` at once, and show the progress.

    only      the cells whose name contains this text
    smoke     pass smoke=True to a notebook that declares it, in folders below `<sweep>-smoke`
    engine    here, local or slurm: the last two run each cell as submitit's job
    options   of the cluster, such as partition, time, gpus, cpus and memory

    A failed cell does not stop the others; Ctrl-C stops all, and the same call continues later.
    """
    began = time.monotonic()
    summary = SweepSummary()
    table = ProgressTable()
    cells = _chosen_cells(sweep, only, smoke=smoke)
    check_parameters(cells[0].notebook, cells[0].parameters | {"run_dir": ""})
    start_engine = _engine_starter(engine, options or {}, workers)
    with ExitStack() as stack:
        folder = cells[0].folder(results).parent
        if not dry_run:
            stack.enter_context(writing(folder, AT_ONCE))
        _sort_cells(cells, results, table, summary)
        if not dry_run:
            names = [cell.name for cell in summary.planned]
            record(folder, sweep, only, smoke=smoke, cells=names)
        if summary.planned and not dry_run:
            pending = summary.planned
            summary.planned = []
            table.workers = workers
            running = start_engine()
            stack.enter_context(table)
            _run_cells(pending, results, running, table=table, summary=summary)
    _print_summary(summary, table, dry_run=dry_run, seconds=time.monotonic() - began)
    return summary


def record(
    folder: Path,
    sweep: Sweep | str | Path,
    only: str | None = None,
    *,
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
    """Return the runs that `record` wrote, oldest first; none where there is no sweep.json."""
    return _record(folder)["runs"]


def made_cells(folder: Path) -> dict[str, int]:
    """Return which of the recorded runs makes each cell; a cell that is not among them was made in
    another way."""
    return _record(folder).get("cells", {})


def _record(folder: Path) -> dict:
    path = folder / RECORD
    if not path.exists():
        return {"runs": []}
    return read_mapping(path, runs=list[dict], cells=dict[str, int] | None)


def _chosen_cells(sweep: Sweep | str | Path, only: str | None, *, smoke: bool) -> list[SweepCell]:
    cells = expand(sweep)
    chosen = [cell for cell in cells if (only or "") in cell.name]
    if not chosen:
        raise CinelabError(f"No cell's name holds {only!r}; the first one is {cells[0].name!r}.")
    if not smoke or "smoke" not in declared(cells[0].notebook):
        return chosen
    name = f"{cells[0].sweep}-smoke"
    return [
        replace(cell, sweep=name, parameters=cell.parameters | {"smoke": True}) for cell in chosen
    ]


def _engine_starter(name: str, options: dict[str, Any], workers: int) -> Callable[[], Engine]:
    """Refuse what can be refused, and return what starts the engine."""
    if workers < 1:
        raise CinelabError(f"workers is {workers}; give at least 1 cell at a time.")
    if name not in ENGINES:
        raise CinelabError(f"engine is {name!r}; give {', '.join(ENGINES[:-1])} or {ENGINES[-1]}.")
    if name != "here":
        from cinelab.lab.sweeps.cluster import Cluster, submitit_parameters

        submitit_parameters(name, options)  # refuses bad options now
        return lambda: Cluster(name, options, workers)
    if options:
        raise CinelabError(
            f"option {next(iter(options))!r} is for the engines local and slurm; take one or "
            "leave it out."
        )
    return lambda: LocalServer(workers)


def _sort_cells(
    cells: list[SweepCell], results: Path, table: ProgressTable, summary: SweepSummary
) -> None:
    """Sort cells into those that are done, those to run, and those whose folder holds the result of
    another cell."""
    table.total = len(cells)
    for cell in cells:
        try:
            summary.add(cell, "skipped" if cell.finished(cell.folder(results)) else "planned")
        except CinelabError as error:
            summary.add(cell, "failed", str(error))
    table.learn_times(cell.folder(results) for cell in summary.skipped)
    table.counts |= {"skipped": len(summary.skipped), "failed": len(summary.failed)}


def _run_cells(
    pending: list[SweepCell],
    results: Path,
    engine: Engine,
    *,
    table: ProgressTable,
    summary: SweepSummary,
) -> None:
    """Keep `table.workers` cells running until none is left, those of an earlier driver first."""
    active: dict[int, SweepCell] = {}
    try:
        pending.sort(key=lambda cell: not engine.already_runs(cell, cell.folder(results)))
        while pending or active:
            while pending and len(active) < table.workers:
                cell = pending.pop(0)
                number = engine.start(cell, cell.folder(results))
                active[number] = cell
                table.begin(number, cell.name)
            for number, (status, why) in engine.finished():
                cell = active.pop(number)
                table.end(number, cell.folder(results), status, why)
                summary.add(cell, status, why)
            table.update(engine.memory)
    finally:
        if sentence := engine.close():
            table.console.print(sentence)


def _print_summary(
    summary: SweepSummary, table: ProgressTable, *, dry_run: bool, seconds: float
) -> None:
    counts = [
        f"{len(cells)} {status}"
        for status, cells in vars(summary).items()
        if status != "planned" or dry_run
    ]
    lines = [f"planned {cell.name}" for cell in summary.planned]
    lines += [", ".join(counts) + ("" if dry_run else f" in {spoken(seconds)}")]
    lines += [f"failed  {cell.name}: {why}" for cell, why in summary.failed]
    table.console.print("\n".join(lines))
