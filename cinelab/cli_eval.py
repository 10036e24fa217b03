"""`cinelab eval`: our metrics of any video, the toybox's tasks, and tools that live in environments of their own."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cinelab.errors import CinelabError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="Score any videos: our own metrics, VBench, VisionReward.")
out = Console()
REASONS = 20  # why something was not measured, as many as are printed
Paths = Annotated[list[Path], typer.Argument(help="mp4 files, folders of them, or folders that `cinelab direct` wrote")]
Names = Annotated[str, typer.Option("--dimensions", help="VBench's names, with commas; default: those that need no prompt")]
Prompt = Annotated[str, typer.Option(help="what every video was asked to show")]
Prompts = Annotated[Path | None, typer.Option(help='JSON {"file name": "prompt"}')]
Rewriting = Annotated[str, typer.Option(help="how the prompts were rewritten before the films were made; goes into the table")]
Whole = Annotated[bool, typer.Option("--whole/--shots", help="also score the film as one piece, as shot 0")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="a .parquet file for the table")]


@app.command()
def videos(paths: Paths, backends: Annotated[str, typer.Option(help="who judges alignment and consistency")] = "toybox,colour,clip,dino",
           tolerance: Annotated[int, typer.Option(help="frames by which a cut may be early or late")] = 1,
           plan: Annotated[Path | None, typer.Option(help="shot list or screenplay of a single video; else <video>.shots.json")] = None,
           output: Output = None):
    """Cuts, motion, flicker, seams, drift, alignment, identity and scenery across shots; what is absent is said, not zero."""
    from cinelab.lab.results import text_of
    from cinelab.score.evaluate import digest, evaluate, unmeasured
    from cinelab.score.rows import save

    rows = evaluate(paths, _split(backends), tolerance, plan, _tell)
    found, table = digest(rows), Table("metric", "by", "value", "95 % interval", "n", "clips")
    for row in found[found["value"].notna()].itertuples():
        known = abs(row.low) != float("inf") and row.low == row.low
        table.add_row(row.metric, row.backend, text_of(row.value), f"{row.low:.3f} to {row.high:.3f}" if known else "", str(int(row.n)), str(row.clips))
    out.print(table)
    reasons = unmeasured(rows)
    for line in reasons.head(REASONS).itertuples():
        where = f"{_count(line.shots, 'shot')} of {line.clips}" if line.shots else str(line.clips)
        _say(f"[yellow]not measured:[/] {_plain(line.metrics)} by {_plain(line.backends)} in {where} of {_count(line.of, 'video')}: "
             f"{_plain(line.why)}")
    if len(reasons) > REASONS:
        _say(f"[yellow]not measured:[/] {_count(len(reasons) - REASONS, 'more reason')}; the table of -o has them all")
    broken = rows[rows["status"] == "failed"]
    for row in broken.itertuples():
        _say(f"[red]failed:[/] {_plain(row.detail)}")
    if output:
        save(rows, output)
        _say(f"[bold green]{output}[/]")
    _exit(rows["status"])


@app.command()
def tasks(folder: Path, seeds: Annotated[str, typer.Option(help="comma-separated")] = "0,1,2",
          films: Annotated[int, typer.Option(help="films for each seed and task")] = 32):
    """Write the toybox benchmark's tasks as files, for any model to answer; see docs/benchmark.md."""
    from cinelab.lab.tasks import export_tasks
    from cinelab.score.card import CardConfig

    count = export_tasks(folder, CardConfig(seeds=seed_list(seeds), films=films))
    _say(f"[bold green]{folder}[/]: {count} tasks; put a video beside each shot list, then `cinelab eval videos {folder}`")


@app.command()
def setup(tool: Annotated[str, typer.Argument(help="vbench or visionreward")]):
    """Make a tool's environment below $CINELAB_ENVS (default ~/.cache/cinelab/envs); the same call goes on later."""
    from cinelab.score.outside import find
    from cinelab.score.outside import setup as make

    python = make(find(tool), _tell)
    _say(f"[bold green]{python}[/]")


@app.command()
def check(tool: Annotated[str | None, typer.Argument(help="default: both")] = None):
    """What each tool finds here, what is missing, where it goes and how to get it. Exits with 1 if anything is missing."""
    from cinelab.score.outside import TOOLS, find, folder, ready

    lacking = 0
    for one in [find(tool)] if tool else TOOLS.values():
        made, missing = ready(one), _missing(one.name)
        title = f"{one.name}: {one.purpose}"
        table = Table("", "what, where it goes, how to get it", "for", title=title, title_justify="left", box=None)
        remedy = "" if made else f"\n[dim]cinelab eval setup {one.name}[/]"
        table.add_row(_mark(made), f"environment {folder(one)}{remedy}", "all")
        for found in missing:
            where = f"{_plain(str(found.path))} is {found.state}\n[dim]{_plain(found.get)}[/]"
            table.add_row(_mark(False), where, "\n".join(found.dimensions))
        Console(width=max(out.width, 240), soft_wrap=True, highlight=False).print(table)  # paths and addresses are copied whole
        _say(f"runs now: {', '.join(_able(one.name, missing)) if made else ''}\n")
        lacking += len(missing) + (not made)
    if lacking:
        raise typer.Exit(1)


@app.command()
def vbench(paths: Paths, dimensions: Names = "", whole: Whole = False, prompt: Prompt = "", prompts: Prompts = None,
           rewriting: Rewriting = "none", output: Output = None,
           samples: Annotated[int, typer.Option(help="videos of one prompt; goes into the table")] = 1,
           long: Annotated[bool, typer.Option("--long", help="clips of 5 s and more by VBench-Long")] = False):
    """VBench's dimensions on videos of one's own, shot by shot where the shots are known."""
    from cinelab.score.vbench import PROMISED, Rules, score_videos

    videos = _videos(paths, prompt, prompts)
    names = _split(dimensions) or PROMISED
    _finish(score_videos(videos, names, Rules(whole, long, samples, rewriting), _tell), output)


@app.command()
def visionreward(paths: Paths, whole: Whole = False, prompt: Prompt = "", prompts: Prompts = None, rewriting: Rewriting = "none",
                 output: Output = None):
    """VisionReward's score, and the share of the prompt's parts that its model sees in each shot."""
    from cinelab.score.visionreward import score_videos

    _finish(score_videos(_videos(paths, prompt, prompts), whole=whole, rewriting=rewriting, tell=_tell), output)


@app.command()
def suite(folder: Path, dimensions: Annotated[str, typer.Option(help="default: all 16")] = "",
          score: Annotated[bool, typer.Option("--score", help="score the folder, which must be complete")] = False,
          rewriting: Rewriting = "none", output: Output = None):
    """VBench's own prompts: what a folder holds and lacks of their films, and with --score what they are worth."""
    from cinelab.score.vbench_files import DIMENSIONS
    from cinelab.score.vbench_suite import missing_of_suite, score_suite
    from cinelab.score.vbench_suite import suite as jobs

    names = _split(dimensions) or tuple(DIMENSIONS)
    if score:
        return _finish(score_suite(folder, names, rewriting, tell=_tell), output)
    lacking, wanted = missing_of_suite(folder, names), jobs(names)
    table = Table("dimension", "films", "missing", title=f"{folder}: {len(wanted) - len(lacking)} of {len(wanted)} films")
    for name in names:
        table.add_row(name, *(str(sum(name in job.dimensions for job in some)) for some in (wanted, lacking)))
    out.print(table)
    for job in lacking[:10]:
        _say(f"[dim]missing[/] {_plain(job.name)} (seed {job.seed})")
    if lacking:
        raise typer.Exit(1)


def _videos(paths: list[Path], prompt: str, prompts: Path | None) -> list:
    from cinelab.score.excerpts import find_videos, read_prompts

    if absent := [path for path in paths if not path.exists()]:
        raise CinelabError(f"{absent[0]}: no such file or folder; name videos that are there.")
    return find_videos(paths, prompt, read_prompts(prompts) if prompts else None, _tell)


def _missing(name: str) -> list:
    from cinelab.score import vbench, visionreward

    return vbench.preflight() + vbench.preflight_long() if name == "vbench" else visionreward.preflight()


def _able(name: str, missing: list) -> list[str]:
    from cinelab.score import vbench, visionreward

    waiting = {dimension for one in missing for dimension in one.dimensions}
    every = vbench.DIMENSIONS if name == "vbench" else visionreward.METRICS
    return [one for one in every if one not in waiting]


def _finish(rows: list, output: Path | None) -> None:
    """Show the rows, save them, and name every clip that failed."""
    from cinelab.score.rows import save, table

    shown = Table("clip", "shot", "metric", "value", "detail")
    for row in rows:
        value = f"{row.value:.4f}" if row.status == "ok" else f"[yellow]{row.status}[/]"
        shown.add_row(_plain(row.clip), str(row.shot), row.metric, value, _plain(row.detail))
    out.print(shown)
    if output:
        save(table(rows), output)
        _say(f"[bold green]{output}[/]")
    _exit(row.status for row in rows)


def _exit(states: Iterable[str]) -> None:
    """Leave with 1 where a video failed, or nothing at all was measured."""
    found = set(states)
    if "failed" in found or "ok" not in found:
        raise typer.Exit(1)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def seed_list(text: str) -> tuple[int, ...]:
    """The numbers of a `--seeds` option."""
    numbers = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in numbers):
        raise CinelabError(f"--seeds is {text!r}; give whole numbers with commas, like 0,1,2.")
    return tuple(map(int, numbers))


def _mark(ok: bool) -> str:
    return "[green]ok[/]" if ok else "[red]no[/]"


def _plain(text: str) -> str:
    """Text in which rich sees no markup."""
    from rich.markup import escape

    return escape(text)


def _tell(text: str) -> None:
    _say(f"[dim]{_plain(text)}[/]")


def _say(text: str) -> None:
    out.print(text, highlight=False, soft_wrap=True)
