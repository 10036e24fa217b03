"""`cinelab train` and `clips`: a training stage from one file, and videos encoded for it."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cinelab.cli.options import number_option
from cinelab.errors import CinelabError
from cinelab.files import to_json
from cinelab.limits import MINUTES, WORKERS, short
from cinelab.printing import say
from cinelab.progress import progress

if TYPE_CHECKING:
    from cinelab.data import DataConfig
    from cinelab.lab.training.video_data import Parts

RunFile = Annotated[
    Path, typer.Argument(help="the run's description, YAML or JSON; see docs/scaling.md")
]
Processes = Annotated[
    int, number_option("processes that share the work, one a GPU of this machine", 1, WORKERS)
]
Every = Annotated[int, number_option("steps between two lines", 1, 10**9)]
Minutes = Annotated[
    float | None,
    number_option(
        "of this sitting: when they are up, the training saves, exports and ends; default: the "
        "file's, else no end",
        *MINUTES,
        whole=False,
    ),
]


def train_command(
    run: RunFile, processes: Processes = 1, every: Every = 10, *, minutes: Minutes = None
):
    """Train a stage from one file, sharded over this machine's GPUs; a run that is interrupted, or
    whose minutes are up, saves, and the same command continues it."""
    from cinelab.jobs.job import load_job
    from cinelab.lab.training import launch
    from cinelab.lab.training.panel import watch

    job = load_job(run)
    job = job if minutes is None else replace(job, minutes=minutes)
    plural = "es" * (processes > 1)
    say((f"starting {processes} process{plural}; the log is {job.run}/log.jsonl", "dim"))
    rows = watch(launch.train(job, processes), job.config, every=every)
    of = f" of {job.config.steps}" if len(rows) < job.config.steps else ""
    say(
        (job.run, "bold green"),
        f": {len(rows)}{of} steps" + (f", weights in {job.export}" if job.export else ""),
    )
    if job.export and (Path(job.export) / "config.json").exists():
        say(("next:", "dim"))
        say(next_line(job.export))


def next_line(folder: str | Path) -> str:
    """Return the command that uses a training's result (see `cinelab.jobs.worker.deliver`)."""
    from cinelab.config import read_mapping
    from cinelab.zoo import checkpoints as zoo

    folder = Path(folder)
    if not (folder / zoo.WEIGHTS).exists():
        return f"cinelab convert BASE TARGET --lora {shlex.quote(str(folder / zoo.ADAPTER))}"
    if "text" in read_mapping(folder / zoo.CONFIG):
        return f"cinelab direct film.yaml --model {shlex.quote(str(folder))}"
    return weights_line(folder)


def weights_line(weights: str | Path) -> str:
    """Return how a film is made with weights of the transformer alone."""
    entry = to_json({"weights": str(Path(weights).resolve())})
    return (
        f"write {entry} into cinelab.json of a diffusers folder of Wan2.1, then\n"
        "cinelab direct film.yaml --model THAT-FOLDER"
    )


Videos = Annotated[
    Path,
    typer.Argument(help="a folder of videos, or a .csv or .parquet table with a column `video`"),
]
StoreFolder = Annotated[Path, typer.Argument(help="the folder for the encoded films")]
CodecModel = Annotated[
    str,
    typer.Option(
        help="whose codec and text encoder: a diffusers folder of Wan, toybox, or a made world"
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="a field of DataConfig, such as cuts=given or shortest=3; repeat for more"
    ),
]
Share = Annotated[
    str, typer.Option(help="of several workers on one store: mine/of, counted from 1")
]
Verify = Annotated[
    bool, typer.Option("--verify", help="only read every shard against its checksum")
]


def clips_command(
    videos: Videos,
    store: StoreFolder,
    model: CodecModel = "toybox",
    *,
    setting: Settings = None,
    share: Share = "1/1",
    check: Verify = False,
):
    """Videos to training clips: shots detected or read from lists, captioned, encoded once; a build
    that was stopped continues.

    A video that cannot be taken is named, the others are encoded, and the exit code is 1; it is 1
    too where no film was stored.
    """
    from cinelab.config import override
    from cinelab.lab.training.video_data import parts_of
    from cinelab.script.yaml_text import parse_settings

    if check:
        return _verify_store(store)
    part = _worker_share(share)
    settings = parse_settings(setting or [])
    parts, config = parts_of(model)
    stored = _build_store(videos, store, override(config, settings), parts=parts, part=part)
    unread = _show_skipped(store)
    if stored == 0:
        say(("no film was stored: ", "red"), str(store))
    else:
        say((str(store), "bold green"))
    if unread or stored == 0:
        raise typer.Exit(1)


def _verify_store(store: Path) -> None:
    from cinelab.data import verify

    broken = verify(store)
    if broken:
        names = ", ".join(map(str, broken))
        say(("broken: ", "red"), f"{names}; build again to make them anew")
        raise typer.Exit(1)
    say(("every shard is whole", "bold green"))


def _build_store(
    videos: Path, store: Path, config: "DataConfig", *, parts: "Parts", part: tuple[int, int]
) -> int | None:
    """Encode this worker's part. Return the films stored; None where all were there already."""
    from cinelab.data import build

    stored = None
    with progress("reading videos") as show:
        for step in build(videos, store, config, *parts, part=part, tell=show, begin=show):
            stored = (stored or 0) + step.films
            say(str(step))
    return stored


def _show_skipped(store: Path) -> int:
    """Print what was left out of a store, and why. Return how many videos could not be taken."""
    from cinelab.data import skipped

    left = skipped(store)
    for row in left:
        say(("left out: ", "yellow"), str(row["why"]))
    unread = sum(row["left_out"] == "video" and row.get("failed", True) for row in left)
    if unread:
        say((f"{unread} video{'s' * (unread != 1)} could not be taken", "red"), ", as listed above")
    return unread


def _worker_share(text: str) -> tuple[int, int]:
    """Read mine/of, counted from 1. Return it counted from 0. Raises CinelabError."""
    mine, slash, of = text.partition("/")
    known = text.isascii() and slash and mine.isdecimal() and of.isdecimal() and len(text) < 20
    if not (known and 1 <= int(mine) <= int(of) <= WORKERS):
        raise CinelabError(
            f"--share is {short(text)}; give mine/of, like 2/4 for the second of four workers, of "
            f"{WORKERS} at most."
        )
    return int(mine) - 1, int(of)
