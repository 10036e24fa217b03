"""`cinelab score`, `compare`, `results` and `report`: what was measured, and what came out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cinelab.assets import local_or_asset
from cinelab.cli.options import (
    OwnBudget,
    Policy,
    comma_names,
    number_option,
    output_option,
    seed_list,
)
from cinelab.errors import CinelabError
from cinelab.limits import FILMS
from cinelab.outputs import writing_file
from cinelab.printing import say, show_table
from cinelab.progress import SHORT, progress

if TYPE_CHECKING:
    import pandas as pd

REFERENCE = Path("results/reference")
SHOWN = 60  # rows of a table that are printed

ModelName = Annotated[str, typer.Argument(help="shipped name, folder or weights file")]
Seeds = Annotated[str, typer.Option(help="of the test films, with commas")]
Films = Annotated[int, number_option("films for each seed and test", 2, FILMS)]
CardFolder = Annotated[Path, output_option("a folder for <name>.json and its rows, <name>.parquet")]


def score_command(
    name: ModelName,
    seeds: Seeds = "0,1,2",
    films: Films = 32,
    *,
    policy: Policy = None,
    budget: OwnBudget = None,
    output: CardFolder = REFERENCE,
):
    """Score a model of the toybox on test films: every metric with interval, chance and upper
    bound, printed and saved as a card."""
    from cinelab.lab.reports.cards import print_card, read_card, score_card

    with progress(f"scoring {name}") as show:
        path = score_card(name, seed_list(seeds), films, policy, budget, output, tell=show)
    print_card(read_card(path))
    say((str(path), "bold green"))


CardNames = Annotated[
    list[str],
    typer.Argument(
        help="models whose cards are in --folder; the others are compared with the first"
    ),
]
CardsFolder = Annotated[Path, typer.Option(help="where `cinelab score` put the cards")]
ComparisonFile = Annotated[
    Path | None, output_option("a .csv file for the table, or a .md file for the benchmark's")
]


def compare_command(
    names: CardNames,
    folder: CardsFolder = REFERENCE,
    output: ComparisonFile = None,
):
    """Score cards side by side: values, intervals, and each model against the first one on the same
    films."""
    from cinelab.lab.reports import cards

    if folder == REFERENCE:
        folder = local_or_asset(folder.as_posix())  # the shipped cards, where none is here
    with writing_file(output, (".csv", ".md")):
        rows = cards.compare_cards(names, folder)
        if output:
            _write_comparison(output, rows, names, folder=folder)
    show_table(["metric", *names], cards.comparison_lines(rows, names))
    note = cards.comparison_note(rows, names)
    say((f"{note} ", "dim"), (str(output or ""), "bold green"))


def _write_comparison(path: Path, rows: "pd.DataFrame", names: list[str], *, folder: Path) -> None:
    from cinelab.files import write_text
    from cinelab.lab.reports import cards
    from cinelab.lab.reports.number_text import csv_text
    from cinelab.lab.reports.origin import note_beside

    if path.suffix.lower() == ".md":
        text = cards.markdown(cards.benchmark_table(names, folder))
    else:
        text = csv_text(rows)
    write_text(path, text)
    note_beside(path, cards.made_from(names, folder))


Condition = Annotated[
    str | None,
    typer.Argument(
        help="a condition on parameters and metrics, as in SQL: \"policy = 'camr' and away = 5\""
    ),
]
Show = Annotated[
    str | None, typer.Option(help="columns, comma-separated; default: what varies, and the metrics")
]
Sql = Annotated[
    str | None, typer.Option(help="any SQL over the tables runs, measures and wide (DuckDB)")
]
Columns = Annotated[
    bool, typer.Option("--columns", help="list the columns that a condition may name")
]
RunsFolder = Annotated[Path, typer.Option(help="where the runs are")]
AnswerFile = Annotated[Path | None, output_option("a .csv or .parquet file for the whole answer")]


def results_command(
    where: Condition = None,
    show: Show = None,
    sql: Sql = None,
    *,
    columns: Columns = False,
    folder: RunsFolder = Path("results"),
    output: AnswerFile = None,
):
    """What has been run, and what came out: a line a folder, or the runs that fulfil a condition,
    with their scores."""
    from cinelab.lab.reports import query as runs_query

    if where is not None and sql is not None:
        raise CinelabError("A condition and --sql were given; keep one of them.")
    with writing_file(output, (".csv", ".parquet")), progress("reading the runs", SHORT):
        if where is None and sql is None:
            runs, measured = runs_query.index(folder)
            found = runs_query.wide(runs, measured)
            table = runs_query.column_table(found) if columns else runs_query.overview(runs)
        else:
            found = runs_query.query(folder, where, sql)
            names = list(comma_names(show, "--show")) if show is not None else None
            table = found if sql is not None else runs_query.telling(found, names)
        if output:
            runs_query.save_answer(found, output)
    print_table(table)
    rows = "1 row" if len(found) == 1 else f"{len(found)} rows"
    say((f"{rows} ", "dim"), (str(output or ""), "bold green"))


def print_table(rows: "pd.DataFrame", most: int = SHOWN) -> None:
    """Print the first rows of a table, numbers to three places."""
    from cinelab.lab.reports.number_text import text_of

    show_table(
        [str(name) for name in rows.columns],
        [list(map(text_of, row)) for row in rows.head(most).itertuples(index=False)],
    )
    if len(rows) > most:
        say((f"... {len(rows) - most} more; -o FILE writes all.", "dim"))


Sweeps = Annotated[
    list[str],
    typer.Argument(help="results folders of sweeps; a+b joins two that belong to one grid"),
]
PageFile = Annotated[Path, output_option("an .html file")]
Title = Annotated[str | None, typer.Option(help="default: the sweeps' names")]
Metrics = Annotated[str | None, typer.Option(help="comma-separated; default: the headline ones")]
Tables = Annotated[Path | None, typer.Option(help="a folder for the same numbers as .csv files")]
Figures = Annotated[Path | None, typer.Option(help="a folder for every figure as .svg and .pdf")]


def report_command(
    sweeps: Sweeps,
    output: PageFile = Path("results/report.html"),
    title: Title = None,
    *,
    metrics: Metrics = None,
    tables: Tables = None,
    figures: Figures = None,
):
    """Sweeps to one HTML page that needs nothing else: tables with tests, figures, films side by
    side, provenance."""
    from cinelab.lab.reports.report import report

    names = list(comma_names(metrics, "--metrics")) if metrics is not None else None
    with progress("reading the cells", SHORT) as show:
        page = report(sweeps, output, title, names, tables, figures, show)
    size = page.stat().st_size / 2**20
    say((str(page), "bold green"), f" ({size:.1f} MiB); open it in a browser")
