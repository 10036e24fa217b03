"""A store of encoded toybox films, from which every training stage draws its clips.

    n films   F latent frames a film   C h w latent shape   P prompts a film   L words

The films are rendered and encoded once, by `cinelab.data.toybox`. Clips are a pure function of a
generator, so a resumed run needs no loader state.
"""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cinelab.checksums import read_sealed
from cinelab.errors import CinelabError
from cinelab.flow.condition import Condition
from cinelab.latent.shards import AGAIN, StoredLatents, array_of, in_memory, stored_arrays
from cinelab.ops.tensors import to_device
from cinelab.readable import Readable
from cinelab.script.prompts import WordEncoder
from cinelab.script.unconditional import unconditional_text
from cinelab.seeds import integers, uniform
from cinelab.world.plans import UNNAMED
from cinelab.world.worlds import named_in

ARRAYS = ("words", "slot", "shot")  # beside the latents
# which character and place of its film a latent frame shows; older stores do not state it
TRUTH = ("who", "where")
# of a device's free memory, at most, is taken by the latents of a store
MOST = 0.3
# where clips of a store begin: with their films, or at any latent frame
BEGINS = ("film", "anywhere")
# names of version 0.1 -> functions of `cinelab.data.toybox`
BUILDERS = {
    "build": "build_toybox",
    "film_arrays": "film_arrays",
    "prompts_per_film": "prompts_per_film",
}


@dataclass(frozen=True)
class StoreConfig(Readable):
    """The recipe of a store of toybox films."""

    seed: int = 2
    films: int = 4000
    latents: int = 24  # latent frames a film
    shortest: int = 2  # shots last from ...
    longest: int = 6  # ... to, in latent frames
    # shots last whole multiples of so many latent frames (the chunk of a chunk-wise model)
    grain: int = 1
    shard: int = 200  # films a file
    world: str = UNNAMED  # the one that plans and draws the films


@dataclass(frozen=True)
class Clips(Readable):
    """A batch of training clips.

    latents (B, F, C, h, w)   text (B, P + 1, L, E), the last prompt empty   slot, shot (B, F) long
    controls: name -> (B, F, ...), a signal a latent frame (see `cinelab.flow.condition`)
    who, where (B, F) long: which character and which place of its film a latent frame shows; None
    where the store does not state it
    """

    latents: Tensor
    text: Tensor
    slot: Tensor
    shot: Tensor
    controls: Mapping[str, Tensor] = field(default_factory=dict)
    who: Tensor | None = None
    where: Tensor | None = None

    @property
    def condition(self) -> Condition:
        """What the network is conditioned on, frame by frame."""
        return Condition(self.text, self.slot, self.controls)

    @property
    def null(self) -> int:
        return self.text.shape[1] - 1

    def to(self, device: torch.device | str) -> "Clips":
        """Return the clips on a device."""
        return Clips(
            self.latents.to(device),
            self.text.to(device),
            self.slot.to(device),
            self.shot.to(device),
            {name: x.to(device) for name, x in self.controls.items()},
            None if self.who is None else self.who.to(device),
            None if self.where is None else self.where.to(device),
        )


def world_of_store(folder: str | Path) -> str | None:
    """Return the name of the world of a store's films; None where no store is there yet."""
    path = Path(folder) / "store.json"
    return named_in(read_sealed(path, AGAIN)) if path.exists() else None


def check_begin(begin: str) -> str:
    """Return where clips begin, a setting `begin`, or raise CinelabError."""
    if begin not in BEGINS:
        raise CinelabError(f"begin is {begin!r}; clips begin with a 'film' or 'anywhere'.")
    return begin


def dropped(clips: Clips, share: float, rng: torch.Generator) -> Tensor:
    """Return the prompt index of each latent frame (B, F): that of the empty prompt for a `share`
    of the clips, so that guidance is trained."""
    lost = uniform((len(clips.slot), 1), rng, clips.slot.device) < share
    return torch.where(lost, clips.null, clips.slot)


def compared_with(clips: Clips, store: Any, unconditional: str) -> Clips:
    """Return clips whose last prompt, which guidance compares with, is that of a setting
    `unconditional` ("" = as it is).

    Raises CinelabError where the store has no encoding of that prompt.
    """
    if unconditional == "":
        return clips
    words = unconditional_words(store, unconditional).to(clips.text)
    return replace(
        clips, text=torch.cat([clips.text[:, :-1], words.expand_as(clips.text[:, -1:])], dim=1)
    )


def unconditional_words(store: Any, unconditional: str) -> Tensor:
    """Return the words (L, E) of the prompt that a setting `unconditional` names, from a store's
    `text(caption)`."""
    if not hasattr(store, "text"):
        raise CinelabError(
            f"unconditional is {unconditional!r:.60}, but {type(store).__name__} has no "
            "text(caption) to encode it; "
            'give the store one, or set unconditional to "".'
        )
    return store.text(unconditional_text(unconditional))


class Store:
    """All films of a store, in half precision. Latents stay on disk and are read clip by clip
    (`cinelab.latent.shards`); what else there is of a film is small and held in memory.

    The toybox's recipes take clips that are shorter than its films from anywhere, so that the first
    latent frame of most holds `stride` frames and not the still of a film's beginning;
    `begin="film"` takes the beginnings alone (as `cinelab.latent.clips.FilmStore` does). Clips as
    long as the films begin with them in any case.
    """

    def __init__(self, folder: Path, encoder: WordEncoder, begin: str = "anywhere"):
        self.begin = check_begin(begin)
        self.folder = Path(folder)
        paths = sorted(self.folder.glob("*.npz"))
        if not paths:
            raise CinelabError(
                f"Store {folder} is empty; build it first (notebook 13_teacher_forcing does)."
            )
        self.latents: StoredLatents | Tensor
        shards = [stored_arrays(path) for path in paths]
        self.latents = StoredLatents([array_of(one, "latents") for one in shards])
        self.words, self.slot, self.shot = (in_memory(shards, name) for name in ARRAYS)
        stated = all(name in one for one in shards for name in TRUTH)
        self.truth = {name: in_memory(shards, name) for name in TRUTH} if stated else {}
        _check_counts(self)
        self.recipe = read_sealed(Path(folder) / "store.json", AGAIN)
        place = torch.arange(encoder.length)
        rows = encoder.codes[self.words.long().clamp(min=0)[:1]]  # probes the vocabulary early
        assert rows.shape[-1] == encoder.width and place.numel() == self.words.shape[-1]
        self.encoder = encoder
        self.device = torch.device("cpu")
        self._codes = encoder.codes
        self._places = encoder.places
        self._prompts: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def world(self) -> str:
        """The name of the world of its films."""
        return named_in(self.recipe)

    def placed(self, device: torch.device | str) -> "Store":
        """Return the store with its clips given out on a device.

        Its latents lie there, unless they would take more than a share MOST of what is free: then a
        clip's are gathered in pinned memory and sent while the device computes. What clips are made
        of besides is small, and stays with the host, which therefore need not wait for the device.
        """
        device = torch.device(device)
        if device == self.device:
            return self
        there = copy(self)
        there.device = device
        there._codes = self.encoder.codes.to(device)
        there._places = self.encoder.places.to(device)
        if device.type != "cuda" or self.latents.nbytes < MOST * torch.cuda.mem_get_info(device)[0]:
            there.latents = self.latents.to(device)
        return there

    def clips(self, count: int, frames: int, rng: torch.Generator) -> Clips:
        """Draw `count` clips of `frames` latent frames from random films."""
        if frames > (longest := self.latents.shape[1]):
            raise CinelabError(
                f"Store {self.folder} has films of {longest} latent frames, and clips of {frames} "
                f"were asked for; ask for at most {longest}, or build it from longer films."
            )
        films = integers(len(self), (count,), rng)
        starts = torch.zeros(count, dtype=torch.long)
        if self.begin == "anywhere":
            starts = integers(self.latents.shape[1] - frames + 1, (count,), rng)
        rows = films[:, None]
        columns = starts[:, None] + torch.arange(frames)
        slot = self.slot[rows, columns].long()
        shot = self.shot[rows, columns].long()
        first = slot[:, :1]
        used = self._used(slot - first, frames)
        prompts = (first + torch.arange(used)).clamp(max=self.words.shape[1] - 1)  # (B, used)
        text = self.embed(to_device(self.words[rows, prompts], self.device))
        empty = torch.zeros_like(text[:, :1])
        truth = {
            name: to_device(x[rows, columns].long(), self.device) for name, x in self.truth.items()
        }
        return Clips(
            self._latents(rows, columns).float(),
            torch.cat([text, empty], 1),
            to_device(slot - first, self.device),
            to_device(shot - shot[:, :1], self.device),
            who=truth.get("who"),
            where=truth.get("where"),
        )

    def _latents(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the latents (B, F, C, h, w) of films `rows` (B, 1) at frames `columns` (B, F), on
        the device, in half precision."""
        if isinstance(self.latents, StoredLatents):
            found = self.latents.gather(rows[:, 0], columns[:, 0], columns.shape[1])
            return to_device(found, self.device)
        where = self.latents.device
        gathered = self.latents[to_device(rows, where), to_device(columns, where)]
        return to_device(gathered, self.device)

    def _used(self, relative: Tensor, frames: int) -> int:
        """Return how many prompts clips are given whose frames read the prompts `relative` (B, F).

        On a device that is as many as any clip of so many frames of the store has, so that all
        batches have one shape, for which the network is compiled once.
        """
        if self.device.type == "cpu":
            return int(relative.max()) + 1
        if frames not in self._prompts:
            windows = self.slot.unfold(1, frames, 1)  # (n, windows, F)
            self._prompts[frames] = int((windows.amax(-1) - windows[..., 0]).max()) + 1
        return self._prompts[frames]

    def text(self, caption: str) -> Tensor:
        """Return the words (L, E) of a caption."""
        return self.encoder.encode([caption])[0]

    def embed(self, words: Tensor) -> Tensor:
        """Embed word numbers (..., L), -1 = none, as (..., L, E)."""
        known = (words >= 0)[..., None]
        return (self._codes[words.long().clamp(min=0)] + self._places) * known


def _check_counts(store: Store) -> None:
    """Raise CinelabError where the arrays of a store are not of the same films."""
    for name in ARRAYS:
        if len(getattr(store, name)) != len(store):
            raise CinelabError(
                f"Store {store.folder} holds latents of {len(store)} films and {name} of "
                f"{len(getattr(store, name))}; {AGAIN}."
            )


def __getattr__(name: str) -> Any:
    """Return what builds a store, which lives in a later room that knows the world."""
    if name not in BUILDERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("cinelab.data.toybox"), BUILDERS[name])
