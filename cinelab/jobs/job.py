"""A training as one file, YAML or JSON: what `cinelab.jobs.worker` runs, on one process or on
many. `stage` is a registered name, or the import path of a stage of one's own (my_module:MyStage).

stage: teacher_forcing
run: results/wan/stage1
preset: wan-1.3b
init: weights/Wan2.1-T2V-1.3B-Diffusers/transformer
store: {kind: films, path: data/films}
layout: {micro_batches: 64, activation_checkpointing: true}
export: results/wan/stage1/checkpoint
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cinelab.config import from_dict, override
from cinelab.errors import CinelabError
from cinelab.latent.store import check_begin
from cinelab.limits import shown_path
from cinelab.readable import Readable
from cinelab.scale.adapters import Lora
from cinelab.scale.parallel import Layout
from cinelab.texts import JOB, read_yaml
from cinelab.train.stage import PAIRS, stage_named
from cinelab.weights.load import DTYPES

RANDOM = "random"  # in place of a checkpoint: random weights, to rehearse memory and time
# beside `toybox` and `noise`: any class that opens a folder, as module:name
KINDS = {"films": "cinelab.latent.clips:FilmStore"}


@dataclass(frozen=True)
class Data:
    """Where clips come from: `toybox` (a folder of notebook 13), `films` (a folder of real videos),
    `noise` (path HxWxL: random latents of that size and random prompts of L words, to rehearse
    memory and time), or a class as module:name."""

    kind: str
    path: str
    # of clips of toybox or films: with a "film" or "anywhere"; None = films: film, toybox: anywhere
    begin: str | None = None
    # of toybox: further stores, and the share of the clips that each gives
    also: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        if self.also and self.kind != "toybox":
            raise CinelabError(
                f"store.also is given for kind {self.kind!r}; it mixes stores of kind toybox "
                "alone, so leave it out."
            )
        if self.also and not 0 < sum(self.also.values()) < 1:
            raise CinelabError(
                f"store.also gives shares that add up to {sum(self.also.values()):g}; more than 0 "
                f"and less than 1 is expected, for the rest is that of {shown_path(self.path)}."
            )
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
    # of consistency; of ode: whose trajectories the pairs are; of dmd: the real score, which the
    # critic starts from too
    teacher: str | None = None
    # of ode: the folder of its ODE pairs, integrated where they are missing; None: RUN/pairs
    pairs: str | None = None
    lora: Lora | None = None  # train adapters only
    layout: Layout = Layout()
    export: str | None = None  # folder of the result
    # of the result: fp32, bf16, fp16; None: bf16 for whole weights, fp32 for adapters
    export_dtype: str | None = None
    seed: int = 0
    # of a sitting: when they are up the training validates, saves and exports, and ends; started
    # again it goes on
    minutes: float | None = None

    def __post_init__(self):
        stage = stage_named(self.stage)
        if (self.teacher is not None) != stage.needs_teacher:
            need = "needs a teacher" if stage.needs_teacher else "has no teacher"
            raise CinelabError(
                f"teacher is {self.teacher!r}, but stage {self.stage} {need}; correct one of the "
                "two."
            )
        if self.pairs is not None and stage.draws_from != PAIRS:
            raise CinelabError(
                f"pairs is {self.pairs!r}, but stage {self.stage} draws clips; leave it out."
            )
        if stage.rolls_out and self.layout.sequence > 1:
            raise CinelabError(
                f"layout.sequence is {self.layout.sequence}, but {self.stage} rolls out chunk by "
                "chunk and has no long sequence to share; use 1 and more micro_batches."
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
        return override(stage_named(self.stage).preset(self.preset, self.seed), self.changes)


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
