"""Toybox films to a store of latents: rendered and encoded once, resumable, in shares.

The store is read by `cinelab.latent.store.Store`.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cinelab.checksums import read_sealed, write_arrays, write_sealed
from cinelab.errors import CinelabError
from cinelab.latent.codec import Codec, device_of, encoded
from cinelab.latent.store import AGAIN, StoreConfig
from cinelab.outputs import writing_share
from cinelab.script.prompts import WordEncoder, split_words
from cinelab.world.plans import FilmPlan
from cinelab.world.worlds import world_named


def film_arrays(
    config: StoreConfig, index: int, codec: Codec, encoder: WordEncoder
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
        "who": of_latents(plan, "character"),
        "where": of_latents(plan, "place"),
    }


def of_latents(plan: FilmPlan, name: str) -> np.ndarray:
    """Return a number that a plan gives each of its shots, for every latent frame (F,)."""
    counts = [shot.latents for shot in plan.shots]
    return np.repeat([getattr(shot, name) for shot in plan.shots], counts).astype(np.int16)


def prompts_per_film(config: StoreConfig) -> int:
    """Return the number of prompts that a film has at most."""
    return -(-config.latents // config.shortest) + 1


def build_toybox(
    folder: Path,
    config: StoreConfig,
    codec: Codec,
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
    codec: Codec,
    encoder: WordEncoder,
    fingerprint: str,
    part: tuple[int, int],
    tell: Callable[[int], None],
) -> Iterator[int]:
    claim_store(folder, config, fingerprint)
    if isinstance(codec, nn.Module):
        codec.eval()
    for indices in missing_shards(folder, config, part):
        films = []
        for index in indices:
            films.append(film_arrays(config, index, codec, encoder))
            tell(index + 1)
        arrays = {key: np.stack([film[key] for film in films]) for key in films[0]}
        write_arrays(shard_path(folder, indices), arrays)
        yield indices.stop


def missing_shards(
    folder: Path, config: StoreConfig, part: tuple[int, int] = (0, 1)
) -> list[range]:
    """Return the films of every shard of share `part` = (mine, of how many) that is not there."""
    starts = range(0, config.films, config.shard)[part[0] :: part[1]]
    shards = [range(start, min(start + config.shard, config.films)) for start in starts]
    return [films for films in shards if not shard_path(folder, films).exists()]


def shard_path(folder: Path, films: range) -> Path:
    """Return the file of a shard: it is named by its first film."""
    return folder / f"{films.start:06d}.npz"


def claim_store(folder: Path, config: StoreConfig, fingerprint: str) -> None:
    """Write store.json. Refuse a store of another codec or another recipe."""
    path = folder / "store.json"
    mine = asdict(config) | {"codec": fingerprint}
    # an older one knew fewer settings
    if path.exists() and (old := asdict(StoreConfig()) | read_sealed(path, AGAIN)) != mine:
        first = ("world", "codec")  # which the rest depends on
        key = next(k for k in (*first, *mine) if mine[k] != old.get(k))
        raise CinelabError(
            f"Store {folder} was built with {key}={old.get(key)!r}, not {mine[key]!r}; remove it "
            "or name another folder."
        )
    write_sealed(path, mine)
