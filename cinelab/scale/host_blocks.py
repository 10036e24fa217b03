"""Host memory in large blocks, pinned beside a GPU, from which pages are cut.

To pin memory takes the driver about as long as to touch it (0.1 to 0.3 s a GiB, an estimate), and
most of that for each call, so a page is never pinned by itself. A block has room for BLOCK_PAGES
pages, which is about a chunk of all layers; while one is used up, a thread pins the next one.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod

import torch
from torch import Tensor

from cinelab.errors import CinelabError

BLOCK_PAGES = 64
ALIGNED = 512  # bytes


class HostBlocks:
    """Pages in host memory, cut from blocks that are allocated ahead."""

    def __init__(self, *, pinned: bool):
        self.pinned = pinned
        self.allocated = 0  # bytes
        self._block = torch.empty(0, dtype=torch.uint8)
        self._used = 0  # bytes of the block
        self._thread: ThreadPoolExecutor | None = None
        self._next: Future[Tensor] | None = None

    def page(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return room for a page of this shape, uninitialised."""
        size = prod(shape) * dtype.itemsize
        if self._used + size > len(self._block):
            self._take_block(size)
        room = self._block[self._used : self._used + size]
        self._used += -(-size // ALIGNED) * ALIGNED
        return room.view(dtype).view(shape)

    def _take_block(self, page: int) -> None:
        """Go on in the block that was allocated ahead, else in a new one; allocate one ahead."""
        # a power of two, since the allocator of pinned memory rounds up to one
        size = 1 << (BLOCK_PAGES * (page + ALIGNED) - 1).bit_length()
        ahead, self._next = self._next, None
        block = None if ahead is None else _explained(ahead.result)
        if block is None or len(block) < page:
            block = _explained(lambda: self._allocate(size))
        self._block = block
        self._used = 0
        self.allocated += len(block)
        if self.pinned:
            self._thread = self._thread or ThreadPoolExecutor(1, "cinelab-pinned")
            self._next = self._thread.submit(self._allocate, size)

    def _allocate(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, pin_memory=self.pinned)


def _explained(allocate: Callable[[], Tensor]) -> Tensor:
    """Return what is allocated; turn the driver's error into one sentence."""
    try:
        return allocate()
    except (RuntimeError, MemoryError) as error:
        raise CinelabError(
            f"The history does not fit in host memory ({str(error).splitlines()[0]}); pack it "
            '(packing="fp8"), make a shorter film, or free main memory.'
        ) from error
