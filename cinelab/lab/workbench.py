"""`cinelab lab`: notebooks and experiments in a folder of the user's, and JupyterLab on them."""

import filecmp
import os
import shutil
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from cinelab.assets import assets_root
from cinelab.errors import CinelabError
from cinelab.files import write_atomic
from cinelab.optional import need
from cinelab.outputs import ready_folder

# what the notebooks read, below the assets' root
COPIED = ("notebooks", "experiments", "results/README.md", "results/reference")


def copy_out(folder: str | Path) -> tuple[list[Path], list[Path]]:
    """Copy notebooks, experiments and reference results into a folder.

    No file is replaced: one that is there already may hold a user's work. The root of a checkout
    has them all.

    Returns:
        The files that were written, and those that differ from the package's and were left alone.

    Raises:
        CinelabError: the folder or a file cannot be written.
    """
    folder = ready_folder(folder)
    written: list[Path] = []
    different: list[Path] = []
    for source in _sources():
        target = folder / source.relative_to(assets_root())
        if not target.exists():
            write_atomic(target, partial(shutil.copyfile, source))
            written.append(target)
        elif not filecmp.cmp(source, target, shallow=False):
            different.append(target)
    return written, different


def _sources() -> list[Path]:
    paths = [assets_root() / name for name in COPIED]
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))]
    hidden = (".ipynb_checkpoints", "__pycache__")
    return sorted(file for file in files if file.is_file() and file.parent.name not in hidden)


def jupyter_command(folder: str | Path, options: Iterable[str] = ()) -> list[str]:
    """Return the command that opens JupyterLab on the notebooks of a folder.

    The folder is the server's root, so that what notebooks write below results/ can be opened from
    them and from the file browser. `options` are JupyterLab's own.
    """
    root = Path(folder).resolve()
    if not (root / "notebooks").is_dir():
        raise CinelabError(f"{root} has no folder notebooks; name one that `cinelab lab` has made.")
    as_root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    return [
        *(sys.executable, "-m", "jupyterlab", *as_root),
        f"--ServerApp.root_dir={root}",
        "--LabApp.default_url=/lab/tree/notebooks",
        "--FileContentsManager.post_save_hook=cinelab.lab.plain_notebook.saved",
        *options,
    ]


def open_lab(folder: str | Path, options: Iterable[str] = ()) -> None:
    """Replace this process with JupyterLab on a folder. Raises CinelabError where it is not
    installed."""
    need("jupyterlab", extra="lab", what="The notebooks")
    command = jupyter_command(folder, options)
    os.execv(command[0], command)
