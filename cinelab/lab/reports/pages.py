"""Executed notebooks as pages that a browser shows by itself: `make pages`, into results/pages.

    python -m cinelab.lab.reports.pages                    the tour, memory and reports
    python -m cinelab.lab.reports.pages 22_injectivity     others, with their smallest settings

The pages of a folder share one plotly.min.js and need no network. Outputs beyond PAGE bytes a page
are left out, the largest first, and each says so.
"""

import html
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cinelab.assets import local_or_asset
from cinelab.errors import CinelabError
from cinelab.files import write_text
from cinelab.lab.reports.templates import safe_json
from cinelab.lab.sweeps import renamed
from cinelab.lab.sweeps.notebook import execute
from cinelab.outputs import ready_folder
from cinelab.printing import say

CHOSEN = {"01_tour": {}, "41_memory": {"smoke": True}, "61_report": {"smoke": True}}
FOLDER = Path("results/pages")
PAGE = 6 * 2**20  # bytes of outputs
PLOTLY = "plotly.min.js"
FIGURE = "application/vnd.plotly.v1+json"


def pages(chosen: Mapping[str, dict[str, Any]] = CHOSEN, folder: str | Path = FOLDER) -> list[Path]:
    """Run notebooks, write <folder>/<name>.html of each and index.html, and return the pages.

    Raises CinelabError where one is not here, or fails.
    """
    from plotly.offline import get_plotlyjs

    folder = ready_folder(folder)
    if old := [name for name in chosen if name in renamed.NOTEBOOKS]:
        remedy = renamed.notebook_remedy(old[0], "name it so")
        raise CinelabError(f"notebooks/{old[0]}.ipynb is not here; {remedy}.")
    notebooks = {name: local_or_asset(f"notebooks/{name}.ipynb") for name in chosen}
    write_text(folder / PLOTLY, get_plotlyjs())
    made = []
    for name, settings in chosen.items():
        say((name, "bold"))
        run = execute(notebooks[name], folder / "runs" / name, settings)
        made.append(folder / f"{name}.html")
        write_text(made[-1], page(run))
    links = "".join(f'<li><a href="{one.name}">{html.escape(one.stem)}</a></li>' for one in made)
    write_text(
        folder / "index.html",
        f"<!doctype html><meta charset=utf-8><title>cinelab, executed</title><ul>{links}</ul>\n",
    )
    return made


def page(notebook: str | Path) -> str:
    """An executed notebook's page."""
    import nbformat
    from nbconvert import HTMLExporter

    found = nbformat.read(notebook, as_version=4)
    found.cells = [
        cell for cell in found.cells if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    shorten(found.cells)
    for number, output in enumerate(_outputs(found.cells)):
        if FIGURE in output.get("data", {}):
            output["data"] = {"text/html": figure_html(output["data"][FIGURE], f"figure-{number}")}
    exporter = HTMLExporter(template_name="lab", mathjax_url="", require_js_url="", jquery_url="")
    text, _ = exporter.from_notebook_node(found, {"metadata": {"name": Path(notebook).parent.name}})
    return text.replace("<head>", f'<head><script src="{PLOTLY}"></script>', 1)


def figure_html(figure: dict, name: str) -> str:
    """A plotly figure as an element that draws itself."""
    data, layout = (safe_json(figure[part]) for part in ("data", "layout"))
    call = f'Plotly.newPlot("{name}", {data}, {layout}, {{responsive: true}})'
    return f'<div id="{name}"></div><script>{call}</script>'


def shorten(cells: list, most: int = PAGE) -> None:
    """Keep one form of a figure that has two, and leave out the largest outputs beyond `most`
    bytes."""
    outputs = list(_outputs(cells))
    for output in outputs:
        data = output.get("data", {})
        if "image/jpeg" in data:
            data.pop("image/png", None)
    sizes = {number: len(json.dumps(output)) for number, output in enumerate(outputs)}
    for number in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if sum(sizes.values()) <= most:
            return
        size = f"{sizes[number] / 2**20:.1f} MiB"
        left = f"An output of {size} is left out here; run the notebook to see it."
        outputs[number].update(
            {"output_type": "display_data", "data": {"text/plain": left}, "metadata": {}}
        )
        for key in ("name", "text", "execution_count"):
            outputs[number].pop(key, None)
        sizes[number] = len(left)


def _outputs(cells: list) -> Iterable[dict]:
    return (output for cell in cells for output in cell.get("outputs", ()))


def main(names: list[str]) -> int:
    """What `make pages` runs; the exit code."""
    try:
        smallest = {name: {"smoke": True} for name in names}
        for made in pages(smallest or CHOSEN):
            say((str(made), "bold green"), f" ({made.stat().st_size / 2**20:.1f} MiB)")
    except CinelabError as error:
        say(("Error: ", "red"), str(error))
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
