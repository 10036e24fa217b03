"""One section, in a process of its own: `python -m benchmarks.gpu_bench.one NAME --work FOLDER`.

Its rows go to FOLDER/rows/NAME.jsonl, what it prints to FOLDER/logs/NAME.log.
"""

import argparse
import gc
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import cinelab  # noqa: F401 - first, so that torch's threads sleep while they wait

# isort: split
import torch

from benchmarks.gpu_bench.record import Recorder, sentence
from benchmarks.gpu_bench.sections import SECTIONS, section_named
from benchmarks.gpu_bench.sizes import TINY, TRUE, Sizes
from cinelab.errors import CinelabError


@dataclass(frozen=True)
class Task:
    """What a section is given."""

    rows: Recorder
    device: str
    sizes: Sizes
    rehearsed: bool
    work: Path
    seconds: float  # until it is stopped
    official: Path | None = None
    queue: Path | None = None
    starts: Path | None = None


def task_of(options: argparse.Namespace) -> Task:
    """Return the task that a command line describes."""
    work = Path(options.work)
    return Task(
        Recorder(work / "rows" / f"{options.name}.jsonl", options.name),
        "cpu" if options.rehearse else "cuda",
        TINY if options.rehearse else TRUE,
        options.rehearse,
        work,
        options.seconds,
        options.official,
        options.queue,
        options.starts,
    )


def main() -> int:
    """Run a section; the exit code is 1 where it ended with an error."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", choices=[one.name for one in SECTIONS])
    parser.add_argument("--work", required=True)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--rehearse", action="store_true")
    for name in ("--official", "--queue", "--starts"):
        parser.add_argument(name, type=Path)
    task = task_of(parser.parse_args())
    torch.manual_seed(0)
    try:
        names = section_named(task.rows.section).modules
        modules = [import_module(f"benchmarks.gpu_bench.{name}") for name in names]
        for module in modules:
            gc.collect()
            gc.freeze()  # what is imported stays, so that `record.release` looks through little
            module.run(task)
    except CinelabError as error:
        task.rows.failed(task.rows.section, error)
        print(f"cinelab: {sentence(error)}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
