"""The desk's engine: one thread makes chunks and carries out commands between them; nobody else touches the model.

    live = Live(session); live.send("prompt", text="..."); live.send("resume"); live.latest(); live.close()

`send` returns at once with a ticket that will say what happened. Pictures go to a mailbox where the newest wins, so a slow viewer
sees fewer of them and never slows the engine; every chunk is in the session's folder all the same.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import numpy as np

from cinelab.errors import CinelabError
from cinelab.stream.session import Session

AHEAD = 0.5  # seconds of film that a paced engine may be ahead of the clock
RECENT = 32  # chunks that the read-out looks back on


@dataclass(frozen=True)
class Shown:
    """A chunk's pictures uint8 (f, H, W, 3) on their way to a viewer."""

    node: int
    frames: np.ndarray
    made_at: float  # time.monotonic()


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


class Live:
    """A session in a thread of its own. `pace` 1 = as fast as the film plays, None = as fast as it can.

    `listen` is called in the engine's thread with every chunk and must return at once.
    """

    def __init__(self, session: Session, pace: float | None = 1.0, listen: Callable[[Shown], None] | None = None,
                 stop_at: int | None = None):
        self.session, self.pace, self.stop_at = session, pace, stop_at
        self._listen = listen
        self._commands: queue.Queue[tuple[str, dict, Future] | None] = queue.Queue()
        self._box: Shown | None = None
        self._new = threading.Condition()
        self._times: deque = deque(maxlen=RECENT)
        self._readout = Readout()
        self._due, self._resumed = 0.0, None
        self._thread = threading.Thread(target=self._run, name="cinelab-engine", daemon=True)
        self._thread.start()

    def send(self, command: str, **value) -> "Future[str]":
        """Ask for a command; its ticket's result is one line, or a CinelabError. Commands keep their order."""
        ticket: Future[str] = Future()
        if not self._thread.is_alive():
            ticket.set_exception(CinelabError("The engine has ended; open the session again."))
            return ticket
        self._commands.put((command, value, ticket))
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
                return
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

    def _carry_out(self, command: str, value: dict, ticket: Future) -> None:
        was = self.session.desk.playing
        try:
            said = self.session.do(command, **value)
        except (CinelabError, TypeError) as error:
            self._tell(error=str(error))
            ticket.set_exception(error if isinstance(error, CinelabError) else CinelabError(f"{command}: {error}"))
            return
        if self.session.desk.playing and not was:
            self._due = self._resumed = time.monotonic()
        self._tell(said=said, error="", playing=self.session.desk.playing)
        ticket.set_result(said)

    def _make(self) -> None:
        if not self._on_time():
            return
        began = time.monotonic()
        try:
            timed = self.session.step()
        except Exception as error:  # a full disk, a film that is too long: say it, keep what is there, wait for orders
            self.session.desk = replace(self.session.desk, playing=False)
            self._tell(error=f"{type(error).__name__}: {error}" if not isinstance(error, CinelabError) else str(error), playing=False)
            return
        now, frames = time.monotonic(), timed.frames[0]
        self._times.append((len(frames), now - began, timed.seconds))
        if self.pace:
            self._due = max(self._due, began - AHEAD) + len(frames) / self.session.reel.bundle.fps / self.pace
        self._show(Shown(self.session.desk.head, frames, now))
        self._count(now)
        if self.stop_at and self.session.nodes[self.session.desk.head].index + 1 >= self.stop_at:
            self.session.desk = replace(self.session.desk, playing=False)
            self._tell(said=f"The film has {self.stop_at} chunks, the most here; export it, or branch.", playing=False)

    def _on_time(self) -> bool:
        """Whether the next chunk is due; else sleep a little, so that commands are obeyed meanwhile."""
        early = self._due - AHEAD - time.monotonic()
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
        self._readout = replace(self._readout, **changes)
