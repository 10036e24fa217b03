"""Where finished units are kept: on the device, or in host memory with those in use on the device;
whole or packed.

    B batch   n units   U tokens a unit   h heads   d head size   k kept units   G heads, or 1 where all choose together

A shelf is never changed for those who hold it: `append` after the first `length` units gives the
shelf that has them. Snapshots of a memory share what they have in common.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol

import torch
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.memory.context import gather

PLACES = ("device", "host")
PACKINGS = ("none", "int8", "fp8")


class KVStore(Protocol):
    """What every shelf can do."""

    # (B, m, U, h, d) after the first `length`
    def append(self, units: Tensor, length: int) -> "KVStore": ...

    # picks (B or 1, G, k) -> (B, k U, h, d)
    def take(self, picks: Tensor, length: int) -> Tensor: ...

    def all(self, length: int) -> Tensor: ...  # (B, length, U, h, d)

    def unit_bytes(self) -> int: ...  # of one unit as it is kept, all films


@dataclass(frozen=True)
class Storage:
    """How a film's memory is kept. `host` keeps the history in (pinned) host memory and `slots`
    units of each layer on the device, more where heads ask for more at once; a packed number takes
    one byte, with a scale for each token and head."""

    place: str = "device"
    packing: str = "none"
    slots: int = 12

    def __post_init__(self):
        for name, known in (("place", PLACES), ("packing", PACKINGS)):
            if getattr(self, name) not in known:
                raise CinelabError(
                    f"storage.{name} is {getattr(self, name)!r}; use one of {', '.join(known)}."
                )
        if self.slots < 1:
            raise CinelabError(
                f"storage.slots is {self.slots}; at least 1 unit must fit on the device."
            )

    def shelf(self) -> KVStore:
        """An empty one."""
        make = (
            DeviceKVStore if self.place == "device" else lambda: HostKVStore(PagePool(self.slots))
        )
        return make() if self.packing == "none" else QuantizedKVStore(self.packing, make(), make())


class DeviceKVStore:
    """A growing buffer of units along dim 1 that several memories may share up to their own
    lengths: whoever writes past what others have written already gets its own copy (copy on write).
    Where it grows it grows for all of them, so that no older memory keeps a smaller buffer with the
    same units."""

    def __init__(self, buffer: Tensor | None = None, used: int = 0):
        self.buffer = buffer
        self.used = used

    def append(self, units: Tensor, length: int) -> "DeviceKVStore":
        new = length + units.shape[1]
        if self.buffer is None or length != self.used:
            return DeviceKVStore(self._moved(units, length, new), new)
        if new > self.buffer.shape[1]:
            self.buffer = self._moved(units, length, new)
        else:
            self.buffer[:, length:new] = units
        self.used = new
        return self

    def _moved(self, units: Tensor, length: int, new: int) -> Tensor:
        """A larger buffer with the first `length` units and the new ones."""
        # a quarter more: twice would not fit beside a large model
        room = new + max(16, length // 4)
        buffer = units.new_empty((units.shape[0], room, *units.shape[2:]))
        if length:
            buffer[:, :length] = self.buffer[:, :length]
        buffer[:, length:new] = units
        return buffer

    def take(self, picks: Tensor, length: int) -> Tensor:
        # From the whole buffer: the first `length` of several films would have to be copied before
        # they could be picked from.
        return gather(self.buffer, picks.to(self.buffer.device)[:, :, None])[:, 0]

    def all(self, length: int) -> Tensor:
        return self.buffer[:, :length]

    def unit_bytes(self) -> int:
        return self.buffer[:, :1].nbytes


def refuse_gradients(kept: str, remedy: str, units: Tensor | None = None) -> None:
    """Raise CinelabError where gradients are on (and, where `units` are given, wanted of them):
    what was moved or packed has left the graph, so that they would be missing without a sign."""
    if torch.is_grad_enabled() and (units is None or units.requires_grad):
        raise CinelabError(
            f"storage.{kept} keeps no gradients, and gradients are on; {remedy} to train, or call "
            "the model under "
            "torch.no_grad()."
        )


class PagePool:
    """Room for a few units on the device; the least recently used makes way. All snapshots of a
    film share it."""

    def __init__(self, room: int):
        self.room = room
        self.buffer = None
        self.held: OrderedDict[int, int] = OrderedDict()  # number of a page -> its slot
        self.numbers = count()

    def fetch(self, pages: Sequence[tuple[int, Tensor]]) -> list[int]:
        """The slots of these pages (number, tensor (B, U, h, d)), which are all there when this
        returns."""
        if len(pages) > self.room or self.buffer is None:
            self._grow(max(self.room, len(pages)), pages[0][1])
        for number, _ in pages:
            if number in self.held:
                self.held.move_to_end(number)  # before any makes way: what is asked for now stays
        for number, page in pages:
            if number not in self.held:
                slot = (
                    len(self.held)
                    if len(self.held) < self.room
                    else self.held.popitem(last=False)[1]
                )
                self.buffer[:, slot].copy_(page, non_blocking=True)
                self.held[number] = slot
        return [self.held[number] for number, _ in pages]

    def _grow(self, room: int, like: Tensor) -> None:
        old = self.buffer
        device = like.device if self.buffer is None else self.buffer.device
        self.buffer = torch.empty(
            (like.shape[0], room, *like.shape[1:]), dtype=like.dtype, device=device
        )
        if old is not None:
            self.buffer[:, : old.shape[1]] = old
        self.room = room

    def put(self, unit: Tensor) -> int:
        """A new unit (B, U, h, d) that is on the device already; returns its number."""
        if self.buffer is None:
            self._grow(self.room, unit)
        number = next(self.numbers)
        self.fetch([(number, unit)])
        return number


class HostKVStore:
    """Units in host memory, pinned beside a GPU; copies in `slots` where they are used."""

    def __init__(self, slots: PagePool, pages: tuple[tuple[int, Tensor], ...] = ()):
        self.slots = slots
        self.pages = pages

    def append(self, units: Tensor, length: int) -> "HostKVStore":
        refuse_gradients("place 'host'", "use 'device'", units)
        new = tuple((self.slots.put(unit), to_host(unit)) for unit in units.unbind(1))
        return HostKVStore(self.slots, self.pages[:length] + new)

    def take(self, picks: Tensor, length: int) -> Tensor:
        # a block that is computed again would find its slots reused
        refuse_gradients("place 'host'", "use 'device'")
        # the one thing that is read back from the device
        wanted = picks.flatten().unique().tolist()
        slots = torch.tensor(
            self.slots.fetch([self.pages[unit] for unit in wanted]), dtype=torch.long
        )
        where = (
            torch.zeros(length, dtype=torch.long)
            .index_copy_(0, torch.tensor(wanted), slots)
            .to(picks.device)
        )
        buffer = self.slots.buffer
        return gather(buffer, where[picks].to(buffer.device)[:, :, None])[:, 0]

    def all(self, length: int) -> Tensor:
        tokens = self.pages[0][1].shape[1]
        return self.take(torch.arange(length)[None, None], length).unflatten(1, (length, tokens))

    def unit_bytes(self) -> int:
        return self.pages[0][1].nbytes


class QuantizedKVStore:
    """A byte for each number, and for each token and head the scale that its largest number
    sets."""

    def __init__(
        self, packing: str, numbers: KVStore, scales: KVStore, dtype: torch.dtype | None = None
    ):
        self.packing = packing
        self.numbers = numbers
        self.scales = scales
        self.dtype = dtype

    def append(self, units: Tensor, length: int) -> "QuantizedKVStore":
        refuse_gradients(f"packing {self.packing!r}", "use 'none'", units)
        numbers, scales = pack(units, self.packing)
        return QuantizedKVStore(
            self.packing,
            self.numbers.append(numbers, length),
            self.scales.append(scales, length),
            units.dtype,
        )

    def take(self, picks: Tensor, length: int) -> Tensor:
        return unpack(
            self.numbers.take(picks, length),
            self.scales.take(picks, length),
            self.packing,
            self.dtype,
        )

    def all(self, length: int) -> Tensor:
        return unpack(self.numbers.all(length), self.scales.all(length), self.packing, self.dtype)

    def unit_bytes(self) -> int:
        return self.numbers.unit_bytes() + self.scales.unit_bytes()


def pack(x: Tensor, packing: str) -> tuple[Tensor, Tensor]:
    """x (..., d) -> bytes (..., d) and scales (..., 1) in fp32."""
    most = {"int8": 127.0, "fp8": 448.0}[packing]  # the largest number of each
    scale = x.detach().float().abs().amax(-1, keepdim=True).clamp_min(1e-12) / most
    scaled = x.detach().float() / scale
    if packing == "int8":
        return scaled.round().to(torch.int8).view(torch.uint8), scale
    return scaled.to(torch.float8_e4m3fn).view(torch.uint8), scale


def unpack(numbers: Tensor, scale: Tensor, packing: str, dtype: torch.dtype) -> Tensor:
    """Back from bytes; off by half a step of the scale at most (int8), or by 1/16 of the number
    (fp8)."""
    kind = torch.int8 if packing == "int8" else torch.float8_e4m3fn
    return (numbers.view(kind).float() * scale).to(dtype)


def to_host(unit: Tensor) -> Tensor:
    """A copy in host memory; pinned, so that it moves beside the computation, where there is a
    GPU."""
    if unit.device.type == "cpu":
        return unit.detach().clone()
    page = torch.empty(unit.shape, dtype=unit.dtype, pin_memory=True)
    page.copy_(unit, non_blocking=True)  # in the order of this stream, on which it is read again
    return page
