"""A checkpoint that came back beside the shipped one of its name: metric by metric, on the same
films, with intervals and a verdict that is corrected for looking at many metrics."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cinelab.config import read_mapping
from cinelab.lab.recipe.checking import Checked
from cinelab.lab.reports.cards import films_of_card, score_card
from cinelab.latent.codec import encoded, to_uint8
from cinelab.metrics.card import HELD_OUT
from cinelab.metrics.metric import METRICS
from cinelab.metrics.stats import Estimate, bootstrap, holm, paired_difference, sign_flip, wilson
from cinelab.readable import Readable
from cinelab.world.worlds import world_named
from cinelab.zoo import checkpoints as zoo

BETTER = "better"
WORSE = "worse"
UNDECIDED = "undecided"
PSNR = "psnr"  # of a codec
CLIP = 8  # latent frames of a film that a codec is judged by
LEVEL = 0.05  # of the corrected p below which a difference is stated


@dataclass(frozen=True)
class Compared(Readable):
    """One metric of both checkpoints: values, difference with its 95 % interval over films, p after
    Holm's correction, and the verdict. None where there is nothing to compare with."""

    metric: str
    value: float
    shipped: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int
    verdict: str


def compare_with_shipped(
    one: Checked,
    folder: Path,
    *,
    seeds: tuple[int, ...],
    films: int,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Compared]:
    """Score a checkpoint and the shipped one of its name on the same held-out films, below
    `folder`; a card that is there already is not made again."""
    if one.kind == "recogniser":
        return _accuracies(one)
    if one.kind == "codec":
        return _sharpness(one, seeds, films)
    if not one.films:
        return []
    ours = _films(one.returned.folder, folder / "new", seeds, films=films, tell=tell)
    shipped = one.name in zoo.shipped() and _same_world(one)
    theirs = (
        _films(zoo.find(one.name), folder / "shipped", seeds, films=films, tell=tell)
        if shipped
        else None
    )
    return verdicts_of(ours, theirs)


def _sharpness(one: Checked, seeds: tuple[int, ...], films: int) -> list[Compared]:
    """Return how near decoded held-out films are to the drawn ones, in dB."""
    ours = psnr_of_films(one.returned.folder, seeds, films)
    shipped = one.name in zoo.shipped() and _same_world(one)
    return verdicts_of(ours, psnr_of_films(zoo.find(one.name), seeds, films) if shipped else None)


@torch.no_grad()
def psnr_of_films(place: Path, seeds: tuple[int, ...], films: int) -> pd.Series:
    """Return the peak signal-to-noise ratio of a codec on films of one shot or two, in dB, by
    (metric, seed, clip)."""
    codec = zoo.load_codec(place)
    world = world_named(zoo.world_in(place))
    values = {}
    for seed in seeds:
        for index in range(films):
            plan = world.cast_film(HELD_OUT + seed, index, CLIP, shot_latents=(CLIP // 2, CLIP))
            frames = world.render(plan).frames
            decoded = to_uint8(codec.decode(encoded(codec, frames[None]))[0][0])
            square = np.square(decoded.astype(np.float64) - frames).mean()
            values[PSNR, seed, index] = float(10 * np.log10(255**2 / max(square, 1e-9)))
    index = pd.MultiIndex.from_tuples(values, names=["metric", "seed", "clip"])
    return pd.Series(list(values.values()), index)


def _same_world(one: Checked) -> bool:
    """Whether the shipped checkpoint makes films of the same world; others are not compared."""
    return zoo.world_in(zoo.find(one.name)) == zoo.world_in(one.returned.folder)


def _films(
    place: Path, folder: Path, seeds: tuple[int, ...], *, films: int, tell: Callable[[str], None]
) -> pd.Series:
    """Return a checkpoint's values by (metric, seed, clip)."""
    card = folder / f"{place.name}.json"
    made = read_mapping(card).get("made", {}) if card.exists() else {}
    mark = zoo.fingerprint(place)
    same = mark in (made.get("weights") or {}).values() and made.get("films") == films
    if not (same and made.get("seeds") == list(seeds)):
        tell(f"scoring {place}")
        folder.mkdir(parents=True, exist_ok=True)
        score_card(str(place), seeds, films, output=folder, tell=tell)
    return films_of_card(folder / f"{place.name}.parquet")


def verdicts_of(ours: pd.Series, theirs: pd.Series | None) -> list[Compared]:
    """Return every metric of the new films beside the shipped ones'."""
    metrics = list(dict.fromkeys(ours.index.get_level_values(0)))
    paired = [_pair(ours, theirs, metric) for metric in metrics]
    tested = [one for one in paired if one is not None]
    corrected = iter(holm([sign_flip(new - old) for new, old in tested]) if tested else [])
    return [
        _alone(metric, ours) if pair is None else _beside(metric, *pair, next(corrected))
        for metric, pair in zip(metrics, paired, strict=True)
    ]


def _pair(
    ours: pd.Series, theirs: pd.Series | None, metric: str
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return both values of the films that both made; None where they made no film in common."""
    if theirs is None or metric not in theirs.index:
        return None
    both = pd.concat([ours.loc[metric], theirs.loc[metric]], axis=1, join="inner").dropna()
    return (both.iloc[:, 0].to_numpy(), both.iloc[:, 1].to_numpy()) if len(both) > 1 else None


def _alone(metric: str, films: pd.Series) -> Compared:
    found = bootstrap(films.loc[metric].tolist())
    return Compared(metric, found.value, None, None, None, None, None, found.n, UNDECIDED)


def _beside(metric: str, new: np.ndarray, old: np.ndarray, p: float) -> Compared:
    change = paired_difference(new.tolist(), old.tolist())
    better = "high" if metric == PSNR else METRICS.of(metric).better
    return Compared(
        metric,
        float(new.mean()),
        float(old.mean()),
        change.value,
        change.low,
        change.high,
        p,
        len(new),
        verdict_of_change(better, change.value, p),
    )


def verdict_of_change(better: str | None, change: float, p: float) -> str:
    """Return what a difference says, by which way is better ("high", "low"; None = neither)."""
    if better is None or not p < LEVEL or change == 0:
        return UNDECIDED
    return BETTER if (change > 0) == (better == "high") else WORSE


def _accuracies(one: Checked) -> list[Compared]:
    """Return how well a recogniser reads each attribute, by what both measured of themselves on
    held-out shots."""
    ours = read_mapping(one.returned.folder / zoo.CONFIG)
    theirs = read_mapping(zoo.find(one.name) / zoo.CONFIG) if one.name in zoo.shipped() else {}
    return [
        _accuracy(f"{group} {name}", _read_rate(ours, group, name), _read_rate(theirs, group, name))
        for group in ("accuracy", "accuracy_codec")
        for name in ours.get(group) or {}
    ]


def _read_rate(config: dict, group: str, name: str) -> Estimate | None:
    """Return how often a recogniser reads an attribute, with Wilson's interval."""
    value = (config.get(group) or {}).get(name)
    shots = (config.get("training") or {}).get("held_out", 0)
    return None if value is None or not shots else wilson(value * shots, shots)


def _accuracy(name: str, new: Estimate | None, old: Estimate | None) -> Compared:
    """Return two rates side by side: they differ where their intervals lie apart."""
    value = new.value if new else float("nan")
    if new is None or old is None:
        return Compared(name, value, None, None, None, None, None, new.n if new else 0, UNDECIDED)
    said = BETTER if new.low > old.high else WORSE if new.high < old.low else UNDECIDED
    return Compared(name, value, old.value, value - old.value, None, None, None, new.n, said)


def as_rows(compared: list[Compared]) -> list[dict]:
    """Return a comparison as rows of a report."""
    return [asdict(one) for one in compared]
