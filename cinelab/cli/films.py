"""`cinelab film`, `direct` and `demo`: films from screenplays, and the directing desk as a page."""

from pathlib import Path
from typing import Annotated

import typer

from cinelab.assets import local_or_asset
from cinelab.cli.options import (
    Fallback,
    Model,
    OwnBudget,
    Policy,
    Seed,
    Speed,
    Steps,
    levels_of,
    number_option,
    output_option,
)
from cinelab.errors import CinelabError, Failed
from cinelab.limits import CHUNKS, FILMS, PORT, VISITORS
from cinelab.outputs import AT_ONCE, ready_folder, writing
from cinelab.printing import say, show_table
from cinelab.progress import SHORT, progress

SCREENPLAYS = "experiments/screenplays"
NOTEBOOK = "notebooks/00_first_film.ipynb"

Screenplays = Annotated[
    list[Path] | None,
    typer.Argument(help="screenplays in YAML or JSON; default: all in experiments/screenplays"),
]
FilmsFolder = Annotated[Path, output_option("a folder; each film gets one in it")]


def film_command(
    screenplays: Screenplays = None,
    output: FilmsFolder = Path("results/films"),
    model: Model = "toybox-2step",
):
    """Films of several screenplays, each by notebook 00: film.mp4, storyboard.png, routing.html,
    scores and the executed notebook."""
    from cinelab.script.screenplay import Screenplay

    plays = screenplays or _all_screenplays()
    # every file is read before work starts
    titles = {play: Screenplay.load(play).title for play in plays}
    folders = _film_folders(plays, output)
    made = [_execute_film(play, titles[play], folders[play], model=model) for play in plays]
    for folder in folders.values():
        if folder.is_dir():
            show_files(folder)
    if not all(made):
        raise typer.Exit(1)


def _all_screenplays() -> list[Path]:
    """Return the screenplays of this folder's experiments/screenplays, else the package's."""
    folder = local_or_asset(SCREENPLAYS)
    plays = sorted(path for path in folder.glob("*") if path.suffix in (".yaml", ".json"))
    if not plays:
        raise CinelabError(f"{folder} holds no screenplay; name a file.")
    return plays


def _film_folders(plays: list[Path], output: Path) -> dict[Path, Path]:
    """Return a folder for every screenplay, each proved to be writable, no two the same."""
    folders: dict[Path, Path] = {}
    for play in plays:
        folder = output / play.stem
        if folder in folders.values():
            raise CinelabError(
                f"Two screenplays are named {play.stem}; make their films one after the other, "
                "with another -o."
            )
        folders[play] = ready_folder(folder)
    return folders


def _execute_film(play: Path, title: str, folder: Path, *, model: str) -> bool:
    """Run notebook 00 on a screenplay. Return whether it succeeded; a failure is printed."""
    from cinelab.lab.sweeps.notebook import execute

    say((title, "bold"), f" -> {folder}")
    parameters = {
        "screenplay": str(play.resolve()),
        "run_dir": str(folder.resolve()),
        "model": model,
    }
    try:
        with progress(f"{title}: starting", SHORT) as show:

            def show_step(text: str) -> None:
                show.stage(f"{title}: step {text}")

            execute(local_or_asset(NOTEBOOK), folder, parameters, show_step if show.lives else None)
    except Failed as error:
        say(("failed: ", "red"), str(error))
        return False
    return True


def show_files(folder: Path) -> None:
    """Print a folder and the files in it."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    say((str(folder), "bold green"), ": " + ", ".join(names))


ScreenplayFile = Annotated[
    Path,
    typer.Argument(
        help="a screenplay in YAML or JSON, such as experiments/screenplays/the_way_home.yaml"
    ),
]
FilmFolder = Annotated[
    Path | None, output_option("a new folder; default: results/films/<screenplay>")
]


def direct_command(
    screenplay: ScreenplayFile,
    output: FilmFolder = None,
    model: Model = "toybox-2step",
    *,
    policy: Policy = None,
    budget: OwnBudget = None,
    seed: Seed = None,
    steps: Steps = None,
    speed: Speed = None,
    fallback: Fallback = False,
):
    """Make the film of one screenplay: film.mp4, storyboard.png, the page of the chunks that were
    retrieved from the KV cache, and the scores."""
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
                policy=policy,
                budget=budget,
                seed=seed,
                steps=levels_of(steps),
                speed=speed,
                fallback=fallback,
                progress=lambda done, of: show.at(done, of, "chunk"),
                stage=lambda text: show.stage(f"{play.title}: {text}"),
            )
    show_scores(folder / "metrics.parquet")
    show_files(folder)


def show_scores(path: Path) -> None:
    """Print the mean of every score in a film's table."""
    from cinelab.lab.reports.number_text import text_of
    from cinelab.metrics.toybox.film import film_digest
    from cinelab.tables import read_frame

    rows = film_digest(read_frame(path, "make the film again")).itertuples()
    show_table(
        ["score", "mean", "of"],
        [[metric, text_of(mean), str(count)] for metric, mean, count in rows],
    )


DemoFolder = Annotated[Path, typer.Option(help="where the visitors' films go")]
Visitors = Annotated[int, number_option("films at once", 1, VISITORS)]
Chunks = Annotated[int, number_option("chunks that a film may have, all takes counted", 1, CHUNKS)]
Idle = Annotated[
    float,
    number_option(
        "seconds until a film that nobody watches is closed; it can be continued later",
        above=0,
        most=1e9,
        whole=False,
    ),
]
Host = Annotated[str, typer.Option(help="0.0.0.0 lets other machines in, with the token")]
Port = Annotated[int, number_option("0 = any free one", 0, PORT)]
Token = Annotated[
    str | None,
    typer.Option(
        help="lets one direct; of 8 to 128 of A-Z, a-z, 0-9, - and _. Default: $CINELAB_TOKEN, "
        "else a new one at every start"
    ),
]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(help="a name by which a proxy in front reaches this demo; may be repeated"),
]
Exports = Annotated[int, number_option("exports that a film may have", 0, 10_000)]
Mebibytes = Annotated[int, number_option("MiB that a film's log and chunks may take", 1, 2**20)]
Films = Annotated[int, number_option("films that the folder may hold", 1, FILMS)]


def demo_command(
    model: Model = "toybox-2step",
    folder: DemoFolder = Path("results/demo"),
    visitors: Visitors = 10,
    *,
    chunks: Chunks = 480,
    idle: Idle = 300.0,
    host: Host = "127.0.0.1",
    port: Port = 8890,
    token: Token = None,
    allow_host: AllowHost = None,
    exports: Exports = 10,
    mebibytes: Mebibytes = 1024,
    films: Films = 1000,
    policy: Policy = None,
    budget: OwnBudget = None,
):
    """The directing desk as a web page for several visitors who share one model; Ctrl-C ends it,
    and every film stays on the disk."""
    from cinelab.lab.desk.demo import DemoLimits, demo

    limits = DemoLimits(
        visitors=visitors,
        chunks=chunks,
        idle=idle,
        exports=exports,
        mebibytes=mebibytes,
        films=films,
    )
    demo(
        folder,
        model,
        limits,
        host=host,
        port=port,
        announce=say,
        policy=policy,
        budget=budget,
        token=token,
        names=allow_host or (),
    )
