"""Clips where they are trained on: gathered on the device that holds their store, or sent there
while it still computes.

    B clips   F latent frames
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cinelab.latent.store import Clips
from cinelab.ops.tensors import to_device

PARTS = ("latents", "text", "slot", "shot", "who", "where")


class PlacedClips:
    """A store of any kind whose clips are given out on a device; all else is the store's."""

    def __init__(self, store: Any, device: torch.device | str):
        self.store = store
        self.device = device
        self.drawn_from = store.placed(device) if hasattr(store, "placed") else store

    def __getattr__(self, name: str) -> Any:
        if name == "store":  # not there yet, in a copy that is being made
            raise AttributeError(name)
        return getattr(self.store, name)

    def __len__(self) -> int:
        return len(self.store)

    def clips(self, count: int, frames: int, rng: torch.Generator) -> Clips:
        """Return `count` clips of `frames` latent frames on the device."""
        clips: Clips = self.drawn_from.clips(count, frames, rng)
        parts = {
            name: to_device(part, self.device)
            for name in PARTS
            if (part := getattr(clips, name)) is not None
        }
        controls = {name: to_device(x, self.device) for name, x in clips.controls.items()}
        return replace(clips, **parts, controls=controls)

    def text(self, caption: str) -> Tensor:
        """Return the words (L, E) of a caption on the device."""
        return to_device(self.store.text(caption), self.device)


def placed(data: Any, device: torch.device | str) -> Any:
    """Return data whose clips are given out on a device: placed in their own way (`placed`), where
    they have one, else sent clip by clip."""
    if hasattr(data, "placed"):
        return data.placed(device)
    return data if torch.device(device).type == "cpu" else PlacedClips(data, device)
