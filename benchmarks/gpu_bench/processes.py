"""Processes of their own groups: stopped as a whole, paused while others measure."""

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

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
    """End a group: a request, then, if it does not heed it, force. What it started ends with it."""
    if process.poll() is None:
        send(process, gently)
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
    send(process, signal.SIGKILL)
    process.wait()


def send(process: subprocess.Popen, number: signal.Signals) -> None:
    """Send a signal to all of a group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def tail(log: Path, lines: int = 3) -> str:
    """Return the last lines of a log as one."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return " | ".join(line.strip() for line in text.splitlines()[-lines:] if line.strip())
