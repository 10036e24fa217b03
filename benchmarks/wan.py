"""The papers' size with random weights: `python benchmarks/wan.py [--model wan-1.3b] [--mode
chunk-4step] [-o FILE]`.

On a GPU: frames per second, the first frame, the model's and the decoder's parts, memory, and
what a chunk costs after 5 to 200 others under every policy. On a CPU take --history 1 and few
repeats, or --model small.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import cinelab  # noqa: F401 - first, so that torch's threads sleep while they wait

# isort: split
import torch

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
from cinelab.files import plain_json, write_json
from cinelab.lab.wan_bench import random_codec
from cinelab.memory.store import PACKINGS, PLACES, Storage
from cinelab.ops.attention import KERNELS
from cinelab.scale.acceleration import FALLBACKS, LINEARS, SPEEDS, speed_named

SPEED_OPTIONS = ("kernel", "compiled", "linears", "graphs", "fallback")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=MODELS, default="wan-1.3b")
    parser.add_argument("--mode", choices=MODES, default="chunk-4step")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(480, 832), metavar=("HEIGHT", "WIDTH")
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
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bench = WanBench(
        options.model,
        options.mode,
        tuple(options.size),
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
        print(table.drop(columns=["device", "cores", "torch"]).round(4).to_string(index=False))
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
    print(table.drop(columns=["device", "cores", "torch"]).round(4).to_string(index=False))
    print(json.dumps({key: value for key, value in record.items() if key != "rows"}, indent=1))
    if options.output:
        write_json(options.output, plain_json(record))


if __name__ == "__main__":
    main()
