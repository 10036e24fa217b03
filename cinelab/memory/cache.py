"""The KV cache of a running film: unrotated keys and values of finished pages, per layer.

    B films   n pages so far   U tokens a page   h heads   d head size   k retrieved pages
    G heads that retrieve for themselves: h, or 1 where a layer retrieves as one

A page is what is stored and retrieved together: a chunk, or a latent frame of one. Keys are stored
before RoPE, so that a page can be rotated to any position when it is attended to. Reading never
copies the history: only the retrieved pages are gathered, from whatever store holds them
(cinelab.memory.store). A snapshot shares its stores with the cache that it was taken from.

The cached counterpart of `cinelab.memory.context`; Self Forcing (arXiv 2506.08009, Algorithms 1 and
2) rolls out with a KV cache in the same way, of rotated keys in a rolling window.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import takewhile

import pandas as pd
import torch
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.memory.policy import Policy
from cinelab.memory.routing import choose, relevance, searched_in_two_steps
from cinelab.memory.store import KVStore, Storage
from cinelab.memory.summary import Summary
from cinelab.ops.attention import attention
from cinelab.ops.rope import Rope
from cinelab.ops.tensors import repeat_batch
from cinelab.readable import Readable

ERASED = -1e9  # the priority of an erased page, below all others
ROUTING_COLUMNS = ["chunk", "shot", "layer", "head", "kept_chunk", "kept_shot", "score", "kind"]


@dataclass
class KVCache(Readable):
    """Keys and values of a film's finished chunks, and the policy that retrieves from them.

        opened = cache.open(chunk, shot)      a context for the chunk's denoising passes
        clean = opened.record()               a context for the clean pass (t = 0), which is stored
        cache.append(clean)

    What is retrieved is decided at the first denoising pass and again at the clean pass, each from
    the chunk's own queries.
    """

    policy: Policy
    chunk: int  # latent frames a chunk
    # latent frames: what is farther back stands at this distance, the farthest seen in training
    max_distance: int | None = None
    storage: Storage = Storage()
    layers: dict[int, tuple[KVStore, KVStore]] = field(default_factory=dict)  # keys, values
    summaries: dict[int, Summary] = field(default_factory=dict)  # of every routed layer
    length: int = 0  # finished pages
    # (B, n): the shot of every page
    page_shots: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    page_chunks: tuple[int, ...] = ()  # (n): the chunk of every page
    frames_done: int = 0  # finished latent frames
    # what every layer retrieved for every chunk; see `OpenChunk._route`
    decisions: tuple[dict, ...] = ()
    # how many of the newest chunks have their decisions stored; None = all of the film
    keep_decisions: int | None = None
    # shots whose pages are stored and never retrieved (what would be without them?)
    erased: tuple[int, ...] = ()

    @property
    def page_frames(self) -> int:
        """How many latent frames a page has."""
        return 1 if self.policy.unit == "frame" else self.chunk

    @property
    def films(self) -> int:
        """How many films run side by side."""
        return self.page_shots.shape[0]

    def open(self, chunk: int, shot: Tensor) -> "OpenChunk":
        """Return the context of chunk number `chunk`; `shot` (B,) is the shot each film is in."""
        return OpenChunk(self, chunk, shot)

    def append(self, clean: "OpenChunk") -> None:
        """Store the keys and values of a clean pass, and what was decided for its chunk."""
        if not clean.written:
            raise CinelabError(
                "KVCache.append() before the clean chunk was shown; call the model with the "
                "context that record() returned first."
            )
        for layer in clean.written:
            self.layers[layer] = self.extended(layer, clean)
        self.count(clean)
        self.note(clean)

    def extended(self, layer: int, clean: "OpenChunk") -> tuple[KVStore, KVStore]:
        """Return a layer's stores with the pages of a clean pass behind the others."""
        stores = self.layers.get(layer) or (self.storage.new_store(), self.storage.new_store())
        pages = self.chunk // self.page_frames
        k, v = (x.unflatten(1, (pages, -1)) for x in clean.written[layer])
        return stores[0].append(k, self.length), stores[1].append(v, self.length)

    def count(self, clean: "OpenChunk") -> None:
        """Count the pages of a chunk as finished."""
        pages = self.chunk // self.page_frames
        self.length += pages
        self.frames_done += self.chunk
        shots = clean.shot[:, None].expand(-1, pages)
        self.page_shots = torch.cat([self.page_shots.to(clean.shot.device), shots], dim=1)
        self.page_chunks += (clean.chunk,) * pages

    def note(self, clean: "OpenChunk") -> None:
        """Store what was decided for a chunk; drop what is older than `keep_decisions`."""
        earlier = self.decisions
        if self.keep_decisions is not None:
            oldest = clean.chunk - self.keep_decisions
            earlier = tuple(one for one in earlier if one["chunk"] > oldest)
        self.decisions = earlier + tuple(clean.decided)

    def decisions_of(self, chunk: int) -> list[dict]:
        """Return what every layer retrieved at the first level of the newest finished chunk.

        The decisions are read from the end, so that a long film costs no more than a short one.
        """
        newest = takewhile(lambda one: one["chunk"] == chunk, reversed(self.decisions))
        return [one for one in list(newest)[::-1] if not one["clean"]]

    def snapshot(self) -> "KVCache":
        """Return an independent cache of the same content; the stores are shared until written."""
        return replace(self, layers=dict(self.layers), summaries=dict(self.summaries))

    def summary_of(self, layer: int) -> Summary:
        """Return what a layer's relevance is read from, brought up to date with its pages."""
        tokens = self.policy.summary
        old = self.summaries.get(layer)
        if old is None or old.tokens != tokens:
            old = Summary(tokens)
        blocked = self.policy.candidates is not None
        self.summaries[layer] = old.until(self.length, self.layers[layer][0], blocked=blocked)
        return self.summaries[layer]

    def retrieved_bytes(self) -> int:
        """Return the bytes of keys and values that the next chunk attends to, in all layers and
        films."""
        pages = self.policy.budget_at(self.length)
        return sum(pages * store.page_bytes() for pair in self.layers.values() for store in pair)

    def routing_table(self, film: int = 0) -> pd.DataFrame:
        """Return routing decisions, one row a (chunk, layer, head, retrieved chunk).

        Columns: chunk, shot, layer, head (-1 = all), kept_chunk, kept_shot, score, kind (window,
        sink or routed).
        """
        denoising = (one for one in self.decisions if not one["clean"])
        rows = [row for decision in denoising for row in self._rows(decision, film)]
        return pd.DataFrame(rows, columns=ROUTING_COLUMNS)

    def _rows(self, decision: dict, film: int) -> list[tuple]:
        picks = _of_film(decision["picks"], film)  # (G, k) each
        fixed = _of_film(decision["fixed"], film)
        scores = None if decision["scores"] is None else _of_film(decision["scores"], film)
        shot = int(decision["shot"][film])
        rows = []
        for head, pages in enumerate(picks):
            for place, page in enumerate(pages):
                score = float("nan") if scores is None else scores[head][place]
                kind = "routed"
                if fixed[head][place]:
                    kind = self._kind(page, decision["chunk"])
                row = (decision["chunk"], shot, decision["layer"], head if len(picks) > 1 else -1)
                retrieved = (self.page_chunks[page], int(self.page_shots[film, page]))
                rows.append((*row, *retrieved, score, kind))
        return rows

    def _kind(self, page: int, chunk: int) -> str:
        window = getattr(self.policy, "window", 0) * self.page_frames
        distance = (chunk - self.page_chunks[page]) * self.chunk
        return "window" if distance <= max(window, self.chunk) else "sink"


def _of_film(part: Tensor, film: int) -> list:
    """Return a decision's numbers of one film; where all films share them there is one row."""
    return part[min(film, part.shape[0] - 1)].tolist()


@dataclass
class Past(Readable):
    """What a layer of the open chunk retrieved: rotated keys and values (B, k U, h, d)."""

    keys: Tensor
    values: Tensor


@dataclass
class OpenChunk(Readable):
    """The chunk being made: an attention context over the retrieved pages and the chunk itself.

        cache   . # # . . # . # |now        # retrieved by the policy
        now attends to            # # # # + itself

    One object serves all denoising passes of a chunk, so that a block that is computed again in
    backward (activation checkpointing) attends to what it attended to before, even where later
    chunks have been appended since.
    """

    cache: KVCache
    chunk: int
    shot: Tensor  # (B,)
    recording: bool = False  # the clean pass: keys and values are written down
    written: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    decided: list[dict] = field(default_factory=list)
    # the last choice (pages, and which of them are pinned) and the rotations of the chunk's own
    # frames; empty before the first layer, shared with the clean pass
    _choices: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    _freqs: list[Tensor] = field(default_factory=list)
    _past: dict[int, Past] = field(default_factory=dict)
    _buffers: dict[tuple, Tensor] = field(default_factory=dict)
    _graph: bool = False  # a pass with gradients may come back to what was retrieved

    def record(self) -> "OpenChunk":
        """Return the context of the clean pass, which retrieves anew from its own queries.

        What the denoising passes laid out is freed, so that it does not take memory beside the
        clean pass's own.
        """
        if not self._graph:
            self._past.clear()
            self._buffers.clear()
        shared = (self.decided, self._choices, self._freqs)
        return OpenChunk(self.cache, self.chunk, self.shot, True, {}, *shared)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rope: Rope) -> Tensor:
        """Return the heads' outputs (B, T, h, d) from unrotated q, k, v (B, T, h, d)."""
        self._graph |= torch.is_grad_enabled()
        if self.recording:
            self.written[layer] = (k.detach(), v.detach())
        if layer not in self._past:
            self._past[layer] = self._retrieve(layer, q, rope)
        past = self._past[layer]
        freqs = self._own_freqs(rope, 0)
        q = rope.rotate(q, freqs)
        k = rope.rotate(k, freqs)
        pages = past.keys.shape[1]
        if pages:
            k = self._joined((layer, "keys"), past.keys, k)
            v = self._joined((layer, "values"), past.values, v)
            if not torch.is_grad_enabled() and k.shape[0] == past.keys.shape[0]:
                # they lie in the joined buffers now: views of these, so that they are held once
                self._past[layer] = Past(k[:, :pages], v[:, :pages])
        return attention(q, k, v)

    def _retrieve(self, layer: int, q: Tensor, rope: Rope) -> Past:
        """Return rotated keys and values of the pages that the policy retrieves for a layer."""
        cache = self.cache
        if cache.length == 0 or cache.policy.budget_at(cache.length) == 0:
            nothing = q[:, :0]
            return Past(nothing, nothing)
        picks = self._route(layer, q)  # (B or 1, G, k)
        self._own_freqs(rope, picks.shape[-1])
        keys, values = cache.layers[layer]
        if cache.policy.sees_all and not cache.erased:
            all_keys, all_values = (
                store.all(cache.length).flatten(1, 2) for store in (keys, values)
            )
            return Past(self._rotate(rope, all_keys, picks), all_values)
        taken = keys.take(picks, cache.length)
        return Past(self._rotate(rope, taken, picks), values.take(picks, cache.length))

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
        if cache.policy.routed and cache.policy.budget_at(cache.length) < cache.length:
            scores = self.scores(layer, q)
        # chosen once where nothing competes: every layer's choice is the same
        if scores is not None or not self._choices:
            picks = choose(cache.policy, priority, scores, most)
            wide = priority.to(picks.device)[:, None].expand(-1, picks.shape[1], -1)
            # a priority of 0 is a page that competed; any other was chosen by the policy's rule
            self._choices[:] = [(picks, wide.gather(-1, picks) != 0)]
        picks, fixed = self._choices[0]
        # only the scores of what was chosen: all of them would grow with the square of the film
        noted = None if scores is None else scores.gather(-1, picks.to(scores.device))
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

    def scores(self, layer: int, q: Tensor) -> Tensor:
        """Return the relevance (B, G, n) of all finished pages to this chunk's queries."""
        cache = self.cache
        policy = cache.policy
        summary = cache.summary_of(layer)
        # the halves of a guided call route alike: by the queries under the film's own prompt
        q = q[: cache.films, None]  # (B, 1, T, h, d)
        place = (self.chunk, layer)
        keys = cache.layers[layer][0] if summary.tokens is None else summary.pages
        if cache.erased:
            # an erased page neither competes nor speaks for its block: compare one by one
            there = self._priority[0][:1] != ERASED
            return relevance(policy, q, keys.all(cache.length), there, place)[:, :, 0]
        most = getattr(policy, "compared", None)
        if most is None or cache.length <= most:
            return relevance(policy, q, keys.all(cache.length), None, place)[:, :, 0]

        def keys_of(pages: Tensor) -> Tensor:
            taken = keys.take(pages[:, None], cache.length)
            return taken.unflatten(1, (pages.shape[1], -1))

        blocks = summary.blocks.all(summary.whole)
        found = searched_in_two_steps(policy, q, keys_of, cache.length, blocks=blocks, place=place)
        return found[:, :, 0]

    def _own_freqs(self, rope: Rope, retrieved: int) -> Tensor:
        """Return the rotations of the chunk's own frames, the same for every layer and level."""
        cache = self.cache
        if not self._freqs:
            packed = cache.policy.positions == "packed"
            start = retrieved * cache.page_frames if packed else cache.frames_done  # latent frames
            self._freqs.append(rope.freqs(start + torch.arange(cache.chunk)))
        return self._freqs[0]

    def _rotate(self, rope: Rope, keys: Tensor, picks: Tensor) -> Tensor:
        """Return retrieved keys (B, k U, h, d) rotated to their positions.

        Packed, they stand side by side from 0, and the chunk behind them (CausalCine's
        block-relative RoPE); else each stands where it was in the film, at most `max_distance`
        before the chunk, since training has seen no larger distance.
        """
        cache = self.cache
        size = cache.page_frames
        if cache.policy.positions == "packed":
            return rope.rotate(keys, rope.freqs(torch.arange(picks.shape[-1] * size)))
        inside = torch.arange(size, device=picks.device)
        frames = (picks[..., None] * size + inside).flatten(-2)  # (B, G, k size)
        if cache.max_distance is not None:
            frames = frames.clamp(min=cache.frames_done - cache.max_distance)
        return rope.rotate_retrieved(keys, frames, cache.frames_done)

    def _joined(self, place: tuple, past: Tensor, own: Tensor) -> Tensor:
        """Return retrieved keys or values (B, k U, h, d) with the chunk's own (B', T, h, d) behind.

        They are laid into one buffer once a chunk, and each level writes its own part only. With
        gradients on, nothing is written in place.
        """
        if torch.is_grad_enabled():
            return torch.cat([repeat_batch(past, own.shape[0]), own], dim=1)
        place = (*place, own.shape[0], own.dtype)
        if place not in self._buffers:
            wide = repeat_batch(past, own.shape[0]).to(own.dtype)
            self._buffers[place] = torch.cat([wide, own], dim=1)
        else:
            self._buffers[place][:, past.shape[1] :] = own
        return self._buffers[place]
