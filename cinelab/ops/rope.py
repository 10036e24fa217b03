"""Rotary positions (RoPE, arXiv 2104.09864) in time and space, as in Wan2.1 (arXiv 2503.20314):
the head is split into a time, a height and a width part.

    F latent frames   N tokens a frame   h heads   D head size, rotated in D / 2 pairs
    Dt head dimensions that turn with time

A key is rotated once, at its place in the film. Where that place is too far away to be attended to
(or places are packed side by side), it is moved in time: rotations add up.
"""

from functools import lru_cache

import torch
from torch import Tensor

from cinelab.ops.tensors import to_device


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

    `freqs` computes the rotations of some latent frames, `rotate` applies them.
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
        table = torch.polar(torch.ones_like(angle), angle).to(torch.complex64)
        return to_device(table, self.space.device)

    def freqs(self, frames: Tensor, last: int | None = None) -> Tensor:
        """Return rotations (..., F N, 1, D/2, 2) of latent frames (..., F), each at least 0: the
        cosine and the sine of every pair of head dimensions.

        A caller who knows that no frame is beyond `last` gives it: reading the largest back from
        a GPU would wait for the GPU.
        """
        return self._of_tokens(self._time_of(frames, last))

    def freqs_from(self, first: int, count: int) -> Tensor:
        """Return `freqs` of `count` consecutive latent frames, the first of which is `first`."""
        return self._of_tokens(self._table(first + count)[first : first + count])

    def _of_tokens(self, time: Tensor) -> Tensor:
        """Return rotations (..., F N, 1, D/2, 2) from those in time (..., F, Dt/2)."""
        time = time[..., None, :]  # (..., F, 1, Dt/2)
        tokens = self.space.shape[0]
        lead = time.shape[:-2]
        both = torch.cat([time.expand(*lead, tokens, -1), self.space.expand(*lead, -1, -1)], dim=-1)
        # (..., F N, 1, D/2, 2)
        return torch.view_as_real(both.flatten(-3, -2)[..., None, :])

    def _table(self, frames: int) -> Tensor:
        """Return complex rotations (at least `frames`, Dt/2) of latent frames 0, 1, 2, ..."""
        if frames > len(self._time):
            self._time = self._rotations(2 * frames)  # so that a long film seldom comes here
        return self._time

    def _time_of(self, frames: Tensor, last: int | None) -> Tensor:
        last = last if last is not None else int(frames.max()) if frames.numel() else 0
        table = self._table(last + 1)
        return table[to_device(frames, table.device)]  # (..., F, Dt/2)

    def turns(self, by: Tensor) -> Tensor:
        """Return the rotations in time (..., Dt/2, 2) by so many latent frames (...), which may be
        below 0; `by` is on the host."""
        turns = self._time_of(by.abs(), int(by.abs().max()))
        back = to_device(by, turns.device)[..., None] < 0
        return torch.view_as_real(torch.where(back, turns.conj(), turns).resolve_conj())

    def move_(self, x: Tensor, turns: Tensor) -> None:
        """Move rotated keys x (B, F N, h, D) in time, in place, by `turns` (B or 1, h or 1, F,
        Dt/2, 2).

        They then equal keys that were rotated at the new place at once, to rounding, and are
        unchanged to the bit where they are moved by 0. Only the part of a head that turns with
        time is computed. The keys carry no gradient.
        """
        part = x.unflatten(1, (turns.shape[2], -1))[..., : split(self.head_dim)[0]]
        part.copy_(self.rotate(part, turns.movedim(1, 2)[:, :, None]))

    def rotate(self, x: Tensor, freqs: Tensor) -> Tensor:
        """Return queries or keys (..., F N, h, D) rotated by `freqs`, which broadcast over them."""
        return rotated(x, freqs)

    def rotate_into(self, x: Tensor, freqs: Tensor, out: Tensor) -> None:
        """Write what `rotate` returns into `out`, of the shape of x."""
        out.copy_(rotated(x, freqs))

    def rotated_back(self, x: Tensor, freqs: Tensor) -> Tensor:
        """Return what `rotate` made x (..., F N, h, D) of, to rounding."""
        return self.rotate(x, torch.stack([freqs[..., 0], -freqs[..., 1]], dim=-1))


def rotated(x: Tensor, freqs: Tensor) -> Tensor:
    """Return x (..., F N, h, D) rotated by `freqs` (see `Rope.rotate`)."""
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # which fuses real arithmetic, and no complex numbers
        (a, b), (cos, sin) = pairs.unbind(-1), freqs.unbind(-1)
        turned = torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1)
    else:  # the same products and sums, four times as fast on a CPU
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(freqs))
    return turned.flatten(-2).type_as(x)
