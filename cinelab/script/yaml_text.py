"""YAML as a person writes it and as we write it back: the loader, the dumper, and one sentence for what is no YAML."""

import os
import re

import yaml

from cinelab.errors import CinelabError

MAX_BYTES = 4_000_000  # of a screenplay file, so that a film opened by mistake is not read whole


class Dumper(yaml.SafeDumper):
    """SafeDumper with indented lists, whose plain words `Loader` reads back as text."""

    def increase_indent(self, flow=False, indentless=False):
        return super().increase_indent(flow, False)


class Loader(yaml.SafeLoader):
    """SafeLoader that also takes JSON's 1e3 for a number."""


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
