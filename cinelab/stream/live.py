"""The desk's engine: one thread makes chunks and carries out commands between them; nobody else touches the model.

    live = Live(session); live.send("prompt", text="..."); live.send("resume"); live.latest(); live.close()

`send` and `call` return at once with a ticket that will say what happened. Pictures go to a mailbox where the newest wins, so a
slow viewer sees fewer of them and never slows the engine; every chunk is in the session's folder all the same.
"""

import ctypes
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from cinelab.errors import CinelabError
from cinelab.memory.cache import Memory
from cinelab.readable import Readable
from cinelab.stream.session import Desk, Node, Session

Result = TypeVar("Result")

AHEAD = 0.5  # seconds of film that a paced engine may be ahead of the clock
RECENT = 32  # chunks that the read-out looks back on
TIDY = 50  # chunks after which freed memory goes back to the system


@dataclass(frozen=True)
class Shown(Readable):
    """A chunk's pictures uint8 (f, H, W, 3) on their way to a viewer, with what the viewer may want to tell of it."""

    node: int
    frames: np.ndarray
    made_at: float  # time.monotonic()
    place: Node  # where it stands in the film, and what it was asked to be
    memory: Memory  # as the chunk left it; never written to again


@dataclass(frozen=True)
class Readout:
    """How the engine is doing. Rates count pictures; `causes` are shares of a chunk's time."""

    playing: bool = False
    chunks: int = 0
    rate: float = 0.0  # pictures a second while it works, waiting not counted
    first_picture: float | None = None  # seconds from the last resume to its first pictures
    causes: dict[str, float] = field(default_factory=dict)
    waiting: int = 0  # commands not yet carried out
    said: str = ""
    error: str = ""
    desk: Desk = Desk()  # what the next chunk will be made with, and where it goes on


class Turns:
    """A lock that is given in the order in which it was asked for: films that share one model take turns, chunk by chunk."""

    def __init__(self):
        self._next = self._now = 0
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        with self._changed:
            mine, self._next = self._next, self._next + 1
            self._changed.wait_for(lambda: self._now == mine)

    def __exit__(self, *_) -> None:
        with self._changed:
            self._now += 1
            self._changed.notify_all()


class Live:
    """A session in a thread of its own. `pace` 1 = as fast as the film plays, None = as fast as it can.

    `ahead` is how many seconds of film a paced engine may be before the clock: less, and a command shows sooner; more, and
    a slow chunk is not seen. Films of one model share `turns`. `listen` is called in the engine's thread with every chunk and must return at once.
    """

    def __init__(self, session: Session, pace: float | None = 1.0, listen: Callable[[Shown], None] | None = None,
                 stop_at: int | None = None, ahead: float = AHEAD, turns: Turns | None = None):
        self._turns = turns or Turns()
        self.session, self.pace, self.stop_at, self.ahead = session, pace, stop_at, ahead
        self._listen = listen
        self._commands: queue.Queue[tuple[Callable[[Session], object], Future] | None] = queue.Queue()
        self._box: Shown | None = None
        self._new = threading.Condition()
        self._times: deque = deque(maxlen=RECENT)
        self._readout = Readout(chunks=len(session.nodes), desk=session.desk)
        self._due, self._resumed = 0.0, None
        self._thread = threading.Thread(target=self._run, name="cinelab-engine", daemon=True)
        self._thread.start()

    def send(self, command: str, **value) -> "Future[str]":
        """Ask for a command; its ticket's result is one line, or a CinelabError. Commands keep their order."""
        return self.call(lambda _session: self._do(command, value))

    def call(self, function: Callable[[Session], Result]) -> "Future[Result]":
        """Have `function(session)` done in the engine's thread between two chunks, in order with the commands. The film
        waits for it, so it should be short."""
        ticket: Future = Future()
        if not self._thread.is_alive():
            ticket.set_exception(CinelabError("The engine has ended; open the session again."))
            return ticket
        self._commands.put((function, ticket))
        return ticket

    def latest(self, after: int | None = None, timeout: float | None = None) -> Shown | None:
        """The newest pictures, those of a chunk other than `after`; None when the time is up."""
        with self._new:
            self._new.wait_for(lambda: self._box is not None and self._box.node != after, timeout)
            return self._box if self._box is not None and self._box.node != after else None

    @property
    def readout(self) -> Readout:
        return replace(self._readout, waiting=self._commands.qsize())

    def close(self, timeout: float = 30.0) -> None:
        """End after the running chunk. What was made is on the disk."""
        self._commands.put(None)
        self._thread.join(timeout)

    # ---- the engine's thread

    def _run(self) -> None:
        while True:
            if not self._obey(wait=not self.session.desk.playing):
                return self._refuse()
            if self.session.desk.playing:
                self._make()

    def _obey(self, wait: bool) -> bool:
        """Carry out what was sent, all of it; False at the end. While nothing plays, wait for something."""
        while True:
            try:
                sent = self._commands.get(block=wait)
            except queue.Empty:
                return True
            if sent is None:
                return False
            self._carry_out(*sent)
            wait = False

    def _refuse(self) -> None:
        """What was sent after the end gets its answer too."""
        while not self._commands.empty():
            sent = self._commands.get()
            if sent is not None:
                sent[1].set_exception(CinelabError("The engine has ended; open the session again."))

    def _carry_out(self, function: Callable[[Session], object], ticket: Future) -> None:
        was = self.session.desk.playing
        try:
            with self._turns:
                result = function(self.session)
        except Exception as error:  # whatever it is, the engine lives on to obey the next
            told = error if isinstance(error, CinelabError) else CinelabError(f"{type(error).__name__}: {error}")
            self._tell(error=str(told))
            ticket.set_exception(told)
            return
        if self.session.desk.playing and not was:
            self._due = self._resumed = time.monotonic()
        self._tell()
        ticket.set_result(result)

    def _do(self, command: str, value: dict) -> str:
        try:
            said = self.session.do(command, **value)
        except TypeError as error:
            raise CinelabError(f"{command}: {error}") from error
        self._tell(said=said, error="")
        return said

    def _make(self) -> None:
        if not self._on_time():
            return
        began = time.monotonic()
        try:
            with self._turns:
                timed = self.session.step()
        except Exception as error:  # a full disk, a film that is too long: say it, keep what is there, wait for orders
            self.session.desk = replace(self.session.desk, playing=False)
            self._tell(error=f"{type(error).__name__}: {error}" if not isinstance(error, CinelabError) else str(error))
            return
        now, frames = time.monotonic(), timed.frames[0]
        self._times.append((len(frames), now - began, timed.seconds))
        if self.pace:
            self._due = max(self._due, began - self.ahead) + len(frames) / self.session.reel.bundle.fps / self.pace
        node = self.session.desk.head
        self._show(Shown(node, frames, now, self.session.nodes[node], self.session.state(node).memory))
        self._count(now)
        if len(self.session.nodes) % TIDY == 0:
            give_back_memory()
        if self.stop_at and self.session.nodes[self.session.desk.head].index + 1 >= self.stop_at:
            self.session.desk = replace(self.session.desk, playing=False)
            self._tell(said=f"The film has {self.stop_at} chunks, the most here; export it, or branch.")

    def _on_time(self) -> bool:
        """Whether the next chunk is due; else sleep a little, so that commands are obeyed meanwhile."""
        early = self._due - self.ahead - time.monotonic()
        if self.pace and early > 0:
            time.sleep(min(early, 0.01))
            return False
        return True

    def _show(self, shown: Shown) -> None:
        with self._new:
            self._box = shown
            self._new.notify_all()
        if self._listen:
            self._listen(shown)

    def _count(self, now: float) -> None:
        pictures, seconds = (sum(row[i] for row in self._times) for i in (0, 1))
        causes = {cause: sum(row[2][cause] for row in self._times) / max(seconds, 1e-9) for cause in self._times[-1][2]}
        changes: dict = {"chunks": len(self.session.nodes), "rate": pictures / max(seconds, 1e-9), "causes": causes}
        if self._resumed is not None:
            changes["first_picture"], self._resumed = now - self._resumed, None
        self._tell(**changes)

    def _tell(self, **changes) -> None:
        desk = self.session.desk
        self._readout = replace(self._readout, desk=desk, playing=desk.playing, **changes)


def give_back_memory() -> None:
    """Hand freed pages to the system. glibc keeps them, and films of ever other lengths would have it keep ever more."""
    with suppress(OSError, AttributeError, TypeError):  # another C library: there is nothing to ask it
        ctypes.CDLL(None).malloc_trim(0)
