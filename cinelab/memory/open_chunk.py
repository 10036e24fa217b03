"""The chunk being made: an attention context over what its film's KV cache retrieves, and itself.

B films   n finished pages   m pages of a chunk   U tokens a page   T tokens of a chunk
h heads   d head size   k retrieved pages   B' films of a call: B, or 2 B where it is guided
G heads that retrieve for themselves: h, or 1 where a layer retrieves as one
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from cinelab.memory.passes import KV, LaidOut, PassesShare, Retrieved, Written
from cinelab.memory.routing import choose, pool, relevance, searched_in_two_steps
from cinelab.ops.attention import attention
from cinelab.ops.rope import Rope
from cinelab.ops.tensors import repeat_batch, to_device
from cinelab.readable import Readable

if TYPE_CHECKING:
    from cinelab.memory.cache import KVCache

ERASED = -1e9  # the priority of an erased page, below all others


@dataclass
class OpenChunk(Readable):
    """The chunk being made: an attention context over the retrieved pages and the chunk itself.

        cache   . # # . . # . # |now        # retrieved by the policy
        now attends to            # # # # + itself

    One object serves all denoising passes of a chunk, so that a block that is computed again in
    backward (activation checkpointing) attends to what it attended to before, even where later
    chunks have been appended since.
    """

    cache: "KVCache"
    chunk: int
    shot: Tensor  # (B,), on the host
    recording: bool = False  # the clean pass: keys and values are written down
    written: dict[int, Written] = field(default_factory=dict)
    decided: list[dict] = field(default_factory=list)
    _shared: PassesShare = field(default_factory=PassesShare)
    _retrieved: dict[int, Retrieved] = field(default_factory=dict)
    # of every layer, keys and values: the retrieved ones with the chunk's own behind them
    _buffers: dict[tuple, Tensor] = field(default_factory=dict)
    _with_gradients: bool = False  # a pass with gradients may come back to what was retrieved
    _priority_on_device: Tensor | None = None

    def record(self) -> "OpenChunk":
        """Return the context of the clean pass.

        Where pages compete it retrieves anew from its own queries, into the memory of what the
        denoising passes had laid out; else, and where the policy says so, it attends to the same.
        """
        retrieved: dict[int, Retrieved] = {}
        if not self._with_gradients and (not self.routed or self.cache.policy.reuse_choice):
            films = self.cache.films
            retrieved = {
                layer: one for layer, one in self._retrieved.items() if len(one.keys) == films
            }
        buffers = {} if self._with_gradients else self._buffers
        if not self._with_gradients:
            self._retrieved = retrieved  # so that nothing of it outlives `close`
        return OpenChunk(
            self.cache,
            self.chunk,
            self.shot,
            recording=True,
            decided=self.decided,
            _shared=self._shared,
            _retrieved=retrieved,
            _buffers=buffers,
        )

    def close(self) -> None:
        """Let go of what was laid out and written down, once it is stored: nothing attends to it
        any more, but for a backward pass that comes back to it."""
        if not self._with_gradients:
            for held in (self._retrieved, self._buffers, self.written):
                held.clear()

    @cached_property
    def routed(self) -> bool:
        """Whether pages compete for the budget: then every layer and pass chooses for itself."""
        cache = self.cache
        return cache.policy.routed and cache.policy.budget_at(cache.length) < cache.length

    def laid_out(self) -> LaidOut | None:
        """Return what all layers have laid out for the chunk's later passes; None before the first
        pass, with gradients, and where pages are attended to in the store."""
        retrieved = self._retrieved.values()
        if self._with_gradients or not retrieved or not all(one.joined for one in retrieved):
            return None
        buffers = {
            layer: (self._buffers[layer, "keys"], self._buffers[layer, "values"])
            for layer in self._retrieved
        }
        return LaidOut(buffers, cast(Tensor, self._shared.freqs))

    def lay_out_in(self, memory: LaidOut) -> None:
        """Lay out what the first pass retrieves in the memory of a finished chunk, where it is of
        the same shape."""
        for layer, pair in memory.buffers.items():
            for name, buffer in zip(KV, pair, strict=True):
                self._buffers[layer, name] = buffer

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rope: Rope) -> Tensor:
        """Return the heads' outputs (B, T, h, d) from unrotated q, k, v (B, T, h, d)."""
        self._with_gradients |= torch.is_grad_enabled()
        self.cache.rope = rope
        if layer not in self._retrieved:
            self._retrieved[layer] = self._retrieve(layer, q, rope)
        freqs = self._own_freqs(rope)
        retrieved = self._retrieved[layer]
        if torch.is_grad_enabled() or self.recording or not retrieved.keys.shape[1]:
            rotated = rope.rotate(k, freqs)
            if self.recording:
                self.written[layer] = self._written(k.detach(), rotated.detach(), v.detach(), rope)
            keys, values = self._with_own(layer, rotated, v)
        else:
            keys, values, own = self._room_for(layer, k)
            rope.rotate_into(k, freqs, keys[:, own:])
            values[:, own:] = v
        return attention(rope.rotate(q, freqs), keys, values)

    def _written(self, k: Tensor, rotated: Tensor, v: Tensor, rope: Rope) -> Written:
        """Return what is stored of a layer's unrotated keys k and values v."""
        cache = self.cache
        if cache.policy.positions == "packed":  # the chunk was attended to at another place
            rotated = rope.rotate(k, rope.freqs_from(cache.frames_done, cache.chunk))
        tokens = cache.policy.summary if cache.policy.routed else None
        pooled = None if tokens is None else pool(cache.paged(k), tokens)
        return Written(rotated, v, pooled)

    def _retrieve(self, layer: int, q: Tensor, rope: Rope) -> Retrieved:
        """Return rotated keys and values of the pages that the policy retrieves for a layer."""
        cache = self.cache
        nothing = Retrieved(q[:, :0], q[:, :0])
        if cache.length == 0 or cache.policy.budget_at(cache.length) == 0:
            return nothing
        picks = self._route(layer, q)  # (B or 1, G, k)
        if not picks.shape[-1]:  # every page is erased
            return nothing
        return self._stored(layer, picks) or self._gathered(layer, picks, q, rope)

    def _stored(self, layer: int, picks: Tensor) -> Retrieved | None:
        """Return consecutive pages where they are stored; None where they must be gathered."""
        first = None if self.routed else self._first_of_consecutive(picks)
        if first is None or self._stands_elsewhere(first):
            return None
        views = [store.view(first, self.cache.length) for store in self.cache.layers[layer]]
        keys, values = (None if view is None else view.flatten(1, 2) for view in views)
        return None if keys is None or values is None else Retrieved(keys, values, first)

    def _gathered(self, layer: int, picks: Tensor, q: Tensor, rope: Rope) -> Retrieved:
        """Return a copy of retrieved pages; in the buffers, where a call shows each film once."""
        cache = self.cache
        stores = cache.layers[layer]
        joined = not torch.is_grad_enabled() and q.shape[0] == cache.films
        tokens = picks.shape[-1] * (q.shape[1] * cache.page_frames // cache.chunk)
        room = [self._buffer(layer, name, tokens, q)[:, :tokens] if joined else None for name in KV]
        keys, values = (
            store.take(picks, cache.length, out) for store, out in zip(stores, room, strict=True)
        )
        if self._stands_elsewhere(0 if self.routed else int(picks.min())):
            self._move(rope, keys, picks)
        return Retrieved(keys, values, None, joined)

    def _first_of_consecutive(self, picks: Tensor) -> int | None:
        """Return the first of pages (B or 1, G, k) that are the same of all films and heads and
        end with the newest; None where they are not. The picks are on the host."""
        first = self.cache.length - picks.shape[-1]
        return first if bool((picks == torch.arange(first, self.cache.length)).all()) else None

    def _stands_elsewhere(self, oldest: int) -> bool:
        """Whether pages from number `oldest` on stand elsewhere than in the film when they are
        attended to."""
        cache = self.cache
        if cache.policy.positions == "packed":
            return True
        distance = cache.frames_done - oldest * cache.page_frames
        return cache.max_distance is not None and distance > cache.max_distance

    def _move(self, rope: Rope, keys: Tensor, picks: Tensor) -> None:
        """Move retrieved keys (B, k U, h, d), in place, from their places in the film to where they
        are attended to."""
        turns = self._shared.turns
        if turns is None:
            turns = self._shared.turns = self._turns_by_page(rope, picks.shape[-1])
        picks = to_device(picks, turns.device)
        if len(turns) == 1:
            turned = turns[0][picks]
        else:
            turned = turns[torch.arange(len(turns), device=picks.device), picks]
        rope.move_(keys, turned.flatten(2, 3))  # of (B or 1, G, F, Dt/2, 2)

    def _turns_by_page(self, rope: Rope, count: int) -> Tensor:
        """Return the rotations (R, n, f, Dt/2, 2) that move the f frames of each stored page to
        where they are attended to, the same for every layer.

        Packed, pages stand side by side from 0, and the chunk behind them (CausalCine's
        block-relative RoPE): R is their number, since a page stands where its rank puts it. Else
        R is 1: at most `max_distance` before the chunk, since training has seen no larger distance.
        """
        cache = self.cache
        size = cache.page_frames
        frames = torch.arange(cache.frames_done).view(1, -1, size)
        if cache.policy.positions == "packed":
            target = torch.arange(count * size).view(-1, 1, size)
        else:
            target = frames.clamp(min=cache.frames_done - cast(int, cache.max_distance))
        return rope.turns(target - frames)

    @cached_property
    def _priority(self) -> tuple[Tensor, int]:
        """The policy's priorities (B, n), the same for every layer, and how many pages compete."""
        cache = self.cache
        shots = cache.page_shots
        priority = cache.policy.priority(shots, self.shot)
        if not cache.erased:
            return priority, cache.length
        erased = torch.isin(shots, torch.tensor(cache.erased, device=shots.device))
        return priority.masked_fill(erased, ERASED), cache.length - int(erased[0].sum())

    def _route(self, layer: int, q: Tensor) -> Tensor:
        """Return the pages (B or 1, G, k) that a layer retrieves, and write the decision down."""
        cache = self.cache
        priority, most = self._priority
        scores = None
        if self.routed:
            scores = self.scores(layer, q)
        # chosen once where nothing competes: every layer's choice is the same
        if scores is not None or self._shared.choice is None:
            if scores is not None:
                priority = self._priority_there(scores.device)
            picks = choose(cache.policy, priority, scores, most)
            wide = priority[:, None].expand(-1, picks.shape[1], -1)
            # a priority of 0 is a page that competed; any other was chosen by the policy's rule
            by_rule = wide.gather(-1, picks) != 0
            if scores is not None and not cache.policy.routed_in(layer):
                by_rule = torch.ones_like(by_rule)
            self._shared.choice = (picks, by_rule)
        picks, fixed = self._shared.choice
        # only the scores of what was chosen: all of them would grow with the square of the film
        noted = None if scores is None else scores.gather(-1, picks)
        self.decided.append(
            {
                "chunk": self.chunk,
                "shot": self.shot,
                "layer": layer,
                "clean": self.recording,
                "picks": picks,
                "scores": noted,
                "fixed": fixed,
            }
        )
        return picks

    def _priority_there(self, device: torch.device) -> Tensor:
        """Return the policy's priorities (B, n) on a device, copied there once a pass."""
        if self._priority_on_device is None:
            self._priority_on_device = to_device(self._priority[0], device)
        return self._priority_on_device

    def picks_of(self, layer: int) -> Tensor:
        """Return the pages (B or 1, G, k) that a layer retrieved last."""
        return next(one["picks"] for one in reversed(self.decided) if one["layer"] == layer)

    def scores(self, layer: int, q: Tensor) -> Tensor:
        """Return the relevance (B, G, n) of all finished pages to this chunk's queries."""
        cache = self.cache
        policy = cache.policy
        if not policy.routed_in(layer):  # nothing is searched: the most recent pages win
            films = q[: cache.films, None]
            unread = films.new_empty(len(films), cache.length, 0)
            return relevance(policy, films, unread, None, (self.chunk, layer))[:, :, 0]
        summary = cache.summary_of(layer)
        # the halves of a guided call route alike: by the queries under the film's own prompt
        q = q[: cache.films, None]  # (B, 1, T, h, d)
        place = (self.chunk, layer)
        count = cache.length

        def keys_of(pages: Tensor) -> Tensor:
            if summary.tokens is None:
                return cache.unrotated(layer, pages)
            taken = summary.pages.take(pages[:, None], count)
            return taken.unflatten(1, (pages.shape[1], -1))

        def all_keys() -> Tensor:
            if summary.tokens is None:
                return cache.unrotated(layer, torch.arange(count)[None])
            return summary.pages.all(count)

        if cache.erased:
            # an erased page neither competes nor speaks for its block: compare one by one
            there = to_device(self._priority[0][:1] != ERASED, q.device)
            return relevance(policy, q, all_keys(), there, place)[:, :, 0]
        most = getattr(policy, "compared", None)
        if most is None or count <= most:
            return relevance(policy, q, all_keys(), None, place)[:, :, 0]
        blocks = summary.blocks.all(summary.whole)
        found = searched_in_two_steps(policy, q, keys_of, cache.length, blocks=blocks, place=place)
        return found[:, :, 0]

    def _own_freqs(self, rope: Rope) -> Tensor:
        """Return the rotations of the chunk's own frames, the same for every layer and level."""
        cache = self.cache
        shared = self._shared
        if shared.freqs is None:
            start = cache.frames_done
            if cache.policy.positions == "packed":
                count = 0 if shared.choice is None else shared.choice[0].shape[-1]
                start = count * cache.page_frames
            shared.freqs = rope.freqs_from(start, cache.chunk)
        return shared.freqs

    def _with_own(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return retrieved keys and values with the chunk's own (B', T, h, d) behind them."""
        retrieved = self._retrieved[layer]
        if not retrieved.keys.shape[1]:
            return k, v
        if torch.is_grad_enabled():  # nothing is written in place
            return (
                torch.cat([repeat_batch(retrieved.keys, len(k)), k], dim=1),
                torch.cat([repeat_batch(retrieved.values, len(v)), v], dim=1),
            )
        keys, values, own = self._room_for(layer, k)
        keys[:, own:] = k
        values[:, own:] = v
        return keys, values

    def _room_for(self, layer: int, k: Tensor) -> tuple[Tensor, Tensor, int]:
        """Return retrieved keys and values (B', S, h, d) with room for the chunk's own (like k, B',
        T, h, d) from token number S - T on, which is returned too."""
        retrieved = self._retrieved[layer]
        alike = len(k) == self.cache.films and k.dtype == retrieved.keys.dtype
        if retrieved.first is not None and alike:
            keys, values = self._room_in_store(layer, retrieved.first, k)
        else:
            # or the call before was of another width
            if not retrieved.joined or len(retrieved.keys) != len(k):
                self._retrieved[layer] = self._join(layer, retrieved, k)
            keys, values = (self._buffers[layer, name] for name in KV)
        return keys, values, keys.shape[1] - k.shape[1]

    def _room_in_store(self, layer: int, first: int, k: Tensor) -> tuple[Tensor, Tensor]:
        """Return stored keys and values from page `first` on, with room behind them, where the
        chunk's own are drafted."""
        cache = self.cache
        draft = cache.paged(k)
        end = cache.length + draft.shape[1]
        keys, values = cache.layers[layer]
        keys, all_keys = keys.with_room(cache.length, draft)
        values, all_values = values.with_room(cache.length, draft)
        cache.layers[layer] = (keys, values)
        k, v = (buffer[:, first:end].flatten(1, 2) for buffer in (all_keys, all_values))
        own = (cache.length - first) * draft.shape[2]  # where the chunk's own tokens begin
        # a store that has grown is not held twice: nothing refers to its old buffer
        self._retrieved[layer] = Retrieved(k[:, :own], v[:, :own], first)
        return k, v

    def _join(self, layer: int, retrieved: Retrieved, own: Tensor) -> Retrieved:
        """Return what was retrieved, laid into the buffers for the films of a call (B', ...)."""
        tokens = retrieved.keys.shape[1]
        keys, values = (self._buffer(layer, name, tokens, own)[:, :tokens] for name in KV)
        for there, pages in ((keys, retrieved.keys), (values, retrieved.values)):
            there.copy_(repeat_batch(pages[: len(own)], len(own)))
        return Retrieved(keys, values, None, joined=True)

    def _buffer(self, layer: int, name: str, tokens: int, own: Tensor) -> Tensor:
        """Return a layer's buffer (B', tokens + T, h, d) of keys or of values, for so many tokens
        and the chunk's own (B', T, h, d) behind them. All passes of the chunk share it."""
        shape = (own.shape[0], tokens + own.shape[1], *own.shape[2:])
        old = self._buffers.get((layer, name))
        if old is None or old.shape != shape or old.dtype != own.dtype:
            self._buffers[layer, name] = own.new_empty(shape)
        return self._buffers[layer, name]
