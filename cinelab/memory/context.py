"""Attention contexts for whole clips: what every token of a clip attends to, in one pass.

    B batch   F latent frames   N tokens a frame   T = F N   h heads   d head size
    n chunks   c latent frames a chunk   t = c N tokens a chunk
    p pages a chunk: 1, or c where a page is a latent frame   m = n p pages of a clip
    R query chunks: n, or 2 n of [clean | noisy]   G heads that retrieve for themselves: 1 or h

    BidirectionalContext     every frame attends to every frame (stage 0, and the yardstick)
    CausalContext            chunk i attends to the clean chunks that the policy retrieves, and to
                             itself
    TeacherForcingContext    the clip twice, [clean | noisy]: clean chunks as above, a noisy chunk
                             to the clean chunks before it and to itself
    KnownHistory             the same in two calls: the clean clip once, the noisy one many times

A page is a whole chunk or a latent frame of one; chunk i may retrieve the pages of chunks before
it, and makes one choice for all its frames.

Teacher forcing on [clean | noisy] is that of Causal Forcing (arXiv 2602.02214, stage 1) and
CausalCine (arXiv 2605.12496); the mask under a policy is ours.

The streaming counterpart is `cinelab.memory.cache`: the same policy makes the mask here and
retrieves from the cache there, and a test holds the two equal.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.memory.packed import QKV, attend_packed
from cinelab.memory.policy import FULL, Full, Policy
from cinelab.memory.policy_registry import seeded
from cinelab.memory.routing import choose_all, past_priorities, relevance
from cinelab.ops.attention import attention
from cinelab.ops.rope import Rope
from cinelab.ops.tensors import repeat_batch
from cinelab.ops.tiling import ChunkMask, causal_tiles, noisy_tiles
from cinelab.readable import Readable
from cinelab.seeds import rng_at

History = dict[int, tuple[Tensor, Tensor, Tensor]]  # of every layer: keys, rotated keys, values


@dataclass(frozen=True)
class BidirectionalContext(Readable):
    """Every frame attends to every frame.

          0 1 2 3
    0     # # # #        `frames` (F,) are positions in time
    1     # # # #
    2     # # # #
    3     # # # #
    """

    frames: Tensor

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rope: Rope) -> Tensor:
        """Return the heads' outputs (B, T, h, d) from unrotated q, k, v (B, T, h, d)."""
        freqs = rope.freqs(self.frames)
        return attention(rope.rotate(q, freqs), rope.rotate(k, freqs), v)


class TeacherForcingContext:
    """[clean | noisy] under a policy: what streaming will attend to, for all chunks at once.

                 clean       noisy
                 0 1 2 3     0 1 2 3
        clean 0  #                          with full memory; under another policy some of
              1  # #                        the earlier clean chunks are left out, for each
              2  # # #                      chunk those that the cache would leave out
              3  # # # #
        noisy 0              #
              1  #             #
              2  # #             #
              3  # # #             #

    `shots` (B, F), or (F,) for films cut alike, is the shot of each latent frame. With `copies=1`
    the clip is shown once, and chunk i attends to chunks j <= i of it. With `other_shots`, noisy
    chunks attend to clean chunks of other shots only: what the running shot has already shown is
    hidden from them, so that they must recall an earlier shot, as after a cut.
    """

    # Where processes share a layer's heads, this averages their scores over all heads: the heads
    # of a layer choose together (see cinelab.scale.sequence).
    average_scores: Callable[[Tensor], Tensor] | None = None

    def __init__(
        self,
        policy: Policy,
        shots: Tensor,
        chunk: int,
        *,
        copies: int = 2,
        other_shots: bool = False,
    ):
        frames = shots.shape[-1]
        _check_clip(policy, frames, chunk)
        if other_shots and (policy != Full() or copies != 2):
            raise CinelabError(
                f"other_shots=True is for training with full memory, not for {policy}; use Full()."
            )
        self.policy = policy
        self.chunk = chunk
        self.copies = copies
        self.other_shots = other_shots
        self.films = shots.shape[0] if shots.ndim == 2 else None  # None = as many as a call shows
        self.frames = frames
        self.pages = pages_of(policy, chunk)  # of a chunk
        self.shots = shots.reshape(-1, frames)[:, ::chunk]  # (B or 1, n)
        # full memory is the same for all films
        films = self.shots[:1] if policy.sees_all else self.shots
        self._priorities = past_priorities(policy, films, self.pages)
        self._freqs_of: dict[str, Tensor] = {}
        self._fixed: Tensor | None = None  # what a static policy retrieves
        self._mask: ChunkMask | None = None

    @property
    def chunks(self) -> int:
        """How many chunks the clip has."""
        return self.frames // self.chunk

    @property
    def packed(self) -> bool:
        """Whether retrieved pages stand side by side before their chunk; with full memory that is
        where they stand in any case."""
        return self.policy.positions == "packed" and not self.policy.sees_all

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rope: Rope) -> Tensor:
        """Return the heads' outputs (B, T, h, d) from unrotated q, k, v (B, T, h, d)."""
        if self.packed:
            return self._attend_packed(self._retrieved(layer, q, k), (q, k, v), (k, v), rope)
        mask = self._mask_of(layer, q, k)
        freqs = self._freqs("all", rope, torch.arange(self.frames).repeat(self.copies))
        return mask.attend(rope.rotate(q, freqs), rope.rotate(k, freqs), v)

    def _mask_of(self, layer: int, q: Tensor, k: Tensor) -> ChunkMask:
        if self._mask is None or self.policy.routed:  # a static policy's is the same for all layers
            self._mask = self._chunk_mask(self._retrieved(layer, q, k))
        return self._mask

    def _retrieved(self, layer: int, q: Tensor, k: Tensor) -> Tensor:
        """Return (B or 1, G, copies n, m): which clean page each query chunk retrieves."""
        if not self.policy.routed:
            if self._fixed is None:
                self._fixed = self._retrieved_by_rule()
            return self._fixed
        queries, keys = (x.unflatten(1, (self.copies, -1)).unbind(1) for x in (q, k))
        return torch.cat([self._routed(layer, copy, keys[0]) for copy in queries], dim=2)

    def _retrieved_by_rule(self) -> Tensor:
        """Return (B or 1, 1, copies n, m) of a static policy: queries and keys do not matter."""
        # (B or 1, 1, n, m)
        clean = choose_all(self.policy, self._priorities, None, self.pages)
        noisy = clean
        if self.other_shots:
            other = (self.shots[:, :, None] != self.shots[:, None])[:, None]
            clean = clean.expand(other.shape)
            noisy = clean & other
        return torch.cat([clean, noisy][: self.copies], dim=2)

    def _routed(self, layer: int, q: Tensor, k: Tensor) -> Tensor:
        """Return (B, G, n, m): which clean page each chunk of one copy of the clip retrieves.

        A call wider than the films is a guided one, with their prompts and then without. All its
        parts retrieve what the first one's queries are relevant to, as in streaming.
        """
        n = self.chunks
        films = self.films or q.shape[0]
        past = torch.ones(n, n, dtype=torch.bool, device=q.device).tril(-1)
        past = self._of_pages(past, -1)
        queries = q[:films].unflatten(1, (n, -1))
        keys = k[:films].unflatten(1, (n * self.pages, -1))
        priorities = [repeat_batch(one, films) for one in self._priorities]
        scores = relevance(self.policy, queries, keys, past, (layer,))
        if self.average_scores is not None and scores.shape[1] == 1:
            scores = self.average_scores(scores)  # this process holds the mean of its own heads
        return repeat_batch(choose_all(self.policy, priorities, scores, self.pages), q.shape[0])

    def _chunk_mask(self, retrieved: Tensor) -> ChunkMask:
        """Return the mask of [clean | noisy]: the retrieved clean pages, and each chunk itself."""
        n = self.chunks
        own = torch.eye(self.copies * n, dtype=torch.bool, device=retrieved.device)
        past = retrieved
        if self.copies == 2:
            past = torch.cat([retrieved, torch.zeros_like(retrieved)], dim=-1)
        allowed = self._of_pages(past | self._of_pages(own, -1), -2)
        return ChunkMask(allowed, causal_tiles(n, self.copies, self.pages))

    def _of_pages(self, chunks: Tensor, dim: int) -> Tensor:
        """Return what is said of every chunk along a dimension as said of its pages."""
        return chunks if self.pages == 1 else chunks.repeat_interleave(self.pages, dim)

    def _attend_packed(
        self, retrieved: Tensor, own: QKV, clean: tuple[Tensor, Tensor], rope: Rope
    ) -> Tensor:
        """Return the outputs (B, R t, h, d) with packed positions (see `memory.packed`).

        retrieved (B or 1, G, R, m); `own` are unrotated queries, keys and values (B, R t, h, d),
        `clean` the keys and values (B, at least m U, h, d) of what begins with the clean clip.
        """
        chunks, count = retrieved.shape[-2:]
        size = self.chunk // self.pages  # latent frames of a page
        tokens = own[0].shape[1] // chunks // self.pages
        budget = self.policy.budget_at(count - self.pages)
        past = self._freqs("past", rope, torch.arange(budget * size))
        now = self._freqs("now", rope, budget * size + torch.arange(self.chunk))
        history = (x[:, : count * tokens].unflatten(1, (count, tokens)) for x in clean)
        q, k, v = (x.unflatten(1, (chunks, -1)) for x in own)
        return attend_packed(
            retrieved,
            (q, k, v),
            (next(history), next(history)),
            budget=budget,
            freqs=(past.unflatten(0, (budget, 1, -1)), now),
            rope=rope,
        ).flatten(1, 2)

    def _freqs(self, name: str, rope: Rope, frames: Tensor) -> Tensor:
        if name not in self._freqs_of:
            self._freqs_of[name] = rope.freqs(frames)
        return self._freqs_of[name]


class CausalContext(TeacherForcingContext):
    """Block-causal attention over one copy of the clip.

          0 1 2 3
    0     #
    1     # #
    2     # # #
    3     # # # #
    """

    def __init__(self, policy: Policy, shots: Tensor, chunk: int):
        super().__init__(policy, shots, chunk, copies=1)


class KnownHistory(TeacherForcingContext):
    """Teacher forcing whose clean copy is computed once, for ODEs and scores, which call the
    network many times on the same history.

        history = KnownHistory(Full(), shots, chunk)
        history.encode(net, clean, condition)
        net(noisy, t, condition, history)        any number of times

    Noisy calls may be wider than the clean one by a whole factor (guidance). Whether gradients flow
    through the history is the caller's choice: `encode` under `torch.no_grad()` or not.
    """

    def __init__(self, policy: Policy, shots: Tensor, chunk: int, *, other_shots: bool = False):
        super().__init__(policy, shots, chunk, other_shots=other_shots)
        self.layers: History = {}
        self._frame_shots = shots
        self._width = 0

    def encode(self, net: Callable[..., Tensor], clean: Tensor, condition: Any) -> None:
        """Store keys and values of the clean clip (B, F, C, H, W), in all layers."""
        recording = _RecordingContext(self.policy, self._frame_shots, self.chunk, self.layers)
        net(clean, clean.new_zeros(clean.shape[:2]), condition, recording)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rope: Rope) -> Tensor:
        """Return the heads' outputs (B, T, h, d) of the noisy copy."""
        # unrotated keys, by which CAMR routes, rotated keys and values of the clean copy
        raw, past_k, past_v = (repeat_batch(x, q.shape[0]) for x in self.layers[layer])
        if self.packed:
            retrieved = self._retrieved_by_noisy(layer, q, k, raw)
            return self._attend_packed(retrieved, (q, k, v), (raw, past_v), rope)
        if self._mask is None or self._width != q.shape[0] or self.policy.routed:
            self._mask = self._noisy_mask(layer, q, k, raw)
            self._width = q.shape[0]
        freqs = self._freqs("clip", rope, torch.arange(self.frames))
        k = torch.cat([past_k, rope.rotate(k, freqs)], dim=1)
        v = torch.cat([past_v, v], dim=1)
        return self._mask.attend(rope.rotate(q, freqs), k, v)

    def _noisy_mask(self, layer: int, q: Tensor, k: Tensor, raw: Tensor) -> ChunkMask:
        """Return the mask (B or 1, G, m, 2 m) of the noisy copy over [clean | noisy]."""
        n = self.chunks
        retrieved = self._retrieved_by_noisy(layer, q, k, raw)
        own = self._of_pages(torch.eye(n, dtype=torch.bool, device=q.device), -1)
        allowed = torch.cat([retrieved, own.expand(retrieved.shape)], dim=-1)
        return ChunkMask(self._of_pages(allowed, -2), noisy_tiles(n, self.pages))

    def _retrieved_by_noisy(self, layer: int, q: Tensor, k: Tensor, raw: Tensor) -> Tensor:
        """Return (B or 1, G, n, m): which clean page each noisy chunk retrieves."""
        if self.policy.routed:
            return self._routed(layer, q, raw)
        retrieved = self._retrieved(layer, q, k)[:, :, self.chunks :]
        return retrieved if len(retrieved) == 1 else repeat_batch(retrieved, q.shape[0])


class _RecordingContext(CausalContext):
    """Block-causal attention that stores every layer's keys and values in `layers`."""

    def __init__(self, policy: Policy, shots: Tensor, chunk: int, layers: History):
        super().__init__(policy, shots, chunk)
        self._layers = layers

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rope: Rope) -> Tensor:
        if self.packed:  # a key is rotated anew for every chunk that retrieves it
            self._layers[layer] = (k, k, v)
            return super().attend(layer, q, k, v, rope)
        mask = self._mask_of(layer, q, k)
        freqs = self._freqs("all", rope, torch.arange(self.frames))
        rotated = rope.rotate(k, freqs)
        self._layers[layer] = (k, rotated, v)
        return mask.attend(rope.rotate(q, freqs), rotated, v)


def pages_of(policy: Policy, chunk: int) -> int:
    """Return how many pages a chunk of `chunk` latent frames is stored as."""
    return chunk if policy.unit == "frame" else 1


def _check_clip(policy: Policy, frames: int, chunk: int) -> None:
    """Raise CinelabError where a clip cannot be shown at once under a policy."""
    if frames % chunk:
        raise CinelabError(
            f"A clip of {frames} latent frames does not divide into chunks of {chunk}; "
            "change the clip length or the chunk."
        )
    most = getattr(policy, "compared", None)
    pages = frames // chunk * pages_of(policy, chunk)
    if most is not None and pages > most:
        raise CinelabError(
            f"A clip of {pages} {policy.unit}s is longer than the {most} candidates that "
            f"{type(policy).__name__} compares one by one, as training does; "
            "give the policy candidates=None."
        )


@dataclass(frozen=True)
class HistoryPolicy(Readable):
    """What a training step attends to of a clip's past: a policy, or full memory of other shots."""

    policy: Policy = FULL
    other_shots: bool = False  # noisy chunks attend to other shots only

    @property
    def name(self) -> str:
        """The name in a row of the log."""
        return "OtherShots" if self.other_shots else type(self.policy).__name__

    def context(self, shots: Tensor, chunk: int) -> TeacherForcingContext:
        """Return the context of [clean | noisy] for films cut as `shots` (B, F)."""
        return TeacherForcingContext(self.policy, shots, chunk, other_shots=self.other_shots)

    def known(self, shots: Tensor, chunk: int) -> KnownHistory:
        """Return the same with the clean copy computed once."""
        return KnownHistory(self.policy, shots, chunk, other_shots=self.other_shots)


FULL_HISTORY = HistoryPolicy()


def sample_history_policy(
    seed: int, step: int, camr: Policy, *, camr_share: float, other_shots_share: float = 0.0
) -> HistoryPolicy:
    """Return what a training step attends to: CAMR in a share of the steps, other shots only in
    another share, full memory in the rest."""
    rng = rng_at(seed, "policy", step)
    draw = torch.rand((), generator=rng)
    if draw < camr_share:
        # a random control draws anew in every step
        return HistoryPolicy(seeded(camr, int(torch.randint(2**31, (), generator=rng))))
    return HistoryPolicy(FULL, bool(draw < camr_share + other_shots_share))
