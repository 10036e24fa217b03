"""`cinelab convert`: Wan weights from any published layout into any other."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cinelab.errors import CinelabError

out = Console()
SHOWN = 12  # keys of a kind, unless all are asked for
GIB = 2**30


def convert(source: Annotated[Path, typer.Argument(help="a diffusers or original folder, a .safetensors, or a training checkpoint (.pt)")],
            target: Annotated[Path | None, typer.Argument(help="a folder; a .pt file for training; none with --dry-run")] = None,
            to: Annotated[str, typer.Option(help="diffusers, wan (the original repository's) or training")] = "diffusers",
            dtype: Annotated[str | None, typer.Option(help="fp32, bf16, fp16; default: what the source has")] = None,
            part: Annotated[str, typer.Option(help="of a training checkpoint; auto = generator_ema if it is there, else generator")] = "auto",
            lora: Annotated[Path | None, typer.Option(help="a LoRA to merge: .safetensors, .pt or a peft folder")] = None,
            lora_scale: Annotated[float | None, typer.Option(help="in W + scale B A; default alpha / r, or 1 where no alpha is said")] = None,
            shard_gib: Annotated[float, typer.Option(help="largest file, and about the memory that is used")] = 5.0,
            keys: Annotated[bool, typer.Option("--keys", help="list every key")] = False,
            dry_run: Annotated[bool, typer.Option("--dry-run", help="read names and shapes, write nothing")] = False):
    """Convert Wan2.1 text-to-video weights between diffusers, the original repository and training checkpoints; also merge a LoRA."""
    from cinelab.model.convert import convert as run
    from cinelab.model.weights import open_weights

    if target is None and not dry_run:
        raise CinelabError("No target was given; name where to write, or say --dry-run to only look.")
    report = open_weights(source, part, dtype, lora, lora_scale).report()
    if report.whole and not dry_run:
        with out.status(f"writing {target}"):
            report = run(source, target, to, dtype, shard_gib, part, lora, lora_scale)
    show(report, keys)
    report.demand()


def show(report, keys: bool = False) -> None:
    """A `cinelab.model.weights.Report` as a table."""
    config, table = report.config, Table("what", "found", title=report.source, title_justify="left")
    part = f"{report.part} (of {', '.join(report.parts)})" if report.part else "none, it is one set of weights"
    size = f"{config.num_layers} layers, width {config.width}, {config.num_attention_heads} heads, from {'config.json' if report.said else 'shapes'}"
    dtypes = ", ".join(f"{count} {found}" + (f" to {made}" if made != found else "") for (found, made), count in sorted(report.dtypes.items()))
    rows = {"layout": report.layout + (f" to {report.to}" if report.to else ""), "part": part, "size": size, "mapped": str(len(report.mapped)),
            "missing": str(len(report.missing)), "unexpected": str(len(report.unexpected)), "other shape": str(len(report.wrong)),
            "dtype": dtypes, "LoRA": report.lora or "none", "GiB": f"{report.bytes / GIB:.3f}"}
    for what, found in rows.items():
        bad = what in ("missing", "unexpected", "other shape") and found != "0"
        table.add_row(what, f"[red]{escape(found)}[/]" if bad else escape(found))
    out.print(table)
    shapes = [f"{name}: {found}, expected {expected}" for name, found, expected in report.wrong]
    mapped = [f"{raw} -> {name}" for raw, name in report.mapped.items()] if keys else []
    for what, names in {"mapped": mapped, "missing": report.missing, "unexpected": report.unexpected, "other shape": shapes}.items():
        for name in names if keys else names[:SHOWN]:
            _say(f"[dim]{what}[/] {escape(name)}")
        if not keys and len(names) > SHOWN:
            _say(f"[dim]{what}: {len(names) - SHOWN} more; --keys lists all[/]")
    if report.target:
        _say(f"[bold green]{escape(report.target)}[/]")


def _say(text: str) -> None:
    out.print(text, soft_wrap=True, highlight=False)
