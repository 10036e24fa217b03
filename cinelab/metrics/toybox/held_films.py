"""Films of one held shot: does it keep its sharpness, its colours and its character from the first
second to the last?

The figure stays in the frame and the camera rests, so that whatever changes is the model's doing;
the true film's own values stand beside. A still of such a shot would keep all looks too: read "held
motion" with them. The measures are ours.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count, islice, pairwise

import numpy as np

from cinelab.errors import CinelabError
from cinelab.memory.policy import Policy
from cinelab.metrics.registered import listed
from cinelab.metrics.rows import Row, clip_of
from cinelab.metrics.toybox.attributes import (
    BACKEND,
    Batch,
    decode,
    encode_plans,
    make_frames,
)
from cinelab.metrics.toybox.recogniser import Recogniser, windows
from cinelab.metrics.video.clips import Clip
from cinelab.metrics.video.held_shot import held_rows
from cinelab.world.plans import FilmPlan, Rendered
from cinelab.world.worlds import World, world_of
from cinelab.zoo.bundle import Bundle

CAMERA = "camera"
FAR = 0.1  # frame widths by which a figure may end beside its place
TRIES = 20  # films looked at for each that is wanted
PROTOCOL = "held"


def held_latents(world: World, seconds: int, chunk: int) -> int:
    """Return the latent frames, in whole chunks, of a film of a world that lasts so many
    seconds."""
    frames = round(seconds * world.fps)
    latents = -(-(frames + world.stride - 1) // world.stride)
    return -(-latents // chunk) * chunk


def held_plans(world: World, seed: int, films: int, latents: int) -> list[FilmPlan]:
    """Return the first films of a seed whose one shot, of so many latent frames, is filmed by a
    camera at rest and does not lose its figure. CinelabError where the world has too few."""
    length = (latents, latents)
    every = (world.cast_film(seed, number, latents, shot_latents=length) for number in count())
    resting = (at_rest(world, plan) for plan in islice(every, TRIES * films))
    found = list(islice((plan for plan in resting if stays(world.render(plan))), films))
    if len(found) < films:
        raise CinelabError(
            f"The world {world.name!r} has {len(found)} held shots among {TRIES * films} in which "
            "the figure stays; measure with held=0."
        )
    return found


def at_rest(world: World, plan: FilmPlan) -> FilmPlan:
    """Return a film of one shot under the plainest camera."""
    shot = plan.shots[0]
    if CAMERA not in shot.attributes:
        return plan
    rest = world.plain.get(CAMERA, world.attributes[CAMERA][0])
    attributes = shot.attributes | {CAMERA: rest}
    shot = replace(shot, attributes=attributes, caption=world.caption(attributes))
    return replace(plan, shots=(shot, *plan.shots[1:]))


def stays(film: Rendered) -> bool:
    """Whether the (first) figure ends about where it began, in the frame."""
    boxes = film.boxes.reshape(len(film.frames), -1, 4)[:, 0]
    middle = (boxes[:, 0] + boxes[:, 2]) / 2
    width = boxes[:, 2] - boxes[:, 0]
    moved = abs(middle[-1] - middle[0]) / film.frames.shape[2]
    return bool(moved < FAR and width[-1] > width[0] / 2)


def held_film_rows(
    bundle: Bundle,
    reader: Recogniser,
    policy: Policy,
    *,
    seed: int,
    seconds: int,
    noise: Sequence[int],
) -> list[Row]:
    """Rows of one film of one held shot for each seed of `noise`, made and true."""
    latents = held_latents(bundle.world, seconds, bundle.chunk)
    plans = held_plans(bundle.world, seed, len(noise), latents)
    batch = encode_plans(bundle, plans)
    frames, _ = make_frames(bundle, batch, policy, noise)
    truth = decode(bundle, batch.latents)
    return [
        *_rows(reader, frames, batch, "model"),
        *_rows(reader, truth, batch, "truth"),
    ]


def _rows(reader: Recogniser, films: np.ndarray, batch: Batch, source: str) -> list[Row]:
    """Rows of films uint8 (B, F, H, W, 3) of one shot each."""
    rows: list[Row] = []
    for number, (frames, plan) in enumerate(zip(films, batch.plans, strict=True)):
        clip = Clip(clip_of(number), frames, world_of(plan).fps, listed(plan))
        found = [*held_rows(clip), *identity_rows(reader, clip)]
        rows += [replace(row, source=source) for row in found]
    return rows


def identity_rows(reader: Recogniser, clip: Clip) -> list[Row]:
    """Rows of 1 where a look of the character that no prompt names is in a second (from the next
    one on) of a film of one shot as in its first, protocol `held`."""
    frames = np.asarray(clip.frames)
    edges = [round(second * clip.fps) for second in range(int(len(frames) / clip.fps) + 1)]
    seen = reader.names(windows(frames, list(pairwise(edges))))
    return [
        Row(
            clip.name,
            1,
            "identity",
            float(one[name] == seen[0][name]),
            backend=BACKEND,
            protocol=PROTOCOL,
        )
        for one in seen[1:]
        for name in clip.world.identity
    ]
