"""A network's blocks compiled for training: what a block does before and after self-attention, each
as one graph forward and one backward. Attention itself is the context's.

All blocks share their code, so it is compiled once for the first shape of a batch, and once more,
for any number of clips and latent frames, when another shape comes. `cinelab.scale.acceleration`
does the like for films.
"""

from collections.abc import Callable
from types import MethodType

from torch import nn

from cinelab.ops.compiling import Compiled

HALVES = ("pre_attention", "post_attention")
REMEDY = "set compiled to false"


def with_compiled_blocks(model: nn.Module, backend: str = "inductor") -> nn.Module:
    """Return the network (in place) with its blocks' halves compiled.

    A compiled half stays a method of its block, so that a copy of the network computes with the
    copy's weights. A network without such blocks is returned as it is. Where torch cannot compile
    them, a step raises CinelabError.
    """
    compiled: dict[Callable, Callable] = {}
    for block in getattr(model, "blocks", ()):
        for name in HALVES:
            half = getattr(type(block), name, None)
            if half is not None and name not in vars(block):
                compiled.setdefault(half, Compiled(half, remedy=REMEDY, backend=backend))
                setattr(block, name, MethodType(compiled[half], block))
    return model
