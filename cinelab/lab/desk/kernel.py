"""Whether the notebook's kernel reads the messages of its widgets: not while a cell runs, blocking
or awaiting."""

import time
from contextlib import suppress
from math import inf
from typing import Any


class KernelActivity:
    """Follows the cells of an IPython `shell`, and begins within one. Without a shell no cell is
    ever in the way."""

    def __init__(self, shell: Any = None) -> None:
        self._shell = shell
        # time.monotonic(); None = a cell runs
        self._free_since: float | None = None if shell else -inf
        self._callbacks = (("pre_execute", self._cell_begins), ("post_execute", self._cell_ends))
        for event, callback in self._callbacks if shell else ():
            shell.events.register(event, callback)

    def free_for(self) -> float:
        """Return the seconds since the last cell ended: 0 while one runs, infinite without a
        shell."""
        since = self._free_since
        return 0.0 if since is None else time.monotonic() - since

    def stop(self) -> None:
        """Unregister from the shell."""
        for event, callback in self._callbacks if self._shell else ():
            with suppress(ValueError):  # it was unregistered already
                self._shell.events.unregister(event, callback)

    def _cell_begins(self) -> None:
        self._free_since = None

    def _cell_ends(self) -> None:
        self._free_since = time.monotonic()
