"""Measuring what is registered: every metric that is a function of frames and shots, as rows.

Cards, cells of sweeps, films, validation and `cinelab eval videos` call these functions, so that a
metric that is registered once (see `cinelab.metrics.metric`) is measured in all of them.
"""

import inspect
import math
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any

import numpy as np

from cinelab.errors import CinelabError
from cinelab.metrics.metric import METRICS, OWN, Metric
from cinelab.metrics.rows import WHOLE, Row, absent, clip_of
from cinelab.registry import path_of
from cinelab.script.shotlist import ListedShot, ShotList
from cinelab.stream.decoded_video import DecodedVideo
from cinelab.world.plans import FilmPlan
from cinelab.world.worlds import World, called, world_of

Shots = Sequence[Sequence[ListedShot]]


def values(metric: Metric, frames: np.ndarray, shots: Shots) -> Iterator[tuple[int, int, float]]:
    """(film from 0, shot from 1, value) of frames uint8 (B, F, H, W, 3); the shot is WHOLE for a
    value of the whole film."""
    if metric.measure is None:
        raise CinelabError(f"Metric {metric.name!r} has no function of frames; measure a card.")
    takes = [
        one
        for one in inspect.signature(metric.measure).parameters.values()
        if one.default is one.empty
    ]
    try:
        found = metric.measure(*(frames, shots)[: max(1, len(takes))])
    except CinelabError:
        raise
    except Exception as error:
        message = " ".join(str(error).split())
        raise CinelabError(
            f"Metric {metric.name!r} fails with {type(error).__name__}: {message}; correct "
            f"{path_of(metric.measure)}."
        ) from error
    for film, answer in enumerate(_answers(metric, found, len(frames))):
        if np.ndim(answer) == 0:
            yield from _value(metric, film, WHOLE, answer)
        elif len(answer) != len(shots[film]):
            raise CinelabError(
                f"Metric {metric.name!r} gives {len(answer)} values for a film of "
                f"{len(shots[film])} shots; "
                "return one value a film, or one a shot."
            )
        else:
            for shot, one in enumerate(answer, 1):
                yield from _value(metric, film, shot, one)


def _answers(metric: Metric, found: Any, films: int) -> list:
    if hasattr(found, "detach"):
        found = found.detach().cpu().numpy()
    found = [found] if np.isscalar(found) and films == 1 else found
    if not isinstance(found, (list, tuple, np.ndarray)) or len(found) != films:
        size = (
            f"{len(found)} answers"
            if isinstance(found, (list, tuple, np.ndarray))
            else f"{type(found).__name__}"
        )
        raise CinelabError(
            f"Metric {metric.name!r} gives {size} for {films} films; return a list with one "
            "answer a film."
        )
    return list(found)


def _value(metric: Metric, film: int, shot: int, value: Any) -> Iterator[tuple[int, int, float]]:
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, Real):
        raise CinelabError(
            f"Metric {metric.name!r} gives {value!r:.60} for film {film}; return numbers."
        )
    if math.isnan(value):
        return
    low, high = metric.range or (-math.inf, math.inf)
    value = float(value)
    if math.isinf(value) or not low <= value <= high:
        raise CinelabError(
            f"Metric {metric.name!r} gives {value:g}, outside its range {low:g} to {high:g}; "
            "correct one of the two."
        )
    yield film, shot, value


def registered_rows(frames: np.ndarray, shots: Shots, **more: Any) -> list[Row]:
    """Rows of every registered function for B films (B, F, H, W, 3); `more` are further fields of
    `Row`."""
    return [
        Row(clip_of(film), shot, metric.name, value, backend=OWN, **more)
        for metric in METRICS.measured()
        for film, shot, value in values(metric, frames, shots)
    ]


def compared_rows(made: np.ndarray, truth: np.ndarray, plans: Sequence[FilmPlan]) -> list[Row]:
    """`registered_rows` of films of the toybox by source: model, truth, and chance (the truth
    beside the next film's plan)."""
    if not METRICS.measured():
        return []
    shots = [listed(plan).shots for plan in plans]
    equal = [i for i, one in enumerate(shots) if len(one) == len(shots[0])]
    wrong = [shots[i] for i in [*equal[1:], equal[0]]]
    return [
        *registered_rows(made, shots),
        *registered_rows(truth, shots, source="truth"),
        *registered_rows(truth[equal], wrong, source="chance"),
    ]


def listed(plan: FilmPlan, chunk: int = 1) -> ShotList:
    """A planned film as a shot list with its whole ground truth."""
    world = world_of(plan)
    line = world.timeline(plan, chunk)
    shots = [
        ListedShot(
            *span,
            shot.caption,
            (called(shot.attributes, world.who),),
            (called(shot.attributes, world.where),),
            dict(shot.attributes),
            not shot.continues,
        )
        for span, shot in zip(line.entry_spans, plan.shots, strict=True)
    ]
    return ShotList(tuple(shots), ShotList.of(line).chunks, world=plan.world)


def try_registered(world: World) -> None:
    """Measure one short film by every registered function, so that a mistake in one is reported
    before any work is done."""
    if METRICS.measured():
        plan = world.cast_film(0, 0, 6, shot_latents=(3, 3))
        registered_rows(world.render(plan).frames[None], [listed(plan).shots])


def registered_clip_rows(
    name: str, frames: np.ndarray | DecodedVideo, shots: Sequence[ListedShot]
) -> list[Row]:
    """Rows of one clip (F, H, W, 3). A metric that fails on it is absent, with the reason, and so
    is one for which the film does not fit into memory: a metric is given all frames at once."""
    rows: list[Row] = []
    for metric in METRICS.measured():
        try:
            frames = frames.whole() if isinstance(frames, DecodedVideo) else frames
            found = values(metric, frames[None], [tuple(shots)])
            rows += [
                Row(name, shot, metric.name, value, backend=OWN, detail=metric.unit)
                for _, shot, value in found
            ]
        except CinelabError as error:
            rows.append(absent(name, metric.name, str(error), OWN))
    return rows
