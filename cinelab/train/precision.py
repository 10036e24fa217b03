"""Autocast's cache of weight casts, and the one place where it would lose gradients.

Under autocast a weight is cast to bf16 once and the cast is cached until the region ends. If its
first use in a step is a pass without gradients (the denoising levels of a self-rollout), the cached
cast has no graph, and later passes with gradients would silently learn nothing through it.
"""

import torch
from torch import nn

from cinelab.flow.condition import Condition
from cinelab.latent.store import Clips
from cinelab.memory.context import BidirectionalContext


def prime_autocast(model: nn.Module, clips: Clips) -> None:
    """Run the smallest pass with gradients on, so that autocast's cached casts have their graph."""
    first = clips.condition.frames(slice(0, 1))
    condition = Condition(
        clips.text[:1], first.slot[:1], {name: x[:1] for name, x in first.controls.items()}
    )
    latents = clips.latents[:1, :1]
    model(latents, latents.new_zeros(1, 1), condition, BidirectionalContext(torch.arange(1)))
