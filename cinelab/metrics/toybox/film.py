"""Metrics of a film made from a screenplay: no plan is known, so the prompts are the measure.

What each prompt names is looked for in its shot; a character that comes back under the same name is
compared with its own first appearance.
"""

import numpy as np
import pandas as pd

from cinelab.metrics.legacy import analysed
from cinelab.metrics.registered import registered_clip_rows
from cinelab.metrics.rows import Row, row_table
from cinelab.metrics.toybox.recogniser import Recogniser, windows
from cinelab.metrics.video.clips import Clip
from cinelab.metrics.video.pixels import accuracy_rows, speed_rows
from cinelab.script.shotlist import ShotList
from cinelab.script.timeline import Timeline
from cinelab.world.worlds import World


def film_values(
    reader: Recogniser,
    frames: np.ndarray,
    timeline: Timeline,
    *,
    prompts: list[str],
    timings: pd.DataFrame,
) -> pd.DataFrame:
    """All rows of one film; frames uint8 (F, H, W, 3), prompts one an entry of the screenplay."""
    seen = reader.names(windows(frames, timeline.entry_spans))
    wanted = [reader.world.read_prompt(prompt) for prompt in prompts]
    rows = shown_rows(seen, wanted) + returning_rows(seen, wanted, reader.world)
    return pd.concat([row_table(rows), plain_values(frames, timeline, timings)], ignore_index=True)


def plain_values(frames: np.ndarray, timeline: Timeline, timings: pd.DataFrame) -> pd.DataFrame:
    """The rows that need no recogniser: cuts, speed and what is registered, of a film in any look.

    A registered metric that fails on the film is absent, with the reason.
    """
    clip = Clip("", frames, float(timeline.fps), ShotList.of(timeline), timings=timings)
    rows = [
        *accuracy_rows(clip),
        *speed_rows(timings, timeline.pixel_frames),
        *registered_clip_rows("", frames, clip.shots),
    ]
    return row_table(rows)


def shown_rows(seen: list[dict], wanted: list[dict], clip: str = "") -> list[Row]:
    """1 where the shot shows what its prompt names."""
    return [
        Row(
            clip,
            shot,
            name,
            float(seen[shot - 1][name] == value),
            backend="toybox",
            detail=f"wanted {value}, seen {seen[shot - 1][name]}",
        )
        for shot, named in enumerate(wanted, 1)
        for name, value in named.items()
    ]


def returning_rows(seen: list[dict], wanted: list[dict], world: World) -> list[Row]:
    """1 where a returning character (kind and colour) or place (setting) looks as at its first
    appearance: identity and scenery by the protocol `kept`."""
    rows = []
    first: dict[tuple, int] = {}
    compared = (
        (world.who, world.identity, "identity"),
        (world.where, world.scenery, "scenery"),
    )
    for shot, named in enumerate(wanted):
        for keys, names, metric in compared:
            if not all(key in named for key in keys):
                continue
            begin = first.setdefault(tuple(named[key] for key in keys), shot)
            for name in names if begin != shot else ():
                rows.append(_kept(seen, name, metric, begin=begin, shot=shot))
    return rows


def _kept(seen: list[dict], name: str, metric: str, *, begin: int, shot: int) -> Row:
    """Whether one look of shot `shot` (from 0) is that of shot `begin`."""
    before = seen[begin][name]
    now = seen[shot][name]
    detail = f"{name}: {before} in shot {begin + 1}, {now} now"
    value = float(now == before)
    return Row("", shot + 1, metric, value, backend="toybox", protocol="kept", detail=detail)


def film_digest(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean and count of every metric, for reading."""
    groups = analysed(rows).groupby("metric", sort=False)
    return groups["value"].agg(["mean", "count"]).round(3)
