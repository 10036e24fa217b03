"""The tables of docs/old_names.md: `python docs/old_names.py` writes them from the table that
imports are answered from."""

from pathlib import Path

from cinelab.renamed import MODULES, NAMES

PAGE = Path(__file__).with_suffix(".md")
MODULES_AT = "## Modules\n"
WORDS_AT = "## Words\n"
HEAD = "\n| 0.1 | 0.2.0 |\n|---|---|\n"


def tables() -> str:
    """Return the sections of modules, and of classes and functions."""
    modules = [f"| `cinelab.{old}` | `cinelab.{new}` |\n" for old, new in sorted(MODULES.items())]
    names = [
        f"| `{old}` of `{module}` | `{new}` |\n"
        for module, renamed in sorted(NAMES.items())
        for old, new in sorted(renamed.items())
    ]
    where = "\nModules are named as they are called now, below `cinelab`.\n"
    second = "".join(["\n## Classes and functions\n", where, HEAD, *names, "\n"])
    return "".join([MODULES_AT, HEAD, *modules]) + second


def written(page: str) -> str:
    """Return the page with its tables written anew."""
    before, _, rest = page.partition(MODULES_AT)
    return before + tables() + WORDS_AT + rest.partition(WORDS_AT)[2]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
