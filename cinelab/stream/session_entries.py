"""What a session stores beside its chunks: session.json, and the two kinds of lines of its log.

The keys on the disk are those of schema 2: a chunk's settings stand there as `said` and its prompt
as `text`.
"""

import warnings
from dataclasses import dataclass, field
from pathlib import Path

from cinelab.checksums import without
from cinelab.config import former_names, read_as, to_dict
from cinelab.devices import device_name
from cinelab.errors import CinelabError
from cinelab.stream.commands import Settings
from cinelab.stream.session_log import start_of
from cinelab.texts import read_json
from cinelab.zoo.bundle import Bundle

# 1 had neither hashes nor checksums
SCHEMA = 2
READ = (1, 2)


@dataclass(frozen=True)
class Node:
    """One finished chunk: its place in the tree and what was requested of it."""

    number: int
    parent: int | None
    shot: int
    cut: bool
    settings: Settings = field(metadata={"was": "said"})  # as the director stated them
    model_prompt: str = field(metadata={"was": "text"})  # the prompt as the model was given it
    recache: bool
    index: int  # chunks before it in its film


@dataclass(frozen=True)
class Record:
    """The content of session.json."""

    schema: int
    model: str
    weights: str
    bf16: bool
    settings: Settings
    sum: str | None = None  # of the others
    device: str = "cpu"  # that its first chunks were made on


@dataclass(frozen=True)
class CommandEntry:
    """A line of the log: a command, and the chunk after which it was given."""

    do: str
    value: dict
    after: int | None = None


@dataclass(frozen=True)
class ChunkEntry:
    """A line of the log: a finished chunk."""

    made: Node
    seconds: dict = field(default_factory=dict)
    sum: str | None = None


def chunk_line(node: Node, seconds: dict[str, float], checksum: str) -> dict:
    """Return the log's line of a finished chunk, as plain values."""
    stored = {now: was for was, now in former_names(Node).items()}
    return {
        "made": {stored.get(name, name): value for name, value in to_dict(node).items()},
        "seconds": {cause: round(value, 5) for cause, value in seconds.items()},
        "sum": checksum,
    }


def read_record(folder: Path) -> Record:
    """Return the content of session.json. Raise a CinelabError that names the file where it is
    broken, has changed, or is of another schema."""
    path = folder / "session.json"
    record = read_as(Record, path)
    if record.schema not in READ:
        raise CinelabError(
            f"{folder} has a session of schema {record.schema}, this cinelab reads {SCHEMA}; "
            "update it."
        )
    if record.sum != (start_of(without(read_json(path), "sum")) if record.schema > 1 else None):
        raise CinelabError(
            f"{path} has changed since it was written (its checksum differs); restore it."
        )
    return record


def device_entry(bundle: Bundle) -> dict[str, str]:
    """Return what session.json says of the device: nothing of a CPU."""
    name = device_name(bundle.device)
    return {} if name == "cpu" else {"device": name}


def warn_of_device(folder: Path, record: Record, bundle: Bundle) -> None:
    """Warn where a session goes on elsewhere: the next chunk is the same to rounding only."""
    if record.device != (here := device_name(bundle.device)):
        warnings.warn(
            f"{folder} was begun on {record.device} (now {here}): it goes on, and its next chunks "
            "will not have the bits that they would have had there.",
            stacklevel=3,
        )
