"""One film, one chunk at a time, with everything changeable between two chunks: prompt, cut, seed,
policy of the KV cache, levels.

A `FilmState` is all that the next chunk depends on, and is never changed: keeping one costs next to
nothing, going on from one twice gives two takes. Every chunk is made by `cinelab.flow.rollout`, as
in the batch roll-out (cinelab.stream.batch) and in training.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from cinelab.flow.condition import Condition
from cinelab.flow.rollout import (
    ChunkModel,
    ChunkRequest,
    MadeChunk,
    RolloutState,
    append_chunk,
    make_chunk,
    stacked_controls,
)
from cinelab.latent.codec import state_to, to_uint8
from cinelab.memory.cache import KVCache
from cinelab.memory.policy import FULL
from cinelab.script.unconditional import unconditional_text
from cinelab.stream.batch import (
    NO_FRAMES,
    TimedChunk,
    empty_cache,
    inference_mode,
    threads_for,
)
from cinelab.stream.overlap import Stopwatch, explain_oom
from cinelab.zoo.bundle import Bundle

# encoded prompts that stay at hand, and how much they may hold (one of Wan's: 0.2 GB at 1.3B)
KEPT_PROMPTS = 64
KEPT_BYTES = 2**30


@dataclass(frozen=True)
class FilmState(RolloutState):
    """Where a film stands after `index` chunks.

    `shot_cache` is the KV cache as it stood before the running shot, `shot_chunks` the shot's
    latents. A `pending` last chunk is made and not yet appended: such a state is used up by the
    next step.
    """

    cache: KVCache
    decoder: object = None
    shot_cache: KVCache | None = None
    shot_chunks: tuple[Tensor, ...] = field(default=())
    pending: MadeChunk | None = None

    def decisions_of(self, chunk: int) -> list[dict]:
        """Return what every layer retrieved at the first level of the newest chunk."""
        if self.pending is not None and self.pending.opened.chunk == chunk:
            return [one for one in self.pending.opened.decided if not one["clean"]]
        return self.cache.decisions_of(chunk)


class ChunkGenerator:
    """Makes chunks with one model. Holds nothing of any film but encoded prompts.

    `keep_decisions` is how many chunks' routing decisions a film's cache records (None = all).
    `between` is called before each chunk that is appended again, so that whoever shares the model
    may have it in between; what it raises ends the work.
    """

    def __init__(self, bundle: Bundle, bf16: bool = False):
        self.bundle = bundle
        self.bf16 = bf16
        self.keep_decisions: int | None = None
        self.between: Callable[[], None] = _at_once
        self.device = next(bundle.model.parameters()).device
        self.model = ChunkModel(
            bundle.model,
            self.encode,
            (bundle.chunk, *bundle.latent_shape),
            self.device,
            bundle.sampling,
        )
        self._threads = threads_for(bundle)
        self._prompts: OrderedDict[str, Condition] = OrderedDict()

    def begin(self) -> FilmState:
        """Return the state of a film that has not begun."""
        return FilmState(0, empty_cache(self.bundle, FULL))

    def step(
        self,
        state: FilmState,
        request: ChunkRequest,
        decode: bool = True,
        given: Tensor | None = None,
        wait: bool = False,
    ) -> tuple[FilmState, TimedChunk]:
        """Make the next chunk: return the state after it, and the chunk with where its time went.

        `given` latents (1, c, C, h, w) are taken as the chunk. With `wait` it is appended to the
        cache together with the next step's first level, where that is exact.
        """
        with explain_oom(f"Chunk {state.index + 1}"):
            return self._step(state, request, given, decode=decode, wait=wait)

    def _step(
        self,
        state: FilmState,
        request: ChunkRequest,
        given: Tensor | None,
        *,
        decode: bool,
        wait: bool,
    ) -> tuple[FilmState, TimedChunk]:
        watch = Stopwatch(self.device)
        self.prompts(request.prompt)
        fused = self._fuses(state, request, given)
        if not fused:
            state = self._open(self.settle(state), request)
        watch.lap("text")
        with self._inference():
            if fused:
                state = self._append_and_make(state, request)
            else:
                state = self._make(state, request, given)
        watch.lap("dit")
        latents = state.shot_chunks[-1]
        if not wait:
            state = self.settle(state)
        watch.lap("memory")
        state, frames = self.decode(state, latents) if decode else (state, NO_FRAMES)
        watch.lap("decode")
        # the one wait of a step: another stream may read what it returns
        return state, TimedChunk(state.index - 1, frames, latents, watch.seconds())

    def encode(self, requests: Sequence[ChunkRequest]) -> Condition:
        """Return the encoded condition (1, c) of one film's request."""
        (request,) = requests
        condition = self.prompts(request.prompt)
        return replace(condition, controls=stacked_controls(requests))

    def settle(self, state: FilmState) -> FilmState:
        """Return the state with its last chunk appended to the cache, if that was still to do."""
        pending = state.pending
        if pending is None:
            return state
        with self._inference():
            append_chunk(self.model.net, state.cache, pending)
        return replace(state, pending=None)

    def restore(
        self, state: FilmState, request: ChunkRequest, latents: Tensor, decode: bool = True
    ) -> FilmState:
        """Return the state after a chunk that was made before: its latents are appended to the
        cache and (with `decode`) decoded, not made."""
        self.between()
        latents = latents.to(self.device)
        state = self.settle(self._make(self._open(state, request), request, latents))
        return self.decode(state, latents)[0] if decode else state

    def decode(self, state: FilmState, latents: Tensor) -> tuple[FilmState, np.ndarray]:
        """Return the state with its decoder moved on, and the chunk's frames uint8 (1, f, H, W,
        3)."""
        with inference_mode(False, self.device, self._threads):
            past = state_to(state.decoder, self.device)
            frames, decoder = self.bundle.codec.decode(latents.to(self.device, torch.float32), past)
        return replace(state, decoder=decoder), to_uint8(frames)

    def park(self, state: FilmState) -> FilmState:
        """Return the state with its decoder in main memory, to wait there: that of Wan's VAE holds
        1.8 GiB at 480x832."""
        return replace(state, decoder=state_to(state.decoder, "cpu"))

    def prompts(self, text: str | int) -> Condition:
        """Return an encoded prompt (number 0) beside the one that guidance compares with (1)."""
        text = str(text)
        if text not in self._prompts:
            compared = unconditional_text(self.bundle.unconditional)
            with self._inference():
                words = self.bundle.encoder.encode([text, compared])[None].to(self.device)
                slot = torch.zeros(1, self.bundle.chunk, dtype=torch.long, device=self.device)
                self._prompts[text] = Condition(words, slot).encoded(self.bundle.model)
            while len(self._prompts) > 1 and not self._roomy:
                self._prompts.popitem(last=False)
        self._prompts.move_to_end(text)
        return self._prompts[text]

    @property
    def _roomy(self) -> bool:
        held = sum(
            part.nbytes
            for condition in self._prompts.values()
            for pair in condition.text
            for part in pair
        )
        return len(self._prompts) <= KEPT_PROMPTS and held <= KEPT_BYTES

    def _inference(self) -> Any:
        return inference_mode(self.bf16, self.device, self._threads)

    def _fuses(self, state: FilmState, request: ChunkRequest, given: Tensor | None) -> bool:
        """Whether the pending chunk's clean pass can join this chunk's first level."""
        if state.pending is None or given is not None or request.cut or request.recache:
            return False
        return self.bundle.levels(request.sampling).guidance == 1

    def _append_and_make(self, state: FilmState, request: ChunkRequest) -> FilmState:
        from cinelab.scale.fused import append_and_denoise  # only films that ask for it need it

        sampling = self.bundle.levels(request.sampling)
        before = cast(MadeChunk, state.pending)
        cache, pending = append_and_denoise(self.model, before, [request], sampling)
        return self._made(replace(state, cache=cache), pending)

    def _make(self, state: FilmState, request: ChunkRequest, given: Tensor | None) -> FilmState:
        """Return the state with the next chunk made, or taken, and not yet appended."""
        request = replace(request, sampling=self.bundle.levels(request.sampling))
        taken = None if given is None else given.to(self.device)
        return self._made(state, make_chunk(self.model, state, [request], given=taken))

    @staticmethod
    def _made(state: FilmState, chunk: MadeChunk) -> FilmState:
        chunks = (*state.shot_chunks, chunk.latents)
        return replace(state, index=state.index + 1, shot_chunks=chunks, pending=chunk)

    def _open(self, state: FilmState, request: ChunkRequest) -> FilmState:
        """Return a copy that may be written to, under the request's policy. A new shot notes what
        it began with."""
        policy = request.policy or state.cache.policy
        cache = replace(state.cache.snapshot(), policy=policy, keep_decisions=self.keep_decisions)
        if request.cut or state.shot_cache is None:
            return replace(state, cache=cache, shot_cache=cache.snapshot(), shot_chunks=())
        if request.recache and state.shot_chunks:
            cache = self._recached(state, request, cache)
        return replace(state, cache=cache)

    def _recached(self, state: FilmState, request: ChunkRequest, cache: KVCache) -> KVCache:
        """Return the cache with the running shot's chunks appended anew, under the new prompt."""
        before = state.shot_cache or cache
        again = replace(before.snapshot(), policy=cache.policy, keep_decisions=self.keep_decisions)
        first = state.index - len(state.shot_chunks)
        for number, latents in enumerate(state.shot_chunks, first):
            self.between()
            with self._inference():
                chunk = make_chunk(
                    self.model, RolloutState(number, again), [request], given=latents
                )
                append_chunk(self.model.net, again, chunk)
        # what the shot's chunks retrieved when they were made stays on record
        again.decisions = state.cache.decisions + again.decisions[len(before.decisions) :]
        return again


def _at_once() -> None:
    """Nothing comes between two chunks."""
