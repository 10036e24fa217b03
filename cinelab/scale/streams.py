"""Streams of a device, for copies beside the computation.

Work of one stream is done in order; an event stands between two streams. On a CPU there is one
order for everything, work is done at once and events are None, so that the same code runs there.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Event = Any  # torch.cuda.Event, or None where nothing has to be waited for


class Stream(Protocol):
    """Where work is queued."""

    def run(self, work: Callable[[], object], after: Iterable[Event] = ()) -> Event:
        """Queue work behind what is queued here already, and behind the events `after`; return the
        event of its end. The host does not wait."""
        ...

    def uses(self, tensor: Tensor) -> None:
        """Note that a tensor of another stream is used here, so that its memory is not given away
        while it is."""
        ...


class AtOnce:
    """The order of a CPU: work is done when it is queued."""

    def run(self, work: Callable[[], object], after: Iterable[Event] = ()) -> Event:
        work()
        return None

    def uses(self, tensor: Tensor) -> None:
        """Nothing is given away before it is done with."""


class CudaStream:
    """A stream of a GPU: one of its own, or the one that the caller computes in."""

    def __init__(self, device: torch.device, *, own: bool):
        self.device = device
        self.own = torch.cuda.Stream(device) if own else None

    def run(self, work: Callable[[], object], after: Iterable[Event] = ()) -> Event:
        stream = self.own or torch.cuda.current_stream(self.device)
        for event in after:
            if event is not None:
                stream.wait_event(event)
        with torch.cuda.stream(stream):
            work()
        return stream.record_event()

    def uses(self, tensor: Tensor) -> None:
        if self.own is not None:
            tensor.record_stream(self.own)


@dataclass(frozen=True)
class Streams:
    """Where a store of pages in host memory computes and copies.

    Copies in and out have a stream each, since PCIe carries both ways at once.
    """

    compute: Stream
    inward: Stream  # host to device
    outward: Stream  # device to host


def streams_of(device: torch.device) -> Streams:
    """Return the streams of a device."""
    if device.type != "cuda":
        return Streams(AtOnce(), AtOnce(), AtOnce())
    return Streams(
        CudaStream(device, own=False),
        CudaStream(device, own=True),
        CudaStream(device, own=True),
    )
