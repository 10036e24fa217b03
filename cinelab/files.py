"""Files that are written whole or not at all: a kill or a full disk leaves the old file as it was.

Where a thing is kept that comes from outside (weights, environments) is answered by `kept_in`.
"""

import errno
import hashlib
import json
import math
import os
import re
import shutil
import socket
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cinelab.errors import CinelabError, Failed, reason
from cinelab.texts import LINES, parse_json, problem, read_bytes

FULL = 2**16  # bytes; with less left, whatever error a library raises is that of a full disk
REMEDIES = {
    errno.ENOSPC: "free some space or choose another folder",
    errno.EDQUOT: "free some space or choose another folder",
    errno.EFBIG: "choose a folder on a disk that takes larger files",
    errno.ENAMETOOLONG: "choose a shorter name",
}
REMEDIES |= dict.fromkeys(
    (errno.ENOENT, errno.ENOTDIR), "its folder is not there any more, so choose another one"
)
SCRATCH = ".partial-"  # how the names of unfinished files and folders begin
# this host, in the names of unfinished files
HERE = hashlib.blake2b(socket.gethostname().encode(), digest_size=3).hexdigest()
# seconds; a process that began so long after a file was written is not its writer, though it has
# the same number
LATER = 60.0


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path`.

    On any failure the temporary file is removed and what stood at `path` is untouched. What killed
    writers of `path` have left beside it goes first. An OSError (disk full, no permission) becomes
    a CinelabError.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        begin = partial_name(path.name)
        remove_dead(path.parent, begin, path.suffix)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f"{begin}{HERE}-{os.getpid()}-", suffix=path.suffix
        )
        os.close(handle)
    except OSError as error:
        raise write_error(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())  # on the disk before it takes the old file's place
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files only their owner can read
        temporary.replace(path)
    except OSError as error:
        raise write_error(path, error) from error
    except Exception as error:  # of a library that writes for us
        if (number := _fault_of_disk(path.parent, error)) is None:
            raise
        raise write_error(path, OSError(number, os.strerror(number))) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _fault_of_disk(folder: Path, error: Exception) -> int | None:
    """What the disk did (a number of errno), where a library hides that behind an error of its own;
    None = nothing."""
    if not folder.is_dir():
        return errno.ENOENT
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        if os.strerror(number) in str(error):
            return number
    return None if shutil.disk_usage(folder).free > FULL else errno.ENOSPC


def partial_name(name: str) -> str:
    """How the names of unfinished files and folders of `name` begin; host, process and a random
    part come after."""
    short = (
        name
        if len(os.fsencode(name)) <= 100
        else hashlib.blake2b(os.fsencode(name), digest_size=8).hexdigest()
    )
    return f"{SCRATCH}{short}-"


def remove_dead(folder: str | Path, begin: str, end: str = "") -> None:
    """Remove the files and folders of a folder that are called `begin`, host, process, random part,
    `end`, and whose process lived on this host and does so no more."""
    pattern = re.compile(f"{re.escape(begin)}{HERE}-([0-9]+)-[^-]+{re.escape(end)}")
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = pattern.fullmatch(entry.name)
            if found and not _writes_on(int(found[1]), entry.stat(follow_symlinks=False).st_mtime):
                shutil.rmtree(entry) if entry.is_dir(follow_symlinks=False) else os.unlink(entry)


def _writes_on(pid: int, since: float) -> bool:
    """Whether a process lives that may have written at the time `since`."""
    import psutil  # only where a writer was killed

    try:
        return pid == os.getpid() or psutil.Process(pid).create_time() <= since + LATER
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def write_atomic(path: str | Path, write: Callable[[Path], Any]) -> None:
    """Call `write(temporary)`, then put the result at `path`."""
    with replacing(path) as temporary:
        write(temporary)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text with plain line ends."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline="\n"))


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON that every parser reads; NaN and infinity become null."""
    write_text(path, to_json(value, indent=1) + "\n")


def to_json(value: Any, **more: Any) -> str:
    """JSON text that every parser reads; NaN and infinity become null."""
    return json.dumps(plain_json(value), allow_nan=False, **more)


def plain_json(value: Any) -> Any:
    """A value without what JSON does not know: NaN and infinity are null."""
    if isinstance(value, dict):
        return {key: plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def append_line(path: str | Path, value: Any, sync: bool = True) -> None:
    """Add `value` to a file of JSON lines: the whole line or nothing of it; with `sync` it is on
    the disk afterwards.

    A half line that a kill or a full disk left at the end is cut off first. Raises CinelabError.
    """
    append_bytes(path, json_line(path, value) + b"\n", sync)


def append_bytes(path: str | Path, data: bytes, sync: bool = True) -> None:
    """Add a finished line to a file, as `append_line` does."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            size = _whole_lines(handle)
            _write_whole(handle, data, size, sync)
        finally:
            os.close(handle)
    except OSError as error:
        raise write_error(Path(path), error) from error


def json_line(path: str | Path, value: Any) -> bytes:
    """Return a value as JSON that every reader takes, on one line. Raises CinelabError for one that
    could not be read again."""
    text = to_json(value)
    try:
        parse_json(text)
    except (ValueError, RecursionError) as error:
        raise CinelabError(
            f"{path}: a line cannot be written that nobody could read ({problem(error)}); correct "
            "that value."
        ) from error
    return text.encode()


def read_lines(path: str | Path) -> list[Any]:
    """The values of a file of JSON lines, [] if it is not there; a half line at its end does not
    count."""
    if not Path(path).exists():
        return []
    lines = read_bytes(path, LINES).split(b"\n")[:-1]
    return [_parsed(path, number, line) for number, line in enumerate(lines, 1)]


def _parsed(path: str | Path, number: int, line: bytes) -> Any:
    try:
        return parse_json(line)
    except (ValueError, RecursionError) as error:
        raise CinelabError(
            f"{path} has a line that cannot be read, line {number} ({problem(error)}); "
            f"{LINES.remedy}."
        ) from error


def _whole_lines(handle: int) -> int:
    """The size of an open file after a half line at its end was cut off."""
    size = end = os.fstat(handle).st_size
    while end and os.pread(handle, 1, end - 1) != b"\n":
        end -= 1
    if end < size:
        os.ftruncate(handle, end)
    return end


def _write_whole(handle: int, data: bytes, size: int, sync: bool) -> None:
    try:
        while data:
            data = data[os.write(handle, data) :]
        if sync:
            os.fsync(handle)
    # also an interrupt: whoever gets the error must not find it there
    except BaseException:
        os.ftruncate(handle, size)
        raise


# ---- where things from outside are kept


def kept_in(variable: str, *below: str) -> Path:
    """The folder that the environment variable names, else the one of these names in the user's
    cache.

    That is $XDG_CACHE_HOME, else ~/.cache. Nothing asks for the home folder where the variable is
    set. Raises CinelabError.
    """
    if named := os.environ.get(variable):
        return expanded(named, variable)
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache, *below)
    return expanded(os.path.join("~", ".cache", *below), variable)


def expanded(place: str | Path, variable: str) -> Path:
    """A path with its ~ replaced. Raises a CinelabError that names the variable where there is no
    home folder."""
    try:
        return Path(place).expanduser()
    except RuntimeError as error:
        raise CinelabError(
            f"The home folder of {place} is not known; name a folder in ${variable}."
        ) from error


def is_file(path: str | Path) -> bool:
    """Whether a file is there; of a name that the system does not take (too long, with a NUL) none
    is."""
    return _seen(path, Path.is_file)


def exists(path: str | Path) -> bool:
    """Whether a file or folder is there, as `is_file` says it."""
    return _seen(path, Path.exists)


def _seen(path: str | Path, look: Callable[[Path], bool]) -> bool:
    with suppress(OSError, ValueError):
        return look(Path(path))
    return False


def composed(path: str | Path) -> Path:
    """The path itself if it is there, else one that is and differs only in how accents are composed
    (Unicode), else itself."""
    path = Path(path)
    if exists(path):
        return path
    found = Path(path.anchor)
    for part in path.relative_to(path.anchor).parts:
        found = _entry(found, part)
    return found if exists(found) else path


def _entry(folder: Path, name: str) -> Path:
    if not name.isascii() and not exists(folder / name) and _seen(folder, Path.is_dir):
        plain = unicodedata.normalize("NFC", name)
        name = next(
            (entry for entry in os.listdir(folder) if unicodedata.normalize("NFC", entry) == plain),
            name,
        )
    return folder / name


def glance(paths: Iterable[str | Path], samples: int = 16, size: int = 2**16) -> str:
    """Short hash of files too large to be read for it: names, sizes, and samples from first to last
    byte of each."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(map(Path, paths), key=lambda path: path.name):
        whole = path.stat().st_size
        digest.update(f"{path.name} {whole}\n".encode())
        with open(path, "rb") as file:
            for sample in range(samples):
                file.seek(max(0, whole - size) * sample // (samples - 1))
                digest.update(file.read(size))
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_error(path: Path, error: OSError) -> CinelabError:
    """The sentence for a file that could not be written."""
    number = error.errno or 0
    remedy = REMEDIES.get(number, "choose another folder")
    # as the caller named it
    path = Path(*(part for part in path.parts if not part.startswith(SCRATCH)))
    # libraries word it their own way
    why = os.strerror(number).lower() if number in REMEDIES else reason(error)
    return Failed(
        f"{path}: cannot be written ({why}); {remedy}, an older file of that name is as it was"
    )
