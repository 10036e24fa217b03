"""Metrics with exact ground truth: what a toybox film shows, read back by the recogniser, against
its plan.

Every function takes frames uint8 (B, F, H, W, 3) of B films with their plans and returns rows
(`cinelab.metrics.rows.Row`); a value is 1 where the frames agree with the plan, else 0.

The measures are ours: the plan is known, so no feature network stands between the film and its
value. Identity across shots is what HoloCine (arXiv:2510.20822) calls inter-shot consistency.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cinelab.flow.sampler import Sampling
from cinelab.latent.codec import encoded
from cinelab.memory.cache import KVCache
from cinelab.memory.policy import Oracle, Policy
from cinelab.metrics.registered import listed
from cinelab.metrics.rows import WHOLE, Row, clip_of
from cinelab.metrics.toybox.framing import framing_rows
from cinelab.metrics.toybox.recogniser import Recogniser, windows
from cinelab.metrics.video.clips import Clip
from cinelab.metrics.video.pixels import accuracy_rows
from cinelab.readable import Readable
from cinelab.stream.batch import decode, make
from cinelab.world.plans import FilmPlan
from cinelab.world.worlds import prompted_names, world_of
from cinelab.zoo.bundle import Bundle

BACKEND = "toybox"


@dataclass(frozen=True)
class Batch(Readable):
    """Planned films with their true frames as latents: latents (B, F, C, h, w), made `chunk`
    frames at a time."""

    plans: list[FilmPlan]
    latents: Tensor
    chunk: int = 1

    @property
    def timelines(self) -> list:
        return [world_of(plan).timeline(plan, self.chunk) for plan in self.plans]

    @property
    def last_shot(self) -> int:
        """The first chunk of the last shot, in films whose last shots are of equal length."""
        return (self.latents.shape[1] - self.plans[0].shots[-1].latents) // self.chunk


def encode_plans(bundle: Bundle, plans: Sequence[FilmPlan]) -> Batch:
    """Render and encode planned films of equal length."""
    frames = np.stack([world_of(plan).render(plan).frames for plan in plans])
    latents = torch.cat([encoded(bundle.codec, one[None]) for one in frames])
    return Batch(list(plans), latents, bundle.chunk)


def read_shots(
    reader: Recogniser, frames: np.ndarray, plans: Sequence[FilmPlan]
) -> list[list[dict[str, str]]]:
    """What the recogniser sees in every shot of every film: attribute -> value."""
    for plan in plans:
        reader.check_world(plan.world)
    spans = [world_of(plan).timeline(plan).entry_spans for plan in plans]
    names = reader.names(
        np.concatenate([windows(film, where) for film, where in zip(frames, spans, strict=True)])
    )
    ends = np.cumsum([0, *map(len, spans)])
    return [names[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)]


def prompt_rows(seen: list[list[dict]], plans: Sequence[FilmPlan]) -> list[Row]:
    """1 where a shot shows a prompted attribute, for every shot and attribute; the action among
    them is read from the motion of several frames."""
    return [
        _row(film, shot, name, value=seen[film][shot][name] == entry.attributes[name])
        for film, plan in enumerate(plans)
        for shot, entry in enumerate(plan.shots)
        for name in world_of(plan).prompted
    ]


def planned_cut_rows(frames: np.ndarray, plans: Sequence[FilmPlan]) -> list[Row]:
    """The accuracy of planned against detected cuts, by both detectors."""
    return [
        row
        for film, plan in enumerate(plans)
        for row in accuracy_rows(
            Clip(clip_of(film), frames[film], world_of(plan).fps, listed(plan))
        )
    ]


def _row(film: int, shot: int, metric: str, *, value: float, protocol: str = "") -> Row:
    """A row of shot `shot` (from 0) of a planned film."""
    return Row(clip_of(film), shot + 1, metric, float(value), backend=BACKEND, protocol=protocol)


def _film_row(film: int, metric: str, value: float, protocol: str = "") -> Row:
    """A row of a whole planned film."""
    return Row(clip_of(film), WHOLE, metric, float(value), backend=BACKEND, protocol=protocol)


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


def consistency_rows(seen: list[list[dict]], plans: Sequence[FilmPlan]) -> list[Row]:
    """1 where a character (place) that comes back looks as it did when it first appeared in this
    very film: identity (scenery) by the protocol `kept`."""
    return [
        _row(
            film,
            shot,
            what,
            value=seen[film][shot][name] == seen[film][begin][name],
            protocol="kept",
        )
        for film, plan in enumerate(plans)
        for what, begin, shot in returns_of(plan)
        for name in world_of(plan).looks[what]
    ]


def own_chance_rows(seen: list[list[dict]], plans: Sequence[FilmPlan]) -> list[Row]:
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
            for name in world_of(plan).looks[what] if known else ():
                alike = np.mean([seen[film][shot][name] == look[name] for look in known])
                rows.append(_row(film, shot, what, value=alike, protocol="kept"))
    return rows


def debuts(plan: FilmPlan) -> list[tuple[str, int]]:
    """("identity" or "scenery", first shot) of every character and place."""
    return [
        ({"who": "identity", "where": "scenery"}[kind], shot)
        for (kind, _), shot in first_shots(plan).items()
    ]


def above_chance_rows(kept: Sequence[Row], chance: Sequence[Row]) -> list[Row]:
    """How much more a film keeps than chance does: "<what> above chance", the difference of the
    film's means; 0 is what chance makes."""
    sums: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    for place, rows in enumerate((kept, chance)):
        for row in rows:
            sums.setdefault((row.clip, row.metric), ([], []))[place].append(row.value)
    return [
        Row(
            clip,
            WHOLE,
            f"{what} above chance",
            float(np.mean(own) - np.mean(drawn)),
            backend=BACKEND,
            protocol="kept",
        )
        for (clip, what), (own, drawn) in sorted(sums.items())
        if own and drawn
    ]


def diversity_rows(seen: list[list[dict]], plans: Sequence[FilmPlan]) -> list[Row]:
    """How varied is what no prompt names? Per film and attribute, the share of other films'
    characters (places) that look otherwise at their first appearance: 1 - the probability of a
    collision (Simpson's index). The truth's is the upper bound to compare with."""
    early = [
        [(what, seen[film][shot]) for what, shot in debuts(plan)] for film, plan in enumerate(plans)
    ]
    rows = []
    for film, mine in enumerate(early):
        others = [one for other, shown in enumerate(early) if other != film for one in shown]
        for what, names in world_of(plans[film]).looks.items():
            own = [look for kind, look in mine if kind == what]
            rest = [look for kind, look in others if kind == what]
            for name in names if own and rest else ():
                unlike = np.mean([a[name] != b[name] for a in own for b in rest])
                rows.append(_film_row(film, f"diversity of {what}", unlike))
    return rows


def prompt_drift_rows(
    seen: list[list[dict]], plans: Sequence[FilmPlan], share: float = 0.25
) -> list[Row]:
    """Mean prompted value of the last quarter of the shots minus that of the first; 0 = no
    drift."""
    rows = []
    for film, plan in enumerate(plans):
        right = [
            np.mean([seen[film][s][n] == e.attributes[n] for n in world_of(plan).prompted])
            for s, e in enumerate(plan.shots)
        ]
        part = max(1, round(share * len(right)))
        rows.append(_film_row(film, "drift", np.mean(right[-part:]) - np.mean(right[:part])))
    return rows


def with_prompt(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the metric `prompt` added, whose mean is that of all that prompts ask for, unless
    it is there already."""
    if "prompt" in set(rows["metric"]):
        return rows
    asked = rows[rows["metric"].isin(prompted_names())].assign(metric="prompt")
    return pd.concat([asked, rows], ignore_index=True)


def film_rows(
    reader: Recogniser, frames: np.ndarray, plans: Sequence[FilmPlan]
) -> tuple[list[Row], list[Row]]:
    """Everything that can be measured of whole films, and what chance makes of the looks they kept
    (`own_chance_rows`)."""
    seen = read_shots(reader, frames, plans)
    kept = consistency_rows(seen, plans)
    chance = own_chance_rows(seen, plans)
    rows = [
        *prompt_rows(seen, plans),
        *planned_cut_rows(frames, plans),
        *kept,
        *above_chance_rows(kept, chance),
        *diversity_rows(seen, plans),
        *prompt_drift_rows(seen, plans),
        *framing_rows(frames, plans),
    ]
    return rows, chance


def chance_rows(reader: Recogniser, frames: np.ndarray, plans: Sequence[FilmPlan]) -> list[Row]:
    """What prompts and cuts come to by chance: the frames of each film against the plan of the
    next."""
    equal = [i for i, plan in enumerate(plans) if len(plan.shots) == len(plans[0].shots)]
    shown = frames[equal]
    wrong = shuffled([plans[i] for i in equal])
    return prompt_rows(read_shots(reader, shown, wrong), wrong) + planned_cut_rows(shown, wrong)


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
    latents, cache = make(bundle, batch.timelines, policy, seeds, sampling, given)
    return decode(bundle, latents), cache


def absence_batch(
    bundle: Bundle,
    seed: int,
    films: range,
    away: int,
    shot_latents: int | None = None,
    reframed: bool = False,
) -> Batch:
    """Memory tests: X, A at home, `away` shots without A, A at home again (in another shot size if
    `reframed`).

    Shots are made whole chunks, `shot_latents` at least (None: as the world's absences are).
    """
    shortest = bundle.world.absence_latents if shot_latents is None else shot_latents
    shot_latents = -(-shortest // bundle.chunk) * bundle.chunk
    plans = [
        bundle.world.absence(seed, index, away, shot_latents=shot_latents, reframed=reframed)
        for index in films
    ]
    return encode_plans(bundle, plans)


def recall(
    bundle: Bundle,
    reader: Recogniser,
    batch: Batch,
    policy: Policy,
    seeds: Sequence[int],
    sampling: Sampling | None = None,
) -> tuple[list[Row], KVCache]:
    """Unprompted identity after an absence: the history is the truth, only the return of A is made.

    The rows are of `identity` (pattern, accessory, second colour) and `scenery` (landmark, side),
    protocol `recalled`, and of `prompt`.
    """
    last = batch.plans[0].shots[-1].latents
    frames, cache = make_frames(
        bundle,
        batch,
        informed(policy, batch.plans),
        seeds,
        sampling,
        known=batch.latents.shape[1] - last,
    )
    return recall_rows(reader, frames, batch.plans), cache


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


def recall_rows(reader: Recogniser, frames: np.ndarray, plans: Sequence[FilmPlan]) -> list[Row]:
    """What of A and its home was remembered in the last shot: 1 where it is as the plan has it."""
    seen = read_shots(reader, frames, plans)
    return [
        _row(
            film,
            len(plan.shots) - 1,
            metric,
            value=shown == plan.shots[-1].attributes[name],
            protocol=protocol,
        )
        for film, plan in enumerate(plans)
        for metric, names, protocol in _recalled(plan)
        for name in names
        for shown in [seen[film][-1][name]]
    ]


def _recalled(plan: FilmPlan) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """(metric, attributes, protocol) of what the last shot of a memory test is read for."""
    for what, names in world_of(plan).looks.items():
        yield what, names, "recalled"
    yield "prompt", tuple(world_of(plan).prompted), ""


def shuffled(plans: Sequence[FilmPlan]) -> list[FilmPlan]:
    """The plan of the next film for every film: frames against it have the value of chance."""
    return [*plans[1:], plans[0]]
