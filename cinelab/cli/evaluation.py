"""`cinelab eval`: our metrics of any video, the toybox's tasks, and tools that live in environments
of their own."""

import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from cinelab.cli.options import EXIT_CODES, names_of, number, seed_list
from cinelab.errors import CinelabError
from cinelab.limits import FILMS
from cinelab.outputs import AT_ONCE, half_saved, unfinished, writing, writing_file
from cinelab.printing import say, show_table
from cinelab.progress import progress

PARQUET = (".parquet",)
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog=EXIT_CODES,
    help="Score any videos: our own metrics, VBench, VisionReward.",
)
REASONS = 20  # why something was not measured, as many as are printed
Paths = Annotated[
    list[Path],
    typer.Argument(help="mp4 files, folders of them, or folders that `cinelab direct` wrote"),
]
Names = Annotated[
    str,
    typer.Option(
        "--dimensions", help="VBench's names, with commas; default: those that need no prompt"
    ),
]
Prompt = Annotated[str, typer.Option(help="what every video was asked to show")]
Prompts = Annotated[Path | None, typer.Option(help='JSON {"file name": "prompt"}')]
Rewriting = Annotated[
    str,
    typer.Option(
        help="how the prompts were rewritten before the films were made; goes into the table"
    ),
]
Whole = Annotated[
    bool, typer.Option("--whole/--shots", help="also score the film as one piece, as shot 0")
]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", help="a .parquet file for the table")
]


@app.command()
def videos(
    paths: Paths,
    backends: Annotated[
        str, typer.Option(help="who judges alignment and consistency")
    ] = "toybox,colour,clip,dino",
    tolerance: Annotated[int, number("frames by which a cut may be early or late", 0, 1000)] = 1,
    plan: Annotated[
        Path | None,
        typer.Option(help="shot list or screenplay of a single video; else <video>.shots.json"),
    ] = None,
    output: Output = None,
):
    """Cuts, motion, flicker, seams, drift, alignment, identity and scenery across shots; what is
    absent is said, not zero.

    A video that cannot be read is named, the others are scored, and the exit code is 1.
    """
    from cinelab.metrics.rows import save
    from cinelab.metrics.video.evaluate import evaluate, unmeasured

    with writing_file(output, PARQUET), progress("measuring videos") as show:
        rows = evaluate(paths, names_of(backends, "--backends"), tolerance, plan, show)
        if output:
            save(rows, output)
    _show_facts(rows)
    _show_scores(rows)
    reasons = unmeasured(rows)
    for line in reasons.head(REASONS).itertuples():
        where = f"{_count(line.shots, 'shot')} of {line.clips}" if line.shots else str(line.clips)
        say(
            ("not measured: ", "yellow"),
            f"{line.metrics} by {line.backends} in {where} of {_count(line.of, 'video')}: "
            f"{line.why}",
        )
    if len(reasons) > REASONS:
        say(
            ("not measured: ", "yellow"),
            f"{_count(len(reasons) - REASONS, 'more reason')}; the table of -o has them all",
        )
    _finish_rows(rows, output)


def _show_facts(rows) -> None:
    """What the files say of themselves, on a line; a range where they differ."""
    from cinelab.lab.reports.index import text_of
    from cinelab.metrics.video.evaluate import facts

    texts = [
        f"{name} {text_of(least)}" + (f" to {text_of(most)}" if most != least else "")
        for name, (least, most) in facts(rows).items()
    ]
    if texts:
        say(("files: ", "dim"), ", ".join(texts))


def _show_scores(rows) -> None:
    """A table of the scores, judge by judge."""
    from cinelab.lab.reports.index import text_of
    from cinelab.metrics.video.evaluate import digest

    found = digest(rows)
    lines = []
    found = found[found["value"].notna() & (found["backend"] != "file")]
    for judge, part in found.groupby("backend", sort=False):
        lines.append([(f"by {judge}", "bold"), "", "", "", ""])
        for row in part.itertuples():
            known = abs(row.low) != float("inf") and row.low == row.low
            between = f"{row.low:.3f} to {row.high:.3f}" if known else ""
            lines.append([row.metric, text_of(row.value), between, str(int(row.n)), str(row.clips)])
    show_table(["metric", "value", "95 % interval", "n", "clips"], lines)


@app.command()
def tasks(
    folder: Annotated[Path, typer.Argument(help="a folder for the tasks")],
    seeds: Annotated[str, typer.Option(help="of the tasks' films, with commas")] = "0,1,2",
    films: Annotated[int, number("films for each seed and task", 2, FILMS)] = 32,
):
    """Write the toybox benchmark's tasks as files, for any model to answer; see
    docs/benchmark.md."""
    from cinelab.lab.studies.tasks import export_tasks
    from cinelab.metrics.card import CardConfig

    config = CardConfig(seeds=seed_list(seeds), films=films)
    with writing(folder, AT_ONCE, tidy=True), progress("writing tasks") as show:
        count = export_tasks(folder, config, show)
    say((str(folder), "bold green"), f": {count} tasks; put a video beside each shot list, then")
    say(f"cinelab eval videos {shlex.quote(str(folder))}")


@app.command()
def setup(tool: Annotated[str, typer.Argument(help="vbench or visionreward")]):
    """Make a tool's environment below $CINELAB_ENVS (default ~/.cache/cinelab/envs); the same call
    goes on later."""
    from cinelab.metrics.external.environments import find
    from cinelab.metrics.external.environments import setup as make

    found = find(tool)
    with progress(f"setting {found.name} up") as show:
        python = make(found, show)
    say((str(python), "bold green"))


@app.command()
def check(tool: Annotated[str | None, typer.Argument(help="default: both")] = None):
    """What each tool finds here, what is missing, where it goes and how to get it. Exits with 1 if
    anything is missing."""
    from cinelab.metrics.external.environments import TOOLS, find, folder, ready

    lacking = 0
    for one in [find(tool)] if tool else TOOLS.values():
        made = ready(one)
        missing = _missing(one.name)
        say((f"{one.name}: {one.purpose}", "bold"))
        say(_mark(made), f"  environment {folder(one)}, for all")
        if not made:
            say((f"      cinelab eval setup {one.name}", "dim"))
        for found in missing:  # what may be copied stands on a line of its own
            say(_mark(False), f"  {found.path} is {found.state}, for {', '.join(found.dimensions)}")
            say((f"      {found.get}", "dim"))
        say(f"runs now: {', '.join(_able(one.name, missing)) if made else ''}\n")
        lacking += len(missing) + (not made)
    if lacking:
        raise typer.Exit(1)


@app.command()
def vbench(
    paths: Paths,
    dimensions: Names = "",
    whole: Whole = False,
    prompt: Prompt = "",
    prompts: Prompts = None,
    rewriting: Rewriting = "none",
    output: Output = None,
    samples: Annotated[int, number("videos of one prompt; goes into the table", 1, FILMS)] = 1,
    long: Annotated[
        bool, typer.Option("--long", help="clips of 5 s and more by VBench-Long")
    ] = False,
):
    """VBench's dimensions on videos of one's own, shot by shot where the shots are known.

    A video that cannot be read is named, the others are scored, and the exit code is 1.
    """
    from cinelab.metrics.external.vbench import PROMISED, Rules, score_videos

    with writing_file(output, PARQUET), progress("scoring with VBench") as show:
        videos = _videos(paths, prompt, prompts, show)
        names = _names(dimensions) or PROMISED
        rows = _kept(
            score_videos(videos, names, Rules(whole, long, samples, rewriting), show), output
        )
    _finish(rows, output)


@app.command()
def visionreward(
    paths: Paths,
    whole: Whole = False,
    prompt: Prompt = "",
    prompts: Prompts = None,
    rewriting: Rewriting = "none",
    output: Output = None,
):
    """VisionReward's score, and the share of the prompt's parts that its model sees in each shot.

    A video that cannot be read is named, the others are scored, and the exit code is 1.
    """
    from cinelab.metrics.external.visionreward import score_videos

    with writing_file(output, PARQUET), progress("scoring with VisionReward") as show:
        films = _videos(paths, prompt, prompts, show)
        rows = _kept(score_videos(films, whole=whole, rewriting=rewriting, tell=show), output)
    _finish(rows, output)


@app.command()
def suite(
    folder: Annotated[
        Path,
        typer.Argument(help="a folder of films of VBench's prompts, named as VBench names them"),
    ],
    dimensions: Annotated[
        str, typer.Option(help="VBench's names, with commas; default: all 16")
    ] = "",
    score: Annotated[
        bool, typer.Option("--score", help="score the folder, which must be complete")
    ] = False,
    rewriting: Rewriting = "none",
    output: Output = None,
):
    """VBench's own prompts: what a folder holds and lacks of their films, and with --score what
    they are worth."""
    from cinelab.metrics.external.vbench_files import DIMENSIONS
    from cinelab.metrics.external.vbench_suite import missing_of_suite, score_suite
    from cinelab.metrics.external.vbench_suite import suite as jobs

    names = _names(dimensions) or tuple(DIMENSIONS)
    if score:
        with writing_file(output, PARQUET), progress("scoring with VBench") as show:
            rows = _kept(score_suite(folder, names, rewriting, tell=show), output)
        return _finish(rows, output)
    lacking = missing_of_suite(folder, names)
    wanted = jobs(names)
    lines = [
        [name, *(str(sum(name in job.dimensions for job in some)) for some in (wanted, lacking))]
        for name in names
    ]
    show_table(
        ["dimension", "films", "missing"],
        lines,
        f"{folder}: {len(wanted) - len(lacking)} of {len(wanted)} films",
    )
    for job in lacking[:10]:
        say(("missing ", "dim"), f"{job.name} (seed {job.seed})")
    if lacking:
        raise typer.Exit(1)


def _videos(
    paths: list[Path], prompt: str, prompts: Path | None, tell: Callable[[str], None]
) -> list:
    from cinelab.metrics.external.clip_files import find_videos, read_prompts

    if absent := [path for path in paths if not path.exists()]:
        raise CinelabError(f"{absent[0]}: no such file or folder; name videos that are there.")
    found = find_videos(paths, prompt, read_prompts(prompts) if prompts else None, tell)
    found = [video for video in found if not unfinished(video.path)]
    if half := [video.path.parent for video in found if half_saved(video.path.parent, "film.json")]:
        raise CinelabError(
            f"{half[0]} holds a half-saved film; the `cinelab direct` that was making it finishes "
            "it when it is run again."
        )
    return found


def _missing(name: str) -> list:
    from cinelab.metrics.external import vbench, visionreward

    return (
        vbench.preflight() + vbench.preflight_long()
        if name == "vbench"
        else visionreward.preflight()
    )


def _able(name: str, missing: list) -> list[str]:
    from cinelab.metrics.external import vbench, visionreward

    waiting = {dimension for one in missing for dimension in one.dimensions}
    every = vbench.DIMENSIONS if name == "vbench" else visionreward.METRICS
    return [one for one in every if one not in waiting]


def _kept(rows: list, output: Path | None) -> list:
    """The rows, saved if there is a place for them."""
    from cinelab.metrics.rows import save, table

    if output:
        save(table(rows), output)
    return rows


def _exit(states: Iterable[str]) -> None:
    """Leave with 1 where a video failed, or nothing at all was measured."""
    found = set(states)
    if "failed" in found or "ok" not in found:
        raise typer.Exit(1)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _finish(rows: list, output: Path | None) -> None:
    """Show the rows, and name every clip that failed."""
    from cinelab.metrics.rows import table

    lines = []
    for row in rows:
        value = f"{row.value:.4f}" if row.status == "ok" else (row.status, "yellow")
        lines.append([row.clip, str(row.shot), row.metric, value, row.detail])
    show_table(["clip", "shot", "metric", "value", "detail"], lines)
    _finish_rows(table(rows), output)


def _finish_rows(rows, output: Path | None) -> None:
    """Name what failed and where the table is. Exits with 1 if anything failed, or nothing was
    measured."""
    for row in rows[rows["status"] == "failed"].itertuples():
        say(("failed: ", "red"), row.detail)
    if output:
        say((str(output), "bold green"))
    _exit(rows["status"])


def _names(text: str) -> tuple[str, ...]:
    return names_of(text, "--dimensions") if text else ()


def _mark(ok: bool) -> tuple[str, str]:
    return ("ok", "green") if ok else ("no", "red")
