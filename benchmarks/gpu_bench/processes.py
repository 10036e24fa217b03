"""Processes of their own groups: stopped as a whole, paused while others measure."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.gpu_bench.machine import ROOT

PATIENCE = 8.0  # seconds from SIGTERM to SIGKILL
NICE = 15


def start(
    command: Sequence[str], log: Path, env: dict[str, str] | None = None, *, nice: bool = False
) -> subprocess.Popen:
    """Start a command as a group of its own, its output going to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    before = ["nice", "-n", str(NICE)] if nice and os.name == "posix" else []
    environment = os.environ | {"PYTHONPATH": path(), "PYTHONUNBUFFERED": "1"} | (env or {})
    with open(log, "a") as output:
        return subprocess.Popen(
            [*before, *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=ROOT,
            start_new_session=True,
        )


def path() -> str:
    """Return the PYTHONPATH with the sources first."""
    more = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(ROOT)] + ([more] if more else []))


def stop(process: subprocess.Popen, *, gently: signal.Signals = signal.SIGTERM) -> None:
    """End a group: a request, then, if it does not heed it, force. What it started is given the
    same time: a training saves when it is asked to end."""
    if process.poll() is None:
        send(process, gently)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and (process.poll() is None or works(process.pid)):
            time.sleep(0.05)
    send(process, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):  # a driver that hangs may keep even a killed one
        process.wait(PATIENCE)


def works(group: int) -> bool:
    """Whether a process of a group is running."""
    return any(_in(one, group) for one in psutil.process_iter())


def _in(process: psutil.Process, group: int) -> bool:
    with suppress(ProcessLookupError, PermissionError, psutil.Error):
        running = process.status() != psutil.STATUS_ZOMBIE
        return running and os.getpgid(process.pid) == group
    return False


def send(process: subprocess.Popen, number: signal.Signals) -> None:
    """Send a signal to all of a group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def tail(log: Path, lines: int = 3) -> str:
    """Return the last lines of a log as one."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return " | ".join(line.strip() for line in text.splitlines()[-lines:] if line.strip())
