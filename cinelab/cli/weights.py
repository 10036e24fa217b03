"""`cinelab convert`: Wan's weights in three layouts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cinelab.cli.options import number_option
from cinelab.cli.train import weights_line
from cinelab.errors import CinelabError
from cinelab.printing import say, show_table
from cinelab.progress import SHORT, progress

if TYPE_CHECKING:
    from cinelab.weights.load import Report

SHOWN = 12  # keys of a kind that are printed without --keys
GIB = 2**30

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
