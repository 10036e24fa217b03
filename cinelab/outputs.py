"""Before and around the work: places that can be written, one writer in each, several files that belong together.

`ready_file` and `ready_folder` prove a place before any work. `writing` and `writing_file` also keep a second writer out:
the system frees the lock of a dead owner, and the process ids in it tell whether a kernel outlived it on this host.
`together` moves a set of files in, the one that says "all are there" as the last.
"""

import fcntl
import hashlib
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import psutil

from cinelab.errors import CinelabError
from cinelab.files import REMEDIES, SCRATCH, reason, write_error

PATIENCE = 5.0  # seconds that a lock is waited for: the kernel of a killed owner ends within one
AT_ONCE = 0.5  # seconds, where no kernel can outlive the owner
HOST = socket.gethostname()
LOCK = ".lock"


# ---- can it be written?


def ready_file(path: str | Path, endings: tuple[str, ...] = ()) -> Path:
    """`path`, proved to be a place for a file of ours. Raises CinelabError. Nothing is left behind."""
    path = Path(path)
    if endings and path.suffix.lower() not in endings:
        raise CinelabError(f"Output {path} ends in {path.suffix!r}; name a file that ends in {' or '.join(endings)}.")
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except (OSError, ValueError) as error:  # ValueError: a zero byte
        raise _unready(path, error) from error
    if not stat.S_ISREG(mode):
        raise CinelabError(f"Output {path} is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}; name a file.")
    _prove(path.parent, path)
    return path


def ready_folder(folder: str | Path) -> Path:
    """`folder`, proved to be one that can be written to, or can be made. Raises CinelabError. Nothing is left behind."""
    return _prove(Path(folder), Path(folder))


def _prove(folder: Path, output: Path) -> Path:
    made: list[Path] = []
    try:
        made = _absent(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        raise _unready(output, error) from error
    finally:
        _remove_empty(made)
    return folder


def _absent(folder: Path) -> list[Path]:
    """The folder and those above it that are not there, the innermost first."""
    return [place for place in (folder, *folder.parents) if not place.exists()]


def _remove_empty(folders: list[Path]) -> None:
    """Remove these folders, the innermost first, as far as nothing lies in them."""
    for folder in folders:
        with suppress(OSError, ValueError):
            folder.rmdir()


def _unready(path: Path, error: OSError | ValueError) -> CinelabError:
    remedy = REMEDIES.get(getattr(error, "errno", None), "name a file or folder of your own")
    return CinelabError(f"Output {path} cannot be written to ({reason(error)}); {remedy}.")


# ---- one writer


@contextmanager
def writing(folder: str | Path, patience: float | None = None, name: str = LOCK, what: Path | None = None,
            tidy: bool = False) -> Iterator[Callable]:
    """One writer in `folder`, which is made. Yields a function that counts our kernel among the writers.

    `name` is the lock's file, `what` is written where that is not the whole folder. With `tidy` a folder
    in which nothing was written is gone afterwards.
    """
    folder = Path(folder)
    made = _absent(ready_folder(folder)) if tidy else []
    with _acquire(folder / name, what or folder, PATIENCE if patience is None else patience) as handle:

        def note(notebook: Any = None) -> None:
            handle.truncate(0)
            pids = [os.getpid(), *(child.pid for child in psutil.Process().children())]
            print(f"host={HOST}", *pids, file=handle, flush=True)

        try:
            note()
            yield note
        finally:
            (folder / name).unlink(missing_ok=True)
            _remove_empty(made)


@contextmanager
def writing_file(path: str | Path | None, endings: tuple[str, ...] = ()) -> Iterator[Path | None]:
    """One writer of a file; nothing happens where there is none (`path` None)."""
    if path is None:
        yield None
        return
    path = ready_file(path, endings)
    mark = hashlib.blake2b(path.name.encode(errors="surrogateescape"), digest_size=6).hexdigest()
    with writing(path.parent, AT_ONCE, f"{LOCK}-{mark}", path, tidy=True):
        yield path


def _acquire(path: Path, what: Path, patience: float) -> TextIO:
    """The locked file. Raises a CinelabError that names who writes into `what`."""
    deadline = time.monotonic() + patience
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = open(path, "a+")
        except OSError as error:
            raise CinelabError(f"{what} cannot be written to ({error.strerror}); name a folder of your own, or copy it "
                               "to one.") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.path.samestat(os.stat(path), os.fstat(handle.fileno()))
        except OSError:  # held, or just removed by its owner
            ours = False
        host, owners = _owners(handle)
        if ours and (host != HOST or not set(owners) - {os.getpid()}):
            return handle
        handle.close()
        if time.monotonic() > deadline:
            who = f"process {owners[0]} on {host}" if owners else "another process"
            raise CinelabError(f"{what} is written by {who}; let it end, then run again.")
        time.sleep(0.1)


def _owners(handle: TextIO) -> tuple[str, list[int]]:
    """The host that a lock names, and its processes there, the writer before its kernel: on our own host the living ones."""
    handle.seek(0)
    words, latest = handle.read().split(), os.fstat(handle.fileno()).st_mtime + 60
    noted = [int(word) for word in words if word.isdigit()]
    host = next((word[5:] for word in words if word.startswith("host=")), HOST)
    return host, noted if host != HOST else [pid for pid in noted if _lives(pid, latest)]


def _lives(pid: int, latest: float) -> bool:
    """Whether a process of that pid lives that began before `latest`: a later one was given an old pid."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() < latest
    except psutil.Error:
        return False


# ---- several files that belong together


@contextmanager
def together(folder: str | Path, last: str) -> Iterator[Path]:
    """Yield a scratch folder; on success its files move into `folder`, the one named `last` as the last.

    A failure or a kill leaves `folder` as it was. A kill between two moves is finished by `finish`, which the next call, and
    whoever asks for the files, begins with: once `last` lies in the scratch folder every file is whole.
    """
    folder = Path(folder)
    with writing(folder, AT_ONCE, f"{LOCK}-{last}", tidy=True):
        finish(folder, last)
        scratch = _scratch(folder, last)
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            scratch.mkdir(parents=True)
            yield scratch
            _move(scratch, folder, last)
        except OSError as error:
            raise write_error(folder, error) from error
        finally:
            if not half_saved(folder, last):
                shutil.rmtree(scratch, ignore_errors=True)


def half_saved(folder: str | Path, last: str) -> bool:
    """Whether a kill has stopped `together` between two of its moves."""
    return (_scratch(Path(folder), last) / last).is_file()


def unfinished(path: str | Path) -> bool:
    """Whether a file lies among those that a kill has left behind."""
    return any(part.startswith(SCRATCH) for part in Path(path).parts)


def finish(folder: str | Path, last: str) -> bool:
    """Go on with the moves of a `together` that was killed; whether there were any."""
    folder = Path(folder)
    if not half_saved(folder, last):
        return False
    try:
        _move(_scratch(folder, last), folder, last)
    except OSError as error:
        raise write_error(folder, error) from error
    return True


def _move(scratch: Path, folder: Path, last: str) -> None:
    (folder / last).unlink(missing_ok=True)  # it says that the others are there, which is not so now
    for path in sorted(scratch.iterdir(), key=lambda path: path.name == last):
        path.replace(folder / path.name)
    scratch.rmdir()


def _scratch(folder: Path, last: str) -> Path:
    return folder / f"{SCRATCH}{last}.d"
