"""One sitting on a GPU: `python benchmarks/gpu.py --minutes 13 [--queue experiments/gpu]`.

Ceilings, correctness, speed beside the ledger's predictions, profiles, and the training queue with
the time that is left. It runs from the sources, without installing them. `--plan` prints the
schedule, `--rehearse` runs everything on the CPU at tiny sizes; docs/gpu.md says what comes back
and how to read it. Started again with the same --work, it goes on where it ended.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import cinelab  # noqa: E402, F401 - first, so that torch's threads sleep while they wait

# isort: split
from benchmarks.gpu_bench.jobs import read_queue  # noqa: E402
from benchmarks.gpu_bench.machine import machine, machine_with_gpu  # noqa: E402
from benchmarks.gpu_bench.official import checked  # noqa: E402
from benchmarks.gpu_bench.schedule import chosen, plan_text, planned  # noqa: E402
from benchmarks.gpu_bench.sections import SECTIONS, TRAINING  # noqa: E402
from benchmarks.gpu_bench.sitting import Settings, Sitting  # noqa: E402
from cinelab.errors import CinelabError  # noqa: E402
from cinelab.outputs import AT_ONCE, ready_folder, writing  # noqa: E402

MOST = 24 * 60  # minutes
TINY_QUEUE = Path(__file__).parent / "gpu_bench" / "tiny_queue"


def main(words: list[str] | None = None) -> int:
    """Run a sitting. The exit code is 1 where a check does not hold or anything failed, 2 with a
    sentence where it cannot begin."""
    options = arguments(words)
    try:
        return sit(options)
    except CinelabError as error:
        print(f"cinelab: {error}", file=sys.stderr, flush=True)
        return 2


def arguments(words: list[str] | None) -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = ", ".join(one.name for one in SECTIONS)
    parser.add_argument("--minutes", type=float, default=13.0, help="of the whole sitting")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help=f"of {names}")
    parser.add_argument("--queue", type=Path, help="a folder of jobs; default experiments/gpu")
    parser.add_argument("--starts", type=Path, help="a folder of checkpoints that jobs start from")
    parser.add_argument("--official", type=Path, help="a checkout of Self-Forcing")
    parser.add_argument("--plan", action="store_true", help="print the schedule and end")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, at tiny sizes")
    parser.add_argument("--work", type=Path, help="what is made on the way; goes on from there")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("results/gpu"), help="what comes back"
    )
    return parser.parse_args(words)


def sit(options: argparse.Namespace) -> int:
    """Check the command line, make the schedule, and run it."""
    if not 0 < options.minutes <= MOST:
        raise CinelabError(f"--minutes is {options.minutes:g}; more than 0 and at most {MOST}.")
    if options.official:
        checked(options.official)
    sections = chosen(options.only)
    queue = options.queue or (TINY_QUEUE if options.rehearse else ROOT / "experiments" / "gpu")
    trains = any(one.name == TRAINING for one in sections)
    jobs = read_queue(queue) if trains else []
    seconds = 60 * options.minutes
    have = {"official": options.official}
    slots = planned(sections, seconds, have, rehearsed=options.rehearse)
    plan = plan_text(slots, seconds)
    print(plan, flush=True)
    if options.plan:
        return 0
    facts = machine() if options.rehearse else machine_with_gpu()
    work = options.work or options.output.with_name(options.output.name + "-work")
    settings = Settings(
        seconds,
        options.output.resolve(),
        work.resolve(),
        options.rehearse,
        options.official,
        queue,
        options.starts,
    )
    sitting = Sitting(settings, facts, slots, plan, jobs, _say)
    ready_folder(settings.folder)
    with writing(settings.work, AT_ONCE):
        sitting.run()
    print(f"{settings.folder / 'summary.md'}", flush=True)
    return 0 if sitting.holds else 1


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
