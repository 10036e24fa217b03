"""Self-rollout: the student makes the clips that it is trained on, with its own memory (Self
Forcing, arXiv 2506.08009, Algorithm 1). Cuts, prompts and controls are those of true clips.

    B clips   F latent frames   C channels   H, W latent size
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from cinelab.flow.rollout import (
    ChunkModel,
    ChunkRequest,
    NumberedPrompts,
    RolloutState,
    rollout,
)
from cinelab.latent.store import Clips
from cinelab.memory.cache import KVCache
from cinelab.model.wan import CausalWan
from cinelab.seeds import CounterGenerator, normal, rng_at, uniform

if TYPE_CHECKING:
    from cinelab.train.dmd import DmdTraining


class RolloutDraw(NamedTuple):
    """What a self-rollout draws. All processes of a step must draw alike: sharded weights are
    gathered in every call of the network, so all must make the same calls."""

    known: float  # below config.known, the roll-out continues a true beginning
    exit_at: float  # in [0, 1): the share of the levels at which chunks end (random exit step)

    @classmethod
    def of(cls, rng: torch.Generator) -> "RolloutDraw":
        """Return the draws of a generator."""
        known, exit_at = uniform((2,), rng).tolist()
        return cls(known, exit_at)


def self_rollout(
    model: CausalWan,
    clips: Clips,
    config: "DmdTraining",
    rng: torch.Generator,
    draw: RolloutDraw | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the student's own clips (B, F, C, H, W), and which frames (F,) it made itself.

    The cuts, prompts and controls are the clips'. (Self Forcing, Algorithm 1: random exit step, the
    graph of each chunk's last prediction alone.)
    """
    batch, frames, *latent = clips.latents.shape
    draw = draw or RolloutDraw.of(rng)
    half = frames // 2 // config.chunk * config.chunk
    continued = draw.known < config.known
    seeds = torch.randint(2**40, (batch,), generator=rng).tolist()
    prompts = NumberedPrompts(clips.condition.encoded(model), config.chunk)
    shape = (config.chunk, *latent)
    device = clips.latents.device
    chunks = rollout(
        ChunkModel(model, prompts, shape, device, config.sampling, rollout_noise(rng, device)),
        RolloutState(0, KVCache(config.policy, config.chunk, config.max_distance)),
        clip_requests(clips, seeds, config.chunk),
        given=clips.latents[:, :half] if continued else None,
        clean=clips.latents if config.history == "truth" else None,
        exit_at=draw.exit_at,
    )
    sample = torch.cat([chunk.latents.float() for chunk in chunks], dim=1)
    return sample, torch.arange(frames) >= (half if continued else 0)


def rollout_noise(rng: torch.Generator, device: torch.device) -> Callable[..., Tensor] | None:
    """Return the noise of a roll-out as `ChunkModel` asks for it, drawn on the device by a counter,
    a chunk and a level at a time; None where `rng` draws on the host, each film from its seed."""
    if not isinstance(rng, CounterGenerator):
        return None

    def noise(seeds: Sequence[int], chunk: int, shape: tuple[int, ...], level: int = 0) -> Tensor:
        place = rng_at(rng.initial_seed(), "noise", chunk, level, kind=CounterGenerator)
        return normal((len(seeds), *shape), place, device)

    return noise


def clip_requests(clips: Clips, seeds: Sequence[int], chunk: int) -> list[list[ChunkRequest]]:
    """Return what every chunk of a batch of clips shows, one request a clip."""
    slots = clips.slot[:, ::chunk].tolist()
    shots = clips.shot[:, ::chunk].tolist()

    def request(clip: int, number: int) -> ChunkRequest:
        part = slice(number * chunk, (number + 1) * chunk)
        controls = {name: x[clip, part] for name, x in clips.controls.items()}
        return ChunkRequest(
            slots[clip][number], shots[clip][number], seed=seeds[clip], controls=controls
        )

    return [[request(clip, n) for clip in range(len(seeds))] for n in range(len(slots[0]))]
