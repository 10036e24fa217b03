"""Seconds of a call on a device."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch


def seconds(call: Callable[[], Any], device: str, repeats: int = 20, warm: int = 3) -> float:
    """Return the median seconds of a call, by events on a GPU, the first calls left out."""
    for _ in range(warm):
        call()
    if device != "cuda":
        return median(_wall(call) for _ in range(min(repeats, 3)))
    events = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(repeats)]
    for begin, end in events:
        begin.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return median(begin.elapsed_time(end) for begin, end in events) / 1000


def _wall(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
