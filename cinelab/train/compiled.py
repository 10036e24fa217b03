"""A network's blocks compiled for training: what a block does before and after self-attention, each
as one graph forward and one backward. Attention itself is the context's.

All blocks share their code, so it is compiled once for the first shape of a batch, and once more,
for any number of clips and latent frames, when another shape comes. `cinelab.scale.acceleration`
does the like for films.
"""

from collections.abc import Callable
from functools import wraps
from types import MethodType
from typing import Any

import torch
from torch import nn

from cinelab.errors import CinelabError

HALVES = ("pre_attention", "post_attention")
COMPILERS = ("torch._dynamo", "torch._inductor", "torch._functorch", "triton")


def with_compiled_blocks(model: nn.Module, backend: str = "inductor") -> nn.Module:
    """Return the network (in place) with its blocks' halves compiled.

    A compiled half stays a method of its block, so that a copy of the network computes with the
    copy's weights. A network without such blocks is returned as it is.
    """
    compiled: dict[Callable, Callable] = {}
    for block in getattr(model, "blocks", ()):
        for name in HALVES:
            half = getattr(type(block), name, None)
            if half is not None and name not in vars(block):
                compiled.setdefault(half, _compiled(half, backend))
                setattr(block, name, MethodType(compiled[half], block))
    return model


def _compiled(half: Callable, backend: str) -> Callable:
    """Return a function compiled when it is first called. CinelabError where it cannot be."""
    made = torch.compile(half, backend=backend)

    @wraps(half)
    def called(*inputs: Any) -> Any:
        try:
            return made(*inputs)
        except Exception as error:
            if not type(error).__module__.startswith(COMPILERS):
                raise
            first = str(error).strip().partition("\n")[0]
            raise CinelabError(
                f"torch cannot compile the network's blocks here ({type(error).__name__}: "
                f"{first:.120}); set compiled to false."
            ) from error

    return called
