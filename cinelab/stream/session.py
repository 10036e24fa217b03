"""A directing session: a film that is made while it is directed, every take kept, every command logged.

The film is a tree. A *chunk* has a parent; the film on the desk is the path from the first chunk to the *head*. A cut begins a
shot, a retake goes back to where the shot began, a branch to any earlier chunk: what was made stays in the tree. Commands change
only what the next chunk is asked to be, so nothing made is ever changed or lost.

On disk: session.json (which model), log.jsonl (a line a command and a chunk, in order) and chunks/<number>.safetensors. A chunk is
written before its line, so a killed session goes on from its last finished chunk, bit for bit: keys, values and decoder are made
again from the latents. The same log gives the same film.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file

from cinelab.config import from_dict, read_json, to_dict
from cinelab.errors import CinelabError
from cinelab.files import append_line, read_lines, write_atomic, write_json
from cinelab.flow.sampler import Sampling
from cinelab.limits import (
    BUDGET,
    DIRECTED,
    LATENTS,
    LEAST_BUDGET,
    SECONDS,
    SEED,
    STEPS,
    check_number,
    short,
)
from cinelab.memory.policy import (
    BUILT_IN,
    Policy,
    budget_of,
    name_of,
    policy_dict,
    policy_named,
    with_budget,
)
from cinelab.model.zoo import Bundle
from cinelab.script.screenplay import MAX_TEXT
from cinelab.script.timeline import CONTINUE
from cinelab.stream.engine import Timed, policy_for
from cinelab.stream.reel import Ask, Reel, State

SWITCHES = ("keep", "recache", "cut")  # what a changed prompt does: nothing else, KV re-encoded, a new shot
SCHEMA = 1
RECENT, OPENINGS = 2, 4  # states kept ready: the newest, and those that shots began from (for retakes); others are made again


@dataclass(frozen=True)
class Settings:
    """What the next chunk is made with. `steps` None = the model's own levels; else a number, a list of levels, or a Sampling.

    `policy` is the name of a built-in one with `budget`, or a Policy; on the disk, its own settings and class.
    """

    prompt: str = ""
    seed: int = 0
    policy: str | Policy = "camr"
    budget: int = 6
    steps: int | tuple[float, ...] | Sampling | None = None
    switch: str = "keep"


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
class Desk:
    """All that a command may change. Frozen, so that undo is the desk before."""

    settings: Settings = Settings()
    head: int | None = None
    cut: bool = False  # the next chunk opens a shot
    recache: bool = False
    playing: bool = False
    again: tuple[Settings, ...] = ()  # a retake goes through its shot's directions once more


@dataclass
class Session:
    """Open one with `Session.create` or `Session.resume`; `step()` makes a chunk, `do(command, ...)` directs."""

    folder: Path
    reel: Reel
    desk: Desk = field(default_factory=Desk)
    nodes: dict[int, Node] = field(default_factory=dict)
    _before: list[Desk] = field(default_factory=list)
    _states: "OrderedDict[int, State]" = field(default_factory=OrderedDict)
    _openings: set[int] = field(default_factory=set)  # chunks that a shot was cut after

    # ---- opening

    @classmethod
    def create(cls, folder: str | Path, bundle: Bundle, settings: Settings = Settings(), bf16: bool = False) -> "Session":
        """A new session in an empty or absent folder."""
        folder = Path(folder)
        if (folder / "session.json").exists():
            raise CinelabError(f"{folder} already holds a session; continue it, or name another folder.")
        settings = checked(settings)
        (folder / "chunks").mkdir(parents=True, exist_ok=True)
        write_json(folder / "session.json", {"schema": SCHEMA, "model": bundle.name, "weights": bundle.fingerprint,
                                             "bf16": bf16, "settings": to_dict(settings)})
        return cls(folder, Reel(bundle, bf16), Desk(settings))

    @classmethod
    def resume(cls, folder: str | Path, bundle: Bundle) -> "Session":
        """Go on with a session from its folder; refuses another model's."""
        folder = Path(folder)
        told = read_json(folder / "session.json")
        if told["schema"] != SCHEMA:
            raise CinelabError(f"{folder} has a session of schema {told['schema']}, this cinelab reads {SCHEMA}; update it.")
        if told["weights"] != bundle.fingerprint:
            raise CinelabError(f"{folder} was made with {told['model']} ({told['weights']}), not with these weights of {bundle.name}; "
                               f"load {told['model']}, or begin a new session.")
        session = cls(folder, Reel(bundle, told["bf16"]))
        session._mend()
        try:
            session.desk = Desk(from_dict(Settings, told["settings"]))
            for line in session.log:
                session._fold(line)
        except CinelabError as error:  # such as a policy whose class is not here
            raise CinelabError(f"{folder} cannot be gone on with: {error}") from error
        session.desk = replace(session.desk, playing=False)
        return session

    @property
    def log(self) -> list[dict]:
        """Every line of the log; a last line that a kill cut short does not count."""
        return read_lines(self.folder / "log.jsonl")

    def _mend(self) -> None:
        """Cut off a last line that a kill left unfinished, so that the next one begins on its own."""
        path = self.folder / "log.jsonl"
        whole = path.read_bytes() if path.exists() else b""
        if not whole.endswith(b"\n") and whole:
            os.truncate(path, whole.rfind(b"\n") + 1)

    def _fold(self, line: dict) -> None:
        if "made" in line:
            node = Node(**line["made"] | {"said": from_dict(Settings, line["made"]["said"])})
            self._take_in(node)
        else:
            self._apply(line["do"], line["value"])

    # ---- directing

    def do(self, command: str, **value) -> str:
        """Carry out a command between two chunks; returns one line that says what happened. Raises CinelabError, and then
        nothing has changed."""
        said = self._apply(command, value)
        if command == "policy" and isinstance(now := self.desk.settings.policy, Policy):
            value = {"value": policy_dict(now)}  # whole, so that it is the same in a process that does not know the name
        if command == "levels" and isinstance(now := self.desk.settings.steps, Sampling):
            value = {"value": to_dict(now)}
        self._append({"do": command, "value": value, "after": self.desk.head})
        return said

    def _apply(self, command: str, value: dict) -> str:
        if command not in COMMANDS:
            raise CinelabError(f"Command {command!r} is unknown; use one of {', '.join(COMMANDS)}.")
        before = self.desk
        if command == "undo":
            if not self._before:
                raise CinelabError("There is nothing to undo.")
            self.desk = replace(self._before.pop(), playing=before.playing)
            return "Undone: " + self.place()
        self.desk, said = COMMANDS[command](self, self.desk, **value)
        if command not in ("pause", "resume"):
            self._before.append(before)
        return said

    def place(self) -> str:
        """Where the film stands, in a few words."""
        if self.desk.head is None:
            return "at the film's beginning."
        node = self.nodes[self.desk.head]
        return f"shot {node.shot + 1}, chunk {node.index + 1}."

    # ---- making

    def step(self) -> Timed:
        """Make the next chunk and put it into the tree."""
        return self.make(self._next())

    def make(self, node: Node) -> Timed:
        """Make a chunk that is fully described, such as one of another session's log or of a screenplay."""
        state, timed = self.reel.step(self.state(node.parent), self.ask(node))
        write_atomic(self._file(node.number), lambda path: save_file({"latents": timed.latents.cpu().contiguous()}, path))
        self._append({"made": to_dict(node), "seconds": {k: round(v, 5) for k, v in timed.seconds.items()}})
        self._take_in(node)
        self._keep(node.number, state)
        return timed

    def _next(self) -> Node:
        """What the next chunk is asked to be."""
        desk, head = self.desk, self.nodes.get(self.desk.head)
        said = desk.again[0] if desk.again else desk.settings
        if not said.prompt:
            raise CinelabError("There is no prompt yet; say what the first shot shows.")
        if head and (head.index + 2) * self.reel.bundle.chunk > LATENTS:
            raise CinelabError(f"The film has {head.index + 1} chunks, which is the most; cut here and begin a new session.")
        cut = bool(head) and desk.cut
        if head:
            self._check_length(head, cut)
        shot = head.shot + cut if head else 0
        text = said.prompt if cut or head is None or not self._goes_on(said.prompt) else f"{CONTINUE} {said.prompt}"
        recache = desk.recache and not cut and head is not None
        return Node(len(self.nodes), desk.head, shot, cut, said, text, recache, head.index + 1 if head else 0)

    def _goes_on(self, prompt: str) -> bool:
        """Whether a prompt in mid-shot is told as one: it is not the shot's opening, or an entry of a screenplay said so."""
        shot = [self.nodes[number] for number in self.shot_nodes(self.desk.head)]
        return prompt != shot[0].said.prompt or any(node.text == f"{CONTINUE} {prompt}" for node in shot)

    def ask(self, node: Node) -> Ask:
        said = node.said
        return Ask(node.text, node.shot, node.cut, said.seed, policy_for(self.reel.bundle, said.policy, said.budget),
                   self.reel.bundle.levels(said.steps), node.recache)

    def _take_in(self, node: Node) -> None:
        """A finished chunk becomes the head; what was asked once is done."""
        self.nodes[node.number] = node
        if node.cut:
            self._openings.add(node.parent)
        again = self.desk.again[1:]
        settings = self.desk.settings
        self.desk = replace(self.desk, head=node.number, cut=False, again=again, settings=settings,
                            recache=bool(again) and again[0].prompt != node.said.prompt and again[0].switch == "recache")

    # ---- the tree

    def path(self, head: int | None = None) -> list[int]:
        """Chunks from the film's first to `head` (default: the head)."""
        number, found = self.desk.head if head is None else head, []
        while number is not None:
            found.append(number)
            number = self.nodes[number].parent
        return found[::-1]

    def _check_length(self, head: Node, cut: bool) -> None:
        """Refuse what no screenplay could hold: the film could not be exported."""
        bundle, length, node = self.reel.bundle, 1, head
        while not cut and node and node.shot == head.shot:
            length, node = length + 1, self.nodes.get(node.parent)
        if length * bundle.chunk * bundle.codec.stride / bundle.fps > SECONDS:
            raise CinelabError(f"The shot lasts {SECONDS} s, which is the most; cut here and go on.")
        if cut and head.shot + 1 >= DIRECTED:
            raise CinelabError(f"The film has {DIRECTED} shots, which is the most; begin a new session.")

    def shot_nodes(self, number: int) -> list[int]:
        """The chunks of the shot that `number` lies in, up to it."""
        shot = self.nodes[number].shot
        return [n for n in self.path(number) if self.nodes[n].shot == shot]

    def latents(self, number: int):
        """Latents (1, c, C, h, w) of a finished chunk."""
        try:
            return load_file(self._file(number))["latents"]
        except (OSError, ValueError) as error:
            raise CinelabError(f"{self._file(number)} cannot be read ({error}); branch from an earlier shot.") from error

    def state(self, number: int | None) -> State:
        """The state after a chunk; one that is not at hand is made again from the nearest that is."""
        if number is None:
            return self.reel.begin()
        missing, place = [], number
        while place is not None and place not in self._states:
            missing.append(place)
            place = self.nodes[place].parent
        state = self.reel.begin() if place is None else self._states[place]
        for one in reversed(missing):
            state = self.reel.recall(state, self.ask(self.nodes[one]), self.latents(one))
        self._keep(number, state)
        return state

    def frames(self, head: int | None = None) -> np.ndarray:
        """Pictures uint8 (F, H, W, 3) of the film up to `head`, decoded from its latents."""
        state, parts = self.reel.begin(), []
        for number in self.path(head):
            state, pictures = self.reel.decode(state, self.latents(number))
            parts.append(pictures[0])
        if not parts:
            raise CinelabError("The film has no pictures yet; play first.")
        return np.concatenate(parts)

    def _keep(self, number: int, state: State) -> None:
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

    def _append(self, line: dict) -> None:
        """One line, on the disk before we go on."""
        append_line(self.folder / "log.jsonl", line)


def checked(settings: Settings) -> Settings:
    """The settings with a policy of one's own as an object. Refuses what no chunk could be made with."""
    if len(settings.prompt) > MAX_TEXT:
        raise CinelabError(f"The prompt has {len(settings.prompt)} characters; keep it below {MAX_TEXT}.")
    if settings.switch not in SWITCHES:
        raise CinelabError(f"switch is {settings.switch!r}; use one of {', '.join(SWITCHES)}.")
    check_number("seed", settings.seed, 0, below=SEED)
    settings = replace(settings, steps=_levels(settings.steps))
    named = isinstance(settings.policy, str) and settings.policy in BUILT_IN
    check_number("budget", settings.budget, LEAST_BUDGET if named else 0, BUDGET)  # a policy of one's own may keep fewer
    policy = policy_named(settings.policy, settings.budget)
    if isinstance(settings.policy, str) and settings.policy in BUILT_IN:
        return settings
    to_dict(policy)  # refuses what the log could not hold
    return replace(settings, policy=policy, budget=budget_of(policy, settings.budget))


def _levels(steps: int | Sequence[float] | Sampling | Mapping | None) -> int | tuple[float, ...] | Sampling | None:
    """A session's `steps`, checked; settings as a command's text has them become a Sampling."""
    if isinstance(steps, (list, tuple)) and steps:
        return Sampling(at=tuple(steps)).at
    if isinstance(steps, Mapping):
        return from_dict(Sampling, steps, "sampling.")
    if steps is None or isinstance(steps, Sampling) or (type(steps) is int and 1 <= steps <= STEPS):
        return steps
    raise CinelabError(f"levels is {short(steps)}; give 1 to {STEPS}, a list of levels, or none for the model's own.")


def policy_label(settings: Settings) -> str:
    """The policy's name, for reading."""
    return settings.policy if isinstance(settings.policy, str) else name_of(settings.policy)


def _changed(desk: Desk, **changes) -> Desk:
    if "budget" in changes and isinstance(changes["budget"], int) and isinstance(desk.settings.policy, Policy):
        changes["policy"] = with_budget(desk.settings.policy, changes["budget"])
    return replace(desk, settings=checked(replace(desk.settings, **changes)), again=())


def prompt(session: Session, desk: Desk, text: str, switch: str | None = None) -> tuple[Desk, str]:
    """From the next chunk on; `switch` says what happens to the cache, or that it is a cut."""
    text = " ".join(text.split())
    if not text:
        raise CinelabError("The prompt is empty; say what the shot shows.")
    how = switch or desk.settings.switch
    desk = _changed(desk, prompt=text, switch=how)
    return replace(desk, cut=desk.cut or how == "cut", recache=how == "recache"), "The prompt holds from the next chunk on."


def cut(session: Session, desk: Desk, text: str | None = None) -> tuple[Desk, str]:
    """The next chunk opens a new shot, with a new prompt if one is given."""
    if desk.head is None:
        raise CinelabError("There is nothing to cut from yet; play the first shot.")
    if text is not None:
        desk, _ = prompt(session, desk, text, "keep")
    return replace(desk, cut=True, recache=False, again=()), "A cut comes with the next chunk."


def retake(session: Session, desk: Desk, seed: int | None = None) -> tuple[Desk, str]:
    """Back to where the running shot began: the same directions, another seed."""
    if desk.head is None:
        raise CinelabError("There is no shot to take again yet; play the first one.")
    numbers = session.shot_nodes(desk.head)
    first = session.nodes[numbers[0]]
    new = desk.settings.seed + 1 if seed is None else seed
    again = tuple(replace(session.nodes[number].said, seed=new) for number in numbers)
    desk = _changed(replace(desk, settings=again[-1]), seed=new)
    return replace(desk, head=first.parent, cut=first.cut, recache=False, again=again), f"Shot {first.shot + 1} again, with seed {new}."


def branch(session: Session, desk: Desk, chunk: int) -> tuple[Desk, str]:
    """Go on from any chunk of the tree; what was made after it stays."""
    if chunk not in session.nodes:
        raise CinelabError(f"chunk is {chunk}; the session has chunks 0 to {len(session.nodes) - 1}.")
    node = session.nodes[chunk]
    return Desk(node.said, chunk, playing=desk.playing), f"Going on from shot {node.shot + 1}, chunk {node.index + 1}."


def setting(name: str, label: str) -> Callable:
    def change(session: Session, desk: Desk, value) -> tuple[Desk, str]:
        desk = _changed(desk, **{name: value})
        shown = policy_label(desk.settings) if name == "policy" else value
        return desk, f"{label} is {shown} from the next chunk on."

    return change


def pause(session: Session, desk: Desk) -> tuple[Desk, str]:
    return replace(desk, playing=False), "Paused."


def resume(session: Session, desk: Desk) -> tuple[Desk, str]:
    if not desk.settings.prompt:
        raise CinelabError("There is no prompt yet; say what the first shot shows.")
    return replace(desk, playing=True), "Playing."


COMMANDS: dict[str, Callable] = {
    "prompt": prompt, "cut": cut, "retake": retake, "branch": branch, "pause": pause, "resume": resume, "undo": lambda *_: None,
    "seed": setting("seed", "The seed"), "policy": setting("policy", "The memory policy"), "budget": setting("budget", "The budget"),
    "levels": setting("steps", "The number of levels"), "switch": setting("switch", "A changed prompt's effect on the cache")}
