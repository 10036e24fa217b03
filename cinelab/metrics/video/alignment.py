"""Prompt alignment and consistency of a clip within and across shots, by whichever backends are
here.

`toybox` reads attributes with the shipped recogniser (exact words, exact looks); `colour` compares
colours, `clip` and `dino` compare network features. Across shots only those are compared that share
a character or a place. Two shots of one film resemble each other anyway: the value of shots that
share nobody is the chance level (source "chance").

Consistency in a shot follows VBench's subject consistency (arXiv:2311.17982, section 3), text
alignment its overall consistency with CLIP in place of ViCLIP; consistency across shots follows
HoloCine (arXiv:2510.20822). That both are taken of shared characters and places alone is ours.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import groupby

import cv2
import numpy as np

from cinelab.errors import CinelabError
from cinelab.metrics.rows import WHOLE, Row, absent
from cinelab.metrics.toybox.film import shown_rows
from cinelab.metrics.toybox.recogniser import AT, WINDOW, Recogniser, load_recogniser, places_in
from cinelab.metrics.video.clips import Clip, foreign_words, returns, speaks_toybox, strangers
from cinelab.metrics.video.features import AT_ONCE, Features, load_features, missing
from cinelab.metrics.video.pixels import TAIL
from cinelab.script.shotlist import ListedShot, ShotList
from cinelab.stream.decoded_video import pick
from cinelab.world.worlds import World

KNOWN = ("toybox", "colour", "clip", "dino")
ACROSS = "across_shots"
RECALLED = "recalled"
KINDS = {"identity": "characters", "scenery": "places"}
NO_PLAN = (
    "no shot list: put <video>.shots.json beside the video, with prompt, characters and places of "
    "every shot"
)
NO_PROMPT = "the shot has no prompt: give it one in <video>.shots.json"


@cache
def _recogniser(world: World) -> Recogniser:
    return load_recogniser(world=world)


@cache
def _features(name: str) -> Features:
    return load_features(name)


def check_backends(names: Sequence[str]) -> None:
    if unknown := [name for name in names if name not in KNOWN]:
        raise CinelabError(f"Backend {unknown[0]!r} is unknown; use some of {', '.join(KNOWN)}.")


def alignment_rows(clip: Clip, backends: Sequence[str]) -> Iterator[Row]:
    """Rows of every backend; one that is not here is reported as absent with what to fetch."""
    check_backends(backends)
    for name in backends:
        if name == "toybox":
            yield from toybox_rows(clip)
        elif name != "colour" and (gap := missing(name)):
            yield from _absent(clip, ("consistency in shot", *KINDS), gap, name)
            yield from _absent(clip, ("text alignment",) * (name == "clip"), gap, name)
        else:
            yield from feature_rows(clip, _features(name))


def _absent(clip: Clip, metrics: Iterable[str], why: str, backend: str) -> Iterator[Row]:
    """Absent rows of several metrics; those across shots name their protocol."""
    for metric in metrics:
        protocol = ACROSS if metric in KINDS else ""
        yield absent(clip.name, metric, why, backend, protocol=protocol)


class Looks:
    """The looks (unit vectors) of one shot's frames as they come, in blocks (n, D): their mean, and
    how steady they are."""

    def __init__(self):
        self.count = 0
        self._total: np.ndarray = np.zeros(())
        self._first: np.ndarray | None = None
        self._last: np.ndarray | None = None
        self._likeness = 0.0

    def add(self, looks: np.ndarray) -> None:
        if self._first is None or self._last is None:
            self._first = looks[0]
            self._last = looks[0]
            self._total = looks[0].astype(np.float64)
            self.count = 1
            looks = looks[1:]
        if not len(looks):
            return
        before = (looks * np.concatenate([self._last[None], looks[:-1]])).sum(1)
        self._likeness += float((before.clip(0) + (looks @ self._first).clip(0)).sum()) / 2
        self._total = self._total + looks.sum(0, dtype=np.float64)
        self._last = looks[-1]
        self.count += len(looks)

    @property
    def mean(self) -> np.ndarray:
        return self._total / self.count

    @property
    def steadiness(self) -> float:
        """Mean cosine of each frame to the one before and to the first, half each: VBench's measure
        of consistency."""
        return self._likeness / (self.count - 1)


def feature_rows(clip: Clip, features: Features) -> Iterator[Row]:
    """Rows of one feature backend. Text alignment only where it knows words."""
    shots = [_looks_of(frames, features) for _, _, frames in clip.parts()]
    for number, shot in enumerate(shots, 1):
        if shot.count < 2:
            yield absent(
                clip.name, "consistency in shot", "needs at least 2 frames", features.name, number
            )
            continue
        yield _row(clip, number, "consistency in shot", value=shot.steadiness, features=features)
    if features.texts:
        yield from text_rows(clip, [shot.mean for shot in shots], features)
    means = np.stack([_unit(shot.mean) for shot in shots])
    yield from across_rows(
        clip,
        features.name,
        features.version,
        lambda late, early, what: float(means[late] @ means[early]),
    )


def _looks_of(frames: Iterable[np.ndarray], features: Features) -> Looks:
    """The looks of one shot's frames, `AT_ONCE` of them computed together."""
    found = Looks()
    block = []
    for frame in frames:
        block.append(frame)
        if len(block) == AT_ONCE:
            found.add(features.images(np.stack(block)))
            block = []
    if block:
        found.add(features.images(np.stack(block)))
    return found


def steadiness(looks: np.ndarray) -> float:
    """Mean cosine of each frame (F, D) to the one before and to the first, half each: VBench's
    measure of consistency."""
    found = Looks()
    found.add(looks)
    return found.steadiness


def text_rows(clip: Clip, means: Sequence[np.ndarray], features: Features) -> Iterator[Row]:
    """Mean cosine of a shot's frames (from their mean look (D,)) with its own prompt, and how it
    drifts."""
    metric = "text alignment"
    if features.texts is None:
        return
    if not any(shot.prompt for shot in clip.shots):
        yield absent(clip.name, metric, NO_PLAN, features.name)
        return
    values: dict[int, float] = {}
    for number, (shot, mean) in enumerate(zip(clip.shots, means, strict=True), 1):
        if not shot.prompt:
            yield absent(clip.name, metric, NO_PROMPT, features.name, number)
            continue
        values[number] = float(mean @ features.texts([shot.prompt])[0])
        yield _row(clip, number, metric, value=values[number], features=features)
    yield from _drift(clip, values, features.name)


def toybox_rows(clip: Clip) -> Iterator[Row]:
    """Exact answers in the toybox's own words: shares of the prompted attributes shown, and of the
    looks kept.

    A shot whose prompt has other words is absent, with the reason; the others are measured.
    """
    if problem := _not_toybox(clip):
        yield from _absent(clip, ("text alignment", *KINDS), problem, "toybox")
        return
    foreign = _foreign(clip)
    yield from (
        absent(clip.name, "text alignment", why, "toybox", number)
        for number, why in foreign.items()
    )
    known = _without(clip, foreign)
    seen = _read_shots(clip)
    values: dict[int, float] = {}
    for number, hits in groupby(
        shown_rows(seen, _wanted(known), clip.name), key=lambda row: row.shot
    ):
        rows = list(hits)
        values[number] = float(np.mean([row.value for row in rows]))
        yield from rows
        yield Row(clip.name, number, "text alignment", values[number], backend="toybox")
    yield from _drift(clip, values, "toybox")
    yield from recalled_rows(known, seen)
    yield from across_rows(
        known,
        "toybox",
        "",
        lambda late, early, what: float(
            np.mean([seen[late][name] == seen[early][name] for name in clip.world.looks[what]])
        ),
    )


def _foreign(clip: Clip) -> dict[int, str]:
    """Number of a shot whose words are not the toybox's -> why it is not read. What a plan states
    beyond the prompt is read in its own words."""
    found = {}
    for number, shot in enumerate(clip.shots, 1):
        if _shows(shot, clip.world) or shot.end <= _given(clip):
            continue
        if not speaks_toybox(shot.prompt, clip.world):
            words = ", ".join(map(repr, foreign_words(shot.prompt, clip.world)))
            found[number] = (
                f"the prompt says {words}, no word of the toybox; use clip instead"
                if words
                else NO_PROMPT
            )
    return found


def _given(clip: Clip) -> int:
    """The first frame that was to be made: what lies before it was given."""
    return clip.planned.given if clip.planned else 0


def _without(clip: Clip, numbers: Container[int]) -> Clip:
    """The clip with no prompt and no cast in some shots."""
    shots = tuple(
        ListedShot(shot.start, shot.end, cut=shot.cut) if number in numbers else shot
        for number, shot in enumerate(clip.shots, 1)
    )
    planned = replace(clip.planned or ShotList(shots), shots=shots)
    return replace(clip, planned=planned)


def _shows(shot: ListedShot, world: World) -> dict[str, str]:
    """What a plan states of a shot beyond its prompt, of what a prompt can name."""
    return {name: value for name, value in shot.shows.items() if name in world.prompted}


def _wanted(clip: Clip) -> list[dict[str, str]]:
    """What every shot was to show of what a prompt can name; nothing of those that were given."""
    return [
        {}
        if shot.end <= _given(clip)
        else _shows(shot, clip.world) or clip.world.read_prompt(shot.prompt)
        for shot in clip.shots
    ]


def recalled_rows(clip: Clip, seen: list[dict[str, str]]) -> Iterator[Row]:
    """After a given history: do a character and a place that were in it look as they truly do,
    which no prompt names?"""
    for what, field in KINDS.items():
        for late, early, name in returns(clip.shots, field):
            truth = {
                key: clip.shots[late].shows[key]
                for key in clip.world.looks[what]
                if key in clip.shots[late].shows
            }
            if truth and clip.shots[early].end <= _given(clip) < clip.shots[late].end:
                value = float(np.mean([seen[late][key] == wanted for key, wanted in truth.items()]))
                shown = ", ".join(
                    f"{key} {seen[late][key]} ({wanted})" for key, wanted in truth.items()
                )
                yield Row(
                    clip.name,
                    late + 1,
                    what,
                    value,
                    backend="toybox",
                    protocol=RECALLED,
                    detail=f"{name}: {shown}",
                )


def _not_toybox(clip: Clip) -> str:
    if clip.planned is None:
        return NO_PLAN
    try:
        size = clip.world.size
    except CinelabError as error:
        return str(error)
    if len(foreign := _foreign(clip)) == len(clip.shots):
        return (
            next(iter(foreign.values()))
            if len(set(foreign.values())) == 1
            else ("no prompt is in the toybox's words; use clip instead")
        )
    height, width = clip.frames.shape[1:3]
    if height * size[1] != width * size[0] or height < size[0]:
        return (
            f"the frames are {width}x{height}; the recogniser reads {size[1]}x{size[0]} or "
            "larger ones of that shape"
        )
    return ""


def _read_shots(clip: Clip) -> list[dict[str, str]]:
    """What the recogniser sees in every shot; a film that was enlarged for viewing is brought back
    to its own size."""
    reader = _recogniser(clip.world)
    height, width = reader.config.size
    # (shots, WINDOW)
    places = np.stack(
        [places_in(shot.span, len(clip.frames), WINDOW, AT["last"]) for shot in clip.shots]
    )
    small = {
        number: frame
        if frame.shape[:2] == (height, width)
        else cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
        for number, frame in pick(clip.frames, places.ravel())
    }
    return reader.names(
        np.stack([np.stack([small[number] for number in window]) for window in places])
    )


def across_rows(
    clip: Clip, backend: str, version: str, compare: Callable[[int, int, str], float]
) -> Iterator[Row]:
    """Every return of a character and a place against its first appearance, and the chance level,
    which is that of shots that share nobody."""
    for what, field in KINDS.items():
        found = list(returns(clip.shots, field))
        for late, early, name in found:
            yield Row(
                clip.name,
                late + 1,
                what,
                compare(late, early, what),
                detail=f"{name}: as in shot {early + 1}",
                backend=backend,
                version=version,
                protocol=ACROSS,
            )
        if not found:
            named = any(getattr(shot, field) for shot in clip.shots)
            why = f"none of the {field} comes back after a cut" if named else NO_PLAN
            yield absent(clip.name, what, why, backend, protocol=ACROSS)
        others = [compare(late, early, what) for late, early in strangers(clip.shots, field)]
        if others:
            detail = f"mean of {len(others)} pairs that share none"
            value = float(np.mean(others))
            yield Row(
                clip.name,
                WHOLE,
                what,
                value,
                source="chance",
                detail=detail,
                backend=backend,
                version=version,
                protocol=ACROSS,
            )


def _drift(clip: Clip, values: dict[int, float], backend: str) -> Iterator[Row]:
    """Alignment of the shots in the last 15 % minus that of those in the first."""
    total = len(clip.frames)
    early = [s for number, s in values.items() if clip.shots[number - 1].start < TAIL * total]
    late = [s for number, s in values.items() if clip.shots[number - 1].end > (1 - TAIL) * total]
    if len(values) > 1 and early and late:
        yield Row(
            clip.name,
            0,
            "drift of text alignment",
            float(np.mean(late) - np.mean(early)),
            backend=backend,
            detail="last against first 15 %",
        )


def _row(clip: Clip, shot: int, metric: str, *, value: float, features: Features) -> Row:
    return Row(clip.name, shot, metric, value, backend=features.name, version=features.version)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / max(float(np.linalg.norm(x)), 1e-12)
