"""The command line: film, direct, demo, score, compare, sweep, results, report, eval, convert, plan, clips, train, bench,
race, doctor. Bad input is one sentence and exit code 2."""

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cinelab import cli_eval, cli_wan
from cinelab.cli_eval import seed_list
from cinelab.errors import CinelabError
from cinelab.registry import IMPORT, import_named

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="Train, dissect and direct real-time autoregressive multi-shot video models.")
app.add_typer(cli_eval.app, name="eval")
app.command()(cli_wan.convert)
app.command()(cli_wan.plan)
app.command()(cli_wan.clips)
app.command()(cli_wan.train)
out = Console()
SCREENPLAYS = Path("experiments/screenplays")
POLICY = "camr, full, window, sink, ..., or your own as module:Name"
Budget = Annotated[int, typer.Option(help="history chunks that may be seen at once")]
Steps = Annotated[str | None, typer.Option(help="sampling steps, or levels with commas: 1,0.6,0.3; default: the model's")]
OwnBudget = Annotated[int | None, typer.Option(help="history chunks that may be seen at once; default: as in training, else 6")]
Policy = Annotated[str | None, typer.Option(help=f"{POLICY}; default: as in training, else camr")]
Model = Annotated[str, typer.Option(help="shipped name, folder or weights file")]


@app.callback()
def imports(modules: Annotated[list[str] | None, typer.Option("--import", help="a module of your own whose policies, metrics, losses and "
                                                               "solvers are to be known by name; repeat for more")] = None):
    """Train, dissect and direct real-time autoregressive multi-shot video models."""
    if modules:
        os.environ[IMPORT] = ",".join([*filter(None, [os.environ.get(IMPORT)]), *modules])
        import_named()  # a mistake in one is said before any work is done


@app.command()
def film(screenplays: Annotated[list[Path] | None, typer.Argument(help="YAML or JSON; default: all in experiments/screenplays")] = None,
         output: Annotated[Path, typer.Option("-o", "--output")] = Path("results/films"), model: Model = "toybox-2step"):
    """Run notebook 00 on screenplays: film.mp4, storyboard.png, routing.html, metrics.parquet."""
    from cinelab.lab.notebook import execute
    from cinelab.script.screenplay import Screenplay

    plays = screenplays or sorted(path for path in SCREENPLAYS.glob("*") if path.suffix in (".yaml", ".json"))
    if not plays:
        raise CinelabError(f"No screenplay in {SCREENPLAYS}; run this in the repository or name a file.")
    titles = {play: Screenplay.load(play).title for play in plays}  # every file is read before work starts
    for play in plays:
        folder = output / play.stem
        out.print(f"[bold]{titles[play]}[/] -> {folder}")
        execute(_notebook("00_first_film.ipynb"), folder,
                {"screenplay": str(play.resolve()), "run_dir": str(folder.resolve()), "model": model})
    for play in plays:
        folder = output / play.stem
        out.print(f"\n[bold green]{folder}[/]: " + ", ".join(sorted(path.name for path in folder.iterdir())))


@app.command()
def direct(screenplay: Path,
           output: Annotated[Path | None, typer.Option("-o", "--output", help="default: results/films/<screenplay>")] = None,
           model: Model = "toybox-2step", policy: Policy = None,
           budget: OwnBudget = None, seed: Annotated[int | None, typer.Option(help="default: the screenplay's")] = None,
           steps: Steps = None):
    """Make the film of one screenplay, with the picture of what the memory retrieved and the scores."""
    from cinelab.lab.first_film import direct_film
    from cinelab.script.screenplay import Screenplay

    play = Screenplay.load(screenplay)
    with out.status(f"{play.title}") as status:
        folder = direct_film(play, output or Path("results/films") / screenplay.stem, model, policy, budget, seed, _levels(steps),
                             progress=lambda done, of: status.update(f"{play.title}: chunk {done} of {of}"))
    out.print(f"[bold green]{folder}[/]: " + ", ".join(sorted(path.name for path in folder.iterdir())))


@app.command()
def score(name: Annotated[str, typer.Argument(help="shipped name, folder or weights file")],
          seeds: Annotated[str, typer.Option(help="comma-separated")] = "0,1,2",
          films: Annotated[int, typer.Option(help="films for each seed and test")] = 32,
          policy: Policy = None, budget: OwnBudget = None,
          output: Annotated[Path, typer.Option("-o", "--output")] = Path("results/reference")):
    """Write the score card results/reference/<name>.json: every metric with interval, chance and upper bound."""
    from cinelab.lab.cards import print_card, score_card

    folder = score_card(name, seed_list(seeds), films, policy, budget, output, tell=lambda text: out.print(f"[dim]{text}[/]"))
    print_card(json.loads(folder.read_text()), out)
    out.print(f"[bold green]{folder}[/]")


@app.command()
def compare(names: Annotated[list[str], typer.Argument(help="models whose cards are in --folder; the first is the measure")],
            folder: Annotated[Path, typer.Option(help="where `cinelab score` put the cards")] = Path("results/reference"),
            output: Annotated[Path | None, typer.Option("-o", "--output", help="default: <folder>/compared.csv; a .md file gets the benchmark's table")] = None):
    """Score cards side by side: values, intervals, and each model's share of the first one's on the same films."""
    from cinelab.files import write_text
    from cinelab.lab.cards import benchmark_table, compare_cards, markdown

    output = output or folder / "compared.csv"
    rows = compare_cards(names, folder)
    write_text(output, markdown(benchmark_table(names, folder)) if output.suffix == ".md" else rows.to_csv(index=False))
    table = Table("metric", *names)
    for metric, part in rows.groupby("metric", sort=False):
        cells = {row.model: f"{row.value:.3f}" + (f" ({row.share:.2f})" if row.share == row.share else "") for row in part.itertuples()}
        table.add_row(metric, *(cells.get(name, "") for name in names))
    out.print(table)
    out.print(f"[dim]In brackets: the share of {names[0]}'s.[/] [bold green]{output}[/]")


@app.command()
def sweep(file: Path, workers: Annotated[int, typer.Option(help="cells at a time")] = 1,
          only: Annotated[str | None, typer.Option(help="cells whose name contains this")] = None,
          dry_run: Annotated[bool, typer.Option(help="list the cells and stop")] = False,
          smoke: Annotated[bool, typer.Option(help="the notebooks' smallest settings")] = False,
          engine: Annotated[str, typer.Option(help="here, or as jobs through submitit: local or slurm")] = "here",
          option: Annotated[list[str] | None, typer.Option(help="of a cluster, KEY=VALUE: time (minutes), gpus, cpus, memory (GB), "
                                                                "partition, account, qos, constraint, exclude")] = None):
    """Run a grid of papermill cells; finished cells are skipped, failed ones are kept and listed."""
    from cinelab.lab.sweep import run

    pairs = [text.partition("=") for text in option or []]
    if wrong := [key for key, sign, _ in pairs if not sign]:
        raise CinelabError(f"--option is {wrong[0]!r}; give KEY=VALUE, such as time=60.")
    summary = run(file, workers=workers, only=only, dry_run=dry_run, smoke=smoke, engine=engine,
                  options={key: value for key, _, value in pairs})
    if summary.failed:
        raise typer.Exit(1)


@app.command()
def bench(model: Model = "toybox-base", chunks: Annotated[int, typer.Option(help="chunks a policy is timed on")] = 40,
          until: Annotated[int, typer.Option(help="chunk whose cost is compared with chunk 20")] = 1000,
          budget: Budget = 6, steps: Steps = None,
          output: Annotated[Path, typer.Option("-o", "--output", help="a .json file")] = Path("results/bench.json")):
    """Frames per second, first-frame latency, where the time goes, growth with the film, peak memory."""
    from cinelab.config import to_dict
    from cinelab.files import plain_json, write_json
    from cinelab.memory.policy import CAMR, Full, Sink, Window
    from cinelab.model.zoo import load
    from cinelab.runs import hardware
    from cinelab.score.speed import benchmark

    policies = {"full": Full(), "window": Window(window=budget), "sink": Sink(sink=1, window=budget - 1),
                "camr": CAMR(budget=budget)}
    bundle = load(model)
    bundle.sampling = bundle.levels(_levels(steps))
    rows = benchmark(bundle, policies, chunks, until).to_dict("records")
    record = {"model": model, "sampling": to_dict(bundle.sampling), "budget": budget, "chunks": chunks, "until": until,
              **hardware(), "rows": rows}
    write_json(output, plain_json(record))
    table = Table("", *(row["policy"] for row in rows), title=f"{model} on {record['device']}, {record['cores']} cores")
    for name in list(rows[-1])[1:]:
        table.add_row(name, *("" if row[name] != row[name] else str(row[name]) for row in rows))
    out.print(table)
    out.print("[dim]late / early: time of the late chunk over chunk 20. Decoding is included, loading is not.[/]")
    out.print(f"[bold green]{output}[/]")


@app.command()
def race(models: Annotated[list[str] | None, typer.Argument(help="students; default: all shipped ones")] = None,
         base: Annotated[str, typer.Option(help="the many-step model they are compared with")] = "toybox-base",
         many: Annotated[int, typer.Option(help="the base is timed with its own steps, and with so many Euler steps")] = 48,
         chunks: Annotated[int, typer.Option(help="chunks that are timed")] = 40, budget: Budget = 6,
         output: Annotated[Path, typer.Option("-o", "--output", help="a .json file")] = Path("results/race.json")):
    """Students against the many-step base: frames per second and first frame, taking turns in one run under CAMR."""
    from dataclasses import replace

    from cinelab.files import plain_json, write_json
    from cinelab.memory.policy import CAMR
    from cinelab.model.zoo import load, students
    from cinelab.runs import hardware
    from cinelab.score.speed import compare

    slow = load(base)
    contenders = {f"{base}, {many} steps": (slow, replace(slow.sampling.with_steps(many), solver="euler")),
                  base: (slow, slow.sampling)}
    contenders |= {name: (bundle, bundle.sampling) for name, bundle in ((name, load(name)) for name in models or students())}
    rows = compare(contenders, CAMR(budget=budget), chunks)
    record = {"budget": budget, "chunks": chunks, **hardware(), "rows": rows.to_dict("records")}
    write_json(output, plain_json(record))
    table = Table(*rows.columns, title=f"{hardware()['device']}, {hardware()['cores']} cores")
    for row in rows.itertuples(index=False):
        table.add_row(*map(str, row))
    out.print(table)
    out.print(f"[bold green]{output}[/]")


@app.command()
def results(where: Annotated[str | None, typer.Argument(help="a condition on parameters and metrics, as in SQL: \"policy = 'camr' and away = 5\"")] = None,
            show: Annotated[str | None, typer.Option(help="columns, comma-separated; default: what varies, and the metrics")] = None,
            sql: Annotated[str | None, typer.Option(help="any SQL over the tables runs, measures and wide (DuckDB)")] = None,
            columns: Annotated[bool, typer.Option(help="list the columns that can be asked for")] = False,
            folder: Annotated[Path, typer.Option(help="where the runs are")] = Path("results"),
            output: Annotated[Path | None, typer.Option("-o", "--output", help="a .csv or .parquet file for the whole answer")] = None):
    """What has been run, and what came out. The index is read afresh from the folders every time."""
    from cinelab.lab import results as room

    if where is None and sql is None:
        runs, measured = room.index(folder)
        found = room.wide(runs, measured)
        table = room.column_table(found) if columns else room.overview(runs)
    else:
        found = room.query(folder, where, sql)
        table = found if sql else room.telling(found, show.split(",") if show else None)
    if output:
        room.save(found, output)
    print_table(table, out)
    out.print(f"[dim]{len(found)} rows[/]" + (f" [bold green]{output}[/]" if output else ""))


@app.command()
def report(sweeps: Annotated[list[str], typer.Argument(help="results folders of sweeps; a+b joins two that belong to one grid")],
           output: Annotated[Path, typer.Option("-o", "--output")] = Path("results/report.html"),
           title: Annotated[str | None, typer.Option(help="default: the sweeps' names")] = None,
           metrics: Annotated[str | None, typer.Option(help="comma-separated; default: the headline ones")] = None,
           tables: Annotated[Path | None, typer.Option(help="a folder for the same numbers as .csv files")] = None):
    """Sweeps to one HTML page that needs nothing else: tables with tests, figures, films side by side, provenance."""
    from cinelab.lab.report import report as make

    with out.status("reading the cells"):
        page = make(sweeps, output, title, [name.strip() for name in metrics.split(",")] if metrics else None, tables)
    out.print(f"[bold green]{page}[/] ({page.stat().st_size / 2**20:.1f} MiB); open it in a browser")


@app.command()
def demo(model: Model = "toybox-2step", folder: Annotated[Path, typer.Option(help="where the visitors' films go")] = Path("results/demo"),
         visitors: Annotated[int, typer.Option(help="films at once")] = 10,
         chunks: Annotated[int, typer.Option(help="chunks a film may have")] = 480,
         idle: Annotated[float, typer.Option(help="seconds until an unwatched film is let go of; it can be gone on with")] = 300.0,
         host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in, with the token")] = "127.0.0.1",
         port: Annotated[int, typer.Option(help="0 = any free one")] = 8890,
         policy: Policy = None, budget: OwnBudget = None):
    """The directing desk as a web page for several visitors who share one model; Ctrl-C ends it, every film is kept."""
    from cinelab.lab.demo import Rules
    from cinelab.lab.demo import demo as run

    run(folder, model, Rules(visitors, chunks, idle), host, port, lambda text: out.print(text, soft_wrap=True, highlight=False),
        policy, budget)


@app.command()
def doctor():
    """What this machine has, and what is missing for which feature."""
    from cinelab.lab.doctor import examine

    table = Table("", "what", "found", "remedy")
    findings = examine()
    marks = {True: "[green]ok[/]", None: "[yellow]--[/]", False: "[red]no[/]"}
    for finding in findings:
        table.add_row(marks[finding.ok], finding.what, escape(finding.found), "" if finding.ok else escape(finding.remedy))
    out.print(table)
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(1)


def print_table(rows, console: Console, most: int = 60) -> None:
    """The first rows of a table, numbers to three places."""
    from cinelab.lab.results import text_of

    table = Table(*map(str, rows.columns))
    for row in rows.head(most).itertuples(index=False):
        table.add_row(*map(text_of, row))
    console.print(table)
    if len(rows) > most:
        console.print(f"[dim]... {len(rows) - most} more; -o FILE writes all.[/]")


def _levels(text: str | None) -> int | tuple[float, ...] | None:
    """What `--steps` says: a number of steps, or the levels themselves."""
    try:
        return text and (int(text) if "," not in text else tuple(float(part) for part in text.split(",") if part.strip()))
    except ValueError:
        raise CinelabError(f"--steps is {text!r}; give a whole number, or levels that fall with commas, like 1,0.6,0.3.") from None


def _notebook(name: str) -> Path:
    path = Path("notebooks") / name
    if not path.exists():
        raise CinelabError(f"{path} is not here; run this in the repository's folder.")
    return path


def main() -> None:
    """Entry point: warnings and errors as plain sentences."""
    warnings.showwarning = lambda message, *_: Console(stderr=True).print(f"[yellow]Note:[/] {message}", highlight=False)
    try:
        app()
    except CinelabError as error:
        Console(stderr=True).print(f"[red]Error:[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
