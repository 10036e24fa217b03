"""How long a report and the index take: `python benchmarks/report.py [--runs 200] [-o FILE]`.

Two film cells are really made and then copied as so many finished runs of a grid (policy x budget x
seed), each with rows, film and storyboard. Measured: `cinelab.lab.reports.report.report` over all
of them, the index read afresh, and the index read again."""

import argparse
import itertools
import json
import shutil
import tempfile
import time
from pathlib import Path

from cinelab.files import write_json
from cinelab.lab.reports.index import index
from cinelab.lab.reports.report import report
from cinelab.lab.studies.film_cell import FilmSetting, film_cell
from cinelab.runs import hardware


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("-o", "--output", type=Path, help="a .json file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        row = measure(Path(folder), options.runs)
    print(json.dumps(row, indent=1))
    if options.output:
        write_json(options.output, row)


def measure(root: Path, runs: int) -> dict:
    for policy in ("full", "window"):
        film_cell(root / "made" / policy, FilmSetting("toybox-1step", policy, films=16))
    grid = itertools.product(("full", "window"), range(3, 3 + -(-runs // 10)), range(5))
    for policy, budget, seed in itertools.islice(grid, runs):
        put_run(
            root / "made" / policy,
            root / "results" / "grid" / f"budget={budget},policy={policy},seed={seed}",
            policy,
            budget,
            seed,
        )
    made = timed(lambda: report([root / "results" / "grid"], root / "report.html"))
    first, again = (timed(lambda: index(root / "results")) for _ in range(2))
    size = round((root / "report.html").stat().st_size / 2**20, 2)
    return {
        "runs": runs,
        "report_seconds": made,
        "report_mib": size,
        "index_seconds": first,
        "index_again_seconds": again,
    } | {"hardware": hardware()}


def put_run(source: Path, folder: Path, policy: str, budget: int, seed: int) -> None:
    shutil.copytree(source, folder)
    parameters = {"policy": policy, "budget": budget, "seed": seed}
    (folder / "output.txt").write_text("")
    write_json(folder / "config.json", parameters)
    write_json(
        folder / "done.json",
        {
            "parameters": parameters,
            "notebook": "23_ablate_films.ipynb",
            "seconds": 1.0,
            "hardware": hardware(),
        },
    )


def timed(work) -> float:
    began = time.perf_counter()
    work()
    return round(time.perf_counter() - began, 2)


if __name__ == "__main__":
    main()
