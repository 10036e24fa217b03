"""The ledger of a chunk as tables: what it costs by kind, what bounds it, what each option changes,
and how fast each card would be. All of it is predicted; nothing is measured here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from cinelab.bench.true_size import (
    DECODERS,
    chunk_counts,
    decode_counts,
    first_chunk_counts,
    peak_bytes,
)
from cinelab.bench.wan_speed import STRIDE, WanBench
from cinelab.config import to_dict
from cinelab.errors import CinelabError
from cinelab.memory.store import Storage
from cinelab.readable import Readable
from cinelab.scale.acceleration import SPEEDS, Speed, speed_named
from cinelab.scale.ceilings import CARDS, WAIT, Card
from cinelab.scale.ledger import (
    GRAPHS,
    PLAIN,
    Counts,
    LaunchTimes,
    Prediction,
    counts_to_dict,
    floor_seconds,
    predict_seconds,
)


@dataclass(frozen=True)
class LedgerReport(Readable):
    """What a chunk after `history` others costs on a card, its clean pass included.

    bench    model, mode, size, budget and speed
    decoder  none, vae or taehv
    """

    bench: WanBench
    card: Card
    policy: str = "camr"
    history: int = 6
    decoder: str = "none"

    def __post_init__(self) -> None:
        if self.decoder not in DECODERS:
            raise CinelabError(f"decoder is {self.decoder!r}; use one of {', '.join(DECODERS)}.")
        self.bench.policy(self.policy)  # a name that nobody knows is refused before any work

    @property
    def speed(self) -> str:
        """The name of the bench's speed in SPEEDS; its own settings have none."""
        return next((name for name, one in SPEEDS.items() if one == self.bench.speed), "own")

    @cached_property
    def counts(self) -> Counts:
        """What the chunk costs."""
        return chunk_counts(self.bench, self.policy, self.history)

    @cached_property
    def decoding(self) -> Counts | None:
        """What decoding the chunk costs."""
        if self.decoder == "none":
            return None
        return decode_counts(self.decoder, self.bench.chunk, self.bench.size)

    @cached_property
    def first_seconds(self) -> float:
        """Seconds to the film's first frame."""
        found = predict_seconds(first_chunk_counts(self.bench), self.card).clock
        if self.decoder == "none":
            return found
        first = decode_counts(self.decoder, 1, self.bench.size, first=True)
        return found + predict_seconds(first, self.card).clock

    @cached_property
    def peak(self) -> dict[str, int]:
        """The most bytes on the GPU, by cause."""
        return peak_bytes(self.bench, self.policy, self.history, decoder=self.decoder)

    @cached_property
    def floor(self) -> float:
        """Seconds of attention, products and fused elementwise work at their ceilings, back to back
        and without anything else."""
        counts = self.counts
        if not self.bench.speed.compiled:
            counts = self.at(SPEEDS["compiled"]).counts
        return floor_seconds(counts, self.card)

    def at(self, speed: Speed) -> "LedgerReport":
        """Return the report of the same chunk at another speed."""
        return replace(self, bench=replace(self.bench, speed=speed))

    def on(self, card: Card) -> Prediction:
        """Return the prediction for a card."""
        return predict_seconds(self.counts, card)

    def rates(self, card: Card) -> dict[str, float]:
        """Return frames per second on a card: without decoding, decoded after each chunk, and
        decoded beside the next one, which fills the GPU's gaps and no more."""
        frames = self.bench.chunk * STRIDE
        chunk = self.on(card)
        rates = {"frames/s": frames / chunk.clock}
        if self.decoding is not None:
            decoding = predict_seconds(self.decoding, card)
            rates["with decoding"] = frames / (chunk.clock + decoding.clock)
            together = max(chunk.clock, decoding.clock, chunk.busy + decoding.busy)
            rates["decoding beside"] = frames / together
        return rates

    def record(self) -> dict[str, Any]:
        """Return the report as plain values, with the counts that it was made of."""
        found = self.on(self.card)
        return {
            "what": "predicted by counting, not measured",
            "card": self.card.name,
            "policy": self.policy,
            "history": self.history,
            "speed": self.speed,
            "decoder": self.decoder,
            "bench": to_dict(self.bench),
            "lines": [to_dict(line) for line in found.lines],
            "busy": found.busy,
            "clock": found.clock,
            "bound": found.bound,
            "floor": self.floor,
            "first chunk": self.first_seconds,
            "launches": self.counts.launches,
            "waits": self.counts.waits,
            "uploads": self.counts.uploads,
            "peak": self.peak,
            "cards": {name: self.rates(card) for name, card in CARDS.items()},
            "counts": counts_to_dict(self.counts),
        }


def compare_options(
    report: LedgerReport, tell: Callable[[str], None] = lambda text: None
) -> Iterator[dict[str, Any]]:
    """Yield a row for every way to run the same chunk: launches, waits of the host, GB moved,
    milliseconds, and how many times as fast it is as the exact one."""
    exact = report.at(SPEEDS["exact"])
    base = exact.on(report.card).clock
    others = dict(_other_settings(exact))
    total = len(OPTIONS) + len(others) + 1
    for number, (name, speed, launched) in enumerate(OPTIONS, 1):
        tell(f"{number} of {total}: {name}")
        counts = report.at(speed).counts
        clock = predict_seconds(counts, report.card, launched).clock
        yield _option_row(name, counts, clock, base)
    for number, (name, made) in enumerate(others.items(), len(OPTIONS) + 1):
        tell(f"{number} of {total}: {name}")
        yield _option_row(name, made.counts, made.on(report.card).clock, base)
    yield _host_row(exact, base)


POLICIES = ("window", "full")
OPTIONS: tuple[tuple[str, Speed, LaunchTimes], ...] = (
    ("exact", SPEEDS["exact"], PLAIN),
    ("compiled", SPEEDS["compiled"], PLAIN),
    ("compiled, CUDA graphs", SPEEDS["compiled"], GRAPHS),
    ("compiled, linears in fp8", speed_named("compiled", linears="fp8"), PLAIN),
    ("compiled, attention in eight bits", speed_named("compiled", kernel="eight-bits"), PLAIN),
    ("fast", SPEEDS["fast"], PLAIN),
    ("fast, CUDA graphs", SPEEDS["fast"], GRAPHS),
)


def _other_settings(exact: LedgerReport) -> Iterator[tuple[str, LedgerReport]]:
    """Yield what the exact chunk may have otherwise: what it attends to, and how that is stored."""
    if _choosing_passes(exact) == 1:
        yield (
            "exact, clean pass chooses anew",
            replace(exact, bench=replace(exact.bench, reuse_choice=False)),
        )
    for policy in POLICIES:
        if policy != exact.policy:
            yield f"exact, {policy}", replace(exact, policy=policy)
    yield "exact, history int8", _stored(exact, "int8")


def _choosing_passes(report: LedgerReport) -> int:
    """Return how many passes of a chunk choose pages anew: the first level, and the clean pass."""
    policy = report.bench.policy(report.policy)
    return (2 - policy.reuse_choice) if policy.routed else 0


def _host_row(exact: LedgerReport, base: float) -> dict[str, Any]:
    """Return the row of a history in host memory, where every pass that chooses misses one page in
    each layer: the host waits for the choice, and the GPU for the page."""
    passes = _choosing_passes(exact)
    waits = passes * replace(exact.bench, layers=None).config.num_layers
    seconds = base + passes * host_seconds(exact.bench, exact.card) + waits * WAIT
    row = _option_row("exact, history in host memory", exact.counts, seconds, base)
    return row | {"waits": exact.counts.waits + waits}


def _stored(report: LedgerReport, packing: str) -> LedgerReport:
    return replace(report, bench=replace(report.bench, storage=Storage(packing=packing)))


def _option_row(name: str, counts: Counts, clock: float, base: float) -> dict[str, Any]:
    return {
        "way": name,
        "launches": counts.launches,
        "waits": counts.waits,
        "GB": counts.moved / 1e9,
        "ms": 1e3 * clock,
        "times as fast": base / clock,
    }


def host_seconds(bench: WanBench, card: Card) -> float:
    """Return the seconds in which one page of every layer comes from host memory, keys and
    values in bfloat16."""
    config = replace(bench, layers=None).config
    return 4 * bench.tokens * config.width * config.num_layers / card.pcie
