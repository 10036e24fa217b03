"""An examination short enough to sit during training: does it still show what it is asked, move,
remember, keep its colours?

marks = Validator(bundle, reader)(model)        a dictionary of columns for the log; "score" decides which weights are kept
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from torch import nn

from cinelab.memory.policy import CAMR, Policy
from cinelab.metrics.toybox.attributes import (
    absence_batch,
    cut_rows,
    encode_plans,
    make_frames,
    prompt_rows,
    read_shots,
    recall,
    table,
)
from cinelab.metrics.toybox.recogniser import Recogniser
from cinelab.metrics.video.appearance import picture_rows
from cinelab.stream.batch import decode
from cinelab.world import casting
from cinelab.zoo.bundle import Bundle

UNSEEN = 40_000  # seed of the exam's films: neither trained on nor used for score cards


@dataclass(frozen=True)
class ValidationConfig:
    """How much is asked. The score is the mean of prompt, identity, cuts and motion (at most 1
    each)."""

    films: int = 12
    latents: int = 12
    shot_latents: tuple[int, int] = (3, 6)
    recalls: int = 24  # absence tests
    away: int = 3  # shots without the character
    seed: int = 0


class Validator:
    """Sits any weights of the bundle's shape; the questions are drawn once, and are the same for
    every sitting."""

    def __init__(
        self,
        bundle: Bundle,
        reader: Recogniser,
        policy: Policy | str | None = None,
        config: ValidationConfig | None = None,
    ):
        self.bundle = bundle
        self.reader = reader
        self.policy = policy or CAMR()
        self.config = config or ValidationConfig()
        c = self.config
        plans = [
            casting.cast_film(UNSEEN + c.seed, i, c.latents, c.shot_latents, bundle.chunk)
            for i in range(c.films)
        ]
        self.films = encode_plans(bundle, plans)
        self.truth = decode(bundle, self.films.latents)
        self.absences = (
            absence_batch(bundle, UNSEEN + c.seed, range(c.recalls), c.away) if c.recalls else None
        )

    def __call__(self, model: nn.Module) -> dict:
        bundle = replace(self.bundle, model=model)
        rows = film_marks(bundle, self.reader, self.films, self.truth, self.policy)
        mean = rows.groupby("metric").value.mean()
        metrics = {"prompt": mean["prompt"], "cuts": mean["cuts"], "action": mean["action"]}
        metrics |= {
            name: mean[f"{name} of truth"]
            for name in ("motion", "saturation", "contrast", "sharpness")
        }
        if self.absences:
            recalled, _ = recall(
                bundle, self.reader, self.absences, self.policy, seeds_for(self.config.recalls)
            )
            metrics["identity"] = recalled[recalled.metric == "identity"].value.mean()
        graded = [
            min(1.0, metrics[name])
            for name in ("prompt", "identity", "cuts", "motion")
            if name in metrics
        ]
        return {
            name: round(float(value), 4)
            for name, value in (metrics | {"score": np.mean(graded)}).items()
        }


def film_marks(
    bundle: Bundle, reader: Recogniser, films, truth: np.ndarray, policy: Policy
) -> pd.DataFrame:
    """Rows (film, shot, metric, value) of freshly made films beside their truth."""
    frames, _ = make_frames(bundle, films, policy, seeds_for(len(films.plans)))
    return frame_marks(reader, frames, films, truth)


def frame_marks(reader: Recogniser, frames: np.ndarray, films, truth: np.ndarray) -> pd.DataFrame:
    """Rows (film, shot, metric, value) of given frames (B, F, H, W, 3) beside their truth."""
    prompts = prompt_rows(read_shots(reader, frames, films.plans), films.plans)
    spans = [line.entry_spans for line in films.timelines]
    rows = (
        prompts + [(*row[:2], "prompt", row[3]) for row in prompts] + cut_rows(frames, films.plans)
    )
    return table(rows + picture_rows(frames, truth, spans))


def seeds_for(count: int) -> list[int]:
    return [7000 + i for i in range(count)]
