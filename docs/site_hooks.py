"""What the site's build adds to the pages: files of the repository that they link to, and the
gallery of executed notebooks.

A page may link to any file of the repository. What lies outside docs/ is copied to files/ of the
site and the link follows it, so that one text reads on a code host and on the site. README.md is
the first page; CHANGELOG.md, CONTRIBUTING.md and results/README.md are pages too. `GALLERY=0`
leaves the notebooks out.
"""

import base64
import json
import os
import posixpath
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from types import SimpleNamespace

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
DOCS = "docs"
FILES = "files"  # where the site keeps the repository's own files
FROM_ROOT = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "files_of_a_run.md": "results/README.md",
}
LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)#\s]+)(?=[)#\s])")
GALLERY = {
    "01_tour": {},
    "02_toybox": {"smoke": True},
    "13_teacher_forcing": {"smoke": True},
    "41_memory": {"smoke": True},
    "61_report": {"smoke": True},
}
RUNS = ROOT / "results" / "gallery"
REMOTE_SHIM = "https://unpkg.com/iframe-worker/shim"
SHIM = "worker_shim.js"
MARK = "<!-- gallery -->"
SKIPPED = "This build left the notebooks out (`GALLERY=0`); `make docs` executes them."
state = SimpleNamespace(cards=SKIPPED)


def source(page: str) -> str:
    """Return the repository path of a page's text."""
    return FROM_ROOT.get(page, posixpath.join(DOCS, page))


def target(page: str, link: str) -> str:
    """Return where a link of a page leads, as a path of the site's source."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source(page)), link))
    if path.startswith(f"{DOCS}/"):
        return path.removeprefix(f"{DOCS}/")
    if path in FROM_ROOT.values():
        return next(name for name, text in FROM_ROOT.items() if text == path)
    return posixpath.join(FILES, path)


def outside(pages: Iterator[str]) -> set[str]:
    """Return the files of the repository that pages link to and that lie outside docs/."""
    found = set()
    for page in pages:
        for link in LINK.findall((ROOT / source(page)).read_text(encoding="utf-8")):
            path = target(page, link)
            if path.startswith(f"{FILES}/"):
                found.add(path.removeprefix(f"{FILES}/"))
    return {path for path in found if (ROOT / path).is_file()}


def on_files(files, config):
    """Add the repository's linked files, and the executed notebooks."""
    pages = [file.src_uri for file in files if file.src_uri.endswith(".md")]
    for path in sorted(outside(iter(pages))):
        files.append(generated(config, f"{FILES}/{path}", ROOT / path))
    if os.environ.get("GALLERY") != "0":
        for page in execute():
            files.append(generated(config, f"gallery/{page.name}", page))
    return files


def generated(config, name: str, path: Path) -> File:
    """Return a file of the site that is a copy of `path`."""
    return File.generated(config, name, abs_src_path=str(path))


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Return a page's text with links that hold on the site."""
    name = page.file.src_uri
    if name in FROM_ROOT:
        markdown = (ROOT / FROM_ROOT[name]).read_text(encoding="utf-8")
    here = posixpath.dirname(name)
    links = LINK.sub(lambda found: posixpath.relpath(target(name, found[1]), here or "."), markdown)
    return links.replace(MARK, state.cards)


def on_post_page(output: str, page, config) -> str:
    """Return a page that loads the site's own shim for a search from the disk."""
    return output.replace(REMOTE_SHIM, posixpath.relpath(SHIM, posixpath.dirname(page.url) or "."))


def on_post_template(output_content: str, template_name, config) -> str:
    """Return a page without text of ours, such as 404.html, with the same shim."""
    return output_content.replace(REMOTE_SHIM, f"/{SHIM}")


def execute() -> list[Path]:
    """Run the gallery's notebooks, note their cards, and return the files of their pages."""
    from cinelab.lab.reports.pages import pages

    made = pages(GALLERY, RUNS)
    runs = [RUNS / "runs" / path.stem / "notebook.ipynb" for path in made]
    cards = [card(path, run) for path, run in zip(made, runs, strict=True)]
    state.cards = '<div class="gallery">' + "\n".join(cards) + "</div>"
    return [*made, *RUNS.glob("*.js")]


def card(page: Path, run: Path) -> str:
    """Return the card of an executed notebook: its first image, its title, its first paragraph."""
    cells = json.loads(run.read_text(encoding="utf-8"))["cells"]
    title, _, rest = "".join(cells[0]["source"]).partition("\n")
    image = next(images(cells), "")
    text = escape(rest.strip().split("\n\n")[0].split(". ")[0])
    return (
        f'<a class="card" href="gallery/{page.name}">{image}'
        f"<b>{escape(title.lstrip('# '))}</b><span>{text}</span></a>"
    )


def images(cells: list[dict]) -> Iterator[str]:
    """Yield the images among a notebook's outputs as elements of a page."""
    for output in (one for cell in cells for one in cell.get("outputs", ())):
        for kind in ("image/jpeg", "image/png"):
            if kind in output.get("data", {}):
                data = "".join(output["data"][kind]).replace("\n", "")
                base64.b64decode(data, validate=True)
                yield f'<img alt="" src="data:{kind};base64,{data}">'
