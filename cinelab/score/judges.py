"""What a clip shows and keeps: prompt alignment and consistency within and across shots, by whichever backends are here.

`toybox` reads attributes with the shipped recogniser (exact words, exact looks); `colour` compares colours, `clip` and `dino`
compare network features. Across shots only those are compared that share a character or a place; what strangers score
stands beside it, since two shots of one film resemble each other anyway.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import groupby

import cv2
import numpy as np

from cinelab.errors import CinelabError
from cinelab.score.features import Features, load_features, missing
from cinelab.score.film import asked_rows
from cinelab.score.footage import Clip, returns, speaks_toybox, strangers
from cinelab.score.recogniser import Recogniser, load_recogniser, windows
from cinelab.score.rows import Row, absent
from cinelab.score.shots import TAIL
from cinelab.world.vocab import IDENTITY, PROMPTED, SCENERY, read

KNOWN = ("toybox", "colour", "clip", "dino")
KINDS = {"identity": "characters", "scenery": "places"}
LOOKS = {"identity": IDENTITY, "scenery": SCENERY}
NO_PLAN = "no shot list: put <video>.shots.json beside the video, with prompt, characters and places of every shot"


@cache
def _recogniser() -> Recogniser:
    return load_recogniser()


@cache
def _features(name: str) -> Features:
    return load_features(name)


def check_backends(names: Sequence[str]) -> None:
    if unknown := [name for name in names if name not in KNOWN]:
        raise CinelabError(f"Backend {unknown[0]!r} is unknown; use some of {', '.join(KNOWN)}.")


def judge_rows(clip: Clip, backends: Sequence[str]) -> Iterator[Row]:
    """Rows of every backend; one that is not here is reported as absent with what to fetch."""
    check_backends(backends)
    for name in backends:
        if name == "toybox":
            yield from toybox_rows(clip)
        elif name != "colour" and (gap := missing(name)):
            yield from (absent(clip.name, metric, gap, name) for metric in ("consistency in shot", "identity across shots",
                                                                            "scenery across shots"))
            yield from [absent(clip.name, "text alignment", gap, name)] if name == "clip" else []
        else:
            yield from feature_rows(clip, _features(name))


def feature_rows(clip: Clip, features: Features) -> Iterator[Row]:
    """Rows of one feature backend. Text alignment only where it knows words."""
    looks = features.images(clip.frames)  # (F, D) unit vectors
    for number, shot in enumerate(clip.shots, 1):
        inside = looks[shot.start : shot.end]
        if len(inside) < 2:
            yield absent(clip.name, "consistency in shot", "needs at least 2 frames", features.name, number)
            continue
        yield _row(clip, number, "consistency in shot", steadiness(inside), features)
    if features.texts:
        yield from text_rows(clip, looks, features)
    means = np.stack([_unit(looks[shot.start : shot.end].mean(0)) for shot in clip.shots])
    yield from across_rows(clip, features.name, features.version, lambda late, early, what: float(means[late] @ means[early]))


def steadiness(looks: np.ndarray) -> float:
    """Mean cosine of each frame (F, D) to the one before and to the first, half each: VBench's measure of consistency."""
    before = (looks[1:] * looks[:-1]).sum(1)
    first = looks[1:] @ looks[0]
    return float(((before.clip(0) + first.clip(0)) / 2).mean())


def text_rows(clip: Clip, looks: np.ndarray, features: Features) -> Iterator[Row]:
    """Mean cosine of a shot's frames with its own prompt, and how it drifts."""
    metric = "text alignment"
    if not any(shot.prompt for shot in clip.shots):
        yield absent(clip.name, metric, NO_PLAN, features.name)
        return
    scores = {}
    for number, shot in enumerate(clip.shots, 1):
        if shot.prompt:
            scores[number] = float((looks[shot.start : shot.end] @ features.texts([shot.prompt])[0]).mean())
            yield _row(clip, number, metric, scores[number], features)
    yield from _drift(clip, scores, features.name)


def toybox_rows(clip: Clip) -> Iterator[Row]:
    """Exact answers in the toybox's own words: shares of the prompted attributes shown, and of the looks kept."""
    if problem := _not_toybox(clip):
        yield from (absent(clip.name, metric, problem, "toybox") for metric in
                    ("text alignment", "identity across shots", "scenery across shots"))
        return
    seen, scores = _read_shots(clip), {}
    for number, hits in groupby(asked_rows(seen, _asked(clip)), key=lambda hit: hit[0]):
        rows = [Row(clip.name, number, metric, value, backend="toybox", detail=detail) for _, metric, value, detail in hits]
        scores[number] = float(np.mean([row.value for row in rows]))
        yield from rows
        yield Row(clip.name, number, "text alignment", scores[number], backend="toybox")
    yield from _drift(clip, scores, "toybox")
    yield from recall_rows(clip, seen)
    yield from across_rows(clip, "toybox", "", lambda late, early, what: float(
        np.mean([seen[late][name] == seen[early][name] for name in LOOKS[what]])))


def _asked(clip: Clip) -> list[dict[str, str]]:
    """What every shot was to show of what a prompt can name; nothing of those that were given."""
    return [{} if shot.end <= clip.planned.given else
            {name: value for name, value in shot.shows.items() if name in PROMPTED} or read(shot.prompt) for shot in clip.shots]


def recall_rows(clip: Clip, seen: list[dict[str, str]]) -> Iterator[Row]:
    """After a given history: do a character and a place that were in it look as they truly do, which no prompt tells?"""
    for what, field in KINDS.items():
        for late, early, name in returns(clip.shots, field):
            truth = {key: clip.shots[late].shows[key] for key in LOOKS[what] if key in clip.shots[late].shows}
            if truth and clip.shots[early].end <= clip.planned.given < clip.shots[late].end:
                value = float(np.mean([seen[late][key] == wanted for key, wanted in truth.items()]))
                shown = ", ".join(f"{key} {seen[late][key]} ({wanted})" for key, wanted in truth.items())
                yield Row(clip.name, late + 1, f"{what} recalled", value, backend="toybox", detail=f"{name}: {shown}")


def _not_toybox(clip: Clip) -> str:
    if clip.planned is None:
        return NO_PLAN
    if not all(speaks_toybox(shot.prompt) for shot in clip.shots):
        return "a prompt is not in the toybox's words; use clip instead"
    height, width = clip.frames.shape[1:3]
    wanted = _recogniser().config.size
    if height * wanted[1] != width * wanted[0] or height < wanted[0]:
        return f"the picture is {width}x{height}; the recogniser reads {wanted[1]}x{wanted[0]} or a larger one of that shape"
    return ""


def _read_shots(clip: Clip) -> list[dict[str, str]]:
    """What the recogniser sees in every shot; a film that was enlarged for the eye is brought back to its own size."""
    height, width = _recogniser().config.size
    small = clip.frames
    if small.shape[1:3] != (height, width):
        small = np.stack([cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in small])
    return _recogniser().names(windows(small, [shot.span for shot in clip.shots]))


def across_rows(clip: Clip, backend: str, version: str, compare: Callable[[int, int, str], float]) -> Iterator[Row]:
    """Every return of a character and a place against its first appearance, and what strangers score."""
    for what, field in KINDS.items():
        metric = f"{what} across shots"
        found = list(returns(clip.shots, field))
        for late, early, name in found:
            yield Row(clip.name, late + 1, metric, compare(late, early, what), backend=backend, version=version,
                      detail=f"{name}: as in shot {early + 1}")
        if not found:
            named = any(getattr(shot, field) for shot in clip.shots)
            yield absent(clip.name, metric, f"none of the {field} comes back after a cut" if named else NO_PLAN, backend)
        others = [compare(late, early, what) for late, early in strangers(clip.shots, field)]
        if others:
            yield Row(clip.name, 0, f"{metric}, strangers", float(np.mean(others)), backend=backend, version=version,
                      detail=f"mean of {len(others)} pairs that share none")


def _drift(clip: Clip, scores: dict[int, float], backend: str) -> Iterator[Row]:
    """Alignment of the shots in the last 15 % minus that of those in the first."""
    total = len(clip.frames)
    early = [s for number, s in scores.items() if clip.shots[number - 1].start < TAIL * total]
    late = [s for number, s in scores.items() if clip.shots[number - 1].end > (1 - TAIL) * total]
    if len(scores) > 1 and early and late:
        yield Row(clip.name, 0, "drift of text alignment", float(np.mean(late) - np.mean(early)), backend=backend,
                  detail="last against first 15 %")


def _row(clip: Clip, shot: int, metric: str, value: float, features: Features) -> Row:
    return Row(clip.name, shot, metric, value, backend=features.name, version=features.version)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / max(float(np.linalg.norm(x)), 1e-12)
