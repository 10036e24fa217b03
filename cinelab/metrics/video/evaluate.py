"""Any videos to one table: `cinelab eval videos`. A broken video is a row, not the end of the
work."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from cinelab.errors import CinelabError
from cinelab.metrics.metric import labelled
from cinelab.metrics.registered import registered_clip_rows
from cinelab.metrics.rows import Row, failed, row_table
from cinelab.metrics.stats import bootstrap
from cinelab.metrics.video.alignment import KNOWN, alignment_rows, check_backends
from cinelab.metrics.video.clips import (
    Clip,
    find_videos,
    is_shot_list,
    labels,
    load_clip,
    why_failed,
)
from cinelab.metrics.video.pixels import pixel_rows
from cinelab.outputs import half_saved, unfinished
from cinelab.script.screenplay import Screenplay
from cinelab.script.shotlist import ShotList
from cinelab.world.worlds import world_named


def evaluate(
    paths: Sequence[str | Path],
    backends: Sequence[str] = KNOWN,
    tolerance: int = 1,
    plan: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
    *,
    world: str | None = None,
) -> pd.DataFrame:
    """Rows of every video below `paths`. `plan` is the shot list or screenplay of a single video;
    `world` is the made world in whose words prompts are, where a shot list names none.

    Whatever one video raises, memory that does not suffice among it, is its own failed row.
    """
    videos = [video for video in find_videos(paths, tell) if not unfinished(video)]
    if plan and len(videos) > 1:
        raise CinelabError(
            f"--plan {plan} fits one video, and {len(videos)} were named; put a .shots.json "
            "beside each instead."
        )
    if plan:  # one that cannot be read is refused before anything is measured
        (ShotList if is_shot_list(plan) else Screenplay).load(plan)
    check_backends(backends)
    world_named(world)  # an unknown one is refused before anything is measured
    rows: list[Row] = []
    for number, (video, name) in enumerate(labels(videos).items(), 1):
        tell(f"{number} of {len(videos)}: {video}")
        try:
            if half_saved(video.parent, "film.json"):
                raise CinelabError(
                    f"{video.parent} holds a half-saved film; run the `cinelab direct` that was "
                    "making it again."
                )
            rows += clip_rows(load_clip(video, plan, name, world=world), backends, tolerance)
        except Exception as error:
            rows.append(failed(name, why_failed(video, error), run=str(video.parent)))
        gc.collect()  # decoders and their frames refer to each other
    return row_table(rows)


def clip_rows(clip: Clip, backends: Sequence[str] = KNOWN, tolerance: int = 1) -> list[Row]:
    """Everything that can be measured of one clip."""
    rows = [
        *pixel_rows(clip, tolerance),
        *alignment_rows(clip, backends),
        *registered_clip_rows(clip.name, clip.frames, clip.shots),
    ]
    return [replace(row, run=clip.run, fps=clip.fps) for row in rows]


def clip_digest(rows: pd.DataFrame) -> pd.DataFrame:
    """Metric (with its protocol) and backend -> mean with its 95 % interval over clips, the number
    of clips, the chance level where one was measured, and what is absent and why."""
    rows = rows.assign(metric=labelled(rows.assign(backend=""))["metric"])
    found = []
    keys = ["metric", "backend"]
    for key, part in rows[rows.status != "failed"].groupby(keys, sort=False):
        good = part[part.status == "ok"]
        chance = good[good.source == "chance"]
        good = good[good.source == "model"]
        line: dict[str, Any] = {**dict(zip(keys, key, strict=True)), "clips": _clips(good)}
        if len(good):
            e = bootstrap(
                good.value.tolist(), groups=list(zip(good["run"], good["clip"], strict=True))
            )
            line |= {"value": e.value, "low": e.low, "high": e.high, "n": e.n}
        else:
            lacks = part[part.status == "absent"]
            line |= {"absent": lacks.detail.iloc[0] if len(lacks) else ""}
        found.append(line | ({"chance": chance.value.mean()} if len(chance) else {}))
    columns = [*keys, "clips", "value", "low", "high", "n", "chance", "absent"]
    return pd.DataFrame(found).reindex(columns=columns).astype({"n": "Int64"})


def facts(rows: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """What the files say of themselves (frames, rate, size): name -> (least,
    most) of all videos."""
    found = (
        rows[(rows.status == "ok") & (rows.backend == "file")]
        .groupby("metric", sort=False)
        .value.agg(["min", "max"])
    )
    return {row.Index: (row.min, row.max) for row in found.itertuples()}


def unmeasured(rows: pd.DataFrame) -> pd.DataFrame:
    """Why anything is absent, a line a reason: the metrics and backends, in how many clips and in
    how many of their shots (0: the reason holds for whole clips), and `of`, the clips that could be
    read at all."""
    lacks = rows[rows.status == "absent"]
    of = _clips(rows[rows.status != "failed"])
    found = [
        {
            "metrics": ", ".join(dict.fromkeys(labelled(part.assign(backend=""))["metric"])),
            "backends": ", ".join(dict.fromkeys(part["backend"])),
            "clips": _clips(part),
            "of": of,
            "why": why,
            "shots": len(part.loc[part["shot"] > 0, ["run", "clip", "shot"]].drop_duplicates()),
        }
        for why, part in lacks.groupby("detail", sort=False)
    ]
    return pd.DataFrame(found, columns=["metrics", "backends", "clips", "of", "shots", "why"])


def _clips(rows: pd.DataFrame) -> int:
    """How many different clips have rows here; two of one name in different folders are two."""
    return len(rows[["run", "clip"]].drop_duplicates())
