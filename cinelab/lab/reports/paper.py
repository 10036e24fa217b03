"""Figures as a paper prints them: drawn once with matplotlib, shown as SVG, saved as SVG and PDF.

A page shows what is saved: the same lines, with its light or dark ink in place of the paper's. Text
stays text.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from html import escape
from io import BytesIO
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any
from warnings import catch_warnings, filterwarnings

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from cinelab.files import write_atomic
from cinelab.lab.reports.plots import PALETTE

# on paper; a page puts its own in their place
INK = "#1d2433"
QUIET = "#5d6675"
GRID = "#e6e9ee"
VARIABLES = {INK: "--ink", QUIET: "--quiet", GRID: "--grid"}
MARKERS = "osD^vPX*"  # distinct without colour
LEFT = "_left_title"  # of axes; matplotlib has no public way to it
INCH = 96  # CSS pixels
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Noto Sans CJK JP", "Arial Unicode MS"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.title_fontsize": 8.5,
    "figure.titlesize": 10.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": QUIET,
    "grid.color": GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "svg.hashsalt": "cinelab",
    "text.parse_math": False,
    "figure.constrained_layout.use": True,
}


@contextmanager
def paper() -> Iterator[None]:
    """Inside, figures are drawn and saved in the style of a paper."""
    logger = getLogger("matplotlib.font_manager")
    before = logger.level
    logger.setLevel(ERROR)  # that one of the fonts for other scripts is not here
    with matplotlib.rc_context(rc=STYLE), catch_warnings():
        filterwarnings("ignore", "Glyph .* missing from font")  # a page's own fonts have it
        try:
            yield
        finally:
            logger.setLevel(before)


@dataclass(repr=False)
class PaperFigure:
    """A finished figure: `name` of its files, and the sentences that a reader sees at a marker."""

    name: str
    figure: Figure
    wide: bool = False  # takes the page's whole width
    # gid of a series -> a sentence for each of its markers
    sentences: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self):
        if self.figure.get_layout_engine() is not None:  # laid out once, not at every saving
            with paper():
                self.figure.draw_without_rendering()
            self.figure.set_layout_engine("none")

    def svg(self) -> str:
        """The figure as SVG in the paper's colours."""
        with paper(), BytesIO() as buffer:
            self.figure.savefig(
                buffer,
                format="svg",
                metadata={"Date": None, "Creator": "cinelab", "Title": self.name},
            )
            text = buffer.getvalue().decode()
        text = text[text.index("<svg") :]
        for gid, texts in self.sentences.items():
            text = _pointed(text, gid, texts)
        return text

    def page_svg(self) -> str:
        """The figure as SVG in the page's colours (its variables --ink, --quiet and --grid)."""
        text = re.sub(
            r'<svg ([^>]*?)width="[\d.]+pt" height="[\d.]+pt"',
            r'<svg \1role="img"',
            self.svg(),
            count=1,
        )
        for colour, variable in VARIABLES.items():
            text = re.sub(colour, f"var({variable}, {colour})", text, flags=re.IGNORECASE)
        for tag in (r"<defs>\s*<style.*?</style>\s*</defs>", r"<metadata>.*?</metadata>"):
            text = re.sub(tag, "", text, count=1, flags=re.DOTALL)
        return _own_ids(text, self.name)

    def pdf(self) -> bytes:
        """The figure as a page of PDF, text as text."""
        with paper(), BytesIO() as buffer:
            self.figure.savefig(
                buffer, format="pdf", metadata={"CreationDate": None, "Title": self.name}
            )
            return buffer.getvalue()

    def named(self, name: str) -> "PaperFigure":
        """The same figure under another name."""
        return replace(self, name=name)

    def save(self, folder: str | Path) -> list[Path]:
        """Write <name>.svg and <name>.pdf."""
        contents = {".svg": self.svg().encode(), ".pdf": self.pdf()}
        paths = [Path(folder) / f"{file_name(self.name)}{ending}" for ending in contents]
        for path, content in zip(paths, contents.values(), strict=True):
            write_atomic(path, partial(Path.write_bytes, data=content))
        return paths

    @property
    def width(self) -> int:
        """Of the figure at its size on paper, in CSS pixels."""
        return round(self.figure.get_figwidth() * INCH)

    def __repr__(self) -> str:
        return f"Drawn({self.name!r}, {self.width} pixels wide)"

    def _repr_html_(self) -> str:
        theme = {
            "--ink": f"--jp-content-font-color1, {INK}",
            "--quiet": f"--jp-content-font-color2, {QUIET}",
            "--grid": f"--jp-border-color2, {GRID}",
        }
        ink = "; ".join(f"{name}: var({own})" for name, own in theme.items())
        return f'<div style="max-width: {round(1.3 * self.width)}px; {ink}">{self.page_svg()}</div>'


def _pointed(text: str, gid: str, sentences: Sequence[str]) -> str:
    """SVG in which every mark of the series `gid` says its sentence where it is pointed at."""
    head, found, rest = text.partition(f'<g id="{gid}">')
    if not found:
        return text
    markers = re.compile(r"(<use [^>]*?)/>")
    for sentence in sentences:
        match = markers.search(rest)
        if match is None:
            break
        head += (
            found + rest[: match.start()] + f"{match[1]}><title>{escape(sentence)}</title></use>"
        )
        found = ""
        rest = rest[match.end() :]
    return head + found + rest


def _own_ids(text: str, name: str) -> str:
    """SVG whose ids are its own, so that several may stand in one page."""
    prefix = file_name(name)
    return re.sub(r'((?:\bid="|url\(#|href="#))', rf"\g<1>{prefix}-", text)


def file_name(name: str) -> str:
    """A figure's name as that of a file."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-").lower()


def colours(labels: Sequence[str], known: Sequence[str] = ()) -> dict[str, str]:
    """A colour for every label: those of `known` keep theirs in all figures, others take what is
    left."""
    own = {label: PALETTE[known.index(label) % len(PALETTE)] for label in labels if label in known}
    left = [colour for colour in PALETTE if colour not in own.values()] or PALETTE
    others = [label for label in labels if label not in own]
    return own | {label: left[number % len(left)] for number, label in enumerate(others)}


def marker_at(number: int) -> str:
    return MARKERS[number % len(MARKERS)]


def title(figure: Figure, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left")


def legend(figure: Figure, name: str | None, labels: Sequence[str], columns: int) -> None:
    """Name the series of all panels in the order of `labels`, below the panels."""
    found = {
        label: one
        for axes in figure.axes
        for one, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    ordered = [label for label in labels if label in found]
    if ordered:
        figure.legend(
            [found[label] for label in ordered],
            ordered,
            title=name,
            loc="outside lower center",
            ncols=columns,
            columnspacing=1.4,
            handletextpad=0.5,
        )


def key(figure: Figure, name: str, lines: Sequence[str]) -> None:
    """What numbers in the panels stand for, outside at their right."""
    handles = [Line2D([], [], linestyle="none") for _ in lines]
    figure.legend(
        handles,
        lines,
        title=name,
        loc="outside right upper",
        handlelength=0,
        handletextpad=0,
        alignment="left",
    )


def level(axes: Axes, value: float, dash: str, *, upright: bool = False) -> None:
    """A level to compare with, across the panel; upright where values run along x."""
    line = axes.axvline if upright else axes.axhline
    line(value, color=QUIET, linewidth=1, linestyle=dash, zorder=1)


def name_levels(axes: Axes, levels: Sequence[tuple[str, float]], *, upright: bool = False) -> None:
    """Write the names of levels at the ends of their lines, apart where they would overlap."""
    low, high = axes.get_xlim() if upright else axes.get_ylim()
    ordered = sorted(levels, key=lambda one: one[1])
    places = apart(
        [(value - low) / (high - low) for _, value in ordered], _least(axes, ordered, upright)
    )
    for (text, _), place in zip(ordered, places, strict=True):
        axes.annotate(
            text,
            xy=(place, 1) if upright else (1, place),
            xytext=(0, 3) if upright else (4, 0),
            ha="center" if upright else "left",
            va="bottom" if upright else "center",
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=8,
            color=QUIET,
            annotation_clip=False,
        )


def _least(axes: Axes, levels: Sequence[tuple[str, float]], upright: bool) -> float:
    """How far apart names must be, as a share of the panel."""
    box = axes.get_window_extent()
    points = 72 / axes.figure.dpi
    if upright:
        return max((len(text) for text, _ in levels), default=0) * 5.2 / max(1, box.width * points)
    return 10.5 / max(1, box.height * points)


def apart(places: Sequence[float], least: float) -> list[float]:
    """Places in order, moved by a pass from below and one from above until they are `least`
    apart."""
    found = list(places)
    for number in range(1, len(found)):
        found[number] = max(found[number], found[number - 1] + least)
    if found and (over := found[-1] - max(1.0, places[-1])) > 0:
        found[-1] -= over
        for number in range(len(found) - 2, -1, -1):
            found[number] = min(found[number], found[number + 1] - least)
    return found


def drawn_texts(figure: Figure) -> list[tuple[str, Bbox]]:
    """Every text that is drawn, with its box in pixels: what must not be cut or overlap."""
    with paper():
        figure.draw_without_rendering()
    # matplotlib has no public way to these
    titles = [getattr(figure, name) for name in ("_suptitle", "_supxlabel", "_supylabel")]
    found: list[Text] = [*figure.texts, *filter(None, titles)]
    for box in figure.legends:
        found += [*box.get_texts(), box.get_title()]
    for axes in figure.axes:
        found += [axes.title, getattr(axes, LEFT), axes.xaxis.label, axes.yaxis.label, *axes.texts]
        found += [*_ticks(axes.xaxis, axes.get_xlim()), *_ticks(axes.yaxis, axes.get_ylim())]
    seen = {id(one): one for one in found if one.get_visible() and one.get_text().strip()}
    with paper():
        return [(one.get_text(), one.get_window_extent()) for one in seen.values()]


def _ticks(axis: Axis, limits: tuple[float, float]) -> list[Text]:
    """The labels of the ticks that lie inside their axis: the others are not drawn."""
    low, high = sorted(limits)
    return [
        tick.label1
        for tick in axis.get_major_ticks()
        if low <= tick.get_loc() <= high and tick.label1.get_visible()
    ]
