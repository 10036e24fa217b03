"""One film, one chunk at a time, with everything changeable between two chunks: prompt, cut, seed,
memory policy, levels.

A `FilmState` is all that the next chunk depends on, and is never changed: keeping one costs next to
nothing, going on from one twice gives two takes. The batch roll-out (cinelab.stream.batch) makes
the same bits where nothing changes.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from cinelab.flow.sampler import (
    Prompts,
    Sampling,
    Script,
    denoise,
    noise_for,
    remember,
    remember_and_denoise,
)
from cinelab.latent.codec import state_to, to_uint8
from cinelab.memory.cache import KVCache
from cinelab.memory.policy import CAMR, FULL, Policy
from cinelab.readable import Readable
from cinelab.script.unconditional import unconditional_text
from cinelab.stream.batch import TimedChunk, empty_memory, inference_mode, threads_for
from cinelab.stream.overlap import explain_oom, synchronize
from cinelab.zoo.checkpoints import Bundle

# encoded prompts that stay at hand, and how much they may hold (one of Wan's: 0.2 GB at 1.3B)
KEPT_PROMPTS = 64
KEPT_BYTES = 2**30


@dataclass(frozen=True)
class ChunkRequest:
    """What one chunk is to show, and how it is made. `recache` shows the running shot's chunks to
    the memory again, under the new prompt, before this chunk is made (LongLive's KV re-cache);
    without it the cache stays as it is."""

    prompt: str
    shot: int = 0
    cut: bool = False
    seed: int = 0
    policy: Policy = CAMR()
    sampling: Sampling | None = None  # None = the model's own
    recache: bool = False


@dataclass(frozen=True)
class FilmState(Readable):
    """Where a film stands after `index` chunks. `shot_memory` is the memory as it stood before the
    running shot; a `pending` last chunk is made and not yet remembered: such a state is used up by
    the next step."""

    index: int
    memory: KVCache
    decoder: object = None
    shot_memory: KVCache | None = None
    shot_chunks: tuple[Tensor, ...] = field(default=())
    pending: tuple[ChunkRequest, Tensor] | None = None


class ChunkGenerator:
    """Makes chunks with one model. Holds nothing of any film but encoded prompts.

    `noted` is how many chunks' routing decisions a film's memory keeps (None = all). `between` is
    called before each chunk that is remembered again, so that whoever shares the model may have it
    in between; what it raises ends the work.
    """

    def __init__(self, bundle: Bundle, bf16: bool = False):
        self.bundle = bundle
        self.bf16 = bf16
        self.noted: int | None = None
        self.between: Callable[[], None] = _at_once
        self.device = next(bundle.model.parameters()).device
        self._threads = threads_for(bundle)
        self._prompts: OrderedDict[str, Prompts] = OrderedDict()

    def begin(self) -> FilmState:
        """A film that has not begun."""
        return FilmState(0, empty_memory(self.bundle, FULL))

    def step(
        self,
        state: FilmState,
        ask: ChunkRequest,
        pictures: bool = True,
        given: Tensor | None = None,
        wait: bool = False,
    ) -> tuple[FilmState, TimedChunk]:
        """Make the next chunk: the state after it, and the chunk with where its time went. `given`
        latents (1, c, C, h, w) are taken as the chunk, not made. With `wait` it is remembered
        together with the next step's first level, where that is exact."""
        began = time.perf_counter()
        text = self.prompts(ask.prompt)
        sampling = self.bundle.levels(ask.sampling)
        together = (
            state.pending is not None
            and given is None
            and not (ask.cut or ask.recache)
            and sampling.guidance == 1
        )
        if not together:
            state = self._open(self.settle(state), ask, text)
            state.memory.begin(state.index, self._shot(ask))
        encoded = time.perf_counter()
        with (
            inference_mode(self.bf16, self.device, self._threads),
            explain_oom(f"Chunk {state.index + 1}"),
        ):
            latents = (
                given.to(self.device)
                if given is not None
                else self._make(state, ask, text, sampling)
            )
            synchronize(self.device.type)
        made = time.perf_counter()
        state = (
            replace(self._held(state, latents), pending=(ask, latents))
            if wait
            else self._keep(state, ask, text, latents)
        )
        synchronize(self.device.type)
        kept = time.perf_counter()
        state, frames = self.decode(state, latents) if pictures else (state, None)
        seconds = {
            "text": encoded - began,
            "dit": made - encoded,
            "memory": kept - made,
            "decode": time.perf_counter() - kept,
        }
        return state, TimedChunk(state.index - 1, frames, latents, seconds)

    def _make(
        self, state: FilmState, ask: ChunkRequest, text: Prompts, sampling: Sampling
    ) -> Tensor:
        net = self.bundle.model
        memory = state.memory
        script = self._script(state, ask)
        noise = lambda level: noise_for([ask.seed], state.index, self._shape, level).to(self.device)  # noqa: E731
        if state.pending is None:
            return denoise(net, memory, text, script, state.index, noise, sampling)
        before, latents = state.pending
        words = self.prompts(before.prompt).at(script.slot[:, 0])
        return remember_and_denoise(
            net, memory, (latents, words), text, script, state.index, noise, sampling, ask.policy
        )

    def settle(self, state: FilmState) -> FilmState:
        """The state with its last chunk remembered, if that was still to do."""
        if state.pending is None:
            return state
        ask, latents = state.pending
        self._remember(
            state.memory,
            self.prompts(ask.prompt),
            replace(state, index=state.index - 1),
            ask,
            latents,
        )
        return replace(state, pending=None)

    def recall(
        self, state: FilmState, ask: ChunkRequest, latents: Tensor, pictures: bool = True
    ) -> FilmState:
        """The state after a chunk that was made before: its latents are remembered and (with
        `pictures`) decoded, not made."""
        self.between()
        text = self.prompts(ask.prompt)
        latents = latents.to(self.device)
        state = self._open(state, ask, text)
        state.memory.begin(state.index, self._shot(ask))
        state = self._keep(state, ask, text, latents)
        return self.decode(state, latents)[0] if pictures else state

    def decode(self, state: FilmState, latents: Tensor):
        """Pictures uint8 (1, f, H, W, 3) of a chunk, and the state with its decoder moved on."""
        with inference_mode(False, self.device, self._threads):
            past = state_to(state.decoder, self.device)
            frames, decoder = self.bundle.codec.decode(latents.to(self.device, torch.float32), past)
        return replace(state, decoder=decoder), to_uint8(frames)

    def park(self, state: FilmState) -> FilmState:
        """The state with its decoder in main memory, to wait there: the one of Wan's VAE holds 1.8
        GiB at 480x832."""
        return replace(state, decoder=state_to(state.decoder, "cpu"))

    def prompts(self, text: str) -> Prompts:
        """An encoded prompt (slot 0) beside the one that guidance compares with (slot 1)."""
        if text not in self._prompts:
            compared = unconditional_text(self.bundle.unconditional)
            with inference_mode(self.bf16, self.device, self._threads):
                words = self.bundle.encoder.encode([text, compared])[None].to(self.device)
                self._prompts[text] = Prompts(self.bundle.model, words)
            while len(self._prompts) > 1 and not self._roomy:
                self._prompts.popitem(last=False)
        self._prompts.move_to_end(text)
        return self._prompts[text]

    @property
    def _roomy(self) -> bool:
        held = sum(
            part.nbytes
            for prompts in self._prompts.values()
            for pair in prompts.plain
            for part in pair
        )
        return len(self._prompts) <= KEPT_PROMPTS and held <= KEPT_BYTES

    def _shot(self, ask: ChunkRequest) -> Tensor:
        return torch.tensor([ask.shot], device=self.device)

    @property
    def _shape(self) -> Sequence[int]:
        return self.bundle.chunk, *self.bundle.latent_shape

    def _script(self, state: FilmState, ask: ChunkRequest) -> Script:
        chunks = state.index + 1
        script = Script(
            torch.zeros(1, chunks, dtype=torch.long),
            torch.full((1, chunks), ask.shot),
            self.bundle.chunk,
            null=1,
        )
        return script.to(self.device)

    def _open(self, state: FilmState, ask: ChunkRequest, text: Prompts) -> FilmState:
        """A copy that may be written to, under the asked policy; a new shot notes what it began
        with."""
        memory = replace(state.memory.snapshot(), policy=ask.policy, noted=self.noted)
        if ask.cut or state.shot_memory is None:
            return replace(state, memory=memory, shot_memory=memory.snapshot(), shot_chunks=())
        if ask.recache and state.shot_chunks:
            memory = replace(state.shot_memory.snapshot(), policy=memory.policy, noted=self.noted)
            first = state.index - len(state.shot_chunks)
            for number, latents in enumerate(state.shot_chunks, first):
                self.between()
                memory.begin(number, self._shot(ask))
                self._remember(memory, text, replace(state, index=number), ask, latents)
            # What the shot's chunks retrieved when they were made stays on record.
            memory.decisions = (
                state.memory.decisions + memory.decisions[len(state.shot_memory.decisions) :]
            )
        return replace(state, memory=memory)

    def _keep(
        self, state: FilmState, ask: ChunkRequest, text: Prompts, latents: Tensor
    ) -> FilmState:
        self._remember(state.memory, text, state, ask, latents)
        return self._held(state, latents)

    @staticmethod
    def _held(state: FilmState, latents: Tensor) -> FilmState:
        return replace(
            state, index=state.index + 1, shot_chunks=(*state.shot_chunks, latents), pending=None
        )

    def _remember(
        self, memory: KVCache, text: Prompts, state: FilmState, ask: ChunkRequest, latents: Tensor
    ) -> None:
        with inference_mode(self.bf16, self.device, self._threads):
            remember(
                self.bundle.model, memory, text, self._script(state, ask), state.index, latents
            )


def _at_once() -> None:
    """Nothing comes between two chunks."""
