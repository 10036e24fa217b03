"""`cinelab bench` and `race`: what a chunk costs under each memory policy, and students against the
many-step base."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cinelab.cli.options import (
    Budget,
    Fallback,
    Model,
    Speed,
    Steps,
    levels_of,
    number_option,
    output_option,
)
from cinelab.limits import CHUNKS, STEPS
from cinelab.outputs import writing_file
from cinelab.printing import say, show_table
from cinelab.progress import progress

if TYPE_CHECKING:
    import pandas as pd

# chunks: four of a measurement are warm-up, and chunk 20 is what others are compared with
LEAST_TIMED = 5
LEAST_LATE = 21

TimedChunks = Annotated[int, number_option("chunks that a policy is timed on", LEAST_TIMED, CHUNKS)]
Until = Annotated[
    int, number_option("chunk whose cost is compared with chunk 20", LEAST_LATE, CHUNKS)
]
Noise = Annotated[
    bool, typer.Option("--noise", help="compare films at --speed with exact ones, in place of time")
]
RecordFile = Annotated[Path, output_option("a .json file")]


def bench_command(
    model: Model = "toybox-base",
    chunks: TimedChunks = 40,
    until: Until = 1000,
    *,
    budget: Budget = 6,
    steps: Steps = None,
    speed: Speed = None,
    fallback: Fallback = False,
    noise: Noise = False,
    output: RecordFile = Path("results/bench.json"),
):
    """One model's speed under four memory policies: frames per second, first frame, where the time
    goes, growth with the film.

    With --noise, how far films at --speed are from exact ones, and from themselves, instead.
    """
    from cinelab.bench.speed import benchmark
    from cinelab.config import to_dict
    from cinelab.files import write_json
    from cinelab.lab.reports.origin import made
    from cinelab.ops.compiling import speed_record
    from cinelab.runs import hardware
    from cinelab.zoo.accelerated import load_at_speed

    if noise:
        return _bench_noise(model, chunks, budget, steps=steps, speed=speed, output=output)
    with writing_file(output, (".json",)), progress(f"timing {model}", often=1) as show:
        bundle = load_at_speed(model, speed, fallback=fallback)
        bundle.sampling = bundle.levels(levels_of(steps))
        rows = benchmark(bundle, _compared_policies(budget), chunks, until, show)
        record = {
            "model": model,
            "sampling": to_dict(bundle.sampling),
            "budget": budget,
            "chunks": chunks,
            "until": until,
            **speed_record(bundle.model),
            **hardware(),
            "made": made([model]),
            "rows": rows.to_dict("records"),
        }
        write_json(output, record)
    _show_bench(record, f"{model} on {record['device']}, {record['cores']} cores")
    say((str(output), "bold green"))


def _bench_noise(
    model: str, chunks: int, budget: int, *, steps: str | None, speed: str | None, output: Path
) -> None:
    """Measure the noise floor of a speed (default: compiled) under CAMR, print and write it."""
    from dataclasses import asdict

    from cinelab.bench.noise import noise_floor
    from cinelab.config import to_dict
    from cinelab.files import write_json
    from cinelab.lab.reports.origin import made
    from cinelab.memory.policy import CAMR
    from cinelab.runs import hardware
    from cinelab.scale.acceleration import speed_named
    from cinelab.zoo.accelerated import load_at_speed

    speed = speed or "compiled"
    with writing_file(output, (".json",)), progress(f"comparing films of {model}") as show:
        bundle = load_at_speed(model, "exact")
        bundle.sampling = bundle.levels(levels_of(steps))
        way = speed_named(speed)
        rows = noise_floor(bundle, way, CAMR(budget=budget), chunks=chunks, tell=show.stage)
        record = {
            "model": model,
            "sampling": to_dict(bundle.sampling),
            "budget": budget,
            "chunks": chunks,
            "speed": {"name": speed, "mode": way.mode, **asdict(way)},
            **hardware(),
            "made": made([model]),
            "noise": rows.to_dict("records"),
        }
        write_json(output, record)
    _show_noise(rows, f"{model} at speed {speed} (a {way.mode} one) on {record['device']}")
    say((str(output), "bold green"))


def _show_noise(rows: "pd.DataFrame", title: str) -> None:
    """Print a column a comparison, a row a figure."""
    pairs, *figures = rows.items()
    lines = [[name, *(f"{value:.4g}" for value in values)] for name, values in figures]
    show_table(["", *pairs[1]], lines, title)


def _compared_policies(budget: int) -> dict:
    from cinelab.memory.policy import CAMR, Full, Sink, Window

    return {
        "full": Full(),
        "window": Window(window=budget),
        "sink": Sink(sink=1, window=budget - 1),
        "camr": CAMR(budget=budget),
    }


def _show_bench(record: dict, title: str) -> None:
    """Print a column a policy; a value that a policy does not have (NaN) stays empty."""
    rows = record["rows"]
    lines = [
        [name, *("" if row[name] != row[name] else str(row[name]) for row in rows)]
        for name in list(rows[-1])[1:]
    ]
    show_table(["", *(row["policy"] for row in rows)], lines, title)
    note = (
        "late / early: time of the late chunk over chunk 20. Decoding is included, loading is not."
    )
    say((note, "dim"))


Students = Annotated[list[str] | None, typer.Argument(help="students; default: all shipped ones")]
Base = Annotated[str, typer.Option(help="the many-step model that they are compared with")]
Many = Annotated[
    int,
    number_option("the base is timed with its own steps, and with so many Euler steps", 1, STEPS),
]
RacedChunks = Annotated[int, number_option("chunks that are timed", LEAST_TIMED, CHUNKS)]


def race_command(
    models: Students = None,
    base: Base = "toybox-base",
    many: Many = 48,
    *,
    chunks: RacedChunks = 40,
    budget: Budget = 6,
    output: RecordFile = Path("results/race.json"),
):
    """Students against the many-step base: frames per second and first frame, taking turns in one
    run under CAMR."""
    from cinelab.bench.speed import compare_speeds
    from cinelab.files import write_json
    from cinelab.lab.reports.origin import made
    from cinelab.memory.policy import CAMR
    from cinelab.runs import hardware
    from cinelab.zoo.checkpoints import students

    names = models or students()
    with writing_file(output, (".json",)), progress("loading the models", often=1) as show:
        contenders = _contenders(base, many, names)
        show.stage(f"timing {len(contenders)} models")
        rows = compare_speeds(
            contenders,
            CAMR(budget=budget),
            chunks,
            progress=lambda done, of: show.at(done, of, "chunk"),
        )
        record = {
            "budget": budget,
            "chunks": chunks,
            **hardware(),
            "made": made([base, *names]),
            "rows": rows.to_dict("records"),
        }
        write_json(output, record)
    _show_race(rows, f"{record['device']}, {record['cores']} cores")
    say((str(output), "bold green"))


def _contenders(base: str, many: int, names: list[str]) -> dict:
    """Return (bundle, sampling) by label: the base twice, with `many` Euler steps and its own."""
    from dataclasses import replace

    from cinelab.zoo.checkpoints import load

    slow = load(base)
    euler = replace(slow.sampling.with_steps(many), solver="euler")
    found = {f"{base}, {many} steps": (slow, euler), base: (slow, slow.sampling)}
    for name in names:
        bundle = load(name)
        found[name] = (bundle, bundle.sampling)
    return found


def _show_race(rows: "pd.DataFrame", title: str) -> None:
    ratios = [
        f"{row['times the first']:g} ({row['low']:g} to {row['high']:g})"
        for row in rows.to_dict("records")
    ]
    shown = rows.drop(columns=["times the first", "low", "high"])
    lines = [
        [*map(str, row), ratio]
        for row, ratio in zip(shown.itertuples(index=False), ratios, strict=True)
    ]
    show_table([*shown.columns, "times the first"], lines, title)
