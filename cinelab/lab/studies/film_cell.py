"""Whole films under one setting: the cell of every sweep that is not about a single absence
(notebook 23).

A cell holds rows.parquet (every metric of every shot, of the model, the truth and chance),
cell.json (the setting, the speed) and the first film as film.mp4 with its shot list and storyboard,
so that cells can be watched side by side on the same seed.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from cinelab.config import to_dict
from cinelab.errors import CinelabError
from cinelab.files import write_json
from cinelab.flow.sampler import Sampling, Steps
from cinelab.memory.policy import Policy
from cinelab.memory.policy_registry import label_of, policy_named, seeded
from cinelab.metrics.card import HELD_OUT, compare_films, of_source, seeds_of
from cinelab.metrics.metric import METRICS, labelled
from cinelab.metrics.registered import listed, try_registered
from cinelab.metrics.rows import Row, clip_of, numbered_from, row_table, save_rows
from cinelab.metrics.stats import bootstrap
from cinelab.metrics.toybox.attributes import (
    Batch,
    decode,
    encode_plans,
    make_frames,
    with_prompt,
)
from cinelab.metrics.toybox.recogniser import load_recogniser
from cinelab.metrics.video.clips import Clip
from cinelab.metrics.video.pixels import drift_rows, motion_rows
from cinelab.readable import Readable
from cinelab.stream.batch import empty_cache, stream
from cinelab.stream.storyboard import save_png, storyboard
from cinelab.stream.video import write_mp4
from cinelab.world.plans import FilmPlan, plan_timeline
from cinelab.world.worlds import world_of
from cinelab.zoo.bundle import Bundle
from cinelab.zoo.checkpoints import load

BATCH = 16  # films made at once
WARM = 4  # chunks left out of the speed
STILLS = 8  # shots of a long film that the storyboard shows
PLAYER_SCALE = 4  # a 48 x 64 film as 192 x 256 pixels: small enough to stand in a report


@dataclass(frozen=True)
class FilmSetting(Readable):
    """What a cell measures. Shots of `shot_latents` latent frames in whole multiples of `grain`
    fill `latents` of them."""

    model: str = "toybox-base"
    policy: str | Policy = "camr"  # a name, an import path, or an object
    budget: int = 6
    steps: Steps = None  # a number, a list of levels, or settings (see `Sampling`)
    guidance: float | None = None
    latents: int = 24
    shot_latents: tuple[int, int] = (3, 6)
    grain: int = 1
    films: int = 32
    seed: int = 0

    def __post_init__(self):
        if isinstance(self.policy, dict):  # as a sweep's parameters write it
            object.__setattr__(self, "policy", policy_named(self.policy))

    def sampling(self, bundle: Bundle) -> Sampling:
        levels = bundle.levels(self.steps)
        return levels if self.guidance is None else replace(levels, guidance=self.guidance)

    def check(self, bundle: Bundle) -> None:
        if self.grain % bundle.chunk:
            raise CinelabError(
                f"grain is {self.grain}, but {self.model} makes {bundle.chunk} latent frames at a "
                "time; give a "
                f"multiple of {bundle.chunk}."
            )
        if self.films < 2:
            raise CinelabError(
                f"films is {self.films}; chance is measured on another film's plan, so give at "
                "least 2."
            )


@dataclass
class FilmCell(Readable):
    """Rows, summary and what is needed to look at the cell."""

    rows: pd.DataFrame
    summary: pd.DataFrame
    speed: dict
    storyboard: Image.Image


def film_cell(run_dir: str | Path, setting: FilmSetting) -> FilmCell:
    """Make and measure the films of one setting and write the cell's files to `run_dir`."""
    bundle = load(setting.model)
    reader = load_recogniser(world=bundle.world)
    folder = Path(run_dir)
    setting.check(bundle)
    try_registered(bundle.world)
    rule = seeded(policy_named(setting.policy, setting.budget), setting.seed)
    sampling = setting.sampling(bundle)
    parts = []
    first: tuple[np.ndarray, FilmPlan] | None = None
    for start in range(0, setting.films, BATCH):
        batch = batch_of(bundle, setting, start, min(BATCH, setting.films - start))
        frames, _ = make_frames(
            bundle, batch, rule, seeds_of(setting.seed, len(batch.plans), start), sampling
        )
        truth = decode(bundle, batch.latents)
        found = [
            *compare_films(reader, frames, truth, batch),
            *compared_pixel_rows(frames, truth, batch),
        ]
        parts.append(row_table(numbered_from(start, found)))
        first = first or (frames[0], batch.plans[0])
    assert first is not None  # `check` asks for two films at least
    shown, plan = first
    rows = pd.concat(parts, ignore_index=True)
    speed = speed_of(bundle, rule, sampling, line=timeline(bundle, plan), seed=setting.seed)
    board = save_cell(
        folder,
        setting,
        sampling,
        rows=rows,
        speed=speed,
        frames=shown,
        plan=plan,
        accuracy=reader.accuracy,
    )
    return FilmCell(rows, film_summary(rows), speed, board)


def batch_of(bundle: Bundle, setting: FilmSetting, start: int, count: int) -> Batch:
    """Films `start`, start + 1, ... of the held-out seed, with their true frames."""
    grain = max(setting.grain, bundle.chunk)
    return encode_plans(
        bundle,
        [
            bundle.world.cast_film(
                HELD_OUT + setting.seed,
                i,
                setting.latents,
                shot_latents=setting.shot_latents,
                grain=grain,
            )
            for i in range(start, start + count)
        ],
    )


def timeline(bundle: Bundle, plan: FilmPlan):
    return plan_timeline(plan, bundle.fps, bundle.codec.stride, bundle.chunk)


def compared_pixel_rows(frames: np.ndarray, truth: np.ndarray, batch: Batch) -> list[Row]:
    """Motion, flicker and drift of made and true films."""
    rows: list[Row] = []
    for source, films in (("model", frames), ("truth", truth)):
        for film, (pixels, plan) in enumerate(zip(films, batch.plans, strict=True)):
            clip = Clip(clip_of(film), pixels, world_of(plan).fps, listed(plan, batch.chunk))
            found = (*motion_rows(clip), *drift_rows(clip))
            rows += of_source(source, (row for row in found if row.status == "ok"))
    return rows


def speed_of(bundle: Bundle, rule: Policy, sampling: Sampling, *, line, seed: int) -> dict:
    """The first film again, alone and with decoding, after a warm-up: frames per second, seconds to
    the first frame, growth over the film, MiB of the KV cache."""
    seconds = []
    counts = []
    for _ in stream(bundle, [line], empty_cache(bundle, rule), [seed], sampling):
        break  # the first call pays for what is set up once
    cache = empty_cache(bundle, rule)
    began = time.process_time()
    for timed in stream(bundle, [line], cache, [seeds_of(seed, 1)[0]], sampling):
        seconds.append(timed.total)
        counts.append(timed.frames.shape[1])
    spent = time.process_time() - began
    part = max(2, len(seconds) // 4)
    steady = np.array(seconds[WARM:] or seconds)
    warm = counts[-1]
    return {
        "frames_per_second": round(warm / float(np.median(steady)), 2),
        "first_frame_s": round(seconds[0], 4),
        "cpu_s_per_frame": round(spent / sum(counts), 5),
        "chunks": len(seconds),
        "kv_mib": round(cache.retrieved_bytes() / 2**20, 2),
        "late_over_early": round(
            float(np.median(seconds[-part:]) / np.median(seconds[WARM : WARM + part] or seconds)), 3
        ),
    }


def save_cell(
    folder: Path,
    setting: FilmSetting,
    sampling: Sampling,
    *,
    rows: pd.DataFrame,
    speed: dict,
    frames: np.ndarray,
    plan: FilmPlan,
    accuracy: dict,
) -> Image.Image:
    """Write rows, setting, speed, and the first film with its storyboard."""
    info = {
        "model": setting.model,
        "policy": label_of(setting.policy),
        "budget": setting.budget,
        "seed": setting.seed,
        "steps": sampling.steps,
        "guidance": sampling.guidance,
    }
    save_rows(rows.assign(**info), folder / "rows.parquet")
    write_json(
        folder / "cell.json",
        {
            "setting": to_dict(setting),
            "sampling": to_dict(sampling),
            "speed": speed,
            "recogniser": accuracy,
            "metrics": METRICS.about(),
        },
    )
    shots = listed(plan)
    write_mp4(folder / "film.mp4", frames, world_of(plan).fps, PLAYER_SCALE)
    shots.save(folder / "film.shots.json")
    chosen = np.unique(
        np.linspace(0, len(plan.shots) - 1, min(STILLS, len(plan.shots))).round().astype(int)
    )
    board = storyboard(
        frames,
        [shots.spans[i] for i in chosen],
        [f"shot {i + 1}: {plan.shots[i].caption}" for i in chosen],
    )
    save_png(board, folder / "storyboard.png")
    return board


def film_summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Metric -> value with its interval, chance and upper bound; films are the independent
    units."""
    found = []
    for metric, part in with_prompt(labelled(rows)).groupby("metric", sort=False):
        made = part[part.source == "model"]
        mean = part.groupby("source").value.mean()
        if made.empty:
            continue
        e = bootstrap(made.value.tolist(), groups=made["clip"].tolist())
        found.append(
            {
                "metric": metric,
                "value": e.value,
                "low": e.low,
                "high": e.high,
                "n": e.n,
                "chance": mean.get("chance"),
                "upper": mean.get("truth"),
            }
        )
    return pd.DataFrame(found).round(4)
