"""The first frame of a film: cold, the first that a process makes, and warm."""

import time

import torch

from benchmarks.gpu_bench.codecs import decoders
from benchmarks.gpu_bench.one import Task
from benchmarks.gpu_bench.speed import asks
from cinelab.bench.wan_speed import Maker, WanBench, decode_seconds, random_history


def run(task: Task) -> None:
    """Record seconds from a request to its first frame, by mode and decoder."""
    for bench in (task.sizes.framewise, task.sizes.chunkwise):
        with task.rows.trying(f"first frame, {bench.mode}"):
            maker = Maker.of(bench, task.device)
            for name, codec in decoders(task.device, small=task.rehearsed).items():
                cold, *warm = (first(maker, bench, codec, task.device) for _ in range(4))
                about = asks(bench, "camr", 0, "exact") | {"decoder": name, "first": True}
                label = f"first frame, {bench.model} {bench.mode}, {name}"
                task.rows.note(f"{label}, cold", cold, "s")
                wanted = {"wanted": 0.15} if bench.mode == "frame-2step" else {}
                task.rows.note(f"{label}, warm", sorted(warm)[1], "s", asks=about, **wanted)


@torch.no_grad()
def first(maker: Maker, bench: WanBench, codec, device: str) -> float:
    """Return the seconds of a first chunk's denoising and of decoding its first latent frame."""
    cache = random_history(bench, bench.policy("camr"), 0, device)
    began = time.perf_counter()
    made, _ = maker.chunk(cache, wait=True)
    decode_seconds(codec.decode, made.latents[:, :1], None, device)
    return time.perf_counter() - began
