"""`cinelab recipe` and `adopt`: the whole training from nothing, and what came back of it."""

from pathlib import Path
from typing import Annotated

import typer

from cinelab.assets import local_or_asset
from cinelab.cli.options import comma_names, number_option, output_option, seed_list
from cinelab.errors import CinelabError
from cinelab.limits import FILMS, MINUTES, WORKERS
from cinelab.printing import say, show_table
from cinelab.progress import progress

RECIPE = Path("experiments/recipe")
RecipeFolder = Annotated[Path, typer.Argument(help="where all steps put their results; resumed")]
Preset = Annotated[str, typer.Option(help="toy (two cores), h100 (one GPU of 80 GB), or smoke")]
Files = Annotated[Path, typer.Option(help="a folder of files, one a step")]
Until = Annotated[str | None, typer.Option(help="the last step that is wanted")]
Jobs = Annotated[int | None, number_option("that build the films; default: one a core", 1, WORKERS)]
Minutes = Annotated[
    float | None,
    number_option(
        "of this sitting: when they are up, the running step saves and ends; default: no end",
        *MINUTES,
        whole=False,
    ),
]
Plan = Annotated[bool, typer.Option("--plan", help="only list the steps and the hours they take")]


def recipe_command(
    folder: RecipeFolder = Path("results/recipe"),
    preset: Preset = "toy",
    files: Files = RECIPE,
    *,
    until: Until = None,
    minutes: Minutes = None,
    jobs: Jobs = None,
    plan: Plan = False,
):
    """Train everything from nothing, step by step: codec, recogniser, films, stages 0 to 3.

    What is done is skipped, and a step that was stopped (Ctrl-C, SIGTERM, its minutes) continues.
    """
    from cinelab.lab.recipe.running import hours_left, plan_lines, run_recipe, up_to
    from cinelab.lab.recipe.steps import check_preset, read_recipe
    from cinelab.progress import duration_text

    check_preset(preset)
    if files == RECIPE:
        files = local_or_asset(files.as_posix())  # the shipped steps, where none are here
    steps = up_to(read_recipe(files), until)
    show_table(["step", "stage", "hours", "state"], plan_lines(folder, preset, steps))
    hours = hours_left(folder, preset, steps)
    say(("expected: ", "dim"), duration_text(3600 * hours) if hours else "nothing is left to do")
    if plan:
        return
    done = run_recipe(folder, preset, files, until=until, minutes=minutes, jobs=jobs, tell=say)
    if done:
        say((str(folder), "bold green"), ": every step is done")
    else:
        say(("stopped and saved: ", "yellow"), "the same command goes on")


ReturnedFolder = Annotated[
    Path,
    typer.Argument(
        help="what came back: a recipe's folder, the output of benchmarks/gpu.py, or a checkpoint"
    ),
]
Only = Annotated[str, typer.Option(help="names with commas; default: all that it holds")]
As = Annotated[
    list[str] | None,
    typer.Option("--name", help="THEIRS=SHIPPED: the name one goes by; repeat for more"),
]
Seeds = Annotated[str, typer.Option(help="of the test films, with commas")]
Films = Annotated[int, number_option("films for each seed and test", 2, FILMS)]
Score = Annotated[bool, typer.Option("--score/--no-score", help="compare on held-out films")]
Install = Annotated[bool, typer.Option("--install", help="take the shipped ones' place")]
ReportFolder = Annotated[Path, output_option("a folder for the report and the cards")]


def adopt_command(
    folder: ReturnedFolder,
    seeds: Seeds = "0,1,2",
    films: Films = 32,
    *,
    only: Only = "",
    name: As = None,
    score: Score = True,
    install: Install = False,
    output: ReportFolder = Path("results/adopted"),
):
    """Check trained weights that came back, score them beside the shipped ones, and install them
    with --install.

    The exit code is 1 where a checkpoint is refused.
    """
    from cinelab.lab.recipe.adopt import REPORT, adopt, report_lines, sentence_of

    wanted = comma_names(only, "--only") if only else ()
    with progress("checking") as show:
        report = adopt(
            folder,
            output,
            only=wanted,
            names=dict(_renamed(text) for text in name or []),
            seeds=seed_list(seeds),
            films=films,
            score=score,
            install=install,
            tell=show,
        )
    heads = ["checkpoint", "metric", "new", "shipped", "difference", "p (Holm)", "verdict"]
    show_table(heads, report_lines(report))
    for row in report["checkpoints"]:
        say(sentence_of(row))
    for place in report["installed"]:
        say(("installed: ", "bold green"), place)
    say((str(output / REPORT), "dim"))
    if any(row["refused"] for row in report["checkpoints"]):
        raise typer.Exit(1)


def _renamed(text: str) -> tuple[str, str]:
    """Read THEIRS=SHIPPED. Raises CinelabError."""
    theirs, sign, shipped = text.partition("=")
    if not (sign and theirs and shipped.replace("-", "").isalnum()):
        raise CinelabError(
            f"--name is {text[:60]!r}; give THEIRS=SHIPPED, like stage1-longer=toybox-base."
        )
    return theirs, shipped
