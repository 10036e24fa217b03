"""A `Bundle`: a model with its codec, its text encoder and the settings that it was trained with.

Whoever makes films takes a bundle and does not ask where it came from: a checkpoint of the toybox
(`cinelab.zoo.checkpoints`) or a folder of Wan2.1 (`cinelab.zoo.wan`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from cinelab.config import from_dict
from cinelab.errors import CinelabError
from cinelab.flow.sampler import Sampling, Steps
from cinelab.latent.codec import Codec
from cinelab.model.wan import CausalWan
from cinelab.readable import Readable
from cinelab.script.prompts import TextEncoder
from cinelab.world.worlds import WORLD, World, named_in, world_named

CONFIG = "config.json"
SPAN = "span"  # of max_distance: as far as the longest clip that the model was trained on


@dataclass
class Bundle(Readable):
    """Everything needed to make a film: `load("toybox-base")` returns one."""

    name: str
    model: CausalWan
    codec: Codec
    encoder: TextEncoder
    sampling: Sampling
    chunk: int  # latent frames a chunk
    span: int  # latent frames of the longest clip that it was trained on
    fps: float
    size: tuple[int, int]  # height, width in pixels
    config: dict  # as stored
    hash_weights: Callable[[], str]  # computes the fingerprint of the model's weights
    # how the KV cache of its films is stored: place, packing, slots (see memory.store); and how
    # CAMR reads it where a film names no other way: summary, reuse_choice
    memory: dict = field(default_factory=dict)
    # the memory policy that it was trained under, as memory.policy_io reads it; None = not stated
    policy: dict | None = None
    # latent frames: temporal distances are clamped to it (None = no limit)
    max_distance: int | str | None = SPAN
    unconditional: str = ""  # the prompt that guidance compares with

    def __post_init__(self):
        # a model's own settings are complete: those that a caller leaves open are filled from them
        self.sampling = self.sampling.filled()
        if self.max_distance == SPAN:  # the largest distance that occurs in training
            self.max_distance = self.span - 1
        check_max_distance(self.max_distance, self.name)

    @property
    def world_name(self) -> str | None:
        """The name of the made world that it was trained on; None for a model of other videos."""
        return None if self.config.get(WORLD, "") is None else named_in(self.config)

    @property
    def world(self) -> World:
        """The made world that it was trained on. CinelabError for a model of other videos, whose
        films no plan describes."""
        if self.world_name is None:
            raise CinelabError(
                f"{self.name} was trained on no made world, and what is measured against plans "
                "needs one; name a checkpoint of the toybox, or measure its films with `cinelab "
                "eval videos`."
            )
        return world_named(self.world_name)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.model.parameters()).device

    @cached_property
    def fingerprint(self) -> str:
        """The short hash of the model's weights, computed at the first use: a film needs none."""
        return self.hash_weights()

    def levels(self, steps: Steps = None) -> Sampling:
        """Return the model's own sampling, with whatever is given changed: a number of steps, a
        list of levels, or further settings."""
        if steps is None:
            return self.sampling
        if isinstance(steps, int):
            return self.sampling.with_steps(steps)
        if isinstance(steps, Mapping):
            steps = from_dict(Sampling, steps, "sampling.")
        if isinstance(steps, (list, tuple)):
            return replace(self.sampling, steps=len(steps), at=tuple(steps))
        if not isinstance(steps, Sampling):
            raise CinelabError(
                f"steps is {steps!r:.60}; give a number, a list of levels, or a Sampling."
            )
        return steps.filled(self.sampling)

    @property
    def chunk_tokens(self) -> int:
        """The number of tokens of a chunk."""
        _, height, width = self.latent_shape
        _, rows, columns = self.model.config.patch_size
        return self.chunk * (height // rows) * (width // columns)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """The shape (C, h, w) of a latent frame."""
        height, width = self.size
        return self.codec.channels, height // self.codec.scale, width // self.codec.scale


def check_max_distance(max_distance: Any, where: str) -> None:
    """Raise CinelabError unless max_distance is a number of latent frames, "span" (see `Bundle`),
    or None for no limit."""
    number = (
        isinstance(max_distance, int) and not isinstance(max_distance, bool) and max_distance >= 1
    )
    if not (number or max_distance is None or max_distance == SPAN):
        raise CinelabError(
            f"max_distance of {where} is {max_distance!r}; give latent frames, at least 1, "
            f'"{SPAN}" (as far as in training), or null for no limit.'
        )
