"""What an engine reports: the newest chunk, its own state, and the bounds of its film."""

from dataclasses import dataclass, field

import numpy as np

from cinelab.memory.cache import KVCache
from cinelab.readable import Readable
from cinelab.stream.commands import DeskState
from cinelab.stream.session_entries import Node


@dataclass(frozen=True)
class LiveChunk(Readable):
    """A chunk's frames uint8 (f, H, W, 3) on their way to a viewer, with what may be shown of
    it."""

    node: int
    frames: np.ndarray
    made_at: float  # time.monotonic()
    place: Node  # where it stands in the film, and what was requested of it
    cache: KVCache  # as the chunk left it; never written to again


@dataclass(frozen=True)
class Readout:
    """The state of an engine. Rates are in frames per second; `causes` are shares of a chunk's
    time."""

    playing: bool = False
    chunks: int = 0
    rate: float = 0.0  # frames per second while it works, waiting not counted
    first_frame: float | None = None  # seconds from the last resume to its first frames
    causes: dict[str, float] = field(default_factory=dict)
    waiting: int = 0  # commands not yet carried out
    message: str = ""
    error: str = ""
    serial: int = 0  # of two readouts, the later one has the larger number
    # (done, of how many) chunks that are recalled into the KV cache
    remembering: tuple[int, int] | None = None
    desk: DeskState = DeskState()  # the settings of the next chunk, and where it goes on


@dataclass(frozen=True)
class FilmBounds:
    """The most that one film may take, None = no bound: chunks of its whole tree, bytes of its log
    and chunks, commands that wait to be carried out, bytes of its log alone."""

    chunks: int | None = None
    bytes: int | None = None
    waiting: int | None = None
    log: int | None = None


UNBOUNDED = FilmBounds()
