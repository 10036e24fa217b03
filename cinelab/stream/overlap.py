"""Two things at once: chunk i + 1 is denoised while chunk i is decoded, each on its own stream of a
GPU."""

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch

from cinelab.errors import CinelabError

Item = TypeVar("Item")


def prefetch(items: Iterator[Item], room: int = 1) -> Iterator[Item]:
    """Yield the same items, made in a thread that is at most `room` finished ones ahead. What it
    raises is raised here; a caller that stops early ends it after the running item."""
    done: queue.Queue = queue.Queue(maxsize=room)
    over = threading.Event()

    def put(item: object) -> bool:
        while not over.is_set():
            try:
                done.put(item, timeout=0.1)
                return True
            except queue.Full:
                pass
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((None, StopIteration()))
        except Exception as error:  # it is raised where the items are read
            put((None, error))

    thread = threading.Thread(target=work, name="cinelab-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = done.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        over.set()
        thread.join()


class DeviceFull(CinelabError):
    """A device ran out of memory while a film was made."""


@contextmanager
def explain_oom(what: str) -> Iterator[None]:
    """Turn an error of a device that runs out of memory into one sentence."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceFull(
            f"{what} ran out of memory on the device ({str(error).splitlines()[0]}); keep the "
            "history in host memory (place host), pack it (packing fp8), or lower the budget, the "
            "chunk or the size."
        ) from error


class Stopwatch:
    """Seconds by cause of work on a device: laps are noted on the device's own clock, and read once
    at the end, so that measuring does not wait in between."""

    def __init__(self, device: torch.device):
        self.device = device
        self.causes: list[str] = []
        self.times: list[Any] = [self._now()]

    def lap(self, cause: str) -> None:
        """End a lap: what was begun since the last one, or since the start, counts as `cause`."""
        self.causes.append(cause)
        self.times.append(self._now())

    def seconds(self) -> dict[str, float]:
        """Wait until all laps have ended; return their seconds."""
        if self.device.type == "cuda":
            self.times[-1].synchronize()
        pairs = zip(self.times, self.times[1:], strict=False)
        return dict(zip(self.causes, (self._between(*pair) for pair in pairs), strict=True))

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, earlier: Any, later: Any) -> float:
        if self.device.type != "cuda":
            return later - earlier
        return earlier.elapsed_time(later) / 1000


def _is_gpu(device: str) -> bool:
    return torch.device(device).type == "cuda"  # "cuda:1" too


def side_stream(device: str):
    """Return a stream of its own for what runs beside the model; no stream on a CPU."""
    return torch.cuda.stream(torch.cuda.Stream(device)) if _is_gpu(device) else nullcontext()


def synchronize(device: str) -> None:
    """Wait until this thread's stream has finished, so that another stream may read its results and
    a clock be stopped."""
    if _is_gpu(device):
        torch.cuda.current_stream().synchronize()
