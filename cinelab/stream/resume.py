"""The chunks of a film that is being made, stored on the disk: a film whose process was killed goes
on where it was, bit for bit.

They lie in a hidden folder beside the film, named after all that makes its bits, so that a film
with other settings never goes on from them. They are removed when the film is saved.
"""

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from cinelab.checksums import checksum_of
from cinelab.errors import CinelabError
from cinelab.files import to_json
from cinelab.memory.cache import KVCache
from cinelab.outputs import writing
from cinelab.stream.batch import TimedChunk
from cinelab.stream.chunk_file import decisions_in, read_chunk, write_chunk
from cinelab.stream.generator import FilmState
from cinelab.stream.session_log import SessionLog, start_of

MAKING = ".making-"  # how the folders begin


@dataclass
class KeptChunks:
    """The finished chunks of one film, in order."""

    folder: Path
    log: SessionLog
    lines: list[dict] = field(default_factory=list)  # chunk, shot, seconds and checksum of each

    def __len__(self) -> int:
        return len(self.lines)

    def take(self, index: int) -> tuple[Tensor, tuple[dict, ...], dict[str, float]] | None:
        """Return a chunk's latents (1, c, C, h, w), its routing decisions and its seconds; None
        where it is still to be made.

        A chunk whose file has changed is made again, with a warning, and with it all that follow.
        """
        if index >= len(self.lines):
            return None
        line = self.lines[index]
        try:
            tensors = read_chunk(self._file(index), line["sum"])
        except CinelabError as error:
            warnings.warn(
                f"{str(error).partition(';')[0]}; chunks from {index + 1} on are made again.",
                stacklevel=2,
            )
            self._cut(index)
            return None
        return tensors["latents"], decisions_in(tensors, index, line["shot"]), line["seconds"]

    def add(self, timed: TimedChunk, shot: int, cache: "KVCache | FilmState") -> None:
        """Store a chunk that has just been made; it is on the disk afterwards. Raise CinelabError
        where it cannot be written."""
        made = write_chunk(self._file(timed.index), timed.latents, cache.decisions_of(timed.index))
        line = {"chunk": timed.index, "shot": shot, "seconds": timed.seconds, "sum": made}
        self.log.append(line)
        self.lines.append(line)

    def _cut(self, index: int) -> None:
        """Remove the chunks from `index` on."""
        before = self.lines[:index]
        self.lines = []
        self.log.begin_again()
        for line in before:
            self.log.append(line)
            self.lines.append(line)

    def _file(self, index: int) -> Path:
        return self.folder / f"{index:05d}.safetensors"


@contextmanager
def keeping(folder: str | Path, film: dict) -> Iterator[KeptChunks]:
    """Open the stored chunks of the film that `film` (plain values) describes, below `folder`, for
    one process at a time."""
    record = {"film": film}
    mark = checksum_of(to_json(record, sort_keys=True).encode(), size=6)
    place = Path(folder) / f"{MAKING}{mark}"
    with writing(place, tidy=True):
        log = SessionLog(place / "log.jsonl", start_of(record), chained=True)
        log.mend()
        try:
            lines = log.read()
        except CinelabError as error:
            warnings.warn(f"{error} The film is made from its first chunk.", stacklevel=3)
            log.begin_again()
            lines = []
        yield KeptChunks(place, log, lines)


def forget(folder: str | Path) -> None:
    """Remove the stored chunks of a folder whose film is saved."""
    for place in Path(folder).glob(f"{MAKING}*"):
        shutil.rmtree(place, ignore_errors=True)
