"""Toybox 1 as a world that a checkpoint names."""

from collections.abc import Mapping

import numpy as np

from cinelab.world.plans import FilmPlan, Rendered, rng_for
from cinelab.world.toybox1 import casting, vocab
from cinelab.world.worlds import WORLDS, World


@WORLDS.add("toybox-1")
class Toybox1(World):
    """Four kinds of characters in six settings, at 48x64 pixels and 8 frames a second."""

    size = (vocab.HEIGHT, vocab.WIDTH)
    fps = vocab.FPS
    stride = vocab.STRIDE
    wording = vocab.WORDING
    unprompted = vocab.UNPROMPTED
    identity = vocab.IDENTITY
    scenery = vocab.SCENERY
    plain = vocab.PLAIN
    codec = "toybox-codec"
    recogniser = "toybox-recogniser"

    def cast_film(
        self,
        seed: int,
        index: int,
        latents: int,
        *,
        shot_latents: tuple[int, int] = (2, 4),
        grain: int = 1,
    ) -> FilmPlan:
        return casting.cast_film(seed, index, latents, shot_latents, grain)

    def absence(
        self, seed: int, index: int, away: int, *, shot_latents: int = 3, reframed: bool = False
    ) -> FilmPlan:
        return casting.absence(seed, index, away, shot_latents, reframed)

    def render(self, plan: FilmPlan) -> Rendered:
        from cinelab.world.toybox1 import render  # late: a prompt is read without a renderer

        return render.render(plan)

    def random_shot(
        self, seed: int, index: int, frames: int
    ) -> tuple[np.ndarray, Mapping[str, str]]:
        """Return a random single shot; every second one goes on from another."""
        from cinelab.world.toybox1 import render

        rng = rng_for(seed, index)
        (character,), (place,) = casting.hire(rng, 1), casting.scout(rng, 1)
        time = rng.choice(vocab.PROMPTED["time"])
        latents = 1 + frames // vocab.STRIDE
        plan = casting.shoot(rng, character, place, (0, 0), time, latents)
        before = None
        if rng.random() < 0.5:
            before = render.Carry(rng.uniform(0, 2), rng.uniform(-0.7, 0.7))
        return render.render_shot(plan, frames, before)[0], plan.attributes
