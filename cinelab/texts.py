"""The one door for texts that people, programs or earlier runs hand us: UTF-8 files that hold YAML,
JSON, JSON lines or words.

Everything is bounded before it is built: bytes by the kind of the file, then values, depth and
digits. A key that is given twice, half of a character pair and aliases that unfold to very much are
refused. Whatever is wrong is a CinelabError of one sentence with the file. JSON's NaN and Infinity,
which are no JSON, and numbers too large for a float are read as null, as `cinelab.files.to_json`
writes them.
"""

import codecs
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from typing import Any

import yaml

from cinelab.errors import CinelabError, system_words
from cinelab.limits import DEPTH, DIGITS, VALUES, short, shown_path

MIB = 2**20
CODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
# of the YAML loader
BROKEN = (
    yaml.YAMLError,
    ValueError,
    OverflowError,
    RecursionError,
    LookupError,
    AttributeError,
    TypeError,
)
HALF_PAIR = re.compile("[\ud800-\udfff]")
MOST_BITS = int(DIGITS * 3.33)
TOO_DEEP = f"it is nested too deeply, more than {DEPTH} levels"
TOO_LONG = f"a number has more than {DIGITS} digits"
TOO_MANY = f"it holds more than {VALUES} values"


@dataclass(frozen=True)
class Kind:
    """A kind of text: its name in a sentence, what to do about a bad one, the most bytes it may
    have, and what to do where it is not there."""

    what: str
    remedy: str
    most: int
    absent: str = "check the path"


SCREENPLAY = Kind(
    "screenplay",
    "give the path of a screenplay, YAML or JSON in UTF-8",
    2 * MIB,
    "give the path of a screenplay, YAML or JSON in UTF-8",
)
SWEEP = Kind("sweep file", "correct the sweep file", MIB, "give the path of a sweep file")
JOB = Kind(
    "run description", "correct the run description", MIB, "give the path of a run description"
)
CAPTIONS = Kind("text beside a video", "keep it to the captions of one video, in UTF-8", MIB)
PROMPTS = Kind("table of prompts", "write it again, as JSON in UTF-8", 16 * MIB)
TABLE = Kind("table", "write it again, as UTF-8 text", 256 * MIB)
ENVIRONMENT = Kind("environment file", "install cinelab again", MIB, "install cinelab again")
# JSON that a folder of ours, or of a published model, holds
RECORD = Kind("record", "restore it or remove it", 32 * MIB)
LISTING = Kind("list of videos", "restore it, or build into another folder", 256 * MIB)
LINES = Kind("log", "restore it, or begin anew in another folder", 256 * MIB)


SPECIAL = {
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}

# ---- bytes and text


def check_name(path: str | os.PathLike) -> None:
    """Raise a CinelabError where a path's bytes are no UTF-8: neither tables nor pages can hold
    such a name."""
    if HALF_PAIR.search(os.fspath(path)):
        raise CinelabError(f"{shown_path(path)} has a name that is not UTF-8; rename it.")


def check_regular(path: str | os.PathLike) -> None:
    """Raise a CinelabError where a pipe, a socket or a device stands in a file's place: reading it
    might never end.

    So is a name that is no UTF-8, which most libraries cannot open. What is not there, or a folder,
    is left to whoever opens it. Every reader of a file from outside asks this first.
    """
    check_name(path)
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return
    if kind := next((name for is_it, name in SPECIAL.items() if is_it(mode)), None):
        raise CinelabError(
            f"{shown_path(path)} is {kind} and no file; copy what it gives into a file, and name "
            "that."
        )


def read_bytes(path: str | os.PathLike, kind: Kind) -> bytes:
    """Return the bytes of a file, at most `kind.most`. Raises CinelabError where it is missing,
    unreadable or larger."""
    check_regular(path)
    try:
        with open(path, "rb") as file:
            data = file.read(kind.most + 1)
    except (OSError, ValueError) as error:
        raise CinelabError(
            f"{shown_path(path)} cannot be read ({system_words(error)}); {kind.absent}."
        ) from error
    if len(data) > kind.most:
        raise CinelabError(
            f"{shown_path(path)} is above {kind.most} bytes, the most that a {kind.what} may have; "
            f"{kind.remedy}."
        )
    return data


def read_text(path: str | os.PathLike, kind: Kind) -> str:
    """Return the text of a UTF-8 file, with or without a byte order mark. Other encodings and
    binaries are refused by name."""
    return decode_text(read_bytes(path, kind), path, kind)


def decode_text(data: bytes, path: str | os.PathLike, kind: Kind) -> str:
    """Return bytes of a file as text, as `read_text` does."""
    for mark, name in CODINGS.items():
        if data.startswith(mark):
            raise CinelabError(f"{shown_path(path)} is {name} text; save it as UTF-8.")
    # such as UTF-16 without its mark, whose letters would pass as UTF-8
    if (place := data.find(b"\0")) >= 0:
        line = data.count(b"\n", 0, place) + 1
        raise CinelabError(
            f"{shown_path(path)}:{line}: a zero byte stands there, so this is a binary or UTF-16 "
            "text; save it as UTF-8."
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CinelabError(
            f"{shown_path(path)}:{line}: this is not UTF-8 text; {kind.remedy}."
        ) from None


# ---- JSON


def read_json(path: str | os.PathLike, kind: Kind = RECORD) -> Any:
    """Return the value of a JSON file. A missing, large, empty, odd or broken one is a
    CinelabError."""
    text = read_text(path, kind)
    if not text.strip():
        raise CinelabError(f"{shown_path(path)} is empty; {kind.remedy}.")
    try:
        return parse_json(text)
    except (ValueError, RecursionError) as error:
        raise CinelabError(
            f"{shown_path(path)} is not valid JSON ({problem(error)}); {kind.remedy}."
        ) from error


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text. Raises ValueError or RecursionError (see `problem`) where it
    is broken or out of bounds."""
    return bounded(json.loads(text, object_pairs_hook=_once, parse_constant=lambda _: None))


def _once(pairs: list[tuple[str, Any]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"{_twice([key for key, _ in pairs])} is given twice, keep one of them")
    return found


def _twice(keys: list[str]) -> str:
    """The first key of several that stands there twice, or ""."""
    return next((short(key) for key, count in Counter(keys).items() if count > 1), "")


def bounded(value: Any) -> Any:
    """Return a value of plain types whose depth, numbers and texts are within bounds; numbers that
    are not finite become None.

    Raises ValueError.
    """
    level = [value]
    depth = 0
    while level := [part for part in level if type(part) in (dict, list)]:
        depth += 1
        if depth > DEPTH:
            raise ValueError(TOO_DEEP)
        level = [child for part in level for child in _checked(part)]
    _check(value)
    return value


def _checked(part: dict | list) -> list:
    """The children of a mapping or list, each checked if it is a single value."""
    places: Iterable[tuple[Any, Any]] = part.items() if isinstance(part, dict) else enumerate(part)
    for place, child in places:
        if type(place) is str:
            _check(place)
        if type(child) is float and not isfinite(child):
            part[place] = None
        else:
            _check(child)
    return list(part.values()) if isinstance(part, dict) else part


def _check(value: Any) -> None:
    """Raise ValueError for a number of very many digits or a text that cannot be written down as
    UTF-8."""
    if type(value) is int and value.bit_length() > MOST_BITS:
        raise ValueError(TOO_LONG)
    if type(value) is str and not value.isascii() and HALF_PAIR.search(value):
        raise ValueError(
            f"{short(value, 40)} holds half of a character pair, type that character again"
        )


def problem(error: Exception) -> str:
    """What is wrong with a text, on one line."""
    if isinstance(error, RecursionError):
        return TOO_DEEP
    if isinstance(error, yaml.reader.ReaderError):
        return f"character {error.character:#x} is not text"
    found = getattr(error, "problem", None)
    context = getattr(error, "context", None)
    message = " ".join(
        str(context if found in (None, "second occurrence") and context else found or error).split()
    )
    return (
        TOO_LONG
        if "integer string conversion" in message
        else message
        if len(message) <= 200
        else f"{message[:197]}..."
    )


# ---- YAML


class Loader(yaml.SafeLoader):
    """SafeLoader that also takes JSON's 1e3 for a number, and refuses keys given twice, numbers of
    very many digits, and texts of too many values or levels while it reads them."""

    def __init__(self, text: str):
        super().__init__(text)
        self.count = self.depth = 0

    def compose_node(self, parent, index):
        self.count += 1
        self.depth += 1
        if self.count > VALUES or self.depth > DEPTH:
            message = TOO_MANY if self.count > VALUES else TOO_DEEP
            raise yaml.composer.ComposerError(None, None, message, self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node, deep=False):
        keys = [
            key.value
            for key, _ in node.value
            if isinstance(key, yaml.ScalarNode) and key.value != "<<"
        ]
        if twice := _twice(keys):
            raise yaml.constructor.ConstructorError(
                None, None, f"{twice} is given twice, keep one of them", node.start_mark
            )
        return super().construct_mapping(node, deep)

    def construct_number(self, node):
        """A whole number or a float; one of very many characters is refused before anything is
        computed."""
        if len(node.value) > DIGITS:
            raise yaml.constructor.ConstructorError(None, None, TOO_LONG, node.start_mark)
        whole = node.tag.endswith(":int")
        return self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)


POWER = re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
Loader.add_implicit_resolver("tag:yaml.org,2002:float", POWER, list("-+0123456789"))
for _tag in ("int", "float"):
    Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", Loader.construct_number)


def compose(loader: Loader) -> yaml.Node | None:
    """Return the root node of a document (None if it is empty), within bounds once aliases are
    unfolded. Raises BROKEN."""
    node = loader.get_single_node()
    if node is not None and _nodes(node, {}) > VALUES:
        raise yaml.composer.ComposerError(
            None, None, f"its aliases unfold to more than {VALUES} values", node.start_mark
        )
    return node


def _nodes(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for, aliases unfolded; one that holds itself stands for very
    many."""
    if id(node) not in known:
        known[id(node)] = VALUES + 1
        parts = [] if isinstance(node, yaml.ScalarNode) else node.value
        inner = [part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_nodes(part, known) for part in inner)
    return known[id(node)]


def parse_yaml(text: str) -> Any:
    """Return a YAML or JSON document's value. Raises what the loader raises (BROKEN)."""
    loader = Loader(text)
    node = compose(loader)
    return None if node is None else _whole(loader.construct_document(node))


def read_yaml(path: str | os.PathLike, kind: Kind) -> Any:
    """Return the value of a YAML or JSON file, None if it is empty. What is wrong is a CinelabError
    with its line."""
    text = read_text(path, kind)
    try:
        return parse_yaml(text)
    except BROKEN as error:
        line = yaml_line(error, text)
        place = f"{shown_path(path)}, line {line}" if line else shown_path(path)
        raise CinelabError(f"{place}: not valid YAML ({problem(error)}); {kind.remedy}.") from error


def yaml_line(error: Exception, text: str) -> int | None:
    """The line on which the loader gave up, if it knows it."""
    if isinstance(error, yaml.reader.ReaderError):
        return text.count("\n", 0, error.position) + 1
    mark = getattr(error, "problem_mark", None)
    return mark.line + 1 if mark else None


def _whole(value: Any) -> Any:
    """A value whose texts are in one piece (see `joined`). Raises ValueError for half of a
    character pair."""
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    value = joined(value) if isinstance(value, str) else value
    _check(value)
    return value


def joined(text: str) -> str:
    r"""Return a text with its rare characters in one piece: JSON writes one as two escapes,
    \ud83e\udd8a; YAML leaves them apart. Half a pair stays as it is."""
    if text.isascii() or not HALF_PAIR.search(text):
        return text
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        return text
