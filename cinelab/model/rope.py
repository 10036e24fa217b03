"""Rotary positions in time and space, as in Wan2.1: the head is split into a time, a height and a width part.

    F frames   N = h w tokens a frame   D head size, rotated as D / 2 complex numbers

Time positions are arguments, so a key may be kept unrotated and be given its place later.
"""

from functools import lru_cache

import torch
from torch import Tensor


def split(head_dim: int) -> tuple[int, int, int]:
    """Head dimensions given to time, height and width."""
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


@lru_cache(maxsize=64)
def _frequencies(dim: int, theta: float = 10000.0) -> Tensor:
    return 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)


@lru_cache(maxsize=64)
def _space(head_dim: int, height: int, width: int) -> Tensor:
    """Complex (h w, D/2 - time part): the turn of each token by its place in the picture."""
    _, rows, columns = split(head_dim)
    y = torch.outer(torch.arange(height, dtype=torch.float64), _frequencies(rows))
    x = torch.outer(torch.arange(width, dtype=torch.float64), _frequencies(columns))
    angle = torch.cat([y[:, None].expand(-1, width, -1), x[None].expand(height, -1, -1)], dim=-1).flatten(0, 1)
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)


class Rope:
    """Rotation for one token grid. `table` makes the turns of some frames, `turn` applies them."""

    def __init__(self, head_dim: int, height: int, width: int, device: torch.device | str = "cpu"):
        self.head_dim, self.height, self.width = head_dim, height, width
        self.space = _space(head_dim, height, width).to(device)
        self.time = _frequencies(split(head_dim)[0]).to(device)

    def table(self, frames: Tensor) -> Tensor:
        """Frame positions (..., F) -> complex turns (..., F * N, 1, D/2)."""
        angle = frames.to(self.time.device, torch.float64)[..., None] * self.time  # (..., F, Dt/2)
        time = torch.polar(torch.ones_like(angle), angle).to(torch.complex64)[..., None, :]
        tokens = self.space.shape[0]
        lead = time.shape[:-2]
        both = torch.cat([time.expand(*lead, tokens, -1), self.space.expand(*lead, -1, -1)], dim=-1)
        return both.flatten(-3, -2)[..., None, :]  # (..., F N, 1, D/2)

    @staticmethod
    def turn(x: Tensor, table: Tensor) -> Tensor:
        """Rotate queries or keys (..., F N, heads, D) by a table that broadcasts over them."""
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * table).flatten(-2).type_as(x)
