"""How torch's threads share the cores of this machine, chosen before torch is imported.

OpenMP reads its settings once, when torch loads it. By default a thread that waits for the others
spins on its core. Where another process holds that core, every one of a film's thousands of small
operations then waits for the scheduler, and a film takes ten times as long. Here waiting threads
sleep. What the user has set in the environment is left alone.
"""

import os
import sys
from pathlib import Path

NUMBER = "OMP_NUM_THREADS"
POLICY = "OMP_WAIT_POLICY"
# KMP_: the OpenMP of Intel and LLVM, which spins on under PASSIVE
SLEEP = {POLICY: "PASSIVE", "KMP_BLOCKTIME": "0"}
# whoever sets one of these has chosen how threads wait
WAITING = (*SLEEP, "GOMP_SPINCOUNT", "KMP_LIBRARY")
MARK = "CINELAB_CHOSE"  # the variables that are not the user's, for the processes that inherit them
SHARE = "CINELAB_CORES"  # of a process that works beside others of ours
# the threads of a training where its bits must not depend on how many cores are free: in sweeps
TRAINING = "CINELAB_TRAIN_THREADS"
GROUPS = Path("/sys/fs/cgroup")

# whether torch was imported before cinelab, so that its threads wait as they were set before
late = False


def set_threads() -> None:
    """Set what the user has not: how many threads torch starts, and that they sleep while they
    wait."""
    global late
    late = late or "torch" in sys.modules
    if late:
        return
    chosen = {} if own(NUMBER) else {NUMBER: str(cores())}
    chosen |= {} if any(map(own, WAITING)) else SLEEP
    os.environ.update(chosen)
    os.environ[MARK] = " ".join(chosen)


def own(name: str) -> str | None:
    """What the user has set a variable to; None if they have not, or if it is our choice."""
    return None if name in os.environ.get(MARK, "").split() else os.environ.get(name)


def cores() -> int:
    """The cores that this process may use: those it is pinned to, no more than its control group's
    quota, and no more than its share where it works beside others of ours."""
    pinned = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    share = os.environ.get(SHARE, "")
    return max(1, min(pinned, int(quota() or pinned), int(share) if share.isdigit() else pinned))


def quota(groups: Path = GROUPS) -> float | None:
    """Cores' worth of time that the control group grants (cgroup 2's cpu.max, or cgroup 1's); None
    without a limit."""
    try:
        allowed, period = (groups / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            allowed, period = (
                (groups / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
            )
        except OSError:
            return None
    try:
        granted = int(allowed) / int(period)
    except (ValueError, ZeroDivisionError):  # "max": no limit
        return None
    return granted if granted > 0 else None


def limited(number: int) -> dict[str, str]:
    """What the environment of a process says that may use so many cores; nothing where the user
    chose a number."""
    if own(NUMBER):
        return {}
    marked = {*os.environ.get(MARK, "").split(), NUMBER}
    return {NUMBER: str(number), SHARE: str(number), MARK: " ".join(sorted(marked))}


def shared_cores(processes: int) -> dict[str, str]:
    """The environment of each of so many processes that work at once: an equal share of the
    cores."""
    return os.environ | limited(max(1, cores() // processes))


def wait_policy() -> str:
    """In words, how torch's threads wait, and who chose it."""
    if late:
        return "torch was imported before cinelab, which could not say how they wait"
    theirs = [f"{name}={own(name)}" for name in WAITING if own(name)]
    return f"they wait as you set ({', '.join(theirs)})" if theirs else "they sleep while they wait"
