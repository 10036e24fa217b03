"""Measures of one clip that need pixels only: cuts, motion, flicker, seams between chunks, drift,
speed. Any video.

Everything that a hard cut would distort is measured inside shots. Frames are read one after
another, uint8 (H, W, 3). Dynamic degree and temporal flickering follow VBench (arXiv:2311.17982,
section 3), drift Helios-Bench, and the discontinuity at chunks Forcing-KV; both with optical flow
or frame differences that need no weights.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pandas as pd

from cinelab.metrics.rows import WHOLE, Row, absent
from cinelab.metrics.video.appearance import contrast, saturation, sharpness
from cinelab.metrics.video.clips import Clip
from cinelab.metrics.video.cut_timing import floors, shot_cut_accuracy
from cinelab.metrics.video.cuts import frame_difference, match_cuts
from cinelab.metrics.video.held_shot import held_rows
from cinelab.stream.decoded_video import pick

TAIL = 0.15  # share of a film at either end that drift compares, as Helios-Bench does
LOOKED = 16  # frames at either end that are looked at
FLOW_ROWS = 128  # larger frames are shrunk to about this height before flow is computed
# share of the pixels, the fastest ones, that dynamic degree is the mean of, as VBench does
BUSY = 0.05
ACCURACY = "cut accuracy"
TIMING = "SCA"
ONE_FRAME = "needs at least 2 frames"

LOOKS: dict[str, Callable[[np.ndarray], float]] = {
    "brightness": lambda frames: float(frames.mean()),
    "saturation": saturation,
    "contrast": contrast,
    "sharpness": sharpness,
}


def pixel_rows(clip: Clip, tolerance: int = 1) -> Iterator[Row]:
    """Every row that needs no network and no words."""
    yield from cut_rows(clip, tolerance)
    if clip.planned is not None and len(clip.frames) > 1:
        yield from floor_rows(clip.name, clip.planned.cuts, len(clip.frames))
    yield from motion_rows(clip)
    yield from seam_rows(clip)
    yield from drift_rows(clip)
    yield from held_rows(clip)
    yield from file_rows(clip)


def cut_rows(clip: Clip, tolerance: int = 1) -> Iterator[Row]:
    """Planned against seen cuts, by two detectors: accuracy, SCA, F1, missed, spurious."""
    if len(clip.frames) < 2:
        yield absent(clip.name, ACCURACY, ONE_FRAME, "frame difference")
        return
    found = {"frame difference": clip.seen_cuts, "PySceneDetect": clip.seen.scenes}
    for backend, cuts in found.items():
        seen = f"found {cuts}"
        yield Row(clip.name, 0, "cuts seen", float(len(cuts)), backend=backend, detail=seen)
        if clip.planned is None:
            yield absent(
                clip.name,
                ACCURACY,
                "no shot list: put <video>.shots.json beside the video",
                backend,
            )
            continue
        match = match_cuts(clip.planned.cuts, cuts, tolerance)
        detail = f"planned {clip.planned.cuts}, {seen}, tolerance {tolerance}"
        values = {
            ACCURACY: match.accuracy,
            TIMING: shot_cut_accuracy(clip.planned.cuts, cuts, len(clip.frames)),
            "cut F1": match.f1,
            "missed cuts": match.missed,
            "spurious cuts": match.spurious,
        }
        for metric, value in values.items():
            yield Row(clip.name, 0, metric, float(value), backend=backend, detail=detail)


def accuracy_rows(clip: Clip) -> list[Row]:
    """The rows of `cut_rows` that state how accurate the cuts of a clip with a shot list are."""
    return [row for row in cut_rows(clip) if row.metric in (ACCURACY, TIMING)]


def floor_rows(clip: str, cuts: Sequence[int], frames: int) -> list[Row]:
    """Rows of what SCA comes to without listening, by protocol, and of the higher one as chance."""
    found = floors(cuts, frames)
    backend = "frame difference"
    return [
        *(Row(clip, WHOLE, TIMING, x, protocol=name, backend=backend) for name, x in found.items()),
        Row(clip, WHOLE, TIMING, max(found.values()), source="chance", backend=backend),
    ]


def motion_rows(clip: Clip) -> Iterator[Row]:
    """Per shot: dynamic degree and temporal flickering."""
    for number, shot, frames in clip.parts():
        if shot.end - shot.start < 2:
            yield absent(clip.name, "dynamic degree", ONE_FRAME, "Farneback", number)
            yield absent(clip.name, "temporal flickering", ONE_FRAME, shot=number)
            continue
        yield Row(
            clip.name,
            number,
            "dynamic degree",
            dynamic_degree(frames, clip.fps),
            backend="Farneback",
            detail="mean of the fastest 5 %, frame heights a second",
        )
        yield Row(
            clip.name,
            number,
            "temporal flickering",
            steady(clip.steps[shot.start : shot.end - 1]),
            detail="1 = steady",
        )


def temporal_flickering(frames: np.ndarray) -> float:
    """1 - mean absolute change of a pixel from frame to frame (of 255): VBench's measure, 1 =
    steady."""
    return steady(frame_difference(frames))


def steady(steps: np.ndarray) -> float:
    return 1 - float(steps.mean())


def dynamic_degree(frames: Iterable[np.ndarray], fps: float) -> float:
    """How fast the fastest 5 % of the pixels move, in frame heights a second, mean over frame
    pairs."""
    speeds = []
    rows = 1
    for one, two in pairwise(cv2.cvtColor(_shrunk(frame), cv2.COLOR_RGB2GRAY) for frame in frames):
        # (h, w, 2) pixels
        flow = np.zeros((*one.shape, 2), np.float32)
        cv2.calcOpticalFlowFarneback(one, two, flow, 0.5, 3, 15, 3, 5, 1.2, 0)
        speed = np.sort(np.linalg.norm(flow, axis=2).ravel())
        speeds.append(speed[-max(1, int(BUSY * len(speed))) :].mean())
        rows = len(one)
    return float(np.mean(speeds)) * fps / rows


def _shrunk(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    if height <= FLOW_ROWS:
        return frame
    return cv2.resize(
        frame, (max(1, round(width * FLOW_ROWS / height)), FLOW_ROWS), interpolation=cv2.INTER_AREA
    )


def seam_rows(clip: Clip) -> Iterator[Row]:
    """Change across the seams between chunks over change elsewhere inside shots: 1 = no seam is
    seen."""
    metric = "chunk discontinuity"
    if clip.planned is None or len(clip.planned.chunks) < 2:
        yield absent(
            clip.name, metric, "the shot list names no `chunks` (first frame of every chunk)"
        )
        return
    steps = clip.steps
    seams = set(clip.planned.chunks)
    cuts = set(clip.planned.cuts)
    at = [steps[i - 1] for i in range(1, len(clip.frames)) if i in seams and i not in cuts]
    off = [steps[i - 1] for i in range(1, len(clip.frames)) if i not in seams and i not in cuts]
    if not at or not off or not np.mean(off):
        yield absent(
            clip.name,
            metric,
            "every frame is a chunk of its own, or nothing moves: there is nothing to compare with",
        )
        return
    yield Row(
        clip.name,
        0,
        metric,
        float(np.mean(at) / np.mean(off)),
        detail=f"{len(at)} seams; 1 = as elsewhere",
    )


def drift_rows(clip: Clip) -> Iterator[Row]:
    """How much the look of the last 15 % differs from that of the first, as a share of the first; 0
    = no drift."""
    count = len(clip.frames)
    part = round(TAIL * count)
    if part < 1:
        yield from (
            absent(clip.name, f"drift of {name}", "needs at least 7 frames") for name in LOOKS
        )
        return
    sparse = -(-part // LOOKED)
    ends = range(0, part, sparse), range(count - part, count, sparse)
    looks = {
        number: [look(frame[None]) for look in LOOKS.values()]
        for number, frame in pick(clip.frames, [*ends[0], *ends[1]])
    }
    early, late = (np.mean([looks[number] for number in end], axis=0) for end in ends)
    for name, before, after in zip(LOOKS, early, late, strict=True):
        yield Row(
            clip.name,
            0,
            f"drift of {name}",
            float((after - before) / max(before, 1e-6)),
            detail="last against first 15 %",
        )


def file_rows(clip: Clip) -> Iterator[Row]:
    """Facts of the file, and how fast it was made where the run recorded that."""
    count, height, width = clip.frames.shape[:3]
    facts = {
        "frames": count,
        "frame rate": clip.fps,
        "seconds": count / clip.fps,
        "height": height,
        "width": width,
    }
    for metric, value in facts.items():
        yield Row(clip.name, 0, metric, float(value), backend="file")
    if clip.timings is None:
        yield absent(
            clip.name,
            "frames per second",
            "no timings.parquet beside film.mp4: only our own runs record it",
            "clock",
        )
        return
    yield from (replace(row, clip=clip.name) for row in speed_rows(clip.timings, count))


def speed_rows(timings: pd.DataFrame, frames: int) -> list[Row]:
    """Frames per second over a whole film of `frames`, and the first one's latency in seconds;
    decoding is included, loading is not."""
    total = timings.drop(columns="chunk").sum(axis=1)
    speed = frames / float(total.sum())
    first = float(total.iloc[0])
    text = "text, model, memory and decode"
    return [
        Row("", WHOLE, "frames per second", speed, backend="clock", detail=text),
        Row(
            "",
            WHOLE,
            "first frame seconds",
            first,
            backend="clock",
            detail="the model is loaded already",
        ),
    ]
