"""Rotary positions (RoPE, arXiv 2104.09864) in time and space, as in Wan2.1 (arXiv 2503.20314):
the head is split into a time, a height and a width part.

    F latent frames   N tokens a frame   h heads   D head size, rotated as D / 2 complex numbers
    Dt head dimensions that turn with time   k U = F N tokens of retrieved pages

Time positions are arguments, so a key may be stored unrotated and be given its position later.
"""

from functools import lru_cache

import torch
from torch import Tensor


def split(head_dim: int) -> tuple[int, int, int]:
    """Return how many head dimensions turn with time, with height and with width."""
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


@lru_cache(maxsize=64)
def _frequencies(dim: int, theta: float = 10000.0) -> Tensor:
    return 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)


@lru_cache(maxsize=64)
def _space(head_dim: int, height: int, width: int) -> Tensor:
    """Return complex (N, (D - Dt) / 2): each token's rotation by its place in the frame."""
    _, rows, columns = split(head_dim)
    y = torch.outer(torch.arange(height, dtype=torch.float64), _frequencies(rows))
    x = torch.outer(torch.arange(width, dtype=torch.float64), _frequencies(columns))
    angle = torch.cat(
        [y[:, None].expand(-1, width, -1), x[None].expand(height, -1, -1)], dim=-1
    ).flatten(0, 1)
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)


@lru_cache(maxsize=16)
def rope_for(head_dim: int, height: int, width: int, device: torch.device) -> "Rope":
    """Return the `Rope` of a token grid; calls share it, and so the rotations it has computed."""
    return Rope(head_dim, height, width, device)


class Rope:
    """Rotary positions of one token grid (Wan2.1's 3D RoPE).

    `freqs` computes the complex rotations of some latent frames, `rotate` applies them.
    """

    def __init__(self, head_dim: int, height: int, width: int, device: torch.device | str = "cpu"):
        self.head_dim = head_dim
        self.height = height
        self.width = width
        self.space = _space(head_dim, height, width).to(device)
        self._time = self._rotations(64)

    def _rotations(self, frames: int) -> Tensor:
        """Return complex (frames, Dt/2): the rotations of latent frames 0, 1, 2, ..."""
        angle = torch.outer(
            torch.arange(frames, dtype=torch.float64), _frequencies(split(self.head_dim)[0])
        )
        return torch.polar(torch.ones_like(angle), angle).to(torch.complex64).to(self.space.device)

    def freqs(self, frames: Tensor, last: int | None = None) -> Tensor:
        """Return complex rotations (..., F N, 1, D/2) of latent frames (..., F), each at least 0.

        A caller who knows that no frame is beyond `last` gives it: reading the largest back from
        a GPU would wait for the GPU.
        """
        time = self._time_of(frames, last)[..., None, :]  # (..., F, 1, Dt/2)
        tokens = self.space.shape[0]
        lead = time.shape[:-2]
        both = torch.cat([time.expand(*lead, tokens, -1), self.space.expand(*lead, -1, -1)], dim=-1)
        return both.flatten(-3, -2)[..., None, :]  # (..., F N, 1, D/2)

    def _time_of(self, frames: Tensor, last: int | None) -> Tensor:
        last = last if last is not None else int(frames.max()) if frames.numel() else 0
        if last >= len(self._time):
            self._time = self._rotations(2 * last)  # twice, so that a long film seldom comes here
        return self._time[frames.to(self._time.device)]  # (..., F, Dt/2)

    def rotate_retrieved(self, x: Tensor, frames: Tensor, last: int | None = None) -> Tensor:
        """Return retrieved keys (B, F N, h, D) rotated to the latent frames (B or 1, h or 1, F).

        The result equals `rotate` with `freqs` of those frames. Those rotations are not laid out
        here for every token, since heads that retrieved different pages would each need their own:
        the time part is rotated by frame, the space part by token. The keys carry no gradient.
        """
        if not frames.shape[-1]:
            return x  # every page was erased
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
        """Return queries or keys (..., F N, h, D) rotated by `freqs`, which broadcast over them."""
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * freqs).flatten(-2).type_as(x)
