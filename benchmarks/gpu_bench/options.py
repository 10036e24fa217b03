"""The modes exact, compiled and fast, and every single option against the plain way."""

from dataclasses import replace

from benchmarks.gpu_bench.codecs import decoders
from benchmarks.gpu_bench.one import Task
from benchmarks.gpu_bench.record import release
from benchmarks.gpu_bench.speed import chunk
from benchmarks.gpu_bench.speeds import speeds
from cinelab.bench.wan_options import measure_options
from cinelab.bench.wan_speed import Maker, overlap_rates


def run(task: Task) -> None:
    """Record the modes first, then the options."""
    for name, speed in speeds().items():
        for bench in (task.sizes.chunkwise, task.sizes.framewise):
            with task.rows.trying(f"mode {name}, {bench.mode}"):
                maker = Maker.of(replace(bench, speed=speed), task.device)
                for policy in ("camr", "full"):
                    chunk(task, maker, policy, bench.history[0], mode=name)
                rates(task, maker, name)
                del maker
        release()
    with task.rows.trying("options"):
        single(task)


def rates(task: Task, maker: Maker, mode: str) -> None:
    """Record frames a second of a running film with each decoder beside it."""
    if task.rehearsed:
        return
    for name, codec in decoders(task.device).items():
        found = overlap_rates(maker, codec.decode)["at once"]
        bench = maker.bench
        label = f"{bench.model} {bench.mode} camr, {mode}, {name}, at once"
        task.rows.note(label, found, "frames/s")


def single(task: Task) -> None:
    """Record how many times as fast as the plain way each option is, between two turns of that."""
    bench = replace(task.sizes.chunkwise, repeats=1 if task.rehearsed else 2)
    table = measure_options(bench, task.device, bench.history[0], _print_line)
    for row in table.to_dict("records"):
        name = f"option: {row['option']}"
        task.rows.note(name, row["times as fast"], "times", seconds=row["chunk s"])


def _print_line(text: str) -> None:
    print(text, flush=True)
