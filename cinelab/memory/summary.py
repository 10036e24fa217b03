"""What CAMR's search reads of a layer: pooled keys of every page, and mean keys of blocks of them.

    B films   n pages   U tokens a page   h heads   d head size

Both are computed once a page, when it is finished, so that routing never reads the whole history.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from cinelab.memory.policy import BLOCK
from cinelab.memory.routing import pool
from cinelab.memory.store import DeviceKVStore, KVStore
from cinelab.readable import Readable


@dataclass(frozen=True)
class Summary(Readable):
    """Pooled keys of a layer's first `done` pages, and the mean key of every BLOCK pages.

    Snapshots share what they have in common, as KV stores do.
    """

    tokens: int | None  # of a page; None = the stored keys themselves are searched
    pages: KVStore = field(default_factory=DeviceKVStore)
    done: int = 0
    blocks: KVStore = field(default_factory=DeviceKVStore)
    whole: int = 0  # finished blocks

    def until(self, length: int, keys: KVStore, *, blocked: bool) -> "Summary":
        """Return the summary of all pages up to `length`: the new ones, or, where the policy has
        just changed, all of them."""
        pages = self.pages
        blocks = self.blocks
        for page in range(self.done if self.tokens is not None else length, length):
            pages = pages.append(pool(_pages(keys, page, 1, length), self.tokens), page)
        whole = length // BLOCK if blocked else self.whole
        for block in range(self.whole, whole):
            first = block * BLOCK
            if self.tokens is None:
                part = _pages(keys, first, BLOCK, length)
            else:
                part = pages.all(length)[:, first : first + BLOCK]
            blocks = blocks.append(part.float().mean((1, 2))[:, None, None], block)
        return Summary(self.tokens, pages, length, blocks, whole)


def _pages(keys: KVStore, first: int, count: int, length: int) -> Tensor:
    """Return keys (B, count, U, h, d) of pages `first`, first + 1, ..."""
    picks = torch.arange(first, first + count)[None, None]
    return keys.take(picks, length).unflatten(1, (count, -1))
