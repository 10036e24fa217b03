"""Metrics of a user's own: registered once, measured wherever ours are.

    @register.metric("brightness", better="high", unit="grey levels", range=(0, 255))
    def brightness(frames, shots): ...

`frames` is uint8 (B, F, H, W, 3): B films (one, where films differ in length). `shots` holds a
tuple of `ListedShot` for every film: first frame, end, prompt and, in the toybox, the `attributes`
that are to be seen; a metric of the pictures alone may leave it out. The answer is one value a
film, or for every film a list with one value a shot; NaN = not measured here.

Cards, cells of films and memory, scores of films and `cinelab eval videos` measure every registered
metric. What is known of it (direction, unit, range) goes into the files, so that a report needs no
code.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from cinelab.errors import CinelabError
from cinelab.metrics.rows import Row, absent
from cinelab.registry import Registry, path_of
from cinelab.script.shotlist import ListedShot, ShotList
from cinelab.stream.reader import DecodedVideo
from cinelab.world import casting, render

WHOLE = -1  # the shot number of a value of the whole film
DIRECTIONS = ("high", "low", None)
Shots = Sequence[Sequence[ListedShot]]


@dataclass(frozen=True)
class Metric:
    """A registered metric. `better` is "high", "low" or None (neither, as for a drift that should
    be 0)."""

    name: str
    measure: Callable
    better: str | None = "high"
    unit: str = ""
    range: tuple[float, float] | None = None

    def __post_init__(self):
        if self.better not in DIRECTIONS:
            raise CinelabError(
                f"Metric {self.name!r}: better is {self.better!r}; give 'high', 'low' or None."
            )
        if self.range is not None and not (len(self.range) == 2 and self.range[0] < self.range[1]):
            raise CinelabError(
                f"Metric {self.name!r}: range is {self.range!r}; give the least and the most, "
                "like (0, 1)."
            )

    def about(self) -> dict:
        """What files say of it."""
        return {
            "better": self.better,
            "unit": self.unit,
            "range": list(self.range) if self.range else None,
        }


class Metrics(Registry):
    """The registry of metrics; `add` takes what is to be known of one."""

    def add(self, name: str, thing: Any = None, **about: Any) -> Any:
        """See `Registry.add`. Further: better ("high", "low" or None), unit, range (least,
        most)."""
        if thing is None:
            return lambda thing: self.add(name, thing, **about)
        self._check(name, thing)
        try:
            self._things[name] = Metric(name, thing, **about)
        except TypeError as error:
            raise CinelabError(
                f"Metric {name!r}: {error}; a metric has better, unit and range."
            ) from error
        return thing

    def origin(self, thing: Any) -> str:
        """The import path of the function that measures."""
        return path_of(thing.measure if isinstance(thing, Metric) else thing)

    def about(self) -> dict[str, dict]:
        """Name -> direction, unit and range of every registered metric."""
        return {name: self.get(name).about() for name in self}


METRICS = Metrics("metric")


def values(metric: Metric, frames: np.ndarray, shots: Shots) -> Iterator[tuple[int, int, float]]:
    """(film, shot, value) of frames uint8 (B, F, H, W, 3); shot is WHOLE for a value of the whole
    film."""
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
        said = " ".join(str(error).split())
        raise CinelabError(
            f"Metric {metric.name!r} fails with {type(error).__name__}: {said}; correct "
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
            for shot, one in enumerate(answer):
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
    if math.isinf(value) or not low <= value <= high:
        raise CinelabError(
            f"Metric {metric.name!r} gives {value:g}, outside its range {low:g} to {high:g}; "
            "correct one of the two."
        )
    yield film, shot, float(value)


def own_rows(frames: np.ndarray, shots: Shots, **more: Any) -> pd.DataFrame:
    """A row (film, shot, metric, value) for whatever a registered metric says of these films."""
    rows = [
        (film, shot, name, value)
        for name in METRICS
        for film, shot, value in values(METRICS.get(name), frames, shots)
    ]
    return pd.DataFrame(rows, columns=["film", "shot", "metric", "value"]).assign(**more)


def compared_rows(
    made: np.ndarray, truth: np.ndarray, plans: Sequence[casting.FilmPlan]
) -> pd.DataFrame:
    """`own_rows` of films of the toybox by source: model, truth, and chance (the truth beside the
    next film's plan)."""
    if not METRICS.names():
        return own_rows(made, []).assign(source="")
    shots = [listed(plan).shots for plan in plans]
    equal = [i for i, one in enumerate(shots) if len(one) == len(shots[0])]
    wrong = [shots[i] for i in [*equal[1:], equal[0]]]
    parts = (
        own_rows(made, shots, source="model"),
        own_rows(truth, shots, source="truth"),
        own_rows(truth[equal], wrong, source="chance"),
    )
    return pd.concat(parts)


def listed(plan: casting.FilmPlan, chunk: int = 1) -> ShotList:
    """A planned film as a shot list with its whole ground truth."""
    line = casting.plan_timeline(plan, render.FPS, render.STRIDE, chunk)
    shots = [
        ListedShot(
            *span,
            shot.caption,
            (f"{shot.attributes['colour']} {shot.attributes['kind']}",),
            (shot.attributes["setting"],),
            dict(shot.attributes),
            not shot.continues,
        )
        for span, shot in zip(line.entry_spans, plan.shots, strict=True)
    ]
    return ShotList(tuple(shots), ShotList.of(line).chunks)


def rehearse() -> None:
    """Ask every registered metric of one short film, so that a mistake in one is said before any
    work is done."""
    if METRICS.names():
        plan = casting.cast_film(0, 0, 6, (3, 3))
        own_rows(render.render(plan).frames[None], [listed(plan).shots])


def clip_rows(
    name: str, frames: np.ndarray | DecodedVideo, shots: Sequence[ListedShot]
) -> list[Row]:
    """Rows of one clip (F, H, W, 3) for `cinelab eval`; a metric that fails on it is absent, with
    the reason, and so is one for which the film does not fit into memory: a metric is handed all
    frames at once."""
    rows = []
    for metric in map(METRICS.get, METRICS):
        try:
            frames = frames.whole() if isinstance(frames, DecodedVideo) else frames
            found = values(metric, frames[None], [tuple(shots)])
            rows += [
                Row(name, shot + 1, metric.name, value, backend="own", detail=metric.unit)
                for _, shot, value in found
            ]
        except CinelabError as error:
            rows.append(absent(name, metric.name, str(error), "own"))
    return rows


def told(name: str, about: dict[str, dict]) -> str:
    """A metric's unit and direction in a few words; nothing where nothing is known."""
    known = about.get(name, {})
    better = {"high": "more is better", "low": "less is better"}.get(known.get("better"))
    return ", ".join(filter(None, (known.get("unit"), better)))
