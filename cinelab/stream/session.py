"""A directing session: a film that is made while it is directed, every take kept, every command
logged.

The film is a tree. A *chunk* has a parent; the film on the desk is the path from the first chunk to
the *head*. A cut begins a shot, a retake goes back to where the shot began, a branch to any earlier
chunk: what was made stays in the tree. Commands change only what the next chunk is asked to be, so
nothing made is ever changed or lost.

On disk: session.json (which model), log.jsonl (a line a command and a chunk, in order) and
chunks/<number>.safetensors. A chunk is written before its line, and a command's line before it is
carried out, so a killed session goes on from its last finished chunk, bit for bit: keys, values and
decoder are made again from the latents. The same log gives the same film. Every line has a hash of
those before it and every chunk's line the checksum of its file, so a bit that changed on the disk
is noticed.
"""

import inspect
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import pandas as pd

from cinelab.checksums import checksum, without
from cinelab.config import from_dict, read_as, to_dict
from cinelab.errors import CinelabError
from cinelab.files import exists, is_file, write_error, write_json
from cinelab.flow.sampler import Sampling
from cinelab.limits import DIRECTED, LATENTS, SECONDS, short
from cinelab.memory.policy import Policy, policy_dict
from cinelab.outputs import writing
from cinelab.readable import Readable
from cinelab.script.screenplay import ROOM as SCREENPLAY_ROOM
from cinelab.script.screenplay import PromptChange, size_of
from cinelab.script.timeline import CONTINUE
from cinelab.stream.batch import TimedChunk, policy_for
from cinelab.stream.chunk_file import decisions_in, read_chunk, write_chunk
from cinelab.stream.commands import COMMANDS, Desk, Settings, asked, checked, news
from cinelab.stream.generator import ChunkGenerator, ChunkRequest, FilmState
from cinelab.stream.session_log import SessionLog, start_of
from cinelab.texts import read_json
from cinelab.zoo.bundle import Bundle

# 1 had neither hashes nor checksums
SCHEMA = 2
READ = (1, 2)
ASIDE = "aside"  # where chunks are moved that the log knows nothing of
# one session a folder may write; opening it again takes over
OPENED: "WeakValueDictionary[Path, Session]" = WeakValueDictionary()
UNDONE = 1000  # commands that can be undone, the last ones
# states kept ready: the newest, and those that shots began from (for retakes); others are made
# again
RECENT = 2
OPENINGS = 4


@dataclass(frozen=True)
class Node:
    """One finished chunk: its place in the tree and what it was asked to be."""

    number: int
    parent: int | None
    shot: int
    cut: bool
    said: Settings  # as the director said it
    text: str  # as the model was told it
    recache: bool
    index: int  # chunks before it in its film


@dataclass(frozen=True)
class Record:
    """What session.json holds."""

    schema: int
    model: str
    weights: str
    bf16: bool
    settings: Settings
    sum: str | None = None  # of the others


@dataclass
class Session(Readable):
    """Open one with `Session.create` or `Session.resume`; `step()` makes a chunk, `do(command,
    ...)` directs. `Session.read` opens one that another process may be directing, to be looked
    into.

    One session at a time writes to a folder: another process is refused, and in the same process
    the newer one takes over.
    """

    folder: Path
    reel: ChunkGenerator
    desk: Desk = field(default_factory=Desk)
    nodes: dict[int, Node] = field(default_factory=dict)
    sums: dict[int, str] = field(default_factory=dict)  # checksums of the chunks' files
    _log: SessionLog | None = None
    _held: ExitStack | None = None  # the folder's lock, of a session that may write
    _apart: bool = False  # a line is on the disk, and what it says is not yet done here
    _before: list[Desk] = field(default_factory=list)
    _states: "OrderedDict[int, FilmState]" = field(default_factory=OrderedDict)
    _sizes: dict[int, tuple[int, int]] = field(default_factory=dict)  # see `_written`
    _openings: set[int] = field(default_factory=set)  # chunks that a shot was cut after

    # ---- opening

    @classmethod
    def create(
        cls,
        folder: str | Path,
        bundle: Bundle,
        settings: Settings | None = None,
        bf16: bool = False,
    ) -> "Session":
        """A new session in an empty or absent folder."""
        folder = Path(folder)
        settings = checked(settings or Settings())
        record = {
            "schema": SCHEMA,
            "model": bundle.name,
            "weights": bundle.fingerprint,
            "bf16": bf16,
            "settings": to_dict(settings),
        }
        with ExitStack() as held:
            _hold(folder, held)
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
            log = SessionLog(folder / "log.jsonl", start_of(record), chained=True)
            return cls(
                folder, ChunkGenerator(bundle, bf16), Desk(settings), _log=log, _held=held.pop_all()
            )._opened()

    @classmethod
    def resume(cls, folder: str | Path, bundle: Bundle) -> "Session":
        """Go on with a session from its folder; refuses another model's."""
        folder = Path(folder)
        record = read_record(folder)
        with ExitStack() as held:
            _hold(folder, held)
            session = cls._of(folder, record, bundle)
            session._log.mend()
            session._fold_log(record)
            session._put_aside()
            session._held = held.pop_all()
            return session._opened()

    @classmethod
    def read(cls, folder: str | Path, bundle: Bundle) -> "Session":
        """A session to be looked into: nothing in its folder changes, and who directs it is not
        disturbed."""
        record = read_record(Path(folder))
        session = cls._of(Path(folder), record, bundle)
        session._fold_log(record)
        return session

    @classmethod
    def _of(cls, folder: Path, record: Record, bundle: Bundle) -> "Session":
        if record.weights != bundle.fingerprint:
            raise CinelabError(
                f"{folder} was made with {record.model} ({record.weights}), not with these weights "
                f"of {bundle.name}; load {record.model}, or begin a new session."
            )
        return cls(
            folder,
            ChunkGenerator(bundle, record.bf16),
            _log=SessionLog(folder / "log.jsonl", record.sum or "", record.sum is not None),
        )

    def close(self) -> None:
        """Let go of the folder: this session can be read from then on, and another one may
        write."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _opened(self) -> "Session":
        OPENED[self.folder.resolve()] = self
        return self

    @property
    def log(self) -> list[dict]:
        """Every line of the log; a last line that a kill cut short does not count."""
        return SessionLog(self._log.path, self._log.start, self._log.chained).read()

    def _fold_log(self, record: Record) -> None:
        """Stand where the log ends."""
        self.desk = Desk(record.settings)
        try:
            for number, line in enumerate(self._log.read(), 1):
                self._fold(line, number)
        except CinelabError as error:  # such as a policy whose class is not here
            raise CinelabError(f"{self.folder} cannot be gone on with: {error}") from error
        self.desk = replace(self.desk, playing=False)

    def _fold(self, line: dict, number: int) -> None:
        try:
            if "made" not in line:
                entry = from_dict(Command, line)
                return self._put(entry.do, self._outcome(entry.do, entry.value)[0])
            entry = from_dict(Made, line)
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
        self._take_in(node)
        if entry.sum:
            self.sums[node.number] = entry.sum

    def _put_aside(self) -> None:
        """Move chunks that the log does not know (it lost its end, or a kill came between a chunk
        and its line) out of the way."""
        strange = [
            path
            for path in sorted((self.folder / "chunks").glob("*.safetensors"))
            if self._unknown(path)
        ]
        place = self.folder / ASIDE
        try:
            for path in strange:
                place.mkdir(exist_ok=True)
                path.replace(place / f"{path.stem}-{checksum(path)[:8]}.safetensors")
        except OSError as error:
            raise write_error(place, error) from error
        if strange:
            warnings.warn(
                f"{self.folder}: {len(strange)} chunk(s) that the log does not know were moved to "
                f"{ASIDE}/.",
                stacklevel=3,
            )

    def _unknown(self, path: Path) -> bool:
        return not (
            path.stem.isdigit() and int(path.stem) in self.nodes
        ) and not path.name.startswith(".")

    # ---- directing

    def do(self, command: str, **value) -> str:
        """Carry out a command between two chunks; returns one line that says what happened. Raises
        CinelabError, and then nothing has changed: the desk changes once the line is on the
        disk."""
        desk, said = self._outcome(command, value)
        if command == "policy" and isinstance(now := desk.settings.policy, Policy):
            # whole, so that it is the same in a process that does not know the name
            value = {"value": policy_dict(now)}
        if command == "levels":
            now = desk.settings.steps
            value = {"value": to_dict(now) if isinstance(now, Sampling) else now}
        with self._noting({"do": command, "value": value, "after": self.desk.head}):
            self._put(command, desk)
        return said

    def _outcome(self, command: str, value: dict) -> tuple[Desk, str]:
        """The desk after a command, and what is said of it. Raises CinelabError where it cannot be
        carried out."""
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

    def _put(self, command: str, desk: Desk) -> None:
        """A command has been carried out: the desk is as it left it."""
        if command == "undo":
            self._before.pop()
        elif command not in ("pause", "resume"):
            self._before.append(self.desk)
            del self._before[:-UNDONE]
        self.desk = desk

    def place(self, desk: Desk | None = None) -> str:
        """Where the film stands, in a few words."""
        head = (desk or self.desk).head
        if head is None:
            return "at the film's beginning."
        node = self.nodes[head]
        return f"shot {node.shot + 1}, chunk {node.index + 1}."

    # ---- making

    def step(self) -> TimedChunk:
        """Make the next chunk and put it into the tree."""
        return self.make(self._next())

    def make(self, node: Node) -> TimedChunk:
        """Make a chunk that is fully described, such as one of another session's log or of a
        screenplay."""
        self._writable()
        state, timed = self.reel.step(self.state(node.parent), self.ask(node))
        made = write_chunk(
            self._file(node.number), timed.latents, state.memory.decisions_of(node.index)
        )
        line = {
            "made": to_dict(node),
            "seconds": {k: round(v, 5) for k, v in timed.seconds.items()},
            "sum": made,
        }
        with self._noting(line):
            self._take_in(node)
            self.sums[node.number] = made
        self._keep(node.number, state)
        return timed

    def _next(self) -> Node:
        """What the next chunk is asked to be."""
        desk = self.desk
        head = self.nodes.get(self.desk.head)
        said = desk.again[0] if desk.again else desk.settings
        if not said.prompt:
            raise CinelabError("There is no prompt yet; say what the first shot shows.")
        if head and (head.index + 2) * self.reel.bundle.chunk > LATENTS:
            raise CinelabError(
                f"The film has {head.index + 1} chunks, which is the most; cut here and begin a "
                "new session."
            )
        cut = bool(head) and desk.cut
        if head:
            self._check_length(head, cut)
        shot = head.shot + cut if head else 0
        text = (
            said.prompt
            if cut or head is None or not self._goes_on(said.prompt)
            else f"{CONTINUE} {said.prompt}"
        )
        recache = desk.recache and not cut and head is not None
        node = Node(
            len(self.nodes),
            desk.head,
            shot,
            cut,
            said,
            text,
            recache,
            head.index + 1 if head else 0,
        )
        self._check_text(node)
        return node

    def _goes_on(self, prompt: str) -> bool:
        """Whether a prompt in mid-shot is told as one: it is not the shot's opening, or an entry of
        a screenplay said so."""
        shot = [self.nodes[number] for number in self.shot_nodes(self.desk.head)]
        return prompt != shot[0].said.prompt or any(
            node.text == f"{CONTINUE} {prompt}" for node in shot
        )

    def ask(self, node: Node) -> ChunkRequest:
        said = node.said
        return ChunkRequest(
            node.text,
            node.shot,
            node.cut,
            said.seed,
            policy_for(self.reel.bundle, said.policy, said.budget),
            self.reel.bundle.levels(said.steps),
            node.recache,
        )

    def _take_in(self, node: Node) -> None:
        """A finished chunk becomes the head; what was asked once is done."""
        self.nodes[node.number] = node
        if node.cut:
            self._openings.add(node.parent)
        again = self.desk.again[1:]
        settings = self.desk.settings
        self.desk = replace(
            self.desk,
            head=node.number,
            cut=False,
            again=again,
            settings=settings,
            recache=bool(again)
            and again[0].prompt != node.said.prompt
            and again[0].switch == "recache",
        )

    # ---- the tree

    def path(self, head: int | None = None) -> list[int]:
        """Chunks from the film's first to `head` (default: the head)."""
        number = self.desk.head if head is None else head
        found = []
        while number is not None:
            found.append(number)
            number = self.nodes[number].parent
        return found[::-1]

    def _check_length(self, head: Node, cut: bool) -> None:
        """Refuse what no screenplay could hold: the film could not be exported."""
        bundle = self.reel.bundle
        length = 1
        node = head
        while not cut and node and node.shot == head.shot:
            length = length + 1
            node = self.nodes.get(node.parent)
        if length * bundle.chunk * bundle.codec.stride / bundle.fps > SECONDS:
            raise CinelabError(
                f"The shot lasts {SECONDS} s, which is the most; cut here and go on."
            )
        if cut and head.shot + 1 >= DIRECTED:
            raise CinelabError(
                f"The film has {DIRECTED} shots, which is the most; begin a new session."
            )

    def _check_text(self, node: Node) -> None:
        """Refuse a chunk whose film would be a screenplay too large to be read."""
        before = (0, 0) if node.parent is None else self._written(node.parent)
        added = self._adds(node)
        for name, most, had, more in zip(
            ("bytes", "values"), SCREENPLAY_ROOM, before, added, strict=True
        ):
            if had + more > most:
                raise CinelabError(
                    f"The film's prompts and settings take {most} {name} as a screenplay, which is "
                    "the most; begin a new session."
                )

    def _written(self, number: int) -> tuple[int, int]:
        """(bytes, values) that the film up to a chunk takes as a screenplay, at most."""
        missing = []
        place = number
        while place is not None and place not in self._sizes:
            missing.append(place)
            place = self.nodes[place].parent
        total = (0, 0) if place is None else self._sizes[place]
        for one in reversed(missing):
            size, values = self._adds(self.nodes[one])
            total = self._sizes[one] = (total[0] + size, total[1] + values)
        return total

    def _adds(self, node: Node) -> tuple[int, int]:
        """(bytes, values) that a chunk adds to the film's screenplay, at most: nothing where it
        goes on as before."""
        before = None if node.parent is None else self.nodes[node.parent].said
        opens = node.cut or node.recache or before is None
        said = node.said
        goes_on = (
            node.text != said.prompt and not opens and self.nodes[node.parent].text != node.text
        )
        if not opens and not goes_on and asked(said) == asked(before):
            return 0, 0
        return size_of(
            PromptChange(SECONDS / 3, said.prompt, recache=node.recache, **news(said, before))
        )

    def shot_nodes(self, number: int) -> list[int]:
        """The chunks of the shot that `number` lies in, up to it."""
        shot = self.nodes[number].shot
        return [n for n in self.path(number) if self.nodes[n].shot == shot]

    def latents(self, number: int):
        """Latents (1, c, C, h, w) of a finished chunk."""
        latents = self._chunk(number)["latents"]
        bundle = self.reel.bundle
        if tuple(latents.shape) != (1, bundle.chunk, *bundle.latent_shape):
            raise CinelabError(
                f"{self._file(number)} holds latents {tuple(latents.shape)}, a chunk of "
                f"{bundle.name} has {(1, bundle.chunk, *bundle.latent_shape)}; restore it, or "
                "branch from a chunk before it."
            )
        return latents

    def routing(self, head: int | None = None) -> pd.DataFrame:
        """Which history every chunk up to `head` attended to (see `KVCache.routing_table`), as it
        was noted when it was made."""
        path = self.path(head)
        noted = [
            decisions_in(self._chunk(number), self.nodes[number].index, self.nodes[number].shot)
            for number in path
        ]
        if len(path) > 1 and not any(noted):
            raise CinelabError(
                f"{self.folder} was made before sessions noted what was attended to; replay its "
                "log in a new folder."
            )
        memory = self.state(path[-1] if path else None).memory
        return replace(
            memory, decisions=tuple(one for part in noted for one in part)
        ).routing_table()

    def _chunk(self, number: int) -> dict:
        return read_chunk(self._file(number), self.sums.get(number))

    def state(self, number: int | None) -> FilmState:
        """The state after a chunk; one that is not at hand is made again from the nearest that
        is."""
        if number is None:
            return self.reel.begin()
        missing = self.missing(number)
        place = self.nodes[missing[0]].parent if missing else number
        state = self.reel.begin() if place is None else self._states[place]
        for one in missing:
            state = self.reel.recall(state, self.ask(self.nodes[one]), self.latents(one))
        self._keep(number, state)
        return state

    def missing(self, number: int | None) -> list[int]:
        """The chunks up to `number` that must be recalled before its state is at hand, in the order
        of the film."""
        found = []
        while number is not None and number not in self._states:
            found.append(number)
            number = self.nodes[number].parent
        return found[::-1]

    def frames(self, head: int | None = None) -> np.ndarray:
        """Pictures uint8 (F, H, W, 3) of the film up to `head`, decoded from its latents."""
        state = self.reel.begin()
        parts = []
        for number in self.path(head):
            state, pictures = self.reel.decode(state, self.latents(number))
            parts.append(pictures[0])
        if not parts:
            raise CinelabError("The film has no pictures yet; play first.")
        return np.concatenate(parts)

    def _keep(self, number: int, state: FilmState) -> None:
        self._states[number] = state
        self._states.move_to_end(number)
        openings = [one for one in self._states if one in self._openings]
        others = [one for one in self._states if one not in self._openings]
        for one in openings[:-OPENINGS] + others[:-RECENT]:
            del self._states[one]
        for one in openings[-OPENINGS:]:
            if one != number:
                self._states[one] = self.reel.park(self._states[one])

    def _file(self, number: int) -> Path:
        return self.folder / "chunks" / f"{number:05d}.safetensors"

    @contextmanager
    def _noting(self, line: dict) -> Iterator[None]:
        """One line, on the disk before what it says is done here. An interrupt in between leaves
        the two apart."""
        self._writable()
        self._apart = True
        try:
            self._log.append(line)
        except BaseException:  # should the line be there after all, the log refuses the next one
            self._apart = False
            raise
        yield
        self._apart = False

    def _writable(self) -> None:
        """Refuse where nothing may be written, or what was written would not be found again."""
        if self._held is None:
            raise CinelabError(
                f"This session of {self.folder} is closed or only read; open the folder with "
                "Session.resume to direct it."
            )
        if self._apart:
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


@dataclass(frozen=True)
class Command:
    """A line of the log: a command."""

    do: str
    value: dict
    after: int | None = None


@dataclass(frozen=True)
class Made:
    """A line of the log: a finished chunk."""

    made: Node
    seconds: dict = field(default_factory=dict)
    sum: str | None = None


def read_record(folder: Path) -> Record:
    """What session.json says. Raises a CinelabError that names the file."""
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


def _hold(folder: Path, held: ExitStack) -> None:
    """Take the folder's lock; a session of this process that has it lets go of it."""
    if older := OPENED.pop(folder.resolve(), None):
        older.close()
    held.enter_context(writing(folder / "chunks", what=folder))
