"""Timelines to latents to frames, for one film or a batch of them, chunk by chunk.

Knows the bundle (model, codec, words) and the one roll-out; knows nothing of widgets or files.

    B films   c latent frames a chunk   f pixel frames of a chunk
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from cinelab.config import field_names
from cinelab.errors import CinelabError
from cinelab.flow.condition import Condition
from cinelab.flow.rollout import (
    ChunkModel,
    ChunkRequest,
    NumberedPrompts,
    RolloutState,
    rollout,
)
from cinelab.flow.sampler import Sampling
from cinelab.latent.codec import to_uint8
from cinelab.memory.cache import KVCache
from cinelab.memory.policy import Policy
from cinelab.memory.policy_io import policy_from_dict
from cinelab.memory.policy_registry import (
    BUDGET,
    BUILT_IN,
    PUBLISHED,
    budget_of,
    name_of,
    policy_named,
    with_budget,
)
from cinelab.memory.store import Storage
from cinelab.ops.compiling import run_as
from cinelab.readable import Readable
from cinelab.script.timeline import Timeline
from cinelab.script.unconditional import unconditional_text
from cinelab.threads import NUMBER, cores, own
from cinelab.zoo.bundle import Bundle
from cinelab.zoo.codec_footprint import codec_kind
from cinelab.zoo.footprint import Footprint, check_memory, film_spec, footprint, free_bytes

SMALL = 500e6  # multiplications of a call of the model that keep one thread busy


# what a bundle may state of the policy beside its storage
OF_CAMR = ("summary", "reuse_choice")
NO_FRAMES = np.empty((1, 0, 0, 0, 3), np.uint8)  # of a chunk that was not decoded


@dataclass
class TimedChunk(Readable):
    """One chunk of a running film: its frames, and where the time went.

    frames    uint8 (B, f, H, W, 3); none (f = 0) where the chunk was not decoded
    latents   (B, c, C, h, w)
    seconds   by cause: text, dit (denoising), memory (the clean pass), decode
    """

    index: int
    frames: np.ndarray
    latents: Tensor
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


@contextmanager
def inference_mode(bf16: bool, device: str | torch.device = "cpu", threads: int | None = None):
    """Inference without gradients, in half precision where asked, by so many threads of the CPU
    (None: by torch's own)."""
    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        with (
            torch.no_grad(),
            torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16),
        ):
            yield
    finally:
        if threads:
            torch.set_num_threads(before)


def threads_for(bundle: Bundle) -> int | None:
    """How many threads make a film: one where a call of the model is small, since the second costs
    more time to wake than it saves (the toybox: 25 ms a chunk by one thread, 32 by two). None = as
    many as torch has: for larger models, and where the user chose a number."""
    weights = list(bundle.model.parameters())
    work = sum(weight.numel() for weight in weights) * bundle.chunk_tokens
    chosen = own(NUMBER) or torch.get_num_threads() != cores()
    return 1 if work < SMALL and weights[0].device.type == "cpu" and not chosen else None


def storage_of(bundle: Bundle) -> Storage:
    """Return where the films of a model keep their history; a compiled model unpacks a packed one
    by a compiled kernel."""
    stated = {name: value for name, value in bundle.memory.items() if name not in OF_CAMR}
    speed = run_as(bundle.model)
    return Storage(**{"compiled": speed is not None and speed.compiled} | stated)


def trained_policy(bundle: Bundle) -> Policy | None:
    """The policy that a model was trained under, as its config.json says; None where it says
    none."""
    if bundle.policy is None:
        return None
    return policy_from_dict(bundle.policy, f"The config of {bundle.name}")


def policy_for(
    bundle: Bundle, policy: str | Policy | Mapping | None = None, budget: int | None = None
) -> Policy:
    """The policy of a name with at most `budget` units, that searches the history as finely as
    suits the model.

    No name is the policy that the model was trained under, or CAMR where its config.json says none.
    What a name and a budget leave open (positions, sinks, scores) is as in training where the name
    is of the policy that it was trained under. A Policy (or one written down, see `policy_named`)
    is taken as it is.
    """
    if policy is not None and not isinstance(policy, str):
        return policy_named(policy)
    trained = trained_policy(bundle)
    if trained is not None and policy in (None, name_of(trained)):
        fixed = policy in PUBLISHED or budget in (None, budget_of(trained))
        return trained if fixed else with_budget(trained, cast(int, budget))
    found = policy_named(policy or "camr", BUDGET if budget is None else budget)
    own = field_names(type(found)) if found.routed and policy not in PUBLISHED else ()
    stated = {name: bundle.memory[name] for name in OF_CAMR if name in bundle.memory}
    return replace(found, **{name: value for name, value in stated.items() if name in own})


def policy_after(
    bundle: Bundle, now: Policy, asked: str | Policy | Mapping | None, budget: int | None
) -> Policy:
    """The policy `now` after a change to what is `asked`, a name or a Policy, and to another
    budget; None = as it was."""
    if isinstance(asked, str):
        return policy_for(bundle, asked, budget or budget_of(now))
    kept = now if asked is None else policy_for(bundle, asked)
    return kept if budget is None else with_budget(kept, budget)


def named_policy(
    bundle: Bundle, policy: str | Policy | None = None, budget: int | None = None
) -> tuple[str | Policy, int]:
    """What settings keep of the policy that `policy_for` gives: the name of a built-in one, else
    itself; and its budget."""
    found = policy_for(bundle, policy, budget)
    name = name_of(found)
    units = budget_of(found, BUDGET if budget is None else budget)
    plain = isinstance(policy, str | None) and name in BUILT_IN
    return (name if plain else found), units


def empty_cache(bundle: Bundle, policy: Policy) -> KVCache:
    """Return the KV cache of a film that has not begun."""
    distance = cast(int | None, bundle.max_distance)  # a bundle has resolved "span"
    return KVCache(policy, bundle.chunk, distance, storage=storage_of(bundle))


def film_footprint(
    bundle: Bundle,
    policy: Policy,
    chunks: int,
    *,
    guided: bool = False,
    overlap: bool = False,
    prompts: int = 1,
) -> Footprint:
    """Return what a film of so many chunks and prompts takes beside the weights, which are there
    already. With `overlap` it is decoded while it is made."""
    speed = run_as(bundle.model)
    film = film_spec(
        policy,
        storage_of(bundle),
        bundle.model.config,
        max_distance=cast(int | None, bundle.max_distance),
        size=bundle.size,
        chunks=chunks,
        chunk=bundle.chunk,
        guided=guided,
        scale=bundle.codec.scale,
        codec=codec_kind(bundle.codec),
        overlap=overlap,
        graphs=speed is not None and speed.graphs,
        prompts=prompts,
    )
    full = bundle.model.patch_embedding.weight.dtype == torch.float32
    return footprint(bundle.model.config, film, 32 if full else 16, loaded=True)


def check_room(
    bundle: Bundle,
    policy: Policy,
    chunks: int,
    *,
    guided: bool = False,
    overlap: bool = False,
    prompts: int = 1,
) -> Footprint:
    """Refuse a film that cannot fit in what is free now. Raises CinelabError with the numbers."""
    need = film_footprint(bundle, policy, chunks, guided=guided, overlap=overlap, prompts=prompts)
    device = next(bundle.model.parameters()).device
    what = f"A film of {chunks} chunks under {name_of(policy)}"
    check_memory(need, free_bytes(device), free_bytes("cpu"), what)
    return need


def requests_of_films(
    timelines: Sequence[Timeline], seeds: Sequence[int], sampling: Sampling | None = None
) -> list[list[ChunkRequest]]:
    """Return what every chunk of a batch of films shows, one request a film; prompts are
    numbers."""
    counts = {len(line.slots) for line in timelines}
    if len(counts) > 1:
        raise CinelabError(f"A batch needs films of equal length, not of {sorted(counts)} chunks.")
    films = [
        [ChunkRequest(slot.prompt, slot.shot, seed=seed, sampling=sampling) for slot in line.slots]
        for line, seed in zip(timelines, seeds, strict=True)
    ]
    return [list(requests) for requests in zip(*films, strict=True)]


def prompts_and_shots(timelines: Sequence[Timeline]) -> tuple[Tensor, Tensor]:
    """Return the prompt number and the shot of every latent frame of films, each (B, F)."""
    frames = timelines[0].slots[0].frames
    slot = torch.tensor([[slot.prompt for slot in line.slots] for line in timelines])
    shot = torch.tensor([[slot.shot for slot in line.slots] for line in timelines])
    return slot.repeat_interleave(frames, 1), shot.repeat_interleave(frames, 1)


def embed(bundle: Bundle, timelines: Sequence[Timeline]) -> Tensor:
    """Prompts (B, S + 1, L, E), filled up with empty ones; the last is the one that guidance
    compares with."""
    most = max(len(line.prompts) for line in timelines)
    compared = unconditional_text(bundle.unconditional)
    return torch.stack(
        [
            bundle.encoder.encode([*line.prompts, *[""] * (most - len(line.prompts)), compared])
            for line in timelines
        ]
    )


def stream(
    bundle: Bundle,
    timelines: Sequence[Timeline],
    cache: KVCache,
    seeds: Sequence[int],
    sampling: Sampling | None = None,
    given: Tensor | None = None,
    bf16: bool = False,
    decode: bool = True,
) -> Iterator[TimedChunk]:
    """Yield the chunks of B films as they are made. `given` latents are taken as known history.

    `cache` is written to; it continues a film where it left off if it is not empty.
    """
    began = time.perf_counter()
    device = next(bundle.model.parameters()).device
    threads = threads_for(bundle)
    frames = bundle.chunk
    requests = requests_of_films(timelines, seeds, bundle.levels(sampling))
    with inference_mode(bf16, device, threads):
        text = embed(bundle, timelines).to(device)
        slot = torch.zeros(len(timelines), frames, dtype=torch.long, device=device)
        condition = Condition(text, slot).encoded(bundle.model)
    text_seconds = time.perf_counter() - began
    state = None
    chunks = rollout(
        ChunkModel(
            bundle.model,
            NumberedPrompts(condition, frames),
            (frames, *bundle.latent_shape),
            device,
            bundle.sampling,
        ),
        RolloutState(cache.length // (frames // cache.page_frames), cache),
        requests,
        given=given,
    )
    while True:
        with inference_mode(bf16, device, threads):
            chunk = next(chunks, None)
            if chunk is None:
                return
            began = time.perf_counter()
            decoded_frames = np.empty((len(timelines), 0))
            if decode:
                with torch.autocast(device.type, enabled=False):
                    decoded, state = bundle.codec.decode(chunk.latents.float(), state)
                decoded_frames = to_uint8(decoded)
        seconds = {"text": text_seconds, **chunk.seconds, "decode": time.perf_counter() - began}
        text_seconds = 0.0
        yield TimedChunk(chunk.index, decoded_frames, chunk.latents, seconds)


def make(
    bundle: Bundle,
    timelines: Sequence[Timeline],
    policy: str | Policy,
    seeds: Sequence[int],
    sampling: Sampling | None = None,
    given: Tensor | None = None,
    bf16: bool = True,
) -> tuple[Tensor, KVCache]:
    """All latents (B, F, C, h, w) of a batch of films, and their KV cache."""
    cache = empty_cache(bundle, policy_for(bundle, policy))
    made = stream(bundle, timelines, cache, seeds, sampling, given, bf16, decode=False)
    return torch.cat([timed.latents.float() for timed in made], dim=1), cache


def decode(bundle: Bundle, latents: Tensor) -> np.ndarray:
    """Latents (B, F, C, h, w) -> uint8 frames (B, pixel frames, H, W, 3)."""
    with inference_mode(False, latents.device, threads_for(bundle)):
        return to_uint8(bundle.codec.decode(latents.to(bundle.device))[0])
