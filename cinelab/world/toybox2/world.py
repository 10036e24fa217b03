"""Toybox 2 as a world that a checkpoint names."""

from collections.abc import Mapping
from itertools import islice

import numpy as np

from cinelab.world.plans import FilmPlan, Rendered, rng_for
from cinelab.world.toybox2 import casting, state, words
from cinelab.world.worlds import WORLDS, World

SHORTEST = 4  # latent frames a shot, of which a random shot shows a part
FILM = 36  # latent frames of a film, of which a random clip shows a part
TWO = 0.3  # share of the random shots with a partner
LATE = 0.3  # share of the random shots whose action begins with their first frame


@WORLDS.add(casting.NAME)
class Toybox2(World):
    """Five kinds of characters, alone or in twos, in six settings 8 frame heights wide, at 96x128
    pixels and 8 frames a second."""

    size = (state.HEIGHT, state.WIDTH)
    fps = state.FPS
    stride = state.STRIDE
    wording = words.WORDING
    unprompted = words.UNPROMPTED
    identity = words.IDENTITY
    scenery = words.SCENERY
    plain = words.PLAIN
    film_latents = 36
    film_shots = (4, 12)
    absence_latents = 4
    prompt_words = 32
    codec = "toybox2-codec"
    recogniser = "toybox2-recogniser"

    def cast_film(
        self,
        seed: int,
        index: int,
        latents: int,
        *,
        shot_latents: tuple[int, int] = casting.SHOTS,
        grain: int = 1,
    ) -> FilmPlan:
        return casting.cast_film(seed, index, latents, shot_latents=shot_latents, grain=grain)

    def absence(
        self, seed: int, index: int, away: int, *, shot_latents: int = 4, reframed: bool = False
    ) -> FilmPlan:
        return casting.absence(seed, index, away, shot_latents=shot_latents, reframed=reframed)

    def render(self, plan: FilmPlan) -> Rendered:
        from cinelab.world.toybox2 import filming  # late: a prompt is read without a renderer

        return filming.render(plan)

    def random_shot(
        self, seed: int, index: int, frames: int
    ) -> tuple[np.ndarray, Mapping[str, str]]:
        """Return a part of a random single shot of 1 to 12 seconds; in some the action begins
        late, as where a shot goes on."""
        from cinelab.world.toybox2 import filming

        rng = rng_for(seed, index)
        hero, other = casting.hire(rng, 2)
        (place,) = casting.scout(rng, 1)
        least = max(SHORTEST, -(-frames // state.STRIDE))
        latents = round(casting.even_in_logarithm(rng, least, casting.SHOTS[1]))
        partner = (1, other) if rng.random() < TWO else None
        time = rng.choice(words.PROMPTED["time"])
        plan = casting.shoot(rng, hero, place, (0, 0), time=time, latents=latents, partner=partner)
        begin = rng.randrange(state.STRIDE * latents - frames + 1)
        camera = plan.attributes["camera"]
        now = filming.track(filming.opening(plan), camera, begin)[-1]
        if rng.random() < LATE:
            now = filming.going_on(plan, now)
        return filming.drawn_frames(filming.track(now, camera, frames - 1)), plan.attributes

    def random_clip(self, seed: int, index: int, latents: int) -> np.ndarray:
        """Return a short clip, as the codec learns from: one in two from anywhere in a film, the
        others with a cut more often than not."""
        from cinelab.world.toybox2 import filming

        rng = rng_for(seed, index, latents)
        if rng.random() < 0.5:
            plan = self.cast_film(seed, index, latents, shot_latents=(1, latents))
            return self.render(plan).frames
        plan = self.cast_film(seed, index, FILM)
        count = 1 + state.STRIDE * (latents - 1)
        start = rng.randrange(state.STRIDE * (FILM - 1) + 2 - count)
        return filming.drawn_frames(islice(filming.states_of(plan), start, start + count))
