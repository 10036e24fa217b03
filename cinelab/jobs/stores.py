"""What a job draws from: its store opened, and the ODE pairs of its teacher, integrated where they
are missing."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.jobs.job import KINDS, RANDOM, Data, Job
from cinelab.jobs.networks import fingerprint_at, place_of
from cinelab.latent.mixed import MixedStore
from cinelab.latent.placed import PlacedClips
from cinelab.latent.store import Clips, Store, unconditional_words, world_of_store
from cinelab.seeds import rng_at
from cinelab.train.pairs import Pairs, integrate_pairs
from cinelab.train.provenance import data_of, files_of
from cinelab.world.worlds import check_same_world, named_in
from cinelab.zoo import checkpoints as zoo


def open_store(data: Data, config: Any, device: str = "cpu") -> Any:
    """Return a store whose `.clips(count, frames, rng)` gives Clips on `device`.

    Raises CinelabError where it cannot be opened, or has no encoding of the prompt that the stage's
    guidance compares with.
    """
    store = _opened(data, config)
    if compared := getattr(config, "unconditional", ""):
        unconditional_words(store, compared)
    return Placed(store, device, data.path)


def _opened(data: Data, config: Any) -> Any:
    if data.kind == "noise":
        return Noise(data.path, config.model)
    if not Path(data.path).is_dir():
        raise CinelabError(
            f"Store {data.path} is not there; build it first, or correct store.path."
        )
    if data.also:
        shares = {data.path: 1 - sum(data.also.values())} | data.also
        encoder = zoo.toy_encoder(world=world_of_store(data.path))
        return MixedStore(shares, encoder, **_begin(data))
    if data.kind == "toybox":
        encoder = zoo.toy_encoder(world=world_of_store(data.path))
        return Store(Path(data.path), encoder, **_begin(data))
    module, _, name = KINDS.get(data.kind, data.kind).partition(":")
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise CinelabError(
            f"store.kind is {data.kind!r}, which cannot be opened ({error}); use toybox, noise, "
            f"{', '.join(KINDS)} or "
            "module:name."
        ) from error
    return kind(data.path, **_begin(data))


def _begin(data: Data) -> dict:
    return {} if data.begin is None else {"begin": data.begin}


class Placed(PlacedClips):
    """A job's store: its clips on a device, and which data they are, of a store of any kind."""

    def __init__(self, store: Any, device: str, path: str):
        super().__init__(store, device)
        self.folder = path

    def about(self) -> dict | None:
        """Which data these are (see `train.provenance`): what the store states, else the files of
        its folder."""
        return data_of(self.store) or files_of(self.folder)

    @property
    def recipe(self) -> dict:
        """What the store was built with."""
        return getattr(self.store, "recipe", {})

    def placed(self, device: torch.device | str) -> "Placed":
        """Return it on a device: it is on its own already, or is placed anew."""
        same = torch.device(device) == torch.device(self.device)
        return self if same else Placed(self.store, str(device), self.folder)


class Noise:
    """Clips of one shot made of random numbers, of the size that `path` says: rows x columns of a
    latent x words."""

    def __init__(self, path: str, model: Any):
        try:
            self.rows, self.columns, self.words = map(int, path.split("x"))
        except ValueError as error:
            raise CinelabError(
                f"store.path is {path!r}; for kind noise give rows x columns x words, like "
                "60x104x512."
            ) from error
        self.path = path
        self.model = model

    def about(self) -> dict:
        return {"path": self.path, "mark": f"noise {self.path}"}

    def text(self, caption: str) -> Tensor:
        """Return random words (L, E), the same for the same caption."""
        return torch.randn(self.words, self.model.text_dim, generator=rng_at(0, "noise", caption))

    def clips(self, count: int, frames: int, rng: torch.Generator) -> Clips:
        latents = torch.randn(
            count, frames, self.model.in_channels, self.rows, self.columns, generator=rng
        )
        text = torch.randn(count, 2, self.words, self.model.text_dim, generator=rng)
        text[:, -1] = 0
        zeros = torch.zeros(count, frames, dtype=torch.long)
        return Clips(latents, text, zeros, zeros)


def check_worlds(job: Job, store: Any) -> None:
    """Raise CinelabError for a toybox store of another world than that of a checkpoint that the job
    begins with."""
    for place in (job.init, job.teacher):
        if job.store.kind == "toybox" and place not in (None, RANDOM):
            folder = place_of(place)
            if (folder / zoo.CONFIG).exists() and (folder / zoo.WEIGHTS).exists():
                check_same_world(
                    named_in(store.recipe),
                    zoo.world_in(folder),
                    what=f"Store {job.store.path}",
                    whose=str(place),
                    remedy="build a store of the checkpoint's world, or begin with another one",
                )


def pairs_folder(job: Job) -> Path:
    """Return where the ODE pairs of a job lie."""
    return Path(job.pairs or Path(job.run) / "pairs")


def open_pairs(job: Job, config: Any, store: Any) -> Pairs:
    """Return the pairs of a job, which must all be there. CinelabError where some are missing, or
    they are of another teacher, recipe or store."""
    return Pairs(pairs_folder(job), config.pairs, fingerprint_at(job.teacher), store)


def pairs_of(
    job: Job,
    config: Any,
    store: Any,
    *,
    teacher: Callable[[], Any],
    time_is_up: Callable[[], bool] = lambda: False,
) -> Pairs:
    """Return the pairs of a job, integrated where they are missing; `teacher` makes the frozen
    network, which is given back when they are there. CinelabError where the time is up before."""
    folder = pairs_folder(job)
    if not all((folder / f"{shard:05d}.npz").exists() for shard in range(config.pairs.shards)):
        for clips in integrate_pairs(
            folder, config.pairs, teacher(), fingerprint_at(job.teacher), store
        ):
            if clips < config.pairs.clips and time_is_up():
                raise CinelabError(
                    f"The time was up when {clips} of {config.pairs.clips} clips of ODE pairs were "
                    f"integrated; what is in {folder} is kept: start again, or give more minutes."
                )
    return open_pairs(job, config, store)
