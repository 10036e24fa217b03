"""Chunks at the papers' size with random weights: policies, histories, decoders.

Seconds a chunk are denoising and clean pass. A decoder is timed apart (`decode s`) and beside the
model (`frames/s`, the decoder on its own stream), so that no sum hides what is on the critical
path.
"""

from dataclasses import replace
from typing import Any

import torch

from benchmarks.gpu_bench.codecs import decoders
from benchmarks.gpu_bench.one import Task
from cinelab.bench.wan_speed import (
    STRIDE,
    Maker,
    WanBench,
    decode_seconds,
    later_chunk,
    overlap_rates,
)
from cinelab.memory.policy_registry import name_of
from cinelab.zoo import footprint


def run(task: Task) -> None:
    """Record chunk-wise and frame-wise chunks, late chunks, and what decoding adds."""
    for bench in (task.sizes.chunkwise, task.sizes.framewise):
        with task.rows.trying(f"{bench.model} {bench.mode}"):
            maker = Maker.of(bench, task.device)
            for history in bench.history:
                times = {name: chunk(task, maker, name, history) for name in bench.policies}
                overhead(task, bench, history, times)
            decoded(task, maker)
            del maker
    with task.rows.trying("late chunks"):
        late(task)


def chunk(
    task: Task,
    maker: Maker,
    policy: str,
    history: int,
    *,
    mode: str = "exact",
    wanted: float | None = None,
) -> float | None:
    """Record and return the seconds of a chunk after `history` others, or a sentence where it does
    not fit."""
    bench = maker.bench
    layers = "" if bench.scaled == 1 else f", {bench.config.num_layers} layers scaled up"
    name = f"{bench.model} {bench.mode} {policy}, {history} before, {mode}{layers}"
    with task.rows.trying(name):
        check_room(bench, history, policy, device=task.device, what=name)
        # every chunk that is timed is appended: the median one has `history` others before it
        row = later_chunk(maker, policy, max(0, history - (bench.repeats + 1) // 2), None)
        more: dict[str, Any] = {key: row[key] for key in ("dit s", "memory s", "peak GiB")}
        more["planned GiB"] = row["planned GiB"]
        about = asks(bench, policy, history, mode)
        task.rows.note(name, row["chunk s"], "s", asks=about, wanted=wanted, **more)
        return row["chunk s"]
    return None


def overhead(task: Task, bench: WanBench, history: int, times: dict) -> None:
    """Record what CAMR's choice costs over a window with as much in view."""
    if times.get("camr") and times.get("window"):
        percent = 100 * (times["camr"] / times["window"] - 1)
        name = f"{bench.mode}, {history} before: camr over window"
        task.rows.note(name, percent, "percent", wanted=3)


def check_room(bench: WanBench, history: int, policy: str, *, device: str, what: str) -> None:
    """Raise CinelabError with the numbers where the plan says that a chunk does not fit. The
    model's weights are there already."""
    need = replace(bench.need(history + bench.repeats + 1, policy), weights=0)
    footprint.require_room(need, what, device)


def asks(bench: WanBench, policy: str, history: int, mode: str) -> dict:
    """Return what the ledger needs to predict a chunk."""
    return {
        "model": bench.model,
        "mode": bench.mode,
        "policy": name_of(bench.policy(policy)),
        "budget": bench.budget,
        "history": history,
        "speed": mode,
    }


def late(task: Task) -> None:
    """Record the last chunk over an early one, with as many layers as a late history leaves room
    for."""
    sizes = task.sizes
    maker = Maker.of(replace(sizes.chunkwise, layers=sizes.late_layers), task.device)
    early, last = sizes.late
    for policy in ("camr", "window", "sink"):
        times = [chunk(task, maker, policy, history) for history in (early, last)]
        before, after = times
        if before and after:
            name = f"{policy}: chunk {last} over chunk {early}"
            task.rows.note(name, after / before, "times", wanted=1.03)


def decoded(task: Task, maker: Maker) -> None:
    """Record each decoder apart, and the rate of a running film decoded after and beside."""
    for name, codec in decoders(task.device, small=task.rehearsed).items():
        with task.rows.trying(f"{name} beside {maker.bench.mode}"):
            apart(task, maker.bench, name, codec)
            if task.rehearsed:
                continue
            rates = overlap_rates(maker, codec.decode)
            about = asks(maker.bench, "camr", maker.bench.budget, "exact") | {"decoder": name}
            label = f"{maker.bench.model} {maker.bench.mode} camr, exact, {name}"
            for way in ("one after the other", "at once"):
                more = about | {"beside": way == "at once"}
                task.rows.note(f"{label}, {way}", rates[way], "frames/s", asks=more)


def apart(task: Task, bench: WanBench, name: str, codec: Any) -> None:
    """Record the seconds of decoding a chunk within a film, and those of the film's first latent
    frame."""
    latents = torch.randn(1, bench.chunk, *bench.latent, device=task.device)
    firsts = [decode_seconds(codec.decode, latents[:, :1], None, task.device) for _ in range(3)]
    state = firsts[-1][1]
    times = [decode_seconds(codec.decode, latents, state, task.device)[0] for _ in range(4)]
    about = {"decoder": name, "mode": bench.mode, "model": bench.model}
    frames = f"{bench.chunk * STRIDE} frames"
    task.rows.note(f"{name}, {frames}", sorted(times[1:])[1], "s", asks=about | {"alone": True})
    task.rows.note(f"{name}, first frame ({bench.mode})", firsts[-1][0], "s")
