"""Worlds by name: films whose every attribute is known exactly, and who plans and draws them.

    @register.world("mine")
    class Mine(World):            # what `World` states, and `cast_film`, `absence`, `render`
        ...

"world": "toybox-1"               a checkpoint, a store and a shot list name theirs by a registered
"world": "my_module:Mine"         name or an import path

A plan names the world that draws it, so that whoever has a plan needs no more: `world_of(plan)`.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from random import Random
from typing import Any

import numpy as np

from cinelab.errors import CinelabError
from cinelab.registry import Registry
from cinelab.script.timeline import Timeline
from cinelab.world.plans import UNNAMED, FilmPlan, Rendered, ShotPlan, plan_timeline
from cinelab.world.wording import Wording

# the world of whatever is made where no checkpoint, store or plan names one
DEFAULT = "toybox-1"
WORLD = "world"  # the entry that names it, in files
STATED = ("size", "fps", "stride", "wording", "unprompted", "identity", "scenery")


class World:
    """A made world. Frames have `size` (height, width) and come at `fps`; a latent frame holds
    `stride` of them.

    `wording` holds the attributes that a prompt names, `unprompted` those that none names:
    attribute -> values. `identity` are those that a character keeps, `scenery` those that a place
    keeps; `who` and `where` are the prompted ones by which a prompt means one of them, and `moving`
    those that a still does not show. `plain` are attributes of the plainest shot (default: the
    first of each). `codec` and `recogniser` name the checkpoints that are made for it.
    """

    size: tuple[int, int]
    fps: float
    stride: int
    wording: Wording
    unprompted: Mapping[str, tuple[str, ...]]
    identity: tuple[str, ...]
    scenery: tuple[str, ...]
    who: tuple[str, ...] = ("colour", "kind")
    where: tuple[str, ...] = ("setting",)
    moving: tuple[str, ...] = ("action", "camera")
    plain: Mapping[str, str] = {}
    # what its models are measured on: latent frames of a film, its shots, and an absence's
    film_latents: int = 24
    film_shots: tuple[int, int] = (3, 6)
    absence_latents: int = 3
    prompt_words: int = 24  # of a prompt, at most, that a model of it reads
    codec: str = ""
    recogniser: str = ""

    @property
    def name(self) -> str:
        """The name that it was registered under, else its import path."""
        return WORLDS.name_of(type(self))

    @property
    def prompted(self) -> dict[str, tuple[str, ...]]:
        """The attributes that a prompt names, with their values."""
        return self.wording.prompted

    @property
    def attributes(self) -> dict[str, tuple[str, ...]]:
        """Every attribute with its values, prompted ones first."""
        return self.prompted | dict(self.unprompted)

    @property
    def looks(self) -> dict[str, tuple[str, ...]]:
        """What no prompt names, of characters and of places: the metric -> its attributes."""
        return {"identity": self.identity, "scenery": self.scenery}

    def caption(self, attributes: Mapping[str, str], rng: Random | None = None) -> str:
        """Return one sentence that names every prompted attribute; paraphrased when an `rng` is
        given."""
        return self.wording.caption(attributes, rng)

    def known_words(self) -> list[str]:
        """Return every word that a caption can contain, sorted."""
        return self.wording.known_words()

    def families(self) -> dict[str, list[tuple[str, ...]]]:
        """Return the phrases of every value by their family (`cinelab.script.hints`)."""
        return self.wording.families()

    def read_prompt(self, prompt: str) -> dict[str, str]:
        """Return the attributes that a prompt names; what it leaves open is absent."""
        return self.wording.read_prompt(prompt)

    def cast_film(
        self,
        seed: int,
        index: int,
        latents: int,
        *,
        shot_latents: tuple[int, int] = (2, 4),
        grain: int = 1,
    ) -> FilmPlan:
        """Return film `index` of a seed: shots of `shot_latents` (least, most) latent frames, in
        whole multiples of `grain`, that fill exactly `latents`."""
        raise NotImplementedError

    def absence(
        self, seed: int, index: int, away: int, *, shot_latents: int = 3, reframed: bool = False
    ) -> FilmPlan:
        """Return a memory test: an opening shot, A at home, `away` shots without A or its home,
        A at home again (in another shot size if `reframed`)."""
        raise NotImplementedError

    def render(self, plan: FilmPlan) -> Rendered:
        """Draw a whole film."""
        raise NotImplementedError

    def random_shot(
        self, seed: int, index: int, frames: int
    ) -> tuple[np.ndarray, Mapping[str, str]]:
        """Return a random single shot, uint8 (frames, H, W, 3), and its attributes, as the
        recogniser learns to read it."""
        latents = 1 - (1 - frames) // self.stride
        plan = self.cast_film(seed, index, latents, shot_latents=(latents, latents))
        return self.render(plan).frames[:frames], plan.shots[0].attributes

    def random_clip(self, seed: int, index: int, latents: int) -> np.ndarray:
        """Return a short clip, uint8 (F, H, W, 3), as the codec learns from: with a cut more often
        than not."""
        return self.render(self.cast_film(seed, index, latents, shot_latents=(1, latents))).frames

    def timeline(self, plan: FilmPlan, chunk: int = 1) -> Timeline:
        """Return a plan as a timeline that the director can make: one entry a shot plan."""
        return plan_timeline(plan, self.fps, self.stride, chunk)

    def shot_of(self, attributes: Mapping[str, str], latents: int = 1) -> FilmPlan:
        """Return a film of one shot with these attributes, and plain ones for the rest."""
        first = {name: values[0] for name, values in self.attributes.items()}
        every = first | dict(self.plain) | dict(attributes)
        shot = ShotPlan(every, self.caption(every), latents, 0, 0, 0)
        return FilmPlan((shot,), (), self.name)

    def captions(self, seed: int, shots: int) -> list[str]:
        """Return captions of `shots` shots with a recurring cast, for films that need no ground
        truth."""
        plans = self.cast_film(seed, 0, 4 * shots, shot_latents=(4, 4)).shots
        return [self.caption(plan.attributes) for plan in plans]


class Worlds(Registry):
    """The registry of worlds, which takes classes below `World`."""

    def _check(self, name: str, thing: Any) -> None:
        super()._check(name, thing)
        check_stated(name, thing)


def check_stated(name: str, thing: Any) -> None:
    """Raise CinelabError unless `thing` is a class below `World` that states what a world has."""
    if not (isinstance(thing, type) and issubclass(thing, World)):
        raise CinelabError(
            f"The world {name!r} is {thing!r:.60}; give a class below cinelab.world.worlds.World."
        )
    if lacking := [part for part in STATED if not hasattr(thing, part)]:
        raise CinelabError(
            f"The world {name!r} has no {lacking[0]}; a world states {', '.join(STATED)}."
        )


WORLDS = Worlds("world", ("cinelab.world.toybox1.world", "cinelab.world.toybox2.world"))


def world_named(name: "str | World | None" = None) -> World:
    """Return the world of a registered name or an import path (None: the DEFAULT); a world is
    returned as it is."""
    if isinstance(name, World):
        return name
    name = DEFAULT if name is None else name
    found = WORLDS.get(name)
    check_stated(name, found)
    return _made(found)


@cache
def _made(kind: type[World]) -> World:
    return kind()


def world_of(plan: FilmPlan) -> World:
    """Return the world that draws a plan."""
    return world_named(plan.world)


def called(attributes: Mapping[str, str], names: Iterable[str]) -> str:
    """Return what a character or a place is called, by the attributes that tell it from others."""
    return " ".join(attributes[name] for name in names)


def prompted_names() -> list[str]:
    """Return the attributes that the prompts of any registered world name."""
    return list(dict.fromkeys(name for world in WORLDS for name in world_named(world).prompted))


def check_same_world(found: str, expected: str, *, what: str, whose: str, remedy: str) -> None:
    """Raise CinelabError where `what` is of another world than `whose`."""
    if found != expected:
        raise CinelabError(
            f"{what} is of the world {found!r}, and {whose} of {expected!r}; {remedy}."
        )


def named_in(entries: Mapping[str, Any]) -> str:
    """Return the name of the world that the entries of a file name; of older files, which name
    none, the first one."""
    return entries.get(WORLD) or UNNAMED
