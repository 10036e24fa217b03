"""Encoded films of many lengths on disk, drawn from by every stage: what `cinelab.data` writes and
training reads.

    store.json                    the recipe: codec, text encoder, rate, size, chunk, ...
    NNNNNN-NN.safetensors, .json  a shard of latents (n, C, h, w), one tensor a film, and what
                                  they are
    text-NNNNNN-NN...             a shard of prompts (used words, E), one tensor a caption;
                                  text-null is the empty prompt

A shard counts from the moment its .json stands beside it, and that knows its size and checksum, and
its own (a seal). They are compared when a shard is first read. So a store that is still being
built, or was copied in part, can be read: what is missing is left out, with a warning.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cinelab.checksums import checksum, checksum_of, read_sealed, write_sealed
from cinelab.config import mapping
from cinelab.errors import CinelabError
from cinelab.files import write_atomic
from cinelab.latent.store import Clips, check_begin
from cinelab.limits import short

RECIPE = "store.json"
NULL = "text-null"
AGAIN = "build the store again"
# what a shard may say of itself
SHARD = {
    "films": list[dict] | None,
    "captions": dict[str, str] | None,
    "plan": str | None,
    "skipped": list[dict] | None,
}
LATENTS_OF_FILM = 10**6


def text_key(caption: str) -> str:
    """The name of a caption's tensor."""
    return checksum_of(caption.encode(), size=12)


def write_shard(folder: Path, name: str, tensors: dict[str, Tensor], about: dict[str, Any]) -> dict:
    """Write a shard and then what it is; returns the latter."""
    path = folder / f"{name}.safetensors"
    write_atomic(path, lambda temporary: save_file(tensors, temporary))
    about = {"bytes": path.stat().st_size, "blake2b": checksum(path)} | about
    write_sealed(folder / f"{name}.json", about)
    return about


def fault(folder: Path, name: str, about: dict, thorough: bool = False) -> str:
    """What is wrong with a shard ("" if nothing): absent, of another size or, if `thorough`, of
    another content."""
    path = folder / f"{name}.safetensors"
    if not path.exists():
        return "is missing"
    if (size := path.stat().st_size) != about["bytes"]:
        return f"has {size} bytes instead of {about['bytes']}"
    return (
        "has changed since it was written"
        if thorough and checksum(path) != about["blake2b"]
        else ""
    )


def shards(folder: Path, prefix: str = "") -> dict[str, dict]:
    """What every finished shard of a store is, by name; those whose name begins with `prefix`."""
    found = sorted(path for path in folder.glob(f"{prefix}*.json") if "-" in path.stem)
    # those are half written
    return {path.stem: _shard(path) for path in found if not path.name.startswith(".")}


def _shard(path: Path) -> dict:
    """What a shard is, by its .json; a CinelabError names what of it is of another shape."""
    about = read_sealed(path, f"remove it and {AGAIN}", bytes=int, blake2b=str, **SHARD)
    if odd := sorted(about.keys() - {"bytes", "blake2b", *SHARD}):
        raise CinelabError(
            f"{path} has {short(odd[0])}, which no index of a shard says; remove it and {AGAIN}."
        )
    for number, film in enumerate(about.get("films", ())):
        where = f"{path}: film {number}"
        for shot in mapping(film, where, latents=int, shots=list[dict])["shots"]:
            prompts = mapping(shot, where, prompts=list[tuple[str, int]])["prompts"]
            if any(not 0 <= count <= LATENTS_OF_FILM for _, count in prompts):
                raise CinelabError(
                    f"{where} has a prompt of {short(prompts)} latent frames; build the store "
                    "again."
                )
    return about


def verify(folder: str | Path) -> list[str]:
    """Read every shard of a store; a sentence for each that is broken. `cinelab.data.build` makes
    those again."""
    folder = Path(folder)
    recipe_of(folder)
    found = {
        name: fault(folder, name, about, thorough=True) for name, about in shards(folder).items()
    }
    return [
        f"{folder / name}.safetensors {what}; build the store again."
        for name, what in found.items()
        if what
    ]


def recipe_of(folder: Path) -> dict:
    if not (folder / RECIPE).exists():
        raise CinelabError(
            f"{folder} is no store of films ({RECIPE} is missing); build one first (notebook "
            "04_video_data does)."
        )
    return read_sealed(
        folder / RECIPE, f"restore it, or {AGAIN} into another folder", words=int, chunk=int
    )


@dataclass(frozen=True)
class StoredFilm:
    """One film of a store: where its latents are, and which prompt and shot each latent frame
    belongs to."""

    shard: str
    key: str
    about: dict  # source, number, videos with checksums, shots with seconds and prompts

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """Captions in order, one for every stretch of latent frames under one."""
        return tuple(caption for shot in self.about["shots"] for caption, _ in shot["prompts"])

    @cached_property
    def slot(self) -> np.ndarray:
        """(n,) which prompt each latent frame is under."""
        lengths = [count for shot in self.about["shots"] for _, count in shot["prompts"]]
        return np.repeat(np.arange(len(lengths)), lengths)

    @cached_property
    def shot(self) -> np.ndarray:
        """(n,) which shot each latent frame is of."""
        lengths = [sum(count for _, count in shot["prompts"]) for shot in self.about["shots"]]
        return np.repeat(np.arange(len(lengths)), lengths)

    def __len__(self) -> int:
        return self.about["latents"]


class FilmStore:
    """A store of films, memory-mapped. `clips` is that of `cinelab.latent.store.Store`.

    A film's first latent frame holds one frame and every later one several (`stride` of the
    codec: 4 of Wan's), and every film that a model makes begins with such a one. So by default
    clips begin where their films do (`begin="film"`), for a model learns the beginnings that it is
    shown. Films of the length of a clip (`fill` and `longest` of `cinelab.data.DataConfig`) lose
    nothing by that, for each is encoded by itself. `begin="anywhere"` takes clips from all over
    longer films as well; the first latent of most of them then holds several frames and depends on
    what came before.
    """

    def __init__(self, folder: str | Path, begin: str = "film"):
        self.folder = Path(folder)
        self.begin = check_begin(begin)
        self.recipe = recipe_of(self.folder)
        known = shards(self.folder)
        faults = {
            name: what for name, about in known.items() if (what := fault(self.folder, name, about))
        }
        self._sound = sound = {name: about for name, about in known.items() if name not in faults}
        self._text = {
            key: name for name, about in sound.items() for key in about.get("captions", ())
        }
        films = [
            StoredFilm(name, str(i), film)
            for name, about in sound.items()
            for i, film in enumerate(about.get("films", ()))
        ]
        self.films = [
            film
            for film in films
            if all(text_key(caption) in self._text for caption in film.prompts)
        ]
        self._open: dict[str, Any] = {}
        self._windows: dict[int, tuple[list[int], np.ndarray]] = {}
        self._warn(faults, len(films) - len(self.films))
        if not self.films or text_key("") not in self._text:
            raise CinelabError(
                f"Store {self.folder} holds no finished film; build it again, and read what was "
                "left out in its skipped.jsonl."
            )

    def _warn(self, faults: dict[str, str], unsaid: int) -> None:
        if faults:
            name, what = next(iter(faults.items()))
            warnings.warn(
                f"Store {self.folder}: {len(faults)} of its shards cannot be used and are left "
                f"out (first: {name}.safetensors {what}); build it again.",
                stacklevel=3,
            )
        if unsaid:
            warnings.warn(
                f"Store {self.folder}: {unsaid} films are left out, for their prompts are not "
                "encoded yet; build it to the end.",
                stacklevel=3,
            )

    def __len__(self) -> int:
        return len(self.films)

    def latents(self, index: int, start: int = 0, end: int | None = None) -> Tensor:
        """Latent frames start .. end of a film, (n, C, h, w) as stored."""
        film = self.films[index]
        end = len(film) if end is None else end
        found = self._read(film.shard, lambda file: file.get_slice(film.key)[start:end])
        if len(found) != end - start:
            raise CinelabError(
                f"Shard {self.folder / film.shard}.safetensors has {start + len(found)} latent "
                f"frames of a film that its .json gives {len(film)}; build the store again."
            )
        return found

    def text(self, caption: str) -> Tensor:
        """The words of a caption (L, E) in float32, padded with zeros."""
        if (key := text_key(caption)) not in self._text:
            raise CinelabError(
                f"Store {self.folder} holds no encoding of the prompt {caption!r:.60}; build it "
                "again from its videos, "
                'which adds it, or set unconditional to "" (the empty prompt) if it is what '
                "guidance compares with."
            )
        used = self._read(self._text[key], lambda file: file.get_tensor(key).float())
        if used.ndim != 2 or len(used) > self.recipe["words"]:
            raise CinelabError(
                f"Store {self.folder} has the prompt {short(caption)} in the shape "
                f"{tuple(used.shape)}, and {RECIPE} says {self.recipe['words']} words at most; "
                "restore it or build the store again."
            )
        return torch.cat([used, used.new_zeros(self.recipe["words"] - len(used), used.shape[1])])

    def clips(self, count: int, frames: int, rng: torch.Generator) -> Clips:
        """`count` windows of `frames` latent frames; each that begins as `begin` says, and with a
        chunk, is as likely."""
        which, ends = self._long_enough(frames)
        drawn = torch.randint(int(ends[-1]), (count,), generator=rng).numpy()
        places = np.searchsorted(ends, drawn, side="right")
        parts = []
        for place, number in zip(places, drawn, strict=True):
            start = int(number - (ends[place - 1] if place else 0)) * self.recipe["chunk"]
            parts.append((which[place], start, start + frames))
        return self._gather(parts)

    def _gather(self, parts: list[tuple[int, int, int]]) -> Clips:
        slots = torch.from_numpy(np.stack([self.films[i].slot[a:b] for i, a, b in parts]))
        shots = torch.from_numpy(np.stack([self.films[i].shot[a:b] for i, a, b in parts]))
        relative = slots - slots[:, :1]
        used = int(relative.max()) + 1
        null = self.text("")
        text = null.new_zeros(len(parts), used + 1, *null.shape)  # (B, P + 1, L, E)
        text[:, -1] = null
        for row, ((i, _, _), own) in enumerate(zip(parts, slots, strict=True)):
            for place, prompt in enumerate(self.films[i].prompts[int(own[0]) : int(own[-1]) + 1]):
                text[row, place] = self.text(prompt)
        latents = torch.stack([self.latents(*part).float() for part in parts])
        return Clips(latents, text, relative, shots - shots[:, :1])

    def _long_enough(self, frames: int) -> tuple[list[int], np.ndarray]:
        """Films of at least `frames` latent frames, and the running sum of their windows."""
        if frames not in self._windows:
            which = [i for i, film in enumerate(self.films) if len(film) >= frames]
            if not which:
                longest = max(map(len, self.films))
                raise CinelabError(
                    f"Store {self.folder} has no film of {frames} latent frames, its longest has "
                    f"{longest}; ask for at most {longest}, or build it from longer videos."
                )
            windows = [self._windows_in(len(self.films[i]), frames) for i in which]
            self._windows[frames] = which, np.array(list(accumulate(windows)))
            self._warn_unused(which, frames)
        return self._windows[frames]

    def _windows_in(self, length: int, frames: int) -> int:
        """How many clips of `frames` latent frames a film of `length` has."""
        return 1 if self.begin == "film" else (length - frames) // self.recipe["chunk"] + 1

    def _warn_unused(self, which: list[int], frames: int) -> None:
        """Say so where clips that begin with their films leave out most of the store."""
        whole = sum(map(len, self.films))
        used = len(which) * frames
        if self.begin == "film" and used < whole / 2:
            warnings.warn(
                f"Store {self.folder}: clips of {frames} latent frames that begin as films do use "
                f"{used} of its {whole}; "
                f"build it with fill=true and longest={frames}, so that each is encoded by "
                'itself, or set begin to "anywhere".',
                stacklevel=4,
            )

    def _read(self, name: str, look: Callable[[Any], Tensor]) -> Tensor:
        """What a shard holds. Raises CinelabError where it lacks what its .json says."""
        try:
            return look(self._file(name))
        except SafetensorError as error:
            raise CinelabError(
                f"Shard {self.folder / name}.safetensors does not hold what its .json says "
                f"({error}); build the store again."
            ) from error

    def _file(self, name: str) -> Any:
        if name not in self._open:
            if what := fault(self.folder, name, self._sound[name], thorough=True):
                raise CinelabError(
                    f"Shard {self.folder / name}.safetensors {what}; {AGAIN}, which makes broken "
                    "shards anew and keeps the others."
                )
            try:
                self._open[name] = safe_open(self.folder / f"{name}.safetensors", "pt")
            except Exception as error:
                raise CinelabError(
                    f"Shard {self.folder / name}.safetensors is broken ({type(error).__name__}); "
                    "build the store again."
                ) from error
        return self._open[name]
