"""The figures of the pages, drawn from results/reference."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cinelab.files import write_atomic
from cinelab.lab.reports.paper import PaperFigure, paper
from cinelab.lab.reports.plots import PALETTE
from cinelab.lab.reports.reference import table_of
from cinelab.metrics.legacy import modern_columns

RECALLED = "identity (recalled)"
DRAWN = ("full", "camr", "oracle", "random", "sink", "window")


def memory_figure(reference: Path) -> PaperFigure:
    """Recall over the shots away, a line a policy, with 95 % intervals; chance and the truth."""
    table = modern_columns(table_of(reference / "memory.csv"))
    table = table[table["metric"] == RECALLED]
    with paper():
        figure = Figure(figsize=(6.2, 3.4), layout="constrained")
        # a site's dark page has dark ink otherwise
        sheet = Rectangle((0, 0), 1, 1, transform=figure.transFigure, color="white", zorder=-1)
        figure.add_artist(sheet)
        axes = figure.add_subplot()
        for number, policy in enumerate(name for name in DRAWN if name in set(table["policy"])):
            part = table[(table["policy"] == policy) & (table["source"] == "model")]
            part = part.sort_values("away")
            spread = [part["value"] - part["low"], part["high"] - part["value"]]
            colour = PALETTE[number % len(PALETTE)]
            axes.errorbar(
                part["away"], part["value"], yerr=spread, label=policy, color=colour, marker="o"
            )
        for source, line in (("chance", ":"), ("truth", "--")):
            level = table[table["source"] == source]["value"].mean()
            axes.axhline(level, linestyle=line, color="#5d6675", label=source)
        axes.set(xlabel="shots away", ylabel="identity recalled", ylim=(0, 1.05))
        axes.legend(ncols=4)
    return PaperFigure("memory", figure)


def save_figures_of_pages(reference: Path, folder: Path) -> list[Path]:
    """Write the figures as SVG; returns those that changed."""
    return [path for figure in _figures(reference) if (path := _saved(figure, folder))]


def _figures(reference: Path) -> Iterator[PaperFigure]:
    if (reference / "memory.csv").exists():
        yield memory_figure(reference)


def _saved(figure: PaperFigure, folder: Path) -> Path | None:
    path = folder / f"{figure.name}.svg"
    content = figure.svg().encode()
    if path.exists() and path.read_bytes() == content:
        return None
    write_atomic(path, partial(Path.write_bytes, data=content))
    return path
