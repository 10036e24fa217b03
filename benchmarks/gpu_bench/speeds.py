"""The named modes that can be tried here."""

from dataclasses import replace

import torch

from cinelab.ops.attention import available
from cinelab.scale.acceleration import SPEEDS, Speed

# of a machine without a kernel in eight bits
PARTLY_FAST = "fast, attention in bf16"


def speeds() -> dict[str, Speed]:
    """Return exact, compiled and fast (`cinelab.scale.acceleration.SPEEDS`). Where no kernel in
    eight bits is there, fast keeps attention as it is and has a name of its own."""
    named = dict(SPEEDS)
    fast = named.pop("fast")
    if available(fast.kernel):
        return named | {"fast": fast}
    linears = fast.linears if torch.cuda.is_available() else "full"
    return named | {PARTLY_FAST: replace(fast, kernel="auto", linears=linears)}
