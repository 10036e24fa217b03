"""The desk's engine: one thread makes chunks and carries out commands between them; nobody else
touches the model.

    live = Live(session); live.send("prompt", text="..."); live.send("resume"); live.latest(); live.close()

`send` and `call` return at once with a ticket that will say what happened. Pictures go to a mailbox
where the newest wins, so a slow viewer sees fewer of them and never slows the engine; every chunk
is in the session's folder all the same.
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
from cinelab.memory.cache import KVCache
from cinelab.readable import Readable
from cinelab.stream.batch import TimedChunk
from cinelab.stream.commands import Desk
from cinelab.stream.session import Node, Session

Result = TypeVar("Result")

AHEAD = 0.5  # seconds of film that a paced engine may be ahead of the clock
RECENT = 32  # chunks that the read-out looks back on
TIDY = 50  # chunks after which freed memory goes back to the system
A_TURN = 8  # commands that one turn carries out before its chunk
SLICE = 0.25  # seconds after which long work passes the turn on
OWED = 100  # chunks at most that a film makes up for after it passed its turn on
# chunks whose routing decisions a running film keeps: those of a whole film would fill the memory
NOTED = 1


@dataclass(frozen=True)
class Shown(Readable):
    """A chunk's pictures uint8 (f, H, W, 3) on their way to a viewer, with what the viewer may want
    to tell of it."""

    node: int
    frames: np.ndarray
    made_at: float  # time.monotonic()
    place: Node  # where it stands in the film, and what it was asked to be
    memory: KVCache  # as the chunk left it; never written to again


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
    told: int = 0  # which readout this is: of two, the later one has more
    # (done, of how many) chunks that are put into the KV cache again
    remembering: tuple[int, int] | None = None
    desk: Desk = Desk()  # what the next chunk will be made with, and where it goes on


@dataclass(frozen=True)
class Bounds:
    """What one film may take, None = as much as it likes: chunks of its whole tree, bytes of its
    log and chunks, commands that wait to be carried out, bytes of its log alone."""

    chunks: int | None = None
    bytes: int | None = None
    waiting: int | None = None
    log: int | None = None


NO_BOUNDS = Bounds()


class Turns:
    """A lock that is given in the order in which it was asked for: films that share one model take
    turns, chunk by chunk."""

    def __init__(self):
        self._next = self._now = 0
        self._owner: int | None = None
        self._since = 0.0
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        with self._changed:
            mine = self._next
            self._next = self._next + 1
            self._changed.wait_for(lambda: self._now == mine)
            self._owner = threading.get_ident()
            self._since = time.monotonic()

    def __exit__(self, *_) -> None:
        with self._changed:
            self._owner = None
            self._now += 1
            self._changed.notify_all()

    def pass_on(self, seconds: float = SLICE) -> bool:
        """In the midst of long work: whoever has had the turn for so many seconds waits until those
        who wait have had theirs. Returns whether they had."""
        late = self._owner == threading.get_ident() and time.monotonic() - self._since > seconds
        if not late or self._next == self._now + 1:
            return False
        self.__exit__()
        self.__enter__()
        return True


class Live:
    """A session in a thread of its own. `pace` 1 = as fast as the film plays, None = as fast as it
    can.

    `ahead` is how many seconds of film a paced engine may be before the clock: less, and a command
    shows sooner; more, and a slow chunk is not seen. Films of one model share `turns`: a turn is a
    few commands and a chunk, whatever a film was sent, and long work passes the turn on now and
    then. `listen` is called in the engine's thread with every chunk and must return at once.
    """

    def __init__(
        self,
        session: Session,
        pace: float | None = 1.0,
        listen: Callable[[Shown], None] | None = None,
        bounds: Bounds = NO_BOUNDS,
        ahead: float = AHEAD,
        turns: Turns | None = None,
    ):
        self._turns = turns or Turns()
        self.session = session
        self.pace = pace
        self.bounds = bounds
        self.ahead = ahead
        session.reel.noted, session.reel.between = NOTED, self._between
        self._listen = listen
        self._commands: queue.Queue[tuple[Callable[[Session], object], Future] | None] = (
            queue.Queue()
        )
        self._ending = threading.Event()
        self._box: Shown | None = None
        self._new = threading.Condition()
        self._times: deque = deque(maxlen=RECENT)
        self._readout = Readout(chunks=len(session.nodes), desk=session.desk)
        self._due = 0.0
        self._resumed = None
        self._owed = 0  # chunks that others made while our work was too long for one turn
        self._chunk_bytes = sum(
            file.stat().st_size for file in (session.folder / "chunks").glob("*.safetensors")
        )
        # chunks that the head's state still lacks, and how many it lacked
        self._behind = deque[int]()
        self._to_remember = 0
        self._look_behind()
        self._thread = threading.Thread(target=self._run, name="cinelab-engine", daemon=True)
        self._thread.start()

    def send(self, command: str, **value) -> "Future[str]":
        """Ask for a command; its ticket's result is one line, or a CinelabError. Commands keep
        their order."""
        return self.call(lambda _session: self._do(command, value))

    def call(self, function: Callable[[Session], Result], bounded: bool = True) -> "Future[Result]":
        """Have `function(session)` done in the engine's thread between two chunks, in order with
        the commands. The film waits for it, so it should be short. Without `bounded` it does not
        count as a command that waits."""
        ticket: Future = Future()
        most = self.bounds.waiting if bounded else None
        if not self._thread.is_alive():
            ticket.set_exception(CinelabError("The engine has ended; open the session again."))
        elif most is not None and self._commands.qsize() >= most:
            ticket.set_exception(
                CinelabError(
                    f"{most} commands wait already, which is the most here; give them time."
                )
            )
        else:
            self._commands.put((function, ticket))
        return ticket

    def pause(self, why: str = "Paused.") -> "Future[str]":
        """Pause a film that plays, however many commands wait, and say why in the read-out; one
        that stands stays as it is."""
        return self.call(lambda session: self._pause(session, why), bounded=False)

    def latest(self, after: int | None = None, timeout: float | None = None) -> Shown | None:
        """The newest pictures, those of a chunk other than `after`; None when the time is up."""
        with self._new:
            self._new.wait_for(lambda: self._box is not None and self._box.node != after, timeout)
            return self._box if self._box is not None and self._box.node != after else None

    @property
    def readout(self) -> Readout:
        return replace(self._readout, waiting=self._commands.qsize())

    def close(self, timeout: float = 30.0) -> None:
        """End after the running chunk; remembering a long film stops at once. What was made is on
        the disk."""
        self._ending.set()
        self._commands.put(None)
        self._thread.join(timeout)

    # ---- the engine's thread

    def _run(self) -> None:
        while True:
            sent = self._received(wait=not (self.session.desk.playing or self._behind))
            if not sent and not self._behind and not self._on_time():
                continue
            with self._turns:
                if not self._turn(sent):
                    break
        self._refuse()

    def _turn(self, sent: list) -> bool:
        """What we do when it is our turn: a few commands, what must be remembered first, and a
        chunk; one more where others went ahead while our work was too long for one turn. False at
        the end."""
        began = time.monotonic()
        if not self._obey(sent):
            return False
        self._remember(until=began + SLICE)
        if self._behind:
            self._owe()
        if self._makes():
            self._make_one()
        if self._owed and self._makes():
            self._owed -= 1
            self._make_one()
        return True

    def _owe(self) -> None:
        """The others make a chunk before we do; only a film that plays makes up for it."""
        self._owed = min(OWED, self._owed + 1) if self.session.desk.playing else 0

    def _makes(self) -> bool:
        """Whether the next chunk is to be made in this turn."""
        return (
            self.session.desk.playing
            and not self._behind
            and self._early() <= 0
            and not self._ending.is_set()
        )

    def _received(self, wait: bool) -> list:
        """The next commands, as many as a turn may carry out; while nothing plays, wait for one."""
        sent = [self._commands.get()] if wait else []
        with suppress(queue.Empty):
            while len(sent) < A_TURN:
                sent.append(self._commands.get_nowait())
        return sent

    def _obey(self, sent: list) -> bool:
        """Carry out what was sent, in order; False at the end."""
        for place, one in enumerate(sent):
            if one is None:
                self._fail(sent[place + 1 :])
                return False
            self._carry_out(*one)
        return True

    def _refuse(self) -> None:
        """What was sent after the end gets its answer too."""
        while not self._commands.empty():
            self._fail([self._commands.get()])

    @staticmethod
    def _fail(sent: list) -> None:
        for one in filter(None, sent):
            one[1].set_exception(CinelabError("The engine has ended; open the session again."))

    def _between(self) -> None:
        """Called between two chunks that are remembered again."""
        if self._ending.is_set() and threading.current_thread() is self._thread:
            raise CinelabError("The engine ends; open the session again.")
        if self._turns.pass_on():
            self._owe()

    def _carry_out(self, function: Callable[[Session], object], ticket: Future) -> None:
        was = self.session.desk.playing
        try:
            result = function(self.session)
        except Exception as error:  # whatever it is, the engine lives on to obey the next
            told = (
                error
                if isinstance(error, CinelabError)
                else CinelabError(f"{type(error).__name__}: {error}")
            )
            self._tell(error=str(told))
            ticket.set_exception(told)
            return
        if self.session.desk.playing and not was:
            self._due = self._resumed = time.monotonic()
        self._look_behind()
        self._tell()
        ticket.set_result(result)

    def _do(self, command: str, value: dict) -> str:
        if command != "pause" and (full := self._full(command)):
            raise CinelabError(full)
        try:
            said = self.session.do(command, **value)
        except TypeError as error:
            raise CinelabError(f"{command}: {error}") from error
        self._tell(said=said, error="")
        return said

    def _pause(self, session: Session, why: str) -> str:
        if session.desk.playing:
            session.do("pause")
            self._tell(said=why, error="")
        return why

    def _full(self, command: str = "resume") -> str:
        """Why a command cannot be carried out any more, "" where it can."""
        chunks = self.bounds.chunks
        most = self.bounds.bytes
        if command == "resume" and chunks is not None and len(self.session.nodes) >= chunks:
            return f"The film has {chunks} chunks with all its takes, the most here; export it, or begin a new one."
        if self.bounds.log is not None and self._log_bytes() >= self.bounds.log:
            return f"The film's log takes {self.bounds.log / 2**20:.3g} MiB, the most here; export it, or begin a new one."
        if most is not None and self._log_bytes() + self._chunk_bytes >= most:
            return f"The film takes {most / 2**20:.3g} MiB, the most here; export it, or begin a new one."
        return ""

    def _log_bytes(self) -> int:
        try:
            return (self.session.folder / "log.jsonl").stat().st_size
        except OSError:  # there is none yet
            return 0

    def _look_behind(self) -> None:
        """Find out what must be remembered before the film can go on from its head. Where a command
        left that as it was, the count goes on."""
        before = self._behind
        self._behind = deque(self.session.missing(self.session.desk.head))
        if self._behind != before:
            self._to_remember = len(self._behind)
        self._tell_remembering()

    def _tell_remembering(self) -> None:
        done = self._to_remember - len(self._behind)
        self._tell(remembering=(done, self._to_remember) if self._behind else None)

    def _remember(self, until: float) -> None:
        """Chunks of a film that was opened again, or of a branch far back, until the turn has
        lasted long enough: commands and other films come between. What takes less than that costs
        the film no chunk."""
        while self._behind and self._commands.empty() and not self._ending.is_set():
            self._remember_one()
            if time.monotonic() > until:
                return

    def _remember_one(self) -> None:
        try:
            self.session.state(self._behind.popleft())
        # a chunk that cannot be read: tried again when the film is to go on
        except Exception as error:
            self._behind.clear()
            if not self._ending.is_set():
                self._stop(error)
        self._tell_remembering()

    def _make(self) -> TimedChunk | None:
        """The next chunk; None where it cannot be made, and then the film waits for orders."""
        if full := self._full():
            return self._halt(said=full)
        try:
            return self.session.step()
        # a full disk, a film that is too long: say it, keep what is there
        except Exception as error:
            return self._stop(error)

    def _stop(self, error: Exception) -> None:
        """Wait for orders because of an error, and say it."""
        self._halt(
            error=str(error)
            if isinstance(error, CinelabError)
            else f"{type(error).__name__}: {error}"
        )

    def _halt(self, **said: str) -> None:
        self.session.desk = replace(self.session.desk, playing=False)
        self._tell(**said)

    def _make_one(self) -> None:
        began = time.monotonic()
        timed = self._make()
        if timed is not None:
            self._made(timed, began)

    def _made(self, timed: TimedChunk, began: float) -> None:
        """Show a chunk and note how it went."""
        now = time.monotonic()
        frames = timed.frames[0]
        node = self.session.desk.head
        with suppress(OSError):  # a file that somebody has taken away counts for nothing
            self._chunk_bytes += (
                (self.session.folder / "chunks" / f"{node:05d}.safetensors").stat().st_size
            )
        self._times.append((len(frames), now - began, timed.seconds))
        if self.pace:
            self._due = (
                max(self._due, began - self.ahead)
                + len(frames) / self.session.reel.bundle.fps / self.pace
            )
        self._show(
            Shown(node, frames, now, self.session.nodes[node], self.session.state(node).memory)
        )
        self._count(now)
        if len(self.session.nodes) % TIDY == 0:
            give_back_memory()
        if full := self._full():
            self._halt(said=full)

    def _early(self) -> float:
        """Seconds until the next chunk is due."""
        return self._due - self.ahead - time.monotonic() if self.pace else 0.0

    def _on_time(self) -> bool:
        """Whether the next chunk is due; else sleep a little, so that commands are obeyed
        meanwhile."""
        early = self._early()
        if early > 0:
            time.sleep(min(early, 0.01))
        return early <= 0

    def _show(self, shown: Shown) -> None:
        with self._new:
            self._box = shown
            self._new.notify_all()
        if self._listen:
            self._listen(shown)

    def _count(self, now: float) -> None:
        pictures, seconds = (sum(row[i] for row in self._times) for i in (0, 1))
        causes = {
            cause: sum(row[2][cause] for row in self._times) / max(seconds, 1e-9)
            for cause in self._times[-1][2]
        }
        changes: dict = {
            "chunks": len(self.session.nodes),
            "rate": pictures / max(seconds, 1e-9),
            "causes": causes,
        }
        if self._resumed is not None:
            changes["first_picture"], self._resumed = now - self._resumed, None
        self._tell(**changes)

    def _tell(self, **changes) -> None:
        desk = self.session.desk
        self._readout = replace(
            self._readout, desk=desk, playing=desk.playing, told=self._readout.told + 1, **changes
        )


def give_back_memory() -> None:
    """Hand freed pages to the system. glibc keeps them, and films of ever other lengths would have
    it keep ever more."""
    # another C library: there is nothing to ask it
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
