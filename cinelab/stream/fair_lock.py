"""A lock that films of one model share, so that each gets its turn."""

import threading
import time

TURN = 0.25  # seconds after which long work passes the turn on


class FairLock:
    """A lock that is granted in the order of the requests: films that share one model take turns,
    chunk by chunk."""

    def __init__(self):
        self._next = 0
        self._now = 0
        self._owner: int | None = None
        self._since = 0.0
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        with self._changed:
            mine = self._next
            self._next = self._next + 1
            self._changed.wait_for(lambda: self._now == mine)
            self._owner = threading.get_ident()
            self._since = time.monotonic()

    def __exit__(self, *_) -> None:
        with self._changed:
            self._owner = None
            self._now += 1
            self._changed.notify_all()

    def pass_on(self, seconds: float = TURN) -> bool:
        """Within long work: release the lock if it has been held for so many seconds and others
        wait, and take it again after them. Return whether that happened."""
        late = self._owner == threading.get_ident() and time.monotonic() - self._since > seconds
        if not late or self._next == self._now + 1:
            return False
        self.__exit__()
        self.__enter__()
        return True
