"""YAML as a person writes it and as we write it back: the loader, the dumper, and one sentence for what is no YAML."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cinelab.errors import CinelabError
from cinelab.limits import short

MAX_NODES = 200_000  # values of a file once its aliases are unfolded
BROKEN = (yaml.YAMLError, ValueError, OverflowError, RecursionError, LookupError, AttributeError)  # what the loader raises
MAX_BYTES = 4_000_000  # of a screenplay file, so that a film opened by mistake is not read whole


class Dumper(yaml.SafeDumper):
    """SafeDumper with indented lists, whose plain words `Loader` reads back as text."""

    def increase_indent(self, flow=False, indentless=False):
        return super().increase_indent(flow, False)


class Loader(yaml.SafeLoader):
    """SafeLoader that also takes JSON's 1e3 for a number and refuses a key that is given twice."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} is given twice, keep one of them", node.start_mark)
        return super().construct_mapping(node, deep)


def _quote(dumper: Dumper, text: str) -> yaml.Node:
    """Control characters survive between double quotes only, where they are escaped."""
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


Dumper.add_representer(str, _quote)
_POWER = re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
for _kind in (Dumper, Loader):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _POWER, list("-+0123456789"))


def read_text(path: str | os.PathLike) -> str:
    """The text of a UTF-8 file. Raises CinelabError where it is missing, unreadable or binary."""
    remedy = "give the path of a screenplay, YAML or JSON in UTF-8"
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise CinelabError(f"{path} cannot be read ({why}); {remedy}.") from error
    if len(data) > MAX_BYTES:
        raise CinelabError(f"{path} is above {MAX_BYTES} bytes; {remedy}.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CinelabError(f"{path}:{line}: this is not UTF-8 text; {remedy}.") from None


def read_yaml(path: str | os.PathLike, what: str) -> Any:
    """The value of a YAML or JSON file. `what` names its kind in the sentence of a CinelabError."""
    try:
        return parse_yaml(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise CinelabError(f"Cannot read {path}: {error.strerror}; give the path of a {what}.") from error
    except BROKEN as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark else path
        raise CinelabError(f"{place}: not valid YAML ({_problem(error)}); correct the {what}.") from error


def parse_yaml(text: str) -> Any:
    """A document's value. Raises what the loader raises; also where aliases unfold to very many values."""
    loader = Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _nodes(node, {}) > MAX_NODES:
            raise ValueError(f"its aliases unfold to more than {MAX_NODES} values")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _nodes(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for, aliases unfolded; one that holds itself stands for very many."""
    if id(node) not in known:
        known[id(node)] = MAX_NODES + 1
        parts = [] if isinstance(node, yaml.ScalarNode) else node.value
        inner = [part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_nodes(part, known) for part in inner)
    return known[id(node)]


def _problem(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return " ".join(str(getattr(error, "problem", None) or error).split())


def parse_value(text: str, name: str) -> Any:
    """The value of a `name=value` as YAML has it, 1e3 a number. Raises CinelabError."""
    try:
        return parse_yaml(text)
    except BROKEN as error:
        raise CinelabError(f"{name} is {short(text)}, which cannot be read ({_problem(error)}); give a number, text, true, false, null or a "
                           "list like [480, 832].") from error


def parse_settings(pairs: Sequence[str], option: str = "--set") -> dict[str, Any]:
    """The settings of a repeated `--set name=value`; one that is given twice is refused."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        name = name.strip()
        if not (equals and name):
            raise CinelabError(f"{option} is {pair!r}; give name=value, like cuts=given.")
        if name in found:
            raise CinelabError(f"{option} gives {name} twice; keep one of them.")
        found[name] = parse_value(text, f"{option} {name}")
    return found


def yaml_sentence(error: yaml.MarkedYAMLError) -> str:
    problem = " ".join((error.problem or error.context or "this is not YAML").split())
    remedy = "check the indentation, the colons and the quotes here"
    if "'\\t'" in problem:
        problem, remedy = "a tab stands where YAML wants spaces", "put spaces in its place"
    elif "mapping values" in problem:
        remedy = "put text that holds a colon in quotes, or correct the indentation"
    elif "another document" in problem:
        problem, remedy = "a second document begins", "keep one screenplay in a file"
    return f"the text is not valid YAML, {problem}; {remedy}."


def join_pairs(text: str) -> str:
    r"""JSON writes a rare character as two escapes, \ud83e\udd8a; YAML leaves them apart."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        return text  # half a pair: the rules refuse it by name
