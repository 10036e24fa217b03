"""The training queue: one YAML file a job, taken in the order of their names, best first.

name: stage1-longer
why: what is expected of it
stage: teacher_forcing
preset: h100
changes: {optim.lr: 8.0e-4}
start: [stage1-h100, toybox-base]   # the first that is there; job:NAME is a job before this one
teacher: job:stage1-longer          # of stages that have one
store: {films: 40000, latents: 24}  # the toybox's films that are rendered for it
steps: 1000                         # or minutes: 4
expected_seconds: 250
keeps: [weights, log, card]
"""

import argparse
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from cinelab.config import from_dict
from cinelab.errors import CinelabError
from cinelab.jobs.job import RANDOM, Data, Job
from cinelab.latent.store import StoreConfig
from cinelab.limits import shown_path
from cinelab.texts import JOB, read_yaml
from cinelab.world.worlds import DEFAULT, world_named
from cinelab.zoo import checkpoints as zoo

KEEPS = ("weights", "log", "card")
OTHER = "job:"  # before the name of another job of the queue
MOST = 10**9


@dataclass(frozen=True)
class Films:
    """The recipe of the films that a job draws from (see `cinelab.latent.store.StoreConfig`)."""

    seed: int = 2
    films: int = 40000
    latents: int = 24
    longest: int = 6
    shard: int = 100
    world: str = ""  # that plans and draws them; "" = the newest

    @property
    def config(self) -> StoreConfig:
        """The store's settings."""
        given = {one.name: getattr(self, one.name) for one in fields(self)}
        return replace(StoreConfig(), **given | {"world": self.world or DEFAULT})

    @property
    def name(self) -> str:
        """The name of the store's folder."""
        world = f"-{self.world}" if self.world else ""
        return f"films-{self.seed}-{self.films}-{self.latents}-{self.longest}{world}"

    def words(self) -> list[str]:
        """Return the recipe as arguments of `toy_films`."""
        return [f"--{one.name}={getattr(self, one.name)}" for one in fields(self)]

    @classmethod
    def add_to(cls, parser: argparse.ArgumentParser) -> None:
        """Add those arguments to a parser."""
        for one in fields(cls):
            parser.add_argument(f"--{one.name}", type=type(one.default), default=one.default)

    @classmethod
    def of(cls, options: argparse.Namespace) -> "Films":
        """Return the recipe that the arguments give."""
        return cls(**{one.name: getattr(options, one.name) for one in fields(cls)})


@dataclass(frozen=True)
class QueuedJob:
    """See the head of the file."""

    name: str
    why: str
    stage: str
    start: str | list[str]
    expected_seconds: float
    preset: str = "toy"
    changes: dict = field(default_factory=dict)
    teacher: str | list[str] | None = None
    store: Films = Films()
    steps: int | None = None
    minutes: float | None = None
    keeps: list[str] = field(default_factory=lambda: list(KEEPS))

    def __post_init__(self):
        if not self.name.replace("-", "").isalnum():
            raise CinelabError(
                f"name is {self.name!r}; use letters, digits and hyphens, since it names files."
            )
        if (self.steps is None) == (self.minutes is None):
            raise CinelabError("give either steps or minutes, and not both.")
        for name in ("steps", "minutes", "expected_seconds"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= MOST:
                raise CinelabError(f"{name} is {value}; more than 0 is expected.")
        if not places(self.start):
            raise CinelabError("start is empty; name a checkpoint, or random.")
        if odd := [one for one in self.keeps if one not in KEEPS]:
            raise CinelabError(f"keeps has {odd[0]!r}; use some of {', '.join(KEEPS)}.")
        some = world_named().codec  # any name that there is
        self.job(Path("."), start=some, teacher=some if self.teacher else None)

    def job(
        self, work: Path, *, start: str, teacher: str | None = None, changes: dict | None = None
    ) -> Job:
        """Return what `cinelab.jobs.worker` runs, below the folder `work`. CinelabError where its
        stage, preset or changes are wrong."""
        steps = {} if self.steps is None else {"steps": self.steps}
        run = work / self.name
        job = Job(
            self.stage,
            str(run),
            Data("toybox", str(work / self.store.name)),
            self.preset,
            self.changes | steps | (changes or {}),
            start,
            teacher,
            export=str(run / "result"),
        )
        job.config  # noqa: B018, refuses a bad preset or change
        return job


def read_queue(folder: Path) -> list[QueuedJob]:
    """Return the jobs of a folder in the order of their files' names.

    Raises CinelabError with the file and the key that is wrong.
    """
    if not folder.is_dir():
        raise CinelabError(f"--queue is {folder}, which is no folder; give one of .yaml files.")
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise CinelabError(f"--queue {folder} holds no .yaml file; see experiments/gpu.")
    jobs = [_read(path) for path in paths]
    names = [one.name for one in jobs]
    for place, one in enumerate(jobs):
        if one.name in names[:place]:
            raise CinelabError(
                f"{shown_path(paths[place])}: name {one.name!r} is that of a job before it; give "
                "it another one, since it names the job's folder."
            )
        for wanted in (*places(one.start), *places(one.teacher)):
            if wanted.startswith(OTHER) and wanted[len(OTHER) :] not in names[:place]:
                raise CinelabError(
                    f"{shown_path(paths[place])}: {wanted!r} names no job before it; known are "
                    f"{', '.join(names[:place]) or 'none'}."
                )
    return jobs


def _read(path: Path) -> QueuedJob:
    values = read_yaml(path, JOB)
    if not isinstance(values, dict):
        raise CinelabError(
            f"{shown_path(path)} holds {type(values).__name__}, not settings; see experiments/gpu."
        )
    needed = ("name", "why", "stage", "start", "expected_seconds")
    if missing := [name for name in needed if name not in values]:
        raise CinelabError(f"{shown_path(path)} does not say {missing[0]}; add it.")
    try:
        return from_dict(QueuedJob, values)
    except CinelabError as error:
        raise CinelabError(f"{shown_path(path)}: {error}") from error


def places(value: str | list[str] | None) -> list[str]:
    """Return the places that `start` or `teacher` names, in order."""
    return [] if value is None else [value] if isinstance(value, str) else value


def found(value: str | list[str], work: Path, starts: Path | None) -> str:
    """Return the first of the places where weights lie: a job's result, a checkpoint below
    `starts`, a path, or a shipped checkpoint. CinelabError where none is there."""
    for place in places(value):
        if place == RANDOM:
            return place
        if place.startswith(OTHER):
            near = [work / place[len(OTHER) :] / "result"]
        else:
            near = [Path(place)] + ([starts / place] if starts else [])
        if there := next((one for one in near if (one / zoo.WEIGHTS).is_file()), None):
            # a run's folder may hold the weights alone: then they are named themselves
            return str(there if (there / zoo.CONFIG).is_file() else there / zoo.WEIGHTS)
        if place in zoo.shipped():
            return place
    raise CinelabError(
        f"none of {', '.join(places(value))} is there; give --starts FOLDER, where its checkpoints "
        "lie."
    )
