"""The screenplay a person writes: a title, its shots, and what changes in mid-shot.

    title: A walk home
    seed: 7
    caption: a storybook film          # optional, stands in front of every prompt
    shots:
      - prompt: a red fox walks in the forest
        seconds: 2
      - prompt: the red fox sits by the sea
        seconds: 3
        cut: continue                  # the prompt switches, the video goes on
        changes:
          - {at: 1.5, prompt: the red fox jumps, seed: 8, steps: 4}

A shot and a change may set `seed`, `policy`, `budget` (chunks of memory seen) and `steps` (a
number, 0 = the model's own levels; a list of levels; or settings); they hold from there on, until
they are set again. `policy` is a name, an import path (my_module:MyPolicy), or a policy with its
settings: {kind: CAMR, budget: 4, sink: 1}. `recache: true` on a change shows the running shot's
past to the memory again under the new prompt. Every rule lives in a dataclass's `__post_init__`;
the reader at the end adds only the file's lines.
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NoReturn

import yaml

from cinelab.config import from_dict, from_kind, to_dict, to_kind
from cinelab.errors import CinelabError
from cinelab.files import write_text
from cinelab.limits import VALUES, shown_path
from cinelab.registry import resolve
from cinelab.script.fields import (
    Field,
    FieldError,
    check_change_times,
    check_seconds,
    check_seed,
    check_settings,
    check_shots,
    check_text,
    checked_parts,
    field_label,
    guess,
    is_policy,
    is_sampling,
    refuse_field,
    short_value,
)
from cinelab.script.yaml_text import Dumper, yaml_sentence
from cinelab.texts import (
    SCREENPLAY,
    Loader,
    compose,
    joined,
    problem,
    read_text,
    yaml_line,
)

CUTS = ("cut", "continue")
SAMPLING = "cinelab.flow.sampler:Sampling"
POLICY = "cinelab.memory.policy:Policy"  # opened where a policy is written with its settings

# bytes and values of all `size_of` in a file, beside title and caption
ROOM = (SCREENPLAY.most - 2**16, VALUES - 100)


@dataclass(frozen=True)
class PromptChange:
    """From `at` seconds after the start of its shot on, the prompt is `prompt`."""

    at: float
    prompt: str
    seed: int | None = None
    policy: Any = None
    budget: int | None = None
    steps: Any = None
    recache: bool = False

    def __post_init__(self):
        check_seconds("at", self.at)
        check_text("prompt", self.prompt, "say what happens from here on")
        check_settings(self)
        if not isinstance(self.recache, bool):
            refuse_field(("recache",), self.recache, "write true or false")


@dataclass(frozen=True)
class Shot:
    """One entry: what is seen, for how many seconds, and whether it opens with a cut."""

    prompt: str
    seconds: float
    cut: str = "cut"
    changes: tuple[PromptChange, ...] = ()
    seed: int | None = None
    policy: Any = None
    budget: int | None = None
    steps: Any = None

    def __post_init__(self):
        check_text("prompt", self.prompt, "say what the shot shows")
        check_seconds("seconds", self.seconds)
        if self.cut not in CUTS:
            refuse_field(("cut",), self.cut, guess(self.cut, CUTS) or "write cut or continue")
        check_settings(self)
        object.__setattr__(self, "changes", checked_parts("changes", self.changes, PromptChange))
        check_change_times(self.changes, self.seconds)


@dataclass(frozen=True)
class Screenplay:
    """A film to be made: `shots` in order. Bad values raise a CinelabError of one sentence."""

    title: str
    shots: tuple[Shot, ...]
    seed: int = 0
    caption: str = ""

    def __post_init__(self):
        check_text("title", self.title, "give the film a title")
        object.__setattr__(self, "shots", checked_parts("shots", self.shots, Shot))
        check_shots(self.shots)
        check_seed(self.seed)
        if self.caption != "":
            check_text("caption", self.caption, "write a caption or leave the field out")

    def __repr__(self) -> str:
        count = len(self.shots)
        shots = f"{count} shot{'s' * (count != 1)}, {self.seconds:g} s"
        return f"Screenplay({self.title!r}: {shots}, seed {self.seed})"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.to_yaml())}</pre>"

    @property
    def seconds(self) -> float:
        """The sum of the shots' seconds, as written (a timeline rounds each to whole chunks)."""
        return float(sum(shot.seconds for shot in self.shots))

    @classmethod
    def load(cls, path: str | os.PathLike) -> Screenplay:
        """Reads a YAML or JSON file. Raises CinelabError with file, line, field and remedy."""
        return cls.parse(read_text(path, SCREENPLAY), name=shown_path(path))

    @classmethod
    def parse(cls, text: str, name: str = "<text>") -> Screenplay:
        """Reads YAML or JSON; `name` stands where an error names the file."""
        return _Reader(text, name).screenplay()

    def to_yaml(self) -> str:
        """YAML text that `parse` reads back to an equal screenplay; defaults are left out."""
        return yaml.dump(_plain(self), None, Dumper, sort_keys=False, allow_unicode=True)

    def save(self, path: str | os.PathLike) -> Path:
        """Writes YAML (JSON where the name ends in .json): the whole file or nothing."""
        path = Path(path)
        as_json = path.suffix.lower() == ".json"
        write_text(path, json.dumps(_plain(self), indent=2) if as_json else self.to_yaml())
        return path


def screenplay_size(part: Shot | PromptChange) -> tuple[int, int]:
    """(bytes, values) that an entry takes in a screenplay's file, at most: see `ROOM`."""
    plain = _plain(part)
    text = yaml.dump(
        {"shots": [{"changes": [plain]}]}, None, Dumper, sort_keys=False, allow_unicode=True
    )
    # and what a shot has beside: seconds, cut, changes
    return len(text.encode()) + 64, _values(plain) + 8


def _values(plain: Any) -> int:
    """The nodes of YAML that stand for a value."""
    if isinstance(plain, dict):
        return 1 + sum(1 + _values(part) for part in plain.values())
    return 1 + sum(map(_values, plain)) if isinstance(plain, list) else 1


def _plain(part: Any) -> Any:
    """Dataclasses as dicts without their defaults, numbers as int or float."""
    if isinstance(part, tuple):
        return [_plain(item) for item in part]
    if isinstance(part, str):
        return str(part)
    if isinstance(part, bool):
        return part
    if is_policy(part):
        return to_kind(part)
    if is_sampling(part):
        return {name: value for name, value in to_dict(part).items() if value not in (None, [])}
    if isinstance(part, Real):
        value = float(part) if not isinstance(part, Integral) else int(part)
        return int(value) if value == int(value) else value
    written = [f.name for f in fields(part) if getattr(part, f.name) != f.default]
    written.sort(key=("shots", "changes").__contains__)  # lists last
    return {name: _plain(getattr(part, name)) for name in written}


class _Reader:
    """Builds a Screenplay from YAML nodes and keeps the line on which each field stands."""

    PARTS: dict[str, type] = {"shots": Shot, "changes": PromptChange}

    def __init__(self, text: str, name: str):
        # JSON may be indented with tabs, YAML may not; a JSON string never holds a bare tab.
        self.text = text.replace("\t", " ") if text.lstrip().startswith("{") else text
        self.name = name
        self.lines: dict[Field, int] = {}

    def screenplay(self) -> Screenplay:
        node = self._compose()
        if node is None:
            raise CinelabError(f"{self.name}:1: the screenplay is empty; write title and shots.")
        try:
            return self._make(Screenplay, node, ())
        except FieldError as error:
            self._fail(self._line(error.field), str(error))

    def _fail(self, line: int, sentence: str) -> NoReturn:
        raise CinelabError(f"{self.name}:{line}: {sentence}") from None

    def _line(self, field: Field) -> int:
        """The line of the field, or of what should hold it."""
        places = (field[:n] for n in range(len(field), -1, -1))
        return next(self.lines[place] for place in places if place in self.lines)

    def _compose(self) -> yaml.Node | None:
        """The root node. Raises CinelabError where the text is not YAML."""
        try:
            self.loader = Loader(self.text)
            return compose(self.loader)
        except yaml.reader.ReaderError as error:
            self._fail(
                yaml_line(error, self.text) or 1,
                f"{problem(error)}; give a screenplay, not a binary.",
            )
        except yaml.MarkedYAMLError as error:
            opened = "end of stream" in str(error.problem)  # an open quote: name where it opened
            mark = error.context_mark if opened else error.problem_mark
            self._fail(mark.line + 1 if mark else 1, yaml_sentence(error))
        except RecursionError:
            self._fail(1, "the brackets are nested too deeply; write title and shots.")
        except (ValueError, OverflowError):  # an escape beyond Unicode, such as "\U99999999"
            self._fail(self.loader.line + 1, "an escape names no character; correct it.")

    def _make(self, kind: type, node: yaml.Node, field: Field) -> Any:
        """The node as a Screenplay, Shot or PromptChange."""
        self.lines[field] = node.start_mark.line + 1
        nodes = self._fields(node, field, tuple(f.name for f in fields(kind)))
        values = {key: self._value(key, child, (*field, key)) for key, child in nodes.items()}
        for part in fields(kind):
            if part.default is not MISSING and values.get(part.name) is None:
                values.pop(part.name, None)  # an optional field left empty keeps its default
            elif part.name not in values:
                raise FieldError((*field, part.name), "is missing; add it.")
        try:
            return kind(**values)
        except FieldError as error:
            raise FieldError((*field, *error.field), error.problem) from None

    def _fields(self, node: yaml.Node, field: Field, known: tuple[str, ...]) -> dict:
        """The mapping's nodes by key; a key that is unknown or stands there twice is refused."""
        if not isinstance(node, yaml.MappingNode):
            refuse_field(field, self._scalar(node), f"write the fields {', '.join(known)}")
        found = {}
        for key_node, child in node.value:
            scalar = isinstance(key_node, yaml.ScalarNode)
            key = key_node.value if scalar else []
            line = key_node.start_mark.line + 1
            if key not in known:
                remedy = guess(key, known) or f"the fields are {', '.join(known)}."
                self._fail(line, f"{field_label(field)} has no field {short_value(key)}; {remedy}")
            if key in found:
                lines = f"lines {self.lines[(*field, key)]} and {line}"
                self._fail(line, f"{field_label((*field, key))} is given twice, {lines}; keep one.")
            found[key] = child
            self.lines[(*field, key)] = child.start_mark.line + 1
        return found

    def _value(self, key: str, node: yaml.Node, field: Field) -> Any:
        if key in self.PARTS and isinstance(node, yaml.SequenceNode):
            kind = self.PARTS[key]
            return tuple(self._make(kind, part, (*field, i)) for i, part in enumerate(node.value))
        if key == "policy" and isinstance(node, yaml.MappingNode) and node.value:
            return self._made(node, field, lambda values: from_kind(values, resolve(POLICY)))
        if key == "steps" and isinstance(node, yaml.SequenceNode) and node.value:
            return tuple(self._scalar(child) for child in node.value)
        if key == "steps" and isinstance(node, yaml.MappingNode) and node.value:
            return self._made(node, field, lambda values: from_dict(resolve(SAMPLING), values))
        return self._scalar(node)

    def _made(self, node: yaml.MappingNode, field: Field, make: Callable[[dict], Any]) -> Any:
        """An object that is written with its settings: a policy, or how chunks are sampled."""
        self.lines[field] = node.start_mark.line + 1
        try:
            values = self.loader.construct_mapping(node, deep=True)
            if field[-1] == "policy" and "kind" not in values:
                raise CinelabError("kind is missing; say the policy's class, such as CAMR.")
            return make(values)
        except (CinelabError, yaml.YAMLError, TypeError, ValueError) as error:
            raise FieldError(field, f"cannot be made: {' '.join(str(error).split())}") from error

    def _scalar(self, node: yaml.Node) -> Any:
        """A scalar's value; an empty list or dict stands for a node that is none."""
        if not isinstance(node, yaml.ScalarNode):
            return [] if isinstance(node, yaml.SequenceNode) else {}
        try:
            value = self.loader.construct_object(node)
        except (yaml.YAMLError, ValueError, LookupError, AttributeError):
            return node.value  # such as the date 2026-13-45: the rules answer what was written
        return joined(value) if isinstance(value, str) else value
