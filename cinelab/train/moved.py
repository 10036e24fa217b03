"""Do the weights move? The share of them that differs from where a run began.

Steps that are small beside the spacing of the weights' own precision round to nothing, and nothing
else shows it: the loss looks as ever. Causal Forcing's authors saw so of consistency and DMD in
pure bf16. A bf16 weight near 0.02 has neighbours 6e-5 apart, a step of their recipe is 2e-6; in
fp32 nearly every weight moves at every step.
"""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cinelab.train.optim import Optim, local

SAMPLED = 4096  # weights of a network that are compared, about
LEAST_MOVED = 0.5  # share of them, below which a training that is past its warm-up warns
UPDATES = 10  # before which it does not


class MovedWeights:
    """Some weights of a network as they are when this is made: at the beginning of a run, before a
    checkpoint is loaded. Every trained tensor is sampled at random, in proportion to its size."""

    def __init__(self, model: nn.Module):
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        every = max(1, sum(local(w).numel() for w in weights) // SAMPLED)
        rng = torch.Generator().manual_seed(0)
        self.weights = [weight for weight in weights if local(weight).numel()]
        self.places = [
            torch.randint(size, (-(-size // every),), generator=rng)
            for size in (local(weight).numel() for weight in self.weights)
        ]
        self.begun = self._now()
        self.warned = False

    def counts(self) -> tuple[int, int]:
        """Return how many of the sampled weights have moved, and how many are sampled."""
        pairs = zip(self.begun, self._now(), strict=True)
        return sum(int((a != b).sum()) for a, b in pairs), sum(map(len, self.places))

    def warn_where_still(self, share: float, name: str, optim: Optim, updates: int) -> None:
        """Warn once where, of a network called `name`, only a `share` has moved in so many
        updates."""
        if self.warned or share >= LEAST_MOVED or updates < max(UPDATES, optim.warmup):
            return
        self.warned = True
        kinds = sorted({str(weight.dtype).removeprefix("torch.") for weight in self.weights})
        warnings.warn(
            f"After {updates} updates {share:.0%} of the {name}'s weights have moved, and at least "
            f"{LEAST_MOVED:.0%} were expected: steps of {optim.lr:g} round to nothing in "
            f"{' and '.join(kinds)}, or carry no gradient; train in float32 or raise the rate.",
            stacklevel=2,
        )

    @torch.no_grad()
    def _now(self) -> Sequence[Tensor]:
        """Return the sampled weights, copied."""
        pairs = zip(self.weights, self.places, strict=True)
        return [local(w).detach().reshape(-1)[at.to(w.device)].clone() for w, at in pairs]
