"""The memory card: every claim that a model remembers passes five boxes, or says which one it does
not.

    gap            the evidence has left what the policy attends to by rule alone (window, sinks)
    pair           of two histories that differ in one fact, each return follows its own
    precondition   the history truly showed the fact, and its bearer left
    intervention   on the same noise and at the same budget, memory fails where the evidence is
                   erased, and not where as many other pages are
    reader         whoever reads the films reads them right

They are those of "The Past Frames the Future" (arXiv:2609.28466), which admits no metric of quality
as evidence of memory. Every box is computed from rows (`cinelab.metrics.rows`), never ticked by
hand; the thresholds are ours. A claim is one distance: "away=5" is five shots without the
character.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd

from cinelab.metrics.stats import Estimate, bootstrap, holm, one_sided, paired_difference
from cinelab.metrics.toybox.paired_histories import ERASED, GAP, OTHERS, PAIRS, PRECONDITION

PASSED = "passed"
FAILED = "failed"
UNDECIDED = "undecided"
UNMEASURED = "not measured"
BOXES = ("gap", "pair", "precondition", "intervention", "reader")
ALWAYS = 1.0  # the share of films in which the evidence must have left the window
SHOWN = 0.9  # the least share of histories that show the fact and whose bearer left
READ = 0.95  # the least accuracy of the reader on what is compared, through the codec
SURE = 0.05  # the largest p, corrected over all boxes of a card
CLAIM = re.compile(r"away=\d+(?: in span)?")
NEEDS_CACHE = "needs the cache"
NO_ROWS = "no rows"


@dataclass(frozen=True)
class Box:
    """One box of a claim: its state, what it needs, the number behind it with its 95 % interval and
    the corrected p, and of how many independent films or pairs."""

    state: str
    needs: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    p: float | None = None


def memory_card(
    rows: pd.DataFrame, accuracy: Mapping[str, float], names: Iterable[str]
) -> dict[str, dict[str, dict]]:
    """Return claim -> box -> its fields, for every distance at which pairs were made.

    `rows` are a card's or those of videos; `accuracy` is the reader's through the codec, by
    attribute, of which `names` are compared. The p of pairs and interventions are corrected by Holm
    over the whole card.
    """
    good = rows[(rows["status"] == "ok") & (rows["source"] == "model")]
    pairs = good[good["metric"] == PAIRS]
    claims = [one for one in dict.fromkeys(pairs["protocol"]) if CLAIM.fullmatch(one)]
    reader = reader_box(accuracy, names)
    looks = corrected({(one, box): look for one in claims for box, look in _looks(good, one)})
    cards = {}
    for claim in claims:
        left = _units(good, GAP, claim)
        shown = _units(good, PRECONDITION, claim)
        boxes = (
            share_box(left, ALWAYS, "outside the window in every film", missing=NEEDS_CACHE),
            looks[claim, "pair"],
            share_box(shown, SHOWN, f"shown, and its bearer gone, in at least {SHOWN:g}"),
            looks[claim, "intervention"],
            reader,
        )
        cards[claim] = {name: asdict(box) for name, box in zip(BOXES, boxes, strict=True)}
    return cards


@dataclass(frozen=True)
class _Look:
    """A box that is decided by a difference above 0, `more` minus `less` in every independent unit;
    `shown` is added to what is shown of it."""

    more: pd.Series
    less: pd.Series
    needs: str
    missing: str
    shown: float = 0.0


def _looks(rows: pd.DataFrame, claim: str) -> Iterator[tuple[str, _Look]]:
    """Yield the boxes of a claim that a difference decides, by name."""
    followed = _units(rows, PAIRS, claim)
    half = pd.Series(0.5, followed.index)
    yield "pair", _Look(followed, half, "interval above 1/2", NO_ROWS, shown=0.5)
    both = [_units(rows, PAIRS, f"{claim} {change}") for change in (OTHERS, ERASED)]
    kept, lost = (one.dropna() for one in both)
    yield "intervention", _Look(kept, lost, "fall above 0", NEEDS_CACHE)


def corrected(looks: Mapping[tuple, _Look]) -> dict[tuple, Box]:
    """Return the boxes of looks; all p are corrected for being looked at together."""
    known = [key for key, look in looks.items() if len(look.more)]
    p = [one_sided((looks[key].more - looks[key].less).tolist())[0] for key in known]
    boxes = {key: Box(UNMEASURED, look.missing) for key, look in looks.items()}
    for key, sure in zip(known, holm(p) if p else [], strict=True):
        boxes[key] = difference_box(looks[key], sure)
    return boxes


def difference_box(look: _Look, p: float) -> Box:
    """Return a box that passes where the whole interval lies above 0 and p is small, fails where
    not even the mean does, and is undecided between."""
    found = paired_difference(look.more.tolist(), look.less.tolist())
    state = UNDECIDED if found.value > 0 else FAILED
    if found.low > 0 and p <= SURE:
        state = PASSED
    least = 2 * look.shown - 1  # a share lies in 0 to 1, a difference of two in -1 to 1
    ends = (found.value, found.low, found.high)
    value, low, high = (min(1.0, max(least, end + look.shown)) for end in ends)
    return replace(_box(state, look.needs, Estimate(value, low, high, found.n)), p=round(p, 4))


def _units(rows: pd.DataFrame, metric: str, protocol: str) -> pd.Series:
    """Return the mean of a metric in every independent unit, a pair of a seed or of a folder."""
    part = rows[(rows["metric"] == metric) & (rows["protocol"] == protocol)]
    keys = [name for name in ("run", "seed", "clip") if name in part]
    return part.groupby(keys)["value"].mean()


def share_box(values: pd.Series, least: float, needs: str, *, missing: str = NO_ROWS) -> Box:
    """Return a box that passes where the share (0 to 1) is at least `least`."""
    if values.empty:
        return Box(UNMEASURED, missing)
    state = PASSED if values.mean() >= least else FAILED
    return _box(state, needs, bootstrap(values.tolist()))


def reader_box(accuracy: Mapping[str, float], names: Iterable[str]) -> Box:
    """Return the box of the reader: its worst accuracy on what is compared."""
    known = [accuracy[name] for name in names if name in accuracy]
    if not known:
        return Box(UNMEASURED, "the reader states no accuracy")
    worst = round(float(min(known)), 4)
    return Box(PASSED if worst >= READ else FAILED, f"worst accuracy at least {READ:g}", worst)


def _box(state: str, needs: str, found: Estimate) -> Box:
    low, high = (round(x, 4) if np.isfinite(x) else None for x in (found.low, found.high))
    return Box(state, needs, round(found.value, 4), low, high, found.n)


def box_lines(card: Mapping[str, Mapping[str, Mapping]]) -> list[list[str]]:
    """Return a memory card as lines of text: the claim, the verdict, and each box with its
    number."""
    return [
        [claim, verdict_of(boxes), *(box_text(boxes[name]) for name in BOXES)]
        for claim, boxes in card.items()
    ]


def box_text(box: Mapping) -> str:
    """Return "passed 0.812 [0.688, 0.938]", or why a box is open."""
    if box["value"] is None:
        return f"{box['state']}: {box['needs']}"
    known = box["low"] is not None and box["high"] is not None
    between = f" [{box['low']:.3f}, {box['high']:.3f}]" if known else ""
    return f"{box['state']} {box['value']:.3f}{between}"


def verdict_of(boxes: Mapping[str, Mapping]) -> str:
    """Return "shown" where all five boxes pass, else "not shown"."""
    return "shown" if all(boxes[name]["state"] == PASSED for name in BOXES) else "not shown"
