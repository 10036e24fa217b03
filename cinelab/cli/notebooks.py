"""`cinelab lab`: the notebooks and experiments in a folder of the user's, opened in JupyterLab."""

from pathlib import Path
from typing import Annotated

import typer

from cinelab.printing import say

Folder = Annotated[
    Path, typer.Argument(help="where notebooks and experiments go; made if it is not there")
]
LabOptions = Annotated[
    list[str] | None,
    typer.Argument(help="JupyterLab's own options, after --, such as -- --port=9000"),
]
NoBrowser = Annotated[
    bool, typer.Option("--no-browser", help="start the server and open no browser")
]
CopyOnly = Annotated[bool, typer.Option("--copy-only", help="write the files and start nothing")]


def lab_command(
    folder: Folder = Path("cinelab-lab"),
    options: LabOptions = None,
    *,
    no_browser: NoBrowser = False,
    copy_only: CopyOnly = False,
):
    """Notebooks and experiments, copied into a folder, and JupyterLab opened on them. Files that
    are there already are left as they are."""
    from cinelab.lab.workbench import copy_out, open_lab

    written, different = copy_out(folder)
    if written or copy_only:
        say((str(folder), "bold green"), f": {len(written)} files written")
    for path in different:
        say(f"  {path} differs from the package's and was left as it is")
    if not copy_only:
        open_lab(folder, [*(["--no-browser"] if no_browser else []), *(options or ())])
