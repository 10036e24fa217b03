"""The named modes that can be tried here, and the settings of a mode."""

from importlib.util import find_spec

import torch

from cinelab.scale import acceleration
from cinelab.scale.acceleration import Speed


def speeds() -> dict[str, Speed]:
    """Return exact, compiled and fast, as `cinelab.scale.acceleration` names them."""
    if named := getattr(acceleration, "SPEEDS", None):
        return dict(named)
    eight = "fp8" if torch.cuda.is_available() and find_spec("torchao") else "full"
    return {
        "exact": Speed(),
        "compiled": Speed(compiled=True),
        "fast": Speed(compiled=True, linears=eight),
    }
