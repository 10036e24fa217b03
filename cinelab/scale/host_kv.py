"""KV store in host memory, with the pages in use on the device.

Law: equal to the device's store, to the bit. It is for films whose history outgrows the device: at
Wan 1.3B a latent frame of 480 x 832 is 288 MB of keys and values in bf16.

A store has a ring of pages on the device; the least recently used one is evicted. A finished page
is copied out beside the computation and stays on the device as the most recent one. A page that is
retrieved and not on the device is copied in on a stream of its own; the computation waits for that
copy, the host never does. Where a layer chooses by its own queries the host must read the choice
before it can tell which pages are missing: one wait a layer and pass, and none where all pages of
the film are on the device or the choice was made on the host.

What that costs by arithmetic, at 1.3B, chunk-wise (not measured yet): a page of a layer is 28.8 MB
of keys and values, 0.58 ms over pinned PCIe of the fifth generation at 50 GB/s; in 30 layers 17 ms
in, where one page of every layer changes, and 17 ms out beside them, the other way. With 60 waits
of about 0.1 ms that is 23 ms at most, 4 % of the 550 ms that a chunk took in version 0.2.0.

    B films   n pages   m new pages   U tokens a page   h heads   d head size   k retrieved pages
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count

import torch
from torch import Tensor

from cinelab.memory.store import refuse_gradients
from cinelab.ops.tensors import gather_pages, to_device
from cinelab.readable import Readable
from cinelab.scale.host_blocks import HostBlocks
from cinelab.scale.streams import Event, Streams, streams_of


@dataclass
class Traffic(Readable):
    """What the stores of a film have cost so far."""

    bytes_in: int = 0  # host to device
    bytes_out: int = 0  # device to host
    waits: int = 0  # of the host for the device


@dataclass(frozen=True)
class Page(Readable):
    """A page in host memory."""

    number: int  # of all pages of its store and its branches
    data: Tensor  # (B, U, h, d)
    written: Event  # when the copy to the host has ended


class HostMemory:
    """What all stores of a film share: blocks of host memory, streams, and choices that were read
    back from the device."""

    def __init__(self, slots: int, streams: Streams | None = None):
        self.slots = slots  # pages that a store has on the device, at least
        self.traffic = Traffic()
        self._blocks: HostBlocks | None = None
        self._streams = streams  # None = those of the device on which the first page is made
        self._read: tuple[Tensor, Tensor] | None = None  # the last choice, on the device and here

    def __repr__(self) -> str:
        return f"HostMemory(slots={self.slots}, {self.traffic})"

    def new_store(self) -> "HostKVStore":
        """Return an empty store."""
        return HostKVStore(PagePool(self.slots, self))

    def page(self, like: Tensor) -> Tensor:
        """Return room in host memory for a page."""
        if self._blocks is None:
            self._blocks = HostBlocks(pinned=like.is_cuda)
        return self._blocks.page(like.shape, like.dtype)

    def streams(self, device: torch.device) -> Streams:
        """Return the streams in which pages are copied and gathered."""
        if self._streams is None:
            self._streams = streams_of(device)
        return self._streams

    def known(self, picks: Tensor) -> Tensor | None:
        """Return a choice of pages as it stands on the host, or None where that would be waited
        for."""
        if picks.device.type == "cpu":
            return picks
        return self._read[1] if self._read is not None and self._read[0] is picks else None

    def read(self, picks: Tensor) -> Tensor:
        """Return a choice of pages on the host. Keys and values are chosen alike, so that the
        second store of a layer finds what was read for the first."""
        found = self.known(picks)
        if found is None:
            found = picks.to("cpu")  # the one thing that the host waits for
            self.traffic.waits += 1
            self._read = (picks, found)
        return found


@dataclass
class RingPlace:
    """A place of the ring, and when it may be read and written."""

    arrived: Event = None  # its page is there
    left: Event = None  # its page is in host memory too


class PagePool:
    """Room for a few pages on the device; the least recently used one is evicted.

    All snapshots of a film share it.
    """

    def __init__(self, room: int, memory: HostMemory | None = None):
        self.room = room
        self.memory = memory or HostMemory(room)
        self.buffers: list[Tensor] = []  # one, as soon as the shape of a page is known
        # number of a page -> its slot; the least recently used page stands first
        self.places: OrderedDict[int, int] = OrderedDict()
        self.numbers = count()
        self._slots = [RingPlace() for _ in range(room)]
        self._gathered: Event = None  # when the last gather has read the ring

    @property
    def buffer(self) -> Tensor:
        """The pages on the device, (B, room, U, h, d)."""
        return self.buffers[0]

    @property
    def streams(self) -> Streams:
        return self.memory.streams(self.buffer.device)

    def holds(self, pages: Sequence[Page]) -> bool:
        """Whether all of these pages are on the device, or on the way."""
        return all(page.number in self.places for page in pages)

    def fetch(self, pages: Sequence[Page]) -> list[int]:
        """Return the slots of these pages, which are all on the device or on the way there."""
        if len(pages) > self.room:
            self._grow(len(pages))
        for page in pages:
            if page.number in self.places:
                # before any is evicted: what is wanted now stays
                self.places.move_to_end(page.number)
        for page in pages:
            if page.number not in self.places:
                self._copy_in(page)
        return [self.places[page.number] for page in pages]

    def put(self, data: Tensor) -> Page:
        """Take in a new page (B, U, h, d) that is on the device already, and copy it out."""
        if not self.buffers:
            self.buffers.append(self._ring(self.room, data))
        number = next(self.numbers)
        place = self._free_place()
        slot = self._slots[place]
        there = self.buffer[:, place]
        after = (self._gathered, slot.arrived, slot.left)
        slot.arrived = self.streams.compute.run(lambda: there.copy_(data.detach()), after)
        host = self.memory.page(data)
        slot.left = self.streams.outward.run(
            lambda: host.copy_(there, non_blocking=True), (slot.arrived,)
        )
        self.memory.traffic.bytes_out += data.nbytes
        self.places[number] = place
        return Page(number, host, slot.left)

    def gather(self, places: Tensor, slots: Sequence[int], out: Tensor | None) -> Tensor:
        """Return the pages (B, k U, h, d) at `places` (B or 1, G, k) of the ring, in `out` where it
        is given; they are among `slots`."""
        buffer = self.buffer
        if out is None:
            tokens = places.shape[-1] * buffer.shape[2]
            out = buffer.new_empty((buffer.shape[0], tokens, *buffer.shape[3:]))
        # closed over below, where `out` may no longer be None
        target = out

        def work() -> None:
            gather_pages(buffer, to_device(places, buffer.device)[:, :, None], target)

        arrived = [self._slots[place].arrived for place in slots]
        self._gathered = self.streams.compute.run(work, arrived)
        return target

    def lay_out(self, pages: Sequence[Page]) -> Tensor:
        """Return all of these pages (B, n, U, h, d). Those that are not on the device do not pass
        through the ring, which a whole film would have to grow for."""
        buffer = self.buffer
        out = buffer.new_empty((buffer.shape[0], len(pages), *buffer.shape[2:]))
        inward = self.streams.inward
        inward.uses(out)
        allocated = self.streams.compute.run(lambda: None)
        for n, page in enumerate(pages):
            there = out[:, n]
            if page.number in self.places:
                place = self.places[page.number]
                copy = partial(there.copy_, buffer[:, place])
                self._gathered = self.streams.compute.run(copy, (self._slots[place].arrived,))
            else:
                copy = partial(there.copy_, page.data, non_blocking=True)
                arrived = inward.run(copy, (allocated, page.written))
                self.memory.traffic.bytes_in += page.data.nbytes
                self.streams.compute.run(lambda: None, (arrived,))
        return out

    def _copy_in(self, page: Page) -> None:
        place = self._free_place()
        slot = self._slots[place]
        there = self.buffer[:, place]
        after = (self._gathered, slot.arrived, slot.left, page.written)
        slot.arrived = self.streams.inward.run(
            lambda: there.copy_(page.data, non_blocking=True), after
        )
        slot.left = None
        self.memory.traffic.bytes_in += page.data.nbytes
        self.places[page.number] = place

    def _free_place(self) -> int:
        if len(self.places) < self.room:
            return len(self.places)
        return self.places.popitem(last=False)[1]

    def _grow(self, room: int) -> None:
        """Move the pages to a larger ring."""
        old = self.buffer
        new = self._ring(room, old[:, 0])
        pending = [event for slot in self._slots for event in (slot.arrived, slot.left)]
        moved = self.streams.compute.run(lambda: new[:, : old.shape[1]].copy_(old), pending)
        self._slots = [RingPlace(moved) for _ in range(room)]
        self.buffers[:] = [new]
        self.room = room

    def _ring(self, room: int, like: Tensor) -> Tensor:
        ring = like.new_empty((like.shape[0], room, *like.shape[1:]))
        streams = self.memory.streams(like.device)
        streams.inward.uses(ring)
        streams.outward.uses(ring)
        return ring


class HostKVStore:
    """Pages in host memory, pinned beside a GPU; copies in a ring where they are retrieved."""

    def __init__(self, pool: PagePool, pages: tuple[Page, ...] = ()):
        self.pool = pool
        self.pages = pages

    @property
    def traffic(self) -> Traffic:
        """What this store, and those that share its memory, have cost so far."""
        return self.pool.memory.traffic

    def append(self, pages: Tensor, length: int) -> "HostKVStore":
        refuse_gradients("place 'host'", "use 'device'", pages)
        new = tuple(self.pool.put(page) for page in pages.unbind(1))
        return HostKVStore(self.pool, self.pages[:length] + new)

    def take(self, picks: Tensor, length: int, out: Tensor | None = None) -> Tensor:
        # under activation checkpointing, backward would find another page at the same place
        refuse_gradients("place 'host'", "use 'device'")
        places, slots = self._located(picks, length)
        return self.pool.gather(places, slots, out)

    def _located(self, picks: Tensor, length: int) -> tuple[Tensor, list[int]]:
        """Return where in the ring the picked pages lie, (B or 1, G, k), and all slots among which
        they are."""
        pages = self.pages[:length]
        if self.pool.memory.known(picks) is None and self.pool.holds(pages):
            slots = self.pool.fetch(pages)
            return to_device(torch.tensor(slots), picks.device)[picks], slots
        chosen = self.pool.memory.read(picks)
        wanted = sorted(set(chosen.flatten().tolist()))
        slots = self.pool.fetch([pages[page] for page in wanted])
        where = torch.zeros(length, dtype=torch.long)
        where[wanted] = torch.tensor(slots)
        return where[chosen], slots

    def view(self, first: int, length: int) -> None:
        """Return None: pages are attended to where they were gathered."""

    def expect(self, picks: Tensor, length: int) -> None:
        """Begin to bring pages in that will probably be taken next, where the choice is known on
        the host and they do not displace the newest page."""
        chosen = self.pool.memory.known(picks)
        if chosen is None:
            return
        wanted = sorted(set(chosen.flatten().tolist()))
        if len(wanted) < self.pool.room:
            self.pool.fetch([self.pages[page] for page in wanted])

    def all(self, length: int) -> Tensor:
        refuse_gradients("place 'host'", "use 'device'")
        return self.pool.lay_out(self.pages[:length])

    def page_bytes(self) -> int:
        return self.pages[0].data.nbytes
