"""Where the figure stands in the frame, over the shots of a film: does it stay in the middle, or
slide to the edge, as CausalCine's ablation of its adversarial head shows (arXiv 2605.12496)?

    framing offset    |x - 1/2| of the figure's centre x, the mean over a shot, in frame widths
    framing drift     how much that grows from one appearance of a character to its next
    at the edge       1 where the mean centre of a shot lies in the outer sixth of either side

In a made film the centre is read by `FigureLocator`, from the colours alone: it is learnt from true
films of the world, whose boxes are known, and knows no place in the frame, so that it has no
preference for the middle. `locating_error` states how far it is from the boxes on films that it has
not seen. A walk and a camera move take the figure from the middle in the true films too: their
value is the bound.

    F frames   H, W their size
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from cinelab.metrics.rows import WHOLE, Row, clip_of
from cinelab.readable import Readable
from cinelab.world.plans import FilmPlan, Rendered
from cinelab.world.worlds import World, world_named, world_of

LEARNT_FROM = 900_000  # seed of the films that a locator is learnt from, used for nothing else
FILMS = 60  # of them, each of LATENTS latent frames
LATENTS = 24
# attributes that decide the colours of a figure and of what is behind it, and the figure's size
FIGURE = ("colour", "time")
BEHIND = ("setting", "time")
SIZE = ("size",)
LEVELS = 12  # of each colour channel
UNSEEN = 0.2  # pixels that a colour is given which was never met
MOST = 4.0  # evidence of a single pixel, a log-likelihood ratio
LEAST = 0.1  # of the usual evidence, with less of which there is no figure
CORE = (0.3, 0.42)  # of a box's width and height: from its centre so far all is figure
MARGIN = 2  # pixels around a box that are neither figure nor behind it
REACH = 0.6  # of a figure's width: what counts on either side of its centre
EDGE = 1 / 3  # from the middle begins the outer sixth
NOWHERE = 0.5  # the offset where no figure is in the frame

Key = tuple[str | None, ...]
Counts = dict[Key, np.ndarray]


def key_of(attributes: Mapping[str, str], names: Sequence[str]) -> Key:
    """Return the values of some attributes; a world may lack one."""
    return tuple(attributes.get(name) for name in names)


def colour_bins(frames: np.ndarray) -> np.ndarray:
    """Return the number (F, H, W) of each pixel's colour among LEVELS cubed, of uint8 RGB."""
    level = frames.astype(np.int64) * LEVELS >> 8
    return (level[..., 0] * LEVELS + level[..., 1]) * LEVELS + level[..., 2]


def entries_of(film: Rendered) -> Iterator[tuple[slice, Mapping[str, str]]]:
    """Yield the frames of each entry of a true film's plan, with its attributes."""
    for span, shot in zip(spans_of(film.plan), film.plan.shots, strict=True):
        yield slice(*span), shot.attributes


def spans_of(plan: FilmPlan) -> Sequence[tuple[int, int]]:
    """Return first frame and end of each entry of a plan."""
    return world_of(plan).timeline(plan).entry_spans


@dataclass(frozen=True)
class FigureLocator(Readable):
    """Finds the figure of a shot by its colours. How likely a colour is on a figure of such a name,
    and behind it in such a place, is counted in true films; a pixel's evidence is the logarithm of
    the ratio, where it speaks for the figure. The centre is the mean of the evidence within the
    window of a figure's width that holds most of it."""

    figure: Counts  # key -> log-likelihood of each colour
    behind: Counts
    width: dict[Key, float]  # of a figure, in frame widths
    usual: dict[Key, float]  # evidence in that window, in pixels a frame height

    @classmethod
    def learnt(cls, films: Iterable[Rendered]) -> "FigureLocator":
        """Return the locator of a world from true films of it."""
        films = list(films)
        figure: Counts = defaultdict(_no_colours)
        behind: Counts = defaultdict(_no_colours)
        widths: dict[Key, list[float]] = defaultdict(list)
        for film in films:
            for frames, attributes in entries_of(film):
                boxes = film.boxes[frames]
                bins = colour_bins(film.frames[frames])
                core, around = box_masks(boxes, bins.shape[1:])
                figure[key_of(attributes, FIGURE)] += _counted(bins[core])
                behind[key_of(attributes, BEHIND)] += _counted(bins[~around])
                wide = (boxes[:, 2] - boxes[:, 0]) / bins.shape[2]
                widths[key_of(attributes, SIZE)] += wide.tolist()
        made = cls(
            {key: _log_likelihood(count) for key, count in figure.items()},
            {key: _log_likelihood(count) for key, count in behind.items()},
            {key: float(np.median(wide)) for key, wide in widths.items()},
            {},
        )
        found: dict[Key, list[float]] = defaultdict(list)
        for film in films[: FILMS // 4]:
            for frames, attributes in entries_of(film):
                mass = made.located(film.frames[frames], attributes).mass
                found[key_of(attributes, SIZE)] += mass.tolist()
        made.usual.update({key: float(np.median(mass)) for key, mass in found.items()})
        return made

    def located(self, frames: np.ndarray, attributes: Mapping[str, str]) -> "Located":
        """Return where the figure of a shot's frames (F, H, W, 3) is, and the evidence for it."""
        on = self.figure.get(key_of(attributes, FIGURE))
        off = self.behind.get(key_of(attributes, BEHIND))
        if on is None or off is None:
            nothing = np.full(len(frames), np.nan)
            return Located(nothing, np.zeros(len(frames)))
        evidence = np.clip(on - off, 0, MOST)[colour_bins(frames)]
        profile = evidence.sum(1) / frames.shape[1]  # (F, W)
        width = self.width.get(key_of(attributes, SIZE), float(np.mean([*self.width.values()])))
        return Located(*_densest(profile, width))

    def centres(self, frames: np.ndarray, attributes: Mapping[str, str]) -> np.ndarray:
        """Return the figure's centre (F,) in frame widths from the left; NaN: there is none."""
        found = self.located(frames, attributes)
        least = LEAST * self.usual.get(key_of(attributes, SIZE), 0.0)
        return np.where(found.mass > least, found.centre, np.nan)


class Located(NamedTuple):
    """Centres (F,) in frame widths, and the evidence (F,) that they rest on."""

    centre: np.ndarray
    mass: np.ndarray


def box_masks(boxes: np.ndarray, size: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return which pixels (F, H, W) are in the core of the boxes (F, 4), and which are in the boxes
    or near them."""
    y, x = (np.arange(length) + 0.5 for length in size)
    left, top, right, bottom = (edge[:, None] for edge in boxes.T)
    wide, tall = (np.abs(a - m) for a, m in ((x, (left + right) / 2), (y, (top + bottom) / 2)))
    core_x = wide <= CORE[0] * (right - left)
    core_y = tall <= CORE[1] * (bottom - top)
    near_x = wide <= (right - left) / 2 + MARGIN
    near_y = tall <= (bottom - top) / 2 + MARGIN
    return core_y[:, :, None] & core_x[:, None], near_y[:, :, None] & near_x[:, None]


def _no_colours() -> np.ndarray:
    return np.zeros(LEVELS**3)


def _counted(bins: np.ndarray) -> np.ndarray:
    return np.bincount(bins, minlength=LEVELS**3)


def _log_likelihood(counts: np.ndarray) -> np.ndarray:
    seen = counts + UNSEEN
    return np.log(seen / seen.sum())


def _densest(profile: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean place (F,) of the evidence of columns (F, W) within the window that holds
    most of it, by mean shift from there, and how much it holds; width and place in frame widths."""
    columns = profile.shape[1]
    x = (np.arange(columns) + 0.5) / columns
    window = np.abs(x[:, None] - x) <= width / 2  # (W, W)
    centre = x[(profile @ window).argmax(1)]
    for _ in range(5):
        near = profile * (np.abs(x - centre[:, None]) <= REACH * width)
        mass = near.sum(1)
        centre = np.where(mass > 0, near @ x / np.maximum(mass, 1e-9), centre)
    return centre, mass


@cache
def locator(world: str) -> FigureLocator:
    """Return the locator of a world by its name, learnt when it is first wanted: some seconds."""
    return FigureLocator.learnt(true_films(world_named(world), LEARNT_FROM, FILMS))


def true_films(world: World, seed: int, films: int) -> Iterator[Rendered]:
    """Yield true films of a world with their boxes."""
    for index in range(films):
        yield world.render(world.cast_film(seed, index, LATENTS))


def locating_error(films: Iterable[Rendered], found: FigureLocator | None = None) -> np.ndarray:
    """Return how far the located centre is from the box's, frame by frame, signed, in frame widths;
    NaN where no figure was found."""
    parts = []
    for film in films:
        reader = found or locator(film.plan.world)
        for frames, attributes in entries_of(film):
            true = film.boxes[frames][:, [0, 2]].mean(1) / film.frames.shape[2]
            parts.append(reader.centres(film.frames[frames], attributes) - true)
    return np.concatenate(parts)


def offsets_of(centres: np.ndarray) -> np.ndarray:
    """Return how far centres (F,) are from the middle; a figure that is not there is at the
    edge."""
    return np.where(np.isnan(centres), NOWHERE, np.abs(centres - 0.5))


def framing_rows(
    frames: np.ndarray, plans: Sequence[FilmPlan], found: FigureLocator | None = None
) -> list[Row]:
    """Rows of the three metrics, of frames uint8 (B, F, H, W, 3) of planned films."""
    rows = []
    for film, plan in enumerate(plans):
        reader = found or locator(plan.world)
        offsets = []
        for number, (span, shot) in enumerate(zip(spans_of(plan), plan.shots, strict=True), 1):
            centres = reader.centres(frames[film, slice(*span)], shot.attributes)
            offsets.append(float(offsets_of(centres).mean()))
            seen = centres[~np.isnan(centres)]
            edge = not len(seen) or abs(seen.mean() - 0.5) > EDGE
            rows.append(_framing_row(film, "framing offset", offsets[-1], number))
            rows.append(_framing_row(film, "at the edge", float(edge), number))
        if slopes := [slope(part) for part in appearances(plan, offsets)]:
            rows.append(_framing_row(film, "framing drift", float(np.mean(slopes))))
    return rows


def appearances(plan: FilmPlan, values: Sequence[float]) -> Iterator[list[float]]:
    """Yield the values of the shots in which a character appears, of every character that comes
    back after a cut."""
    found = defaultdict(list)
    for shot, value in zip(plan.shots, values, strict=True):
        if not shot.continues:
            found[shot.character].append(value)
    yield from (part for part in found.values() if len(part) > 1)


def slope(values: Sequence[float]) -> float:
    """Return the slope of the least-squares line through values at 0, 1, 2, ..."""
    return float(np.polyfit(np.arange(len(values)), values, 1)[0])


def _framing_row(film: int, metric: str, value: float, shot: int = WHOLE) -> Row:
    return Row(clip_of(film), shot, metric, value, backend="toybox")
