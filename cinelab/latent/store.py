"""Encoded films on disk: rendered and encoded once, drawn from by every stage.

    n films   F latent frames a film   C h w latent shape   P prompts a film   L words

`batch(step)` is a pure function of the step, so a resumed run needs no loader state.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cinelab.checksums import read_arrays, read_sealed, write_arrays, write_sealed
from cinelab.errors import CinelabError
from cinelab.flow.condition import Condition
from cinelab.latent.codec import ToyCodec, to_tensor
from cinelab.outputs import writing_share
from cinelab.readable import Readable
from cinelab.script.prompts import WordEncoder, split_words
from cinelab.script.unconditional import unconditional_text
from cinelab.world import casting, render

ARRAYS = ("latents", "words", "slot", "shot")
AGAIN = "remove it and build the store again"
# where clips of a store begin: with their films, or in any latent frame
BEGINS = ("film", "anywhere")


@dataclass(frozen=True)
class StoreConfig(Readable):
    seed: int = 2
    films: int = 4000
    latents: int = 24  # latent frames a film
    shortest: int = 2  # shots last from ...
    longest: int = 6  # ... to, in latent frames
    # shots last whole multiples of so many latent frames (the chunk of a chunk-wise model)
    grain: int = 1
    shard: int = 200  # films a file


@dataclass(frozen=True)
class Clips(Readable):
    """A batch of training clips.

    latents (B, F, C, h, w)   text (B, P + 1, L, E), the last prompt empty   slot, shot (B, F) long
    controls: name -> (B, F, ...), a signal a latent frame (see `cinelab.flow.condition`)
    """

    latents: Tensor
    text: Tensor
    slot: Tensor
    shot: Tensor
    controls: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def condition(self) -> Condition:
        """What the network is conditioned on, frame by frame."""
        return Condition(self.text, self.slot, self.controls)

    @property
    def null(self) -> int:
        return self.text.shape[1] - 1


def check_begin(begin: str) -> str:
    """Return where clips begin, a setting `begin`, or raise CinelabError."""
    if begin not in BEGINS:
        raise CinelabError(f"begin is {begin!r}; clips begin with a 'film' or 'anywhere'.")
    return begin


def dropped(clips: Clips, share: float, rng: torch.Generator) -> Tensor:
    """Prompt index of each frame (B, F), the empty prompt for a `share` of the clips."""
    lost = (torch.rand(len(clips.slot), 1, generator=rng) < share).to(clips.slot.device)
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


def film_arrays(
    config: StoreConfig, index: int, codec: ToyCodec, encoder: WordEncoder
) -> dict[str, np.ndarray]:
    """One film, rendered, encoded and described."""
    plan = casting.film(
        config.seed, index, config.latents, (config.shortest, config.longest), config.grain
    )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        latents = codec.encode(to_tensor(render.render(plan).frames)[None])[0]
    words = np.full((prompts_per_film(config), encoder.length), -1, np.int16)
    for row, shot in enumerate(plan.shots):
        ids = encoder.ids(split_words(shot.caption))
        words[row, : len(ids)] = ids
    return {
        "latents": latents.to(torch.float16).numpy(),
        "words": words,
        "slot": np.array(plan.prompt_of_latent, np.int16),
        "shot": np.array(plan.shot_of_latent, np.int16),
    }


def prompts_per_film(config: StoreConfig) -> int:
    return -(-config.latents // config.shortest) + 1


def build(
    folder: Path,
    config: StoreConfig,
    codec: ToyCodec,
    encoder: WordEncoder,
    fingerprint: str,
    part: tuple[int, int] = (0, 1),
    tell: Callable[[int], None] = lambda done: None,
):
    """Write the missing shards of share `part` = (mine, of how many); yields the films done.
    Resumable, and alone in its share.

    `tell` hears how many films are done after each of them.
    """
    with writing_share(folder, part):
        yield from _build(Path(folder), config, codec, encoder, fingerprint, part, tell)


def _build(
    folder: Path,
    config: StoreConfig,
    codec: ToyCodec,
    encoder: WordEncoder,
    fingerprint: str,
    part: tuple[int, int],
    tell: Callable[[int], None],
):
    _claim(folder, config, fingerprint)
    codec.eval()
    for start in range(0, config.films, config.shard):
        path = folder / f"{start:06d}.npz"
        if (start // config.shard) % part[1] != part[0] or path.exists():
            continue
        films = []
        for index in range(start, min(start + config.shard, config.films)):
            films.append(film_arrays(config, index, codec, encoder))
            tell(index + 1)
        arrays = {key: np.stack([film[key] for film in films]) for key in films[0]}
        write_arrays(path, arrays)
        yield start + len(films)


def _claim(folder: Path, config: StoreConfig, fingerprint: str) -> None:
    """A store belongs to one codec and one recipe."""
    path = folder / "store.json"
    mine = asdict(config) | {"codec": fingerprint}
    # an older one knew fewer settings
    if path.exists() and (old := asdict(StoreConfig()) | read_sealed(path, AGAIN)) != mine:
        key = next(k for k in mine if mine[k] != old.get(k))
        raise CinelabError(
            f"Store {folder} was built with {key}={old.get(key)!r}, not {mine[key]!r}; "
            "remove it or name another folder."
        )
    write_sealed(path, mine)


class Store:
    """All films of a store in memory (half precision).

    The toybox's recipes take clips that are shorter than its films from anywhere, so that the first
    latent frame of most holds a moving group of pictures and not the still of a film's beginning;
    `begin="film"` keeps to those (as `cinelab.latent.clips.FilmStore` does). Clips as long as the
    films begin with them in any case.
    """

    def __init__(self, folder: Path, encoder: WordEncoder, begin: str = "anywhere"):
        self.begin = check_begin(begin)
        paths = sorted(Path(folder).glob("*.npz"))
        if not paths:
            raise CinelabError(
                f"Store {folder} is empty; build it first (notebook 13_teacher_forcing does)."
            )
        parts = [_load(path) for path in paths]
        self.folder = Path(folder)
        self.latents, self.words, self.slot, self.shot = (
            torch.from_numpy(np.concatenate([part[key] for part in parts])) for key in ARRAYS
        )
        self.recipe = read_sealed(Path(folder) / "store.json", AGAIN)
        place = torch.arange(encoder.length)
        rows = encoder.codes[self.words.long().clamp(min=0)[:1]]  # probes the vocabulary early
        assert rows.shape[-1] == encoder.width and place.numel() == self.words.shape[-1]
        self.encoder = encoder

    def __len__(self) -> int:
        return len(self.latents)

    def clips(self, count: int, frames: int, rng: torch.Generator) -> Clips:
        """`count` windows of `frames` latent frames from random films."""
        films = torch.randint(len(self), (count,), generator=rng)
        starts = torch.zeros(count, dtype=torch.long)
        if self.begin == "anywhere":
            starts = torch.randint(self.latents.shape[1] - frames + 1, (count,), generator=rng)
        rows, columns = films[:, None], starts[:, None] + torch.arange(frames)
        slot = self.slot[rows, columns].long()
        shot = self.shot[rows, columns].long()
        first = slot[:, :1]
        used = int((slot - first).max()) + 1
        prompts = (first + torch.arange(used)).clamp(max=self.words.shape[1] - 1)  # (B, used)
        text = self.embed(self.words[rows, prompts])
        empty = torch.zeros_like(text[:, :1])
        return Clips(
            self.latents[rows, columns].float(),
            torch.cat([text, empty], 1),
            slot - first,
            shot - shot[:, :1],
        )

    def text(self, caption: str) -> Tensor:
        """Return the words (L, E) of a caption."""
        return self.encoder.encode([caption])[0]

    def embed(self, words: Tensor) -> Tensor:
        """Word numbers (..., L), -1 = none -> (..., L, E)."""
        known = (words >= 0)[..., None]
        return (self.encoder.codes[words.long().clamp(min=0)] + self.encoder.places) * known


def _load(path: Path) -> dict[str, np.ndarray]:
    return dict(zip(ARRAYS, read_arrays(path, ARRAYS, AGAIN), strict=True))
