"""Policies: which finished units of the film a new chunk may attend to, under a fixed budget.

A *unit* is what is kept or dropped together: a whole chunk, or a single latent frame.
A policy answers one question with a number per unit: +inf = keep, 0 = a candidate for routing, below 0 = only if
the budget is not spent otherwise, the most recent first. So exactly `budget_at(n)` units are seen, always.

    n finished units   ... films
"""

from dataclasses import dataclass, field, fields, replace
from math import inf

import torch
from torch import Tensor

from cinelab.errors import CinelabError

POSITIONS = ("absolute", "packed")
UNITS = ("chunk", "frame")
SCORES = ("mean", "mass")
BLOCK = 8  # units that are ranked together where a long history is searched in two steps


@dataclass(frozen=True)
class Policy:
    """What every policy has. `positions`: absolute = true distances in the film; packed = the kept units are
    placed side by side before the chunk, so that no distance leaves the trained range."""

    positions: str = field(default="absolute", kw_only=True)
    unit: str = field(default="chunk", kw_only=True)

    def __post_init__(self):
        for name, known in (("positions", POSITIONS), ("unit", UNITS)):
            if getattr(self, name) not in known:
                raise CinelabError(f"Policy {name} is {getattr(self, name)!r}; use one of {', '.join(known)}.")
        for name in ("budget", "sink", "window", "shot_sink"):
            value = getattr(self, name, 0)
            if value is not None and value < 0:
                raise CinelabError(f"Policy {name} is {value}; it counts units and cannot be negative.")
        self._check()

    def _check(self) -> None:
        """Hook for a policy's own contradictions."""

    @property
    def routed(self) -> bool:
        """Whether candidates compete by relevance (or chance)."""
        return False

    def budget_at(self, count: int) -> int:
        """How many of `count` finished units are seen."""
        raise NotImplementedError

    def held_at(self, count: int, heads: int) -> int:
        """How many of `count` finished units a layer's heads may attend to together: what must be on the device at once."""
        return self.budget_at(count)

    def priority(self, shots: Tensor, shot: Tensor) -> Tensor:
        """(..., n) priorities of finished units that belong to `shots` (..., n), for a chunk of shot `shot` (...)."""
        raise NotImplementedError


def recent(shots: Tensor, window: int) -> Tensor:
    """(..., n) True for the last `window` units."""
    count = shots.shape[-1]
    return (torch.arange(count, device=shots.device) >= count - window).expand(shots.shape)


@dataclass(frozen=True)
class Full(Policy):
    """Everything, always. Cost grows with the film.

        film  . . . . . . . .|now      seen  # # # # # # # #
    """

    def budget_at(self, count: int) -> int:
        return count

    def priority(self, shots: Tensor, shot: Tensor) -> Tensor:
        return torch.full(shots.shape, inf, device=shots.device)


FULL = Full()


@dataclass(frozen=True)
class Window(Policy):
    """The last `window` units.          seen  . . . . . # # #"""

    window: int = 4

    def budget_at(self, count: int) -> int:
        return min(self.window, count)

    def priority(self, shots: Tensor, shot: Tensor) -> Tensor:
        return keep_only(recent(shots, self.window))


@dataclass(frozen=True)
class Sink(Policy):
    """The first `sink` units of the film and the last `window`.   seen  # . . . . # # #"""

    sink: int = 1
    window: int = 4

    def budget_at(self, count: int) -> int:
        return min(self.sink + self.window, count)

    def priority(self, shots: Tensor, shot: Tensor) -> Tensor:
        return keep_only(kept(shots, shot, self.sink, 0, self.window))


@dataclass(frozen=True)
class ShotSink(Policy):
    """Sinks of the film and of the running shot, and a window (LongLive 2.0).   seen  # . . | # . # #"""

    sink: int = 1
    shot_sink: int = 1
    window: int = 3

    def budget_at(self, count: int) -> int:
        return min(self.sink + self.shot_sink + self.window, count)

    def priority(self, shots: Tensor, shot: Tensor) -> Tensor:
        return keep_only(kept(shots, shot, self.sink, self.shot_sink, self.window))


@dataclass(frozen=True)
class CAMR(Policy):
    """Content-aware memory routing: a few fixed units, and the rest of the budget to the most relevant history.

    Relevance is how much the chunk's own queries look for the unit's keys (both unrotated): `mean` compares
    mean query and mean key; `mass` sums the attention each unit would get. The heads of a layer choose together, so that a
    layer attends to `budget` units and no more; with `per_head` each head chooses for itself, and a layer's heads together
    may hold a whole film. Queries and keys are first averaged to `summary` tokens a unit (None = all of them). A history of
    more than `candidates` units is searched in two steps: blocks of BLOCK units by their mean keys first, then
    the units of the best blocks one by one, so that the search costs next to nothing however long the film (None = one step).

        seen  . # # . . # . #      # at the end: window; the others: retrieved
    """

    budget: int = 6
    sink: int = 0
    shot_sink: int = 0
    window: int = 1
    score: str = "mass"
    per_head: bool = False
    summary: int | None = 3  # tokens a unit that are searched, at most; None = all of them
    candidates: int | None = 128  # units that are compared one by one; None = all of them

    def _check(self) -> None:
        if self.score not in SCORES:
            raise CinelabError(f"CAMR score is {self.score!r}; use one of {', '.join(SCORES)}.")
        if self.summary is not None and self.summary < 1:
            raise CinelabError(f"CAMR summary is {self.summary}; it counts tokens, at least 1, or None for all.")
        if self.candidates is not None and self.candidates < self.budget + 2 * BLOCK:
            raise CinelabError(f"CAMR candidates is {self.candidates}; give at least {self.budget + 2 * BLOCK} (the budget and "
                               f"two blocks of {BLOCK} units), or None for all.")
        fixed = self.sink + self.shot_sink + self.window
        if fixed > self.budget:
            raise CinelabError(f"CAMR budget is {self.budget} but sinks and window alone take {fixed}; "
                               "raise the budget or lower them.")

    @property
    def routed(self) -> bool:
        return True

    def budget_at(self, count: int) -> int:
        return min(self.budget, count)

    def held_at(self, count: int, heads: int) -> int:
        fixed = self.sink + self.shot_sink + self.window
        return min(count, fixed + (heads if self.per_head else 1) * (self.budget - fixed))

    def priority(self, shots: Tensor, shot: Tensor) -> Tensor:
        fixed = kept(shots, shot, self.sink, self.shot_sink, self.window)
        return torch.zeros(shots.shape, device=shots.device).masked_fill(fixed, inf)


@dataclass(frozen=True)
class Oracle(Policy):
    """The upper bound of retrieval: the units of the shots that are known to matter (`shots`, counted from 0), and a window.

    What the budget leaves goes to the most recent others. Only a test knows the shots: those that truly show what returns.
    """

    budget: int = 6
    window: int = 1
    shots: tuple[int, ...] = ()

    def _check(self) -> None:
        if self.window > self.budget:
            raise CinelabError(f"Oracle budget is {self.budget} but the window alone takes {self.window}; raise the budget.")

    def budget_at(self, count: int) -> int:
        return min(self.budget, count)

    def priority(self, shots: Tensor, shot: Tensor) -> Tensor:
        count = shots.shape[-1]
        known = torch.isin(shots, torch.tensor(self.shots, dtype=shots.dtype, device=shots.device))
        newest = torch.arange(count, device=shots.device) - float(count + 1)  # -1 - count ... -2
        ranked = torch.where(known, newest + count + 2, newest)  # known units are 1 ... count, above all others
        return torch.where(recent(shots, self.window), inf, ranked)


@dataclass(frozen=True)
class RandomTopK(CAMR):
    """CAMR's control: the same budget and fixed units, but the retrieved ones are drawn by lot.

    Every layer draws for itself, so that all layers together see more than the budget; with `shared` they see the same.
    """

    seed: int = 0
    shared: bool = False
    candidates: int | None = None  # chance takes no search


def kept(shots: Tensor, shot: Tensor, sink: int, shot_sink: int, window: int) -> Tensor:
    """(..., n) True for the film's first `sink`, the running shot's first `shot_sink`, the last `window` units."""
    index = torch.arange(shots.shape[-1], device=shots.device)
    inside = shots == shot[..., None]
    rank = inside.cumsum(-1) - 1
    return (index < sink) | (inside & (rank < shot_sink)) | recent(shots, window)


def keep_only(mask: Tensor) -> Tensor:
    """True -> +inf; False -> negative, higher for what is more recent."""
    count = mask.shape[-1]
    return torch.where(mask, inf, torch.arange(count, device=mask.device) - float(count + 1))


POLICIES = ("full", "window", "sink", "shot_sink", "camr", "random", "random_shared")


def policy_named(name: str, budget: int, **more) -> Policy:
    """The policy of a name that sees at most `budget` units (`full` sees all). For tables and sweeps; `oracle`, which must
    be told its `shots`, is for tests whose truth is known."""
    if budget < 3:
        raise CinelabError(f"budget is {budget}; the compared policies need at least 3 units.")
    makers = {
        "full": lambda: Full(**more),
        "window": lambda: Window(window=budget, **more),
        "sink": lambda: Sink(sink=1, window=budget - 1, **more),
        "shot_sink": lambda: ShotSink(sink=1, shot_sink=1, window=budget - 2, **more),
        "camr": lambda: CAMR(budget=budget, **more),
        "random": lambda: RandomTopK(budget=budget, **more),
        "random_shared": lambda: RandomTopK(budget=budget, shared=True, **more),
        "oracle": lambda: Oracle(budget=budget, **more),
    }
    if name not in makers:
        raise CinelabError(f"Policy {name!r} is unknown; use one of {', '.join(POLICIES)}.")
    return makers[name]()


def name_of(policy: Policy) -> str:
    """The name `policy_named` knows a policy by."""
    if isinstance(policy, RandomTopK):
        return "random_shared" if policy.shared else "random"
    kinds = {Full: "full", Window: "window", Sink: "sink", ShotSink: "shot_sink", CAMR: "camr", Oracle: "oracle"}
    return kinds[type(policy)]


def seeded(policy: Policy, seed: int) -> Policy:
    """The policy with another seed, where it draws at all: every evaluation seed has random choices of its own."""
    return replace(policy, seed=seed) if any(part.name == "seed" for part in fields(policy)) else policy


def budget_of(policy: Policy, unlimited: int = 6) -> int:
    """How many units a policy sees of a long film; `unlimited` for one that sees all."""
    seen = policy.budget_at(10**9)
    return unlimited if seen == 10**9 else seen
