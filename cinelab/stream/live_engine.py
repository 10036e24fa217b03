"""The desk's engine: one thread makes chunks and carries out commands between them; nothing else
touches the model.

    engine = LiveEngine(session)
    engine.send("prompt", text="...")
    engine.send("resume")
    engine.latest()
    engine.close()

`send` and `call` return at once with a future that resolves to what happened. Frames go to a
mailbox where the newest wins, so a slow viewer gets fewer of them and never slows the engine; every
chunk is in the session's folder all the same.
"""

import ctypes
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from cinelab.errors import CinelabError
from cinelab.stream.batch import TimedChunk
from cinelab.stream.fair_lock import TURN, FairLock
from cinelab.stream.readout import UNBOUNDED, FilmBounds, LiveChunk, Readout
from cinelab.stream.session import Node, Session

Result = TypeVar("Result")
Task = tuple[Callable[[Session], object], Future]

AHEAD = 0.5  # seconds of film that a paced engine may be ahead of the clock
RECENT = 32  # chunks that the rates of the readout are taken over
TIDY = 50  # chunks after which freed memory goes back to the system
A_TURN = 8  # commands that one turn carries out before its chunk
OWED = 100  # chunks at most that a film makes up for after it passed its turn on
# chunks whose routing decisions a running film stores: those of a whole film would fill the memory
KEEP_DECISIONS = 1


class LiveEngine:
    """Runs a session in a thread of its own. `pace` 1 is as fast as the film plays, None as fast as
    possible.

    `ahead` is how many seconds of film a paced engine may be before the clock: less, and a command
    takes effect sooner; more, and a slow chunk is not visible. Films of one model share `turns`: a
    turn is a few commands and a chunk, whatever a film was sent, and long work passes the turn on
    now and then. `listen` is called in the engine's thread with every chunk and must return at
    once.
    """

    def __init__(
        self,
        session: Session,
        pace: float | None = 1.0,
        listen: Callable[[LiveChunk], None] | None = None,
        *,
        bounds: FilmBounds = UNBOUNDED,
        ahead: float = AHEAD,
        turns: FairLock | None = None,
    ):
        self._turns = turns or FairLock()
        self.session = session
        self.pace = pace
        self.bounds = bounds
        self.ahead = ahead
        session.generator.keep_decisions = KEEP_DECISIONS
        session.generator.between = self._between
        self._listen = listen
        self._commands: queue.Queue[Task | None] = queue.Queue()
        self._ending = threading.Event()
        self._mailbox: LiveChunk | None = None
        self._arrived = threading.Condition()
        # frames, seconds and seconds by cause of recent chunks
        self._times: deque[tuple[int, float, dict[str, float]]] = deque(maxlen=RECENT)
        self._readout = Readout(chunks=len(session.nodes), desk=session.desk)
        self._due = 0.0
        self._resumed: float | None = None
        self._owed = 0  # chunks that others made while our work was too long for one turn
        files = (session.folder / "chunks").glob("*.safetensors")
        self._chunk_bytes = sum(file.stat().st_size for file in files)
        # chunks that the head's state still lacks, and how many it lacked
        self._missing = deque[int]()
        self._to_recall = 0
        self._find_missing()
        self._thread = threading.Thread(target=self._run, name="cinelab-engine", daemon=True)
        self._thread.start()

    def send(self, command: str, **value) -> "Future[str]":
        """Request a command; the future resolves to one line, or raises a CinelabError. Commands
        are carried out in order."""
        return self.call(lambda _session: self._do(command, value))

    def call(
        self, function: Callable[[Session], Result], *, bounded: bool = True
    ) -> "Future[Result]":
        """Run `function(session)` in the engine's thread between two chunks, in order with the
        commands. The film waits for it, so it should be short. Without `bounded` it does not count
        as a command that waits."""
        future: Future = Future()
        most = self.bounds.waiting if bounded else None
        if not self._thread.is_alive():
            future.set_exception(CinelabError("The engine has ended; open the session again."))
        elif most is not None and self._commands.qsize() >= most:
            future.set_exception(
                CinelabError(
                    f"{most} commands wait already, which is the most here; give them time."
                )
            )
        else:
            self._commands.put((function, future))
        return future

    def pause(self, why: str = "Paused.") -> "Future[str]":
        """Pause a film that plays, however many commands wait, with the reason as the readout's
        message; one that is paused stays as it is."""
        return self.call(lambda session: self._pause(session, why), bounded=False)

    def latest(self, after: int | None = None, timeout: float | None = None) -> LiveChunk | None:
        """Return the newest chunk, one other than `after`; None when the time is up."""
        with self._arrived:
            self._arrived.wait_for(
                lambda: self._mailbox is not None and self._mailbox.node != after, timeout
            )
            return (
                self._mailbox if self._mailbox is not None and self._mailbox.node != after else None
            )

    @property
    def readout(self) -> Readout:
        """The state of the engine."""
        return replace(self._readout, waiting=self._commands.qsize())

    def close(self, timeout: float = 30.0) -> None:
        """End after the running chunk; recalling a long film stops at once. What was made is on the
        disk."""
        self._ending.set()
        self._commands.put(None)
        self._thread.join(timeout)

    # ---- the engine's thread

    def _run(self) -> None:
        while True:
            sent = self._next_commands(wait=not (self.session.desk.playing or self._missing))
            if not sent and not self._missing and not self._on_time():
                continue
            with self._turns:
                if not self._take_turn(sent):
                    break
        self._fail_rest()

    def _take_turn(self, sent: list) -> bool:
        """Use a turn: carry out a few commands, recall what the next chunk needs, make a chunk; and
        one more where other films went ahead while this one's work was too long for one turn.
        Return False at the end."""
        began = time.monotonic()
        if not self._carry_out_all(sent):
            return False
        self._recall(until=began + TURN)
        if self._missing:
            self._owe_chunk()
        if self._may_make():
            self._make_one()
        if self._owed and self._may_make():
            self._owed -= 1
            self._make_one()
        return True

    def _owe_chunk(self) -> None:
        """Note that other films make a chunk first; only a film that plays makes up for it."""
        self._owed = min(OWED, self._owed + 1) if self.session.desk.playing else 0

    def _may_make(self) -> bool:
        """Return whether the next chunk is to be made in this turn."""
        return (
            self.session.desk.playing
            and not self._missing
            and self._early() <= 0
            and not self._ending.is_set()
        )

    def _next_commands(self, wait: bool) -> list:
        """Return the next commands, as many as a turn may carry out; while nothing plays, wait for
        one."""
        sent = [self._commands.get()] if wait else []
        with suppress(queue.Empty):
            while len(sent) < A_TURN:
                sent.append(self._commands.get_nowait())
        return sent

    def _carry_out_all(self, sent: list) -> bool:
        """Carry out what was sent, in order. Return False at the end."""
        for place, one in enumerate(sent):
            if one is None:
                self._fail(sent[place + 1 :])
                return False
            self._carry_out(*one)
        return True

    def _fail_rest(self) -> None:
        """Fail what was sent after the end."""
        while not self._commands.empty():
            self._fail([self._commands.get()])

    @staticmethod
    def _fail(sent: list) -> None:
        for one in filter(None, sent):
            one[1].set_exception(CinelabError("The engine has ended; open the session again."))

    def _between(self) -> None:
        """Pass the turn on between two chunks that are recalled, if it is time."""
        if self._ending.is_set() and threading.current_thread() is self._thread:
            raise CinelabError("The engine ends; open the session again.")
        if self._turns.pass_on():
            self._owe_chunk()

    def _carry_out(self, function: Callable[[Session], object], future: Future) -> None:
        was = self.session.desk.playing
        try:
            result = function(self.session)
        except Exception as error:  # whatever it is, the engine goes on to carry out the next
            sentence = _sentence(error)
            self._report(error=sentence)
            future.set_exception(
                error if isinstance(error, CinelabError) else CinelabError(sentence)
            )
            return
        if self.session.desk.playing and not was:
            self._due = self._resumed = time.monotonic()
        self._find_missing()
        self._report()
        future.set_result(result)

    def _do(self, command: str, value: dict) -> str:
        if command != "pause" and (full := self._full(command)):
            raise CinelabError(full)
        try:
            message = self.session.do(command, **value)
        except TypeError as error:
            raise CinelabError(f"{command}: {error}") from error
        self._report(message=message, error="")
        return message

    def _pause(self, session: Session, why: str) -> str:
        if session.desk.playing:
            session.do("pause")
            self._report(message=why, error="")
        return why

    def _full(self, command: str = "resume") -> str:
        """Return why a command cannot be carried out any more, "" where it can."""
        chunks = self.bounds.chunks
        log = self.bounds.log
        most = self.bounds.bytes
        remedy = "the most here; export it, or begin a new one."
        if command == "resume" and chunks is not None and len(self.session.nodes) >= chunks:
            return f"The film has {chunks} chunks with all its takes, {remedy}"
        if log is not None and self._log_bytes() >= log:
            return f"The film's log takes {log / 2**20:.3g} MiB, {remedy}"
        if most is not None and self._log_bytes() + self._chunk_bytes >= most:
            return f"The film takes {most / 2**20:.3g} MiB, {remedy}"
        return ""

    def _log_bytes(self) -> int:
        try:
            return (self.session.folder / "log.jsonl").stat().st_size
        except OSError:  # there is none yet
            return 0

    def _find_missing(self) -> None:
        """Find the chunks that must be recalled before the film can go on from its head. Where a
        command left them as they were, the count goes on."""
        before = self._missing
        self._missing = deque(self.session.missing(self.session.desk.head))
        if self._missing != before:
            self._to_recall = len(self._missing)
        self._report_recall()

    def _report_recall(self) -> None:
        done = self._to_recall - len(self._missing)
        self._report(remembering=(done, self._to_recall) if self._missing else None)

    def _recall(self, until: float) -> None:
        """Recall chunks, of a film that was opened again or of a branch far back, until the turn
        has lasted long enough: commands and other films come between. What takes less than that
        costs the film no chunk."""
        while self._missing and self._commands.empty() and not self._ending.is_set():
            self._recall_one()
            if time.monotonic() > until:
                return

    def _recall_one(self) -> None:
        try:
            self.session.state(self._missing.popleft())
        # a chunk that cannot be read: tried again when the film is to go on
        except Exception as error:
            self._missing.clear()
            if not self._ending.is_set():
                self._stop(error)
        self._report_recall()

    def _make(self) -> TimedChunk | None:
        """Make the next chunk; None where it cannot be made, and then the film is paused."""
        if full := self._full():
            self._halt(message=full)
            return None
        try:
            return self.session.step()
        # a full disk, a film that is too long: report it, leave what is there
        except Exception as error:
            self._stop(error)
            return None

    def _stop(self, error: Exception) -> None:
        """Pause the film because of an error, and report it."""
        self._halt(error=_sentence(error))

    def _halt(self, **report: str) -> None:
        """Pause the film without a command."""
        self.session.desk = replace(self.session.desk, playing=False)
        self._report(**report)

    def _make_one(self) -> None:
        began = time.monotonic()
        timed = self._make()
        if timed is not None:
            self._made(timed, began)

    def _made(self, timed: TimedChunk, began: float) -> None:
        """Show a chunk, and record how long it took."""
        now = time.monotonic()
        node = self._head()
        frames = timed.frames[0]
        with suppress(OSError):  # a file that somebody has removed counts for nothing
            file = self.session.folder / "chunks" / f"{node.number:05d}.safetensors"
            self._chunk_bytes += file.stat().st_size
        self._times.append((len(frames), now - began, timed.seconds))
        if self.pace:
            seconds = len(frames) / self.session.generator.bundle.fps / self.pace
            self._due = max(self._due, began - self.ahead) + seconds
        cache = self.session.state(node.number).cache
        self._show(LiveChunk(node.number, frames, now, node, cache))
        self._report_rates(now)
        if len(self.session.nodes) % TIDY == 0:
            trim_heap()
        if full := self._full():
            self._halt(message=full)

    def _head(self) -> Node:
        """Return the chunk that was made last."""
        assert self.session.desk.head is not None
        return self.session.nodes[self.session.desk.head]

    def _early(self) -> float:
        """Return the seconds until the next chunk is due."""
        return self._due - self.ahead - time.monotonic() if self.pace else 0.0

    def _on_time(self) -> bool:
        """Return whether the next chunk is due; else sleep a little, so that commands are carried
        out meanwhile."""
        early = self._early()
        if early > 0:
            time.sleep(min(early, 0.01))
        return early <= 0

    def _show(self, shown: LiveChunk) -> None:
        with self._arrived:
            self._mailbox = shown
            self._arrived.notify_all()
        if self._listen:
            self._listen(shown)

    def _report_rates(self, now: float) -> None:
        """Report the rates over the recent chunks."""
        frames = sum(count for count, _, _ in self._times)
        seconds = max(sum(taken for _, taken, _ in self._times), 1e-9)
        causes = {
            cause: sum(by_cause[cause] for _, _, by_cause in self._times) / seconds
            for cause in self._times[-1][2]
        }
        changes: dict = {
            "chunks": len(self.session.nodes),
            "rate": frames / seconds,
            "causes": causes,
        }
        if self._resumed is not None:
            changes["first_frame"] = now - self._resumed
            self._resumed = None
        self._report(**changes)

    def _report(self, **changes) -> None:
        desk = self.session.desk
        self._readout = replace(
            self._readout,
            desk=desk,
            playing=desk.playing,
            serial=self._readout.serial + 1,
            **changes,
        )


def _sentence(error: Exception) -> str:
    """Return an error as the readout shows it."""
    known = isinstance(error, CinelabError)
    return str(error) if known else f"{type(error).__name__}: {error}"


def trim_heap() -> None:
    """Return freed pages to the system: varying film lengths fragment glibc's heap, which would
    grow ever larger."""
    # another C library has no such function
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
