"""A session's log: one JSON line a command and a chunk, each with a hash of all that stands before
it.

A line that was changed, doubled, exchanged or taken out is noticed when the log is read. Lines of
older sessions, which have no hash, are taken as they are; what is added to them is hashed from
there on.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from cinelab.checksums import checksum_of
from cinelab.errors import CinelabError, reason
from cinelab.files import append_bytes, json_line, to_json
from cinelab.texts import LINES, parse_json, problem, read_bytes

REMEDY = "put the file back as it was, or open the folder again to go on with what is there."
CHAIN = re.compile(rb', "chain": "([0-9a-f]{16})"\}')


@dataclass
class SessionLog:
    """The lines of `path`; `start` is what the first line's hash goes on from (the hash of
    session.json)."""

    path: Path
    start: str = ""
    chained: bool = False  # every line must have its hash, as in all sessions but the oldest
    last: str = ""  # the hash of the newest line that was read or added
    size: int = 0  # bytes up to that line's end

    def read(self) -> list[dict]:
        """All lines, without their hashes. Raises a CinelabError that names the first line that is
        not as it was written."""
        lines = []
        self.last = self.start
        self.size = 0
        chained = self.chained
        for number, raw in enumerate(self._raw(), 1):
            body, found = _split(raw)
            if found is None and chained:
                self._refuse(number, "lacks the hash of the lines before it")
            self.last = _hash(self.last, body)
            chained = chained or found is not None
            if found not in (None, self.last):
                self._refuse(number, "is not as it was written: its hash differs")
            lines.append(self._value(number, body))
            self.size += len(raw) + 1
        return lines

    def append(self, value: dict) -> None:
        """Add a line, the whole of it or nothing; it is on the disk afterwards. Raises
        CinelabError."""
        self.check()
        body = json_line(self.path, value)
        last = _hash(self.last or self.start, body)
        line = body[:-1] + f', "chain": "{last}"}}\n'.encode()
        append_bytes(self.path, line)
        self.last = last
        self.size = self.size + len(line)

    def check(self) -> None:
        """Raise a CinelabError if the file no longer ends where we left it: a line added then would
        not follow those before it.

        A half line behind that end, which nobody reads, does not count.
        """
        try:
            with open(self.path, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(min(size, self.size))
                strange = size < self.size or b"\n" in file.read()
        except FileNotFoundError:
            strange = self.size > 0 or not self.path.parent.is_dir()
        except OSError as error:
            raise CinelabError(f"{self.path} cannot be read ({reason(error)}); {REMEDY}") from error
        if strange:
            raise CinelabError(
                f"{self.path} is gone or has changed since it was last written here; {REMEDY}"
            )

    def begin_again(self) -> None:
        """Remove every line."""
        self.path.unlink(missing_ok=True)
        self.last = ""
        self.size = 0

    def mend(self) -> None:
        """Cut off a last line that a kill left unfinished, and give back the line end that a whole
        one has lost."""
        data = self._bytes()
        head = data[: data.rfind(b"\n") + 1]
        tail = data[data.rfind(b"\n") + 1 :]
        if not tail:
            return
        end = len(head) + len(whole := self._whole(tail))
        try:
            with open(self.path, "r+b") as file:
                if whole:
                    file.seek(end)
                    end += file.write(b"\n")
                file.truncate(end)
        except OSError as error:
            raise CinelabError(
                f"{self.path} cannot be written to ({reason(error)}); copy the session to a folder "
                "of your own."
            ) from error

    def _bytes(self) -> bytes:
        return read_bytes(self.path, LINES) if self.path.exists() else b""

    def _raw(self) -> list[bytes]:
        """The finished lines, and a last one that is whole but for its line end."""
        *lines, tail = self._bytes().split(b"\n")
        return [*lines, whole] if (whole := self._whole(tail)) else lines

    @staticmethod
    def _whole(tail: bytes) -> bytes:
        """Of what follows the last line end: a hashed line, with or without another byte behind it;
        else nothing."""
        for end in (len(tail), len(tail) - 1):
            if end > 0 and _split(tail[:end])[1] is not None:
                return tail[:end]
        return b""

    def _value(self, number: int, body: bytes) -> dict:
        try:
            value = parse_json(body)
        except (ValueError, RecursionError) as error:
            self._refuse(number, f"cannot be read ({problem(error)})", error)
        if not isinstance(value, dict):
            self._refuse(number, "is no command and no chunk")
        return value

    def _refuse(self, number: int, problem: str, cause: Exception | None = None) -> None:
        raise CinelabError(
            f"{self.path} has a line that cannot be read: line {number} {problem}. Restore the "
            f"file; or keep the {number - 1} lines before it alone, and what they made is there "
            "again."
        ) from cause


def start_of(record: dict) -> str:
    """The hash of session.json's values, which the log's first line goes on from."""
    return _hash("", to_json(record, sort_keys=True).encode())


def _split(raw: bytes) -> tuple[bytes, str | None]:
    """A line without its hash, and the hash, None where it has none."""
    found = CHAIN.search(raw, max(0, len(raw) - 30))
    if found is None or found.end() != len(raw):
        return raw, None
    return raw[: found.start()] + b"}", found[1].decode()


def _hash(before: str, body: bytes) -> str:
    return checksum_of(before.encode(), body, size=8)
