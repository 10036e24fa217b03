"""The modes exact, compiled and fast, and every single option against the plain way.

Frames a second are of the memory that CausalCine streams with (arXiv 2605.12496: 17 latent frames
in view), in the nearest whole pages: five pages and the chunk, 18 latent frames.
"""

from collections.abc import Callable
from dataclasses import replace

from benchmarks.gpu_bench.codecs import decoders
from benchmarks.gpu_bench.one import Task
from benchmarks.gpu_bench.speed import asks, chunk
from benchmarks.gpu_bench.speeds import speeds
from cinelab.bench.wan_options import measure_options
from cinelab.bench.wan_speed import MODES, Maker, overlap_rates

PAPER = 5  # pages
WANTED_SECONDS = {"compiled": 0.37, "fast": 0.30}  # of a chunk with seven chunks in view
WANTED_RATES = {  # frames a second, by levels, mode and decoder
    ("chunk-4step", "compiled", "taehv"): 35,
    ("chunk-4step", "compiled", "vae"): 25,
    ("chunk-4step", "fast", "taehv"): 50,
    ("chunk-2step", "fast", "taehv"): 55,
}


def run(task: Task) -> None:
    """Record the modes first, then the options."""
    for mode, speed in speeds().items():
        for bench in (task.sizes.chunkwise, task.sizes.framewise):
            with task.rows.trying(f"mode {mode}, {bench.mode}"):
                one_mode(task, Maker.of(replace(bench, speed=speed), task.device), mode)
    with task.rows.trying("options"):
        single(task)


def one_mode(task: Task, maker: Maker, mode: str) -> None:
    """Record a chunk under CAMR and under full attention, and the rates of a running film."""
    bench = maker.bench
    for policy in ("camr", "full"):
        wanted = WANTED_SECONDS.get(kind_of(mode)) if bench.mode == "chunk-4step" else None
        chunk(task, maker, policy, bench.history[0], mode=mode, wanted=wanted)
    if bench.mode == "chunk-4step":
        for levels in ("chunk-4step", "chunk-2step"):
            rates(task, other_levels(maker, levels), mode)


def kind_of(mode: str) -> str:
    """Return exact, compiled or fast."""
    return mode.partition(",")[0]


def other_levels(maker: Maker, levels: str) -> Maker:
    """Return a maker with the same weights, other levels, and the paper's budget."""
    bench = replace(maker.bench, mode=levels, budget=PAPER)
    return replace(maker, bench=bench, model=replace(maker.model, sampling=MODES[levels][1]))


def rates(task: Task, maker: Maker, mode: str) -> None:
    """Record frames a second of a running film with each decoder beside it."""
    bench = maker.bench
    compiled = bench.speed.compiled
    for name, codec in decoders(task.device, small=task.rehearsed, compiled=compiled).items():
        label = f"{bench.mode} camr, {3 * (PAPER + 1)} latent frames in view, {mode}, {name}"
        with task.rows.trying(label):
            found = overlap_rates(maker, codec.decode)["at once"]
            about = asks(bench, "camr", PAPER, mode) | {"decoder": name, "beside": True}
            wanted = WANTED_RATES.get((bench.mode, kind_of(mode), name))
            task.rows.note(f"{label}, at once", found, "frames/s", asks=about, wanted=wanted)


def single(task: Task) -> None:
    """Record how many times as fast as the plain way each option is, between two turns of that."""
    bench = replace(task.sizes.chunkwise, repeats=1 if task.rehearsed else 2)
    measure_options(bench, task.device, bench.history[0], noting(task))


def noting(task: Task) -> Callable[[str], None]:
    """Return what records each option as soon as it was measured: its line is NAME: N times as
    fast."""

    def note(line: str) -> None:
        name, _, rest = line.rpartition(": ")
        task.rows.note(f"option: {name}", float(rest.split()[0]), "times as fast")

    return note
