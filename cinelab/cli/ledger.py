"""`cinelab ledger`: what a chunk costs a GPU, and how fast five cards would be, without a GPU."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cinelab.cli.options import (
    POLICIES,
    Budget,
    frame_size,
    number_option,
    output_option,
)
from cinelab.errors import CinelabError
from cinelab.limits import CHUNKS
from cinelab.printing import say, show_table
from cinelab.progress import SHORT, progress

if TYPE_CHECKING:
    from cinelab.bench.ledger_report import LedgerReport
    from cinelab.scale.ceilings import Card
    from cinelab.scale.ledger import Prediction

GIB = 2**30
WIDTH = 65  # characters of a line beside its name

WanName = Annotated[str, typer.Option(help="wan-1.3b or wan-14b")]
Mode = Annotated[str, typer.Option(help="chunk-4step, chunk-2step, frame-2step or frame-1step")]
PolicyName = Annotated[str, typer.Option(help=POLICIES)]
History = Annotated[int, number_option("chunks that are made before it", 0, CHUNKS)]
CardName = Annotated[str, typer.Option(help="H100, H200, B200, RTX 4090 or RTX 5090")]
SpeedName = Annotated[str, typer.Option(help="exact, compiled or fast")]
Decoder = Annotated[str, typer.Option(help="none, vae or taehv")]
Size = Annotated[str, typer.Option(help="height x width in pixels")]
Compare = Annotated[bool, typer.Option("--compare", help="every option and every card")]
RecordFile = Annotated[Path | None, output_option("a .json file with the counts")]


def ledger_command(
    model: WanName = "wan-1.3b",
    mode: Mode = "chunk-4step",
    policy: PolicyName = "camr",
    *,
    budget: Budget = 6,
    history: History = 20,
    size: Size = "480x832",
    card: CardName = "H100",
    speed: SpeedName = "exact",
    decoder: Decoder = "none",
    compare: Compare = False,
    output: RecordFile = None,
):
    """What a chunk costs a GPU, counted without one: launches, arithmetic, bytes and predicted
    milliseconds by kind, and what bounds them."""
    from cinelab.bench.ledger_report import LedgerReport, compare_options
    from cinelab.bench.wan_speed import WanBench
    from cinelab.files import write_json
    from cinelab.outputs import writing_file
    from cinelab.scale.acceleration import speed_named
    from cinelab.scale.ceilings import card_named

    bench = WanBench(model, mode, frame_size(size), budget=budget, speed=speed_named(speed))
    report = LedgerReport(bench, card_named(card), policy, history, decoder)
    if output is not None and output.suffix != ".json":
        raise CinelabError(f"--output is {output}; its name must end in .json.")
    with progress("counting a chunk", SHORT):
        record = report.record()
    _show_lines(report, report.on(report.card))
    _show_totals(report, record)
    if compare:
        with progress("counting the options", SHORT) as show:
            record["options"] = list(compare_options(report, show))
        _show_options(report, record["options"])
        _show_cards(record)
    say(("Predicted by counting at a card's ceilings, not measured; see docs/ledger.md.", "dim"))
    if output is not None:
        with writing_file(output, (".json",)):
            write_json(output, record)
        say((str(output), "bold green"))


def _show_lines(report: "LedgerReport", found: "Prediction") -> None:
    """Print a row a kind: launches, arithmetic, bytes, milliseconds, and what bounds them."""
    rows = [
        [
            line.kind,
            f"{line.launches:,}",
            f"{line.flops / 1e12:.2f}" if line.flops else "",
            f"{line.bytes / 1e9:.1f}",
            f"{1e3 * line.seconds:,.1f}",
            line.bound,
        ]
        for line in found.lines
    ]
    title = (
        f"{report.bench.model}, {report.bench.mode}, {report.policy}, {report.history} chunks "
        f"before, {report.speed}, {report.card.name}: predicted"
    )
    show_table(["kind", "launches", "TFLOP", "GB", "ms", "bound by"], rows, title)


def _show_totals(report: "LedgerReport", record: dict) -> None:
    """Print the clock, the roofline, the floor, the crossings, memory and frames per second."""
    counts = report.counts
    card = report.card
    ridge = card.matmul / card.bandwidth
    flops = counts.flops
    rate, *decoded = record["cards"][card.name].items()
    rates = "; ".join([f"{rate[1]:.1f}", *(f"{value:.1f} {name}" for name, value in decoded)])
    most, *causes = memory_lines(record["peak"], card)
    for name, text in (
        (
            "clock",
            f"{1e3 * record['clock']:,.0f} ms, of which the GPU works "
            f"{1e3 * record['busy']:,.0f}; bound by {record['bound']}",
        ),
        (
            "roofline",
            f"{flops / counts.moved:,.0f} FLOP a byte where the ridge is {ridge:.0f}; "
            f"{flops / record['clock'] / 1e12:.0f} TFLOP/s",
        ),
        ("floor", f"{1e3 * record['floor']:,.0f} ms: attention, products and fused elementwise"),
        (
            "host",
            f"{record['waits']} waits, {record['uploads']} copies to the GPU, "
            f"{record['launches']:,} launches",
        ),
        ("first chunk", f"{record['first chunk']:.3f} s"),
        ("memory", most),
        *(("", line) for line in causes),
        ("frames/s", rates),
    ):
        say((f"{name.rjust(11)}  ", "bold"), text)


def memory_lines(peak: dict[str, int], card: "Card") -> list[str]:
    """Return the most bytes at once in GiB, whether a card has them, and on lines of their own the
    bytes by cause."""
    from cinelab.zoo.footprint import usable

    most = sum(peak.values())
    over = f", more than the {card.name} has" if most > usable(int(card.memory)) else ""
    causes = ", ".join(f"{cause} {size / GIB:.1f}" for cause, size in peak.items())
    return [f"{most / GIB:.1f} GiB at most{over}:", *textwrap.wrap(causes, WIDTH)]


def _show_options(report: "LedgerReport", options: list[dict]) -> None:
    """Print a row an option."""
    rows = [
        [
            row["way"],
            f"{row['launches']:,}",
            str(row["waits"]),
            f"{row['GB']:.0f}",
            f"{row['ms']:,.0f}",
            f"{row['times as fast']:.2f}",
        ]
        for row in options
    ]
    columns = ["way", "launches", "waits", "GB", "ms", "times as fast"]
    show_table(columns, rows, f"Options on {report.card.name}: predicted")


def _show_cards(record: dict) -> None:
    """Print frames per second, a row a card."""
    names = list(next(iter(record["cards"].values())))
    rows = [
        [card, *(f"{rates[name]:.1f}" for name in names)] for card, rates in record["cards"].items()
    ]
    show_table(
        ["card", *names], rows, f"Five cards, {record['speed']}, frames per second: predicted"
    )
