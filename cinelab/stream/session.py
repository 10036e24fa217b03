"""A directing session: a film that is made while it is directed; every take is stored and every
command logged.

The film is a tree. A *chunk* has a parent; the film on the desk is the path from the first chunk to
the *head*. A cut begins a shot, a retake goes back to where the shot began, a branch to any earlier
chunk: what was made stays in the tree. Commands change only what is requested of the next chunk, so
nothing made is ever changed or lost.

On disk: session.json (which model), log.jsonl (a line a command and a chunk, in order) and
chunks/<number>.safetensors. A chunk is written before its line, and a command's line before it is
carried out, so a killed session goes on from its last finished chunk, bit for bit: KV cache and
decoder state are computed again from the latents. The same log gives the same film. Every line has
a hash of those before it and every chunk's line the checksum of its file, so a bit that changed on
the disk is noticed.
"""

import inspect
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn
from weakref import WeakValueDictionary

from cinelab.checksums import checksum
from cinelab.config import from_dict, to_dict
from cinelab.errors import CinelabError
from cinelab.files import exists, is_file, write_error, write_json
from cinelab.flow.sampler import Sampling
from cinelab.limits import short
from cinelab.memory.policy import Policy
from cinelab.memory.policy_registry import policy_dict
from cinelab.outputs import writing
from cinelab.script.timeline import CONTINUE
from cinelab.stream.batch import TimedChunk
from cinelab.stream.chunk_file import write_chunk
from cinelab.stream.commands import COMMANDS, DeskState, Settings, checked_settings
from cinelab.stream.generator import ChunkGenerator
from cinelab.stream.session_entries import (
    SCHEMA,
    ChunkEntry,
    CommandEntry,
    Node,
    Record,
    chunk_line,
    device_entry,
    read_record,
    warn_of_device,
)
from cinelab.stream.session_film import SessionFilm
from cinelab.stream.session_limits import ScreenplaySize, check_length
from cinelab.stream.session_log import SessionLog, start_of
from cinelab.zoo.bundle import Bundle

ASIDE = "aside"  # where chunks are moved that the log does not list
# one session a folder may write; opening it again takes over
OPENED: "WeakValueDictionary[Path, Session]" = WeakValueDictionary()
UNDONE = 1000  # commands that can be undone, the last ones


@dataclass
class Session(SessionFilm):
    """A film and its log. Open one with `Session.create` or `Session.resume`; `step()` makes a
    chunk, `do(command, ...)` directs. `Session.read` opens one that another process may be
    directing, for inspection.

    One session at a time writes to a folder: another process is refused, and in the same process
    the newer one takes over.
    """

    _log: SessionLog = field(kw_only=True)
    _lock: ExitStack | None = None  # the folder's lock, of a session that may write
    _interrupted: bool = False  # a line is on the disk, and not yet carried out here
    _before: list[DeskState] = field(default_factory=list)  # for undo
    _screenplay: ScreenplaySize = field(init=False)

    def __post_init__(self):
        super().__post_init__()
        self._screenplay = ScreenplaySize(self.nodes)

    def __getattr__(self, name: str) -> NoReturn:
        now = {"reel": "generator", "ask": "request", "sums": "checksums"}.get(name)
        hint = f"; it is called {now} now" if now else ""
        raise AttributeError(f"Session has no attribute {name!r}{hint}.")

    # ---- opening

    @classmethod
    def create(
        cls,
        folder: str | Path,
        bundle: Bundle,
        settings: Settings | None = None,
        *,
        bf16: bool = False,
    ) -> "Session":
        """Begin a session in an empty or absent folder."""
        folder = Path(folder)
        settings = checked_settings(settings or Settings())
        record = {
            "schema": SCHEMA,
            "model": bundle.name,
            "weights": bundle.fingerprint,
            "bf16": bf16,
            "settings": to_dict(settings),
        } | device_entry(bundle)
        with ExitStack() as lock:
            _take_lock(folder, lock)
            if (folder / "session.json").exists():
                raise CinelabError(
                    f"{folder} already holds a session; continue it, or name another folder."
                )
            if exists(folder / "log.jsonl"):
                raise CinelabError(
                    f"{folder} holds a session's log without its session.json; restore that, or "
                    "name another folder."
                )
            write_json(folder / "session.json", record | {"sum": start_of(record)})
            session = cls(
                folder,
                ChunkGenerator(bundle, bf16),
                DeskState(settings),
                _log=SessionLog(folder / "log.jsonl", start_of(record), chained=True),
            )
            return session._opened(lock)

    @classmethod
    def resume(cls, folder: str | Path, bundle: Bundle) -> "Session":
        """Go on with a session from its folder. Refuse one of another model."""
        folder = Path(folder)
        record = read_record(folder)
        with ExitStack() as lock:
            _take_lock(folder, lock)
            session = cls._of(folder, record, bundle)
            warn_of_device(folder, record, bundle)
            session._log.mend()
            session._replay(record)
            session._put_aside()
            return session._opened(lock)

    @classmethod
    def read(cls, folder: str | Path, bundle: Bundle) -> "Session":
        """Open a session for inspection: nothing in its folder changes, and whoever directs it is
        not disturbed."""
        record = read_record(Path(folder))
        session = cls._of(Path(folder), record, bundle)
        session._replay(record)
        return session

    @classmethod
    def _of(cls, folder: Path, record: Record, bundle: Bundle) -> "Session":
        if record.weights != bundle.fingerprint:
            raise CinelabError(
                f"{folder} was made with {record.model} ({record.weights}), not with these weights "
                f"of {bundle.name}; load {record.model}, or begin a new session."
            )
        log = SessionLog(folder / "log.jsonl", record.sum or "", record.sum is not None)
        return cls(folder, ChunkGenerator(bundle, record.bf16), _log=log)

    def close(self) -> None:
        """Release the folder: this session can be read from then on, and another one may write."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _opened(self, lock: ExitStack) -> "Session":
        """Take over the folder's lock: from here on this session writes."""
        self._lock = lock.pop_all()
        OPENED[self.folder.resolve()] = self
        return self

    @property
    def log(self) -> list[dict]:
        """Every line of the log, without a last one that a kill cut short."""
        return SessionLog(self._log.path, self._log.start, self._log.chained).read()

    def _replay(self, record: Record) -> None:
        """Carry out every line of the log, without making a chunk again."""
        self.desk = DeskState(record.settings)
        try:
            for number, line in enumerate(self._log.read(), 1):
                self._replay_line(line, number)
        except CinelabError as error:  # such as a policy whose class is not here
            raise CinelabError(f"{self.folder} cannot be gone on with: {error}") from error
        self.desk = replace(self.desk, playing=False)

    def _replay_line(self, line: dict, number: int) -> None:
        try:
            if "made" not in line:
                command = from_dict(CommandEntry, line)
                return self._apply(command.do, self._outcome(command.do, command.value)[0])
            entry = from_dict(ChunkEntry, line)
        except CinelabError as error:
            raise CinelabError(f"line {number} of {self._log.path.name}: {error}") from error
        node = entry.made
        if node.number != len(self.nodes) or (
            node.parent is not None and node.parent not in self.nodes
        ):
            raise CinelabError(
                f"line {number} of {self._log.path.name} is of chunk {node.number}, which does not "
                "follow the lines before it; restore the file."
            )
        self._add(node)
        if entry.sum:
            self.checksums[node.number] = entry.sum

    def _put_aside(self) -> None:
        """Move chunks that the log does not list (it lost its end, or a kill came between a chunk
        and its line) out of the way."""
        unlisted = [
            path
            for path in sorted((self.folder / "chunks").glob("*.safetensors"))
            if self._unknown(path)
        ]
        place = self.folder / ASIDE
        try:
            for path in unlisted:
                place.mkdir(exist_ok=True)
                path.replace(place / f"{path.stem}-{checksum(path)[:8]}.safetensors")
        except OSError as error:
            raise write_error(place, error) from error
        if unlisted:
            warnings.warn(
                f"{self.folder}: {len(unlisted)} chunk(s) that the log does not know were moved "
                f"to {ASIDE}/.",
                stacklevel=3,
            )

    def _unknown(self, path: Path) -> bool:
        return not (
            path.stem.isdigit() and int(path.stem) in self.nodes
        ) and not path.name.startswith(".")

    # ---- directing

    def do(self, command: str, **value) -> str:
        """Carry out a command between two chunks; return one line that says what happened. Raise
        CinelabError where it cannot be carried out, and then nothing has changed: the desk changes
        once the line is on the disk."""
        desk, message = self._outcome(command, value)
        if command == "policy" and isinstance(policy := desk.settings.policy, Policy):
            # whole, so that it is the same in a process that does not know the name
            value = {"value": policy_dict(policy)}
        if command == "levels":
            steps = desk.settings.steps
            value = {"value": to_dict(steps) if isinstance(steps, Sampling) else steps}
        with self._logged({"do": command, "value": value, "after": self.desk.head}):
            self._apply(command, desk)
        return message

    def _outcome(self, command: str, value: dict) -> tuple[DeskState, str]:
        """Return the desk after a command, and one line on what happened. Raise CinelabError where
        it cannot be carried out."""
        if not isinstance(command, str) or command not in COMMANDS:
            raise CinelabError(
                f"Command {short(command)} is unknown; use one of {', '.join(COMMANDS)}."
            )
        if command == "undo":
            if value:
                raise CinelabError(
                    f"Command 'undo' takes nothing, not {', '.join(map(short, value))}."
                )
            if not self._before:
                raise CinelabError("There is nothing to undo.")
            desk = replace(self._before[-1], playing=self.desk.playing)
            return desk, "Undone: " + self.place(desk)
        try:
            inspect.signature(COMMANDS[command]).bind(self, self.desk, **value)
        except TypeError as error:
            raise CinelabError(
                f"Command {command!r} was given {', '.join(map(short, value)) or 'nothing'}: "
                f"{error}."
            ) from error
        return COMMANDS[command](self, self.desk, **value)

    def _apply(self, command: str, desk: DeskState) -> None:
        """Put the desk into the state that a command left it in."""
        if command == "undo":
            self._before.pop()
        elif command not in ("pause", "resume"):
            self._before.append(self.desk)
            del self._before[:-UNDONE]
        self.desk = desk

    def place(self, desk: DeskState | None = None) -> str:
        """Return where the film stands, in a few words."""
        head = (desk or self.desk).head
        if head is None:
            return "at the film's beginning."
        node = self.nodes[head]
        return f"shot {node.shot + 1}, chunk {node.index + 1}."

    # ---- making

    def step(self) -> TimedChunk:
        """Make the next chunk and add it to the tree."""
        return self.make(self._next())

    def make(self, node: Node) -> TimedChunk:
        """Make a chunk that is fully described, such as one of another session's log or of a
        screenplay."""
        self._writable()
        state, timed = self.generator.step(self.state(node.parent), self.request(node))
        decisions = state.cache.decisions_of(node.index)
        written = write_chunk(self._file(node.number), timed.latents, decisions)
        with self._logged(chunk_line(node, timed.seconds, written)):
            self._add(node)
            self.checksums[node.number] = written
        self._states.put(node.number, state)
        return timed

    def _next(self) -> Node:
        """Describe the next chunk: what the desk requests of it."""
        desk = self.desk
        head = None if desk.head is None else self.nodes[desk.head]
        settings = desk.again[0] if desk.again else desk.settings
        if not settings.prompt:
            raise CinelabError("There is no prompt yet; say what the first shot shows.")
        cut = head is not None and desk.cut
        prompt = settings.prompt
        if head is not None:
            check_length(self.generator.bundle, self.nodes, head, cut=cut)
            if not cut and self._continues(head, prompt):
                prompt = f"{CONTINUE} {prompt}"
        node = Node(
            number=len(self.nodes),
            parent=desk.head,
            shot=head.shot + cut if head else 0,
            cut=cut,
            settings=settings,
            model_prompt=prompt,
            recache=desk.recache and not cut and head is not None,
            index=head.index + 1 if head else 0,
        )
        self._screenplay.check(node)
        return node

    def _continues(self, head: Node, prompt: str) -> bool:
        """Return whether a prompt in mid-shot is given to the model as a continuation: it is not
        the shot's opening, or an entry of a screenplay stated it so."""
        shot = [self.nodes[number] for number in self.shot_nodes(head.number)]
        return prompt != shot[0].settings.prompt or any(
            node.model_prompt == f"{CONTINUE} {prompt}" for node in shot
        )

    def _add(self, node: Node) -> None:
        """Make a finished chunk the head; requests for one chunk alone are done."""
        self.nodes[node.number] = node
        if node.cut and node.parent is not None:
            self._states.openings.add(node.parent)
        again = self.desk.again[1:]
        self.desk = replace(
            self.desk,
            head=node.number,
            cut=False,
            again=again,
            recache=bool(again)
            and again[0].prompt != node.settings.prompt
            and again[0].switch == "recache",
        )

    # ---- writing

    @contextmanager
    def _logged(self, line: dict) -> Iterator[None]:
        """Write one line, and then carry it out in the block. An interrupt in between leaves this
        session behind its log, and it refuses to write from then on."""
        self._writable()
        self._interrupted = True
        try:
            self._log.append(line)
        except BaseException:  # should the line be there after all, the log refuses the next one
            self._interrupted = False
            raise
        yield
        self._interrupted = False

    def _writable(self) -> None:
        """Refuse where nothing may be written, or where it would not be found again."""
        if self._lock is None:
            raise CinelabError(
                f"This session of {self.folder} is closed or only read; open the folder with "
                "Session.resume to direct it."
            )
        if self._interrupted:
            raise CinelabError(
                f"This session of {self.folder} was interrupted while it wrote; open the folder "
                "again with Session.resume."
            )
        if not is_file(self.folder / "session.json"):
            raise CinelabError(
                f"{self.folder} has no session.json any more; put the folder back, or begin a new "
                "session."
            )
        self._log.check()


def _take_lock(folder: Path, lock: ExitStack) -> None:
    """Take the folder's lock; a session of this process that has it releases it."""
    if older := OPENED.pop(folder.resolve(), None):
        older.close()
    lock.enter_context(writing(folder / "chunks", what=folder))
