"""Before and around the work: places that can be written, one writer in each, several files that
belong together.

`ready_file` and `ready_folder` prove a place before any work. `writing` and `writing_file` also
keep a second writer out: the system frees the lock of a dead owner, and the process ids in it tell
whether a kernel outlived it on this host. `together` moves a set of files in, the one that says
"all are there" as the last. All that has to be done with a folder: `claim_folder` (or `writing`,
its context) before the work, for as long as something is written."""

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

from cinelab.errors import CinelabError, reason
from cinelab.files import (
    HERE,
    REMEDIES,
    SCRATCH,
    partial_name,
    remove_dead,
    to_json,
    write_error,
    write_json,
)
from cinelab.texts import check_name, parse_json, read_json

PATIENCE = 5.0  # seconds that a lock is waited for: the kernel of a killed owner ends within one
AT_ONCE = 0.5  # seconds, where no kernel can outlive the owner
HOST = socket.gethostname()
LOCK = ".lock"
# in the environment: the locks that the processes which began this one let it write under
LENT = "CINELAB_LENT"


# ---- can it be written?


def ready_file(path: str | Path, endings: tuple[str, ...] = ()) -> Path:
    """`path`, proved to be a place for a file of ours. Raises CinelabError. Nothing is left
    behind."""
    path = Path(path)
    if endings and path.suffix.lower() not in endings:
        raise CinelabError(
            f"Output {path} ends in {path.suffix!r}; name a file that ends in "
            f"{' or '.join(endings)}."
        )
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except (OSError, ValueError) as error:  # ValueError: a zero byte
        raise _unready(path, error) from error
    if not stat.S_ISREG(mode):
        raise CinelabError(
            f"Output {path} is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}; name a "
            "file."
        )
    _prove(path.parent, path)
    return path


def ready_folder(folder: str | Path) -> Path:
    """`folder`, proved to be one that can be written to, or can be made. Raises CinelabError.
    Nothing is left behind."""
    return _prove(Path(folder), Path(folder))


def _prove(folder: Path, output: Path) -> Path:
    made: list[Path] = []
    check_name(os.path.abspath(output))
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
    remedy = REMEDIES.get(getattr(error, "errno", None) or 0, "name a file or folder of your own")
    return CinelabError(f"Output {path} cannot be written to ({reason(error)}); {remedy}.")


# ---- one writer


class Claim:
    """The right to write in a folder, which this process has until `release`; see
    `claim_folder`."""

    def __init__(self, lock: Path, handle: TextIO | None, made: list[Path]):
        """`handle` is None where the right belongs to a process that has lent it to us."""
        self.lock = lock
        self.pid = os.getpid()
        self.count = 1
        self._handle = handle
        self._made = made

    def note(self, notebook: Any = None) -> None:
        """Count our children, such as a kernel, among the writers. They write here even if we are
        killed."""
        if self._handle is None:
            return
        import psutil  # late: training and streaming need it only here

        pids = [os.getpid(), *(child.pid for child in psutil.Process().children())]
        try:
            self._handle.truncate(0)
            print(f"host={HOST}", *pids, file=self._handle, flush=True)
        except OSError as error:
            raise write_error(self.lock.parent, error) from error

    def release(self) -> None:
        """Give the right back, the last of those who share it in this process; in a fork nothing
        happens."""
        self.count -= 1
        if self.count > 0 or self.pid != os.getpid():
            return
        _CLAIMS.pop(str(self.lock), None)
        if self._handle is not None:
            with suppress(OSError):
                self.lock.unlink(missing_ok=True)
            with suppress(OSError):  # what could not be written of it before
                self._handle.close()
            _remove_empty(self._made)


_CLAIMS: dict[str, Claim] = {}  # of this process, by lock


def claim_folder(
    folder: str | Path,
    patience: float | None = None,
    name: str = LOCK,
    what: Path | None = None,
    tidy: bool = False,
    again: bool = False,
    ending: float = 0.0,
) -> Claim:
    """The right to write in `folder`, which is made. Raises a CinelabError that names who writes
    there.

    `name` is the lock's file, `what` is written where that is not the whole folder. With `tidy` a
    folder in which nothing was written is gone afterwards. With `again` a right that this process
    has already is shared. A right that was lent to our family of processes (see `writing`) counts
    as ours. A living owner is waited for `patience` seconds, and what a dead one has started
    `ending` seconds longer.
    """
    folder = Path(folder)
    lock = Path(os.path.realpath(folder)) / name
    held = _CLAIMS.get(str(lock))
    if again and held is not None and held.pid == os.getpid():
        held.count += 1
        return held
    if _lent_to_us(lock):
        return Claim(lock, None, [])
    made = _absent(ready_folder(folder)) if tidy else []
    taken = Claim(
        lock,
        _acquire(folder / name, what or folder, PATIENCE if patience is None else patience, ending),
        made,
    )
    _CLAIMS[str(lock)] = taken
    try:
        taken.note()
    except CinelabError:
        taken.release()
        raise
    return taken


@contextmanager
def writing(
    folder: str | Path,
    patience: float | None = None,
    name: str = LOCK,
    what: Path | None = None,
    tidy: bool = False,
    again: bool = False,
    lend: bool = False,
    ending: float = 0.0,
) -> Iterator[Callable]:
    """One writer in `folder`: holds a claim (see `claim_folder` there). Yields a function that
    counts our kernel among the writers.

    With `lend` the processes that are started meanwhile, such as a notebook's kernel, may write
    there as we do.
    """
    held = claim_folder(folder, patience, name, what, tidy, again, ending)
    before = os.environ.get(LENT)
    if lend:
        os.environ[LENT] = "\n".join(filter(None, (before, f"{os.getpid()}:{held.lock}")))
    try:
        yield held.note
    finally:
        if lend:
            os.environ.pop(LENT) if before is None else os.environ.update({LENT: before})
        held.release()


def _lent_to_us(lock: Path) -> bool:
    """Whether a process that began us holds this lock still, and lets us write where it does."""
    lenders = [word.partition(":") for word in os.environ.get(LENT, "").split("\n")]
    pids = {int(pid) for pid, _, path in lenders if path == str(lock) and pid.isdigit()} - {
        os.getpid()
    }
    try:
        with open(lock) as handle:
            host, owners = _owners(handle)
    except OSError:
        return False
    return host == HOST and bool(owners) and owners[0] in pids


@contextmanager
def writing_share(folder: str | Path, part: tuple[int, int], tidy: bool = False) -> Iterator[None]:
    """One writer of the share `part` = (mine, of how many) of what a folder is to hold."""
    with writing(folder, AT_ONCE, f"{LOCK}-{part[0] + 1}-of-{part[1]}", tidy=tidy, again=True):
        yield


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


def _acquire(path: Path, what: Path, patience: float, ending: float = 0.0) -> TextIO:
    """The locked file. Raises a CinelabError that names who writes into `what`; the processes that
    a dead owner has started are waited for so much longer."""
    deadline = time.monotonic() + patience
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = open(path, "a+")
        except OSError as error:
            raise CinelabError(
                f"{what} cannot be written to ({error.strerror}); name a folder of your own, or "
                "copy it to one."
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.path.samestat(os.stat(path), os.fstat(handle.fileno()))
        except OSError:  # held, or just removed by its owner
            ours = False
        host, owners = _owners(handle)
        if ours and (host != HOST or not set(owners) - {os.getpid()}):
            return handle
        handle.close()
        if time.monotonic() > deadline + (ending if ours else 0):
            who = f"process {owners[0]} on {host}" if owners else "another process"
            raise CinelabError(f"{what} is written by {who}; let it end, then run again.")
        time.sleep(0.1)


def _owners(handle: TextIO) -> tuple[str, list[int]]:
    """The host that a lock names, and its processes there, the writer before its kernel: on our own
    host the living ones."""
    handle.seek(0)
    words = handle.read().split()
    latest = os.fstat(handle.fileno()).st_mtime + 60
    noted = [int(word) for word in words if word.isdigit()]
    host = next((word[5:] for word in words if word.startswith("host=")), HOST)
    return host, noted if host != HOST else [pid for pid in noted if _lives(pid, latest)]


def _lives(pid: int, latest: float) -> bool:
    """Whether a process of that pid lives that began before `latest`: a later one was given an old
    pid."""
    import psutil  # late: training and streaming need it only here

    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() < latest
    except psutil.Error:
        return False


# ---- places for what is gone afterwards


@contextmanager
def passing_folder(
    kind: str, place: str | Path | None = None, begin: str = "cinelab-"
) -> Iterator[Path]:
    """A folder of this process for temporary files, in `place` or where the system keeps such; gone
    afterwards. What killed processes have left of the same kind goes first."""
    place = Path(place or tempfile.gettempdir())
    begin = f"{begin}{kind}-"
    remove_dead(place, begin)
    made = Path(tempfile.mkdtemp(prefix=f"{begin}{HERE}-{os.getpid()}-", dir=place))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


# ---- several files that belong together


@contextmanager
def together(
    folder: str | Path, last: str, about: Any = None, again: bool = False
) -> Iterator[Path]:
    """Yield a scratch folder; on success its files move into `folder`, the one named `last` as the
    last.

    A failure or a kill leaves `folder` as it was. A kill between two moves is finished by `finish`,
    which the next call, and whoever asks for the files, begins with: once `last` lies in the
    scratch folder every file is whole. `about` is what `taken_up` knows the work by. With `again`
    the caller holds the lock already (see `writing_set`).
    """
    folder = Path(folder)
    with writing_set(folder, last, again):
        finish(folder, last)
        scratch = _scratch(folder, last)
        _leave(folder, last)
        try:
            scratch.mkdir(parents=True)
            if about is not None:
                write_json(_note(folder, last), about)
            yield scratch
            _move(scratch, folder, last)
        except OSError as error:
            raise write_error(folder, error) from error
        finally:
            if not half_saved(folder, last):
                _leave(folder, last)


@contextmanager
def writing_set(folder: str | Path, last: str, again: bool = False) -> Iterator[None]:
    """One writer of the files of a `together`."""
    with writing(folder, AT_ONCE, f"{LOCK}-{last}", tidy=True, again=again):
        yield


def taken_up(folder: str | Path, last: str, about: Any) -> bool:
    """Whether a killed `together` of the same `about` had all its files, which are in their places
    now. To be called under `writing_set`; what is left of any other killed one is gone
    afterwards."""
    folder = Path(folder)
    killed = half_saved(folder, last) or _note(folder, last).exists()
    finish(folder, last)
    try:
        same = (
            killed
            and (folder / last).exists()
            and read_json(_note(folder, last)) == parse_json(to_json(about))
        )
    except CinelabError:
        same = False
    _leave(folder, last)
    return same


def _leave(folder: Path, last: str) -> None:
    """Remove what a `together` needs while it works."""
    shutil.rmtree(_scratch(folder, last), ignore_errors=True)
    with suppress(OSError):
        _note(folder, last).unlink(missing_ok=True)
        remove_dead(folder, partial_name(_note(folder, last).name), ".json")


def _note(folder: Path, last: str) -> Path:
    return folder / f"{SCRATCH}{last}.json"


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
    # it says that the others are there, which is not so now
    (folder / last).unlink(missing_ok=True)
    for path in sorted(scratch.iterdir(), key=lambda path: path.name == last):
        path.replace(folder / path.name)
    scratch.rmdir()


def _scratch(folder: Path, last: str) -> Path:
    return folder / f"{SCRATCH}{last}.d"
