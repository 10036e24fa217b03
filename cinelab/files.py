"""Files that are written whole or not at all: a kill or a full disk leaves the old file as it was."""

import hashlib
import json
import math
import os
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cinelab.errors import CinelabError

FULL = 2**16  # bytes; with less left, whatever error a library raises is that of a full disk


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path`.

    On any failure the temporary file is removed and what stood at `path` is untouched.
    An OSError (disk full, no permission) becomes a CinelabError.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".partial-", suffix=path.suffix)
        os.close(handle)
    except OSError as error:
        raise _write_error(path, error.strerror) from error
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())  # on the disk before it takes the old file's place
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files only their owner can read
        temporary.replace(path)
    except OSError as error:
        raise _write_error(path, error.strerror or str(error)) from error
    except Exception as error:  # of a library that writes for us
        if shutil.disk_usage(path.parent).free > FULL and "No space left" not in str(error):
            raise
        raise _write_error(path, "no space left on device") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomic(path: str | Path, write: Callable[[Path], Any]) -> None:
    """Call `write(temporary)`, then put the result at `path`."""
    with replacing(path) as temporary:
        write(temporary)


def write_text(path: str | Path, text: str) -> None:
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline="\n"))


def write_json(path: str | Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")


def plain_json(value: Any) -> Any:
    """A value without what JSON does not know: NaN and infinity are null."""
    if isinstance(value, dict):
        return {key: plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def composed(path: str | Path) -> Path:
    """The path itself if it is there, else one that is and differs only in how accents are composed (Unicode), else itself."""
    path = Path(path)
    if path.exists():
        return path
    found = Path(path.anchor)
    for part in path.relative_to(path.anchor).parts:
        found = _entry(found, part)
    return found if found.exists() else path


def _entry(folder: Path, name: str) -> Path:
    if not (folder / name).exists() and not name.isascii() and folder.is_dir():
        plain = unicodedata.normalize("NFC", name)
        name = next((entry for entry in os.listdir(folder) if unicodedata.normalize("NFC", entry) == plain), name)
    return folder / name


def glance(paths: Iterable[str | Path], samples: int = 16, size: int = 2**16) -> str:
    """Short hash of files too large to be read for it: names, sizes, and samples from first to last byte of each."""
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


def _write_error(path: Path, reason: str) -> CinelabError:
    return CinelabError(f"{path}: cannot be written ({reason.lower()}); free some space or choose another folder, "
                        "an older file of that name is as it was")
