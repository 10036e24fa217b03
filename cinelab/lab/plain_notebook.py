"""A git filter: a notebook as it is committed, whatever was run in it. `make` sets it up (see
.gitattributes).

    python cinelab/lab/plain_notebook.py < notebook.ipynb

prints it without outputs, counts and traces of the machine. It needs nothing but Python, since git
calls it for every changed notebook. A file that is no notebook passes unchanged. `saved` is
JupyterLab's hook: git lists a file of another length as changed until it has read it.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def stripped_notebook(text: str) -> str:
    """Return a notebook's JSON without the traces of a run, in the order and spacing that Jupyter
    writes."""
    try:
        notebook = json.loads(text)
        notebook["cells"] = [_cell(cell) for cell in notebook["cells"] if not _injected(cell)]
    except (ValueError, TypeError, KeyError, AttributeError):
        return text
    notebook["metadata"] = METADATA
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _cell(cell: dict) -> dict:
    metadata = cell["metadata"]
    stripped = {**cell, "metadata": {}}
    if metadata.get("jupyter", {}).get("source_hidden"):  # a cell that is shown collapsed
        stripped["metadata"]["jupyter"] = {"source_hidden": True}
    if metadata.get("tags"):
        stripped["metadata"]["tags"] = metadata["tags"]
    if cell["cell_type"] == "code":
        stripped |= {"outputs": [], "execution_count": None}
    return stripped


def _injected(cell: dict) -> bool:
    """Whether papermill has put the cell there."""
    return "injected-parameters" in cell["metadata"].get("tags", [])


def saved(os_path: str, **_: Any) -> None:
    """Let git read a notebook that was just saved, if nothing but outputs has changed in it."""
    folder = Path(os_path).parent
    name = Path(os_path).name
    git = ["git", "-C", str(folder)]
    calls = [
        [*git, "ls-files", "--error-unmatch", name],
        [*git, "diff", "--quiet", "--", name],
        [*git, "add", "--", name],
    ]
    for call in calls if name.endswith(".ipynb") else ():
        try:
            if subprocess.run(call, capture_output=True, timeout=10).returncode:
                return
        except (OSError, subprocess.SubprocessError):  # there is no git
            return


if __name__ == "__main__":
    data = sys.stdin.buffer.read()
    try:
        data = stripped_notebook(data.decode()).encode()
    except UnicodeDecodeError:
        pass
    sys.stdout.buffer.write(data)
