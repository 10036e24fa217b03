"""The vocabulary: words that the glossary retired stand in no name, docstring, comment, message,
page or notebook.

`EXCEPT` gives the reason for each word that a file may hold for good. `python tests/test_words.py`
prints the others.
"""

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
USE = {
    "sight": "attention context",
    "sights": "attention contexts",
    "shelf": "KV store",
    "shelves": "KV stores",
    "reel": "film or chunk generator",
    "reels": "films",
    "told": "given or stated",
    "lot": "random or seeded",
    "lots": "random draws",
    "worn": "EMA applied",
    "picture": "frame, image or figure",
    "pictures": "frames, images or figures",
    "exam": "validation",
    "exams": "validations",
    "hasten": "accelerate",
    "hastened": "accelerated",
}
# In these folders `slots` would mean the device's share of the KV store, whose entries are pages.
PAGED = ("cinelab/memory/", "cinelab/scale/")
SOURCES = (".js", ".css", ".html", ".j2")
# Reason for each word that a file may hold for good.
EXCEPT = {
    ("cinelab/renamed.py", "*"): "it states the names of version 0.1",
    ("docs/old_names.md", "*"): "it states the names of version 0.1",
    ("cinelab/stream/session.py", "reel"): "an attribute of version 0.1 is answered with its name",
    ("cinelab/train/consistency.py", "exam"): "a setting of version 0.1 goes on loading",
    ("cinelab/train/dmd.py", "exam"): "a setting of version 0.1 goes on loading",
    ("cinelab/train/ode.py", "exam"): "a setting of version 0.1 goes on loading",
    ("cinelab/data/planning.py", "reels"): "a key of the digests that stores on the disk hold",
    ("cinelab/memory/policy.py", "lot"): "it addresses a random draw; another word draws anew",
    ("cinelab/metrics/external/clip_files.py", "picture"): "PyAV's name of an enumeration",
    ("cinelab/memory/store.py", "slots"): "a setting that checkpoints and users write",
    ("cinelab/scale/host_kv.py", "slots"): "a setting that checkpoints and users write",
}
HISTORY = ("docs/LOG.md", "docs/changelog.md")  # dated records stay as they were written
CAMEL = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")


def words(text: str) -> set[str]:
    """Return the lower-case words of a text or an identifier, split by `_` and camel case."""
    return {word.lower() for word in CAMEL.findall(text)}


def names_and_prose(source: str) -> Iterator[str]:
    """Yield every name, string and comment of a Python source."""
    for node in ast.walk(ast.parse(source)):
        for field in ("id", "attr", "arg", "name", "asname", "module"):
            if isinstance(value := getattr(node, field, None), str):
                yield value
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def texts(path: Path) -> Iterator[str]:
    """The texts of a file: a notebook's cells, a module's names and strings, a page's text."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        yield from ("".join(cell["source"]) for cell in json.loads(text)["cells"])
    elif path.suffix == ".py":
        yield from names_and_prose(text)
    else:
        yield text


def retired(path: str, texts: Iterator[str]) -> set[str]:
    """Return the retired words of a file, without those that it may hold for good."""
    refused = {*USE, "slots"} if path.startswith(PAGED) else set(USE)
    found = set().union(*map(words, texts)) & refused
    return {w for w in found if not EXCEPT.keys() & {(path, w), (path, "*")}}


def files() -> Iterator[Path]:
    """Yield the files that the law holds for."""
    for path in sorted((ROOT / "cinelab").rglob("*")):
        if path.suffix in (".py", *SOURCES):
            yield path
    yield from sorted((ROOT / "notebooks").glob("*.ipynb"))
    yield from sorted((ROOT / "docs").rglob("*.md"))
    yield from (ROOT / "README.md", ROOT / "results" / "README.md")


def found() -> set[tuple[str, str]]:
    """Return every (path, retired word) of the repository."""
    named = {path.relative_to(ROOT).as_posix(): path for path in files()}
    return {
        (name, word)
        for name, path in named.items()
        if name not in HISTORY
        for word in retired(name, texts(path))
    }


def test_no_file_uses_a_retired_word():
    lines = [
        f"{path}: write {USE.get(word, 'pages')!r}, not {word!r}" for path, word in sorted(found())
    ]
    assert not lines, "\n".join(lines)


@pytest.mark.parametrize(
    "path, source",
    [
        ("cinelab/a.py", "def in_sight(): ..."),
        ("cinelab/a.py", "class HostShelf: ..."),
        ("cinelab/a.py", "f(told=1)"),
        ("cinelab/a.py", "x.reel"),
        ("cinelab/a.py", "from a import reel as b"),
        ("cinelab/a.py", "x = 1  # drawn by lot"),
        ("cinelab/a.py", 'raise ValueError(f"{n} pictures/s")'),
        ("cinelab/a.py", '"""The exam."""'),
        ("cinelab/memory/a.py", "slots = 4"),
    ],
)
def test_the_law_finds_a_retired_word(path, source):
    assert len(retired(path, names_and_prose(source))) == 1


@pytest.mark.parametrize(
    "path, source",
    [
        ("cinelab/a.py", "slot = 1  # the prompt's index; pilot, foretold, insight"),
        ("cinelab/renamed.py", 'OLD = "memory.sight"'),
        ("cinelab/stream/a.py", "@dataclass(slots=True)\nclass A: ..."),
    ],
)
def test_the_law_lets_good_words_be(path, source):
    assert retired(path, names_and_prose(source)) == set()


if __name__ == "__main__":
    for path, word in sorted(found()):
        print(path, word)
