"""Scores of a film made from a screenplay: no plan is known, so the prompts are the measure.

Rows (shot, metric, value, detail): what each prompt names is looked for in its shot; a character
that comes back under the same name is compared with its own first appearance.
"""

import numpy as np
import pandas as pd

from cinelab.metrics.metric import clip_rows
from cinelab.metrics.toybox.recogniser import Recogniser, windows
from cinelab.metrics.video.cuts import detect_cuts, detect_cuts_pyscenedetect, match_cuts
from cinelab.script.shotlist import ShotList
from cinelab.script.timeline import Timeline
from cinelab.world.vocab import IDENTITY, SCENERY, read_prompt

COLUMNS = ["shot", "metric", "value", "detail"]


def film_scores(
    reader: Recogniser,
    frames: np.ndarray,
    timeline: Timeline,
    prompts: list[str],
    timings: pd.DataFrame,
) -> pd.DataFrame:
    """All rows of one film; frames uint8 (F, H, W, 3), prompts one an entry of the screenplay."""
    seen = reader.names(windows(frames, timeline.entry_spans))
    asked = [read_prompt(prompt) for prompt in prompts]
    rows = (
        asked_rows(seen, asked)
        + kept_rows(seen, asked)
        + cut_rows(frames, timeline)
        + speed_rows(timings, timeline.pixel_frames)
    )
    rows += own_rows(frames, timeline)
    return pd.DataFrame(rows, columns=COLUMNS)


def plain_scores(frames: np.ndarray, timeline: Timeline, timings: pd.DataFrame) -> pd.DataFrame:
    """The rows that need no recogniser: cuts and speed, of a film in any look."""
    rows = (
        cut_rows(frames, timeline)
        + speed_rows(timings, timeline.pixel_frames)
        + own_rows(frames, timeline)
    )
    return pd.DataFrame(rows, columns=COLUMNS)


def own_rows(frames: np.ndarray, timeline: Timeline) -> list[tuple]:
    """What registered metrics say of the film; one that fails on it is not measured, and says so as
    NaN."""
    rows = clip_rows("", frames, ShotList.of(timeline).shots)
    return [(row.shot, row.metric, row.value, row.detail) for row in rows]


def asked_rows(seen: list[dict], asked: list[dict]) -> list[tuple]:
    """1 where the shot shows what its prompt names."""
    return [
        (
            shot + 1,
            f"shows {name}",
            float(seen[shot][name] == value),
            f"asked {value}, seen {seen[shot][name]}",
        )
        for shot, wanted in enumerate(asked)
        for name, value in wanted.items()
    ]


def kept_rows(seen: list[dict], asked: list[dict]) -> list[tuple]:
    """1 where a returning character (kind and colour) or place (setting) looks as at its first
    appearance."""
    rows = []
    first = {}
    for shot, wanted in enumerate(asked):
        for keys, names, metric in (
            (("kind", "colour"), IDENTITY, "identity"),
            (("setting",), SCENERY, "scenery"),
        ):
            if not all(key in wanted for key in keys):
                continue
            begin = first.setdefault(tuple(wanted[key] for key in keys), shot)
            if begin == shot:
                continue
            rows += [
                (
                    shot + 1,
                    f"keeps {metric}",
                    float(seen[shot][n] == seen[begin][n]),
                    f"{n}: {seen[begin][n]} in shot {begin + 1}, {seen[shot][n]} now",
                )
                for n in names
            ]
    return rows


def cut_rows(frames: np.ndarray, timeline: Timeline) -> list[tuple]:
    """Planned against detected cuts."""
    found = {
        "cuts": detect_cuts(frames),
        "cuts (PySceneDetect)": detect_cuts_pyscenedetect(frames, float(timeline.fps)),
    }
    return [
        (
            0,
            name,
            match_cuts(timeline.cuts, cuts, tolerance=1).accuracy,
            f"planned {timeline.cuts}, found {cuts}",
        )
        for name, cuts in found.items()
    ]


def speed_rows(timings: pd.DataFrame, pictures: int) -> list[tuple]:
    """Pictures a second over a whole film of so many, and the first one's latency; decoding
    included, loading not."""
    total = timings.drop(columns="chunk").sum(axis=1)
    return [
        (0, "frames per second", pictures / float(total.sum()), "text, model, memory and decode"),
        (0, "first frame seconds", float(total.iloc[0]), "the model is loaded already"),
    ]


def digest(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and count of every metric, for reading."""
    return scores.groupby("metric", sort=False).value.agg(["mean", "count"]).round(3)
