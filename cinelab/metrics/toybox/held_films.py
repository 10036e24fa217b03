"""Films of one held shot: does it keep its sharpness, its colours and its character from the first
second to the last?

The figure stays in the frame and the camera rests, so that whatever changes is the model's doing;
the true film's own values stand beside. A still of such a shot would keep all looks too: read "held
motion" with them. The measures are ours.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count, islice

import numpy as np

from cinelab.memory.policy import Policy
from cinelab.metrics.registered import listed
from cinelab.metrics.rows import Row, clip_of
from cinelab.metrics.toybox.attributes import (
    BACKEND,
    FPS,
    STRIDE,
    Batch,
    decode,
    encode_plans,
    make_frames,
)
from cinelab.metrics.toybox.recogniser import Recogniser, windows
from cinelab.metrics.video.clips import Clip
from cinelab.metrics.video.held_shot import held_rows
from cinelab.world import casting
from cinelab.world.casting import FilmPlan
from cinelab.world.vocab import IDENTITY
from cinelab.zoo.bundle import Bundle

RESTS = {"camera": ("static",), "action": ("stand", "wave", "jump", "dance")}
PROTOCOL = "held"


def held_latents(seconds: int, chunk: int) -> int:
    """Return the latent frames, in whole chunks, of a film that lasts so many seconds."""
    frames = round(seconds * FPS)
    latents = -(-(frames + STRIDE - 1) // STRIDE)
    return -(-latents // chunk) * chunk


def held_plans(seed: int, films: int, latents: int) -> list[FilmPlan]:
    """Return films of one shot of so many latent frames in which the camera rests and the figure
    stays: the first such films of the seed."""
    every = (casting.cast_film(seed, number, latents, (latents, latents)) for number in count())
    return list(islice((plan for plan in every if rests(plan)), films))


def rests(plan: FilmPlan) -> bool:
    """Whether neither the camera nor the figure leaves its place in the film's first shot."""
    shown = plan.shots[0].attributes
    return all(shown[name] in values for name, values in RESTS.items() if name in shown)


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
    plans = held_plans(seed, len(noise), held_latents(seconds, bundle.chunk))
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
        clip = Clip(clip_of(number), frames, FPS, listed(plan))
        found = [*held_rows(clip), *identity_rows(reader, clip.name, frames)]
        rows += [replace(row, source=source) for row in found]
    return rows


def identity_rows(reader: Recogniser, clip: str, frames: np.ndarray) -> list[Row]:
    """Rows of 1 where a look that no prompt names is in a second (from the next one on) of a shot
    (F, H, W, 3) as in its first, protocol `held`."""
    edges = [round(second * FPS) for second in range(int(len(frames) / FPS) + 1)]
    seen = reader.names(windows(frames, list(zip(edges, edges[1:], strict=False))))
    return [
        Row(
            clip, 1, "identity", float(one[name] == seen[0][name]), "ok", BACKEND, protocol=PROTOCOL
        )
        for one in seen[1:]
        for name in IDENTITY
    ]
