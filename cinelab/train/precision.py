"""The two places where half precision would silently teach nothing: weights that are themselves in
bf16, and autocast's cache of weight casts.

Consistency distillation and DMD take steps that are small beside the spacing of bf16 numbers, so
that their weights would hardly move (Causal Forcing's authors on both; see `cinelab.train.moved`).
They compute in bf16 all the same, by autocast, from weights in fp32.

Under autocast a weight is cast to bf16 once and the cast is cached until the region ends. If its
first use in a step is a pass without gradients (the denoising levels of a self-rollout), the cached
cast has no graph, and later passes with gradients would silently learn nothing through it.
"""

import torch
from torch import nn

from cinelab.errors import CinelabError
from cinelab.flow.condition import Condition
from cinelab.latent.store import Clips
from cinelab.memory.context import BidirectionalContext


def require_full_precision(model: nn.Module, stage: str, role: str) -> None:
    """Raise CinelabError where a weight that a stage trains is of less than 32 bits."""
    for name, weight in model.named_parameters():
        if weight.requires_grad and torch.finfo(weight.dtype).bits < 32:
            raise CinelabError(
                f"The {role} of {stage} has weights in {str(weight.dtype).removeprefix('torch.')} "
                f"(first: {name}), in which its small steps round to nothing; expected are weights "
                "in float32: call .float() on the network and leave bf16 to the setting bf16, by "
                "which a training computes."
            )


def prime_autocast(model: nn.Module, clips: Clips) -> None:
    """Run the smallest pass with gradients on, so that autocast's cached casts have their graph."""
    first = clips.condition.frames(slice(0, 1))
    condition = Condition(
        clips.text[:1], first.slot[:1], {name: x[:1] for name, x in first.controls.items()}
    )
    latents = clips.latents[:1, :1]
    model(latents, latents.new_zeros(1, 1), condition, BidirectionalContext(torch.arange(1)))
