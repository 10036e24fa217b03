"""What a GPU can do at most: arithmetic, bandwidth, memory and launches of five cards, each with
its source.

A ceiling is what a good kernel reaches, not what the data sheet states. The H100's were measured;
the H200's where a profile of a chunk says them. All others are the data sheet's value times the
share of it that the H100 reached, and are marked as estimates.
"""

from dataclasses import dataclass, replace

from cinelab.errors import CinelabError
from cinelab.readable import Readable

TERA = 1e12
GIGA = 1e9
# A GPU waits so long between two kernels of one stream, and no kernel ends sooner than FLOOR.
GAP = 1.0e-6
FLOOR = 2.5e-6
# Seconds in which Python and torch prepare one launch of eager code, with the views and modules
# around it. Fitted to two measurements of a frame-wise film: its first chunk, bound by the host,
# takes 0.174 s and launches 5,556 kernels (31 us would fit it alone); a later one takes 0.234 s.
EAGER_LAUNCH = 29e-6
# the same where torch.compile launches the kernels of a region, and where a CUDA graph does
COMPILED_LAUNCH = 8e-6
GRAPH_LAUNCH = 0.5e-6
WAIT = 10e-6  # of a host that waits for the GPU, beside the work that it waits for
# Share of the products' ceiling that cuDNN's convolutions reach, channels first and uncompiled.
# Calibrated on one measurement: the VAE decodes 12 frames of 480 x 832 in 0.305 s.
CONVOLUTION = 0.31
MULTIPROCESSORS = 132  # of the H100 and the H200


@dataclass(frozen=True)
class Card(Readable):
    """The ceilings of one card, in operations and bytes a second.

    matmul      products of bfloat16 whose tiles fill all multiprocessors
    matmul8     the same in fp8
    matmul32    the same in fp32
    attention   the attention kernel, bfloat16, likewise
    attention8  the same with queries and keys in eight bits
    bandwidth   of a copy within its memory
    pointwise   of eager elementwise kernels, casts and norms, which instructions bound
    scattered   of gathers, and of concatenations of what does not lie in one piece
    pcie        from pinned host memory
    memory      bytes
    measured    which of these were measured on the card; the others are estimates
    """

    name: str
    matmul: float
    matmul8: float
    matmul32: float
    attention: float
    attention8: float
    bandwidth: float
    pointwise: float
    scattered: float
    pcie: float
    memory: float
    multiprocessors: int
    measured: tuple[str, ...] = ()
    source: str = ""


# The data sheets' dense values. Measured on the H100: 740 TFLOP/s of the feed-forward's first
# product (4,680 x 1,536 x 8,960), whose 2,590 tiles fill 98 % of 20 waves; cuDNN attention 542
# TFLOP/s of 12 heads, 4,680 queries and 32,760 keys, whose 444 tiles fill 84 % of 4 waves; a copy
# 2.82 TB/s. From the profile of a chunk of version 0.1: 114 GB of casts in 55 ms, 183 GB of other
# elementwise work and norms in 75 ms, gathers of 22 GB in 35 ms.
H100 = Card(
    "H100",
    matmul=754 * TERA,
    matmul8=0.76 * 1979 * TERA,
    matmul32=0.76 * 67 * TERA,
    attention=644 * TERA,
    attention8=1.5 * 644 * TERA,
    bandwidth=2.82 * TERA,
    pointwise=2.4 * TERA,
    scattered=0.7 * TERA,
    pcie=50 * GIGA,
    memory=85.0 * GIGA,
    multiprocessors=MULTIPROCESSORS,
    measured=("matmul", "attention", "bandwidth", "pointwise", "scattered"),
    source="NVIDIA H100 SXM5 data sheet: 989 TFLOP/s bf16, 1,979 fp8, 67 fp32, 3.35 TB/s, 80 GB",
)
# From the profile of a chunk of version 0.2.0 (results/reference/gpu_chunk.json): attention 262 ms,
# products 77 ms, concatenations of 25 GB in 6.0 ms, gathers of 22 GB in 20.9 ms.
H200 = replace(
    H100,
    name="H200",
    matmul=850 * TERA,
    bandwidth=4.04 * TERA,
    pointwise=2.46 * TERA,
    scattered=1.05 * TERA,
    memory=150.0 * GIGA,
    source="NVIDIA H200 SXM data sheet: 989 TFLOP/s bf16, 1,979 fp8, 67 fp32, 4.8 TB/s, 141 GB",
)


@dataclass(frozen=True)
class DataSheet:
    """What a maker states of a card: dense operations and bytes a second, bytes, clock in GHz."""

    name: str
    matmul: float
    matmul8: float
    matmul32: float
    bandwidth: float
    pcie: float
    memory: float
    multiprocessors: int
    clock: float
    source: str

    def estimate(self) -> Card:
        """Return the ceilings that the card has if it reaches the shares that the H100 reaches."""
        matmul = self.matmul * H100.matmul / (989 * TERA)
        bandwidth = self.bandwidth * H100.bandwidth / (3.35 * TERA)
        issued = self.multiprocessors * self.clock / (MULTIPROCESSORS * 1.755)
        return Card(
            self.name,
            matmul,
            self.matmul8 * H100.matmul / (989 * TERA),
            self.matmul32 * H100.matmul / (989 * TERA),
            self.matmul * H100.attention / (989 * TERA),
            1.5 * self.matmul * H100.attention / (989 * TERA),
            bandwidth,
            min(bandwidth, H100.pointwise * issued),
            bandwidth * H100.scattered / H100.bandwidth,
            self.pcie * H100.pcie / (64 * GIGA),
            self.memory,
            self.multiprocessors,
            source=self.source,
        )


DATA_SHEETS = (
    DataSheet(
        "B200",
        matmul=2250 * TERA,
        matmul8=4500 * TERA,
        matmul32=75 * TERA,
        bandwidth=7.7 * TERA,
        pcie=64 * GIGA,
        memory=190 * GIGA,
        multiprocessors=148,
        clock=1.85,
        source="NVIDIA HGX B200 data sheet: 2.25 PFLOP/s bf16, 4.5 fp8, 7.7 TB/s, 180 GB",
    ),
    DataSheet(
        "RTX 4090",
        matmul=165.2 * TERA,
        matmul8=330.3 * TERA,
        matmul32=82.6 * TERA,
        bandwidth=1.008 * TERA,
        pcie=32 * GIGA,
        memory=25.3 * GIGA,
        multiprocessors=128,
        clock=2.52,
        source="NVIDIA Ada architecture paper: 165 TFLOP/s bf16 with fp32 sums, 330 fp8, 24 GB",
    ),
    DataSheet(
        "RTX 5090",
        matmul=209.5 * TERA,
        matmul8=419 * TERA,
        matmul32=104.8 * TERA,
        bandwidth=1.792 * TERA,
        pcie=64 * GIGA,
        memory=33.7 * GIGA,
        multiprocessors=170,
        clock=2.41,
        source="NVIDIA RTX Blackwell architecture paper: 210 TFLOP/s bf16 with fp32 sums, 419 fp8, "
        "32 GB",
    ),
)
CARDS = {card.name: card for card in (H100, H200, *(sheet.estimate() for sheet in DATA_SHEETS))}


def card_named(name: str) -> Card:
    """Return a card by its name, in any case and with or without "RTX"."""
    plain = {known.lower().removeprefix("rtx ").strip(): card for known, card in CARDS.items()}
    found = plain.get(name.lower().removeprefix("rtx").strip(" -_"))
    if found is None:
        raise CinelabError(f"Card {name!r} is unknown; use one of {', '.join(CARDS)}.")
    return found
