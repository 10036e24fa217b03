"""`cinelab eval`: our metrics of any video, the toybox's tasks, and tools that live in environments
of their own."""

import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cinelab.cli.options import (
    EXIT_CODES,
    comma_names,
    number_option,
    on_device,
    output_option,
    seed_list,
)
from cinelab.errors import CinelabError
from cinelab.limits import FILMS
from cinelab.outputs import AT_ONCE, half_saved, unfinished, writing, writing_file
from cinelab.printing import say, show_table
from cinelab.progress import progress

if TYPE_CHECKING:
    import pandas as pd

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
Prompt = Annotated[str, typer.Option(help="the prompt of every video")]
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
Output = Annotated[Path | None, output_option("a .parquet file for the table")]
Backends = Annotated[str, typer.Option(help="models that measure alignment and consistency")]
Tolerance = Annotated[int, number_option("frames by which a cut may be early or late", 0, 1000)]
Plan = Annotated[
    Path | None,
    typer.Option(help="shot list or screenplay of a single video; else <video>.shots.json"),
]
TasksFolder = Annotated[Path, typer.Argument(help="a folder for the tasks")]
WorldOfTasks = Annotated[
    str | None, typer.Option("--world", help="the made world to plan them in; default: the newest")
]
WorldOfVideos = Annotated[
    str | None,
    typer.Option("--world", help="the made world of prompts whose shot list names none"),
]
Seeds = Annotated[str, typer.Option(help="of the tasks' films, with commas")]
Films = Annotated[int, number_option("films for each seed and task", 2, FILMS)]
Tool = Annotated[str, typer.Argument(help="vbench or visionreward")]
AnyTool = Annotated[str | None, typer.Argument(help="default: both")]
Samples = Annotated[int, number_option("videos of one prompt; goes into the table", 1, FILMS)]
Long = Annotated[bool, typer.Option("--long", help="clips of 5 s and more by VBench-Long")]
SuiteFolder = Annotated[
    Path,
    typer.Argument(help="a folder of films of VBench's prompts, named as VBench names them"),
]
SuiteNames = Annotated[str, typer.Option(help="VBench's names, with commas; default: all 16")]
ScoreSuite = Annotated[
    bool, typer.Option("--score", help="score the folder, which must be complete")
]


@app.command("videos")
@on_device
def videos_command(
    paths: Paths,
    backends: Backends = "toybox,colour,clip,dino",
    tolerance: Tolerance = 1,
    *,
    plan: Plan = None,
    world: WorldOfVideos = None,
    output: Output = None,
):
    """Cuts, motion, flicker, seams, drift, alignment, identity and scenery across shots; what is
    absent is named, not zero.

    A video that cannot be read is named, the others are scored, and the exit code is 1.
    """
    from cinelab.lab.reports.cards import print_memory
    from cinelab.metrics.rows import save_rows
    from cinelab.metrics.video.evaluate import boxes_of_videos, evaluate, unmeasured

    with writing_file(output, PARQUET), progress("measuring videos") as show:
        names = comma_names(backends, "--backends")
        rows = evaluate(paths, names, tolerance, plan, show, world=world)
        if output:
            save_rows(rows, output)
    _show_facts(rows)
    _show_scores(rows)
    print_memory(boxes_of_videos(rows, world))
    _show_unmeasured(unmeasured(rows))
    finish_table(rows, output)


def _show_unmeasured(reasons: "pd.DataFrame") -> None:
    """Print why something was not measured, at most REASONS lines."""
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


def _show_facts(rows: "pd.DataFrame") -> None:
    """Print what the files state of themselves, on a line; a range where they differ."""
    from cinelab.lab.reports.number_text import text_of
    from cinelab.metrics.video.evaluate import facts

    texts = [
        f"{name} {text_of(least)}" + (f" to {text_of(most)}" if most != least else "")
        for name, (least, most) in facts(rows).items()
    ]
    if texts:
        say(("files: ", "dim"), ", ".join(texts))


def _show_scores(rows: "pd.DataFrame") -> None:
    """Print a table of the scores, one backend after the other."""
    from cinelab.lab.reports.number_text import text_of
    from cinelab.metrics.video.evaluate import clip_digest

    found = clip_digest(rows)
    found = found[found["value"].notna() & (found["backend"] != "file")]
    lines: list[list[str | tuple[str, str]]] = []
    for backend, part in found.groupby("backend", sort=False):
        lines.append([(f"by {backend}", "bold"), "", "", "", ""])
        for row in part.itertuples():
            known = abs(row.low) != float("inf") and row.low == row.low
            between = f"{row.low:.3f} to {row.high:.3f}" if known else ""
            lines.append([row.metric, text_of(row.value), between, str(int(row.n)), str(row.clips)])
    show_table(["metric", "value", "95 % interval", "n", "clips"], lines)


@app.command("tasks")
@on_device
def tasks_command(
    folder: TasksFolder, seeds: Seeds = "0,1,2", films: Films = 32, *, world: WorldOfTasks = None
):
    """Write the toybox benchmark's tasks as files, for any model to answer; see
    docs/benchmark.md."""
    from cinelab.lab.studies.tasks import export_tasks
    from cinelab.metrics.card import CardConfig
    from cinelab.world.worlds import world_named

    config = CardConfig.of(world_named(world), seeds=seed_list(seeds), films=films)
    with writing(folder, AT_ONCE, tidy=True), progress("writing tasks") as show:
        count = export_tasks(folder, config, show, world=world)
    say((str(folder), "bold green"), f": {count} tasks; put a video beside each shot list, then")
    say(f"cinelab eval videos {shlex.quote(str(folder))}")


@app.command("setup")
def setup_command(tool: Tool):
    """Make a tool's environment below $CINELAB_ENVS (default ~/.cache/cinelab/envs); the same call
    continues it later."""
    from cinelab.metrics.external.environments import find_tool, setup

    found = find_tool(tool)
    with progress(f"setting {found.name} up") as show:
        python = setup(found, show)
    say((str(python), "bold green"))


@app.command("check")
def check_command(tool: AnyTool = None):
    """What each tool finds here, what is missing, where it goes and how to get it. Exits with 1 if
    anything is missing."""
    from cinelab.metrics.external.environments import TOOLS, find_tool, folder, ready

    lacking = 0
    for one in [find_tool(tool)] if tool else TOOLS.values():
        made = ready(one)
        missing = _missing(one.name)
        say((f"{one.name}: {one.purpose}", "bold"))
        say(_mark(ok=made), f"  environment {folder(one)}, for all")
        if not made:
            say((f"      cinelab eval setup {one.name}", "dim"))
        for found in missing:  # what may be copied stands on a line of its own
            say(
                _mark(ok=False),
                f"  {found.path} is {found.state}, for {', '.join(found.dimensions)}",
            )
            say((f"      {found.get}", "dim"))
        say(f"runs now: {', '.join(_able(one.name, missing)) if made else ''}\n")
        lacking += len(missing) + (not made)
    if lacking:
        raise typer.Exit(1)


@app.command("vbench")
def vbench_command(
    paths: Paths,
    dimensions: Names = "",
    *,
    whole: Whole = False,
    prompt: Prompt = "",
    prompts: Prompts = None,
    rewriting: Rewriting = "none",
    output: Output = None,
    samples: Samples = 1,
    long: Long = False,
):
    """VBench's dimensions on videos of one's own, shot by shot where the shots are known.

    A video that cannot be read is named, the others are scored, and the exit code is 1.
    """
    from cinelab.metrics.external.vbench import PROMISED, ClipRules, vbench_rows

    with writing_file(output, PARQUET), progress("scoring with VBench") as show:
        videos = _videos(paths, prompt, prompts, show)
        names = _names(dimensions) or PROMISED
        rules = ClipRules(whole, long, samples, rewriting)
        rows = _saved(vbench_rows(videos, names, rules, show), output)
    finish_rows(rows, output)


@app.command("visionreward")
def visionreward_command(
    paths: Paths,
    *,
    whole: Whole = False,
    prompt: Prompt = "",
    prompts: Prompts = None,
    rewriting: Rewriting = "none",
    output: Output = None,
):
    """VisionReward's score, and the share of the prompt's parts that its model sees in each shot.

    A video that cannot be read is named, the others are scored, and the exit code is 1.
    """
    from cinelab.metrics.external.visionreward import visionreward_rows

    with writing_file(output, PARQUET), progress("scoring with VisionReward") as show:
        films = _videos(paths, prompt, prompts, show)
        rows = _saved(visionreward_rows(films, whole=whole, rewriting=rewriting, tell=show), output)
    finish_rows(rows, output)


@app.command("suite")
def suite_command(
    folder: SuiteFolder,
    dimensions: SuiteNames = "",
    *,
    score: ScoreSuite = False,
    rewriting: Rewriting = "none",
    output: Output = None,
):
    """VBench's own prompts: what a folder holds and lacks of their films, and with --score what
    they score."""
    from cinelab.metrics.external.vbench_files import DIMENSIONS
    from cinelab.metrics.external.vbench_suite import suite_rows

    names = _names(dimensions) or tuple(DIMENSIONS)
    if not score:
        return _show_suite(folder, names)
    with writing_file(output, PARQUET), progress("scoring with VBench") as show:
        rows = _saved(suite_rows(folder, names, rewriting, tell=show), output)
    finish_rows(rows, output)


def _show_suite(folder: Path, names: tuple[str, ...]) -> None:
    """Print how many films of every dimension a folder lacks. Exits with 1 where it lacks any."""
    from cinelab.metrics.external.vbench_suite import missing_of_suite, suite

    lacking = missing_of_suite(folder, names)
    wanted = suite(names)
    lines = [
        [name, *(str(sum(name in job.dimensions for job in jobs)) for jobs in (wanted, lacking))]
        for name in names
    ]
    title = f"{folder}: {len(wanted) - len(lacking)} of {len(wanted)} films"
    show_table(["dimension", "films", "missing"], lines, title)
    for job in lacking[:10]:
        say(("missing ", "dim"), f"{job.name} (seed {job.seed})")
    if lacking:
        raise typer.Exit(1)


def _videos(
    paths: list[Path], prompt: str, prompts: Path | None, tell: Callable[[str], None]
) -> list:
    from cinelab.metrics.external.clip_files import find_film_files, read_prompts

    if absent := [path for path in paths if not path.exists()]:
        raise CinelabError(f"{absent[0]}: no such file or folder; name videos that are there.")
    found = find_film_files(paths, prompt, read_prompts(prompts) if prompts else None, tell)
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
        else visionreward.preflight_reward()
    )


def _able(name: str, missing: list) -> list[str]:
    from cinelab.metrics.external import vbench, visionreward

    waiting = {dimension for one in missing for dimension in one.dimensions}
    every = vbench.DIMENSIONS if name == "vbench" else visionreward.REWARD_METRICS
    return [one for one in every if one not in waiting]


def _saved(rows: list, output: Path | None) -> list:
    """Save rows where a file was named for them. Return the same rows."""
    from cinelab.metrics.rows import row_table, save_rows

    if output:
        save_rows(row_table(rows), output)
    return rows


def exit_with(states: Iterable[str]) -> None:
    """Exit with 1 where a video failed, or nothing at all was measured."""
    found = set(states)
    if "failed" in found or "ok" not in found:
        raise typer.Exit(1)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def finish_rows(rows: list, output: Path | None) -> None:
    """Print the rows, and name every clip that failed."""
    from cinelab.metrics.rows import row_table

    lines = []
    for row in rows:
        value = f"{row.value:.4f}" if row.status == "ok" else (row.status, "yellow")
        lines.append([row.clip, str(row.shot), row.metric, value, row.detail])
    show_table(["clip", "shot", "metric", "value", "detail"], lines)
    finish_table(row_table(rows), output)


def finish_table(rows: "pd.DataFrame", output: Path | None) -> None:
    """Name what failed and where the table is. Exits with 1 if anything failed, or nothing was
    measured."""
    for row in rows[rows["status"] == "failed"].itertuples():
        say(("failed: ", "red"), row.detail)
    if output:
        say((str(output), "bold green"))
    exit_with(rows["status"])


def _names(text: str) -> tuple[str, ...]:
    return comma_names(text, "--dimensions") if text else ()


def _mark(*, ok: bool) -> tuple[str, str]:
    return ("ok", "green") if ok else ("no", "red")
