"""What a film of any made world is planned and drawn as: shots, their lengths, and the exact truth.

A plan knows attributes and lengths in latent frames, not pixels; it names the world that draws it
(`cinelab.world.worlds`). The first latent frame of a film holds one frame, each later one `stride`.
"""

from dataclasses import dataclass, field
from itertools import accumulate
from random import Random

import numpy as np

from cinelab.errors import CinelabError
from cinelab.readable import Readable
from cinelab.script.timeline import Slot, Timeline

UNNAMED = "toybox-1"  # the world of what was written before worlds had names


@dataclass(frozen=True)
class ShotPlan:
    """What happens under one caption: every attribute (prompted and unprompted), its length in
    latent frames.

    With `continues` the film goes on from the plan before it: no cut, only the action changes.
    """

    attributes: dict[str, str]
    caption: str
    latents: int
    character: int  # which member of the cast
    place: int  # which place of the film
    scenery_seed: int  # small scenery (clouds, houses, flowers) of the place
    continues: bool = False


@dataclass(frozen=True)
class FilmPlan:
    """The shots of one film; ground truth of everything the renderer draws."""

    shots: tuple[ShotPlan, ...]
    seed: tuple[int, ...] = field(default=())
    world: str = UNNAMED  # the name of the world that draws it

    @property
    def latents(self) -> int:
        return sum(shot.latents for shot in self.shots)

    @property
    def prompt_of_latent(self) -> list[int]:
        return [number for number, shot in enumerate(self.shots) for _ in range(shot.latents)]

    @property
    def shot_of_latent(self) -> list[int]:
        """Numbers of what lies between cuts."""
        numbers = list(accumulate((0 if shot.continues else 1 for shot in self.shots), initial=-1))[
            1:
        ]
        return [
            number
            for number, shot in zip(numbers, self.shots, strict=True)
            for _ in range(shot.latents)
        ]


@dataclass(frozen=True)
class Rendered(Readable):
    """A film and everything that is true about it."""

    frames: np.ndarray  # uint8 (F, H, W, 3)
    plan: FilmPlan
    shot_of_frame: list[int]
    # float (F, 4): left, top, right, bottom of the figure, in pixels, clipped to the frame
    boxes: np.ndarray
    cuts: list[int]  # first frame of every shot but the first


def rng_for(seed: int, *place: int) -> Random:
    """A generator addressed by place: the same numbers in any order of asking."""
    return Random("/".join(map(str, (seed, *place))))


def shot_lengths(rng: Random, total: int, low: int, high: int) -> list[int]:
    """Random lengths within [low, high] that add up to `total` (the last may be shorter)."""
    lengths: list[int] = []
    while (left := total - sum(lengths)) > 0:
        length = min(rng.randint(low, high), left)
        lengths.append(left if 0 < left - length < low and left <= high else length)
    return lengths


def plan_timeline(film_plan: FilmPlan, fps: float, stride: int, chunk: int = 1) -> Timeline:
    """The plan as a timeline that the director can make: one entry per shot plan."""
    slots: list[Slot] = []
    index = 0
    texts = list(dict.fromkeys(shot.caption for shot in film_plan.shots))
    shots = film_plan.shot_of_latent
    for entry, shot in enumerate(film_plan.shots):
        if shot.latents % chunk:
            raise CinelabError(
                f"Shot {entry + 1} has {shot.latents} latent frames, which chunk={chunk} does not "
                "divide."
            )
        for first in range(index, index + shot.latents, chunk):
            cut = first == index and first > 0 and not shot.continues
            slots.append(
                Slot(len(slots), shots[first], entry, texts.index(shot.caption), first, chunk, cut)
            )
        index += shot.latents
    return Timeline(tuple(slots), tuple(texts), fps, stride)


def frames_of(latents: int, stride: int, *, first: bool) -> int:
    """Return the number of frames in `latents` latent frames, of which Wan's first one holds a
    single frame where they are a film's `first` ones."""
    return latents * stride - (stride - 1 if first else 0)


def with_truth(plan: FilmPlan, frames: np.ndarray, boxes: np.ndarray, stride: int) -> Rendered:
    """Return drawn frames (F, H, W, 3) and boxes (F, 4) of a plan with what else is true: the shot
    of every frame, and the cuts."""
    counts = [
        frames_of(shot.latents, stride, first=number == 0) for number, shot in enumerate(plan.shots)
    ]
    starts = accumulate(counts, initial=0)
    shots = enumerate(plan.shot_of_latent)
    return Rendered(
        frames=frames,
        plan=plan,
        shot_of_frame=[shot for j, shot in shots for _ in range(stride if j else 1)],
        boxes=boxes,
        cuts=[
            start
            for start, shot in zip(starts, plan.shots, strict=False)
            if start and not shot.continues
        ],
    )
