"""`cinelab data`: stores of training films that are made here."""

from pathlib import Path
from typing import Annotated

import typer

from cinelab.cli.options import EXIT_CODES, number_option, on_device
from cinelab.limits import RANGES, TRAINED, WORKERS
from cinelab.printing import say
from cinelab.progress import progress

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog=EXIT_CODES,
    help="Make training films: render and encode the toybox's.",
)
Folder = Annotated[Path, typer.Argument(help="the folder of the store; a build is resumed")]
Films = Annotated[int | None, number_option("default: the preset's", 1, TRAINED)]
Latents = Annotated[
    int | None, number_option("latent frames a film; default: the preset's", *RANGES["latents"])
]
Jobs = Annotated[
    int | None, number_option("processes, one thread each; default: one a core", 1, WORKERS)
]
Preset = Annotated[str, typer.Option(help="smoke, toy or h100")]
CodecName = Annotated[
    str | None, typer.Option(help="shipped name or folder of the codec; default: the world's")
]
WorldName = Annotated[
    str | None, typer.Option("--world", help="the made world of the films; default: the newest")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="a field of StoreConfig, such as longest=8; repeat for more"),
]


@app.command("toybox")
@on_device
def toybox_command(
    folder: Folder,
    films: Films = None,
    latents: Latents = None,
    *,
    jobs: Jobs = None,
    preset: Preset = "toy",
    codec: CodecName = None,
    world: WorldName = None,
    setting: Settings = None,
):
    """Render and encode the toybox's training films on all cores, once; a build that was stopped
    continues."""
    from cinelab.config import override
    from cinelab.data.toybox_jobs import build_at_once
    from cinelab.script.yaml_text import parse_settings
    from cinelab.train import presets
    from cinelab.world.worlds import world_named

    drawn = world_named(world)
    given = {"films": films, "latents": latents}
    changes = parse_settings(setting or []) | {k: v for k, v in given.items() if v is not None}
    config = override(presets.store(preset, world=drawn.name), changes)
    with progress("rendering and encoding") as show:
        build_at_once(
            folder,
            config,
            codec or drawn.codec,
            jobs=jobs,
            tell=lambda done: show.at(done, config.films, "film"),
        )
    say((str(folder), "bold green"), f": {config.films} films of {config.latents} latent frames")
