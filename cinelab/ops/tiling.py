"""Attention under a mask of chunks, tile by tile: equal to one dense mask, to rounding.

A mask over all tokens of [clean | noisy] is mostly -inf, and at Wan's size it would not fit: a
clip of 21 latent frames has 32,760 tokens, twice. A tile is a few chunks of queries with the only
chunks of keys that any of them attends to.

    B batch   G heads, or 1 for all   R query chunks   S key chunks   t tokens a chunk   h heads
    d head size
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cinelab.ops.attention import attention
from cinelab.readable import Readable

CHUNKS = 8  # query chunks that are computed together
# tokens a chunk from which on each chunk is a tile of its own: a wider mask would not fit
WIDE = 1024
# tokens of queries up to which a GPU computes all chunks together: there the slices of a tile, and
# the gradients of slices, move more bytes than the attention that tiles save
SMALL = 2048


@dataclass(frozen=True)
class Tile:
    """Some query chunks (`rows`) and the key chunks (`columns`) that they may attend to."""

    rows: tuple[slice, ...]
    columns: tuple[slice, ...]


Tiles = Callable[[int], list[Tile]]  # chunks a tile -> the tiles that cover all queries


def causal_tiles(count: int, copies: int, pages: int = 1) -> Tiles:
    """Return the tiles of a clip of `count` chunks of `pages` pages, shown once, or twice as
    [clean | noisy].

    clean i   attends to clean j <= i          noisy i   attends to clean j < i, and to noisy i
    """
    whole = count * pages

    def tiles(size: int) -> list[Tile]:
        made = []
        for first, last in _groups(count, size, pages):
            rows = [slice(first + copy * whole, last + copy * whole) for copy in range(copies)]
            made.append(Tile(tuple(rows), (slice(0, last), *rows[1:])))
        return made

    return tiles


def noisy_tiles(count: int, pages: int = 1) -> Tiles:
    """Return the tiles of `count` noisy chunks of `pages` pages whose keys are [clean | noisy]."""
    whole = count * pages

    def tiles(size: int) -> list[Tile]:
        made = []
        for first, last in _groups(count, size, pages):
            columns = (slice(0, last), slice(whole + first, whole + last))
            made.append(Tile((slice(first, last),), columns))
        return made

    return tiles


def _groups(count: int, size: int, pages: int) -> Iterator[tuple[int, int]]:
    """Yield the first page and the end of groups of whole chunks, of about `size` pages each: a
    chunk is never cut, since its pages attend to each other."""
    step = max(1, size // pages)
    for first in range(0, count, step):
        yield first * pages, min(first + step, count) * pages


@dataclass
class ChunkMask(Readable):
    """Which chunk of queries attends to which chunk of keys: `allowed` bool (B or 1, G, R, S).

    Where a chunk is retrieved in pages, rows and columns are pages, and t the tokens of one.
    """

    allowed: Tensor
    tiles: Tiles
    _biases: dict[tuple[int, torch.dtype], list[tuple[Tile, Tensor]]] = field(default_factory=dict)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return attention (B, R t, h, d) of q (B, R t, h, d) over k, v (B, S t, h, d)."""
        tokens = q.shape[1] // self.allowed.shape[2]
        biases = self._biases_of(tokens, q.dtype)
        if len(biases) == 1:
            return attention(q, k, v, biases[0][1])
        outs: list[tuple[int, Tensor]] = []
        for tile, bias in biases:
            rows = [_times(part, tokens) for part in tile.rows]
            columns = [_times(part, tokens) for part in tile.columns]
            out = attention(_pick(q, rows), _pick(k, columns), _pick(v, columns), bias)
            parts = out.split([part.stop - part.start for part in rows], dim=1)
            outs += zip((part.start for part in rows), parts, strict=True)
        return torch.cat([out for _, out in sorted(outs, key=lambda piece: piece[0])], dim=1)

    def _biases_of(self, tokens: int, dtype: torch.dtype) -> list[tuple[Tile, Tensor]]:
        """Return every tile with its bias; made once, since all layers share a static policy's
        mask."""
        if (tokens, dtype) not in self._biases:
            tiles = self.tiles(self._chunks_a_tile(tokens))
            self._biases[tokens, dtype] = [
                (tile, token_bias(self._part(tile), tokens, dtype)) for tile in tiles
            ]
        return self._biases[tokens, dtype]

    def _chunks_a_tile(self, tokens: int) -> int:
        """Return how many query chunks of so many tokens are computed together."""
        chunks = self.allowed.shape[2]
        if self.allowed.device.type != "cpu" and chunks * tokens <= SMALL:
            return chunks
        return CHUNKS if tokens < WIDE else 1

    def _part(self, tile: Tile) -> Tensor:
        rows = torch.cat([self.allowed[:, :, part] for part in tile.rows], dim=2)
        return torch.cat([rows[..., part] for part in tile.columns], dim=3)


def token_bias(allowed: Tensor, tokens: int, dtype: torch.dtype) -> Tensor:
    """Return 0 where a token may attend and -inf elsewhere: (..., R, S) -> (..., R t, S t)."""
    wide = allowed.repeat_interleave(tokens, -1).repeat_interleave(tokens, -2)
    zeros = torch.zeros(wide.shape, dtype=dtype, device=allowed.device)
    return zeros.masked_fill_(~wide, float("-inf"))


def _times(part: slice, tokens: int) -> slice:
    return slice(part.start * tokens, part.stop * tokens)


def _pick(x: Tensor, parts: list[slice]) -> Tensor:
    # the gradient of a concatenation of slices is cheaper than that of an index
    return torch.cat([x[:, part] for part in parts], dim=1)
