"""What a browser may say to a desk, read in one place for the notebook's widget and for the demo's
server.

    message = parse({"kind": "do", "id": 3, "command": "cut", "value": {}})

Whatever is none of these messages is refused with one sentence (`Unread`) that carries the number
of the message where it has one, so that whoever asked can be answered. Nothing here prints, and no
other error leaves it, however the message is made.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from cinelab.errors import CinelabError
from cinelab.limits import STEPS, short
from cinelab.script.screenplay import MAX_TEXT
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


class Unread(CinelabError):
    """A message that is none; `id` is its number, None where it has none that could be answered."""

    def __init__(self, said: str, id: int | None = None):
        super().__init__(said)
        self.id = id


@dataclass(frozen=True)
class Hello:
    """A view has appeared and knows nothing yet."""

    id: int = 0


@dataclass(frozen=True)
class Drawn:
    """The last picture of message `number` is on the screen."""

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


Message = Hello | Drawn | Export | Do | Watch


def read(text: str | bytes) -> Message:
    """The message that a JSON text holds. Raises Unread."""
    if not isinstance(text, str):
        raise Unread("A message is text, not bytes.")
    if len(text.encode(errors="replace")) > MESSAGE:
        raise Unread(f"A message has more than {MESSAGE} bytes; send less.")
    try:
        content = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise Unread("A message cannot be read as JSON.") from None
    return parse(content)


def parse(content: Any) -> Message:
    """The message that plain values hold. Raises Unread."""
    if not isinstance(content, dict):
        raise Unread(f"A message is {quoted(content)}; give an object.")
    number = content.get("id")
    id = number if _whole(number) and 0 <= number < NUMBER else None
    kind = content.get("kind")
    if not isinstance(kind, str) or kind not in READERS:
        raise Unread(f"kind is {quoted(kind)}; use one of {', '.join(READERS)}.", id)
    return READERS[kind](content, id)


def _hello(content: dict, id: int | None) -> Hello:
    return Hello(id or 0)


def _drawn(content: dict, id: int | None) -> Drawn:
    number = content.get("number")
    if not _whole(number):
        raise Unread(f"number is {quoted(number)}; give that of the pictures.", id)
    return Drawn(number, id or 0)


def _export(content: dict, id: int | None) -> Export:
    return Export(_numbered(content, id))


def _watch(content: dict, id: int | None) -> Watch:
    chunk = content.get("chunk")
    if not _whole(chunk):
        raise Unread(f"chunk is {quoted(chunk)}; give a whole number.", id)
    return Watch(chunk, _numbered(content, id))


def _do(content: dict, id: int | None) -> Do:
    id = _numbered(content, id)
    command = content.get("command")
    if not isinstance(command, str) or command not in ARGUMENTS:
        raise Unread(
            f"Command {quoted(command)} is unknown; use one of {', '.join(ARGUMENTS)}.", id
        )
    value = content.get("value", {})
    play = content.get("play", False)
    if not isinstance(value, dict):
        raise Unread(f"The value of {command} is {quoted(value)}; give an object.", id)
    if not isinstance(play, bool):
        raise Unread(f"play is {quoted(play)}; give true or false.", id)
    _check_values(command, value, id)
    return Do(id, command, dict(value), play)


def _numbered(content: dict, id: int | None) -> int:
    if id is None:
        raise Unread(f"id is {quoted(content.get('id'))}; give a whole number.")
    return id


def _check_values(command: str, value: dict, id: int) -> None:
    """Refuse names that the command does not have, those that are missing, and what is not of the
    right kind."""
    wanted = ARGUMENTS[command]
    for name in value:
        if name not in wanted:
            known = ", ".join(wanted) or "no values"
            raise Unread(f"{command} has no {quoted(name)}; it takes {known}.", id)
    for name, kind in wanted.items():
        if name in value:
            given, (good, expected) = value[name], KINDS[kind]
            optional = given is None and (command, name) in OPTIONAL
            if not optional and not good(given):
                what = command if name == "value" else name
                raise Unread(f"{what} is {quoted(given)}; give {expected}.", id)
        elif (command, name) not in OPTIONAL:
            raise Unread(f"{command} has no {name}; give {KINDS[kind][1]}.", id)


def quoted(value: Any) -> str:
    """A value as a sentence may quote it: at most 60 characters, and only the kind of what holds
    other values."""
    if isinstance(value, dict | list | tuple):
        return "an object" if isinstance(value, dict) else "a list"
    return short(value)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**64


def _text(value: Any) -> bool:
    """Whether it is a text of whole characters that is not too long (a prompt may be as long as in
    a screenplay)."""
    # the session says where a prompt ends
    if not isinstance(value, str) or len(value) > 2 * MAX_TEXT:
        return False
    return HALF_PAIR.search(value) is None


def _levels(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) <= STEPS and all(_number(one) for one in value)
    return value is None or _whole(value)


def _number(value: Any) -> bool:
    return _whole(value) or (isinstance(value, float) and isfinite(value))


KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "text": (_text, f"text of at most {MAX_TEXT} characters"),
    "whole": (_whole, "a whole number"),
    "levels": (
        _levels,
        f"a number of levels, a list of up to {STEPS}, or none for the model's own",
    ),
}
READERS: dict[str, Callable[[dict, int | None], Message]] = {
    "hello": _hello,
    "do": _do,
    "drawn": _drawn,
    "export": _export,
    "watch": _watch,
}
