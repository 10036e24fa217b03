"""Sweeps to one self-contained HTML: tables, tests, figures, films side by side, quality against
cost, settings, provenance.

The page carries its figures (as SVG), its films and its data; it needs no network and no server.
"""

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from cinelab import __version__
from cinelab.errors import CinelabError
from cinelab.files import write_text
from cinelab.lab.reports.cost_figures import pareto_figure
from cinelab.lab.reports.memory_boxes import TITLE, box_table
from cinelab.lab.reports.number_text import csv_text, interval, rounded_text, text_of
from cinelab.lab.reports.origin import made, note_beside
from cinelab.lab.reports.paper import PaperFigure, file_name
from cinelab.lab.reports.report_figures import metric_figure, shots_figure
from cinelab.lab.reports.report_origin import provenance, run_table
from cinelab.lab.reports.sweep_cells import Cells, load_cells, setting_text
from cinelab.lab.reports.sweep_table import comparisons, costs, pooled
from cinelab.lab.reports.templates import filled_template, jpeg_uri, safe_json
from cinelab.lab.reports.verdicts import p_text
from cinelab.lab.reports.withdrawn import EDITION, withdrawn_table
from cinelab.lab.studies.memory_study import keep_raw_rows
from cinelab.metrics.legacy import current_labels
from cinelab.metrics.metric import METRICS
from cinelab.outputs import ready_folder, writing_file
from cinelab.readable import Made, Readable
from cinelab.stream.display import small_mp4, video_uri
from cinelab.stream.video import read_video
from cinelab.texts import check_regular

MOST_FIGURES = 6  # metrics drawn for each sweep; the tables hold all
MOST_PLAYERS = 12
WIDEST = 840  # pixels of a storyboard
LARGE = 100_000  # bytes of a film from which on a smaller copy is embedded
JOIN = "+"
P_COLUMNS = ("p", "corrected p", "level p")


@dataclass(frozen=True)
class Section(Readable):
    """One sweep (or several joined) as the template wants it."""

    name: str
    anchor: str
    summary: str
    cells: Cells
    tables: dict[str, pd.DataFrame]
    figures: list[PaperFigure]
    players: list[dict]
    left_out: int
    facts: dict
    runs: pd.DataFrame
    withdrawn: list[dict]
    looks: int  # comparisons that p is corrected for


def report(
    sweeps: Sequence[str | Path],
    output: str | Path,
    title: str | None = None,
    metrics: Sequence[str] | None = None,
    tables: str | Path | None = None,
    figures: str | Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write the page. A sweep is a results folder; `a+b` joins folders whose cells belong to one
    grid. Raises CinelabError.

    `tables` is a folder for the same numbers as files: <sweep>.csv (every metric pooled),
    <sweep>_paired.csv, <sweep>_cost.csv. `figures` is one for every figure as SVG and PDF:
    <sweep>-<figure>.svg, .pdf. `tell` hears "2 of 3: sweep" as each is begun.
    """
    if not sweeps:
        raise CinelabError("No sweep was named; give one or more folders, such as results/memory.")
    for folder in (tables, figures):
        if folder is not None:
            ready_folder(folder)
    with writing_file(output, (".html", ".htm")):
        sections = []
        for number, sweep in enumerate(sweeps, 1):
            tell(f"{number} of {len(sweeps)}: {sweep}")
            sections.append(section(str(sweep).split(JOIN), metrics))
        page = render_report(sections, title or ", ".join(s.name for s in sections))
        for one in sections:
            if tables is not None:
                write_tables(one.cells, Path(tables))
                facts = made(sweeps=one.facts, cells=one.runs.to_dict("records"))
                note_beside(Path(tables) / one.cells.name.replace(" + ", "_"), facts)
            if figures is not None:
                save_figures(one, Path(figures))
        write_text(output, page)
    return Made(output)


def save_figures(section: Section, folder: Path) -> list[Path]:
    """Every figure of a section as SVG and PDF."""
    return [
        path
        for figure in section.figures
        for path in figure.named(f"{section.cells.name}-{figure.name}").save(folder)
    ]


def write_tables(cells: Cells, folder: Path) -> None:
    """The numbers behind a section, to go on with; `<name>_rows.parquet` has the raw rows."""
    tables = comparisons(cells, cells.metrics)
    paired = [table.assign(metric=metric) for metric, table in tables.items()]
    found = {
        "": pooled(cells),
        "_paired": pd.concat(paired, ignore_index=True),
        "_cost": costs(cells),
    }
    name = cells.name.replace(" + ", "_")
    for ending, table in found.items():
        if len(table):
            write_text(folder / f"{name}{ending}.csv", csv_text(table))
    keep_raw_rows(cells.rows, folder / f"{name}_rows.parquet")


def section(folders: list[str], metrics: Sequence[str] | None = None) -> Section:
    """Everything about one sweep."""
    cells = load_cells(*folders)
    metrics = metrics and current_labels(metrics, cells.metrics)
    if metrics and (strange := [name for name in metrics if name not in cells.metrics]):
        raise CinelabError(
            f"Metric {strange[0]!r} was not measured in {cells.name}; it has "
            f"{', '.join(cells.metrics)}."
        )
    shown = list(
        metrics
        or [m for m in cells.metrics if METRICS.of(m).headline or m in cells.about]
        or cells.metrics
    )
    table = pooled(cells)
    figures = [metric_figure(cells, metric, table.copy()) for metric in foremost(cells, shown)]
    figures += [
        fig
        for metric in ("prompt", "identity (kept)", "scenery (kept)")
        if metric in cells.metrics and (fig := shots_figure(cells, metric))
    ]
    figures += [
        fig for metric in drawn_against_cost(cells, shown) if (fig := pareto_figure(cells, metric))
    ]
    players, left_out = player_cards(cells, shown[0])
    tables = {"Pooled over seeds": wide_table(cells, table, shown)}
    pairs = {metric: paired for metric, paired in comparisons(cells, shown).items() if len(paired)}
    tables |= {f"{metric}, paired": paired for metric, paired in pairs.items()}
    if len(boxes := box_table(cells)):
        tables[TITLE] = boxes
    if len(price := costs(cells)):
        tables["Cost"] = price
    anchor = "s-" + "-".join(folder.name for folder in cells.folders)
    looks = 2 * sum(map(len, pairs.values()))
    return Section(
        cells.name,
        anchor,
        summary_line(cells),
        cells,
        tables,
        figures,
        players,
        left_out,
        provenance(cells),
        run_table(cells),
        withdrawn_claims(cells),
        looks,
    )


def withdrawn_claims(cells: Cells) -> list[dict]:
    """Claims that were made from such cells and are withdrawn: claim and verdict of each.

    None where all cells are of the study's present protocol, or of no such study.
    """
    study = cells.study()
    if not study or cells.edition(set()) >= EDITION[study[1]]:
        return []
    return withdrawn_table(study[1]).to_dict("records")


def foremost(cells: Cells, shown: list[str]) -> list[str]:
    """The metrics that are drawn: a user's own always, and the first of the others."""
    own = [metric for metric in shown if metric in cells.about]
    rest = [metric for metric in shown if metric not in own]
    return rest[: max(1, MOST_FIGURES - len(own))] + own


def drawn_against_cost(cells: Cells, shown: list[str]) -> list[str]:
    """The first two metrics and a user's own, where one direction is better."""
    return [
        metric
        for metric in dict.fromkeys([*shown[:2], *(m for m in shown if m in cells.about)])
        if cells.better(metric)
    ]


def summary_line(cells: Cells) -> str:
    """One line: how many cells, seeds, films, what varies."""
    done = (cells.table["status"] == "done").sum()
    seeds = sorted(set(cells.rows["seed"]))
    films = (
        cells.films.groupby(cells.varied or ["seed"])[["seed", "clip"]]
        .apply(lambda part: len(part.drop_duplicates()))
        .median()
    )
    varied = (
        ", ".join(f"{name} ({cells.rows[name].nunique()})" for name in cells.varied)
        or "nothing but the seed"
    )
    how = "training seeds resampled first, then films" if cells.trained else "films resampled"
    return (
        f"{done} of {len(cells.table)} cells done; varied: {varied}; seeds {seeds}, "
        f"{films:.0f} films a setting; 95 % intervals, {how}."
    )


def wide_table(cells: Cells, table: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """A row a setting, a column a metric: value [low, high]."""
    part = table[table["metric"].isin(metrics)]
    cell = part["value"].map(rounded_text) + part.apply(
        lambda r: interval(r["low"], r["high"]), axis=1
    )
    wide = part.assign(cell=cell).pivot_table(
        index=cells.varied or ["seeds"],
        columns="metric",
        values="cell",
        aggfunc="first",
        sort=False,
    )
    counts = part.groupby(cells.varied or ["seeds"], sort=False)[["n", "seeds"]].max()
    wide = wide[[m for m in metrics if m in wide]].assign(n=counts["n"])
    if cells.trained:
        wide = wide.assign(trainings=counts["seeds"])
    return wide.reset_index().rename_axis(columns=None)


def player_cards(cells: Cells, metric: str) -> tuple[list[dict], int]:
    """Films of one seed, a card a setting: label, its value on that seed, the film and the
    storyboard as data."""
    done = [cell for cell in cells.table.to_dict("records") if (cell["path"] / "film.mp4").exists()]
    if not done:
        return [], 0
    seed = min(cell["parameters"].get("seed", 0) for cell in done)
    done = [cell for cell in done if cell["parameters"].get("seed", 0) == seed]
    cards = []
    for cell in done[:MOST_PLAYERS]:
        here = cells.films[
            (cells.films["metric"] == metric)
            & (cells.films["source"] == "model")
            & (cells.films["seed"] == seed)
        ]
        for name in cells.varied:
            if name in cell["parameters"]:
                here = here[here[name] == setting_text(cell["parameters"][name])]
        label = (
            ", ".join(
                f"{name} {setting_text(cell['parameters'].get(name))}" for name in cells.varied
            )
            or cell["cell"]
        )
        board = cell["path"] / "storyboard.png"
        value = f"{metric} {here['value'].mean():.3f} (seed {seed})"
        broken: list[str] = []
        film = careful(film_uri, cell["path"] / "film.mp4", broken)
        still = careful(image_uri, board, broken) if board.exists() else ""
        cards.append(
            {"label": label, "value": "; ".join([value, *broken]), "film": film, "board": still}
        )
    return cards, len(done) - len(cards)


def careful(make: Callable[[Path], str], path: Path, broken: list[str]) -> str:
    """What `make` says of a file; "" and a word in `broken` where the file is damaged, so that the
    page goes on without it."""
    try:
        check_regular(path)
        return make(path)
    except (CinelabError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        broken.append(f"{path.name} cannot be shown")
        return ""


def film_uri(path: Path) -> str:
    """A film as it is, or, where it is large, half as wide and high and in few bytes."""
    data = path.read_bytes()
    if len(data) > LARGE:
        frames, fps = read_video(path)
        height, width = (side // 4 * 2 for side in frames.shape[1:3])  # even sides
        frames = np.stack(
            [cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in frames]
        )
        data = small_mp4(frames, fps, scale=1)
    return video_uri(data)


def image_uri(path: Path) -> str:
    """A storyboard as JPEG, a tenth of the PNG's size."""
    with Image.open(path) as image:
        image.thumbnail((WIDEST, 10 * WIDEST))
        return jpeg_uri(image)


def render_report(sections: list[Section], title: str) -> str:
    """The page's text."""
    settings = {
        s.anchor: {
            row["cell"]: {k: v for k, v in {"sweep": row["sweep"], **row["parameters"]}.items()}
            | {"git": row["git"], "device": row["device"]}
            for row in s.cells.table.to_dict("records")
        }
        for s in sections
    }
    figures = {s.anchor: [embedded(s, figure) for figure in s.figures] for s in sections}
    return filled_template(
        "report.html.j2",
        title=title,
        sections=sections,
        figures=figures,
        table=html_table,
        made=datetime.now().strftime("%Y-%m-%d %H:%M"),
        by=made(),
        version=__version__,
        settings=safe_json(settings),
    )


def embedded(section: Section, figure: PaperFigure) -> dict:
    """A figure as the template wants it, in the page's colours."""
    own = figure.named(f"{section.anchor}-{figure.name}")
    return {
        "name": file_name(f"{section.cells.name}-{figure.name}"),
        "wide": figure.wide,
        "svg": own.page_svg(),
        "title": figure.name,
        "width": figure.width,
    }


def texts(table: pd.DataFrame) -> pd.DataFrame:
    """The table for reading, in a page or as the last line of a cell: numbers to three places, no p
    called 0, and what is not known or an endless interval as nothing. The same rows and columns, as
    text."""
    columns = [
        column.astype(object).map(p_text if name in P_COLUMNS else text_of)
        for name, column in table.items()
    ]
    return pd.concat(columns, axis=1) if columns else table


def html_table(table: pd.DataFrame) -> str:
    """A table whose columns sort on click, its values as in `texts`."""
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in table)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>"
        for row in texts(table).itertuples(index=False)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
