"""The kernels of a chunk under CAMR: exact and compiled."""

from collections import defaultdict
from dataclasses import replace

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu_bench.one import Task
from benchmarks.gpu_bench.speed import asks
from benchmarks.gpu_bench.speeds import speeds
from cinelab.bench.wan_speed import Maker, random_history

TOP = 25
WARM = 2
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
COPIES = ("cudaMemcpyAsync", "cudaMemcpy")


def run(task: Task) -> None:
    """Record launches, waits and the top kernels of each mode."""
    for mode in ("exact", "compiled"):
        with task.rows.trying(f"profile, {mode}"):
            bench = replace(task.sizes.chunkwise, speed=speeds()[mode])
            one_chunk(task, Maker.of(bench, task.device), mode)


def one_chunk(task: Task, maker: Maker, mode: str) -> None:
    """Profile a chunk, after two others that compile and allocate and are among those before."""
    bench = maker.bench
    history = bench.history[0]
    cache = random_history(bench, bench.policy("camr"), history - WARM, maker.device)
    for _ in range(WARM):
        maker.chunk(cache)
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (task.device == "cuda")
    with profile(activities=kinds) as found:
        maker.chunk(cache)
    about = asks(bench, "camr", history, mode)
    for name, (value, unit) in summary(found, task.device).items():
        task.rows.note(f"profile, {mode}: {name}", value, unit, asks=about | {"of": name})
    for name, (count, ms) in top(found, task.device).items():
        task.rows.note(f"profile, {mode}: kernel {name}", ms, "ms", launches=count)
    if task.device == "cuda":
        found.export_chrome_trace(str(task.work / f"trace-{mode}.json.gz"))


def summary(found: profile, device: str) -> dict[str, tuple[float, str]]:
    """Return launches, milliseconds of kernels, waits of the host and copies of a chunk."""
    counts = {event.key: event.count for event in found.key_averages()}
    kernels = [event for event in found.events() if _on(event, device)]
    spent = sum(event.time_range.elapsed_us() for event in kernels) / 1000
    return {
        "kernel launches": (sum(counts.get(name, 0) for name in LAUNCHES), ""),
        "kernels": (spent, "ms"),
        "host synchronisations": (sum(counts.get(name, 0) for name in WAITS), ""),
        "copies": (sum(counts.get(name, 0) for name in COPIES), ""),
    }


def top(found: profile, device: str) -> dict[str, tuple[int, float]]:
    """Return launches and milliseconds of the kernels that take most."""
    times: dict[str, list[float]] = defaultdict(list)
    for event in found.events():
        if _on(event, device):
            times[event.name[:120]].append(event.time_range.elapsed_us() / 1000)
    order = sorted(times, key=lambda name: -sum(times[name]))[:TOP]
    return {name: (len(times[name]), sum(times[name])) for name in order}


def _on(event, device: str) -> bool:
    kind = torch.autograd.DeviceType.CUDA if device == "cuda" else torch.autograd.DeviceType.CPU
    return event.device_type == kind
