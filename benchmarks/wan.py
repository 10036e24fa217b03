"""How fast a model of the papers' size is here, with random weights.

    python benchmarks/wan.py --model wan-1.3b --mode chunk-4step -o FILE

On a GPU: frames per second, the first frame, the model's and the decoder's parts, memory, and
what a chunk costs after 5 to 200 others under every policy. On a CPU take --history 1 and few
repeats, or --model small.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import cinelab  # noqa: F401 - first, so that torch's threads sleep while they wait

# isort: split
import pandas as pd

from cinelab.bench.wan_options import measure_options
from cinelab.bench.wan_speed import (
    MODELS,
    MODES,
    Maker,
    WanBench,
    measure_chunks,
    overhead,
    overlap_rates,
)
from cinelab.cli.options import frame_size
from cinelab.devices import chosen_device
from cinelab.errors import CinelabError
from cinelab.files import plain_json, write_json
from cinelab.lab.wan_bench import random_codec
from cinelab.memory.store import PACKINGS, PLACES, Storage
from cinelab.ops.attention import KERNELS
from cinelab.printing import say, show_table
from cinelab.scale.acceleration import FALLBACKS, LINEARS, SPEEDS, speed_named

CHUNK_COLUMNS = {
    "policy": "policy",
    "history": "after",
    "first frame s": "first",
    "chunk s": "chunk s",
    "dit s": "levels",
    "memory s": "clean",
    "decode s": "decode",
    "frames/s": "frames/s",
    "frames/s, decode beside": "beside",
    "peak GiB": "GiB",
}
OPTION_COLUMNS = {
    "option": "option",
    "way": "way",
    "times as fast": "times",
    "chunk s": "chunk s",
    "plain s": "plain s",
    "history MiB": "MiB",
    "peak GiB": "GiB",
}
SPEED_OPTIONS = ("kernel", "compiled", "linears", "graphs", "fallback")


def main(words: list[str] | None = None) -> int:
    """Measure, and print what came out; the exit code is 2 with a sentence for bad input."""
    try:
        measure(arguments(words))
    except CinelabError as error:
        print(f"cinelab: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


def arguments(words: list[str] | None) -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=MODELS, default="wan-1.3b")
    parser.add_argument("--mode", choices=MODES, default="chunk-4step")
    parser.add_argument(
        "--size", nargs="+", default=["480x832"], metavar="SIDE", help="480x832, or 480 832"
    )
    parser.add_argument(
        "--layers", type=int, help="time so many and scale up, where all do not fit"
    )
    parser.add_argument("--policies", nargs="+", default=["camr", "window", "sink", "full"])
    parser.add_argument("--history", type=int, nargs="+", default=[5, 50, 200])
    parser.add_argument("--budget", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--speed", choices=SPEEDS, default="exact", help="what stands below goes before it"
    )
    parser.add_argument("--kernel", choices=KERNELS, default="auto")
    parser.add_argument("--linears", choices=LINEARS, default="full")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--graphs", action="store_true", help="replay later levels as CUDA graphs")
    parser.add_argument("--fallback", choices=FALLBACKS, default="none")
    parser.add_argument("--place", choices=PLACES, default="device")
    parser.add_argument("--packing", choices=PACKINGS, default="none")
    parser.add_argument(
        "--decoder", choices=("vae", "none"), default="vae", help="Wan2.1's, with random weights"
    )
    parser.add_argument(
        "--options",
        action="store_true",
        help="every option for speed and memory against the plain way, instead",
    )
    parser.add_argument("-o", "--output", type=Path, help="a .json file")
    return parser.parse_args(words)


def measure(options: argparse.Namespace) -> None:
    """Measure what the command line asks for, on the device that is chosen."""
    device = str(chosen_device())
    bench = WanBench(
        options.model,
        options.mode,
        frame_size("x".join(options.size)),
        options.layers,
        tuple(options.policies),
        options.budget,
        history=tuple(options.history),
        repeats=options.repeats,
        speed=speed_named(
            options.speed,
            **{name: getattr(options, name) for name in SPEED_OPTIONS},
        ),
        storage=Storage(options.place, options.packing),
    )
    if options.options:
        table = measure_options(
            bench, device, max(options.history), lambda text: print(text, flush=True)
        )
        show_rows(table, OPTION_COLUMNS, f"{bench.model}, {bench.mode}, on {device}, times as fast")
        if options.output:
            write_json(options.output, plain_json({"rows": table.to_dict("records")}))
        return
    decode = None
    if options.decoder == "vae":
        decode = random_codec(device, compiled=bench.speed.compiled).decode
    table = measure_chunks(bench, device, decode, lambda text: print(text, flush=True))
    record = {
        "speed": {"mode": bench.speed.mode, **asdict(bench.speed)},
        "rows": table.to_dict("records"),
        "overhead": overhead(table).to_dict("index"),
    }
    if decode:
        record["decoded"] = overlap_rates(Maker.of(bench, device), decode)
    show_rows(table, CHUNK_COLUMNS, f"{bench.model}, {bench.mode}, on {device}, seconds")
    for policy, figures in record["overhead"].items():
        for name, figure in figures.items():
            if figure == figure:  # a window has no overhead over itself
                say(f"{policy}, {name}: {figure:.3g}")
    for name, figure in record.get("decoded", {}).items():
        say(f"{name}: {figure:.3g}")
    if options.output:
        write_json(options.output, plain_json(record))


def show_rows(table: pd.DataFrame, columns: dict[str, str], title: str) -> None:
    """Print these columns of a table, each under a shorter name."""
    there = [name for name in columns if name in table]
    rows = [[shown(value) for value in row] for row in table[there].itertuples(index=False)]
    show_table([columns[name] for name in there], rows, title)


def shown(value: object) -> str:
    """Return a figure to three places; "" for what was not measured."""
    if isinstance(value, float):
        return "" if value != value else f"{value:.3g}" if value < 1000 else f"{value:.0f}"
    return str(value)


if __name__ == "__main__":
    raise SystemExit(main())
