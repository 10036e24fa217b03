"""`cinelab convert`, `plan`, `clips` and `train`: Wan's weights, what a film of it takes, its data,
its training."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from cinelab.cli.options import budget_option, number, size_of
from cinelab.errors import CinelabError
from cinelab.files import to_json
from cinelab.limits import CHUNKS, LATENTS, WORKERS, short
from cinelab.printing import say, show_table
from cinelab.progress import SHORT, progress

SHOWN = 12  # keys of a kind, unless all are asked for
GIB = 2**30
CAUSES = {
    "weights": "the model",
    "attended": "keys and values that a chunk sees",
    "stored": "the history of all chunks",
    "slots": "its working copy",
    "summaries": "what retrieval searches",
    "activations": "what a step computes",
}
ANY = 2**62  # bytes: room enough for anything


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="a diffusers or original folder, a .safetensors, or a training checkpoint (.pt)"
        ),
    ],
    target: Annotated[
        Path | None, typer.Argument(help="a folder; a .pt file for training; none with --dry-run")
    ] = None,
    to: Annotated[
        str, typer.Option(help="diffusers, wan (the original repository's) or training")
    ] = "diffusers",
    dtype: Annotated[
        str | None, typer.Option(help="fp32, bf16, fp16; default: what the source has")
    ] = None,
    part: Annotated[
        str,
        typer.Option(
            help="of a training checkpoint; auto = generator_ema if it is there, else generator"
        ),
    ] = "auto",
    lora: Annotated[
        Path | None, typer.Option(help="a LoRA to merge: .safetensors, .pt or a peft folder")
    ] = None,
    lora_scale: Annotated[
        float | None,
        number(
            "in W + scale B A; default alpha / r, or 1 where no alpha is said",
            -1e6,
            1e6,
            whole=False,
        ),
    ] = None,
    shard_gib: Annotated[
        float,
        number("largest file, and about the memory that is used", above=0, most=1e6, whole=False),
    ] = 5.0,
    keys: Annotated[bool, typer.Option("--keys", help="list every key")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="read names and shapes, write nothing")
    ] = False,
):
    """Convert Wan2.1 text-to-video weights between diffusers, the original repository and training
    checkpoints; also merge a LoRA."""
    from cinelab.weights.convert import convert_weights as run
    from cinelab.weights.load import open_weights

    if target is None and not dry_run:
        raise CinelabError(
            "No target was given; name where to write, or say --dry-run to only look."
        )
    report = open_weights(source, part, dtype, lora, lora_scale).report()
    if report.whole and not dry_run:
        with progress(f"writing {target}", SHORT) as line:
            report = run(source, target, to, dtype, shard_gib, part, lora, lora_scale, line)
    show(report, keys)
    report.demand()
    if report.target and to != "training":
        say(("next:", "dim"))
        say(_as_weights(report.target))


def _as_weights(weights: str | Path) -> str:
    """What to do with a transformer alone, so that it makes a film."""
    return (
        f"write {to_json({'weights': str(Path(weights).resolve())})} into cinelab.json of a "
        "diffusers folder of Wan2.1, then\n"
        "cinelab direct film.yaml --model THAT-FOLDER"
    )


def next_line(folder: str | Path) -> str:
    """What to do with the result of a training (see `cinelab.jobs.worker.deliver`)."""
    from cinelab.config import read_mapping
    from cinelab.zoo import checkpoints as zoo

    folder = Path(folder)
    if not (folder / zoo.WEIGHTS).exists():
        return f"cinelab convert BASE TARGET --lora {shlex.quote(str(folder / zoo.ADAPTER))}"
    if "text" in read_mapping(folder / zoo.CONFIG):
        return f"cinelab direct film.yaml --model {shlex.quote(str(folder))}"
    return _as_weights(folder)


def show(report, keys: bool = False) -> None:
    """A `cinelab.weights.load.Report` as a table."""
    config = report.config
    part = (
        f"{report.part} (of {', '.join(report.parts)})"
        if report.part
        else "none, it is one set of weights"
    )
    size = f"{config.num_layers} layers, width {config.width}, {config.num_attention_heads} heads, from {'config.json' if report.has_config else 'shapes'}"
    dtypes = ", ".join(
        f"{count} {found}" + (f" to {made}" if made != found else "")
        for (found, made), count in sorted(report.dtypes.items())
    )
    rows = {
        "layout": report.layout + (f" to {report.to}" if report.to else ""),
        "part": part,
        "size": size,
        "mapped": str(len(report.mapped)),
        "missing": str(len(report.missing)),
        "unexpected": str(len(report.unexpected)),
        "other shape": str(len(report.wrong)),
        "dtype": dtypes,
        "LoRA": str(report.lora or "none"),
        "GiB": f"{report.bytes / GIB:.3f}",
    }
    bad = [what for what in ("missing", "unexpected", "other shape") if rows[what] != "0"]
    show_table(
        ["what", "found"],
        [[what, (found, "red") if what in bad else found] for what, found in rows.items()],
        str(report.source),
    )
    shapes = [f"{name}: {found}, expected {expected}" for name, found, expected in report.wrong]
    mapped = [f"{raw} -> {name}" for raw, name in report.mapped.items()] if keys else []
    for what, names in {
        "mapped": mapped,
        "missing": report.missing,
        "unexpected": report.unexpected,
        "other shape": shapes,
    }.items():
        for name in names if keys else names[:SHOWN]:
            say((f"{what} ", "dim"), str(name))
        if not keys and len(names) > SHOWN:
            say((f"{what}: {len(names) - SHOWN} more; --keys lists all", "dim"))
    if report.target:
        say((str(report.target), "bold green"))


def plan(
    model: Annotated[
        str, typer.Option(help="wan-1.3b, wan-14b, or weights in any layout")
    ] = "wan-1.3b",
    chunks: Annotated[int, number("chunks of the film", 1, CHUNKS)] = 200,
    chunk: Annotated[int, number("latent frames a chunk", 1, LATENTS)] = 3,
    size: Annotated[str, typer.Option(help="height x width in pixels")] = "480x832",
    policy: Annotated[
        str, typer.Option(help="camr, window, sink, shot_sink, full, or your own as module:Name")
    ] = "camr",
    budget: Annotated[int, budget_option("history chunks seen at once")] = 6,
    place: Annotated[
        str, typer.Option(help="where the history is kept: device or host")
    ] = "device",
    packing: Annotated[
        str, typer.Option(help="how the history is kept: none, int8 or fp8")
    ] = "none",
    linears: Annotated[
        str,
        typer.Option(help="numbers of the linear layers: full, fp8, fp8-weights or int8-weights"),
    ] = "full",
    device: Annotated[
        float | None,
        number(
            "GiB of the GPU of another machine; without --device and --host: what is free here",
            0,
            1e6,
            whole=False,
        ),
    ] = None,
    host: Annotated[
        float | None, number("GiB of main memory of another machine", 0, 1e6, whole=False)
    ] = None,
):
    """What a film takes, in GiB by cause, before any weights are loaded; refuses what cannot fit,
    with the numbers.

    Without --device and --host it is asked of this machine, with one of them of a machine of which
    only that is known.
    """
    import torch

    from cinelab.memory.policy import policy_named
    from cinelab.memory.store import Storage
    from cinelab.model.wan import WAN_1_3B, WAN_14B
    from cinelab.scale.acceleration import Speed
    from cinelab.weights.load import config_of
    from cinelab.zoo.footprint import FilmSpec, check_memory, footprint, free_bytes

    if chunks * chunk > LATENTS:
        raise CinelabError(
            f"--chunks {chunks} of --chunk {chunk} are {chunks * chunk} latent frames; a film has "
            f"at most {LATENTS}."
        )
    kept = Storage(place, packing)
    sizes = {"wan-1.3b": WAN_1_3B, "wan-14b": WAN_14B}
    Speed(linears=linears)
    rule = policy_named(policy, budget)
    config = sizes.get(model) or config_of(model)
    film = FilmSpec(
        size_of(size),
        chunks,
        chunk,
        rule.budget_at(chunks),
        (rule.summary or 32) if rule.routed else None,
        kept.place,
        kept.packing,
        kept.slots,
        linears,
        held=rule.held_at(chunks, config.num_attention_heads),
    )
    need = footprint(config, film)
    lines = [[what, f"{gib:.2f}", where, CAUSES.get(what, "")] for what, gib, where in need.lines()]
    show_table(
        ["what", "GiB", "where", "which is"],
        lines,
        f"{chunks} chunks of {chunk} latent frames at {size} under {policy}",
    )
    free = {
        "device": free_bytes("cuda" if torch.cuda.is_available() else "cpu"),
        "host": free_bytes("cpu"),
    }
    said = {
        name: int(gib * GIB)
        for name, gib in (("device", device), ("host", host))
        if gib is not None
    }
    # of another machine only what was said counts
    room = {name: said.get(name, ANY if said else free[name]) for name in free}
    check_memory(need, room["device"], room["host"], "This film")
    on = " and ".join(f"{gib / GIB:g} GiB of {name} memory" for name, gib in said.items())
    say((f"It fits {on}." if on else "It fits here.", "bold green"))
    for name, takes in (("device", need.device), ("host", need.stored * need.host)):
        if said and name not in said and takes:
            say(
                f"Of {name} memory it takes {takes / GIB:.1f} GiB ({free[name] / GIB:.1f} GiB are "
                f"free here; --{name} GIB says how much another "
                "machine has)."
            )


def clips(
    videos: Annotated[
        Path,
        typer.Argument(
            help="a folder of videos, or a .csv or .parquet table with a column `video`"
        ),
    ],
    store: Annotated[Path, typer.Argument(help="the folder for the encoded films")],
    model: Annotated[
        str, typer.Option(help="whose codec and text encoder: a diffusers folder of Wan, or toybox")
    ] = "toybox",
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="a field of DataConfig, such as cuts=given or shortest=3; repeat for more"
        ),
    ] = None,
    share: Annotated[
        str, typer.Option(help="of several workers on one store: mine/of, counted from 1")
    ] = "1/1",
    check: Annotated[
        bool, typer.Option("--verify", help="only read every shard against its checksum")
    ] = False,
):
    """Videos to training clips: shots found or read from lists, captioned, encoded once; a killed
    build goes on.

    A video that cannot be taken is named, the others are encoded, and the exit code is 1; so it is
    where nothing was kept.
    """
    from cinelab.config import override
    from cinelab.data import build, skipped, verify
    from cinelab.lab.training.video_data import parts_of
    from cinelab.script.yaml_text import parse_settings

    if check:
        broken = verify(store)
        words = ", ".join(map(str, broken)) + "; build again to make them anew"
        say(*[("broken: ", "red"), words] if broken else [("every shard is whole", "bold green")])
        raise typer.Exit(1 if broken else 0)
    mine, of = _share(share)
    settings = parse_settings(setting or [])
    parts, config = parts_of(model)
    config = override(config, settings)
    kept = None
    with progress("reading videos") as show:
        for step in build(videos, store, config, *parts, part=(mine, of), tell=show, begin=show):
            kept = (kept or 0) + step.films
            say(str(step))
    left = skipped(store)
    for row in left:
        say(("left out: ", "yellow"), str(row["why"]))
    unread = sum(row["left_out"] == "video" and row.get("failed", True) for row in left)
    if unread:
        say((f"{unread} video{'s' * (unread != 1)} could not be taken", "red"), ", as said above")
    if kept == 0:
        say(("no film was kept: ", "red"), str(store))
    else:
        say((str(store), "bold green"))
    if unread or kept == 0:
        raise typer.Exit(1)


def _share(text: str) -> tuple[int, int]:
    mine, slash, of = text.partition("/")
    known = text.isascii() and slash and mine.isdecimal() and of.isdecimal() and len(text) < 20
    if not (known and 1 <= int(mine) <= int(of) <= WORKERS):
        raise CinelabError(
            f"--share is {short(text)}; give mine/of, like 2/4 for the second of four workers, of "
            f"{WORKERS} at most."
        )
    return int(mine) - 1, int(of)


def train(
    run: Annotated[
        Path, typer.Argument(help="the run's description, YAML or JSON; see docs/scaling.md")
    ],
    processes: Annotated[
        int, number("processes that share the work, one a GPU of this machine", 1, WORKERS)
    ] = 1,
    every: Annotated[int, number("steps between two lines", 1, 10**9)] = 10,
):
    """Train a stage from one file, sharded over this machine's GPUs; interrupted it saves, started
    again it goes on."""
    from cinelab.jobs.job import load_job
    from cinelab.lab.training import launch
    from cinelab.lab.training.panel import watch

    job = load_job(run)
    say(
        (
            f"starting {processes} process{'es' * (processes > 1)}; the log is {job.run}/log.jsonl",
            "dim",
        )
    )
    seen = watch(launch.train(job, processes), job.config, every=every)
    say(
        (job.run, "bold green"),
        f": {len(seen)} steps" + (f", weights in {job.export}" if job.export else ""),
    )
    if job.export and (Path(job.export) / "config.json").exists():
        say(("next:", "dim"))
        say(next_line(job.export))
