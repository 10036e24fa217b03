"""The one roll-out: training, streaming, evaluation and the benchmark make every chunk here.

    step(model, state, requests) -> (state, chunk)        both halves, one after the other

    make_chunk     from noise, down the levels, attending to what the cache retrieves
    append_chunk   the clean chunk once more at t = 0: its keys and values go into the cache

The live stream calls the halves itself, since it shows a chunk before it appends it, or joins the
second half with the next chunk's first level (`cinelab.scale.fused`).

With random exit steps (`exit_at`) it is the inner loop of Self Forcing's training (arXiv
2506.08009, Algorithm 1), without them that paper's inference with a KV cache.

The network is any callable net(x, t, condition, context) -> velocity, the cache any object with
open(chunk, shot), record() and append() (see cinelab.memory.cache). Neither is imported.

    B films   c latent frames a chunk   C channels   H, W latent size
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.flow.condition import Condition
from cinelab.flow.path import guided
from cinelab.flow.sampler import Sampling
from cinelab.flow.solvers import consistency_sampling, solve
from cinelab.ops.tensors import to_device
from cinelab.readable import Readable
from cinelab.seeds import rng_at


@dataclass(frozen=True)
class ChunkRequest(Readable):
    """What the next chunk of one film shows, and how it is made: chunk n shows prompt p of shot s.

    prompt    as the model's `encode` knows it: the text itself, or a number
    cut       a shot begins with this chunk
    recache   show the running shot's chunks to the cache again, under the new prompt, before this
              chunk is made (LongLive's KV re-cache); `cinelab.stream.generator`, which holds those
              chunks, does it
    policy    of the KV cache from here on; None = as it was
    sampling  None = the model's own
    controls  name -> (c, ...), a signal a latent frame (see `Condition`)
    """

    prompt: str | int
    shot: int = 0
    cut: bool = False
    seed: int = 0
    policy: Any = None
    sampling: Sampling | None = None
    recache: bool = False
    controls: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class RolloutState(Readable):
    """All that the next chunk depends on.

    `step` writes to the state's cache: whoever goes on from a state twice hands in a snapshot.
    """

    index: int  # chunks that are finished
    cache: Any


@dataclass
class Chunk(Readable):
    """One finished chunk of latents (B, c, C, H, W), and where the time went (seconds by cause)."""

    index: int
    latents: Tensor
    seconds: dict[str, float] = field(default_factory=dict)


class Encode(Protocol):
    """The prompts and controls of one chunk: requests, one a film -> encoded `Condition` (B, c)."""

    def __call__(self, requests: Sequence[ChunkRequest]) -> Condition: ...


@dataclass(frozen=True)
class ChunkModel(Readable):
    """A network that makes chunks, and what it needs to know of a request."""

    net: Callable[..., Tensor]
    encode: Encode
    shape: tuple[int, ...]  # (c, C, H, W) of a chunk
    device: torch.device | str = "cpu"
    sampling: Sampling = Sampling()  # where a request names none
    # (seeds, chunk, shape, level) -> noise, in place of `noise_for`
    noise: Callable[..., Tensor] | None = None


@dataclass(frozen=True)
class NumberedPrompts(Readable):
    """The `Encode` of requests whose prompt is a number: its place among the encoded prompts of
    `condition`."""

    condition: Condition
    frames: int  # latent frames a chunk

    def __call__(self, requests: Sequence[ChunkRequest]) -> Condition:
        numbers = [int(one.prompt) for one in requests]
        slot = to_device(torch.tensor(numbers), self.condition.slot.device)[:, None]
        controls = stacked_controls(requests)
        return replace(self.condition, slot=slot.expand(-1, self.frames), controls=controls)


def noise_for(seeds: Sequence[int], chunk: int, shape: tuple[int, ...], level: int = 0) -> Tensor:
    """Return the noise (B, *shape) of chunk number `chunk`: at its start (level 0), or to renoise
    it to a later level.

    Noise is addressed by (seed, chunk, level), so film i's depends on its own seed alone: it is the
    same in any batch, order or process, and a film can be continued from any chunk.
    """
    place: tuple = ("noise", chunk) if level == 0 else ("noise", chunk, level)
    return torch.stack([torch.randn(shape, generator=rng_at(seed, *place)) for seed in seeds])


def stacked_controls(requests: Sequence[ChunkRequest]) -> dict[str, Tensor]:
    """Return the controls (B, c, ...) of requests, one a film."""
    names = requests[0].controls
    return {name: torch.stack([one.controls[name] for one in requests]) for name in names}


def velocity_of(
    net: Callable[..., Tensor], condition: Condition, context: Any, guidance: float
) -> Callable[[Tensor, float], Tensor]:
    """Return v(x, t) of one chunk x (B, c, C, H, W), guided where `guidance` is not 1.

    The prompt is chosen once for all levels. A guided call shows each film with its prompt and
    without: v = v_null + w (v_prompt - v_null). Both halves attend to the same history, which is
    retrieved by the first half's queries.
    """
    slot = condition.slot[:, 0]
    times = 1 if guidance == 1 else 2
    null = torch.full_like(slot, condition.prompts - 1)
    words = condition.picked(slot, null) if times == 2 else condition.picked(slot)

    def velocity(x: Tensor, t: float) -> Tensor:
        levels = x.new_full((times * x.shape[0], x.shape[1]), t)
        v = net(x.repeat(times, 1, 1, 1, 1), levels, words, context)
        if times == 1:
            return v
        with_prompt, without = v.chunk(2)
        return guided(with_prompt, without, guidance)

    return velocity


def denoise(
    velocity: Callable[[Tensor, float], Tensor],
    noise: Callable[[int], Tensor],
    sampling: Sampling,
    *,
    first: bool = False,
    exit_at: float | None = None,
) -> Tensor:
    """Return one chunk (B, c, C, H, W) made from noise(level), the noise of each level.

    The `first` chunk of a film may have levels of its own; `exit_at` as in `consistency_sampling`.
    """
    sampling = sampling.filled()
    levels = sampling.levels(first=first)
    if sampling.solver == "consistency":
        return consistency_sampling(velocity, noise(0), levels, noise, exit_at)
    return solve(velocity, noise(0), levels, str(sampling.solver), noise)


@dataclass(frozen=True)
class MadeChunk(Readable):
    """A chunk that is made, open in the cache and still to be appended to it."""

    opened: Any  # its attention context, as the cache's open() returned it
    condition: Condition
    latents: Tensor  # (B, c, C, H, W)


State = TypeVar("State", bound=RolloutState)


def step(
    model: ChunkModel,
    state: State,
    requests: Sequence[ChunkRequest],
    *,
    given: Tensor | None = None,
    clean: Tensor | None = None,
    exit_at: float | None = None,
) -> tuple[State, Chunk]:
    """Make the next chunk of B films, one request a film: return the state after it, and the chunk.

    The cache goes on, in place, from where it was; the state is a new one.

    given     latents (B, c, C, H, W) that are taken as the chunk (a known history)
    clean     latents (B, c, C, H, W) that are appended to the cache in place of the chunk's own
              (teacher forcing)
    exit_at   where a few-step chunk ends (see `consistency_sampling`)

    With gradients on, the chunk keeps the graph of its last prediction; the cache keeps none.
    """
    began = time.perf_counter()
    chunk = make_chunk(model, state, requests, given=given, exit_at=exit_at)
    made = time.perf_counter()
    append_chunk(model.net, state.cache, chunk, clean)
    seconds = {"dit": made - began, "memory": time.perf_counter() - made}
    return replace(state, index=state.index + 1), Chunk(state.index, chunk.latents, seconds)


def make_chunk(
    model: ChunkModel,
    state: RolloutState,
    requests: Sequence[ChunkRequest],
    *,
    given: Tensor | None = None,
    exit_at: float | None = None,
) -> MadeChunk:
    """Return the next chunk, made from noise, or taken as `given`, and not yet appended."""
    request = shared(requests)
    if request.policy is not None:
        state.cache.policy = request.policy
    condition = model.encode(requests)
    shot = torch.tensor([one.shot for one in requests])
    opened = state.cache.open(state.index, shot)
    if given is not None:
        return MadeChunk(opened, condition, given)
    sampling = (request.sampling or model.sampling).filled()
    guidance = cast(float, sampling.guidance)  # filled: nothing is None
    velocity = velocity_of(model.net, condition, opened, guidance)
    noise = renoise_of(model, state.index, requests)
    first = state.index == 0
    latents = denoise(velocity, noise, sampling, first=first, exit_at=exit_at)
    return MadeChunk(opened, condition, latents)


@torch.no_grad()
def append_chunk(
    net: Callable[..., Tensor], cache: Any, chunk: MadeChunk, clean: Tensor | None = None
) -> None:
    """Show a chunk, or `clean` latents in its place, once at t = 0, and append its keys and values
    to the cache.

    No gradient flows through the cache, as in Self Forcing.
    """
    latents = chunk.latents if clean is None else clean
    context = chunk.opened.record()
    # unguided: what is stored is what the films' own prompts made of the chunk
    words = chunk.condition.picked(chunk.condition.slot[:, 0])
    net(latents, latents.new_zeros(latents.shape[:2]), words, context)
    cache.append(context)


def renoise_of(
    model: ChunkModel, chunk: int, requests: Sequence[ChunkRequest]
) -> Callable[[int], Tensor]:
    """Return level -> noise (B, c, C, H, W) on the model's device, each film from its own seed."""
    seeds = [one.seed for one in requests]

    def noise(level: int) -> Tensor:
        made = (model.noise or noise_for)(seeds, chunk, model.shape, level)
        return to_device(made, model.device)

    return noise


def shared(requests: Sequence[ChunkRequest]) -> ChunkRequest:
    """Return the first request of a batch, in whose sampling and policy all must agree."""
    first = requests[0]
    for one in requests[1:]:
        if (one.sampling, one.policy) != (first.sampling, first.policy):
            raise CinelabError(
                "The films of a batch are sampled alike, under one policy; make films that differ "
                "in these one after another."
            )
    return first


def rollout(
    model: ChunkModel,
    state: RolloutState,
    requests: Sequence[Sequence[ChunkRequest]],
    *,
    given: Tensor | None = None,
    clean: Tensor | None = None,
    exit_at: float | None = None,
) -> Iterator[Chunk]:
    """Yield the chunks of B films one after another; requests[n] are chunk n's, one a film.

    Chunks before the state's index are skipped. `given` and `clean` are latents from the films'
    beginning, (B, frames, C, H, W), each as in `step`; `given` may end before the films do.
    """
    frames = model.shape[0]
    for index in range(state.index, len(requests)):
        part = slice(index * frames, (index + 1) * frames)
        known = given[:, part] if given is not None and part.stop <= given.shape[1] else None
        truth = clean[:, part] if clean is not None else None
        state, chunk = step(
            model, state, requests[index], given=known, clean=truth, exit_at=exit_at
        )
        yield chunk
