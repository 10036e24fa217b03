"""Which data a run is trained on: where they lie, and a mark of their content that a copy or a move
does not change.

    draws_from(run, store, config.model)    refuses latents that the model does not take, and
                                            other data than the run has had

A mark is a hash of what is drawn from: tensors, or the checksums of shards.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.files import glance
from cinelab.latent.clips import FilmStore, shards
from cinelab.latent.mixed import MixedStore
from cinelab.latent.placed import PlacedClips
from cinelab.latent.shards import StoredLatents
from cinelab.latent.store import Store
from cinelab.runs import Run

HASHED = 2**30  # bytes of latents that are read for a mark
# entries of a recipe, noted beside the mark
NAMED = ("fps", "size", "chunk", "codec", "encoder", "channels", "width", "words", "world")


def draws_from(run: Run, store: Any, model: Any) -> None:
    """Note in the run's config.json (and, when it is done, in done.json) which data it draws from.
    CinelabError where the data do not fit the model, or are of another content than the run had so
    far."""
    check_fits(store, model)
    run.trains_on(data_of(store))


def check_fits(store: Any, model: Any) -> None:
    """Raise CinelabError for a store whose codec or text encoder is not the model's, by channels,
    grid and width of its clips."""
    with warnings.catch_warnings():
        # its warnings are about clips this short, not about those to be trained on
        warnings.simplefilter("ignore")
        clips = store.clips(1, 1, torch.Generator().manual_seed(0))
    (channels, *grid), width = clips.latents.shape[2:], clips.text.shape[-1]
    found = {
        "latents of {} channels": (channels, model.in_channels),
        "prompts of {} numbers a word": (width, model.text_dim),
    }
    for what, (has, takes) in found.items():
        if has != takes:
            raise CinelabError(
                f"The store holds {what.format(has)}, and the model takes {takes}: they do not "
                "belong together; build the store with the model's own codec and text encoder, or "
                "name the preset that fits the store."
            )
    if any(side % patch for side, patch in zip(grid, model.patch_size[1:], strict=True)):
        raise CinelabError(
            f"The store holds latents of {grid[0]} x {grid[1]} cells, and the model's patches of "
            f"{model.patch_size[1]} x "
            f"{model.patch_size[2]} do not divide them; build the store at another size."
        )


def data_of(store: Any) -> dict | None:
    """Return place, number of films, mark and recipe of what a stage draws from; None for an object
    that lies nowhere on disk.

    A store of one's own may have `about()`, a dictionary with a `mark` of its content; else the
    files of its `folder` are marked.
    """
    if type(store) is PlacedClips:
        return data_of(store.store)
    if hasattr(store, "about"):
        about: dict | None = store.about()
        return about
    if isinstance(store, Store):
        return _with_recipe(
            store.recipe,
            {
                "path": _place(store.folder),
                "films": len(store),
                "mark": _of_store(store),
            },
        )
    if isinstance(store, MixedStore):
        return _of_mixed(store)
    if isinstance(store, FilmStore):
        return _with_recipe(
            store.recipe,
            {"path": _place(store.folder), "films": len(store), "mark": _of_films(store)},
        )
    return files_of(getattr(store, "folder", None))


def files_of(folder: str | Path | None) -> dict | None:
    """Return place and mark of whatever files a folder holds; None where there is no folder."""
    if folder is None or not Path(folder).is_dir():
        return None
    return {
        "path": _place(folder),
        "mark": glance(path for path in Path(folder).rglob("*") if path.is_file()),
    }


def _with_recipe(recipe: dict, data: dict) -> dict:
    return data | {"recipe": {name: recipe[name] for name in NAMED if name in recipe}}


def _place(folder: str | Path) -> str:
    return str(Path(folder).resolve())


def _of_store(store: Store) -> str:
    """Return the mark of a toybox store: of all its numbers, or, where its latents take more than
    HASHED bytes, of its shards' own checksums, which are compared when a shard is first read."""
    arrays = (store.latents, store.words, store.slot, store.shot)
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        digest.update(f"{array.dtype} {tuple(array.shape)}".encode())
        for part in _parts_of(array):
            digest.update(part)
    return digest.hexdigest()


def _parts_of(array: StoredLatents | Tensor) -> Iterator[bytes | memoryview]:
    """Yield what stands for the numbers of an array in a mark."""
    if isinstance(array, Tensor):
        yield array.cpu().contiguous().numpy().data
    elif array.nbytes > HASHED and None not in (digests := [one.digest for one in array.parts]):
        yield " ".join(map(str, digests)).encode()
    else:
        yield from (part.numpy().data for part in array.each())


def _of_mixed(store: MixedStore) -> dict:
    """Return what is noted of several stores: the places of all, and a mark of theirs and the
    shares that they give."""
    parts = [data_of(one) or {} for one in store.stores]
    text = json.dumps([[part["mark"] for part in parts], store.shares.tolist()])
    return parts[0] | {
        "path": " + ".join(part["path"] for part in parts),
        "films": len(store),
        "mark": hashlib.blake2b(text.encode(), digest_size=8).hexdigest(),
    }


def _of_films(store: FilmStore) -> str:
    """Return the mark of the checksums and captions of the shards that are drawn from."""
    used = {film.shard for film in store.films}
    drawn = {name: about for name, about in shards(store.folder).items() if name in used}
    text = json.dumps([store.recipe, drawn], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
