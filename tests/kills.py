"""SIGKILL before every file operation: whatever was being written is finished, or said to be half,
by the next start.

    assert killed_at_every_operation(lambda folder: convert(base, folder / "out"), tmp_path) == []

Works are functions of a folder and run in forks of this process, so that a command costs no second
import of torch. File operations are those that Python's audit events tell of (a file opened for
writing, a folder made, a move, a removal, a truncation), below the folder and in every thread. What
libraries write natively lies between two of them.
"""

import hashlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cinelab.errors import CinelabError

EVENTS = ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.truncate", "os.link", "os.symlink")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
PATIENCE = 300.0  # seconds after which a work is said to hang
Work = Callable[[Path], Any]


def killed_at_every_operation(
    work: Work,
    root: Path,
    seen: Callable[[Path], Any] | None = None,
    before: Work | None = None,
    refusal: str | None = None,
    points: int | None = None,
) -> list[str]:
    """Kill `work(folder)` before its n-th file operation below `folder`, for every n, each time in
    a fresh folder below `root`; then run it again. Returns a sentence for every n after which that
    does not end as an undisturbed run does.

    seen     what is compared of a folder; default: `contents`
    before   makes what lies in each folder beforehand
    refusal  part of a sentence (a CinelabError) that the second run may say where all is there
             already
    points   how many n are tried, spread evenly from the first to the last; None, or
             $CINELAB_EVERY_KILL set to anything = all
    """
    seen = seen or contents
    # imports, once for all forks, what torch and others import when they first need it
    work(_fresh(root / "here", before))
    whole = _fresh(root / "whole", before)
    code, said, operations = in_a_child(work, whole)
    if code != 0 or not operations:
        return [f"undisturbed: ended with {code} after {len(operations)} file operations: {said}"]
    expected = seen(whole)
    faults = []
    for at in _spread(len(operations), points):
        folder = _fresh(root / f"{at:04d}", before)
        code, said, _ = in_a_child(work, folder, at)
        where = f"killed at {at} of {len(operations)} ({operations[at].replace(str(whole), '')})"
        if code != -signal.SIGKILL:
            faults.append(f"{where}: ended with {code}: {said}")
            continue
        code, said, _ = in_a_child(work, folder)
        if code != 0 and not (code == 2 and refusal and refusal in said):
            faults.append(f"{where}: the second run ended with {code}: {said}")
        elif (found := seen(folder)) != expected:
            faults.append(f"{where}: the second run made {_difference(found, expected)}")
    return faults


def in_a_child(work: Work, folder: Path, at: int | None = None) -> tuple[int, str, list[str]]:
    """Run `work(folder)` in a fork, killed before its operation number `at`: its exit code (minus
    the signal), what it said on stderr, and its file operations below `folder`."""
    said = folder.parent / f"{folder.name}.said"
    told = folder.parent / f"{folder.name}.operations"
    child = os.fork()
    if child == 0:
        _be_the_child(work, folder, at, said, told)
    code = _ended(child)
    operations = told.read_text().splitlines() if told.exists() else []
    told.unlink(missing_ok=True)
    return code, said.read_text().strip()[-2000:], operations


def contents(folder: Path) -> dict[str, str]:
    """A hash of every file below a folder by its name, and "" of every folder; locks do not
    count."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if not path.name.startswith(".lock"):
            name = str(path.relative_to(folder))
            found[name] = (
                hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
                if path.is_file()
                else ""
            )
    return found


def _be_the_child(work: Work, folder: Path, at: int | None, said: Path, told: Path) -> None:
    code = 1
    operations = []
    try:
        with open(said, "w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)
        sys.stderr = sys.__stderr__ = os.fdopen(2, "w", closefd=False)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)  # threads of the parent are not in a fork
        watching = [True]
        sys.addaudithook(_hook(str(folder.resolve()), at, operations, watching))
        code = _run(work, folder)
        watching.clear()
        told.write_text("\n".join(operations))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _run(work: Work, folder: Path) -> int:
    try:
        work(folder)
    except CinelabError as error:
        print(error, file=sys.stderr)
        return 2
    except SystemExit as ended:  # a command of the command line
        return int(ended.code or 0)
    return 0


def _hook(
    below: str, at: int | None, operations: list[str], watching: list
) -> Callable[[str, tuple], None]:
    def hook(event: str, args: tuple) -> None:
        if not watching or not (event in EVENTS or (event == "open" and _writes(args))):
            return
        path = _path(args[0], args[1:])
        if not (path == below or path.startswith(below + os.sep)):
            return
        if len(operations) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        operations.append(f"{event} {path}".replace("\n", " "))

    return hook


def _writes(args: tuple) -> bool:
    _, mode, flags = args
    return bool(set(mode or "") & set("wax+")) or bool((flags or 0) & WRITING)


def _path(path: Any, more: tuple) -> str:
    """The absolute path of an event; names beside a folder's handle (as shutil.rmtree removes) are
    below that folder."""
    if isinstance(path, int):
        return os.path.realpath(f"/proc/self/fd/{path}")
    path = os.fsdecode(path)
    handle = next((part for part in more if isinstance(part, int) and part > 2), None)
    if not os.path.isabs(path) and handle is not None and os.path.isdir(f"/proc/self/fd/{handle}"):
        return os.path.join(os.path.realpath(f"/proc/self/fd/{handle}"), path)
    return os.path.abspath(path)


def _ended(child: int) -> int:
    """The exit code of a child; one that does not end in time is ended."""
    deadline = time.monotonic() + PATIENCE
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)
            return -signal.SIGTERM
        time.sleep(0.002)


def _fresh(place: Path, before: Work | None) -> Path:
    folder = place / "out"
    folder.mkdir(parents=True)
    if before:
        before(folder)
    return folder


def _spread(count: int, points: int | None) -> list[int]:
    if points is None or points >= count or os.environ.get("CINELAB_EVERY_KILL"):
        return list(range(count))
    return sorted({round(place * (count - 1) / max(1, points - 1)) for place in range(points)})


def _difference(found: Any, expected: Any) -> str:
    if isinstance(found, dict) and isinstance(expected, dict):
        odd = sorted(
            name
            for name in {*found, *expected}
            if found.get(name, None) != expected.get(name, None)
        )
        return f"other files: {', '.join(odd)[:400]}"
    return f"{found!r:.200} instead of {expected!r:.200}"
