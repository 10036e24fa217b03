"""What comes back: archives of at most 16 MiB each, readable by themselves.

A file that is larger than a part is cut into pieces, NAME.1-of-3 and so on, to be joined again with
`cat`. What does not fit into the parts is named, last what is worth least.
"""

import gzip
import io
import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from cinelab.files import write_atomic

LIMIT = 16 * 2**20  # bytes of a part
PARTS = 6
ROOM = 2**16  # bytes of a part for names and the archive's own records
# in order of worth
PATTERNS = (
    "rows/*.jsonl",
    "predictions.jsonl",
    "state.json",
    "tests.xml",
    "training/*.json",
    "training/*/*.json",
    "training/*/log.jsonl",
    "training/*/result/*",
    "logs/*.log",
    "trace-*.json.gz",
)
NAME = "results"


def pack(work: Path, folder: Path, limit: int = LIMIT) -> tuple[list[Path], list[str]]:
    """Write results-1.tar.gz, ... to `folder`; return them, and the names of what was left out."""
    folder.mkdir(parents=True, exist_ok=True)
    parts: list[_Part] = [_Part()]
    left_out = []
    for name, data in pieces(work, limit):
        if not parts[-1].takes(data, limit):
            if len(parts) == PARTS:
                left_out.append(name)
                continue
            parts.append(_Part())
        parts[-1].add(name, data)
    written = []
    for number, part in enumerate(parts, 1):
        path = folder / f"{NAME}-{number}.tar.gz"
        packed = part.finished()
        write_atomic(path, partial(_write, packed))
        written.append(path)
    for old in set(folder.glob(f"{NAME}-*.tar.gz")) - set(written):
        old.unlink()
    return written, left_out


def pieces(work: Path, limit: int) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of every file that comes back, large ones in pieces. What is packed
    already is not packed again; other files are compressed."""
    most = limit - ROOM
    for path in files(work):
        name = path.relative_to(work).as_posix()
        data = path.read_bytes()
        if len(data) > most // 2 and not name.endswith((".gz", ".safetensors")):
            data = gzip.compress(data, 6)
            name += ".gz"
        count = max(1, -(-len(data) // most))
        for number in range(count):
            suffix = "" if count == 1 else f".{number + 1}-of-{count}"
            yield name + suffix, data[number * most : (number + 1) * most]


def files(work: Path) -> list[Path]:
    """Return the files that come back, in order of worth."""
    found: dict[Path, None] = {}
    for pattern in PATTERNS:
        found |= dict.fromkeys(path for path in sorted(work.glob(pattern)) if path.is_file())
    return list(found)


class _Part:
    """One archive in the making. Its size is bounded by what was put in, since what is compressed
    already grows by a little."""

    def __init__(self) -> None:
        self.buffer = io.BytesIO()
        self.packed = gzip.GzipFile(fileobj=self.buffer, mode="wb", compresslevel=6)
        self.archive = tarfile.open(fileobj=self.packed, mode="w")

    def takes(self, data: bytes, limit: int) -> bool:
        """Whether a file still fits, were it not compressed at all."""
        self.packed.flush()  # else it holds back what would be too much later
        return self.buffer.tell() + len(data) + ROOM <= limit or not self.archive.getmembers()

    def add(self, name: str, data: bytes) -> None:
        """Add a file."""
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        self.archive.addfile(entry, io.BytesIO(data))

    def finished(self) -> bytes:
        """Return the archive's bytes."""
        self.archive.close()
        self.packed.close()
        return self.buffer.getvalue()


def names_in(paths: Sequence[Path]) -> list[str]:
    """Return the names in archives, in order."""
    found = []
    for path in paths:
        with tarfile.open(path) as archive:
            found += archive.getnames()
    return found


def _write(packed: bytes, path: Path) -> None:
    path.write_bytes(packed)
