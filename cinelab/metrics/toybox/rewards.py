"""The toybox's rewards: exact, since the prompt says what a clip is to show and the recogniser
reads what it does show. Each is in [0, 1].

    identity    a character that comes back looks as it did when it first appeared in this clip; if
                that was in a true beginning, the look is recalled
    cuts        hits among planned and detected cuts
    action      the share of the shots whose action is the prompt's
    prompt      the share of all attributes that the prompts name
    diversity   the share of the batch's other characters and places that look otherwise at their
                first appearance; a reward of the batch, since one clip alone has none
    motion      a guard: motion as a share of that of the true clip of the same prompts, at most 1,
                so that a still figure loses and shaking gains nothing

Every reward but the last two can be had by doing less: a figure that does not move keeps its looks,
and so does a model that draws all characters alike. Only shots that the student made count.

Motion falls first under a reward that does not ask for it (RVM, arXiv 2608.23664, sets a motion
reward beside each other one); the share of the truth's is ours, as there is a true clip here.
"""

from collections.abc import Callable, Iterator

import numpy as np

from cinelab.metrics.video.appearance import motion
from cinelab.metrics.video.cuts import detect_cuts, match_cuts
from cinelab.script.shotlist import ListedShot
from cinelab.train.rewards import REWARDS, ShownClips

STILL = 0.5  # grey levels: a true clip that moves less gives the guard no occasion

Look = tuple[str, dict[str, str]]  # whose look it is, "identity" or "scenery", and what was seen


@REWARDS.add("identity", needs=("reader",))
def identity_kept(shown: ShownClips) -> list[float]:
    """Return, by clip, the share of the looks that its returning characters keep."""
    return [_mean(_kept(shown, clip)) for clip in range(len(shown.frames))]


def _kept(shown: ShownClips, clip: int) -> Iterator[float]:
    """Yield 1 for every look that a returning character keeps, else 0."""
    assert shown.seen is not None and shown.world is not None  # the reward needs a reader
    first: dict[tuple[str, ...], int] = {}
    for number, shot in enumerate(shown.shots[clip]):
        who = tuple(shot.shows.get(key, "") for key in shown.world.who)
        if not all(who):
            continue
        begin = first.setdefault(who, number)
        if begin == number or not shot.cut or not shown.is_made(shot):
            continue
        before = shown.seen[clip][begin]
        now = shown.seen[clip][number]
        yield from (float(now[name] == before[name]) for name in shown.world.identity)


@REWARDS.add("cuts")
def cuts_on_time(shown: ShownClips) -> list[float]:
    """Return, by clip, the hits among planned and detected cuts, at most a frame apart."""
    found = []
    for frames, shots in zip(shown.frames, shown.shots, strict=True):
        planned = [shot.start for shot in shots[1:] if shot.cut and shown.made[shot.start]]
        detected = [cut for cut in detect_cuts(frames) if shown.made[cut]]
        found.append(match_cuts(planned, detected).accuracy)
    return found


@REWARDS.add("action", needs=("reader",))
def action_shown(shown: ShownClips) -> list[float]:
    """Return, by clip, the share of the shots whose action is the prompt's."""
    return _read_as_prompted(shown, lambda name: name == "action")


@REWARDS.add("prompt", needs=("reader",))
def prompt_shown(shown: ShownClips) -> list[float]:
    """Return, by clip, the share of all prompted attributes that its shots show."""
    return _read_as_prompted(shown, lambda name: True)


def _read_as_prompted(shown: ShownClips, wanted: Callable[[str], bool]) -> list[float]:
    """Return, by clip, the share of the prompted attributes of wanted names that are read."""
    assert shown.seen is not None  # the reward needs a reader
    return [
        _mean(
            float(seen[name] == value)
            for shot, seen in zip(shots, views, strict=True)
            if shown.is_made(shot)
            for name, value in shot.shows.items()
            if wanted(name) and name in seen
        )
        for shots, views in zip(shown.shots, shown.seen, strict=True)
    ]


@REWARDS.add("diversity", needs=("reader",))
def unlike_others(shown: ShownClips) -> list[float]:
    """Return, by clip, the share of the looks of other clips' first appearances that differ from
    its own: 1 less the probability of a collision (Simpson's index)."""
    assert shown.world is not None  # the reward needs a reader
    early = [list(_first_looks(shown, clip)) for clip in range(len(shown.frames))]
    found = []
    for clip, mine in enumerate(early):
        others = [look for other, looks in enumerate(early) if other != clip for look in looks]
        found.append(
            _mean(
                float(own[name] != look[name])
                for what, own in mine
                for kind, look in others
                if kind == what
                for name in shown.world.looks[what]
            )
        )
    return found


def _first_looks(shown: ShownClips, clip: int) -> Iterator[Look]:
    """Yield the looks of every character and place at its first appearance, where the student made
    it."""
    assert shown.seen is not None and shown.world is not None
    called = (("identity", shown.world.who), ("scenery", shown.world.where))
    known: set[tuple[str, ...]] = set()
    for shot, seen in zip(shown.shots[clip], shown.seen[clip], strict=True):
        for what, keys in called:
            key = (what, *(shot.shows.get(name, "") for name in keys))
            if key not in known and all(key) and shown.is_made(shot):
                yield what, seen
            known.add(key)


@REWARDS.add("motion", needs=("truth",))
def motion_guard(shown: ShownClips) -> list[float]:
    """Return, by clip, its motion inside shots as a share of the true clip's, at most 1."""
    assert shown.truth is not None  # the reward needs the truth
    found = []
    for frames, truth, shots in zip(shown.frames, shown.truth, shown.shots, strict=True):
        spans = [span for shot in shots for span in _made_span(shown, shot)]
        whole = motion(truth, spans) if spans else 0.0
        found.append(min(1.0, motion(frames, spans) / whole) if whole > STILL else float("nan"))
    return found


def _made_span(shown: ShownClips, shot: ListedShot) -> Iterator[tuple[int, int]]:
    """Yield the part (first, end) of a shot that the student made, if there is one."""
    mine = np.flatnonzero(shown.made[shot.start : shot.end])
    if len(mine):
        yield shot.start + int(mine[0]), shot.end


def _mean(values: Iterator[float]) -> float:
    """Return the mean of values, NaN where there are none."""
    held = list(values)
    return float(np.mean(held)) if held else float("nan")
