"""Where the newest chunk looked: of each layer's heads, the share that kept something of a shot."""

from collections import defaultdict

from cinelab.memory.cache import Memory


def looked(memory: Memory, chunk: int) -> dict[int, dict[int, float]]:
    """{layer: {shot: share of heads}} of `chunk`, the last that `memory` remembers; empty when it looked at nothing.

    Reads its decisions from the end, so a long film costs no more than a short one.
    """
    shares = {}
    for decision in reversed(memory.decisions):
        if decision["chunk"] != chunk:
            break
        if not decision["clean"]:
            shares[decision["layer"]] = _shares(memory, decision["picks"][0].tolist())
    return dict(sorted(shares.items()))


def _shares(memory: Memory, picks: list[list[int]]) -> dict[int, float]:
    """Of the heads (or the one choice that all heads share), how many kept a unit of each shot."""
    heads = defaultdict(int)
    for kept in picks:
        for shot in {int(memory.unit_shots[0, unit]) for unit in kept}:
            heads[shot] += 1
    return {shot: heads[shot] / len(picks) for shot in sorted(heads)}
