"""What would the last shot have been under another memory? The same directions on the same noise,
with one thing changed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from cinelab.errors import CinelabError
from cinelab.memory.policy import Policy
from cinelab.stream.attention_shares import attention_shares, scores_attention
from cinelab.stream.batch import policy_after
from cinelab.stream.session import Session


@dataclass(frozen=True)
class Change:
    """An intervention: another policy (a name or a Policy), another budget, or shots (counted from
    1) that are erased from the KV cache."""

    policy: str | Policy | None = None
    budget: int | None = None
    without: tuple[int, ...] = ()


def what_if(session: Session, change: Change = Change(), head: int | None = None) -> np.ndarray:
    """Return frames uint8 (F, H, W, 3) of the shot that `head` (default: the head) ends, made again
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
        request = session.request(node)
        policy = policy_after(
            session.generator.bundle, request.policy, change.policy, change.budget
        )
        state, timed = session.generator.step(state, replace(request, policy=policy))
        parts.append(timed.frames[0])
    return np.concatenate(parts)


def mean_difference(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mean absolute difference of two films of equal length, in grey levels."""
    return float(np.abs(one.astype(np.int16) - other).mean())


def shares(session: Session, head: int | None = None) -> dict[int, float]:
    """Return the share that each earlier shot (counted from 1) has of the last shot's attention to
    them."""
    by_shot = _retrieved(session, head).groupby("kept_shot")["share"].sum()
    return {int(shot) + 1: float(share) for shot, share in (by_shot / by_shot.sum()).items()}


def most_retrieved(session: Session, head: int | None = None, count: int = 3) -> Sequence[int]:
    """Return the chunks of earlier shots (by index in the film) with most of the last shot's
    attention, most first."""
    return list(chunk_shares(session, head))[:count]


def chunk_shares(session: Session, head: int | None = None) -> dict[int, float]:
    """Return the share that each chunk of earlier shots (by index in the film) has of the last
    shot's attention to them, most first."""
    by_chunk = _retrieved(session, head).groupby("kept_chunk")["share"].sum()
    ranked = (by_chunk / by_chunk.sum()).sort_values(ascending=False, kind="stable")
    return {int(chunk): float(share) for chunk, share in ranked.items()}


def _retrieved(session: Session, head: int | None) -> pd.DataFrame:
    """Return what the chunks of the shot that `head` ends retrieved from shots before it (see
    `attention_shares`)."""
    number = session.desk.head if head is None else head
    if number is None:
        raise CinelabError("There is no shot yet; play first.")
    shot = session.nodes[number].shot
    scored = scores_attention(session.request(session.nodes[number]).policy)
    table = session.routing(number)
    found = attention_shares(table[table["shot"] == shot], scored)
    return found[found["kept_shot"] < shot]
