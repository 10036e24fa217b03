"""What the sweep's driver costs beyond its cells: `python benchmarks/sweep.py [--tiny] [-o FILE]`.

48 smoke cells of notebook 20 (or, --tiny, of a notebook that only adds two numbers), 2 at a time. A
cell counts from the start of its kernel to the end of its notebook, the kernel's shutdown included:
what papermill notes in the executed notebook as its duration. All else is overhead: imports,
processes, locks, records, the driver's polling, a worker that idles while the last cell runs.
Overhead = wall x workers / sum of the cells - 1, all in one run.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import nbformat

from cinelab.files import write_json
from cinelab.lab.sweeps.grid import Sweep
from cinelab.lab.sweeps.sweep import run
from cinelab.runs import hardware

ROOT = Path(__file__).resolve().parents[1]
GRID = {"away": [1, 5, 9], "policy": ["full", "camr", "random", "sink"]}  # x 4 seeds: 48 cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="a trivial notebook, for a quick check")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cells", type=int, default=48)
    parser.add_argument("-o", "--output", type=Path, help="a .json file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        notebook = (
            tiny_notebook(Path(folder))
            if options.tiny
            else ROOT / "notebooks/20_ablate_memory.ipynb"
        )
        row = measure(notebook, Path(folder) / "results", options.cells, options.workers)
    print(json.dumps(row, indent=1))
    if options.output:
        write_json(options.output, row)


def measure(notebook: Path, results: Path, cells: int, workers: int) -> dict:
    sweep = Sweep("overhead", notebook, grid=GRID, seeds=list(range(-(-cells // 12))))
    # of the driver alone: its loop and its table
    processor = time.process_time()
    began = time.perf_counter()
    summary = run(sweep, workers=workers, smoke=True, results=results)
    wall = time.perf_counter() - began
    if not summary.ok:
        sys.exit(f"{len(summary.failed)} cells failed: {summary.failed[0][1]}")
    seconds = [cell_seconds(cell.folder(results)) for cell in summary.done]
    row = {
        "notebook": notebook.name,
        "cells": len(seconds),
        "workers": workers,
        "wall_seconds": round(wall, 1),
    }
    row |= {
        "cells_seconds": round(sum(seconds), 1),
        "cells_seconds_per_worker": round(sum(seconds) / workers, 1),
    }
    row |= {"overhead_percent": round(100 * (wall * workers / sum(seconds) - 1), 2)}
    row |= {"driver_cpu_seconds": round(time.process_time() - processor, 1)}
    return row | {"hardware": hardware()}


def cell_seconds(folder: Path) -> float:
    return nbformat.read(folder / "notebook.ipynb", as_version=4).metadata.papermill.duration


def tiny_notebook(folder: Path) -> Path:
    defaults = 'run_dir = ""\naway = 1\npolicy = "full"\nseed = 0\nsmoke = False'
    cells = [nbformat.v4.new_code_cell(defaults, metadata={"tags": ["parameters"]})]
    path = folder / "tiny.ipynb"
    nbformat.write(
        nbformat.v4.new_notebook(cells=[*cells, nbformat.v4.new_code_cell("1 + 1")]), path
    )
    return path


if __name__ == "__main__":
    main()
