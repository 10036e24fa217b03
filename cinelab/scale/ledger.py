"""The ledger: what a run costs a GPU, counted on `meta` tensors, and the seconds of that at a
card's ceilings.

    counts = ...      `Counts` of a chunk; cinelab.bench.true_size runs the real code for it
    predict_seconds(counts, card_named("H100"))

Time is arithmetic. An operation takes the longest of its arithmetic, its bytes and the shortest
kernel there is (roofline). Products and attention are cut into tiles of 128 rows, and the last wave
of tiles may fill the card only in part. The clock follows the order of launches: the host prepares
one kernel after another, the GPU runs them in turn, and where the host waits for the GPU it is not
ahead of it any more.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from typing import Any

from cinelab.errors import CinelabError
from cinelab.readable import Readable
from cinelab.scale.ceilings import (
    COMPILED_LAUNCH,
    CONVOLUTION,
    EAGER_LAUNCH,
    FLOOR,
    GAP,
    GRAPH_LAUNCH,
    WAIT,
    Card,
)
from cinelab.scale.ledger_ops import KINDS, Op


@dataclass(frozen=True)
class Trace(Readable):
    """The operations of one run in their order: `events` are numbers of `ops`."""

    ops: tuple[Op, ...]
    events: tuple[int, ...]

    def tally(self) -> Counter[Op]:
        """Return how often each operation stands in the run."""
        return Counter(self.ops[event] for event in self.events)


@dataclass(frozen=True)
class Counts(Readable):
    """What a run costs with `layers` layers, from its traces with two and with three.

    A further layer adds what the third one added: all layers are alike, so this is exact.
    A run whose cost has no layers is a trace alone.
    """

    shallow: Trace
    deep: Trace | None = None
    layers: int = 2

    def tally(self) -> dict[Op, int]:
        """Return how often each operation stands in the run of all layers."""
        shallow = self.shallow.tally()
        if self.deep is None:
            return dict(shallow)
        deep = self.deep.tally()
        more = self.layers - 2
        found = {op: shallow[op] + more * (deep[op] - shallow[op]) for op in {*shallow, *deep}}
        return {op: count for op, count in found.items() if count}

    @property
    def launches(self) -> int:
        """How many kernels and copies the GPU is given."""
        return sum(op.launches * count for op, count in self.tally().items())

    @property
    def flops(self) -> int:
        """The operations of all products and attentions."""
        return sum(op.flops * count for op, count in self.tally().items())

    @property
    def moved(self) -> int:
        """The bytes that kernels read and write."""
        return sum(op.bytes * count for op, count in self.tally().items())

    @property
    def waits(self) -> int:
        """How often the host waits for the GPU."""
        return sum(count for op, count in self.tally().items() if op.waits)

    @property
    def uploads(self) -> int:
        """How many copies go from the host to the GPU."""
        return sum(n for op, n in self.tally().items() if op.crossing and not op.to_host)


@dataclass(frozen=True)
class LaunchTimes(Readable):
    """Seconds in which the host launches one kernel.

    eager     from Python
    compiled  of a function that torch.compile made
    """

    eager: float = EAGER_LAUNCH
    compiled: float = COMPILED_LAUNCH


PLAIN = LaunchTimes()
# CUDA graphs replay the launches of a pass
GRAPHS = LaunchTimes(GRAPH_LAUNCH, GRAPH_LAUNCH)


@dataclass(frozen=True)
class Line(Readable):
    """What one kind of operation costs. `bound` is what most of its seconds wait for: compute,
    memory, or launches."""

    kind: str
    launches: int
    flops: int
    bytes: int
    seconds: float
    bound: str


@dataclass(frozen=True)
class Prediction(Readable):
    """The predicted seconds of a run on a card.

    busy    of the GPU's kernels, the sum of all lines
    clock   from the first launch to the last result; what it exceeds `busy` by, the GPU waits
    """

    card: str
    lines: tuple[Line, ...]
    busy: float
    clock: float

    def seconds(self, *kinds: str) -> float:
        """Return the seconds of some kinds together."""
        return sum(line.seconds for line in self.lines if line.kind in kinds)

    @property
    def bound(self) -> str:
        """What bounds the clock: host, or what bounds most of the GPU's time."""
        if self.clock > 1.5 * self.busy:
            return "host"
        spent: dict[str, float] = defaultdict(float)
        for line in self.lines:
            spent[line.bound] += line.seconds
        return max(spent, key=lambda bound: spent[bound])


def predict_seconds(counts: Counts, card: Card, launched: LaunchTimes = PLAIN) -> Prediction:
    """Return the predicted seconds of a run on a card, `launched` in these times."""
    tally = counts.tally()
    lines = [line_of(kind, tally, card) for kind in KINDS]
    clock = clock_of(counts.shallow, card, launched)
    if counts.deep is not None:
        clock += (counts.layers - 2) * (clock_of(counts.deep, card, launched) - clock)
    found = tuple(line for line in lines if line.launches)
    return Prediction(card.name, found, sum(line.seconds for line in found), clock)


def floor_seconds(counts: Counts, card: Card) -> float:
    """Return the seconds of attention, products and fused elementwise work at their ceilings, back
    to back: what no other arrangement of the same work can beat."""
    kept = {op: n for op, n in counts.tally().items() if op.flops or op.name == "fused"}
    return sum(n * time_of(op, card)[0] for op, n in kept.items())


def line_of(kind: str, tally: Mapping[Op, int], card: Card) -> Line:
    """Return the cost of all operations of one kind."""
    ops = {op: count for op, count in tally.items() if op.kind == kind}
    spent: dict[str, float] = defaultdict(float)
    for op, count in ops.items():
        seconds, bound = time_of(op, card)
        spent[bound] += seconds * count
    return Line(
        kind,
        sum(op.launches * count for op, count in ops.items()),
        sum(op.flops * count for op, count in ops.items()),
        sum(op.bytes * count for op, count in ops.items()),
        sum(spent.values()),
        max(spent, key=lambda bound: spent[bound]) if spent else "",
    )


def time_of(op: Op, card: Card) -> tuple[float, str]:
    """Return the seconds of one operation on a card, and what bounds it."""
    limits = {
        "compute": op.flops / arithmetic_of(op, card) if op.flops else 0.0,
        "memory": op.bytes / bandwidth_of(op, card),
        "launches": op.launches * FLOOR,
        "PCIe": op.crossing / card.pcie,
    }
    bound = max(limits, key=lambda name: limits[name])
    return limits[bound], bound


def arithmetic_of(op: Op, card: Card) -> float:
    """Return the operations a second that one product or attention reaches."""
    eight = "float8" in op.precision or "int8" in op.precision
    if "attention" in op.kind:
        ceiling = card.attention8 if eight else card.attention
    elif op.precision == "float32":
        ceiling = card.matmul32
    else:
        ceiling = card.matmul8 if eight else card.matmul
    if "convolution" in op.name:
        ceiling *= CONVOLUTION
    waves = op.tiles / card.multiprocessors
    return ceiling * (waves / math.ceil(waves) if waves else 1.0)


def bandwidth_of(op: Op, card: Card) -> float:
    """Return the bytes a second that one operation reaches."""
    if op.scattered:
        # measured of numbers of two bytes; wider ones take no more instructions each
        return min(card.bandwidth, card.scattered * WIDTHS.get(op.precision, 2) / 2)
    whole = op.flops or op.name == "fused" or op.kind in ("concatenation", "host")
    return card.bandwidth if whole else card.pointwise


WIDTHS = {"float32": 4, "int32": 4, "float64": 8, "int64": 8, "complex64": 8}


def clock_of(trace: Trace, card: Card, launched: LaunchTimes = PLAIN) -> float:
    """Return the seconds from the first launch of a run to its last result, in order."""
    times = [time_of(op, card)[0] + GAP * op.launches for op in trace.ops]
    host = 0.0
    gpu = 0.0
    for event in trace.events:
        op = trace.ops[event]
        host += (launched.compiled if op.compiled else launched.eager) * max(op.launches, 1)
        gpu = max(gpu, host) + times[event]
        if op.waits:
            host = max(host, gpu) + WAIT
    return max(host, gpu)


def counts_to_dict(counts: Counts) -> dict:
    """Return counts as plain values for a file: a line an operation, the events as numbers."""
    traces = {"shallow": counts.shallow, "deep": counts.deep}
    written = {
        name: {
            "ops": [" ".join(_word(value) for value in astuple(op)) for op in trace.ops],
            "events": " ".join(map(str, trace.events)),
        }
        for name, trace in traces.items()
        if trace is not None
    }
    return {"layers": counts.layers, **written}


def counts_from_dict(record: Mapping) -> Counts:
    """Return the counts of `counts_to_dict`; raise CinelabError where a line cannot be read."""
    try:
        traces = [
            Trace(
                tuple(_op_of_line(line) for line in record[name]["ops"]),
                tuple(map(int, record[name]["events"].split())),
            )
            for name in ("shallow", "deep")
            if name in record
        ]
        return Counts(traces[0], traces[1] if len(traces) > 1 else None, int(record["layers"]))
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise CinelabError(
            f"The record holds no counts of a ledger ({type(error).__name__}); write it with "
            "`cinelab ledger -o FILE.json`."
        ) from error


FIELDS = tuple(asdict(Op("", "")).items())  # name and default of every part of an operation


def _word(value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return str(value).replace(" ", "-") or "-"


def _op_of_line(line: str) -> Op:
    values: dict[str, Any] = {
        name: type(default)(int(word))
        if isinstance(default, int)
        else word.replace("-", " ").strip()
        for (name, default), word in zip(FIELDS, line.split(), strict=False)
    }
    return Op(**values)
