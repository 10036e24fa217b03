"""`cinelab convert` and `plan`: Wan's weights in three layouts, and the memory of a film."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cinelab.cli.options import budget_option, frame_size, number_option
from cinelab.cli.train import weights_line
from cinelab.errors import CinelabError
from cinelab.limits import CHUNKS, LATENTS
from cinelab.printing import say, show_table
from cinelab.progress import SHORT, progress

if TYPE_CHECKING:
    from cinelab.memory.policy import Policy
    from cinelab.weights.load import Report
    from cinelab.zoo.footprint import FilmSpec, Footprint

SHOWN = 12  # keys of a kind that are printed without --keys
GIB = 2**30
ANY = 2**62  # bytes: room for anything
CAUSES = {
    "weights": "the model",
    "attended": "keys and values that a chunk attends to",
    "stored": "the KV cache of all chunks",
    "slots": "its pages on the device",
    "summaries": "what retrieval searches",
    "activations": "what a step computes",
}

Source = Annotated[
    Path,
    typer.Argument(
        help="a diffusers or original folder, a .safetensors, or a training checkpoint (.pt)"
    ),
]
Target = Annotated[
    Path | None,
    typer.Argument(help="a folder; a .pt file for training; none with --dry-run"),
]
Layout = Annotated[str, typer.Option(help="diffusers, wan (the original repository's) or training")]
Dtype = Annotated[str | None, typer.Option(help="fp32, bf16, fp16; default: what the source has")]
Part = Annotated[
    str,
    typer.Option(
        help="of a training checkpoint; auto = generator_ema if it is there, else generator"
    ),
]
LoraPath = Annotated[
    Path | None, typer.Option(help="a LoRA to merge: .safetensors, .pt or a peft folder")
]
LoraScale = Annotated[
    float | None,
    number_option(
        "in W + scale B A; default alpha / r, or 1 where the file states no alpha",
        -1e6,
        1e6,
        whole=False,
    ),
]
ShardGib = Annotated[
    float,
    number_option(
        "largest file, and about the memory that is used", above=0, most=1e6, whole=False
    ),
]
Keys = Annotated[bool, typer.Option("--keys", help="list every key")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="read names and shapes, write nothing")]


def convert_command(
    source: Source,
    target: Target = None,
    to: Layout = "diffusers",
    *,
    dtype: Dtype = None,
    part: Part = "auto",
    lora: LoraPath = None,
    lora_scale: LoraScale = None,
    shard_gib: ShardGib = 5.0,
    keys: Keys = False,
    dry_run: DryRun = False,
):
    """Convert Wan2.1 text-to-video weights between diffusers, the original repository and training
    checkpoints; also merge a LoRA."""
    from cinelab.weights.convert import convert_weights
    from cinelab.weights.load import open_weights

    if target is None and not dry_run:
        raise CinelabError(
            "No target was given; name where to write, or add --dry-run to read only."
        )
    report = open_weights(source, part, dtype, lora, lora_scale).report()
    if target is not None and report.whole and not dry_run:
        with progress(f"writing {target}", SHORT) as show:
            report = convert_weights(
                source,
                target,
                to,
                dtype=dtype,
                shard_gib=shard_gib,
                part=part,
                lora=lora,
                lora_scale=lora_scale,
                tell=show,
            )
    show_report(report, keys=keys)
    report.demand()
    if report.target and to != "training":
        say(("next:", "dim"))
        say(weights_line(report.target))


def show_report(report: "Report", *, keys: bool = False) -> None:
    """Print what became of every key, the first SHOWN of a kind unless all `keys` are wanted."""
    rows = _report_rows(report)
    bad = [what for what in ("missing", "unexpected", "other shape") if rows[what] != "0"]
    show_table(
        ["what", "found"],
        [[what, (found, "red") if what in bad else found] for what, found in rows.items()],
        str(report.source),
    )
    for what, names in _report_names(report, keys=keys).items():
        for name in names if keys else names[:SHOWN]:
            say((f"{what} ", "dim"), str(name))
        if not keys and len(names) > SHOWN:
            say((f"{what}: {len(names) - SHOWN} more; --keys lists all", "dim"))
    if report.target:
        say((str(report.target), "bold green"))


def _report_rows(report: "Report") -> dict[str, str]:
    config = report.config
    whole = "none, it is one set of weights"
    origin = "config.json" if report.has_config else "shapes"
    return {
        "layout": report.layout + (f" to {report.to}" if report.to else ""),
        "part": f"{report.part} (of {', '.join(report.parts)})" if report.part else whole,
        "size": f"{config.num_layers} layers, width {config.width}, "
        f"{config.num_attention_heads} heads, from {origin}",
        "mapped": str(len(report.mapped)),
        "missing": str(len(report.missing)),
        "unexpected": str(len(report.unexpected)),
        "other shape": str(len(report.wrong)),
        "dtype": ", ".join(
            f"{count} {found}" + (f" to {made}" if made != found else "")
            for (found, made), count in sorted(report.dtypes.items())
        ),
        "LoRA": str(report.lora or "none"),
        "GiB": f"{report.bytes / GIB:.3f}",
    }


def _report_names(report: "Report", *, keys: bool) -> dict[str, list[str]]:
    shapes = [f"{name}: {found}, expected {expected}" for name, found, expected in report.wrong]
    mapped = [f"{raw} -> {name}" for raw, name in report.mapped.items()]
    return {
        "mapped": mapped if keys else [],
        "missing": list(report.missing),
        "unexpected": list(report.unexpected),
        "other shape": shapes,
    }


PlannedModel = Annotated[str, typer.Option(help="wan-1.3b, wan-14b, or weights in any layout")]
Chunks = Annotated[int, number_option("chunks of the film", 1, CHUNKS)]
ChunkFrames = Annotated[int, number_option("latent frames a chunk", 1, LATENTS)]
Size = Annotated[str, typer.Option(help="height x width in pixels")]
PlannedPolicy = Annotated[
    str, typer.Option(help="camr, window, sink, shot_sink, full, or your own as module:Name")
]
PlannedBudget = Annotated[int, budget_option()]
Place = Annotated[str, typer.Option(help="where the KV cache is stored: device or host")]
Packing = Annotated[str, typer.Option(help="how the KV cache is stored: none, int8 or fp8")]
Linears = Annotated[
    str,
    typer.Option(help="numbers of the linear layers: full, fp8, fp8-weights or int8-weights"),
]
DeviceGib = Annotated[
    float | None,
    number_option(
        "GiB of the GPU of another machine; without --device and --host: what is free here",
        0,
        1e6,
        whole=False,
    ),
]
HostGib = Annotated[
    float | None, number_option("GiB of main memory of another machine", 0, 1e6, whole=False)
]


def plan_command(
    model: PlannedModel = "wan-1.3b",
    chunks: Chunks = 200,
    chunk: ChunkFrames = 3,
    *,
    size: Size = "480x832",
    policy: PlannedPolicy = "camr",
    budget: PlannedBudget = 6,
    place: Place = "device",
    packing: Packing = "none",
    linears: Linears = "full",
    device: DeviceGib = None,
    host: HostGib = None,
):
    """What a film takes, in GiB by cause, before any weights are loaded; refuses what cannot fit,
    with the numbers.

    Without --device and --host the film is checked against this machine, with one of them against
    a machine of which only that is known.
    """
    from cinelab.memory.policy_registry import policy_named
    from cinelab.memory.store import Storage
    from cinelab.scale.acceleration import Speed
    from cinelab.zoo.footprint import footprint

    if chunks * chunk > LATENTS:
        raise CinelabError(
            f"--chunks {chunks} of --chunk {chunk} are {chunks * chunk} latent frames; a film has "
            f"at most {LATENTS}."
        )
    storage = Storage(place, packing)
    Speed(linears=linears, compiled=True)  # refuses unknown names
    rule = policy_named(policy, budget)
    config = _model_config(model)
    film = _planned_film(
        frame_size(size),
        chunks,
        chunk,
        rule=rule,
        storage=storage,
        linears=linears,
        heads=config.num_attention_heads,
    )
    need = footprint(config, film)
    show_table(
        ["what", "GiB", "where", "which is"],
        [[what, f"{gib:.2f}", where, CAUSES.get(what, "")] for what, gib, where in need.lines()],
        f"{chunks} chunks of {chunk} latent frames at {size} under {policy}",
    )
    _check_room(need, {"device": device, "host": host})


def _model_config(model: str):
    from cinelab.model.wan import WAN_1_3B, WAN_14B
    from cinelab.weights.load import config_of

    return {"wan-1.3b": WAN_1_3B, "wan-14b": WAN_14B}.get(model) or config_of(model)


def _planned_film(
    size: tuple[int, int],
    chunks: int,
    chunk: int,
    *,
    rule: "Policy",
    storage,
    linears: str,
    heads: int,
) -> "FilmSpec":
    from cinelab.zoo.footprint import FilmSpec

    return FilmSpec(
        size=size,
        chunks=chunks,
        chunk=chunk,
        seen=rule.budget_at(chunks),
        summary=(rule.summary or 32) if rule.routed else None,
        place=storage.place,
        packing=storage.packing,
        slots=storage.slots,
        linears=linears,
        held=rule.held_at(chunks, heads),
    )


def _check_room(need: "Footprint", stated: dict[str, float | None]) -> None:
    """Refuse a film that does not fit the memory `stated` in GiB, else that of this machine."""
    from cinelab.devices import chosen_device
    from cinelab.zoo.footprint import check_memory, free_bytes

    free = {
        "device": free_bytes(chosen_device()),
        "host": free_bytes("cpu"),
    }
    given = {name: int(gib * GIB) for name, gib in stated.items() if gib is not None}
    # where another machine is described, only what is stated of it can refuse
    room = {name: given.get(name, ANY if given else free[name]) for name in free}
    check_memory(need, room["device"], room["host"], "This film")
    on = " and ".join(f"{gib / GIB:g} GiB of {name} memory" for name, gib in given.items())
    say((f"It fits {on}." if on else "It fits here.", "bold green"))
    for name, takes in (("device", need.device), ("host", need.stored * need.host)):
        if given and name not in given and takes:
            say(
                f"Of {name} memory it takes {takes / GIB:.1f} GiB ({free[name] / GIB:.1f} GiB are "
                f"free here; --{name} GIB states how much another machine has)."
            )
