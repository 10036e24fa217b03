"""Policies: which finished pages of the film a new chunk attends to, under a fixed budget.

A page is what is stored, retrieved and evicted together: a whole chunk, or a single latent frame.
A policy decides by two masks: pages that are *pinned* (always attended to), and pages that
*compete* by relevance for what the budget leaves. Exactly `budget_at(n)` of n pages are attended
to, always: where nothing competes, the most recent ones fill the budget.

    n finished pages   ... films
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from math import inf
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from cinelab.config import from_kind, to_kind
from cinelab.errors import CinelabError
from cinelab.registry import Registry, path_of
from cinelab.seeds import rng_at

POSITIONS = ("absolute", "packed")
UNITS = ("chunk", "frame")
SCORES = ("mean", "mass")
BLOCK = 8  # pages that are ranked together where a long history is searched in two steps


@dataclass(frozen=True)
class Policy:
    """What every policy has.

    positions   absolute = true distances in the film; packed = the retrieved pages stand side by
                side before the chunk, so that no distance leaves the trained range
    unit        what a page is: a chunk, or a latent frame
    """

    positions: str = field(default="absolute", kw_only=True)
    unit: str = field(default="chunk", kw_only=True)

    # How pages compete where a policy is `routed`; CAMR makes settings of them.

    @property
    def score(self) -> str:
        """How relevance is computed: mean or mass."""
        return "mass"

    @property
    def per_head(self) -> bool:
        """Whether every head retrieves for itself."""
        return False

    @property
    def summary(self) -> int | None:
        """Tokens a page that relevance is computed from; None = all of them."""
        return None

    @property
    def candidates(self) -> int | None:
        """Pages that are compared one by one in a long history; None = all of them."""
        return None

    @property
    def compared(self) -> int | None:
        """Pages that are compared one by one, the budget considered; None = all of them."""
        return None

    @classmethod
    def of_name(cls, name: str) -> "Policy":
        """What a setting that wants a policy makes of a name or an import path."""
        return policy_named(name)

    def __post_init__(self) -> None:
        for name, known in (("positions", POSITIONS), ("unit", UNITS)):
            if getattr(self, name) not in known:
                raise CinelabError(
                    f"Policy {name} is {getattr(self, name)!r}; use one of {', '.join(known)}."
                )
        for name in ("budget", "sink", "window", "shot_sink"):
            value = getattr(self, name, 0)
            if isinstance(value, (int, float)) and value < 0:
                raise CinelabError(
                    f"Policy {name} is {value}; it counts units and cannot be negative."
                )
        self._check()

    def _check(self) -> None:
        """Hook for a policy's own contradictions."""

    @property
    def routed(self) -> bool:
        """Whether candidates compete by relevance (or chance)."""
        return False

    @property
    def sees_all(self) -> bool:
        """Whether every unit is always kept, whatever `priority` says: then nothing is chosen at
        all."""
        return False

    def budget_at(self, count: int) -> int:
        """How many of `count` finished units are seen."""
        raise NotImplementedError

    def held_at(self, count: int, heads: int) -> int:
        """How many of `count` finished units a layer's heads may attend to together: what must be
        on the device at once."""
        return min(count, self.budget_at(count))

    def pinned(self, shots: Tensor, shot: Tensor) -> Tensor:
        """Return bool (..., n): the pages that a chunk of shot `shot` (...) always attends to.

        `shots` (..., n) are the shots of the finished pages.
        """
        raise NotImplementedError

    def competing(self, shots: Tensor, shot: Tensor) -> Tensor:
        """Return bool (..., n): the pages that compete by relevance for what the budget leaves.

        Of a `routed` policy all that are not pinned. Where none compete, the budget is filled with
        the most recent pages.
        """
        return torch.full(shots.shape, self.routed, device=shots.device)

    def priority(self, shots: Tensor, shot: Tensor) -> Tensor:
        """Return the two masks as one number a page (..., n): +inf = pinned, 0 = competing, below 0
        = only if the budget is not spent otherwise, the most recent first.

        A policy with an order of its own may override this in place of the two masks.
        """
        count = shots.shape[-1]
        recency = torch.arange(count, device=shots.device) - float(count + 1)
        ranks = torch.where(self.competing(shots, shot), 0.0, recency)
        return torch.where(self.pinned(shots, shot), inf, ranks)

    def relevance(self, q: Tensor, k: Tensor) -> Tensor | None:
        """Return own scores (B, G, R, n) of a `routed` policy, higher = more relevant; None = by
        `score`.

        q (B, R, T, h, d) are the queries of R chunks, k (B, n, U, h, d) the keys of n pages, both
        unrotated; G is 1, or h where every head retrieves for itself.
        """
        return None

    def relevance_at(self, q: Tensor, k: Tensor, place: tuple[int, ...]) -> Tensor | None:
        """Return `relevance` of a policy that also depends on the place: (chunk, layer) in a film,
        (layer,) in a clip."""
        return self.relevance(q, k)


def recent(shots: Tensor, window: int) -> Tensor:
    """(..., n) True for the last `window` units."""
    count = shots.shape[-1]
    return (torch.arange(count, device=shots.device) >= count - window).expand(shots.shape)


@dataclass(frozen=True)
class Full(Policy):
    """Everything, always. Cost grows with the film.

    film  . . . . . . . .|now      seen  # # # # # # # #
    """

    @property
    def sees_all(self) -> bool:
        return type(self) is Full  # a class below it may choose otherwise

    def budget_at(self, count: int) -> int:
        return count

    def pinned(self, shots: Tensor, shot: Tensor) -> Tensor:
        return torch.ones(shots.shape, dtype=torch.bool, device=shots.device)


FULL = Full()


@dataclass(frozen=True)
class Window(Policy):
    """The last `window` pages.          attended  . . . . . # # #"""

    window: int = 4

    def budget_at(self, count: int) -> int:
        return min(self.window, count)

    def pinned(self, shots: Tensor, shot: Tensor) -> Tensor:
        return recent(shots, self.window)


@dataclass(frozen=True)
class Sink(Policy):
    """The first `sink` pages and the last `window` (StreamingLLM).   attended  # . . . . # # #"""

    sink: int = 1
    window: int = 4

    def budget_at(self, count: int) -> int:
        return min(self.sink + self.window, count)

    def pinned(self, shots: Tensor, shot: Tensor) -> Tensor:
        return sinks_and_window(shots, shot, self.sink, 0, self.window)


@dataclass(frozen=True)
class ShotSink(Policy):
    """Sinks of the film and of the running shot, and a window (LongLive 2.0).

    film  . . . | . . . .|now      attended  # . . | # . # #
    """

    sink: int = 1
    shot_sink: int = 1
    window: int = 3

    def budget_at(self, count: int) -> int:
        return min(self.sink + self.shot_sink + self.window, count)

    def pinned(self, shots: Tensor, shot: Tensor) -> Tensor:
        return sinks_and_window(shots, shot, self.sink, self.shot_sink, self.window)


@dataclass(frozen=True)
class CAMR(Policy):
    """Content-aware memory routing (CausalCine, arXiv 2605.12496): a few pinned pages, and the rest
    of the budget to the most relevant history.

    Relevance is how much the chunk's own queries attend to the page's keys (both unrotated): `mean`
    compares mean query and mean key (the paper's); `mass` sums the attention that each page would
    draw (ours). The heads of a layer retrieve together, so that a layer attends to `budget` pages
    and no more; with `per_head` each head retrieves for itself, and a layer's heads together may
    hold a whole film. Queries and keys are first averaged to `summary` tokens a page (None = all of
    them). A history of more than `candidates` pages is searched in two steps: blocks of BLOCK pages
    by their mean keys first, then the pages of the best blocks one by one, so that the search costs
    next to nothing however long the film (None = one step).

        attended  . # # . . # . #      # at the end: window; the others: retrieved
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
            raise CinelabError(
                f"CAMR summary is {self.summary}; it counts tokens, at least 1, or None for all."
            )
        if self.candidates is not None and self.candidates < 2 * BLOCK:
            raise CinelabError(
                f"CAMR candidates is {self.candidates}; give at least {2 * BLOCK} (two blocks of "
                "units), or None for all."
            )
        fixed = self.sink + self.shot_sink + self.window
        if fixed > self.budget:
            raise CinelabError(
                f"CAMR budget is {self.budget} but sinks and window alone take {fixed}; "
                "raise the budget or lower them."
            )

    @property
    def routed(self) -> bool:
        return True

    @property
    def compared(self) -> int | None:
        """Units that are compared one by one in a long history: the candidates, and always more
        than the budget."""
        return None if self.candidates is None else max(self.candidates, self.budget + 2 * BLOCK)

    def budget_at(self, count: int) -> int:
        return min(self.budget, count)

    def held_at(self, count: int, heads: int) -> int:
        fixed = self.sink + self.shot_sink + self.window
        return min(count, fixed + (heads if self.per_head else 1) * (self.budget - fixed))

    def pinned(self, shots: Tensor, shot: Tensor) -> Tensor:
        return sinks_and_window(shots, shot, self.sink, self.shot_sink, self.window)


@dataclass(frozen=True)
class Oracle(Policy):
    """The upper bound of retrieval: the pages of the shots that are known to matter (`shots`,
    counted from 0), and a window.

    What the budget leaves goes to the most recent others. Only a test knows the shots: those that
    truly show what returns.
    """

    budget: int = 6
    window: int = 1
    shots: tuple[int, ...] = ()

    def _check(self) -> None:
        if self.window > self.budget:
            raise CinelabError(
                f"Oracle budget is {self.budget} but the window alone takes {self.window}; raise "
                "the budget."
            )

    def budget_at(self, count: int) -> int:
        return min(self.budget, count)

    def priority(self, shots: Tensor, shot: Tensor) -> Tensor:
        count = shots.shape[-1]
        known = torch.isin(shots, torch.tensor(self.shots, dtype=shots.dtype, device=shots.device))
        newest = torch.arange(count, device=shots.device) - float(count + 1)  # -1 - count ... -2
        # known units are 1 ... count, above all others
        ranked = torch.where(known, newest + count + 2, newest)
        return torch.where(recent(shots, self.window), inf, ranked)


@dataclass(frozen=True)
class RandomTopK(CAMR):
    """CAMR's random control: the same budget and pinned pages, the others drawn at random.

    Every layer draws for itself, so that all layers together attend to more than the budget; with
    `shared` they attend to the same pages.
    """

    seed: int = 0
    shared: bool = False
    candidates: int | None = None  # a random choice takes no search

    def relevance_at(self, q: Tensor, k: Tensor, place: tuple[int, ...]) -> Tensor:
        place = place[:-1] if self.shared else place
        shape = (q.shape[0], 1, q.shape[1], k.shape[1])
        # the word addresses the draw: another one would draw other numbers
        return torch.rand(shape, generator=rng_at(self.seed, "lot", *place))


def sinks_and_window(shots: Tensor, shot: Tensor, sink: int, shot_sink: int, window: int) -> Tensor:
    """Return bool (..., n): the film's first `sink` pages, the running shot's first `shot_sink`,
    and the last `window`."""
    index = torch.arange(shots.shape[-1], device=shots.device)
    inside = shots == shot[..., None]
    rank = inside.cumsum(-1) - 1
    return (index < sink) | (inside & (rank < shot_sink)) | recent(shots, window)


POLICIES = Registry("policy")
BUDGET = 6  # units, where none is said

for _name, _maker in {
    "full": lambda budget: Full(),
    "window": lambda budget: Window(window=budget),
    "sink": lambda budget: Sink(sink=1, window=budget - 1),
    "shot_sink": lambda budget: ShotSink(sink=1, shot_sink=1, window=budget - 2),
    "camr": lambda budget: CAMR(budget=budget),
    "random": lambda budget: RandomTopK(budget=budget),
    "random_shared": lambda budget: RandomTopK(budget=budget, shared=True),
}.items():
    POLICIES.add(_name, _maker)
BUILT_IN = (*POLICIES, "oracle")  # the last one is in no menu


def policy_named(policy: "str | Policy | Mapping", budget: int = BUDGET, **more: Any) -> Policy:
    """The policy of a name that sees at most `budget` units (`full` sees all), with further
    settings.

    A name of one's own (see `cinelab.registry`) or an import path stands for a class, which is
    given `budget` if it takes one, or for a function of the budget. A Policy has a budget already
    and stays as it is; a dictionary is one that `policy_dict` wrote down. `oracle`, which must be
    told its `shots`, is for tests whose truth is known.
    """
    if isinstance(policy, str):
        made = _of_name(policy, budget)
    else:
        made = policy_from(policy) if isinstance(policy, Mapping) else policy
    if not isinstance(made, Policy):
        raise CinelabError(
            f"policy is {policy!r:.80}; give a name ({', '.join(POLICIES)}), an import path or a "
            "Policy, "
            "such as CAMR(budget=6)."
        )
    if odd := [name for name in more if name not in {one.name for one in fields(made)}]:
        raise CinelabError(
            f"Policy {name_of(made)} has no {odd[0]!r}; leave it out, or give it that field."
        )
    return tried(replace(made, **more) if more else made)


def _of_name(name: str, budget: int) -> Policy:
    if name in BUILT_IN and budget < 3:
        raise CinelabError(f"budget is {budget}; the compared policies need at least 3 units.")
    if name == "oracle":
        return Oracle(budget=budget)
    maker = POLICIES.get(name)
    if isinstance(maker, Policy):
        return maker
    of_ours = isinstance(maker, type) and issubclass(maker, Policy)
    # whatever else stands there is not called
    if not of_ours and path_of(maker) == POLICIES.name_of(maker):
        raise CinelabError(
            f"policy {name!r} is {maker!r:.60}; name a class of policies, or register the "
            "function that makes one."
        )
    try:
        known = inspect.signature(maker).parameters
    except ValueError as error:
        raise CinelabError(
            f"policy {name!r} cannot be made ({error}); register a class of policies."
        ) from error
    if "budget" in known or any(one.kind is one.VAR_KEYWORD for one in known.values()):
        return maker(budget=budget)
    takes = not isinstance(maker, type) and any(one.default is one.empty for one in known.values())
    return maker(budget) if takes else maker()


def tried(policy: Policy) -> Policy:
    """A policy as it is; one of a user's class is asked once, so that a mistake is a sentence
    before any work is done."""
    if type(policy).__module__ == __name__:
        return policy
    name = name_of(policy)
    shots = torch.tensor([[0, 0, 1], [0, 1, 1]])
    said = {
        one for one, hint in type(policy).__annotations__.items() if "ClassVar" not in str(hint)
    }
    if not is_dataclass(policy) or said - {one.name for one in fields(policy)}:
        raise CinelabError(
            f"Policy {name} has settings that are no fields; put @dataclass(frozen=True) above "
            "its class."
        )
    if taken := {"kind", "name"} & {one.name for one in fields(policy)}:
        raise CinelabError(
            f"Policy {name} has a field {taken.pop()!r}, which is the word for its class on the "
            "disk; rename it."
        )
    try:
        count = policy.budget_at(3)
        ranks = policy.priority(shots, torch.tensor([1, 2]))
    except NotImplementedError as error:
        raise CinelabError(
            f"Policy {name} lacks budget_at(count) or priority(shots, shot); write both."
        ) from error
    if isinstance(count, bool) or not isinstance(count, Integral) or count < 0:
        raise CinelabError(
            f"Policy {name}: budget_at(3) is {count!r}; return how many of 3 finished units are "
            "seen, a whole number."
        )
    if not isinstance(ranks, Tensor) or ranks.shape != shots.shape:
        found = tuple(ranks.shape) if isinstance(ranks, Tensor) else type(ranks).__name__
        raise CinelabError(
            f"Policy {name}: priority gives {found} for 2 films of 3 units; return a number for "
            "every unit, (2, 3)."
        )
    return policy


def name_of(policy: Policy) -> str:
    """The name `policy_named` knows a policy by: a built-in or registered one, else the import path
    of its class."""
    if type(policy) is RandomTopK:
        return "random_shared" if policy.shared else "random"
    kinds = {
        Full: "full",
        Window: "window",
        Sink: "sink",
        ShotSink: "shot_sink",
        CAMR: "camr",
        Oracle: "oracle",
    }
    return kinds.get(type(policy)) or POLICIES.name_of(type(policy))


def seeded(policy: Policy, seed: int) -> Policy:
    """The policy with another seed, where it draws at all: every evaluation seed has random choices
    of its own."""
    return (
        replace(policy, seed=seed)  # type: ignore[call-arg]  # it has the field
        if any(part.name == "seed" for part in fields(policy))
        else policy
    )


def label_of(policy: "str | Policy | Mapping") -> str:
    """What tables and figures call a policy: its name, or its class with the settings that are not
    as usual."""
    if isinstance(policy, str):
        return policy
    policy = policy_named(policy)
    if (name := name_of(policy)) in BUILT_IN:
        return name
    name = name.rpartition(":")[2].rpartition(".")[2]
    own = [one for one in fields(policy) if getattr(policy, one.name) != one.default]
    return (
        f"{name}({', '.join(f'{one.name}={getattr(policy, one.name)}' for one in own)})"
        if own
        else name
    )


def policy_dict(policy: Policy) -> dict:
    """A policy as plain values, with its class as `name`: the bare name of a built-in one, else its
    import path."""
    return to_kind(policy, Policy, "name")


def policy_from(values: Mapping) -> Policy:
    """What `policy_dict` wrote, or settings with their class as `kind`. Raises CinelabError where
    the class is not there."""
    key = next((key for key in ("name", "kind") if key in values), None)
    if key is None:
        raise CinelabError(
            f"policy is {dict(values)!r:.80}; say its class as kind, such as kind: CAMR."
        )
    return from_kind(values, Policy, "policy", key)


def with_budget(policy: Policy, budget: int) -> Policy:
    """The same policy with another budget."""
    if (name := name_of(policy)) in BUILT_IN and not hasattr(policy, "budget"):
        return policy_named(name, budget, positions=policy.positions, unit=policy.unit)
    if "budget" not in {one.name for one in fields(policy)}:
        raise CinelabError(
            f"budget is {budget}, but policy {name} has no budget that can be set; leave it out."
        )
    return replace(policy, budget=budget)  # type: ignore[call-arg]  # it has the field


def budget_of(policy: Policy, unlimited: int = BUDGET) -> int:
    """How many units a policy sees of a long film; `unlimited` for one that sees ever more."""
    seen = policy.budget_at(10**9)
    return unlimited if seen > 10**6 else seen
