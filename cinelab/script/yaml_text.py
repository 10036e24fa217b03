"""YAML as we write it back, settings as a person types them, and one sentence for what is no YAML
(see `cinelab.texts`)."""

from collections.abc import Sequence
from typing import Any

import yaml

from cinelab.errors import CinelabError
from cinelab.limits import short
from cinelab.texts import BROKEN, POWER, parse_yaml, problem


class Dumper(yaml.SafeDumper):
    """SafeDumper with indented lists, whose plain words `cinelab.texts.Loader` reads back as
    text."""

    def increase_indent(self, flow=False, indentless=False):
        return super().increase_indent(flow, False)


def _quote(dumper: Dumper, text: str) -> yaml.Node:
    """Control characters survive between double quotes only, where they are escaped."""
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


Dumper.add_representer(str, _quote)
Dumper.add_implicit_resolver("tag:yaml.org,2002:float", POWER, list("-+0123456789"))


def parse_value(text: str, name: str) -> Any:
    """The value of a `name=value` as YAML has it, 1e3 a number. Raises CinelabError."""
    try:
        return parse_yaml(text)
    except BROKEN as error:
        raise CinelabError(
            f"{name} is {short(text)}, which cannot be read ({problem(error)}); give a number, "
            "text, true, false, null or a list like [480, 832]."
        ) from error


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
        problem = "a tab stands where YAML wants spaces"
        remedy = "put spaces in its place"
    elif "mapping values" in problem:
        remedy = "put text that holds a colon in quotes, or correct the indentation"
    elif "another document" in problem:
        problem = "a second document begins"
        remedy = "keep one screenplay in a file"
    elif "more than" in problem or "aliases" in problem:
        remedy = "write title and shots"
    return f"the text is not valid YAML, {problem}; {remedy}."
