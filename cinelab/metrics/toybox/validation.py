"""Validation during training: few films, measured by the metrics that the list names for it.

    metrics = Validator(bundle, reader)(model)      columns for the log

The columns are the metrics whose `validation` is "column" or "selects" (see
`cinelab.metrics.catalogue`), a user's own among them. "score" is the mean of those that select, at
most 1 each; the weights with the highest are the best ones. The films and the rule of selection are
ours: no paper of the three states how a checkpoint was chosen.
"""

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import pandas as pd
from torch import nn

from cinelab.memory.policy import CAMR, Policy
from cinelab.metrics.metric import METRICS
from cinelab.metrics.registered import listed, registered_rows
from cinelab.metrics.rows import Row, row_table
from cinelab.metrics.toybox.attributes import (
    Batch,
    above_chance_rows,
    absence_batch,
    consistency_rows,
    diversity_rows,
    encode_plans,
    make_frames,
    own_chance_rows,
    planned_cut_rows,
    prompt_rows,
    read_shots,
    recall,
)
from cinelab.metrics.toybox.framing import framing_rows
from cinelab.metrics.toybox.recogniser import Recogniser
from cinelab.metrics.video.appearance import appearance_rows
from cinelab.model.wan import CausalWan
from cinelab.stream.batch import decode
from cinelab.zoo.bundle import Bundle

UNSEEN = 40_000  # seed of the validation films: neither trained on nor used for cards
SELECTION = "score"  # the column that decides which weights are best


@dataclass(frozen=True)
class ValidationConfig:
    """How much is measured."""

    films: int = 12
    latents: int = 12
    shot_latents: tuple[int, int] = (3, 6)
    recalls: int = 24  # absence tests
    away: int = 3  # shots without the character
    seed: int = 0


class Validator:
    """Measures any weights of the bundle's shape; films are planned once, and are the same every
    time."""

    def __init__(
        self,
        bundle: Bundle,
        reader: Recogniser,
        policy: Policy | None = None,
        config: ValidationConfig | None = None,
    ):
        self.bundle = bundle
        self.reader = reader
        self.policy = policy or CAMR()
        self.config = config or ValidationConfig(shot_latents=bundle.world.film_shots)
        c = self.config
        plans = [
            bundle.world.cast_film(
                UNSEEN + c.seed, i, c.latents, shot_latents=c.shot_latents, grain=bundle.chunk
            )
            for i in range(c.films)
        ]
        self.films = encode_plans(bundle, plans)
        self.truth = decode(bundle, self.films.latents)
        self.absences = (
            absence_batch(bundle, UNSEEN + c.seed, range(c.recalls), c.away) if c.recalls else None
        )

    def __call__(self, model: nn.Module) -> dict[str, float]:
        bundle = replace(self.bundle, model=cast(CausalWan, model))
        rows = made_rows(bundle, self.reader, self.films, truth=self.truth, policy=self.policy)
        if self.absences:
            noise = seeds_for(self.config.recalls)
            recalled, _ = recall(bundle, self.reader, self.absences, self.policy, noise)
            rows += [row for row in recalled if row.metric == "identity"]
        return validation_columns(row_table(rows))


def validation_columns(rows: pd.DataFrame) -> dict[str, float]:
    """The columns of the log: the mean of every metric that the list names for validation by its
    default backend, and SELECTION, the mean of those that select."""
    found = {}
    for metric in METRICS.validated():
        part = rows[(rows["metric"] == metric.name) & (rows["backend"] == metric.backend)]
        if len(part):
            found[metric.name] = part["value"].mean()
    chosen = [one.name for one in METRICS.validated(selects=True) if one.name in found]
    found[SELECTION] = np.mean([min(1.0, found[name]) for name in chosen])
    return {name: round(float(value), 4) for name, value in found.items()}


def made_rows(
    bundle: Bundle, reader: Recogniser, films: Batch, *, truth: np.ndarray, policy: Policy
) -> list[Row]:
    """Rows of freshly made films against their truth."""
    frames, _ = make_frames(bundle, films, policy, seeds_for(len(films.plans)))
    return frame_rows(reader, frames, films, truth)


def frame_rows(
    reader: Recogniser, frames: np.ndarray, films: Batch, truth: np.ndarray
) -> list[Row]:
    """Rows of given frames (B, F, H, W, 3) against their truth."""
    seen = read_shots(reader, frames, films.plans)
    prompts = prompt_rows(seen, films.plans)
    kept = consistency_rows(seen, films.plans)
    spans = [line.entry_spans for line in films.timelines]
    return [
        *prompts,
        *(replace(row, metric="prompt") for row in prompts),
        *above_chance_rows(kept, own_chance_rows(seen, films.plans)),
        *diversity_rows(seen, films.plans),
        *framing_rows(frames, films.plans),
        *planned_cut_rows(frames, films.plans),
        *appearance_rows(frames, truth, spans),
        *registered_rows(frames, [listed(plan).shots for plan in films.plans]),
    ]


def seeds_for(count: int) -> list[int]:
    """Where the noise of `count` validation films comes from."""
    return [7000 + i for i in range(count)]
