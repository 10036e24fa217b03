"""Where a result comes from: the command, the revision of the code, the weights.

It stands in a JSON result, or in a file beside a table.

    {"command": "cinelab score toybox-2step", "git": "1f2e...-dirty",
     "cinelab": "0.1.0", "python": "3.11.9",
     "weights": {"toybox-2step": "b1946ac92492d234"}, "seeds": [0, 1, 2]}

What is not known is null: nothing is guessed from a file's name or place.
"""

import hashlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cinelab import __version__
from cinelab.assets import is_checkout
from cinelab.errors import CinelabError
from cinelab.files import glance, write_json
from cinelab.zoo.checkpoints import fingerprint

CODE = Path(__file__).parents[2]
SUFFIX = ".made.json"


def made(weights: Iterable[str | Path] = (), **more: Any) -> dict[str, Any]:
    """What made a result here and now: the command, code, and a mark of each of these weights."""
    marks = {str(name): weights_mark(name) for name in weights}
    code = {"git": revision(), "cinelab": __version__, "python": platform.python_version()}
    return {"command": command(), **code, **({"weights": marks} if marks else {}), **more}


def command() -> str | None:
    """The command line of this process; None in a notebook or a script, which say it themselves."""
    program = Path(sys.argv[0]) if sys.argv else Path()
    own = program.name == "cinelab" or program.parts[-2:] == ("cinelab", "__main__.py")
    return shlex.join(["cinelab", *sys.argv[1:]]) if own else None


def revision(folder: Path = CODE) -> str | None:
    """The commit of a checkout, with -dirty where files are changed; None where there is none: an
    installed wheel may lie in a folder of somebody else's repository."""
    if folder == CODE and not is_checkout():
        return None
    described = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    with suppress(OSError):
        found = subprocess.run(described, cwd=folder, capture_output=True, text=True)
        return found.stdout.strip() or None
    return None


def short_revision(git: str | None, length: int = 10) -> str:
    """A revision as tables show it, with a word where files were changed; "" where it is not
    known."""
    if not isinstance(git, str) or not git:
        return ""
    commit, changed, _ = git.partition("-dirty")
    return commit[:length] + (" and changes" if changed else "")


def weights_mark(name: str | Path) -> str | None:
    """A mark of a model's weights: a hash of its file, or `glance` of many large ones; None =
    neither."""
    with suppress(CinelabError):
        return fingerprint(Path(name))
    with suppress(OSError):
        parts = sorted(Path(name).rglob("*.safetensors"))
        return glance(parts) if parts else None
    return None


def file_mark(path: str | Path) -> dict[str, str]:
    """A file and its SHA-256."""
    with open(path, "rb") as file:
        return {"file": str(path), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def note_beside(path: str | Path, told: dict[str, Any]) -> Path:
    """Write what made a table beside it, as <name>.made.json, and return that path."""
    note = Path(path).with_name(Path(path).name + SUFFIX)
    write_json(note, told)
    return note
