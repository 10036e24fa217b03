"""Toybox films to a store of latents: rendered and encoded once, resumable, in shares.

The store is read by `cinelab.latent.store.Store`.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from cinelab.checksums import read_sealed, write_arrays, write_sealed
from cinelab.errors import CinelabError
from cinelab.latent.codec import ToyCodec, device_of, encoded
from cinelab.latent.store import AGAIN, StoreConfig
from cinelab.outputs import writing_share
from cinelab.script.prompts import WordEncoder, split_words
from cinelab.world.worlds import world_named


def film_arrays(
    config: StoreConfig, index: int, codec: ToyCodec, encoder: WordEncoder
) -> dict[str, np.ndarray]:
    """Return one film: rendered, encoded, with its prompts as word numbers."""
    world = world_named(config.world)
    plan = world.cast_film(
        config.seed,
        index,
        config.latents,
        shot_latents=(config.shortest, config.longest),
        grain=config.grain,
    )
    with torch.autocast(device_of(codec).type, torch.bfloat16):
        latents = encoded(codec, world.render(plan).frames[None])[0]
    words = np.full((prompts_per_film(config), encoder.length), -1, np.int16)
    for row, shot in enumerate(plan.shots):
        ids = encoder.ids(split_words(shot.caption))
        words[row, : len(ids)] = ids
    return {
        "latents": latents.to(torch.float16).cpu().numpy(),
        "words": words,
        "slot": np.array(plan.prompt_of_latent, np.int16),
        "shot": np.array(plan.shot_of_latent, np.int16),
    }


def prompts_per_film(config: StoreConfig) -> int:
    """Return the number of prompts that a film has at most."""
    return -(-config.latents // config.shortest) + 1


def build_toybox(
    folder: Path,
    config: StoreConfig,
    codec: ToyCodec,
    encoder: WordEncoder,
    fingerprint: str,
    part: tuple[int, int] = (0, 1),
    tell: Callable[[int], None] = lambda done: None,
) -> Iterator[int]:
    """Write the missing shards of share `part` = (mine, of how many) and yield the number of films
    that are done after each. A build that was stopped is resumed; no other process writes the same
    share.

    `fingerprint` names the codec's weights. `tell` is called with the number of films after each.
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
) -> Iterator[int]:
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
    """Write store.json. Refuse a store of another codec or another recipe."""
    path = folder / "store.json"
    mine = asdict(config) | {"codec": fingerprint}
    # an older one knew fewer settings
    if path.exists() and (old := asdict(StoreConfig()) | read_sealed(path, AGAIN)) != mine:
        key = next(k for k in mine if mine[k] != old.get(k))
        raise CinelabError(
            f"Store {folder} was built with {key}={old.get(key)!r}, not {mine[key]!r}; remove it "
            "or name another folder."
        )
    write_sealed(path, mine)
