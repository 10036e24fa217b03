"""SCA, how near the seen cuts are to the planned ones in time, and what a film comes to that never
listened.

    SCA = exp(-NSD)        NSD = (error of matched cuts + penalties) / frames of the film

HoloCine (arXiv:2510.20822) defines it and CausalCine (arXiv:2605.12496) reports it: planned and
seen cuts are matched one to one, a matched pair costs its distance in frames, and a missed or extra
cut a penalty, whose size neither states. Ours is the length of the planned shot: of the one that a
missed cut should have opened, and of the one that an extra cut falls into. The matching is the one
with the least total. So a film of n even shots without any cut has exp(-(n - 1) / n), .47 for four,
which is where published single-shot models stand (.50): a value says nothing until its floor
stands beside it.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from math import exp

import numpy as np


def shot_cut_accuracy(planned: Sequence[int], seen: Sequence[int], frames: int) -> float:
    """Return SCA in (0, 1] of a film of so many frames; a cut is the first frame of a new shot.

    1 is every planned cut at its frame and no other cut.
    """
    return exp(-cut_error(planned, seen, frames) / frames)


def cut_error(planned: Sequence[int], seen: Sequence[int], frames: int) -> float:
    """Return the least total of a one-to-one matching in order, in frames: distances of matched
    cuts, and the shots' lengths for missed and extra ones."""
    due = sorted(set(planned))
    found = sorted(set(seen))
    edges = [0, *due, frames]
    lengths = [end - start for start, end in pairwise(edges)]
    missed = lengths[1:]
    extra = [lengths[bisect_right(edges, cut, hi=len(edges) - 1) - 1] for cut in found]
    # least[i, j]: of the first i planned and the first j seen cuts
    least = np.zeros((len(due) + 1, len(found) + 1))
    least[1:, 0] = np.cumsum(missed)
    least[0, 1:] = np.cumsum(extra)
    for i, cut in enumerate(due, 1):
        for j, other in enumerate(found, 1):
            matched = least[i - 1, j - 1] + abs(cut - other)
            single = min(least[i - 1, j] + missed[i - 1], least[i, j - 1] + extra[j - 1])
            least[i, j] = min(matched, single)
    return float(least[-1, -1])


def floors(planned: Sequence[int], frames: int) -> dict[str, float]:
    """Return SCA of two films that never listened, by protocol: one without cuts, and one with as
    many cuts as planned, evenly spread."""
    count = len(set(planned)) + 1
    even = [round(frames * number / count) for number in range(1, count)]
    return {
        "no cuts": shot_cut_accuracy(planned, [], frames),
        "even cuts": shot_cut_accuracy(planned, even, frames),
    }
