"""`cinelab sweep`: a notebook over a grid of settings."""

from pathlib import Path
from typing import Annotated

import typer

from cinelab.cli.options import number_option
from cinelab.errors import CinelabError
from cinelab.limits import WORKERS

SweepFile = Annotated[
    Path,
    typer.Argument(
        help="a sweep in YAML, such as experiments/memory.yaml: a notebook, a grid, seeds"
    ),
]
Workers = Annotated[int, number_option("cells at a time", 1, WORKERS)]
Only = Annotated[str | None, typer.Option(help="cells whose name contains this")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="list the cells and stop")]
Smoke = Annotated[
    bool,
    typer.Option(
        "--smoke", help="a trial with the notebook's smallest settings, in a folder of its own"
    ),
]
Engine = Annotated[str, typer.Option(help="here, or as jobs through submitit: local or slurm")]
ClusterOptions = Annotated[
    list[str] | None,
    typer.Option(
        help="of a cluster, KEY=VALUE: time (minutes), gpus, cpus, memory (GB), "
        "partition, account, qos, constraint, exclude"
    ),
]


def sweep_command(
    file: SweepFile,
    workers: Workers = 1,
    only: Only = None,
    *,
    dry_run: DryRun = False,
    smoke: Smoke = False,
    engine: Engine = "here",
    option: ClusterOptions = None,
):
    """Run a notebook over a grid of settings, a cell each; finished cells are skipped, so the same
    command continues after any stop."""
    from cinelab.lab.sweeps.sweep import run

    summary = run(
        file,
        workers,
        only,
        dry_run=dry_run,
        smoke=smoke,
        engine=engine,
        options=_cluster_options(option or []),
    )
    if summary.failed:
        raise typer.Exit(1)


def _cluster_options(texts: list[str]) -> dict[str, str]:
    """Read KEY=VALUE texts, each key once. Raises CinelabError."""
    options: dict[str, str] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign:
            raise CinelabError(f"--option is {key!r}; give KEY=VALUE, such as time=60.")
        if key in options:
            raise CinelabError(f"--option gives {key} twice; keep one of them.")
        options[key] = value
    return options
