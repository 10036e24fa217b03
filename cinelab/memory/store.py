"""KV stores: where the finished pages of one layer's keys, or values, lie.

    B films   n pages   m new pages   U tokens a page   h heads   d head size   k retrieved pages
    G heads that retrieve for themselves: h, or 1 where a layer retrieves as one

A store is never changed for those who hold it: `append` after the first `length` pages returns the
store that has them. Snapshots of a cache share what they have in common.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.ops.tensors import gather_pages, to_device
from cinelab.readable import Readable
from cinelab.registry import resolve

PLACES = ("device", "host")
PACKINGS = ("none", "int8", "fp8")
LITTLE = 4 * 2**20  # bytes: a buffer of small pages grows by up to 16 of them
# where the stores live that serve large models; named, not imported: the method runs without them
HOST_MEMORY = "cinelab.scale.host_kv:HostMemory"
QUANTIZED_STORE = "cinelab.scale.quantized_kv:QuantizedKVStore"


class KVStore(Protocol):
    """What every store can do."""

    def append(self, pages: Tensor, length: int) -> "KVStore":
        """Return the store with pages (B, m, U, h, d) after its first `length`."""
        ...

    def take(self, picks: Tensor, length: int, out: Tensor | None = None) -> Tensor:
        """Return the picked pages (B, k U, h, d), in `out` where it is given; picks (B or 1, G, k)
        on the host or on the device."""
        ...

    def view(self, first: int, length: int) -> Tensor | None:
        """Return pages `first` up to `length` (B, length - first, U, h, d) where they are stored;
        None where they cannot be attended to there."""
        ...

    def with_room(self, length: int, like: Tensor) -> tuple["KVStore", Tensor]:
        """Return the store and its buffer (B, at least length + m, U, h, d), in which pages like
        these (B, m, U, h, d) may be drafted after the first `length`, until they are appended.
        Only of a store that has a `view`."""
        ...

    def expect(self, picks: Tensor, length: int) -> None:
        """Hear which pages (B or 1, G, k) will probably be taken next: a store that must bring them
        to the device may begin."""
        ...

    def all(self, length: int) -> Tensor:
        """Return the first `length` pages (B, length, U, h, d)."""
        ...

    def page_bytes(self) -> int:
        """Return the bytes of one page as it is stored, all films together."""
        ...


@dataclass(frozen=True)
class Storage:
    """How a film's history is stored.

    place     device, or host: in (pinned) host memory, and `slots` pages of each layer on the
              device, more where heads retrieve more at once
    packing   none, or int8 or fp8: a byte a number, with a scale for each token and head
    compiled  packed pages are gathered and dequantised by one compiled kernel, on a GPU
    """

    place: str = "device"
    packing: str = "none"
    slots: int = 12
    compiled: bool = False

    def __post_init__(self) -> None:
        for name, known in (("place", PLACES), ("packing", PACKINGS)):
            if getattr(self, name) not in known:
                raise CinelabError(
                    f"storage.{name} is {getattr(self, name)!r}; use one of {', '.join(known)}."
                )
        if self.slots < 1:
            raise CinelabError(
                f"storage.slots is {self.slots}; at least 1 page must fit on the device."
            )

    def new_store(self) -> KVStore:
        """Return an empty store with these settings."""
        if self.packing == "none":
            return self._plain_store()
        numbers, scales = (self._plain_store() for _ in range(2))
        return resolve(QUANTIZED_STORE)(self.packing, numbers, scales, compiled=self.compiled)

    def _plain_store(self) -> KVStore:
        return DeviceKVStore() if self.place == "device" else self._host_memory.new_store()

    @cached_property
    def _host_memory(self) -> Any:
        """What the stores of a film share where they lie in host memory."""
        return resolve(HOST_MEMORY)(self.slots)


@dataclass(eq=False)
class DeviceKVStore(Readable):
    """A growing buffer of pages along dim 1, on the device where they were made.

    Several caches may share it up to their own lengths: whoever writes past what others have
    written already gets a copy (copy on write). Where it grows it grows for all of them, so that no
    older cache holds a smaller buffer with the same pages.
    """

    buffer: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    used: int = 0

    def append(self, pages: Tensor, length: int) -> "DeviceKVStore":
        store, buffer = self.with_room(length, pages)
        store.used = length + pages.shape[1]
        buffer[:, length : store.used] = pages
        return store

    def with_room(self, length: int, like: Tensor) -> tuple["DeviceKVStore", Tensor]:
        new = length + like.shape[1]
        if self.used == 0 or length != self.used:
            return (made := DeviceKVStore(self._grown(length, new, like), length)), made.buffer
        if new > self.buffer.shape[1]:
            self.buffer = self._grown(length, new, like)
        return self, self.buffer

    def _grown(self, length: int, new: int, like: Tensor) -> Tensor:
        """Return a larger buffer with the first `length` pages, and room for `new` and a few."""
        room = new + grown_ahead(length, like[:, :1].nbytes)
        buffer = like.new_empty((like.shape[0], room, *like.shape[2:]))
        if length:
            buffer[:, :length] = self.buffer[:, :length]
        return buffer

    def take(self, picks: Tensor, length: int, out: Tensor | None = None) -> Tensor:
        # from the whole buffer: the first `length` pages of several films would have to be copied
        # before they could be picked from
        return gather_pages(self.buffer, to_device(picks, self.buffer.device)[:, :, None], out)[
            :, 0
        ]

    def all(self, length: int) -> Tensor:
        return self.buffer[:, :length]

    def view(self, first: int, length: int) -> Tensor | None:
        return self.buffer[:, first:length]

    def page_bytes(self) -> int:
        return self.buffer[:, :1].nbytes

    def expect(self, picks: Tensor, length: int) -> None:
        """Hear nothing: every page is on the device."""


def grown_ahead(length: int, page: int) -> int:
    """Return for how many further pages, of so many bytes, a buffer of `length` pages grows.

    A quarter more: twice would not fit beside a large model, nor would many large pages that a
    short film never fills.
    """
    return max(min(16, LITTLE // page), length // 4, 1)


def refuse_gradients(setting: str, remedy: str, pages: Tensor | None = None) -> None:
    """Raise CinelabError where gradients are on (and, where `pages` are given, wanted of them).

    What was moved to the host or quantized has left the graph: its gradient would be missing
    without a sign.
    """
    if torch.is_grad_enabled() and (pages is None or pages.requires_grad):
        raise CinelabError(
            f"storage.{setting} keeps no gradients, and gradients are on; {remedy} to train, or "
            "call the model under torch.no_grad()."
        )
