"""Whether the notebook's kernel hears its widgets: not while it runs a cell, blocking or
awaiting."""

import time
from contextlib import suppress
from math import inf
from typing import Any


class Kernel:
    """Follows the cells of an IPython shell, and begins within one. Without a shell there are no
    cells."""

    def __init__(self, shell: Any = None) -> None:
        self._shell = shell
        self._free_since = None if self._shell else -inf  # time.monotonic(); None = a cell runs
        self._heeds = (("pre_execute", self._begins), ("post_execute", self._ends))
        for event, call in self._heeds if self._shell else ():
            self._shell.events.register(event, call)

    def free_for(self) -> float:
        """Seconds since the last cell ended: 0 while one runs, infinite where there are no
        cells."""
        since = self._free_since
        return 0.0 if since is None else time.monotonic() - since

    def let_go(self) -> None:
        """Follow no longer."""
        for event, call in self._heeds if self._shell else ():
            with suppress(ValueError):  # it was let go of already
                self._shell.events.unregister(event, call)

    def _begins(self) -> None:
        self._free_since = None

    def _ends(self) -> None:
        self._free_since = time.monotonic()
