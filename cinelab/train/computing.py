"""How the steps of a training are computed, whatever it trains: where their random numbers are
drawn, and whether the network's blocks are compiled.

    draws      auto     as the run began; a new one on the device of a GPU, else on the host
               host     by torch's generator on the CPU, and moved
               device   by the counter-based generator (see `cinelab.seeds`) where they are used
    compiled   auto     on one GPU, where torch can compile for it, and the training is long enough
               true, false
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from cinelab.errors import CinelabError
from cinelab.readable import Readable
from cinelab.runs import Run
from cinelab.seeds import CounterGenerator

AUTO = "auto"
HOST = "host"
DEVICE = "device"
# steps from which on compiling is worth it: it takes about a minute, and shortens a step by some
# tens of milliseconds
LONG = 2000


@dataclass(frozen=True, kw_only=True)
class Computing(Readable):
    """The settings that all trainings of films have in common (see the head of the file)."""

    draws: str = AUTO
    compiled: bool | str = AUTO

    def __post_init__(self) -> None:
        if self.draws not in (AUTO, HOST, DEVICE):
            raise CinelabError(f"draws is {self.draws!r}; use {AUTO}, {HOST} or {DEVICE}.")
        if self.compiled not in (AUTO, True, False):
            raise CinelabError(f"compiled is {self.compiled!r}; use {AUTO}, true or false.")


def generator_kind(config: Any, run: Run, device: str) -> type[torch.Generator]:
    """Return the kind of generator that a run's steps draw from on a kind of device, and note it in
    the run. CinelabError where its settings say another place than it began with.

    Settings without `draws`, such as those of a stage of one's own, draw on the host.
    """
    here = DEVICE if device == "cuda" else HOST
    place = run.draws_at(getattr(config, "draws", HOST), here)
    return CounterGenerator if place == DEVICE else torch.Generator


def is_compiled(config: Any, device: str, processes: int = 1) -> bool:
    """Return whether the networks of a training on a kind of device are compiled. For a GPU torch
    compiles by Triton; weights that several processes hold together are left as they are."""
    wanted = getattr(config, "compiled", False)
    if wanted != AUTO:
        return bool(wanted)
    worth = config.steps >= LONG and processes == 1
    return worth and device == "cuda" and find_spec("triton") is not None
