"""Odd input, by the thousand: `python benchmarks/fuzz.py [--minutes 10] [--seed N] [--only KIND
...] [--findings FOLDER]`.

Screenplays, sweeps, trainings, settings, sessions, commands, messages, checkpoints, runs, stores,
results, questions and command lines are mutated (`benchmarks/fuzz_kinds.py`). Each must be taken or
be refused with one sentence: no traceback, no more than SECONDS, no more than MEMORY beyond what
the process had. A finding is a folder with the files that make it again: `python benchmarks/fuzz.py
--again FOLDER`. Exit code 1 where there is any.
"""

import argparse
import faulthandler
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory, TemporaryFile

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.fuzz_kinds import KINDS, attempt, read_folder  # noqa: E402

SECONDS = 5  # of processor time of one example, so that other work on the machine is no finding
# seconds by the clock after which a process that waits for something, or does not hear its alarm,
# is ended
STUCK = 60
MEMORY = 3 * 2**30  # bytes of addresses that examples may take beyond what loading took


class Hang(BaseException):
    """An example took too long; no `except Exception` can pass over it."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=list(KINDS), help="repeat for more")
    parser.add_argument(
        "--findings", type=Path, default=Path("fuzz"), help="folder of the findings"
    )
    parser.add_argument("--again", type=Path, help="try one finding again")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.again:
        return again(options.again)
    if options.child:
        return child(options.child, options.seed, options.minutes * 60, options.findings)
    return parent(options.only or list(KINDS), options.seed, options.minutes * 60, options.findings)


def parent(kinds: list[str], seed: int, seconds: float, findings: Path) -> int:
    """A process for each kind, one after the other; one that dies is a finding, and the next begins
    where it stood."""
    total = Counter()
    found = 0
    for name in kinds:
        counts = Counter()
        until = time.monotonic() + seconds / len(kinds)
        while (left := until - time.monotonic()) > 1:
            counts += one_process(name, seed + counts["inputs"], left, findings)
        here = len(list(findings.glob(f"{name}-*")))
        print(
            f"{name:14}{counts['inputs']:8} inputs, {counts['taken']:7} taken, "
            f"{counts['refused']:7} refused, {here} findings",
            flush=True,
        )
        total = total + counts
        found = found + here
    print(
        f"{'in all':14}{total['inputs']:8} inputs, {total['taken']:7} taken, {total['refused']:7} "
        f"refused, {found} findings in {findings}"
    )
    return 1 if found else 0


def one_process(name: str, seed: int, seconds: float, findings: Path) -> Counter:
    words = [
        sys.executable,
        __file__,
        "--child",
        name,
        "--seed",
        str(seed),
        "--minutes",
        str(seconds / 60),
        "--findings",
        str(findings),
    ]
    with TemporaryFile() as notes:
        done = subprocess.run(words, stdout=notes, stderr=subprocess.PIPE, text=True)
        notes.seek(0)
        counts = Counter(json.loads(notes.read() or b"{}"))
    if done.returncode:
        number = seed + counts["inputs"]
        keep(
            findings,
            name,
            KINDS[name].make(random_of(name, number)),
            f"number {number}: the process ended with {done.returncode}\n{done.stderr[-6000:]}",
        )
        counts["inputs"] += 1
    return counts


def child(name: str, seed: int, seconds: float, findings: Path) -> int:
    """Examples of one kind, numbered from `seed`, until the time is up; what is counted so far
    always stands in the file that is our output, so that whoever started us knows at which example
    we ended."""
    counts = Counter()
    signal.signal(signal.SIGPROF, late)
    one(name, random_of(name, -1), findings, Counter(), 0)  # loads what the kind needs
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        one(name, random_of(name, seed + counts["inputs"]), findings, counts)
        os.pwrite(1, json.dumps(counts).encode().ljust(100), 0)
    return 0


def one(name: str, rng: Random, findings: Path, counts: Counter, limit: float = SECONDS) -> None:
    """Make an example and try it; what is a fault is kept."""
    files = KINDS[name].make(rng)
    with TemporaryDirectory() as folder:
        faulthandler.dump_traceback_later(STUCK, exit=True)
        signal.setitimer(signal.ITIMER_PROF, limit)
        try:
            counts["taken" if attempt(name, files, Path(folder)) else "refused"] += 1
        except (Exception, Hang, SystemExit) as error:
            signal.setitimer(signal.ITIMER_PROF, 0)
            keep(findings, name, files, summary(error))
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            faulthandler.cancel_dump_traceback_later()
    counts["inputs"] += 1


def late(*_: object) -> None:
    raise Hang(f"took more than {SECONDS} seconds")


def summary(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def keep(findings: Path, name: str, files: dict[str, bytes], how: str) -> None:
    """Write a finding, once for each place where it happens."""
    lines = [
        line for line in how.splitlines() if line.strip().startswith("File") and "cinelab" in line
    ] or [how[:200]]
    place = findings / f"{name}-{hashlib.sha256(lines[-1].encode()).hexdigest()[:8]}"
    if place.exists():
        return
    for path, data in files.items():
        (place / "files" / path).parent.mkdir(parents=True, exist_ok=True)
        (place / "files" / path).write_bytes(data)
    (place / "how.txt").write_text(how, errors="replace")


def again(place: Path) -> int:
    """Try a finding once more; its traceback is shown as it comes."""
    name = place.name.rpartition("-")[0]
    with TemporaryDirectory() as folder:
        print("taken" if attempt(name, read_folder(place / "files"), Path(folder)) else "refused")
    return 0


def random_of(name: str, number: int) -> Random:
    return Random(f"{name} {number}")


if __name__ == "__main__":
    sys.exit(main())
