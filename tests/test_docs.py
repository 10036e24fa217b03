"""The site: it builds without a warning, asks no network, and what its pages say holds."""

import json
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import typer

from cinelab.registry import HOMES, resolve

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LOADED = re.compile(r"<(?:script|img|iframe|source|video)\b[^>]*\bsrc=[\"']([^\"']+)")
STYLED = re.compile(r"<link\b(?=[^>]*\brel=[\"'](?:stylesheet|icon|preload|preconnect))[^>]*>")
HREF = re.compile(r"\bhref=[\"']([^\"']+)")
BLOCK = re.compile(r"```(python|yaml)(?: file=(\S+))?\n(.*?)```", re.S)
ROW = re.compile(r"^\| `([\w.]+)` \| `([\w.]+)` \|$", re.M)
PAGES = ("README.md", "docs/tutorial/first_film.md", "docs/tutorial/screenplay.md")
OWN = "docs/tutorial/own_parts.md"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site's folder, built as `make docs GALLERY=0` does."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder)]
    env = os.environ | {"GALLERY": "0", "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def remote(text: str) -> list[str]:
    """Return what a page would load from a network."""
    styles = [found[1] for tag in STYLED.findall(text) if (found := HREF.search(tag))]
    return [one for one in LOADED.findall(text) + styles if re.match(r"(?:https?:)?//", one)]


def test_no_page_loads_anything_from_a_network(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    assert [(page.name, one) for page in pages for one in remote(page.read_text())] == []
    styles = [style.read_text() for style in site.rglob("*.css")]
    assert not [found for text in styles for found in re.findall(r"url\([\"']?https?:", text)]


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://a.b/c.js"></script>',
        '<link href="//a.b/c.css" rel="stylesheet">',
        "<link rel='preconnect' href='https://fonts.a.b'>",
        '<img alt="" src="http://a.b/c.png">',
    ],
)
def test_a_remote_part_is_noticed(text):
    assert len(remote(text)) == 1
    assert remote('<a href="https://a.b">a link</a> <img src="a.png">') == []


def test_the_search_finds_a_word(site):
    text = (site / "search" / "search_index.json").read_text()
    assert any("CAMR" in one["title"] for one in json.loads(text)["docs"])


def test_what_the_pages_link_to_in_the_repository_is_part_of_the_site(site):
    assert (site / "files" / "cinelab" / "flow" / "path.py").is_file()
    assert (site / "files" / "results" / "reference" / "memory.csv").is_file()
    assert "The cinelab authors" in (site / "index.html").read_text()


def script(name: str):
    """Return a script of docs/ as a module."""
    spec = spec_from_file_location(name, DOCS / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_gallery_names_notebooks_and_shows_their_first_image(tmp_path):
    hooks = script("site_hooks")
    for name in hooks.GALLERY:
        assert (ROOT / "notebooks" / f"{name}.ipynb").exists(), name
    image = {"data": {"image/png": "iVBORw0KGgo=\n"}}
    cells = [
        {"source": ["# A <b>\n", "Why & how. More."]},
        {"source": [], "outputs": [{"text": "no image"}, image]},
    ]
    (tmp_path / "notebook.ipynb").write_text(json.dumps({"cells": cells}))
    card = hooks.card(tmp_path / "01_a.html", tmp_path / "notebook.ipynb")
    assert "A &lt;b&gt;" in card and "<span>Why &amp; how</span>" in card
    assert 'src="data:image/png;base64,iVBORw0KGgo="' in card and "gallery/01_a.html" in card


def test_aligned_docstrings_are_shown_as_they_stand():
    shown = script("docstrings").shown
    assert shown("A sentence. Another.\nNo columns.") == "A sentence. Another.\nNo columns."
    assert shown("Text.\n\nq   queries\nk   keys") == "Text.\n\n    q   queries\n    k   keys"
    assert shown("    q   queries") == "    q   queries"


def test_the_drawings_are_what_their_script_draws():
    drawings = script("drawings").DRAWINGS
    names = {path.stem for path in (DOCS / "drawings").glob("*.svg")}
    assert names == set(drawings)
    for name, draw in drawings.items():
        text = (DOCS / "drawings" / f"{name}.svg").read_text()
        assert draw().svg() == text, f"run python docs/drawings.py: {name}.svg is older"
        assert "prefers-color-scheme: dark" in text and "href" not in text


def test_the_glossary_has_at_most_25_words():
    rows = re.findall(r"^\| \*\*(.+?)\*\* \|", (DOCS / "glossary.md").read_text(), re.M)
    assert 20 <= len(rows) <= 25


def test_the_readme_is_about_a_hundred_lines():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 110


def test_the_page_of_old_names_lists_all_of_them():
    text = (DOCS / "old_names.md").read_text()
    assert script("old_names").written(text) == text, "run python docs/old_names.py"
    rows = dict(ROW.findall(text))
    assert rows["cinelab.model.zoo"] == "cinelab.zoo.checkpoints"
    notebooks = [new for new in rows.values() if re.match(r"\d\d_", new)]
    assert len(notebooks) == 12
    for name in notebooks:
        assert (ROOT / "notebooks" / f"{name}.ipynb").exists(), name


def commands() -> list[tuple[str, str]]:
    """Return every `cinelab ...` line of the pages' shell blocks, with its page."""
    found = []
    for page in [ROOT / "README.md", *DOCS.rglob("*.md")]:
        for block in re.findall(r"```(?:sh|bash)\n(.*?)```", page.read_text(), re.S):
            for part in re.split(r"\n|&&", re.sub(r"(?m)\s#.*$", "", block)):
                if found_command := re.search(r"(?:^|\s)cinelab (.+)", part):
                    found.append((page.name, found_command[1]))
    return found


def unknown(line: str) -> list[str]:
    """Return the words of a command line that the command line does not know."""
    command = typer.main.get_command(import_module("cinelab.cli.commands").app)
    words = shlex.split(line)
    if words[0] == "--import":
        words = words[2:]
    while hasattr(command, "commands"):
        if words[0] not in command.commands:
            return [words[0]]
        command = command.commands[words.pop(0)]
    options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    return [word for word in words if word.startswith("-") and word.split("=")[0] not in options]


def test_the_commands_of_the_pages_are_there():
    lines = commands()
    assert len(lines) > 30
    assert [(page, line, bad) for page, line in lines if (bad := unknown(line))] == []
    assert unknown("nothing") == ["nothing"] and unknown("direct a.yaml --never") == ["--never"]


def blocks(page: str, folder: Path) -> list[str]:
    """Write a page's files into a folder and return its Python."""
    found = BLOCK.findall((ROOT / page).read_text())
    for _, name, block in found:
        if name:
            (folder / name).write_text(block)
    return [block for kind, name, block in found if kind == "python" and not name]


@pytest.fixture
def registered():
    """What a page registers is forgotten afterwards."""
    rooms = [resolve(home) for home in HOMES.values()]
    before = [{name: room.get(name) for name in room} for room in rooms]
    yield
    for room, things in zip(rooms, before, strict=True):
        room._things = things


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = {}
    for block in blocks(page, tmp_path):
        exec(block, made)
    assert made["film"].frames.ndim == 4


def test_the_parts_of_the_tutorial_run(tmp_path, monkeypatch, registered):
    monkeypatch.chdir(tmp_path)
    made = {"__name__": "tutorial"}
    for block in blocks(OWN, tmp_path):
        exec(block, made)
    assert made["film"].frames.ndim == 4
    metrics = import_module("cinelab.metrics.metric").METRICS
    assert "colour kept" in metrics
    assert len(made["rows"]) == 4 and made["images"].config["stage"] == "images"
