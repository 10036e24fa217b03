"""Scores with exact ground truth: what a toybox film shows, read back by the recogniser, against
its plan.

Every function takes frames uint8 (B, F, H, W, 3) of B films with their plans and returns rows
(film, shot, metric, value); value is 1 where the picture agrees with the plan, else 0.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cinelab.flow.sampler import Sampling
from cinelab.latent.codec import to_tensor
from cinelab.memory.cache import KVCache
from cinelab.memory.policy import Oracle, Policy
from cinelab.metrics.toybox.recogniser import Recogniser, windows
from cinelab.metrics.video.cuts import detect_cuts, detect_cuts_pyscenedetect, match_cuts
from cinelab.readable import Readable
from cinelab.stream.batch import decode, make
from cinelab.world import casting, render
from cinelab.world.casting import FilmPlan, plan_timeline
from cinelab.world.vocab import IDENTITY, PROMPTED, SCENERY
from cinelab.zoo.bundle import Bundle

FPS = render.FPS
STRIDE = render.STRIDE
# what no prompt tells, of characters and of places
LOOKS = {"identity": IDENTITY, "scenery": SCENERY}


@dataclass(frozen=True)
class Batch(Readable):
    """Planned films with their true pictures as latents: latents (B, F, C, h, w), made `chunk`
    frames at a time."""

    plans: list[FilmPlan]
    latents: Tensor
    chunk: int = 1

    @property
    def timelines(self) -> list:
        return [plan_timeline(plan, FPS, STRIDE, self.chunk) for plan in self.plans]

    @property
    def last_shot(self) -> int:
        """The first chunk of the last shot, in films whose last shots are of equal length."""
        return (self.latents.shape[1] - self.plans[0].shots[-1].latents) // self.chunk


def encode_plans(bundle: Bundle, plans: Sequence[FilmPlan]) -> Batch:
    """Render and encode planned films of equal length."""
    frames = np.stack([render.render(plan).frames for plan in plans])
    with torch.no_grad():
        latents = torch.cat([bundle.codec.encode(to_tensor(one)[None]) for one in frames])
    return Batch(list(plans), latents, bundle.chunk)


def read_shots(
    reader: Recogniser, frames: np.ndarray, plans: Sequence[FilmPlan]
) -> list[list[dict[str, str]]]:
    """What the recogniser sees in every shot of every film: attribute -> value."""
    spans = [plan_timeline(plan, FPS, STRIDE).entry_spans for plan in plans]
    names = reader.names(
        np.concatenate([windows(film, where) for film, where in zip(frames, spans, strict=True)])
    )
    ends = np.cumsum([0, *map(len, spans)])
    return [names[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)]


def prompt_rows(seen: list[list[dict]], plans: Sequence[FilmPlan]) -> list[tuple]:
    """Is every prompted attribute of every shot in the picture? The action among them is the motion
    score."""
    return [
        (film, shot, name, float(seen[film][shot][name] == entry.attributes[name]))
        for film, plan in enumerate(plans)
        for shot, entry in enumerate(plan.shots)
        for name in PROMPTED
    ]


def cut_rows(frames: np.ndarray, plans: Sequence[FilmPlan]) -> list[tuple]:
    """Planned against detected cuts, by the frame-difference detector and by PySceneDetect."""
    rows = []
    for film, plan in enumerate(plans):
        planned = plan_timeline(plan, FPS, STRIDE).cuts
        found = {
            "cuts": detect_cuts(frames[film]),
            "cuts (PySceneDetect)": detect_cuts_pyscenedetect(frames[film], FPS),
        }
        rows += [
            (film, -1, name, match_cuts(planned, cuts, tolerance=1).accuracy)
            for name, cuts in found.items()
        ]
    return rows


def first_shots(plan: FilmPlan) -> dict[tuple[str, int], int]:
    """The first shot of every character, ("who", number), and of every place, ("where", number)."""
    first: dict[tuple[str, int], int] = {}
    for shot, entry in enumerate(plan.shots):
        first.setdefault(("who", entry.character), shot)
        first.setdefault(("where", entry.place), shot)
    return first


def returns_of(plan: FilmPlan) -> Iterator[tuple[str, int, int]]:
    """Every shot to which a character ("identity") or a place ("scenery") comes back: (what, first
    shot, this shot)."""
    first = first_shots(plan)
    for shot, entry in enumerate(plan.shots):
        for what, key in (
            ("identity", ("who", entry.character)),
            ("scenery", ("where", entry.place)),
        ):
            if first[key] != shot and not entry.continues:
                yield what, first[key], shot


def consistency_rows(seen: list[list[dict]], plans: Sequence[FilmPlan]) -> list[tuple]:
    """Does a character (place) that comes back look as it did when it first appeared in this very
    film?"""
    return [
        (film, shot, f"{what} kept", float(seen[film][shot][name] == seen[film][begin][name]))
        for film, plan in enumerate(plans)
        for what, begin, shot in returns_of(plan)
        for name in LOOKS[what]
    ]


def own_chance_rows(seen: list[list[dict]], plans: Sequence[FilmPlan]) -> list[tuple]:
    """The chance of `consistency_rows` among these very films: how often a return looks as a first
    appearance in *another* of them does. A model that draws every character alike keeps all looks,
    and has this chance at the same height."""
    early = [
        [(what, seen[film][shot]) for what, shot in debuts(plan)] for film, plan in enumerate(plans)
    ]
    rows = []
    for film, plan in enumerate(plans):
        others = [look for other, shown in enumerate(early) if other != film for look in shown]
        for what, _, shot in returns_of(plan):
            known = [look for kind, look in others if kind == what]
            rows += [
                (
                    film,
                    shot,
                    f"{what} kept",
                    float(np.mean([seen[film][shot][name] == look[name] for look in known])),
                )
                for name in LOOKS[what]
                if known
            ]
    return rows


def debuts(plan: FilmPlan) -> list[tuple[str, int]]:
    """("identity" or "scenery", first shot) of every character and place."""
    return [
        ({"who": "identity", "where": "scenery"}[kind], shot)
        for (kind, _), shot in first_shots(plan).items()
    ]


def above_chance_rows(kept: list[tuple], chance: list[tuple]) -> list[tuple]:
    """Rows (film, -1, "<what> kept above chance", difference of the film's means); 0 is what chance
    makes."""
    rows = pd.DataFrame(
        [*((*row, 1.0) for row in kept), *((*row, -1.0) for row in chance)],
        columns=["film", "shot", "metric", "value", "sign"],
    )
    means = rows.groupby(["film", "metric", "sign"]).value.mean().unstack("sign").dropna()
    return [
        (film, -1, f"{metric} above chance", float(mean[1.0] - mean[-1.0]))
        for (film, metric), mean in means.iterrows()
    ]


def diversity_rows(seen: list[list[dict]], plans: Sequence[FilmPlan]) -> list[tuple]:
    """How varied is what no prompt tells? Per film and attribute, the share of other films'
    characters (places) that look otherwise at their first appearance: 1 - the probability of a
    collision. The truth's is the upper bound to compare with."""
    early = [
        [(what, seen[film][shot]) for what, shot in debuts(plan)] for film, plan in enumerate(plans)
    ]
    rows = []
    for film, mine in enumerate(early):
        for what, names in LOOKS.items():
            own = [look for kind, look in mine if kind == what]
            others = [
                look
                for other, shown in enumerate(early)
                if other != film
                for kind, look in shown
                if kind == what
            ]
            rows += [
                (
                    film,
                    -1,
                    f"diversity of {what}",
                    float(np.mean([a[name] != b[name] for a in own for b in others])),
                )
                for name in names
                if own and others
            ]
    return rows


def drift_rows(
    seen: list[list[dict]], plans: Sequence[FilmPlan], share: float = 0.25
) -> list[tuple]:
    """Mean prompted score of the last quarter of the shots minus that of the first; 0 = no
    drift."""
    rows = []
    for film, plan in enumerate(plans):
        right = [
            np.mean([seen[film][s][n] == e.attributes[n] for n in PROMPTED])
            for s, e in enumerate(plan.shots)
        ]
        part = max(1, round(share * len(right)))
        rows.append((film, -1, "drift", float(np.mean(right[-part:]) - np.mean(right[:part]))))
    return rows


def table(rows: Iterable[tuple], **more) -> pd.DataFrame:
    """Rows as a table, with constant columns added."""
    return pd.DataFrame(list(rows), columns=["film", "shot", "metric", "value"]).assign(**more)


def with_prompt(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the metric `prompt` added, whose mean is that of all that prompts ask for, unless
    it is there already."""
    if "prompt" in set(rows["metric"]):
        return rows
    return pd.concat(
        [rows[rows["metric"].isin(list(PROMPTED))].assign(metric="prompt"), rows], ignore_index=True
    )


def film_rows(
    reader: Recogniser, frames: np.ndarray, plans: Sequence[FilmPlan]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Everything that can be asked of whole films, and what chance makes of the looks they kept
    (`own_chance_rows`)."""
    seen = read_shots(reader, frames, plans)
    kept = consistency_rows(seen, plans)
    chance = own_chance_rows(seen, plans)
    rows = (
        prompt_rows(seen, plans) + cut_rows(frames, plans) + kept + above_chance_rows(kept, chance)
    )
    return table(rows + diversity_rows(seen, plans) + drift_rows(seen, plans)), table(chance)


def chance_rows(reader: Recogniser, frames: np.ndarray, plans: Sequence[FilmPlan]) -> pd.DataFrame:
    """What prompts and cuts score by chance: the frames of each film beside the plan of the
    next."""
    equal = [i for i, plan in enumerate(plans) if len(plan.shots) == len(plans[0].shots)]
    shown = frames[equal]
    asked = shuffled([plans[i] for i in equal])
    return table(prompt_rows(read_shots(reader, shown, asked), asked) + cut_rows(shown, asked))


def make_frames(
    bundle: Bundle,
    batch: Batch,
    policy: Policy,
    seeds: Sequence[int],
    sampling: Sampling | None = None,
    known: int = 0,
) -> tuple[np.ndarray, KVCache]:
    """Frames of the batch's films made by the model; the first `known` latent frames are the true
    ones."""
    given = batch.latents[:, :known] if known else None
    latents, memory = make(bundle, batch.timelines, policy, seeds, sampling, given)
    return decode(bundle, latents), memory


def absence_batch(
    bundle: Bundle,
    seed: int,
    films: range,
    away: int,
    shot_latents: int = 3,
    reframed: bool = False,
) -> Batch:
    """Memory tests: X, A at home, `away` shots without A, A at home again (in another shot size if
    `reframed`).

    Shots are made whole chunks, `shot_latents` at least.
    """
    shot_latents = -(-shot_latents // bundle.chunk) * bundle.chunk
    return encode_plans(
        bundle, [casting.absence(seed, index, away, shot_latents, reframed) for index in films]
    )


def recall(
    bundle: Bundle,
    reader: Recogniser,
    batch: Batch,
    policy: Policy,
    seeds: Sequence[int],
    sampling: Sampling | None = None,
) -> tuple[pd.DataFrame, KVCache]:
    """Unprompted identity after an absence: the history is the truth, only the return of A is made.

    metric `identity` (pattern, accessory, second colour) and `scenery` (landmark, side).
    """
    last = batch.plans[0].shots[-1].latents
    frames, memory = make_frames(
        bundle,
        batch,
        informed(policy, batch.plans),
        seeds,
        sampling,
        known=batch.latents.shape[1] - last,
    )
    return recall_rows(reader, frames, batch.plans), memory


def informed(policy: Policy, plans: Sequence[FilmPlan]) -> Policy:
    """The policy; an oracle is given the shots that show the character of the last one, the same in
    all memory tests."""
    if not isinstance(policy, Oracle):
        return policy
    *before, last = plans[0].shots
    return replace(
        policy,
        shots=tuple(shot for shot, entry in enumerate(before) if entry.character == last.character),
    )


def recall_rows(reader: Recogniser, frames: np.ndarray, plans: Sequence[FilmPlan]) -> pd.DataFrame:
    """What of A and its home was remembered in the last shot."""
    seen = read_shots(reader, frames, plans)
    rows = []
    for film, plan in enumerate(plans):
        final = len(plan.shots) - 1
        for metric, names in (
            ("identity", IDENTITY),
            ("scenery", SCENERY),
            ("prompt", tuple(PROMPTED)),
        ):
            rows += [
                (film, final, metric, float(seen[film][-1][n] == plan.shots[-1].attributes[n]))
                for n in names
            ]
    return table(rows)


def shuffled(plans: Sequence[FilmPlan]) -> list[FilmPlan]:
    """Every film's pictures beside the next film's plan: what chance scores."""
    return [*plans[1:], plans[0]]
