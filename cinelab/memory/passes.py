"""What the passes of a chunk hand on to each other: what was retrieved, where it is laid out, and
what the clean pass wrote down.

    B films   m pages of a chunk   U tokens a page   T tokens of a chunk   h heads   d head size
    n finished pages   k retrieved pages   B' films of a call: B, or 2 B where it is guided
    G heads that retrieve for themselves: h, or 1 where a layer retrieves as one
"""

from dataclasses import dataclass

from torch import Tensor

from cinelab.readable import Readable

KV = ("keys", "values")


@dataclass(frozen=True)
class Written(Readable):
    """What a clean pass made of a layer's chunk: rotated keys and values (B, T, h, d), and its
    pooled unrotated keys (B, m, U', h, d) where the policy searches such."""

    keys: Tensor
    values: Tensor
    pooled: Tensor | None


@dataclass(frozen=True)
class Retrieved(Readable):
    """What a layer of the open chunk retrieved.

    keys    (B, k U, h, d), rotated to where they are attended to
    values  (B, k U, h, d)
    first   the pages from this one on, where they are stored; None: pages that were gathered
    joined  they lie in the buffers of the open chunk, which have room for its own behind them
    """

    keys: Tensor
    values: Tensor
    first: int | None = None
    joined: bool = False


@dataclass
class PassesShare(Readable):
    """What all layers and passes of a chunk have in common; None until the first layer has run.

    choice  the last choice: pages (B or 1, G, k), and which of them the policy's rule chose
    freqs   the rotations of the chunk's own frames
    turns   the rotations (R, n, f, Dt/2, 2) that move stored pages, where any is moved
    """

    choice: tuple[Tensor, Tensor] | None = None
    freqs: Tensor | None = None
    turns: Tensor | None = None


@dataclass(frozen=True)
class LaidOut(Readable):
    """What the later passes of a chunk read and write: for every layer its keys and values
    (B', k U + T, h, d), retrieved ones first, and the rotations of the chunk's own frames."""

    buffers: dict[int, tuple[Tensor, Tensor]]
    freqs: Tensor
