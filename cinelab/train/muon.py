"""Muon for the matrices inside a network, AdamW for everything else.

Muon (Jordan et al., 2024) orthogonalises the momentum of a matrix before it steps, so that all its
directions move alike; its rate is scaled so that a step is as long as one of AdamW (Liu et al.,
"Muon is scalable for LLM training", arXiv 2502.16982, section 2.2), and both share one rate. The
implementation is torch's.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cinelab.errors import CinelabError

MOMENTUM = 0.95
BLOCKS = "blocks."  # what a network's blocks are called


class MuonAdamW:
    """Two optimizers that step as one: Muon of the blocks' matrices, and the one that is given."""

    def __init__(self, matrices: list[Tensor], rest: torch.optim.Optimizer, lr: float):
        self.muon = torch.optim.Muon(
            matrices, lr=lr, weight_decay=0.0, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw"
        )
        self.rest = rest

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both, whose settings may be set."""
        return [*self.muon.param_groups, *self.rest.param_groups]

    def add_param_group(self, group: dict[str, Any]) -> None:
        """Take in further weights, which the given optimizer steps."""
        self.rest.add_param_group(group)

    def zero_grad(self, *, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        self.muon.zero_grad(set_to_none)
        self.rest.zero_grad(set_to_none)

    def step(self) -> None:
        """Take one step of both."""
        self.muon.step()
        self.rest.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both."""
        return {"muon": self.muon.state_dict(), "rest": self.rest.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the states of both."""
        self.muon.load_state_dict(state["muon"])
        self.rest.load_state_dict(state["rest"])


def hidden_matrices(model: nn.Module) -> dict[str, Tensor]:
    """Return the trainable matrices that Muon steps, by name: those that the network names itself
    (`hidden_matrices`), else those of its blocks. CinelabError where there are none."""
    named = getattr(model, "hidden_matrices", None)
    names = set(named()) if named else None
    found: dict[str, Tensor] = {
        name: weight
        for name, weight in model.named_parameters()
        if weight.requires_grad
        and weight.ndim == 2
        and (name.startswith(BLOCKS) if names is None else name in names)
    }
    if not found:
        raise CinelabError(
            f"optim.method is 'muon', but {type(model).__name__} has no trainable matrices in "
            f"{BLOCKS[:-1]}; use 'adamw'."
        )
    return found
