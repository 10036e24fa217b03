"""KV store in host memory, with the pages in use on the device.

Law: equal to the device's store, to the bit. It is for films whose history outgrows the device: at
Wan 1.3B a latent frame of 480 x 832 is 288 MB of keys and values in bf16.

    B films   n pages   U tokens a page   h heads   d head size   k retrieved pages
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import count

import torch
from torch import Tensor

from cinelab.memory.store import refuse_gradients
from cinelab.ops.tensors import gather_pages

Page = tuple[int, Tensor]  # its number, and keys or values (B, U, h, d) in host memory


class PagePool:
    """Room for a few pages on the device; the least recently used one is evicted.

    All snapshots of a film share it.
    """

    def __init__(self, room: int):
        self.room = room
        self.buffers: list[Tensor] = []  # one, as soon as the shape of a page is known
        # number of a page -> its place in the buffer; the least recently used page stands first
        self.places: OrderedDict[int, int] = OrderedDict()
        self.numbers = count()

    @property
    def buffer(self) -> Tensor:
        """The pages on the device, (B, room, U, h, d)."""
        return self.buffers[0]

    def fetch(self, pages: Sequence[Page]) -> list[int]:
        """Return the places of these pages, which are all on the device when this returns."""
        if not self.buffers or len(pages) > self.room:
            self._grow(max(self.room, len(pages)), pages[0][1])
        for number, _ in pages:
            if number in self.places:
                # before any is evicted: what is wanted now stays
                self.places.move_to_end(number)
        for number, page in pages:
            if number not in self.places:
                place = self._free_place()
                self.buffer[:, place].copy_(page, non_blocking=True)
                self.places[number] = place
        return [self.places[number] for number, _ in pages]

    def put(self, page: Tensor) -> int:
        """Take in a new page (B, U, h, d) that is on the device already; return its number."""
        if not self.buffers:
            self._grow(self.room, page)
        number = next(self.numbers)
        self.fetch([(number, page)])
        return number

    def _free_place(self) -> int:
        if len(self.places) < self.room:
            return len(self.places)
        return self.places.popitem(last=False)[1]

    def _grow(self, room: int, like: Tensor) -> None:
        device = self.buffer.device if self.buffers else like.device
        shape = (like.shape[0], room, *like.shape[1:])
        buffer = torch.empty(shape, dtype=like.dtype, device=device)
        if self.buffers:
            buffer[:, : self.buffer.shape[1]] = self.buffer
        self.buffers[:] = [buffer]
        self.room = room


class HostKVStore:
    """Pages in host memory, pinned beside a GPU; copies in a pool where they are retrieved."""

    def __init__(self, pool: PagePool, pages: tuple[Page, ...] = ()):
        self.pool = pool
        self.pages = pages

    def append(self, pages: Tensor, length: int) -> "HostKVStore":
        refuse_gradients("place 'host'", "use 'device'", pages)
        new = tuple((self.pool.put(page), to_host(page)) for page in pages.unbind(1))
        return HostKVStore(self.pool, self.pages[:length] + new)

    def take(self, picks: Tensor, length: int, out: Tensor | None = None) -> Tensor:
        # under activation checkpointing, backward would find another page at the same place
        refuse_gradients("place 'host'", "use 'device'")
        # the one thing that is read back from the device
        wanted = picks.flatten().unique().tolist()
        places = torch.tensor(self.pool.fetch([self.pages[page] for page in wanted]))
        where = torch.zeros(length, dtype=torch.long)
        where = where.index_copy_(0, torch.tensor(wanted), places.long()).to(picks.device)
        buffer = self.pool.buffer
        return gather_pages(buffer, where[picks].to(buffer.device)[:, :, None], out)[:, 0]

    def all(self, length: int) -> Tensor:
        tokens = self.pages[0][1].shape[1]
        return self.take(torch.arange(length)[None, None], length).unflatten(1, (length, tokens))

    def view(self, first: int, length: int) -> None:
        """Return None: pages are brought elsewhere to be attended to."""

    def expect(self, picks: Tensor, length: int) -> None:
        """Hear nothing yet."""

    def page_bytes(self) -> int:
        return self.pages[0][1].nbytes


def host_store(pages: int) -> HostKVStore:
    """Return an empty store whose pool holds `pages` pages on the device."""
    return HostKVStore(PagePool(pages))


def to_host(page: Tensor) -> Tensor:
    """Return a copy in host memory; pinned, so that copies overlap computation, beside a GPU."""
    if page.device.type == "cpu":
        return page.detach().clone()
    host = torch.empty(page.shape, dtype=page.dtype, pin_memory=True)
    host.copy_(page, non_blocking=True)  # in the order of this stream, on which it is read again
    return host
