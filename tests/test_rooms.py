"""`help(cinelab.memory)` says what the room holds: every module and name that it lists is there."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cinelab"
ROOMS = sorted(path.parent for path in PACKAGE.glob("*/__init__.py") if path.parent.name != "cli")
ROW = re.compile(r"^(?: {4})?((?:[a-z]\w*, )*[a-z]\w*) {2,}\S", re.MULTILINE)


def listed(room: Path) -> list[str]:
    """Return the modules in the first column of a room's docstring."""
    text = ast.get_docstring(ast.parse((room / "__init__.py").read_text()), clean=False) or ""
    return [name for row in ROW.findall(text) for name in row.split(", ")]


def names_in(room: Path) -> set[str]:
    """Return every name that a room's modules define or import."""
    trees = [ast.parse(path.read_text()) for path in room.rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    defined = {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    return defined | {node.id for node in nodes if isinstance(node, ast.Name)}


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_rooms_docstring_lists_modules_that_are_there(room):
    modules = listed(room)
    assert len(modules) > 1
    assert not [one for one in modules if not list(room.glob(f"{one}*"))]


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_rooms_docstring_names_what_the_room_defines(room):
    text = ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or ""
    named = {name for name in re.findall(r"`(\w+)[`(]", text)}
    assert not named - names_in(room)
