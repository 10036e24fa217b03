"""What a metric is, and the one list of them: `METRICS`.

    @register.metric("brightness", better="high", unit="grey levels", range=(0, 255))
    def brightness(frames, shots): ...

A metric states its name, direction, unit, range and protocols once; the built-in ones stand in
`cinelab.metrics.catalogue`, a user's own join them by the decorator. Whatever is registered with a
function is measured wherever the built-in ones are: cards, cells of sweeps, films, validation and
`cinelab eval videos` (see `cinelab.metrics.registered`).

`frames` is uint8 (B, F, H, W, 3): B films (one, where films differ in length). `shots` holds a
tuple of `ListedShot` for every film: first frame, end, prompt and, in the toybox, the `attributes`
that are to be seen; a metric of the pixels alone may leave it out. The answer is one value a film,
or for every film a list with one value a shot; NaN = not measured here.

A table for reading names a value by its label, "metric (protocol, backend)": `metric_label` makes
it.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cinelab.errors import CinelabError
from cinelab.metrics.catalogue import CATALOGUE, RELATIVE, prompted_metric
from cinelab.registry import Registry, path_of
from cinelab.world.worlds import prompted_names

DIRECTIONS = ("high", "low", None)
VALIDATION = ("", "column", "selects")
OWN = "own"  # the backend of a user's own metric
LABEL = re.compile(r"(?P<metric>.+) \((?P<rest>[^()]+)\)")
DESCRIBED = (
    "name",
    "better",
    "unit",
    "range",
    "protocols",
    "headline",
    "chance",
    "upper",
    "source",
)


@dataclass(frozen=True)
class Metric:
    """One metric. `better` is "high", "low" or None (neither, as for a drift, which should be 0).

    The other fields are explained in `cinelab.metrics.catalogue`; `measure` is the function of a
    metric that needs nothing but frames and shots.
    """

    name: str
    measure: Callable | None = None
    better: str | None = "high"
    unit: str = ""
    range: tuple[float, float] | None = None
    protocols: tuple[str, ...] = ("",)
    headline: bool = False
    compared: bool = False
    validation: str = ""
    backend: str = ""
    chance: str = ""
    upper: str = ""
    source: str = ""

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
        if self.validation not in VALIDATION:
            raise CinelabError(
                f"Metric {self.name!r}: validation is {self.validation!r}; give 'column', "
                "'selects' or ''."
            )

    @property
    def signed(self) -> bool:
        """Values lie on both sides of 0: they are compared by differences, never by ratios."""
        return self.range is not None and self.range[0] < 0

    @property
    def relative(self) -> bool:
        """A value is a share of the truth's, so that 1 is right."""
        return self.unit == RELATIVE

    def about(self) -> dict:
        """What files state of it: direction, unit and range."""
        return {
            "better": self.better,
            "unit": self.unit,
            "range": list(self.range) if self.range else None,
        }


class Metrics(Registry):
    """The one list of metrics, built-in ones first; `add` takes what is to be known of one."""

    def __init__(self, built_in: Mapping[str, Mapping[str, Any]]):
        super().__init__("metric")
        self._things.update({name: Metric(name, **about) for name, about in built_in.items()})

    def add(self, name: str, thing: Any = None, **about: Any) -> Any:
        """See `Registry.add`. Further: better ("high", "low" or None), unit, range (least, most),
        and the other fields of `Metric`."""
        if thing is None:
            return lambda thing: self.add(name, thing, **about)
        self._check(name, thing)
        try:
            self._things[name] = Metric(
                name, thing, **{"validation": "column", "backend": OWN, **about}
            )
        except TypeError as error:
            raise CinelabError(
                f"Metric {name!r}: {error}; a metric has better, unit and range."
            ) from error
        return thing

    def origin(self, thing: Any) -> str:
        """The import path of the function that measures."""
        if isinstance(thing, Metric):
            return path_of(thing.measure) if thing.measure else "cinelab.metrics.catalogue"
        return path_of(thing)

    def measured(self) -> list[Metric]:
        """The metrics that are functions of frames and shots, in the order of registration."""
        return [one for one in map(self.get, self) if one.measure]

    def about(self) -> dict[str, dict]:
        """Name -> direction, unit and range of what is measured by a registered function."""
        return {one.name: one.about() for one in self.measured()}

    def of(self, label: str, about: Mapping[str, Mapping] | None = None) -> Metric:
        """The metric of a label. One that is not registered here is described by `about`, what a
        file states of its metrics; without that nothing is known but the name."""
        for name in (label, metric_of(label)):
            if name in self._things:
                return self._things[name]
            if name in prompted_names():
                return Metric(name, **prompted_metric())
            if about and name in about:
                known = about[name]
                return Metric(name, None, known.get("better"), known.get("unit") or "")
        return Metric(metric_of(label))

    def ordered(self, labels: Iterable[str]) -> list[str]:
        """Labels in the order of the list and, within a metric, of its protocols; those of metrics
        that are not listed follow as they come."""
        labels = list(dict.fromkeys(labels))
        names = list(self._things)
        place = {label: self._place(label, names, len(labels)) for label in labels}
        return sorted(labels, key=place.__getitem__)

    def _place(self, label: str, names: list[str], last: int) -> tuple:
        one = self.of(label)
        if one.name not in self._things:
            return (len(names), 0, "")
        rest = label.removeprefix(one.name).strip(" ()")
        known = rest in one.protocols
        return (names.index(one.name), one.protocols.index(rest) if known else last, rest)

    def headlines(self, labels: Iterable[str], *, compared: bool = False) -> list[str]:
        """Those of `labels` that reports show unless others are named, in order; with `compared`
        also those that only comparisons of cards show."""

        def wanted(one: Metric) -> bool:
            return one.headline or (compared and one.compared)

        return self.ordered(label for label in labels if wanted(self.of(label)))

    def validated(self, *, selects: bool = False) -> list[Metric]:
        """The metrics that a validation during training logs, or only those that select."""
        wanted = ("selects",) if selects else ("column", "selects")
        return [one for one in map(self.get, self) if one.validation in wanted]

    def table(self) -> pd.DataFrame:
        """The list for reading: a row a metric, with everything that it states."""
        rows = [[getattr(one, name) for name in DESCRIBED] for one in map(self.get, self)]
        return pd.DataFrame(rows, columns=list(DESCRIBED))


METRICS = Metrics(CATALOGUE)


def metric_label(metric: str, protocol: str = "", backend: str = "") -> str:
    """What a value is called in tables: "identity (kept)", "identity (across_shots, dino)".

    The backend is named only where it is not the metric's own.
    """
    own = (METRICS.of(metric).backend, OWN, "pixels", "")
    rest = ", ".join(filter(None, (protocol, "" if backend in own else backend)))
    return f"{metric} ({rest})" if rest else metric


def metric_of(label: str) -> str:
    """The metric's name in a label."""
    match = LABEL.fullmatch(label)
    return match["metric"] if match else label


def labelled(rows: pd.DataFrame) -> pd.DataFrame:
    """A table of rows whose column `metric` holds labels: what analyses group by."""
    blank = pd.Series("", index=rows.index)
    parts = [rows["metric"], *(rows.get(name, blank) for name in ("protocol", "backend"))]
    keys = list(zip(*(part.astype(str) for part in parts), strict=True))
    names = {key: metric_label(*key) for key in set(keys)}
    found = rows.assign(metric=[names[key] for key in keys])
    return found.drop(columns=[name for name in ("protocol", "backend") if name in found])


def unit_and_direction(label: str, about: Mapping[str, Mapping] | None = None) -> str:
    """A metric's unit and direction in a few words; nothing where nothing is known."""
    one = METRICS.of(label, about)
    if one.measure or (about and one.name in about):
        better = {"high": "more is better", "low": "less is better"}.get(one.better or "")
        return ", ".join(filter(None, (one.unit, better)))
    low, high = one.range or (0, 1)
    return one.unit or f"mean, {low:g} to {high:g}"
