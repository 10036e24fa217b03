"""What the ledger says of a measured figure, in the figure's own unit."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from benchmarks.gpu_bench.sizes import TRUE
from benchmarks.gpu_bench.speeds import PARTLY_FAST
from cinelab.bench import true_size
from cinelab.bench.ledger_report import LedgerReport
from cinelab.bench.wan_speed import WanBench
from cinelab.ops.attention import attention
from cinelab.scale import ceilings
from cinelab.scale.acceleration import SPEEDS
from cinelab.scale.ceilings import Card, card_named
from cinelab.scale.ledger import Counts, predict_seconds

CEILINGS: dict[str, Callable[[Card], float]] = {
    "fp8": lambda card: card.matmul8 / 1e12,
    "bandwidth": lambda card: card.bandwidth / 1e12,
    "pcie": lambda card: card.pcie / 1e9,
    "host launch": lambda card: 1e6 * ceilings.EAGER_LAUNCH,
    "launch gap": lambda card: 1e6 * ceilings.GAP,
    "synchronisation": lambda card: 1e6 * ceilings.WAIT,
}
PREDICTED = SPEEDS | {PARTLY_FAST: replace(SPEEDS["fast"], kernel="auto")}


def figure(asks: dict, card: str) -> float:
    """Return what the settings of a row come to."""
    known = card_named(card)
    if "ceiling" in asks:
        return CEILINGS[asks["ceiling"]](known)
    if "product" in asks or "attention" in asks:
        return reached(asks, known)
    report = report_of(
        asks["model"],
        asks["mode"],
        known,
        policy=asks.get("policy", "camr"),
        budget=asks.get("budget", 6),
        history=asks.get("history", 0),
        speed=asks.get("speed", "exact"),
        decoder=asks.get("decoder", "none"),
    )
    if asks.get("alone") and report.decoding is not None:
        return predict_seconds(report.decoding, known).clock
    if asks.get("first"):
        return report.first_seconds
    if "of" in asks:
        return counted(report.counts, asks["of"], known)
    if "decoder" in asks:
        rates = report.rates(known)
        return rates["decoding beside" if asks["beside"] else "with decoding"]
    return report.on(known).clock


@lru_cache(maxsize=256)
def report_of(
    model: str,
    mode: str,
    card: Card,
    *,
    policy: str,
    budget: int,
    history: int,
    speed: str,
    decoder: str,
) -> LedgerReport:
    """Return the ledger of a chunk at the size that was measured."""
    size = TRUE.chunkwise.size
    bench = WanBench(model, mode, size, budget=budget, speed=PREDICTED[speed])
    return LedgerReport(bench, card, policy, history, decoder)


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


def counted(counts: Counts, what: str, card: Card) -> float:
    """Return a figure of a chunk's profile."""
    return {
        "kernel launches": counts.launches,
        "kernels": 1000 * predict_seconds(counts, card).busy,
        "host synchronisations": counts.waits,
        "copies": counts.uploads,
    }[what]
