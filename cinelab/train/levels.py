"""Who draws a noise level of its own in a training step: every chunk of a clip, or the clip."""

import torch
from torch import Tensor

from cinelab.errors import CinelabError

LEVELS = ("chunk", "clip")


def check_drawn(levels: str) -> None:
    """Raise CinelabError unless `levels`, a setting of that name, is a chunk or a clip."""
    if levels not in LEVELS:
        raise CinelabError(f"levels is {levels!r}; use one of {', '.join(LEVELS)}.")


def draw_levels(
    count: int, batch: int, frames: int, chunk: int, levels: str, rng: torch.Generator
) -> Tensor:
    """Return uniform integers (B, F) below `count`, numbers of levels: one a chunk of `chunk`
    latent frames, or one a clip."""
    size = chunk if levels == "chunk" else frames
    numbers = torch.randint(count, (batch, frames // size), generator=rng)
    return numbers.repeat_interleave(size, 1)
