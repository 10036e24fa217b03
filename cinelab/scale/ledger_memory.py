"""Live bytes: what lies in a GPU's memory while a run goes on, and the most of it, by cause.

The storages of all tensors on `meta` are followed by weak references: a storage lives from the
operator that made it until nothing refers to it. What kernels take as workspace is not seen, and
neither is what the allocator holds unused.
"""

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.weak import WeakIdKeyDictionary

from cinelab.scale.ledger_ops import gpu_tensors


class LiveBytes:
    """The bytes of storages that are alive, by cause; `most` is what they were at the peak."""

    def __init__(self) -> None:
        self.live: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.cause = ""
        self._known = WeakIdKeyDictionary()

    @contextmanager
    def because(self, cause: str) -> Iterator[None]:
        """Give this cause to all storages that are made inside."""
        before = self.cause
        self.cause = cause
        try:
            yield
        finally:
            self.cause = before

    def see(self, leaves: Iterable[Any], cause: str) -> None:
        """Count the storages of new tensors under the cause in force, or else under `cause`."""
        for x in gpu_tensors(list(leaves)):
            storage = x.untyped_storage()
            if storage in self._known:
                continue
            self._known[storage] = True
            name = self.cause or cause
            size = storage.nbytes()
            self.live[name] += size
            weakref.finalize(storage, self._free, name, size)
        self._mark()

    def forget_peak(self) -> None:
        """Begin a new peak at what is alive now."""
        self.most = Counter(self.live)

    def _free(self, cause: str, size: int) -> None:
        self.live[cause] -= size

    def _mark(self) -> None:
        if self.live.total() > self.most.total():
            self.most = Counter(self.live)
