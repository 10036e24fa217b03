"""Where the package computes: the one place that decides between a GPU and the CPU.

    chosen_device()            "cuda" where a GPU is there and works, else "cpu"
    chosen_device("cuda:1")    the second GPU, or a sentence that says why not

What a call names goes before the environment variable CINELAB_DEVICE, and that before "auto".
`cinelab doctor` prints the choice and its reason.
"""

import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from cinelab.errors import CinelabError

if TYPE_CHECKING:  # torch takes a second to import
    import torch

VARIABLE = "CINELAB_DEVICE"
VISIBLE = "CUDA_VISIBLE_DEVICES"  # of CUDA: the GPUs that a process may use, with commas
AUTO = "auto"
# where the drivers of GPUs are seen without asking them (NVIDIA's, AMD's)
DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
KNOWN = 'use "auto", "cpu", "cuda" or "cuda:<number>"'


@dataclass(frozen=True)
class DeviceChoice:
    """A device as torch names it, and in words why it is this one."""

    device: str
    why: str


def chosen_device(asked: "str | torch.device | None" = None) -> str:
    """Return the device to compute on, as torch names it: "cpu", "cuda", "cuda:1".

    None is what the environment variable CINELAB_DEVICE names, else "auto": a GPU where one is
    there and computes, else the CPU. Raise CinelabError for a name that is no device, and for a
    device that is not there or does not compute.
    """
    return device_choice(asked).device


def device_choice(asked: "str | torch.device | None" = None) -> DeviceChoice:
    """Return the device to compute on, and why. Errors as in `chosen_device`."""
    named = _variable() if asked is None else str(asked)
    source = f"{VARIABLE}={named}" if asked is None else f"device {named!r}"
    if named != AUTO:
        return DeviceChoice(_checked(named, source), f"{source} names it")
    lacks = why_no_gpu()
    return DeviceChoice("cpu", lacks) if lacks else DeviceChoice("cuda", "a GPU is there and works")


def device_of_rank(local_rank: int) -> str:
    """Return the device of one of several processes that train together: a GPU each, else the
    CPU. Errors as in `chosen_device`."""
    named = _variable()
    if named not in (AUTO, "cuda") or (named == AUTO and _absence(None)):
        return chosen_device()
    return chosen_device(f"cuda:{local_rank}")


def _variable() -> str:
    return os.environ.get(VARIABLE, "").strip() or AUTO


def _checked(named: str, source: str) -> str:
    """Return the name of a device that computes. Raise CinelabError for any other."""
    import torch

    device = _parsed(named, source)
    if device.type == "meta" and source.startswith(VARIABLE):
        raise CinelabError(f"{source} names no device that computes; {KNOWN}.")
    if device.type == "cuda" and (lacks := why_no_gpu(device.index)):
        raise CinelabError(f"{source} cannot be used: {lacks}; use cpu, or auto.")
    if device.type not in ("cpu", "meta", "cuda"):
        try:
            torch.zeros(1, device=device)
        except (RuntimeError, NotImplementedError, AssertionError) as error:
            raise CinelabError(f"{source} cannot be used: {_line(error)}; {KNOWN}.") from error
    return "cpu" if device.type == "cpu" else str(device)


def _parsed(named: str, source: str) -> "torch.device":
    """Return a device by its name. Raise CinelabError for what is none, and for a GPU that is not
    there."""
    import torch

    try:
        device = torch.device(named)
    except RuntimeError as error:
        raise CinelabError(f"{source} is no device; {KNOWN}.") from error
    if device.type == "cuda" and (lacks := _absence(device.index)):
        raise CinelabError(f"{source} cannot be used: {lacks}; use cpu, or auto.")
    return device


@cache
def why_no_gpu(index: int | None = None) -> str:
    """Return in words what keeps torch from computing on a GPU (None: the current one), "" where
    nothing does. A small sum is computed to know."""
    import torch

    if lacks := _absence(index):
        return lacks
    try:
        torch.ones(2, device="cuda" if index is None else f"cuda:{index}").sum().item()
    except (RuntimeError, AssertionError) as error:
        return f"a GPU is there and does not compute ({_line(error)})"
    return ""


@cache
def _absence(index: int | None) -> str:
    """Return in words why torch finds no GPU (of that number), "" where it finds one. No GPU is
    touched."""
    import torch

    with warnings.catch_warnings(record=True) as raised:  # torch warns of a driver that is too old
        warnings.simplefilter("always")
        there = torch.cuda.is_available()
    if there:
        count = torch.cuda.device_count()
        gpus = ", ".join(f"cuda:{number}" for number in range(count))
        return f"the GPUs here are {gpus}" if index is not None and index >= count else ""
    if torch.version.cuda is None and torch.version.hip is None:
        return "this torch is built for the CPU alone"
    lines = [_line(one.message) for one in raised]
    return next((text for text in lines if "driver" in text), "torch finds no GPU")


def _line(problem: object) -> str:
    """Return the first sentence of what torch says, short enough for a message."""
    text = " ".join(str(problem).split())
    return text.partition(". ")[0][:120].rstrip(".:")


@contextmanager
def device_of_process(asked: str | None) -> Iterator[None]:
    """Make `asked` the device of this process and of those that it starts, inside; None is what
    CINELAB_DEVICE names, and changes nothing. Raise CinelabError for what is no device, and for a
    GPU that is not there; whether it computes is seen by whoever computes on it, so that a process
    that only starts others leaves the GPU alone."""
    named = _variable() if asked is None else asked
    source = f"{VARIABLE}={named}" if asked is None else f"device {named!r}"
    if named not in (AUTO, "cpu") and _parsed(named, source).type == "meta":
        raise CinelabError(f"{source} names no device that computes; {KNOWN}.")
    if asked is None:
        yield
        return
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = asked
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def device_name(device: "str | torch.device | None" = None) -> str:
    """Return what the bits of a computation depend on: "cpu", or the GPU's own name, such as
    "NVIDIA H100 80GB HBM3". None is the chosen device."""
    import torch

    where = torch.device(chosen_device() if device is None else device)
    return torch.cuda.get_device_name(where) if where.type == "cuda" else where.type


def hardware_name(device: "str | torch.device | None" = None) -> str:
    """Return the name of the GPU, or of the processor, that a device is; None is the chosen one."""
    name = device_name(device)
    return _processor() if name == "cpu" else name


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; none where
    the chosen device is not one. No GPU is touched, and torch is imported only beside a driver."""
    named = _variable()
    if not (named == AUTO or named.startswith("cuda")) or not any(map(os.path.exists, DRIVERS)):
        return []
    import torch

    count = torch.cuda.device_count()
    stated = [one.strip() for one in os.environ.get(VISIBLE, "").split(",") if one.strip()]
    gpus = (stated or [str(number) for number in range(count)])[:count]
    index = named.partition(":")[2]
    return [gpus[int(index)]] if index.isdigit() and int(index) < len(gpus) else gpus


class SharedGpus:
    """Which GPU each of several workers has: one of its own, shared where there are fewer."""

    def __init__(self, gpus: list[str]):
        self._gpus = gpus
        self._taken: dict[int, str] = {}  # by worker

    def take(self, worker: int) -> dict[str, str]:
        """Return what the environment of a worker that begins says of its GPU: the one that the
        fewest others have. {} where there is none."""
        if not self._gpus:
            return {}
        taken = list(self._taken.values())
        self._taken[worker] = min(self._gpus, key=taken.count)
        # it is the only one that the worker knows, and so has no number there
        return {VISIBLE: self._taken[worker], VARIABLE: "cuda"}

    def give_back(self, worker: int) -> None:
        """Note that a worker has ended."""
        self._taken.pop(worker, None)
