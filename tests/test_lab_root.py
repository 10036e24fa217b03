"""JupyterLab as `make lab` opens it: the notebooks first, results in the file browser, links that
open what was made.

With CINELAB_SHOTS set to a folder, screenshots are left there.
"""

import os
from pathlib import Path

import nbformat
import pytest
from labserver import ROOT, jupyter_lab, run_all

from cinelab.lab.plain_notebook import METADATA
from cinelab.lab.workbench import jupyter_command

CELL = """
from pathlib import Path
from cinelab.readable import Made
Path("../results/my run").mkdir(exist_ok=True)
Path("../results/my run/page.html").write_text("<h1>It opens</h1>")
Path("../results/my run/numbers.csv").write_text("a,b\\n1,2\\n")
Made("../results/my run")
"""
OPTIONS = [
    word for word in jupyter_command(ROOT) if word.startswith(("--LabApp", "--FileContents"))
]


@pytest.fixture
def repository(tmp_path):
    """A small repository with a notebook that makes files, as the Makefile's filter finds it."""
    root = tmp_path / "clone"
    (root / "notebooks").mkdir(parents=True)
    (root / "results").mkdir()
    cells = [nbformat.v4.new_code_cell(CELL)]
    nbformat.write(
        nbformat.v4.new_notebook(cells=cells, metadata=METADATA), root / "notebooks/make.ipynb"
    )
    return root


@pytest.mark.browser
def test_what_a_notebook_made_opens_from_it_and_from_the_file_browser(
    browser, repository, tmp_path
):
    own = tmp_path / "own"
    own.mkdir()
    with jupyter_lab(repository, own, *OPTIONS) as address:
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        page.goto(address)
        page.dblclick(
            ".jp-DirListing-item:has-text('make.ipynb')"
        )  # the file browser stands at the notebooks
        run_all(page)
        link = page.wait_for_selector(".jp-OutputArea-output a:has-text('numbers.csv')")
        shot(page, "links")
        link.click()
        page.wait_for_selector(".lm-TabBar-tabLabel:text-is('numbers.csv')")
        page.click(".lm-TabBar-tabLabel:has-text('make.ipynb')")
        page.click(".jp-OutputArea-output a:has-text('page.html')")
        page.frame_locator(".jp-HTMLViewer iframe").get_by_text("It opens").wait_for()
        page.click(".jp-BreadCrumbs-home")
        page.dblclick(".jp-DirListing-item:has-text('results')")
        page.wait_for_selector(".jp-DirListing-item:has-text('my run')")
        shot(page, "opened")
        page.close()


def shot(page, name: str) -> None:
    if folder := os.environ.get("CINELAB_SHOTS"):
        page.screenshot(path=Path(folder) / f"root_{name}.png")
