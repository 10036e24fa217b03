"""What the ledger says of a measured figure, in the figure's own unit."""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from benchmarks.gpu_bench.codecs import decoders
from benchmarks.gpu_bench.sizes import TRUE
from benchmarks.gpu_bench.speeds import speeds
from cinelab.bench import true_size
from cinelab.bench.wan_speed import CHANNELS, MODES, STRIDE, WanBench
from cinelab.ops.attention import attention
from cinelab.scale import ceilings
from cinelab.scale.ceilings import Card, card_named
from cinelab.scale.ledger import Counts, Prediction, predict_seconds

CEILINGS: dict[str, Callable[[Card], float]] = {
    "fp8": lambda card: card.matmul8 / 1e12,
    "bandwidth": lambda card: card.bandwidth / 1e12,
    "pcie": lambda card: card.pcie / 1e9,
    "host launch": lambda card: 1e6 * ceilings.EAGER_LAUNCH,
    "launch gap": lambda card: 1e6 * ceilings.GAP,
    "synchronisation": lambda card: 1e6 * ceilings.WAIT,
}


def figure(asks: dict, card: str) -> float:
    """Return what the settings of a row come to."""
    known = card_named(card)
    if "ceiling" in asks:
        return CEILINGS[asks["ceiling"]](known)
    if "product" in asks or "attention" in asks:
        return reached(asks, known)
    if asks.get("alone"):
        return decoding(asks["decoder"], MODES[asks["mode"]][0], known)
    if asks.get("first"):
        found = predicted(true_size.first_chunk_counts(bench_of(asks)), asks["speed"], known)
        return found.clock + first_decoding(asks["decoder"], known)
    counts = chunk_counts(
        asks["model"],
        asks["mode"],
        policy=asks["policy"],
        budget=asks["budget"],
        history=asks["history"],
        speed=asks["speed"],
    )
    if "of" in asks:
        return counted(counts, asks["of"], predicted(counts, asks["speed"], known))
    chunk = predicted(counts, asks["speed"], known).clock
    return rate(asks, chunk, known) if "decoder" in asks else chunk


def reached(asks: dict, card: Card) -> float:
    """Return the TFLOP/s that a product, or an attention, of some shape reaches."""
    if "product" in asks:
        rows, inner, columns = asks["product"]
        a, b = _empty(rows, inner), _empty(inner, columns)
        counts = Counts(true_size.traced(lambda: a @ b))
    else:
        tokens, keys, heads, size = asks["attention"]
        q, k = _empty(1, tokens, heads, size), _empty(1, keys, heads, size)
        counts = Counts(true_size.traced(lambda: attention(q, k, k, None, "sdpa")))
    return counts.flops / predict_seconds(counts, card).busy / 1e12


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, device="meta")


def rate(asks: dict, chunk: float, card: Card) -> float:
    """Return frames a second with the decoder after or beside the chunk."""
    frames = MODES[asks["mode"]][0]
    decode = decoding(asks["decoder"], frames, card)
    return frames * STRIDE / (max(chunk, decode) if asks["beside"] else chunk + decode)


def counted(counts: Counts, what: str, prediction: Prediction) -> float:
    """Return a figure of a chunk's profile."""
    return {
        "kernel launches": counts.launches,
        "kernels": 1000 * prediction.busy,
        "host synchronisations": counts.waits,
        "copies": counts.uploads,
    }[what]


@lru_cache(maxsize=64)
def chunk_counts(
    model: str, mode: str, *, policy: str, budget: int, history: int, speed: str
) -> Counts:
    """Return the counts of a chunk within a film whose chunks are made one after another."""
    settings = {"model": model, "mode": mode, "budget": budget, "speed": speed}
    return true_size.chunk_counts(bench_of(settings), policy, history, made=1)


def bench_of(asks: dict) -> WanBench:
    """Return what a row was measured with."""
    size = TRUE.chunkwise.size
    speed = speeds()[asks["speed"]]
    return WanBench(asks["model"], asks["mode"], size, budget=asks["budget"], speed=speed)


def predicted(counts: Counts, speed: str, card: Card) -> Prediction:
    """Return the prediction of counts; compiled regions cost the host less a launch."""
    launch = ceilings.EAGER_LAUNCH if speed == "exact" else ceilings.COMPILED_LAUNCH
    return predict_seconds(counts, card, launch)


@lru_cache(maxsize=16)
def first_decoding(decoder: str, card: Card) -> float:
    """Return the seconds of decoding a film's first latent frame."""
    with torch.device("meta"):
        codec = decoders("meta")[decoder]
    latent = _empty(1, 1, CHANNELS, TRUE.latent[0], TRUE.latent[1]).float()
    return predict_seconds(Counts(true_size.traced(lambda: codec.decode(latent, None))), card).clock


@lru_cache(maxsize=16)
def decoding(decoder: str, frames: int, card: Card) -> float:
    """Return the seconds of decoding so many latent frames in the middle of a film."""
    return predict_seconds(true_size.decode_counts(decoder, frames), card).clock
