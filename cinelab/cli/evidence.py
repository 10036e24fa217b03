"""`cinelab evidence`: everything behind the pages, measured and written by one command."""

from pathlib import Path
from typing import Annotated

import typer

from cinelab.cli.options import number_option
from cinelab.limits import WORKERS
from cinelab.printing import say, show_table

Only = Annotated[str | None, typer.Option(help="one item of experiments/evidence/items.yaml")]
PlanOnly = Annotated[
    bool, typer.Option("--plan", help="list the items with their cells and hours, and stop")
]
PagesOnly = Annotated[
    bool, typer.Option("--pages", help="only make the pages anew from results/reference")
]
Tables = Annotated[
    str | None,
    typer.Option(
        help="only write these tables: students, budget, span, routing, injectivity or framing"
    ),
]
Smoke = Annotated[bool, typer.Option("--smoke", help="a trial of the cells; no tables, no pages")]
Workers = Annotated[int, number_option("cells at a time", 1, WORKERS)]
ResultsFolder = Annotated[Path, typer.Option("--results", help="where the cells are")]


def evidence_command(
    only: Only = None,
    *,
    plan: PlanOnly = False,
    pages: PagesOnly = False,
    tables: Tables = None,
    smoke: Smoke = False,
    workers: Workers = 1,
    results: ResultsFolder = Path("results"),
):
    """Measure everything behind README, docs/results.md, docs/benchmark.md and docs/claims.md, and
    write their tables and figures; what is finished is skipped, so the same command continues."""
    from cinelab.lab.reports import evidence
    from cinelab.lab.reports.reference_tables import write_reference_table

    if tables is not None:
        write_reference_table(tables, results)
        return
    items = [] if pages else evidence.load_items(only=only)
    if plan:
        _show_plan(evidence.planned_items(items, results, smoke=smoke))
        return
    for item in items:
        made = evidence.make_item(item, results, workers=workers, smoke=smoke, tell=say)
        say(item.name, ": ", "made" if made else "nothing is left to do")
    if not smoke:
        for path in evidence.write_pages():
            say((str(path), "bold green"))


def _show_plan(plans: list) -> None:
    rows = [
        [
            plan.item.name,
            str(plan.cells),
            str(plan.finished),
            f"{plan.minutes:.1f}",
            f"{plan.hours:.1f}",
            plan.measured,
            plan.item.why,
        ]
        for plan in plans
    ]
    columns = ["item", "cells", "finished", "minutes a cell", "hours left", "measured", "why"]
    show_table(columns, rows)
    say(f"{sum(plan.hours for plan in plans):.1f} hours left, a cell at a time.")
