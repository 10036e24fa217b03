"""What would the last shot have been with another memory? The same directions on the same noise, one thing changed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cinelab.errors import CinelabError
from cinelab.memory.policy import Policy
from cinelab.stream.engine import policy_after
from cinelab.stream.session import Session


@dataclass(frozen=True)
class Change:
    """What is other: the policy (a name or a Policy), its budget, or shots (counted from 1) that are erased from the memory."""

    policy: str | Policy | None = None
    budget: int | None = None
    without: tuple[int, ...] = ()


def what_if(session: Session, change: Change = Change(), head: int | None = None) -> np.ndarray:
    """Pictures uint8 (F, H, W, 3) of the shot that `head` (default: the head) ends, made again under `change`.

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
    state = replace(state, memory=replace(state.memory.snapshot(), without=tuple(shot - 1 for shot in change.without)))
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
    """Of all that the last shot retrieved, the share that lies in each earlier shot (counted from 1)."""
    number = session.desk.head if head is None else head
    table = session.routing(number)
    last = table[(table["shot"] == session.nodes[number].shot) & (table["kept_shot"] < session.nodes[number].shot)]
    counts = last["kept_shot"].value_counts(normalize=True).sort_index()
    return {int(shot) + 1: float(share) for shot, share in counts.items()}


def most_retrieved(session: Session, head: int | None = None, count: int = 3) -> Sequence[int]:
    """The earlier chunks (by index in the film) that the last shot looked at most, most first."""
    number = session.desk.head if head is None else head
    table = session.routing(number)
    last = table[(table["shot"] == session.nodes[number].shot) & (table["kept_shot"] < session.nodes[number].shot)]
    return [int(chunk) for chunk in last["kept_chunk"].value_counts().index[:count]]
