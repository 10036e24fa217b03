"""Casting: which characters, places and shots make up film number `index` of seed `seed`.

Knows attributes and lengths in latent frames; does not know pixels. A film is written so that
characters and places come back after shots without them (A-B-A, A-B-C-A, ...).
"""

from dataclasses import replace
from random import Random

from cinelab.script.timeline import CONTINUE
from cinelab.world.plans import FilmPlan, ShotPlan, rng_for, shot_lengths
from cinelab.world.toybox1.vocab import IDENTITY, PROMPTED, SCENERY, UNPROMPTED, caption

RETURNS = 0.5  # share of the shots that go back to an earlier set-up, where there is one
SCENERIES = 4  # ways in which the small scenery of a setting is laid out


def hire(rng: Random, count: int) -> list[dict[str, str]]:
    """`count` characters, no two of the same kind and colour, each with an identity no prompt
    tells."""
    pairs = [(kind, colour) for kind in PROMPTED["kind"] for colour in PROMPTED["colour"]]
    return [
        {"kind": kind, "colour": colour} | {name: rng.choice(UNPROMPTED[name]) for name in IDENTITY}
        for kind, colour in rng.sample(pairs, count)
    ]


def scout(rng: Random, count: int) -> list[dict]:
    """`count` places in different settings, each with scenery no prompt tells."""
    return [
        {"setting": setting, "seed": rng.randrange(SCENERIES)}
        | {name: rng.choice(UNPROMPTED[name]) for name in SCENERY}
        for setting in rng.sample(PROMPTED["setting"], count)
    ]


def shoot(
    rng: Random,
    character: dict,
    place: dict,
    numbers: tuple[int, int],
    time: str,
    latents: int,
    **fixed: str,
) -> ShotPlan:
    """One shot of a character at a place; size, action and camera are free unless `fixed`."""
    free = {name: rng.choice(PROMPTED[name]) for name in ("size", "action", "camera")}
    where = {name: value for name, value in place.items() if name != "seed"}
    attributes = character | where | {"time": time} | free | fixed
    return ShotPlan(attributes, caption(attributes, rng), latents, *numbers, place["seed"])


def cast_film(
    seed: int, index: int, latents: int, shot_latents: tuple[int, int] = (2, 4), grain: int = 1
) -> FilmPlan:
    """Film `index`: shots of `shot_latents` (low, high) latent frames that fill exactly `latents`.

    With `grain`, every shot lasts a whole multiple of so many latent frames, as a chunk-wise model
    needs.

    A small cast and few places make returns frequent; neighbouring shots always differ in character
    or place. As in shot and reverse shot, many returns are to a set-up that was there before: who,
    where, how large, at what time.
    """
    rng = rng_for(seed, index)
    cast = hire(rng, rng.randint(1, 4))
    places = scout(rng, rng.randint(1, 3))
    if len(cast) * len(places) == 1:
        cast = hire(rng, 2)
    time = rng.choice(PROMPTED["time"])
    shots: list[ShotPlan] = []
    low, high = (max(1, length // grain) for length in shot_latents)
    for length in (grain * units for units in shot_lengths(rng, latents // grain, low, high)):
        if shots and rng.random() < 0.2:
            shots.append(go_on(rng, shots[-1], length))
            continue
        before = (shots[-1].character, shots[-1].place) if shots else None
        setups = [shot for shot in shots if (shot.character, shot.place) != before]
        if setups and rng.random() < RETURNS:
            shots.append(go_back(rng, rng.choice(setups), cast, places, length))
            continue
        who, where = before or (0, 0)
        while (who, where) == before or before is None:
            who = rng.randrange(len(cast))
            where = rng.randrange(len(places))
            if before is None:
                break
        moment = time if rng.random() < 0.8 else rng.choice(PROMPTED["time"])
        shots.append(shoot(rng, cast[who], places[where], (who, where), moment, length))
    return FilmPlan(tuple(shots), (seed, index))


def go_on(rng: Random, before: ShotPlan, latents: int) -> ShotPlan:
    """Return the same scene with another action, announced by the word that marks a prompt change
    without a cut."""
    action = rng.choice(
        [name for name in PROMPTED["action"] if name != before.attributes["action"]]
    )
    attributes = before.attributes | {"action": action}
    text = f"{CONTINUE} {caption(attributes, rng)}"
    return replace(before, attributes=attributes, caption=text, latents=latents, continues=True)


def go_back(
    rng: Random, setup: ShotPlan, cast: list[dict], places: list[dict], latents: int
) -> ShotPlan:
    """The same character, place, shot size and time of day as before; action and camera are new."""
    numbers = (setup.character, setup.place)
    kept = setup.attributes
    return shoot(
        rng,
        cast[setup.character],
        places[setup.place],
        numbers,
        kept["time"],
        latents,
        size=kept["size"],
    )


def absence(
    seed: int, index: int, away: int, shot_latents: int = 3, reframed: bool = False
) -> FilmPlan:
    """The memory test: an opening shot, A at home, `away` shots without A or its home, then A at
    home again.

    A's first appearance is never the film's first shot, so an attention sink cannot answer by
    itself. With `reframed` A returns in another shot size: what was seen must be redrawn, not only
    retrieved.
    """
    rng = rng_for(seed, index, away)
    (hero, *others), (home, *elsewhere) = hire(rng, 4), scout(rng, 3)
    time = rng.choice(PROMPTED["time"])
    plain = {"camera": "static", "action": "stand"}

    def extra() -> ShotPlan:
        who = rng.randrange(len(others))
        where = rng.randrange(len(elsewhere))
        return shoot(rng, others[who], elsewhere[where], (1 + who, 1 + where), time, shot_latents)

    sizes = rng.sample(("wide", "medium"), 2)
    first, again = (
        shoot(rng, hero, home, (0, 0), time, shot_latents, size=size, **plain)
        for size in (sizes[0], sizes[int(reframed)])
    )
    return FilmPlan((extra(), first, *(extra() for _ in range(away)), again), (seed, index, away))
