"""Runs of the real code at the papers' size on `meta` tensors, for the ledger: no GPU, no memory.

    counts = chunk_counts(WanBench("wan-1.3b", "chunk-4step"), "camr", history=6)
    predict_seconds(counts, card_named("H100"))

Runs of two and of three layers are traced and scaled to all (`cinelab.scale.ledger.Counts`).
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar
from unittest.mock import patch

import torch
from torch import Tensor

from cinelab.bench.wan_speed import CHANNELS, SCALE, Maker, WanBench, random_history
from cinelab.memory.store import DeviceKVStore
from cinelab.scale.acceleration import compile_blocks
from cinelab.scale.ledger import Counts, Trace
from cinelab.scale.ledger_memory import LiveBytes
from cinelab.scale.ledger_mode import OpRecording, counted_compilation

DEVICE = "meta"
DECODERS = ("none", "vae", "taehv")
DECODING = ("decoder", "decoder's past", "decoding")  # causes of a decoder's bytes
Found = TypeVar("Found")


def traced(run: Callable[[], object], words: int = 512) -> Trace:
    """Return the trace of a run; keys of `words` tokens are a prompt's."""
    with torch.no_grad(), OpRecording(words) as recording:
        run()
    return Trace(recording.ops, tuple(recording.events))


def chunk_counts(bench: WanBench, policy: str, history: int, *, made: int = 0) -> Counts:
    """Return the counts of one chunk, its clean pass included, after `history` others that are
    not made and `made` ones that are."""

    def run(layers: int) -> Trace:
        return chunk_trace(replace(bench, layers=layers), policy, history, made=made)

    return Counts(*shallow_and_deep(run), bench.config.num_layers)


def shallow_and_deep(run: Callable[[int], Found]) -> tuple[Found, Found]:
    """Return what a run with two layers gives, and with three."""
    run(1)  # what is computed once a process, such as RoPE's rotations, is not counted
    return run(2), run(3)


def chunk_trace(bench: WanBench, policy: str, history: int, *, made: int = 0) -> Trace:
    """Return the trace of one chunk with the bench's own layers."""
    maker = meta_maker(bench)
    cache = random_history(bench, bench.policy(policy), history, DEVICE)
    for _ in range(made):
        maker.chunk(cache)
    return traced(lambda: maker.chunk(cache), bench.words)


def meta_maker(bench: WanBench) -> Maker:
    """Return a maker of chunks on `meta`; what is compiled is counted as if it were."""
    with counted_compilation():
        maker = Maker.of(bench, DEVICE)
        net: Any = maker.model.net
        if bench.speed.compiled:
            compile_blocks(net)  # a model on `meta` is not compiled by `accelerate`
        return maker


def first_chunk_counts(bench: WanBench) -> Counts:
    """Return the counts of a film's first chunk up to its latents, which is shown before its clean
    pass."""
    found = shallow_and_deep(lambda layers: first_chunk_trace(replace(bench, layers=layers)))
    return Counts(*found, bench.config.num_layers)


def first_chunk_trace(bench: WanBench) -> Trace:
    """Return the trace of a film's first chunk with the bench's own layers."""
    maker = meta_maker(bench)
    cache = random_history(bench, bench.policy("camr"), 0, DEVICE)
    return traced(lambda: maker.chunk(cache, wait=True), bench.words)


def decode_counts(
    decoder: str, frames: int = 3, size: tuple[int, int] = (480, 832), *, first: bool = False
) -> Counts:
    """Return the counts of decoding so many latent frames in the middle of a film, or at its
    beginning where they are its `first`, in bfloat16."""
    codec = _codec(decoder)
    latents = _latents(frames, size)
    if first:
        return Counts(traced(lambda: codec.decode(latents, None)))
    with torch.no_grad():
        _, state = codec.decode(latents[:, :1], None)
    return Counts(traced(lambda: codec.decode(latents, state)))


def peak_bytes(
    bench: WanBench, policy: str, history: int, *, decoder: str = "none", beside: bool = False
) -> dict[str, int]:
    """Return the most bytes on the GPU by cause, while a chunk is made after `history` others and
    decoded.

    The decoder works after the chunk, or with `beside` at the same time.
    """
    shallow, deep = shallow_and_deep(
        lambda layers: _peaks(replace(bench, layers=layers), policy, history, decoder)
    )
    more = bench.config.num_layers - 2
    chunk, decoding = (
        {cause: few[cause] + more * (many[cause] - few[cause]) for cause in many}
        for few, many in zip(shallow, deep, strict=True)
    )
    own = {cause: size for cause, size in decoding.items() if cause in DECODING}
    if beside:
        return chunk | own
    return max(chunk, decoding, key=lambda peak: sum(peak.values()))


def _peaks(
    bench: WanBench, policy: str, history: int, decoder: str
) -> tuple[Counter[str], Counter[str]]:
    """Return the most bytes by cause of the chunk, and of decoding it."""
    memory = LiveBytes()
    with torch.no_grad(), OpRecording(bench.words, memory), _grown_history(memory):
        with memory.because("weights"):
            maker = meta_maker(bench)
        with memory.because("history"):
            cache = random_history(bench, bench.policy(policy), history, DEVICE)
        with memory.because("decoder"):
            codec = None if decoder == "none" else _codec(decoder)
        if codec is not None:
            with memory.because("decoder's past"):
                # one latent frame after the first, as only then it is as large as it gets
                _, past = codec.decode(_latents(1, bench.size), None)
                _, past = codec.decode(_latents(1, bench.size), past)
        memory.forget_peak()
        made, _ = maker.chunk(cache)
        chunk = memory.most
        latents = made.latents
        del made
        memory.forget_peak()
        if codec is not None:
            with memory.because("decoding"):
                codec.decode(latents, past)
    return chunk, memory.most


@contextmanager
def _grown_history(memory: LiveBytes) -> Iterator[None]:
    """Count what a KV store grows by as history, whoever makes it grow."""
    grow = DeviceKVStore.with_room

    def with_room(*args: Any) -> Any:
        with memory.because("history"):
            return grow(*args)

    with patch.object(DeviceKVStore, "with_room", with_room):
        yield


def _latents(frames: int, size: tuple[int, int]) -> Tensor:
    """Return latents (1, frames, C, H, W) of a film of `size` pixels."""
    shape = (1, frames, CHANNELS, size[0] // SCALE, size[1] // SCALE)
    return torch.empty(shape, device=DEVICE)


def _codec(decoder: str):
    """Return a decoder without weights."""
    if decoder == "taehv":
        from cinelab.latent.taehv import TinyCodec

        with torch.device(DEVICE):
            return TinyCodec().to(torch.bfloat16).eval()
    from diffusers import AutoencoderKLWan

    from cinelab.latent.wan_codec import WanCodec

    with torch.device(DEVICE):
        vae: Any = AutoencoderKLWan()
        return WanCodec(vae, torch.bfloat16).to(DEVICE)
