"""What CAMR's search reads of a layer: pooled keys of every page, and mean keys of blocks of them.

    B films   n pages   U tokens a page   h heads   d head size

Both are computed once a page, when it is finished, so that routing never reads the whole history.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

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

    def until(self, length: int, keys: Callable[[int, int], Tensor], *, blocked: bool) -> "Summary":
        """Return the summary of all pages up to `length`: the new ones, or, where the policy has
        just changed, all of them. keys(first, count) are unrotated, (B, count, U, h, d)."""
        made = self
        for page in range(self.done if self.tokens is not None else length, length):
            made = made.extended(keys(page, 1))
        whole = length // BLOCK if blocked else self.whole
        blocks = self.blocks
        for block in range(self.whole, whole):
            first = block * BLOCK
            if self.tokens is None:
                part = keys(first, BLOCK)
            else:
                part = made.pages.all(length)[:, first : first + BLOCK]
            blocks = blocks.append(part.float().mean((1, 2))[:, None, None], block)
        return Summary(self.tokens, made.pages, length, blocks, whole)

    def extended(self, pooled: Tensor) -> "Summary":
        """Return the summary with further pages of unrotated keys (B, m, U, h, d), which may be
        pooled already."""
        pages = self.pages.append(pool(pooled, self.tokens), self.done)
        return replace(self, pages=pages, done=self.done + pooled.shape[1])
