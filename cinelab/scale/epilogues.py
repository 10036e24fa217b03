"""The feed-forward's first product with its GELU in the epilogue: the hidden layer is written once
and not read back to be activated (168 MB a block of Wan 1.3B at 480 x 832).

Law: equal to the linear and its GELU one after the other, to rounding; the activation is of the
product before that is rounded. On a GPU it is cuBLASLt's epilogue, elsewhere the plain way.
"""

from typing import cast

import torch
import torch.nn.functional as fn
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from cinelab.model.wan import CausalWan, FeedForward, Gate


@torch.library.custom_op("cinelab::linear_gelu", mutates_args=())
def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return GELU (by tanh) of x (T, D) times weight (N, D) plus bias: (T, N).

    It is an operator of its own, so that torch.compile does not take it apart.
    """
    if not x.is_cuda:
        return fn.gelu(fn.linear(x, weight, bias), approximate="tanh")
    return torch._addmm_activation(bias, x, weight.t(), use_gelu=True)


@linear_gelu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


# under autocast it multiplies what a linear would
for _device in ("cpu", "cuda"):
    linear_gelu.register_autocast(_device, torch.bfloat16)


@register_flop_formula(torch.ops.cinelab.linear_gelu)
def _(x: torch.Size, weight: torch.Size, *_: torch.Size, **__: object) -> int:
    return 2 * x.numel() * weight[0]


class FusedGate(Gate):
    """A gate whose GELU is the product's epilogue. For inference."""

    def forward(self, x: Tensor) -> Tensor:
        made = linear_gelu(x.flatten(0, -2), self.proj.weight, self.proj.bias)
        return made.unflatten(0, x.shape[:-1])


def fuse_gelu(model: CausalWan) -> CausalWan:
    """Return the model (in place) with the epilogue in every block whose linear is a plain one; one
    in eight bits stays as it is."""
    for part in model.modules():
        if isinstance(part, FeedForward):
            gate = cast(Gate, part.net[0])
            if type(gate.proj) is nn.Linear and gate.proj.bias is not None:
                gate.__class__ = FusedGate
    return model
