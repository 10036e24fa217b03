"""The straight path between data and noise. t in [0, 1]: 0 = data, 1 = noise; everywhere in
cinelab.

x_t = (1 - t) x0 + t eps        v = eps - x0        x0 = x_t - t v

B batch   F frames   latents (B, F, C, H, W), t (B, F) or anything that broadcasts after `expand_t`
"""

import torch
from torch import Tensor


def expand_t(t: Tensor, like: Tensor) -> Tensor:
    """t (B, F) -> (B, F, 1, 1, 1), as wide as latents."""
    return t.reshape(*t.shape, *[1] * (like.ndim - t.ndim)).to(like.dtype)


def noised(x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    t = expand_t(t, x0)
    return (1 - t) * x0 + t * eps


def velocity(x0: Tensor, eps: Tensor) -> Tensor:
    return eps - x0


def clean(xt: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """x0 that a velocity points at."""
    return xt - expand_t(t, xt) * v


def shifted(t: Tensor, shift: float) -> Tensor:
    """Timestep shift: t' = s t / (1 + (s - 1) t); s > 1 spends more of the path near noise."""
    return shift * t / (1 + (shift - 1) * t)


def guided(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance u + w (c - u); w = 1 is the conditional prediction."""
    return uncond + scale * (cond - uncond)


def draw_t(shape: tuple[int, ...], shift: float, rng: torch.Generator) -> Tensor:
    """Uniform times, shifted; fp32 on the CPU."""
    return shifted(torch.rand(shape, generator=rng), shift)
