"""Casting: which characters, places and shots make up film number `index` of seed `seed`.

Knows attributes and lengths in latent frames; does not know pixels. A film is written so that
characters and places come back after shots without them (A-B-A, A-B-C-A, ...), also as the partner
of another.
"""

from dataclasses import dataclass, fields, replace
from math import exp, log
from random import Random

from cinelab.script.timeline import CONTINUE
from cinelab.world.plans import FilmPlan, ShotPlan, rng_for
from cinelab.world.toybox2.state import FPS, STRIDE, WAY
from cinelab.world.toybox2.words import (
    IDENTITY,
    NONE,
    PARTNER,
    PROMPTED,
    SCENERY,
    UNPROMPTED,
    caption,
)

NAME = "toybox-2"
SHOTS = (4, 48)  # shots last from 1 to 12 seconds, in latent frames
RETURNS = 0.5  # share of the shots that go back to an earlier set-up, where there is one
ON = 0.2  # share of the prompts that go on without a cut
TWO = 0.2  # share of the shots with a partner
SAME_TIME = 0.8  # share of the shots at the film's own time of day
SCENERIES = 64  # ways in which the small scenery of a setting is laid out
# for so many latent frames a walker stays in the frame, a pan before its landmark, and a zoom
# within its shot size
LONGEST_WALK = 16
LONGEST_MOVE = 20
QUICK = 1.5  # a film's longest shots are at least so many times the shortest
WIDE_ENOUGH = ("wide", "medium")  # shot sizes that show two


@dataclass(frozen=True)
class Toybox2Shot(ShotPlan):
    """A shot with the composition that no prompt names."""

    partner: int | None = None  # which member of the cast stands behind
    mirrored: bool = False  # the partner stands to the left of the first
    partner_looks: tuple[str, ...] = ()  # the partner's identity
    held: int = 0  # latent frames since its cut, of what went before without one


def with_composition(shot: ShotPlan) -> Toybox2Shot:
    """Return a shot plan with a composition: its own, or where it has none the plainest one, with a
    partner in the first of all looks where its attributes name one."""
    if isinstance(shot, Toybox2Shot):
        return shot
    given = {field.name: getattr(shot, field.name) for field in fields(shot)}
    alone = shot.attributes.get("partner kind", NONE) == NONE
    looks = () if alone else tuple(UNPROMPTED[name][0] for name in IDENTITY)
    return Toybox2Shot(**given, partner=None if alone else 1, partner_looks=looks)


def hire(rng: Random, count: int) -> list[dict[str, str]]:
    """Return `count` characters, no two of the same kind and colour, each with an identity that no
    prompt names; as far as the values go, no two share one."""
    pairs = [(kind, colour) for kind in PROMPTED["kind"] for colour in PROMPTED["colour"]]
    looks = {name: drawn(rng, UNPROMPTED[name], count) for name in IDENTITY}
    return [
        {"kind": kind, "colour": colour} | {name: looks[name][number] for name in IDENTITY}
        for number, (kind, colour) in enumerate(rng.sample(pairs, count))
    ]


def drawn(rng: Random, values: tuple[str, ...], count: int) -> list[str]:
    """Return `count` values, all as likely, none twice before all have been drawn."""
    found: list[str] = []
    while len(found) < count:
        found += rng.sample(values, len(values))
    return found[:count]


def scout(rng: Random, count: int) -> list[dict]:
    """Return `count` places in different settings, each with scenery that no prompt names."""
    seen = {name: drawn(rng, UNPROMPTED[name], count) for name in SCENERY}
    return [
        {"setting": setting, "seed": rng.randrange(SCENERIES)}
        | {name: seen[name][number] for name in SCENERY}
        for number, setting in enumerate(rng.sample(PROMPTED["setting"], count))
    ]


def shoot(
    rng: Random,
    character: dict,
    place: dict,
    numbers: tuple[int, int],
    *,
    time: str,
    latents: int,
    partner: tuple[int, dict] | None = None,
    **fixed: str,
) -> Toybox2Shot:
    """Return one shot of a character at a place; size, action and camera are free unless `fixed`,
    and as long as the shot lasts."""
    free = {
        "size": rng.choice(WIDE_ENOUGH if partner else PROMPTED["size"]),
        "action": rng.choice(actions_for(latents)),
        "camera": rng.choice(cameras_for(latents)),
    }
    where = {name: value for name, value in place.items() if name != "seed"}
    beside = dict.fromkeys(PARTNER, NONE)
    if partner:
        beside = {name: partner[1][shared] for name, shared in PARTNER.items()}
    attributes = character | where | {"time": time} | free | beside | fixed
    return Toybox2Shot(
        attributes,
        caption(attributes, rng),
        latents,
        *numbers,
        place["seed"],
        partner=partner[0] if partner else None,
        mirrored=rng.random() < 0.5,
        partner_looks=tuple(partner[1][name] for name in IDENTITY) if partner else (),
    )


def actions_for(latents: int) -> list[str]:
    """Return the actions that stay in the frame for so long."""
    return [name for name in PROMPTED["action"] if latents <= LONGEST_WALK or name not in WAY]


def cameras_for(latents: int) -> list[str]:
    """Return the camera moves that keep what a shot is about in view for so long."""
    return [name for name in PROMPTED["camera"] if latents <= LONGEST_MOVE or name == "static"]


def cast_film(
    seed: int, index: int, latents: int, *, shot_latents: tuple[int, int] = SHOTS, grain: int = 1
) -> FilmPlan:
    """Return film `index`: shots of `shot_latents` (low, high) latent frames that fill exactly
    `latents`.

    With `grain`, every shot lasts a whole multiple of so many latent frames, as a chunk-wise model
    needs. Each film has a pace of its own, and lengths are drawn evenly in their logarithm, so
    that quick films are many and long shots occur. A small cast and few places make returns
    frequent; neighbouring shots always differ in character or place. As in shot and reverse shot,
    many returns are to a set-up that was there before: who, where, how large, at what time.
    """
    rng = rng_for(seed, index)
    cast = hire(rng, rng.randint(1, 4))
    places = scout(rng, rng.randint(1, 3))
    if len(cast) * len(places) == 1:
        cast = hire(rng, 2)
    time = rng.choice(PROMPTED["time"])
    shots: list[Toybox2Shot] = []
    low, high = (max(1, length // grain) for length in shot_latents)
    slowest = round(even_in_logarithm(rng, min(QUICK * low, high), high))
    for length in (grain * units for units in film_lengths(rng, latents // grain, low, slowest)):
        if shots and rng.random() < ON:
            if following := go_on(rng, shots[-1], length):
                shots.append(following)
                continue
        shots.append(next_shot(rng, shots, cast, places, time=time, latents=length))
    return FilmPlan(tuple(shots), (seed, index), NAME)


def next_shot(
    rng: Random,
    shots: list[Toybox2Shot],
    cast: list[dict],
    places: list[dict],
    *,
    time: str,
    latents: int,
) -> Toybox2Shot:
    """Return a shot after a cut: back to an earlier set-up, or to another character or place."""
    before = (shots[-1].character, shots[-1].place) if shots else None
    setups = [shot for shot in shots if (shot.character, shot.place) != before]
    if setups and rng.random() < RETURNS:
        return go_back(rng, rng.choice(setups), cast, places, latents=latents)
    pairs = [(who, where) for who in range(len(cast)) for where in range(len(places))]
    who, where = rng.choice([pair for pair in pairs if pair != before])
    moment = time if rng.random() < SAME_TIME else rng.choice(PROMPTED["time"])
    others = [number for number in range(len(cast)) if number != who]
    partner = None
    if others and rng.random() < TWO:
        number = rng.choice(others)
        partner = (number, cast[number])
    return shoot(
        rng,
        cast[who],
        places[where],
        (who, where),
        time=moment,
        latents=latents,
        partner=partner,
    )


def go_on(rng: Random, before: Toybox2Shot, latents: int) -> Toybox2Shot | None:
    """Return the same scene with another action, announced by the word that marks a prompt change
    without a cut; None where the scene cannot be held for so long.

    Who has walked stays where it went, and so does not walk again.
    """
    held = before.held + before.latents
    camera = before.attributes["camera"]
    if camera not in cameras_for(held + latents) or held + latents > SHOTS[1]:
        return None
    walked = before.attributes["action"] in WAY or before.held > 0
    actions = [name for name in actions_for(latents) if not (walked and name in WAY)]
    action = rng.choice([name for name in actions if name != before.attributes["action"]])
    attributes = before.attributes | {"action": action}
    text = f"{CONTINUE} {caption(attributes, rng)}"
    return replace(
        before, attributes=attributes, caption=text, latents=latents, continues=True, held=held
    )


def go_back(
    rng: Random, setup: Toybox2Shot, cast: list[dict], places: list[dict], *, latents: int
) -> Toybox2Shot:
    """Return a shot of the same character, partner, place, size and time of day as before; action
    and camera are new."""
    kept = setup.attributes
    partner = None if setup.partner is None else (setup.partner, cast[setup.partner])
    shot = shoot(
        rng,
        cast[setup.character],
        places[setup.place],
        (setup.character, setup.place),
        time=kept["time"],
        latents=latents,
        partner=partner,
        size=kept["size"],
    )
    return replace(shot, mirrored=setup.mirrored)


def film_lengths(rng: Random, total: int, low: int, high: int) -> list[int]:
    """Return lengths within [low, high], even in their logarithm, that add up to `total`. The last
    is made to fit, and may be shorter than `low` where nothing else does."""
    lengths: list[int] = []
    while (left := total - sum(lengths)) > 0:
        length = min(round(even_in_logarithm(rng, low - 0.49, high + 0.49)), left, high)
        length = max(length, min(low, left))
        rest = left - length
        if 0 < rest < low:
            length = left if left <= high else left - low
        lengths.append(length)
    return lengths


def even_in_logarithm(rng: Random, low: float, high: float) -> float:
    """Return a number between two, as likely in any part of its logarithm."""
    return exp(rng.uniform(log(low), log(high)))


def absence(
    seed: int, index: int, away: int, *, shot_latents: int = 4, reframed: bool = False
) -> FilmPlan:
    """Return the memory test: an opening shot, A at home, `away` shots without A or its home, then
    A at home again.

    A's first appearance is never the film's first shot, so an attention sink cannot answer by
    itself. With `reframed` A returns in another shot size: what was seen must be redrawn, not only
    retrieved.
    """
    rng = rng_for(seed, index, away)
    (hero, *others), (home, *elsewhere) = hire(rng, 4), scout(rng, 3)
    time = rng.choice(PROMPTED["time"])

    def extra() -> Toybox2Shot:
        who = rng.randrange(len(others))
        where = rng.randrange(len(elsewhere))
        numbers = (1 + who, 1 + where)
        return shoot(rng, others[who], elsewhere[where], numbers, time=time, latents=shot_latents)

    sizes = rng.sample(WIDE_ENOUGH, 2)
    first, again = (
        shoot(
            rng,
            hero,
            home,
            (0, 0),
            time=time,
            latents=shot_latents,
            size=size,
            camera="static",
            action="stand",
        )
        for size in (sizes[0], sizes[int(reframed)])
    )
    shots = (extra(), first, *(extra() for _ in range(away)), again)
    return FilmPlan(shots, (seed, index, away), NAME)


def seconds_of(latents: int) -> float:
    """Return how long so many latent frames last."""
    return latents * STRIDE / FPS
