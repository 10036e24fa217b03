"""What would the last shot have been with another memory? The same directions on the same noise,
one thing changed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from cinelab.errors import CinelabError
from cinelab.memory.policy import Policy
from cinelab.stream.attended import attention, scores_attention
from cinelab.stream.batch import policy_after
from cinelab.stream.session import Session


@dataclass(frozen=True)
class Change:
    """What is other: the policy (a name or a Policy), its budget, or shots (counted from 1) that
    are erased from the memory."""

    policy: str | Policy | None = None
    budget: int | None = None
    without: tuple[int, ...] = ()


def what_if(session: Session, change: Change = Change(), head: int | None = None) -> np.ndarray:
    """Pictures uint8 (F, H, W, 3) of the shot that `head` (default: the head) ends, made again
    under `change`.

    Without a change it is the shot itself, bit for bit. Nothing is added to the session.
    """
    number = session.desk.head if head is None else head
    if number is None:
        raise CinelabError("There is no shot yet; play first.")
    nodes = [session.nodes[one] for one in session.shot_nodes(number)]
    shots = nodes[0].shot
    if wrong := [shot for shot in change.without if not 1 <= shot <= shots]:
        raise CinelabError(f"without is {wrong[0]}; before this shot there are shots 1 to {shots}.")
    state = session.state(nodes[0].parent)
    state = replace(
        state,
        cache=replace(state.cache.snapshot(), erased=tuple(shot - 1 for shot in change.without)),
    )
    parts = []
    for node in nodes:
        ask = session.ask(node)
        policy = policy_after(session.reel.bundle, ask.policy, change.policy, change.budget)
        state, timed = session.reel.step(state, replace(ask, policy=policy))
        parts.append(timed.frames[0])
    return np.concatenate(parts)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference of two films of equal length, in grey levels."""
    return float(np.abs(one.astype(np.int16) - other).mean())


def shares(session: Session, head: int | None = None) -> dict[int, float]:
    """Of the last shot's attention to earlier shots, the share that each of them had (counted from
    1)."""
    by_shot = _looked_back(session, head).groupby("kept_shot")["share"].sum()
    return {int(shot) + 1: float(share) for shot, share in (by_shot / by_shot.sum()).items()}


def most_retrieved(session: Session, head: int | None = None, count: int = 3) -> Sequence[int]:
    """The chunks of earlier shots (by index in the film) that drew most of the last shot's
    attention, most first."""
    return list(chunk_shares(session, head))[:count]


def chunk_shares(session: Session, head: int | None = None) -> dict[int, float]:
    """Of the last shot's attention to earlier shots, the share of every chunk (by index in the
    film), most first."""
    by_chunk = _looked_back(session, head).groupby("kept_chunk")["share"].sum()
    ranked = (by_chunk / by_chunk.sum()).sort_values(ascending=False, kind="stable")
    return {int(chunk): float(share) for chunk, share in ranked.items()}


def _looked_back(session: Session, head: int | None) -> pd.DataFrame:
    """What the chunks of the shot that `head` ends retrieved from shots before it (see
    `looked.attention`)."""
    number = session.desk.head if head is None else head
    if number is None:
        raise CinelabError("There is no shot yet; play first.")
    shot = session.nodes[number].shot
    scored = scores_attention(session.ask(session.nodes[number]).policy)
    table = session.routing(number)
    found = attention(table[table["shot"] == shot], scored)
    return found[found["kept_shot"] < shot]
