"""Who draws a noise level of its own in a training step: every chunk of a clip, or the clip."""

import torch
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.seeds import integers

LEVELS = ("chunk", "clip")


def check_drawn(levels: str) -> None:
    """Raise CinelabError unless `levels`, a setting of that name, is a chunk or a clip."""
    if levels not in LEVELS:
        raise CinelabError(f"levels is {levels!r}; use one of {', '.join(LEVELS)}.")


def draw_levels(
    count: int,
    shape: tuple[int, int],
    chunk: int,
    *,
    levels: str,
    rng: torch.Generator,
    on: Tensor,
) -> Tensor:
    """Return uniform integers (B, F) = `shape` below `count`, numbers of levels: one a chunk of
    `chunk` latent frames, or one a clip. They are on the device of the tensor `on`."""
    batch, frames = shape
    size = chunk if levels == "chunk" else frames
    return integers(count, (batch, frames // size), rng, on.device).repeat_interleave(size, 1)
