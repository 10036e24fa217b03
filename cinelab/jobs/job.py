"""A training as one file, YAML or JSON: what `cinelab.jobs.worker` runs, on one process or on
many.

stage: teacher_forcing
run: results/wan/stage1
preset: wan-1.3b
init: weights/Wan2.1-T2V-1.3B-Diffusers/transformer
store: {kind: films, path: data/films}
layout: {parts: 64, recompute: true}
export: results/wan/stage1/checkpoint
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cinelab.config import from_dict, override, to_dict
from cinelab.errors import CinelabError
from cinelab.latent.store import Clips, Store, check_begin, unconditional_words
from cinelab.limits import shown_path
from cinelab.model.wan import CausalWan, WanConfig, init_toy
from cinelab.readable import Readable
from cinelab.scale.adapters import Lora
from cinelab.scale.parallel import Layout
from cinelab.seeds import rng_at
from cinelab.texts import JOB, read_yaml
from cinelab.train import presets
from cinelab.train.provenance import data_of, files_of
from cinelab.weights.load import DTYPES, open_weights
from cinelab.zoo import checkpoints as zoo

STAGES = ("bidirectional", "teacher_forcing", "consistency", "dmd")
TAUGHT = ("consistency", "dmd")
# beside `toybox` and `noise`: any class that opens a folder, as module:name
KINDS = {"films": "cinelab.latent.clips:FilmStore"}


@dataclass(frozen=True)
class Data:
    """Where clips come from: `toybox` (a folder of notebook 10), `films` (a folder of real videos),
    `noise` (path HxWxL: random latents of that size and random prompts of L words, to rehearse
    memory and time), or a class as module:name."""

    kind: str
    path: str
    # of clips of toybox or films: with a "film" or "anywhere"; None = films: film, toybox: anywhere
    begin: str | None = None

    def __post_init__(self):
        if self.begin is not None and self.kind not in ("toybox", *KINDS):
            raise CinelabError(
                f"store.begin is {self.begin!r} for kind {self.kind!r}, which says itself where "
                "clips begin; leave it out."
            )
        if self.begin is not None:
            check_begin(self.begin)


@dataclass(frozen=True)
class Job(Readable):
    """See the head of the file. Paths are relative to where it is run."""

    stage: str
    run: str  # folder; resumed if it is there
    store: Data
    preset: str = "smoke"
    changes: dict = field(default_factory=dict)  # dotted overrides of the preset
    # a checkpoint's name, or weights in any layout; "random" to rehearse; None: from scratch
    init: str | None = None
    # of consistency; of dmd: the real score, which the critic starts from too
    teacher: str | None = None
    lora: Lora | None = None  # train adapters only
    layout: Layout = Layout()
    export: str | None = None  # folder of the result
    # of the result: fp32, bf16, fp16; None: bf16 for whole weights, fp32 for adapters
    export_dtype: str | None = None
    seed: int = 0

    def __post_init__(self):
        if self.stage not in STAGES:
            raise CinelabError(f"stage is {self.stage!r}; use one of {', '.join(STAGES)}.")
        if (self.teacher is not None) != (self.stage in TAUGHT):
            need = "needs a teacher" if self.stage in TAUGHT else "has no teacher"
            raise CinelabError(
                f"teacher is {self.teacher!r}, but stage {self.stage} {need}; correct one of the "
                "two."
            )
        if self.stage == "dmd" and self.layout.sequence > 1:
            raise CinelabError(
                f"layout.sequence is {self.layout.sequence}, but dmd rolls out chunk by chunk and "
                "has no long "
                "sequence to share; use 1 and more parts."
            )
        if self.export_dtype not in (None, *DTYPES):
            raise CinelabError(
                f"export_dtype is {self.export_dtype!r}; use one of {', '.join(DTYPES)}, or leave "
                "it out."
            )
        if self.lora is not None and self.init is None:
            raise CinelabError(
                "lora is given without init; adapters need trained weights to adapt, so name a "
                "checkpoint."
            )

    @property
    def config(self) -> Any:
        """The stage's settings."""
        return override(getattr(presets, self.stage)(self.preset, self.seed), self.changes)


def load_job(path: str | Path) -> Job:
    """Read a description; every unknown or wrong entry is one sentence."""
    values = read_yaml(path, JOB)
    if not isinstance(values, dict):
        raise CinelabError(
            f"{path} holds {type(values).__name__}, not settings; see cinelab.jobs.job for an "
            "example."
        )
    if missing := [name for name in ("stage", "run", "store") if name not in values]:
        raise CinelabError(
            f"{path} does not say {missing[0]}; add it (see cinelab.jobs.job for an example)."
        )
    try:
        return from_dict(Job, values)
    except CinelabError as error:
        raise CinelabError(f"{shown_path(path)}: {error}") from error


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
    if data.kind == "toybox":
        return Store(Path(data.path), zoo.toy_encoder(), **_begin(data))
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


class Placed:
    """A store whose clips are handed out on a device."""

    def __init__(self, store: Any, device: str, path: str):
        self.store = store
        self.device = device
        self.folder = path

    def about(self) -> dict | None:
        """Which data these are (see `train.provenance`): as the store tells it, else by the files
        of its folder."""
        return data_of(self.store) or files_of(self.folder)

    def text(self, caption: str) -> Tensor:
        """Return the words (L, E) of a caption."""
        return self.store.text(caption).to(self.device)

    def clips(self, count: int, frames: int, rng: torch.Generator) -> Clips:
        clips = self.store.clips(count, frames, rng)
        parts = {
            name: getattr(clips, name).to(self.device)
            for name in ("latents", "text", "slot", "shot")
        }
        return replace(clips, **parts)


class Noise:
    """Clips of one shot made of random numbers, of the size that `path` says: rows x columns of a
    latent x words."""

    def __init__(self, path: str, model: WanConfig):
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


def weights_of(place: str) -> Iterator[tuple[str, Tensor]]:
    """Name and full tensor of every weight, one after another: of a checkpoint's name, or of a
    folder or file in any published layout (see `cinelab.weights.load`)."""
    weights = open_weights(placed(place))
    weights.report().demand()
    yield from weights


def check_weights(place: str, model: WanConfig) -> None:
    """Refuse weights that the model of a job does not take, by names and shapes, before anything is
    built or read."""
    weights = open_weights(placed(place))
    report = replace(weights, config=model).report()
    said = weights.source.stated
    theirs = said | {"num_layers": report.layers}
    odd = next(
        (name for name, ours in to_dict(model).items() if name in theirs and theirs[name] != ours),
        None,
    )
    if odd is not None:
        raise CinelabError(
            f"Weights {place} do not fit the model: they have {odd} {theirs[odd]!r}, the model "
            f"{getattr(model, odd)!r}; name the "
            f"preset that fits them, or set changes: {{model.{odd}: {theirs[odd]!r}}}."
        )
    if not report.whole:
        first = (
            f"{report.wrong[0][0]} is {report.wrong[0][1]}, expected {report.wrong[0][2]}"
            if report.wrong
            else f"{(report.missing or report.unexpected)[0]}"
        )
        raise CinelabError(
            f"Weights {place} do not fit the model: {len(report.missing)} tensors missing, "
            f"{len(report.unexpected)} unknown, "
            f"{len(report.wrong)} of another shape (first: {first}); name the preset that fits "
            "them."
        )


def placed(place: str) -> Path:
    """Where the weights lie that a job names: a path, or a shipped checkpoint's folder."""
    return Path(place) if Path(place).exists() else zoo.find(place)


def fresh(model: WanConfig, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Weights to train from scratch, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield from init_toy(CausalWan(model)).state_dict().items()
