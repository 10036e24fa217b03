"""The straight path between data and noise (rectified flow, arXiv 2209.03003, Eq. 1, with time
reversed). Everywhere in cinelab t is in [0, 1]: 0 = data, 1 = noise.

    x_t = (1 - t) x0 + t eps        v = dx_t / dt = eps - x0        x0 = x_t - t v

    B batch   F latent frames   latents (B, F, C, H, W)
    t (B, F), or any shape that broadcasts over latents after `expand_t`
"""

import torch
from torch import Tensor

from cinelab.seeds import uniform


def expand_t(t: Tensor, like: Tensor) -> Tensor:
    """Return t (B, F) as (B, F, 1, 1, 1), in the latents' rank and dtype."""
    return t.reshape(*t.shape, *[1] * (like.ndim - t.ndim)).to(like.dtype)


def noised(x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """Return x_t = (1 - t) x0 + t eps, of the shape of x0."""
    t = expand_t(t, x0)
    return (1 - t) * x0 + t * eps


def velocity(x0: Tensor, eps: Tensor) -> Tensor:
    """Return v = eps - x0, the constant velocity of the path; it is what the network regresses."""
    return eps - x0


def clean(xt: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """Return x0 = x_t - t v, the clean latents that a velocity at x_t points at."""
    return xt - expand_t(t, xt) * v


def shifted(t: Tensor, shift: float) -> Tensor:
    """Return shifted timesteps t' = s t / (1 + (s - 1) t); s > 1 moves them towards noise.

    (Scaling Rectified Flow Transformers, arXiv 2403.03206, Eq. 23.)
    """
    return shift * t / (1 + (shift - 1) * t)


def guided(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """Return u + w (c - u), classifier-free guidance; w = 1 is the conditional prediction.

    The original (arXiv 2207.12598, Eq. 6) writes c + w' (c - u), where w' = w - 1.
    """
    return uncond + scale * (cond - uncond)


def draw_t(
    shape: tuple[int, ...],
    shift: float,
    rng: torch.Generator,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return uniform timesteps of a shape, shifted; fp32, on a device, as `rng` draws them."""
    return shifted(uniform(shape, rng, device), shift)
