"""The command line: film, direct, demo, score, compare, sweep, results, report, eval, convert,
plan, clips, train, bench, race, lab, doctor. Its exit codes are cli_options.EXIT_CODES.
"""

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from cinelab.assets import local_or_asset
from cinelab.cli import evaluation as cli_eval
from cinelab.cli import wan as cli_wan
from cinelab.cli.notebooks import lab_command
from cinelab.cli.options import (
    EXIT_CODES,
    budget_option,
    levels_of,
    names_of,
    number,
    seed_list,
    seed_option,
    steps_option,
)
from cinelab.errors import CinelabError, Failed, brief, reason
from cinelab.files import REMEDIES
from cinelab.limits import CHUNKS, FILMS, PORT, STEPS, VISITORS, WORKERS, shown_path
from cinelab.optional import missing_extra
from cinelab.outputs import AT_ONCE, ready_folder, writing, writing_file
from cinelab.printing import err, say, show_table, speakable
from cinelab.progress import SHORT, progress
from cinelab.registry import IMPORT, import_named
from cinelab.texts import HALF_PAIR, check_name

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog=EXIT_CODES,
    help="Train, dissect and direct real-time autoregressive multi-shot video models.",
)
app.add_typer(cli_eval.app, name="eval")
SCREENPLAYS = "experiments/screenplays"
# UsageError, whether typer brings its own click or uses the package
USAGE = typer.BadParameter.__bases__[0]
# chunks: four of a measurement are warm-up, and chunk 20 is what others are compared with
LEAST_TIMED = 5
LEAST_LATE = 21
POLICY = "camr, full, window, sink, ..., or your own as module:Name"
Budget = Annotated[int, budget_option()]
Steps = Annotated[str | None, steps_option()]
OwnBudget = Annotated[
    int | None,
    budget_option("history chunks that may be seen at once; default: as in training, else 6"),
]
Policy = Annotated[str | None, typer.Option(help=f"{POLICY}; default: as in training, else camr")]
Model = Annotated[str, typer.Option(help="shipped name, folder or weights file")]


@app.callback()
def imports(
    modules: Annotated[
        list[str] | None,
        typer.Option(
            "--import",
            help="a module of your own whose policies, metrics, losses and "
            "solvers are to be known by name; repeat for more",
        ),
    ] = None,
):
    """Train, dissect and direct real-time autoregressive multi-shot video models."""
    if modules:
        os.environ[IMPORT] = ",".join([*filter(None, [os.environ.get(IMPORT)]), *modules])
        import_named()  # a mistake in one is said before any work is done


@app.command()
def film(
    screenplays: Annotated[
        list[Path] | None,
        typer.Argument(help="screenplays in YAML or JSON; default: all in experiments/screenplays"),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="a folder; each film gets one in it")
    ] = Path("results/films"),
    model: Model = "toybox-2step",
):
    """Films of several screenplays, each by notebook 00: film.mp4, storyboard.png, routing.html,
    scores and the executed notebook."""
    from cinelab.lab.sweeps.notebook import execute
    from cinelab.script.screenplay import Screenplay

    plays = screenplays or _screenplays()
    # every file is read before work starts
    titles = {play: Screenplay.load(play).title for play in plays}
    folders = _folders_of(plays, output)
    notebook = local_or_asset("notebooks/00_first_film.ipynb")
    failed = 0
    for play in plays:
        folder = folders[play]
        say((titles[play], "bold"), f" -> {folder}")
        settings = {
            "screenplay": str(play.resolve()),
            "run_dir": str(folder.resolve()),
            "model": model,
        }
        try:
            with progress(f"{titles[play]}: starting", SHORT) as show:
                tell = lambda text, title=titles[play]: show.stage(f"{title}: step {text}")  # noqa: E731
                execute(notebook, folder, settings, tell if show.lives else None)
        except Failed as error:
            failed += 1
            say(("failed: ", "red"), str(error))
    for folder in folders.values():
        if folder.is_dir():
            say_made(folder)
    if failed:
        raise typer.Exit(1)


def _screenplays() -> list[Path]:
    """The screenplays of this folder's experiments/screenplays, else the package's."""
    folder = local_or_asset(SCREENPLAYS)
    plays = sorted(path for path in folder.glob("*") if path.suffix in (".yaml", ".json"))
    if not plays:
        raise CinelabError(f"{folder} holds no screenplay; name a file.")
    return plays


def _folders_of(plays: list[Path], output: Path) -> dict[Path, Path]:
    """A folder for every screenplay, each proved to be writable, no two the same."""
    folders: dict[Path, Path] = {}
    for play in plays:
        if (folder := output / play.stem) in folders.values():
            raise CinelabError(
                f"Two screenplays are named {play.stem}; make their films one after the other, "
                "with another -o."
            )
        folders[play] = ready_folder(folder)
    return folders


def say_made(folder: Path) -> None:
    """A folder and the files in it."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    say((str(folder), "bold green"), ": " + ", ".join(names))


@app.command()
def direct(
    screenplay: Annotated[
        Path,
        typer.Argument(
            help="a screenplay in YAML or JSON, such as experiments/screenplays/the_way_home.yaml"
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="a new folder; default: results/films/<screenplay>"),
    ] = None,
    model: Model = "toybox-2step",
    policy: Policy = None,
    budget: OwnBudget = None,
    seed: Annotated[int | None, seed_option("default: the screenplay's")] = None,
    steps: Steps = None,
):
    """Make the film of one screenplay: film.mp4, storyboard.png, the page of what the memory
    retrieved, and the scores."""
    from cinelab.script.screenplay import Screenplay

    play = Screenplay.load(screenplay)
    folder = output or Path("results/films") / screenplay.stem
    with progress(f"{play.title}: loading {model}") as show:
        from cinelab.lab.first_film import direct_film  # torch takes a while

        with writing(folder, AT_ONCE, tidy=True):
            direct_film(
                play,
                folder,
                model,
                policy,
                budget,
                seed,
                levels_of(steps),
                progress=lambda done, of: show.at(done, of, "chunk"),
                stage=lambda text: show.stage(f"{play.title}: {text}"),
            )
    show_scores(folder / "metrics.parquet")
    say_made(folder)


def show_scores(path: Path) -> None:
    """The mean of every score in a film's table."""
    from cinelab.lab.reports.index import text_of
    from cinelab.metrics.toybox.film import digest
    from cinelab.tables import read_frame

    rows = digest(read_frame(path, "make the film again")).itertuples()
    show_table(
        ["score", "mean", "of"],
        [[metric, text_of(mean), str(count)] for metric, mean, count in rows],
    )


@app.command()
def score(
    name: Annotated[str, typer.Argument(help="shipped name, folder or weights file")],
    seeds: Annotated[str, typer.Option(help="of the test films, with commas")] = "0,1,2",
    films: Annotated[int, number("films for each seed and test", 2, FILMS)] = 32,
    policy: Policy = None,
    budget: OwnBudget = None,
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="a folder for <name>.json and its rows, <name>.parquet"
        ),
    ] = Path("results/reference"),
):
    """Score a model of the toybox on test films: every metric with interval, chance and upper
    bound, printed and kept as a card."""
    from cinelab.lab.reports.cards import print_card, read_card, score_card

    with progress(f"scoring {name}") as show:
        path = score_card(name, seed_list(seeds), films, policy, budget, output, tell=show)
    print_card(read_card(path))
    say((str(path), "bold green"))


@app.command()
def compare(
    names: Annotated[
        list[str],
        typer.Argument(
            help="models whose cards are in --folder; the others are compared with the first"
        ),
    ],
    folder: Annotated[Path, typer.Option(help="where `cinelab score` put the cards")] = Path(
        "results/reference"
    ),
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="a .csv file for the table, or a .md file for the benchmark's"
        ),
    ] = None,
):
    """Score cards side by side: values, intervals, and each model beside the first one on the same
    films."""
    from cinelab.files import write_text
    from cinelab.lab.reports.cards import (
        benchmark_table,
        compare_cards,
        comparison_lines,
        comparison_note,
        made_from,
        markdown,
    )
    from cinelab.lab.reports.index import csv_text
    from cinelab.lab.reports.origin import note_beside

    with writing_file(output, (".csv", ".md")):
        rows = compare_cards(names, folder)
        if output:
            write_text(
                output,
                markdown(benchmark_table(names, folder))
                if output.suffix.lower() == ".md"
                else csv_text(rows),
            )
            note_beside(output, made_from(names, folder))
    show_table(["metric", *names], comparison_lines(rows, names))
    say((f"{comparison_note(rows, names)} ", "dim"), (str(output or ""), "bold green"))


@app.command()
def sweep(
    file: Annotated[
        Path,
        typer.Argument(
            help="a sweep in YAML, such as experiments/memory.yaml: a notebook, a grid, seeds"
        ),
    ],
    workers: Annotated[int, number("cells at a time", 1, WORKERS)] = 1,
    only: Annotated[str | None, typer.Option(help="cells whose name contains this")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list the cells and stop")] = False,
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke", help="a trial with the notebook's smallest settings, in a folder of its own"
        ),
    ] = False,
    engine: Annotated[
        str, typer.Option(help="here, or as jobs through submitit: local or slurm")
    ] = "here",
    option: Annotated[
        list[str] | None,
        typer.Option(
            help="of a cluster, KEY=VALUE: time (minutes), gpus, cpus, memory (GB), "
            "partition, account, qos, constraint, exclude"
        ),
    ] = None,
):
    """Run a notebook over a grid of settings, a cell each; finished cells are skipped, so the same
    command goes on after any stop."""
    from cinelab.lab.sweeps.sweep import run

    pairs = [text.partition("=") for text in option or []]
    if wrong := [key for key, sign, _ in pairs if not sign]:
        raise CinelabError(f"--option is {wrong[0]!r}; give KEY=VALUE, such as time=60.")
    if twice := [
        key
        for number, (key, *_) in enumerate(pairs)
        if key in {other for other, *_ in pairs[:number]}
    ]:
        raise CinelabError(f"--option gives {twice[0]} twice; keep one of them.")
    summary = run(
        file,
        workers=workers,
        only=only,
        dry_run=dry_run,
        smoke=smoke,
        engine=engine,
        options={key: value for key, _, value in pairs},
    )
    if summary.failed:
        raise typer.Exit(1)


@app.command()
def bench(
    model: Model = "toybox-base",
    chunks: Annotated[int, number("chunks a policy is timed on", LEAST_TIMED, CHUNKS)] = 40,
    until: Annotated[
        int, number("chunk whose cost is compared with chunk 20", LEAST_LATE, CHUNKS)
    ] = 1000,
    budget: Budget = 6,
    steps: Steps = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="a .json file")] = Path(
        "results/bench.json"
    ),
):
    """One model's speed under four memory policies: frames per second, first frame, where the time
    goes, growth with the film."""
    from cinelab.bench.speed import benchmark
    from cinelab.config import to_dict
    from cinelab.files import write_json
    from cinelab.lab.reports.origin import made
    from cinelab.memory.policy import CAMR, Full, Sink, Window
    from cinelab.runs import hardware
    from cinelab.zoo.checkpoints import load

    policies = {
        "full": Full(),
        "window": Window(window=budget),
        "sink": Sink(sink=1, window=budget - 1),
        "camr": CAMR(budget=budget),
    }
    with writing_file(output, (".json",)), progress(f"timing {model}", often=1) as show:
        bundle = load(model)
        bundle.sampling = bundle.levels(levels_of(steps))
        rows = benchmark(bundle, policies, chunks, until, show).to_dict("records")
        record = {
            "model": model,
            "sampling": to_dict(bundle.sampling),
            "budget": budget,
            "chunks": chunks,
            "until": until,
            **hardware(),
            "made": made([model]),
            "rows": rows,
        }
        write_json(output, record)
    lines = [
        [name, *("" if row[name] != row[name] else str(row[name]) for row in rows)]
        for name in list(rows[-1])[1:]
    ]
    show_table(
        ["", *(row["policy"] for row in rows)],
        lines,
        f"{model} on {record['device']}, {record['cores']} cores",
    )
    say(
        (
            "late / early: time of the late chunk over chunk 20. Decoding is included, loading is "
            "not.",
            "dim",
        )
    )
    say((str(output), "bold green"))


@app.command()
def race(
    models: Annotated[
        list[str] | None, typer.Argument(help="students; default: all shipped ones")
    ] = None,
    base: Annotated[
        str, typer.Option(help="the many-step model they are compared with")
    ] = "toybox-base",
    many: Annotated[
        int, number("the base is timed with its own steps, and with so many Euler steps", 1, STEPS)
    ] = 48,
    chunks: Annotated[int, number("chunks that are timed", LEAST_TIMED, CHUNKS)] = 40,
    budget: Budget = 6,
    output: Annotated[Path, typer.Option("-o", "--output", help="a .json file")] = Path(
        "results/race.json"
    ),
):
    """Students against the many-step base: frames per second and first frame, taking turns in one
    run under CAMR."""
    from dataclasses import replace

    from cinelab.bench.speed import compare_speeds
    from cinelab.files import write_json
    from cinelab.lab.reports.origin import made
    from cinelab.memory.policy import CAMR
    from cinelab.runs import hardware
    from cinelab.zoo.checkpoints import load, students

    with writing_file(output, (".json",)), progress("loading the models", often=1) as show:
        slow = load(base)
        contenders = {
            f"{base}, {many} steps": (
                slow,
                replace(slow.sampling.with_steps(many), solver="euler"),
            ),
            base: (slow, slow.sampling),
        }
        contenders |= {
            name: (bundle, bundle.sampling)
            for name, bundle in ((name, load(name)) for name in models or students())
        }
        show.stage(f"timing {len(contenders)} models")
        rows = compare_speeds(
            contenders,
            CAMR(budget=budget),
            chunks,
            progress=lambda done, of: show.at(done, of, "chunk"),
        )
        told = made([base, *(models or students())])
        write_json(
            output,
            {
                "budget": budget,
                "chunks": chunks,
                **hardware(),
                "made": told,
                "rows": rows.to_dict("records"),
            },
        )
    last = [
        f"{row['times the first']:g} ({row['low']:g} to {row['high']:g})"
        for row in rows.to_dict("records")
    ]
    shown = rows.drop(columns=["times the first", "low", "high"])
    lines = [
        [*map(str, row), times]
        for row, times in zip(shown.itertuples(index=False), last, strict=True)
    ]
    show_table(
        [*shown.columns, "times the first"],
        lines,
        f"{hardware()['device']}, {hardware()['cores']} cores",
    )
    say((str(output), "bold green"))


@app.command()
def results(
    where: Annotated[
        str | None,
        typer.Argument(
            help="a condition on parameters and metrics, as in SQL: \"policy = 'camr' and away = "
            '5"'
        ),
    ] = None,
    show: Annotated[
        str | None,
        typer.Option(help="columns, comma-separated; default: what varies, and the metrics"),
    ] = None,
    sql: Annotated[
        str | None, typer.Option(help="any SQL over the tables runs, measures and wide (DuckDB)")
    ] = None,
    columns: Annotated[
        bool, typer.Option("--columns", help="list the columns that can be asked for")
    ] = False,
    folder: Annotated[Path, typer.Option(help="where the runs are")] = Path("results"),
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="a .csv or .parquet file for the whole answer"),
    ] = None,
):
    """What has been run, and what came out: a line a folder, or the runs that fulfil a condition,
    with their scores."""
    from cinelab.lab.reports import index as room

    if where is not None and sql is not None:
        raise CinelabError("A condition and --sql were given; keep one of them.")
    with writing_file(output, (".csv", ".parquet")), progress("reading the runs", SHORT):
        if where is None and sql is None:
            runs, measured = room.index(folder)
            found = room.wide(runs, measured)
            table = room.column_table(found) if columns else room.overview(runs)
        else:
            found = room.query(folder, where, sql)
            table = (
                found
                if sql is not None
                else room.telling(
                    found, list(names_of(show, "--show")) if show is not None else None
                )
            )
        if output:
            room.save(found, output)
    print_table(table)
    say((f"{len(found)} rows ", "dim"), (str(output or ""), "bold green"))


@app.command()
def report(
    sweeps: Annotated[
        list[str],
        typer.Argument(help="results folders of sweeps; a+b joins two that belong to one grid"),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="an .html file")] = Path(
        "results/report.html"
    ),
    title: Annotated[str | None, typer.Option(help="default: the sweeps' names")] = None,
    metrics: Annotated[
        str | None, typer.Option(help="comma-separated; default: the headline ones")
    ] = None,
    tables: Annotated[
        Path | None, typer.Option(help="a folder for the same numbers as .csv files")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(help="a folder for every figure as .svg and .pdf")
    ] = None,
):
    """Sweeps to one HTML page that needs nothing else: tables with tests, figures, films side by
    side, provenance."""
    from cinelab.lab.reports.report import report as make

    with progress("reading the cells", SHORT) as show:
        page = make(
            sweeps,
            output,
            title,
            list(names_of(metrics, "--metrics")) if metrics is not None else None,
            tables,
            figures,
            show,
        )
    say(
        (str(page), "bold green"), f" ({page.stat().st_size / 2**20:.1f} MiB); open it in a browser"
    )


@app.command()
def demo(
    model: Model = "toybox-2step",
    folder: Annotated[Path, typer.Option(help="where the visitors' films go")] = Path(
        "results/demo"
    ),
    visitors: Annotated[int, number("films at once", 1, VISITORS)] = 10,
    chunks: Annotated[int, number("chunks a film may have, all takes counted", 1, CHUNKS)] = 480,
    idle: Annotated[
        float,
        number(
            "seconds until an unwatched film is let go of; it can be gone on with",
            above=0,
            most=1e9,
            whole=False,
        ),
    ] = 300.0,
    host: Annotated[
        str, typer.Option(help="0.0.0.0 lets other machines in, with the token")
    ] = "127.0.0.1",
    port: Annotated[int, number("0 = any free one", 0, PORT)] = 8890,
    token: Annotated[
        str | None,
        typer.Option(
            help="lets one direct; of 8 to 128 of A-Z, a-z, 0-9, - and _. Default: $CINELAB_TOKEN, "
            "else a new one at every start"
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="a name by which a proxy in front reaches this demo; may be repeated"),
    ] = None,
    exports: Annotated[int, number("exports a film may have", 0, 10_000)] = 10,
    mebibytes: Annotated[int, number("MiB that a film's log and chunks may take", 1, 2**20)] = 1024,
    films: Annotated[int, number("films that the folder may hold", 1, FILMS)] = 1000,
    policy: Policy = None,
    budget: OwnBudget = None,
):
    """The directing desk as a web page for several visitors who share one model; Ctrl-C ends it,
    every film is kept."""
    from cinelab.lab.desk.demo import Rules
    from cinelab.lab.desk.demo import demo as run

    rules = Rules(visitors, chunks, idle, exports=exports, mebibytes=mebibytes, films=films)
    run(folder, model, rules, host, port, say, policy, budget, token, allow_host or ())


@app.command()
def doctor():
    """What this machine has, and what is missing for which feature."""
    with progress("looking at this machine", SHORT):
        from cinelab.lab.doctor import examine

        findings = examine()
    marks = {True: ("ok", "green"), None: ("--", "yellow"), False: ("no", "red")}
    pad = max(len(finding.what) for finding in findings)
    for finding in findings:
        say(marks[finding.ok], f"  {finding.what.ljust(pad)}  {finding.found}")
        if not finding.ok and finding.remedy:
            # on a line of its own, never wrapped: it may be a command
            say(f"      {finding.remedy}")
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(1)


# help lists commands in this order
for command in (cli_wan.train, cli_wan.clips, cli_wan.plan, cli_wan.convert):
    app.command()(command)
app.command("lab")(lab_command)


def print_table(rows, most: int = 60) -> None:
    """The first rows of a table, numbers to three places."""
    from cinelab.lab.reports.index import text_of

    show_table(
        [str(name) for name in rows.columns],
        [list(map(text_of, row)) for row in rows.head(most).itertuples(index=False)],
    )
    if len(rows) > most:
        say((f"... {len(rows) - most} more; -o FILE writes all.", "dim"))


def main() -> None:
    """Entry point: whatever ends a command is one sentence and an exit code."""
    speakable()
    warnings.showwarning = lambda message, *_: say(("Note: ", "yellow"), str(message), to=err)
    sys.exit(_code(lambda: app(standalone_mode=False)))


def _code(run: Any) -> int:
    try:
        _stand_somewhere()
        code = run() or 0
        if code == 130:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
        return code
    except CinelabError as error:
        return _said(str(error), error.code)
    except USAGE as error:
        return _usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return _said("stopped by Ctrl-C; what was finished is kept", 130)
    except ModuleNotFoundError as error:
        if sentence := missing_extra(error):
            return _said(sentence, 2)
        raise
    except BrokenPipeError:  # whoever read our output has gone: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except OSError as error:
        return _said(_system(error), 1)


def _said(sentence: str, code: int) -> int:
    say(("Error: ", "red"), " ".join(brief(sentence).splitlines()), to=err)
    return code


def _usage(error: Any) -> int:
    """What is wrong with the words of a command, and where its options are listed; without any
    word, its help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return 2
    sentence = error.format_message().strip().rstrip(".")
    context = error.ctx
    return _said(
        f"{sentence}; see `{context.command_path} --help`." if context else f"{sentence}.", 2
    )


def _stand_somewhere() -> None:
    """Where the folder that we are in is gone, torch would end the process; what is not UTF-8 fits
    into no table."""
    try:
        here = os.getcwd()
    except OSError as error:
        raise CinelabError(
            "The folder that you are in is not there any more; change to another one."
        ) from error
    check_name(here)
    if odd := [word for word in sys.argv[1:] if HALF_PAIR.search(word)]:
        raise CinelabError(
            f"{shown_path(odd[0])} on the command line is not UTF-8; type it again, or rename the "
            "file."
        )


def _system(error: OSError) -> str:
    """A refusal of the system that nothing else has worded."""
    if error.filename is None:  # of a stream, as of a file that is open
        return f"Output cannot be written ({reason(error)}); {REMEDIES.get(error.errno, 'send it somewhere else')}."
    return f"{error.filename}: {reason(error)}; {REMEDIES.get(error.errno, 'look at its rights and at the free space')}."


if __name__ == "__main__":
    main()
