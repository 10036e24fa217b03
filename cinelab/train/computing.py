"""How the steps of a training are computed, whatever it trains: where their random numbers are
drawn, and whether the network's blocks are compiled.

    draws      auto     as the run began; a new one on the device of a GPU, else on the host
               host     by torch's generator on the CPU, and moved
               device   by the counter-based generator (see `cinelab.seeds`) where they are used
    compiled   auto     on a GPU, where torch can compile for it
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


def is_compiled(config: Any, device: str) -> bool:
    """Return whether the network of a training on a kind of device is compiled. Torch compiles for
    a GPU by Triton."""
    wanted = getattr(config, "compiled", False)
    return device == "cuda" and find_spec("triton") is not None if wanted == AUTO else bool(wanted)
