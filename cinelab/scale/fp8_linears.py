"""Linears whose weights and inputs are multiplied in fp8 (e4m3), by torch's own scaled product.

    y = s_x s_w (x8 w8') + b    x (..., I)   w (O, I)   y (..., O)

Each row of the input (a token) and each row of the weights (an output) has a scale of its own, its
largest value over 448, as in torchao's and Transformer Engine's row-wise recipes. What is rounded
is what is multiplied; sums are fp32. Fast, not exact, and worth it under `torch.compile` alone:
there the input's rounding joins the operation before it, and without that it takes longer than
the product saves.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from cinelab.errors import CinelabError

E4M3 = torch.float8_e4m3fn
LARGEST = torch.finfo(E4M3).max
GRAIN = 16  # what the sides of a scaled product are whole multiples of


class Product(Protocol):
    """What multiplies by weights (O, I) and adds a bias (O): a linear, or several as one."""

    @property
    def weight(self) -> Tensor: ...

    @property
    def bias(self) -> Tensor | None: ...


class Fp8Linear(nn.Module):
    """A linear in fp8. It has no parameters and no gradient; its bytes are half of bf16's."""

    weight: Tensor  # (O, I) e4m3
    scale: Tensor  # (1, O) fp32
    bias: Tensor | None

    def __init__(self, linear: Product):
        super().__init__()
        weight, scale = rounded_rows(linear.weight.detach())
        bias = None if linear.bias is None else linear.bias.detach()
        for name, value in (("weight", weight), ("scale", scale.T), ("bias", bias)):
            self.register_buffer(name, value, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return y (..., O) of x (..., I), in bf16."""
        rows, scale = rounded_rows(x.flatten(0, -2))
        y = torch._scaled_mm(
            rows,
            self.weight.T,
            scale_a=scale,
            scale_b=self.scale,
            bias=self.bias,
            out_dtype=x.dtype,
            use_fast_accum=True,
        )
        return y.unflatten(0, x.shape[:-1])


def rounded_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x (R, I) in e4m3, and what each row was divided by (R, 1), fp32."""
    scale = x.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / LARGEST
    return (x.float() / scale).to(E4M3), scale


def check_sides(name: str, linear: Product) -> None:
    """Refuse a linear that a scaled product cannot do."""
    if linear.weight.dtype != torch.bfloat16 or any(s % GRAIN for s in linear.weight.shape):
        raise CinelabError(
            f"speed.linears is 'fp8', and {name} is {tuple(linear.weight.shape)} in "
            f"{str(linear.weight.dtype).removeprefix('torch.')}; it needs bf16 and sides in whole "
            f"multiples of {GRAIN}, so use linears 'full'."
        )
