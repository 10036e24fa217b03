"""Clips of several stores, a share of each: many films, and some longer ones.

store = MixedStore({"results/store": 0.8, "results/longer": 0.2}, encoder)

B clips   F latent frames   P prompts
"""

from collections.abc import Iterator, Mapping
from copy import copy
from pathlib import Path

import torch
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.latent.store import Clips, Store
from cinelab.script.prompts import WordEncoder
from cinelab.seeds import uniform


class MixedStore:
    """Toybox stores of which each gives a share of the clips. A store whose films are shorter than
    the clips gives none, and the others its share."""

    def __init__(
        self,
        shares: Mapping[str, float] | Mapping[Path, float],
        encoder: WordEncoder,
        begin: str = "anywhere",
    ):
        if not shares or not all(0 < share <= 1 for share in shares.values()):
            raise CinelabError(
                f"Shares of stores are {list(shares.values())}; give each more than 0, at most 1."
            )
        self.stores = [Store(Path(folder), encoder, begin) for folder in shares]
        self.shares = torch.tensor(list(shares.values()), dtype=torch.float64)
        first = self.stores[0]
        for other in self.stores[1:]:
            if odd := next((key for key in ("codec", "world") if _differ(first, other, key)), None):
                raise CinelabError(
                    f"Store {other.folder} has {odd} {other.recipe.get(odd)!r}, and {first.folder} "
                    f"{first.recipe.get(odd)!r}; mix stores of one {odd}."
                )

    def __len__(self) -> int:
        return sum(map(len, self.stores))

    @property
    def folder(self) -> Path:
        """Return the folder of the first store."""
        return self.stores[0].folder

    @property
    def recipe(self) -> dict:
        """Return what the first store was built with."""
        return self.stores[0].recipe

    @property
    def world(self) -> str:
        """Return the name of the world of their films."""
        return self.stores[0].world

    def placed(self, device: torch.device | str) -> "MixedStore":
        """Return it with the clips of all its stores given out on a device."""
        there = copy(self)
        there.stores = [store.placed(device) for store in self.stores]
        return there

    def text(self, caption: str) -> Tensor:
        """Return the words (L, E) of a caption."""
        return self.stores[0].text(caption)

    def clips(self, count: int, frames: int, rng: torch.Generator) -> Clips:
        """Draw `count` clips of `frames` latent frames, each from a store at random."""
        fit = torch.tensor([store.latents.shape[1] >= frames for store in self.stores])
        if not fit.any():
            return self.stores[0].clips(count, frames, rng)  # it says so
        ends = (self.shares * fit).cumsum(0)
        drawn = uniform((count,), rng).double() * ends[-1]
        which = torch.searchsorted(ends, drawn, right=True)
        return joined_clips(list(self._parts(which, frames, rng)), which)

    def _parts(self, which: Tensor, frames: int, rng: torch.Generator) -> Iterator[Clips]:
        for number, store in enumerate(self.stores):
            if count := int((which == number).sum()):
                yield store.clips(count, frames, rng)


def _differ(one: Store, other: Store, key: str) -> bool:
    return bool(one.recipe.get(key) != other.recipe.get(key))


def joined_clips(parts: list[Clips], which: Tensor) -> Clips:
    """Return the clips of several batches as one; `which` (B,) is the rank of each one's batch."""
    order = which.argsort(stable=True).argsort()  # of the clip in what is joined
    prompts = max(part.text.shape[1] for part in parts)
    known = all(part.who is not None and part.where is not None for part in parts)

    def joined_part(name: str) -> Tensor:
        whole = torch.cat([getattr(part, name) for part in parts])
        return whole[order.to(whole.device)]

    text = torch.cat([_padded(part.text, prompts) for part in parts])
    return Clips(
        joined_part("latents"),
        text[order.to(text.device)],
        joined_part("slot"),
        joined_part("shot"),
        who=joined_part("who") if known else None,
        where=joined_part("where") if known else None,
    )


def _padded(text: Tensor, prompts: int) -> Tensor:
    """Return prompts (B, P, L, E) with empty ones after them, so that they are so many."""
    return torch.cat([text, text.new_zeros(len(text), prompts - text.shape[1], *text.shape[2:])], 1)
