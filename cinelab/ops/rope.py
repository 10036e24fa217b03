"""Rotary positions in time and space, as in Wan2.1: the head is split into a time, a height and a
width part.

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
    angle = torch.cat(
        [y[:, None].expand(-1, width, -1), x[None].expand(height, -1, -1)], dim=-1
    ).flatten(0, 1)
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)


@lru_cache(maxsize=16)
def rope_for(head_dim: int, height: int, width: int, device: torch.device) -> "Rope":
    """The rotation of a token grid; it keeps the turns it has made."""
    return Rope(head_dim, height, width, device)


class Rope:
    """Rotation for one token grid. `freqs` makes the turns of some frames, `rotate` applies them."""

    def __init__(self, head_dim: int, height: int, width: int, device: torch.device | str = "cpu"):
        self.head_dim = head_dim
        self.height = height
        self.width = width
        self.space = _space(head_dim, height, width).to(device)
        self._time = self._turns(64)

    def _turns(self, frames: int) -> Tensor:
        """Complex (frames, Dt/2): the turns of times 0, 1, 2, ..."""
        angle = torch.outer(
            torch.arange(frames, dtype=torch.float64), _frequencies(split(self.head_dim)[0])
        )
        return torch.polar(torch.ones_like(angle), angle).to(torch.complex64).to(self.space.device)

    def freqs(self, frames: Tensor, last: int | None = None) -> Tensor:
        """Frame positions (..., F), whole and not negative -> complex turns (..., F * N, 1, D/2).
        Whoever knows that none is beyond `last` says so, since reading the largest back from a GPU
        would wait for it."""
        time = self._time_of(frames, last)[..., None, :]  # (..., F, 1, Dt/2)
        tokens = self.space.shape[0]
        lead = time.shape[:-2]
        both = torch.cat([time.expand(*lead, tokens, -1), self.space.expand(*lead, -1, -1)], dim=-1)
        return both.flatten(-3, -2)[..., None, :]  # (..., F N, 1, D/2)

    def _time_of(self, frames: Tensor, last: int | None) -> Tensor:
        last = last if last is not None else int(frames.max()) if frames.numel() else 0
        if last >= len(self._time):
            self._time = self._turns(2 * last)
        return self._time[frames.to(self._time.device)]  # (..., F, Dt/2)

    def rotate_retrieved(self, x: Tensor, frames: Tensor, last: int | None = None) -> Tensor:
        """Rotate kept keys (B, F N, heads, D), which have no gradient, to the frames (B or 1, heads
        or 1, F) where each stands.

        What `rotate` with their table would give, without the table: heads that kept other units
        would each have their own."""
        if not frames.shape[-1]:
            return x  # nothing is kept: every unit was erased
        time = self._time_of(frames, last).movedim(1, 2)[:, :, None]  # (B, F, 1, h, Dt/2)
        # (B, F, N, h, D/2)
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2))).unflatten(
            1, (frames.shape[-1], -1)
        )
        out = torch.empty_like(pairs)
        part = time.shape[-1]
        torch.mul(pairs[..., :part], time, out=out[..., :part])
        torch.mul(pairs[..., part:], self.space[:, None], out=out[..., part:])
        return torch.view_as_real(out).flatten(-2).flatten(1, 2).type_as(x)

    @staticmethod
    def rotate(x: Tensor, freqs: Tensor) -> Tensor:
        """Rotate queries or keys (..., F N, heads, D) by a table that broadcasts over them."""
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * freqs).flatten(-2).type_as(x)
