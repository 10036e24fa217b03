"""The named modes that can be tried here."""

from dataclasses import replace
from importlib.util import find_spec

import torch

from cinelab.ops.attention import available
from cinelab.scale import acceleration
from cinelab.scale.acceleration import Speed

# of a machine without a kernel in eight bits
PARTLY_FAST = "fast, attention in bf16"


def speeds() -> dict[str, Speed]:
    """Return exact, compiled and fast, as `cinelab.scale.acceleration` names them. Where no kernel
    in eight bits is there, fast keeps attention as it is and has a name of its own."""
    named = dict(getattr(acceleration, "SPEEDS", None) or _before_they_had_names())
    fast = named.pop("fast")
    if available(fast.kernel):
        return named | {"fast": fast}
    return named | {PARTLY_FAST: replace(fast, kernel="auto", linears=_linears(fast))}


def _linears(fast: Speed) -> str:
    return fast.linears if torch.cuda.is_available() else "full"


def _before_they_had_names() -> dict[str, Speed]:
    eight = "fp8" if torch.cuda.is_available() and find_spec("torchao") else "full"
    fast = Speed(compiled=True, linears=eight)
    return {"exact": Speed(), "compiled": Speed(compiled=True), "fast": fast}
