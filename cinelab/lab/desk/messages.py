"""The messages that a browser may send to a desk, read in one place for the notebook's widget and
for the demo's server.

    message = parse_message({"kind": "do", "id": 3, "command": "cut", "value": {}})

Anything else is refused with one sentence (`InvalidMessage`) that carries the number of the message
where it has one, so that its sender can be answered. Nothing here prints, and no other error leaves
this module, however a message is made.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, TypeGuard

from cinelab.errors import CinelabError
from cinelab.limits import STEPS, short
from cinelab.script.fields import MAX_TEXT
from cinelab.texts import HALF_PAIR

MESSAGE = 2**16  # bytes of one message
NUMBER = 2**53  # numbers of messages lie below: JavaScript counts exactly up to there

# Every command's values and what each may be; those in OPTIONAL may be left out.
ARGUMENTS: dict[str, dict[str, str]] = {
    "prompt": {"text": "text", "switch": "text"},
    "cut": {"text": "text"},
    "retake": {"seed": "whole"},
    "branch": {"chunk": "whole"},
    "seed": {"value": "whole"},
    "budget": {"value": "whole"},
    "policy": {"value": "text"},
    "switch": {"value": "text"},
    "levels": {"value": "levels"},
    "pause": {},
    "resume": {},
    "undo": {},
}
OPTIONAL = {("prompt", "switch"), ("cut", "text"), ("retake", "seed")}


class InvalidMessage(CinelabError):
    """A message is refused; `id` is its number, None where it has none that could be answered."""

    def __init__(self, sentence: str, id: int | None = None):
        super().__init__(sentence)
        self.id = id


@dataclass(frozen=True)
class Hello:
    """A view has appeared and knows nothing yet."""

    id: int = 0


@dataclass(frozen=True)
class FramesDrawn:
    """The last frame of message `number` is on the screen."""

    number: int
    id: int = 0


@dataclass(frozen=True)
class Export:
    """Write the film's files."""

    id: int


@dataclass(frozen=True)
class Do:
    """Carry out a command; with `play` the film goes on once it is carried out."""

    id: int
    command: str
    value: dict[str, Any] = field(default_factory=dict)
    play: bool = False


@dataclass(frozen=True)
class Watch:
    """Show a shot up to `chunk`, read from the disk; the film stays as it is."""

    chunk: int
    id: int


Message = Hello | FramesDrawn | Export | Do | Watch


def read_message(text: str | bytes) -> Message:
    """Read a JSON text. Raises InvalidMessage."""
    if not isinstance(text, str):
        raise InvalidMessage("A message is text, not bytes.")
    if len(text.encode(errors="replace")) > MESSAGE:
        raise InvalidMessage(f"A message has more than {MESSAGE} bytes; send less.")
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise InvalidMessage("A message cannot be read as JSON.") from None
    return parse_message(content)


def parse_message(content: Any) -> Message:
    """Read plain values. Raises InvalidMessage."""
    if not isinstance(content, dict):
        raise InvalidMessage(f"A message is {quoted(content)}; give an object.")
    number = content.get("id")
    id = number if _is_whole(number) and 0 <= number < NUMBER else None
    kind = content.get("kind")
    if not isinstance(kind, str) or kind not in READERS:
        raise InvalidMessage(f"kind is {quoted(kind)}; use one of {', '.join(READERS)}.", id)
    return READERS[kind](content, id)


def _read_hello(content: dict, id: int | None) -> Hello:
    return Hello(id or 0)


def _read_drawn(content: dict, id: int | None) -> FramesDrawn:
    number = content.get("number")
    if not _is_whole(number):
        raise InvalidMessage(f"number is {quoted(number)}; give that of the frames.", id)
    return FramesDrawn(number, id or 0)


def _read_export(content: dict, id: int | None) -> Export:
    return Export(_required_id(content, id))


def _read_watch(content: dict, id: int | None) -> Watch:
    chunk = content.get("chunk")
    if not _is_whole(chunk):
        raise InvalidMessage(f"chunk is {quoted(chunk)}; give a whole number.", id)
    return Watch(chunk, _required_id(content, id))


def _read_do(content: dict, id: int | None) -> Do:
    id = _required_id(content, id)
    command = content.get("command")
    if not isinstance(command, str) or command not in ARGUMENTS:
        raise InvalidMessage(
            f"Command {quoted(command)} is unknown; use one of {', '.join(ARGUMENTS)}.", id
        )
    value = content.get("value", {})
    play = content.get("play", False)
    if not isinstance(value, dict):
        raise InvalidMessage(f"The value of {command} is {quoted(value)}; give an object.", id)
    if not isinstance(play, bool):
        raise InvalidMessage(f"play is {quoted(play)}; give true or false.", id)
    _check_values(command, value, id)
    return Do(id, command, dict(value), play)


def _required_id(content: dict, id: int | None) -> int:
    if id is None:
        raise InvalidMessage(f"id is {quoted(content.get('id'))}; give a whole number.")
    return id


def _check_values(command: str, value: dict, id: int) -> None:
    """Refuse unknown names, missing names, and values of another kind."""
    wanted = ARGUMENTS[command]
    for name in value:
        if name not in wanted:
            known = ", ".join(wanted) or "no values"
            raise InvalidMessage(f"{command} has no {quoted(name)}; it takes {known}.", id)
    for name, kind in wanted.items():
        if name in value:
            given = value[name]
            is_valid, expected = KINDS[kind]
            optional = given is None and (command, name) in OPTIONAL
            if not optional and not is_valid(given):
                what = command if name == "value" else name
                raise InvalidMessage(f"{what} is {quoted(given)}; give {expected}.", id)
        elif (command, name) not in OPTIONAL:
            raise InvalidMessage(f"{command} has no {name}; give {KINDS[kind][1]}.", id)


def quoted(value: Any) -> str:
    """Quote a value in a sentence: at most 60 characters, and only the kind of what holds other
    values."""
    if isinstance(value, dict | list | tuple):
        return "an object" if isinstance(value, dict) else "a list"
    return short(value)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**64


def _is_text(value: Any) -> bool:
    """Whether a value is text of whole characters, at most twice as long as in a screenplay."""
    # the session cuts a prompt to its own length
    if not isinstance(value, str) or len(value) > 2 * MAX_TEXT:
        return False
    return HALF_PAIR.search(value) is None


def _is_levels(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) <= STEPS and all(_is_number(one) for one in value)
    return value is None or _is_whole(value)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and isfinite(value))


KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "text": (_is_text, f"text of at most {MAX_TEXT} characters"),
    "whole": (_is_whole, "a whole number"),
    "levels": (
        _is_levels,
        f"a number of levels, a list of up to {STEPS}, or none for the model's own",
    ),
}
READERS: dict[str, Callable[[dict, int | None], Message]] = {
    "hello": _read_hello,
    "do": _read_do,
    "drawn": _read_drawn,
    "export": _read_export,
    "watch": _read_watch,
}
