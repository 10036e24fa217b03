"""Policies: which finished pages of the film a new chunk attends to, under a fixed budget.

A page is what is stored and retrieved together: a whole chunk, or a single latent frame. A policy
decides by two masks: pages that are *pinned* (always attended to), and pages that *compete* by
relevance for what the budget leaves. Exactly `budget_at(n)` of n finished pages are attended to,
always: where nothing competes, the most recent ones fill the budget. So shapes depend on n alone.

    n finished pages   ... any leading dimensions, such as B films
    R query chunks   T tokens a query chunk   U tokens a page   h heads   d head size

The same object makes the masks of training (`cinelab.memory.context`) and retrieves from the cache
in streaming (`cinelab.memory.cache`).
"""

from dataclasses import dataclass, field
from math import inf

import torch
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.seeds import rng_at

POSITIONS = ("absolute", "packed")
UNITS = ("chunk", "frame")
SCORES = ("mean", "mass")
SHOWN = ("who", "where")  # what a store may say of every latent frame beside its shot
BLOCK = 8  # pages that are ranked together where a long history is searched in two steps


@dataclass(frozen=True)
class Policy:
    """Which pages a chunk attends to. A subclass gives `budget_at`, and `pinned` or `priority`.

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
        """How many pooled tokens of a page relevance is computed from; None = all, unpooled."""
        return None

    @property
    def candidates(self) -> int | None:
        """How many pages of a long history are compared one by one; None = all of them."""
        return None

    @property
    def compared(self) -> int | None:
        """How many pages are compared one by one, the budget considered; None = all of them."""
        return None

    @property
    def routed_layers(self) -> tuple[int, ...] | None:
        """The layers, from 0, in which pages compete by relevance; None = in all of them."""
        return None

    def routed_in(self, layer: int) -> bool:
        """Whether pages compete by relevance in a layer; elsewhere the most recent ones win."""
        return self.routed and (self.routed_layers is None or layer in self.routed_layers)

    @property
    def shown(self) -> str | None:
        """Which numbers a training gives in place of shots: "who" or "where"; None = the shots."""
        return None

    @property
    def reuse_choice(self) -> bool:
        """Whether a chunk's clean pass attends to what its first level retrieved, where pages
        compete; else it retrieves anew by its own queries."""
        return False

    @classmethod
    def of_name(cls, name: str) -> "Policy":
        """Return the policy of a name or an import path, where a setting wants a policy."""
        from cinelab.memory.policy_registry import policy_named  # late: it imports this module

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
                    f"Policy {name} is {value}; it counts pages and cannot be negative."
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
        """Whether every page is always retrieved, whatever `priority` says: then nothing is chosen
        at all."""
        return False

    def budget_at(self, count: int) -> int:
        """Return how many of `count` finished pages a chunk attends to."""
        raise NotImplementedError

    def held_at(self, count: int, heads: int) -> int:
        """Return how many of `count` finished pages a layer's heads may attend to together: so many
        must be on the device at once."""
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
    """Return bool (..., n): True for the last `window` pages of `shots` (..., n)."""
    count = shots.shape[-1]
    return (torch.arange(count, device=shots.device) >= count - window).expand(shots.shape)


@dataclass(frozen=True)
class Full(Policy):
    """All pages, always. The cost of a chunk grows with the film.

    film  . . . . . . . .|now      attended  # # # # # # # #
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

        attended  . # # . . # . #      # at the end: window; the others: retrieved

    Relevance is how much the chunk's own queries attend to the page's keys (both unrotated): `mean`
    compares mean query and mean key (the paper's s(i, f)); `mass` sums the attention that each page
    would draw (ours). The heads of a layer retrieve together, so that a layer attends to `budget`
    pages and no more; with `per_head` each head retrieves for itself, and a layer's heads together
    may hold a whole film. Queries and keys are first averaged to `summary` tokens a page (None =
    all of them). A history of more than `candidates` pages is searched in two steps: blocks of
    BLOCK pages by their mean keys first, then the pages of the best blocks one by one, so that the
    search costs next to nothing however long the film (None = one step).

    With `routed_layers` only these layers retrieve by relevance. The others attend to as many
    pages, the pinned and the most recent ones, so that every layer still attends to the budget.
    """

    budget: int = 6
    sink: int = 0
    shot_sink: int = 0
    window: int = 1
    score: str = "mass"
    per_head: bool = False
    summary: int | None = 3  # pooled tokens a page, at most; None = all of its tokens
    candidates: int | None = 128  # pages that are compared one by one; None = all of them
    # layers, from 0, that retrieve by relevance; None = all of them
    routed_layers: tuple[int, ...] | None = None
    # the clean pass attends to what the chunk's first level retrieved: nothing is gathered twice.
    # In training clean chunks retrieve by their own queries in either case.
    reuse_choice: bool = False

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
                "pages), or None for all."
            )
        if any(layer < 0 for layer in self.routed_layers or ()):
            raise CinelabError(
                f"CAMR routed_layers is {self.routed_layers}; it counts layers from 0."
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
        """How many pages of a long history are compared one by one: the candidates, and always more
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
class CausalCine(CAMR):
    """CAMR as CausalCine publishes it (arXiv 2605.12496), in latent frames: the 5 most relevant of
    the film, and the last 9 (its window of 3 chunks of 3). There is no sink.

    A frame's relevance is its mean key times the chunk's mean query, summed over heads: one choice
    a layer, for the whole chunk. What is retrieved always stands packed, so that with a chunk of 3
    the places in time are 0 to 4, 5 to 13, and 14 to 16. All frames are compared one by one.
    """

    budget: int = 14
    window: int = 9
    score: str = "mean"
    summary: int | None = 1
    candidates: int | None = None
    positions: str = field(default="packed", kw_only=True)
    unit: str = field(default="frame", kw_only=True)


@dataclass(frozen=True)
class Oracle(Policy):
    """The upper bound of retrieval: the pages that are known to matter, and a window. What the
    budget leaves goes to the most recent others.

    In a test those are the pages of `shots`, counted from 0, which truly show what returns. A
    training is given the numbers of what every latent frame shows in place of its shot, and `shown`
    says which numbers: "who" = the character, "where" = the place. Then the pages that matter are
    those of the running chunk's own number.
    """

    budget: int = 6
    window: int = 1
    shots: tuple[int, ...] = ()
    shown: str | None = None

    def _check(self) -> None:
        if self.shown not in (None, *SHOWN):
            raise CinelabError(
                f"Oracle shown is {self.shown!r}; use one of {', '.join(SHOWN)}, or None."
            )
        if self.window > self.budget:
            raise CinelabError(
                f"Oracle budget is {self.budget} but the window alone takes {self.window}; raise "
                "the budget."
            )

    def budget_at(self, count: int) -> int:
        return min(self.budget, count)

    def priority(self, shots: Tensor, shot: Tensor) -> Tensor:
        count = shots.shape[-1]
        known = shots == shot[..., None]
        if self.shown is None:
            known = torch.isin(shots, shots.new_tensor(self.shots))
        newest = torch.arange(count, device=shots.device) - float(count + 1)  # -1 - count ... -2
        # pages of the known shots rank 1 ... count, above all others, the most recent first
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
        place = place[:-1] if self.shared else place  # without its last number, the layer
        shape = (q.shape[0], 1, q.shape[1], k.shape[1])
        # the word addresses the draw: another one would draw other numbers
        return torch.rand(shape, generator=rng_at(self.seed, "lot", *place))


def sinks_and_window(shots: Tensor, shot: Tensor, sink: int, shot_sink: int, window: int) -> Tensor:
    """Return bool (..., n): the film's first `sink` pages, the running shot's first `shot_sink`,
    and the last `window`."""
    index = torch.arange(shots.shape[-1], device=shots.device)
    inside = shots == shot[..., None]
    rank = inside.cumsum(-1) - 1  # of a page within its shot, from 0
    return (index < sink) | (inside & (rank < shot_sink)) | recent(shots, window)
