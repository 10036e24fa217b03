"""Sights for whole clips: what every token of a clip attends to, in one pass of the model.

B batch   F frames   N tokens a frame   T = F N   h heads   d head size   n chunks   c frames a chunk

Bidirectional   every frame sees every frame (stage 0, and the yardstick)
Causal          chunk i sees finished chunks that the policy keeps, and itself
TeacherForcingContext  the clip twice, [clean | noisy]; a noisy chunk sees clean chunks before it, and itself
KnownHistory    the same in two calls: the clean clip once, the noisy one as often as wanted
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.memory.policy import FULL, Full, Policy
from cinelab.memory.routing import choose_all, past_priorities, relevance
from cinelab.readable import Readable
from cinelab.seeds import rng_at

STRIP = 8  # chunks whose attention is computed together
# tokens from which on a chunk is a strip of its own: a mask of all the clip's tokens would not fit
# any more
WIDE = 1024


@dataclass(frozen=True)
class BidirectionalContext(Readable):
    """Everything sees everything. `frames` (F,) are positions in time."""

    frames: Tensor

    def layer(self, index: int, rope) -> Callable:
        freqs = rope.freqs(self.frames)
        return lambda q, k, v: (rope.rotate(q, freqs), rope.rotate(k, freqs), v, None)


class TeacherForcingContext:
    """[clean | noisy] under a policy: exactly what streaming will see, for all chunks at once.

        clean i   sees clean j <= i           noisy i   sees clean j < i, and noisy i

    `shots` (B, F), or (F,) for films cut alike, says which shot each frame belongs to. With
    `halves=1` there is only one copy, and chunk i sees chunks j <= i of it (plain block-causal).
    With `across`, noisy chunks see finished chunks of other shots only: what the running shot has
    already shown is hidden from them.
    """

    # over all heads, where processes share them (see train.sequence)
    average: Callable[[Tensor], Tensor] | None = None

    def __init__(
        self, policy: Policy, shots: Tensor, chunk: int, halves: int = 2, across: bool = False
    ):
        frames = shots.shape[-1]
        if frames % chunk:
            raise CinelabError(
                f"A clip of {frames} latent frames does not divide into chunks of {chunk}; "
                "change the clip length or the chunk."
            )
        if policy.unit != "chunk" and chunk > 1:
            raise CinelabError(
                "Policy unit 'frame' with chunks of several frames is for streaming; "
                "train with unit 'chunk'."
            )
        if across and (policy != Full() or halves != 2):
            raise CinelabError(
                f"across=True is for training with full memory, not for {policy}; use Full()."
            )
        if (most := getattr(policy, "compared", None)) is not None and frames // chunk > most:
            raise CinelabError(
                f"A clip of {frames // chunk} chunks is longer than the {most} candidates that "
                f"{type(policy).__name__} "
                "compares one by one, as training does; give the policy candidates=None."
            )
        self.policy = policy
        self.chunk = chunk
        self.halves = halves
        self.across = across
        self.films = shots.shape[0] if shots.ndim == 2 else None  # None = as many as a call shows
        self.frames = frames
        self.shots = shots.reshape(-1, frames)[:, ::chunk]
        # full memory is the same for all films
        films = self.shots[:1] if policy.sees_all else self.shots
        self._priorities = past_priorities(policy, films)
        self._freqs_of: dict[str, Tensor] = {}
        self._static: Tensor | None = None
        self._mask: Tensor | tuple | None = None

    def layer(self, index: int, rope) -> Callable:
        packed = self.policy.positions == "packed" and not self.policy.sees_all
        return lambda q, k, v: (self._packed if packed else self._masked)(index, rope, q, k, v)

    def _allowed(self, index: int, q: Tensor, k: Tensor) -> Tensor:
        """(B or 1, G, halves n, n): which finished chunk each query chunk sees."""
        if not self.policy.routed:
            if self._static is None:
                seen = choose_all(self.policy, self._priorities, None)  # (B or 1, 1, n, n)
                noisy = seen
                if self.across:
                    other = (self.shots[:, :, None] != self.shots[:, None])[:, None]
                    seen, noisy = seen.expand(other.shape), seen & other
                self._static = torch.cat([seen, noisy][: self.halves], dim=2)
            return self._static
        queries, keys = (x.unflatten(1, (self.halves, -1)).unbind(1) for x in (q, k))
        return torch.cat([self._routed(index, half, keys[0]) for half in queries], dim=2)

    def _routed(self, index: int, q: Tensor, k: Tensor) -> Tensor:
        """(B, G, n, n): which finished chunk each chunk of one copy of the clip retrieves.

        A call wider than the films is a guided one, with their prompts and then without. All its
        parts see what the first one's queries look for, as in streaming (`cache.KVCache`).
        """
        n = self.frames // self.chunk
        films = self.films or q.shape[0]
        past = torch.ones(n, n, dtype=torch.bool, device=q.device).tril(-1)
        queries, keys = (rearrange(x[:films], "b (n t) h d -> b n t h d", n=n) for x in (q, k))
        priorities = [repeat_to(one, films) for one in self._priorities]
        scores = relevance(self.policy, queries, keys, past, (index,))
        if self.average is not None and scores.shape[1] == 1:
            scores = self.average(scores)  # mine are the mean of my heads alone
        return repeat_to(choose_all(self.policy, priorities, scores), q.shape[0])

    def _masked(self, index: int, rope, q: Tensor, k: Tensor, v: Tensor):
        """Absolute positions: one dense mask over all tokens."""
        if self._mask is None or self.policy.routed:  # a static policy's is the same for all layers
            allowed = self._allowed(index, q, k)
            n = allowed.shape[-1]
            own = torch.eye(self.halves * n, dtype=torch.bool, device=q.device).expand(
                *allowed.shape[:2], -1, -1
            )
            past = (
                torch.cat([allowed, torch.zeros_like(allowed)], dim=-1)
                if self.halves == 2
                else allowed
            )
            self._mask = self._strips(past | own, q.shape[1] // (self.halves * n), q.dtype)
        freqs = self._freqs("all", rope, torch.arange(self.frames).repeat(self.halves))
        return rope.rotate(q, freqs), rope.rotate(k, freqs), v, self._mask

    def _strips(self, seen: Tensor, tokens: int, dtype: torch.dtype) -> Tensor | tuple:
        """Chunk-level sight (B, G, R, R) as a bias of tokens. A long clip goes in strips of a few
        chunks, clean and noisy ones together: most of [clean | noisy] squared is never seen and
        need not be multiplied."""
        n = seen.shape[-1] // self.halves
        step = STRIP if tokens < WIDE else 1
        if n <= step:
            return bias(seen, tokens, dtype)
        parts = []
        for first in range(0, n, step):
            until = min(first + step, n)
            rows = [slice(first + half * n, until + half * n) for half in range(self.halves)]
            columns = [slice(0, until), *rows[1:]]
            part = torch.cat([seen[:, :, one] for one in rows], dim=2)
            part = torch.cat([part[..., one] for one in columns], dim=3)
            rows, columns = (
                [slice(x.start * tokens, x.stop * tokens) for x in side] for side in (rows, columns)
            )
            parts.append((rows, columns, bias(part, tokens, dtype)))
        return tuple(parts)

    def _packed(self, index: int, rope, q: Tensor, k: Tensor, v: Tensor):
        """Packed positions: each chunk gathers its own kept chunks, placed side by side before
        it."""
        allowed = self._allowed(index, q, k)  # (B, G, R, n)
        n = allowed.shape[-1]
        heads = q.shape[2]
        budget = self.policy.budget_at(allowed.shape[-1] - 1)
        # ties keep no order, so sort by film order
        kept, picks = allowed.to(torch.int8).topk(budget, dim=-1)
        # (B, G, R, budget), -1 = nothing yet
        picks = torch.where(kept.bool(), picks, -1).sort(dim=-1).values
        queries, own_k, own_v = (
            rearrange(x, "b (r t) h d -> b r t h d", r=self.halves * n) for x in (q, k, v)
        )
        c = self.chunk
        # (budget, 1, t, 1, d / 2)
        old = self._freqs("old", rope, torch.arange(budget * c)).unflatten(0, (budget, 1, -1))
        now = self._freqs("now", rope, budget * c + torch.arange(c))
        # every unit in every place: fewer turns than kept units
        placed = rope.rotate(own_k[:, None, :n], old).flatten(1, 2)
        # (B, R, budget t, h, d)
        past_k = gather(placed, picks.clamp(min=0) + n * torch.arange(budget, device=q.device))
        past_v = gather(own_v[:, :n], picks)
        k = torch.cat([past_k, rope.rotate(own_k, now)], dim=2)
        v = torch.cat([past_v, own_v], dim=2)
        seen = (
            (picks >= 0)
            .expand(q.shape[0], heads, -1, -1)
            .repeat_interleave(q.shape[1] // (self.halves * n), -1)
        )
        seen = torch.cat([seen, seen.new_ones(*seen.shape[:3], own_k.shape[2])], dim=-1)
        mask = rearrange(seen, "b h r s -> (b r) h 1 s")
        return rope.rotate(queries, now).flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), mask

    def _freqs(self, name: str, rope, frames: Tensor) -> Tensor:
        if name not in self._freqs_of:
            self._freqs_of[name] = rope.freqs(frames)
        return self._freqs_of[name]


class KnownHistory(TeacherForcingContext):
    """Teacher forcing whose clean half is computed once and kept: for ODEs and scores, which ask
    many times.

        sight = KnownHistory(Full(), shots, chunk)
        sight.show(net, clean, text, slot)          then, as often as wanted: net(noisy, t, text, slot, sight)

    Noisy calls may be wider than the clean one by a whole factor (guidance). Whether gradients flow
    through the history is the caller's choice: `show` under `torch.no_grad()` or not.
    """

    def __init__(self, policy: Policy, shots: Tensor, chunk: int, across: bool = False):
        super().__init__(policy, shots, chunk, across=across)
        if policy.positions == "packed" and not policy.sees_all:
            raise CinelabError(
                "KnownHistory keeps true positions; use a policy with positions='absolute'."
            )
        self._clean = CausalContext(policy, shots, chunk)
        self._kept: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self._showing = False
        self._width = 0

    def show(self, net: Callable, clean: Tensor, text, slot: Tensor) -> None:
        """Keep keys and values of the clean clip (B, F, C, h, w)."""
        self._showing = True
        net(clean, clean.new_zeros(clean.shape[:2]), text, slot, self)
        self._showing = False

    def layer(self, index: int, rope) -> Callable:
        # decided now: a block may be computed again going back
        look = self._keep if self._showing else self._recall
        return lambda q, k, v: look(index, rope, q, k, v)

    def _keep(self, index: int, rope, q: Tensor, k: Tensor, v: Tensor):
        q, turned, v, mask = self._clean.layer(index, rope)(q, k, v)
        self._kept[index] = (k, turned, v)
        return q, turned, v, mask

    def _recall(self, index: int, rope, q: Tensor, k: Tensor, v: Tensor):
        raw, past_k, past_v = (repeat_to(x, q.shape[0]) for x in self._kept[index])
        # a static policy's mask is the same for all layers
        if self._width != q.shape[0] or self.policy.routed:
            n = self.frames // self.chunk
            allowed = (
                self._routed(index, q, raw)
                if self.policy.routed
                else self._allowed(index, q, k)[:, :, n:]
            )
            own = torch.eye(allowed.shape[-1], dtype=torch.bool, device=q.device).expand(
                allowed.shape
            )
            seen = torch.cat([allowed, own], dim=-1)
            seen = seen if seen.shape[0] == 1 else repeat_to(seen, q.shape[0])
            self._mask = self._noisy_strips(seen, q.shape[1] // allowed.shape[-1], q.dtype)
            self._width = q.shape[0]
        freqs = self._freqs("clip", rope, torch.arange(self.frames))
        k, v = torch.cat([past_k, rope.rotate(k, freqs)], dim=1), torch.cat([past_v, v], dim=1)
        return rope.rotate(q, freqs), k, v, self._mask

    def _noisy_strips(self, seen: Tensor, tokens: int, dtype: torch.dtype) -> tuple:
        """(B, G, n, 2n) as strips of a few noisy chunks: the clean chunks before them, and
        themselves."""
        n = seen.shape[-2]
        parts = []
        step = STRIP if tokens < WIDE else 1
        for first in range(0, n, step):
            until = min(first + step, n)
            columns = [slice(0, until), slice(n + first, n + until)]
            part = torch.cat([seen[:, :, first:until, one] for one in columns], dim=-1)
            spans = (
                [slice(x.start * tokens, x.stop * tokens) for x in side]
                for side in ([slice(first, until)], columns)
            )
            parts.append((*spans, bias(part, tokens, dtype)))
        return tuple(parts)


def CausalContext(policy: Policy, shots: Tensor, chunk: int) -> TeacherForcingContext:
    """Plain block-causal sight over one copy of the clip."""
    return TeacherForcingContext(policy, shots, chunk, halves=1)


def bias(seen: Tensor, tokens: int, dtype: torch.dtype) -> Tensor:
    """Which chunk sees which (..., R, S) -> what to add to the scores of tokens (..., R tokens, S
    tokens)."""
    spread = seen.repeat_interleave(tokens, -1).repeat_interleave(tokens, -2)
    return torch.zeros(spread.shape, dtype=dtype, device=seen.device).masked_fill_(
        ~spread, float("-inf")
    )


def gather(x: Tensor, picks: Tensor) -> Tensor:
    """Units x (B, n, t, h, d) by picks (B or 1, G, R, k) -> (B, R, k t, h, d); -1 fetches unit 0
    (masked later)."""
    batch, _, tokens, heads, _ = x.shape
    picks = picks.clamp(min=0)
    if picks.shape[1] == 1:
        # (B, R, k)
        rows = torch.arange(batch, device=x.device)[:, None, None] * x.shape[1] + picks[:, 0]
        return (
            x.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, rows.shape).flatten(2, 3)
        )
    rows = torch.arange(batch, device=x.device)[:, None, None, None]
    columns = torch.arange(heads, device=x.device)[None, :, None, None]
    out = x.transpose(2, 3).transpose(1, 2)[rows, columns, picks]  # (B, h, R, k, t, d)
    return rearrange(out, "b h r k t d -> b r (k t) h d")


def repeat_to(x: Tensor, batch: int) -> Tensor:
    """Guided calls show each film twice: repeat (B, ...) to (batch, ...)."""
    times = batch // x.shape[0]
    return x if times == 1 else x.repeat(times, *[1] * (x.ndim - 1))


def sample_history_policy(
    seed: int, step: int, camr: Policy, camr_share: float, across_share: float = 0.0
) -> tuple[Policy, bool]:
    """What a training step sees: policy, and whether other shots only. CAMR, other shots or full
    memory, by lot."""
    lot = torch.rand((), generator=rng_at(seed, "policy", step))
    if lot < camr_share:
        return camr, False
    return FULL, bool(lot < camr_share + across_share)
