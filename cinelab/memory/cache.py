"""The KV cache of a running film: rotated keys and values of finished pages, per layer.

    B films   n pages so far   U tokens a page   h heads   d head size   k retrieved pages
    G heads that retrieve for themselves: h, or 1 where a layer retrieves as one

A page is what is stored and retrieved together: a chunk, or a latent frame of one. A key is stored
as RoPE rotated it at its place in the film, and moved in time where it must be attended to at
another place. Consecutive pages up to the running chunk are attended to where they are stored, with
the chunk's own keys and values behind them; other choices are gathered once a pass from whatever
store holds them (cinelab.memory.store). A snapshot shares its stores with the cache that it was
taken from.

The cached counterpart of `cinelab.memory.context`; Self Forcing (arXiv 2506.08009, Algorithms 1 and
2) rolls out with a KV cache of rotated keys in the same way, in a rolling window.
"""

from dataclasses import dataclass, field, replace
from itertools import takewhile

import pandas as pd
import torch
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.memory.open_chunk import OpenChunk
from cinelab.memory.policy import UNITS, Policy
from cinelab.memory.store import KVStore, Storage
from cinelab.memory.summary import Summary
from cinelab.ops.rope import Rope
from cinelab.readable import Readable

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
    rope: Rope | None = None  # that rotated the stored keys; None = they are not rotated

    @property
    def page_frames(self) -> int:
        """How many latent frames a page has."""
        return 1 if self.policy.unit == "frame" else self.chunk

    @property
    def films(self) -> int:
        """How many films run side by side."""
        return self.page_shots.shape[0]

    def open(self, chunk: int, shot: Tensor) -> OpenChunk:
        """Return the context of chunk number `chunk`; `shot` (B,) is the shot each film is in.
        CinelabError where the policy has another unit than the stored pages."""
        if self.length * self.page_frames != self.frames_done:
            stored = next(unit for unit in UNITS if unit != self.policy.unit)
            raise CinelabError(
                f"The policy's unit is {self.policy.unit!r}, and this film is stored in pages of "
                f"unit {stored!r}; keep unit={stored!r}, or begin another film."
            )
        return OpenChunk(self, chunk, shot.cpu())

    def append(self, clean: OpenChunk) -> None:
        """Store the keys and values of a clean pass, and what was decided for its chunk."""
        if not clean.written:
            raise CinelabError(
                "KVCache.append() before the clean chunk was shown; call the model with the "
                "context that record() returned first."
            )
        for layer in clean.written:
            self.store(layer, clean)
        self.count(clean)
        self.note(clean)
        clean.close()

    def store(self, layer: int, clean: OpenChunk) -> None:
        """Store what a clean pass wrote down of a layer, behind the pages that it could attend
        to."""
        length = clean.cache.length
        written = clean.written[layer]
        keys, values = self.stores(layer)
        keys = keys.append(self.paged(written.keys), length)
        values = values.append(self.paged(written.values), length)
        self.layers[layer] = (keys, values)
        summary = self._summary(layer)
        if written.pooled is not None and summary.done == length:
            self.summaries[layer] = summary.extended(written.pooled)
        if clean.routed:  # the next chunk probably retrieves much of what this one did
            picks = clean.picks_of(layer)
            keys.expect(picks, length)
            values.expect(picks, length)

    def stores(self, layer: int) -> tuple[KVStore, KVStore]:
        """Return a layer's stores of keys and of values, which are empty where it has none yet."""
        return self.layers.get(layer) or (self.storage.new_store(), self.storage.new_store())

    def paged(self, x: Tensor) -> Tensor:
        """Return a chunk's keys or values (B, T, h, d) as its pages (B, m, U, h, d)."""
        return x.unflatten(1, (self.chunk // self.page_frames, -1))

    def count(self, clean: OpenChunk) -> None:
        """Count the pages of a chunk as finished."""
        pages = self.chunk // self.page_frames
        self.length += pages
        self.frames_done += self.chunk
        shots = clean.shot[:, None].expand(-1, pages)
        self.page_shots = torch.cat([self.page_shots, shots], dim=1)
        self.page_chunks += (clean.chunk,) * pages

    def note(self, clean: OpenChunk) -> None:
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
        blocked = self.policy.candidates is not None

        def keys(first: int, count: int) -> Tensor:
            return self.unrotated(layer, torch.arange(first, first + count)[None])

        self.summaries[layer] = self._summary(layer).until(self.length, keys, blocked=blocked)
        return self.summaries[layer]

    def _summary(self, layer: int) -> Summary:
        """Return a layer's summary as it stands, or an empty one where the policy wants another."""
        tokens = self.policy.summary
        old = self.summaries.get(layer)
        return old if old is not None and old.tokens == tokens else Summary(tokens)

    def unrotated(self, layer: int, pages: Tensor) -> Tensor:
        """Return keys (B, c, U, h, d) of pages (B or 1, c) as they were before RoPE, to
        rounding."""
        keys = self.layers[layer][0].take(pages[:, None], self.length)
        if self.rope is not None:
            inside = torch.arange(self.page_frames, device=pages.device)
            frames = (pages[..., None] * self.page_frames + inside).flatten(-2)
            keys = self.rope.rotated_back(keys, self.rope.freqs(frames, self.frames_done))
        return keys.unflatten(1, (pages.shape[1], -1))

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
                if not self.policy.routed_in(decision["layer"]) and self.policy.routed:
                    kind = "window"
                elif fixed[head][place]:
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
