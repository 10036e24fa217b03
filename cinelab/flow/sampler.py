"""Levels, solvers and THE roll-out: training, streaming and evaluation all make chunks here.

The network is any callable net(x, t, text, slot, sight) -> velocity; the memory is a sight with
begin / record / commit (see cinelab.memory.cache). Neither is imported.

    B films   c frames a chunk   C channels   S prompts (the last one is the empty prompt)
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.flow.path import guided, shifted
from cinelab.seeds import rng_at

SOLVERS = ("euler", "ab2")


@dataclass(frozen=True)
class Sampling:
    """How the many-step model is sampled."""

    steps: int = 8
    solver: str = "ab2"  # euler, or Adams-Bashforth of second order
    guidance: float = 2.0  # 1 = off
    shift: float = 2.0  # of the timesteps

    def __post_init__(self):
        if self.steps < 1:
            raise CinelabError(f"sampling.steps is {self.steps}; at least 1 is needed.")
        if self.solver not in SOLVERS:
            raise CinelabError(f"sampling.solver is {self.solver!r}; use one of {', '.join(SOLVERS)}.")
        if self.shift <= 0 or self.guidance < 0:
            raise CinelabError(f"sampling.shift is {self.shift} and guidance {self.guidance}; "
                               "the shift must be above 0 and the guidance at least 0.")

    def levels(self) -> Tensor:
        """(steps + 1,) times from 1 to 0."""
        return shifted(torch.linspace(1, 0, self.steps + 1, dtype=torch.float64), self.shift)


def solve(field_: Callable[[Tensor, float], Tensor], x: Tensor, levels: Tensor, solver: str) -> Tensor:
    """Integrate dx/dt = field(x, t) along `levels` from noise x (B, c, C, H, W) to data."""
    before: tuple[Tensor, float] | None = None
    for here, there in zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True):
        v, step = field_(x, here), there - here
        slope = v
        if solver == "ab2" and before is not None:
            old, old_step = before
            slope = v + 0.5 * step / old_step * (v - old)
        x, before = x + step * slope, (v, step)
    return x


@dataclass(frozen=True)
class Script:
    """What the roll-out needs to know of a timeline, for a batch of films with equally many chunks.

    slot and shot are (B, chunks): the prompt and the shot number of every chunk of every film.
    """

    slot: Tensor
    shot: Tensor
    chunk: int  # latent frames a chunk
    null: int  # index of the empty prompt


@dataclass
class Chunk:
    """One finished chunk of latents (B, c, C, H, W), and where the time went (seconds by cause)."""

    index: int
    latents: Tensor
    seconds: dict[str, float] = field(default_factory=dict)


def noise_for(seeds: Sequence[int], chunk: int, shape: tuple[int, ...]) -> Tensor:
    """Noise (B, *shape) of chunk number `chunk`: film i's depends on its own seed alone."""
    return torch.stack([torch.randn(shape, generator=rng_at(seed, "noise", chunk)) for seed in seeds])


def denoise(net: Any, memory: Any, text: Any, script: Script, index: int, noise: Tensor, sampling: Sampling) -> Tensor:
    """One chunk from noise (B, c, C, H, W) under the open memory."""
    batch, frames = noise.shape[:2]
    slot = script.slot[:, index : index + 1].expand(-1, frames)
    both = torch.cat([slot, torch.full_like(slot, script.null)])
    single = sampling.guidance == 1

    def velocity(x: Tensor, t: float) -> Tensor:
        if single:
            return net(x, x.new_full((batch, frames), t), text.plain, slot, memory)
        v = net(x.repeat(2, 1, 1, 1, 1), x.new_full((2 * batch, frames), t), text.twice, both, memory)
        return guided(v[:batch], v[batch:], sampling.guidance)

    return solve(velocity, noise, sampling.levels(), sampling.solver)


def remember(net: Any, memory: Any, text: Any, script: Script, index: int, latents: Tensor) -> None:
    """Show the clean chunk once (t = 0) and put its keys and values into the memory."""
    slot = script.slot[:, index : index + 1].expand(-1, latents.shape[1])
    memory.record()
    net(latents, latents.new_zeros(latents.shape[:2]), text.plain, slot, memory)
    memory.commit()


def rollout(net: Any, memory: Any, text: Any, script: Script, seeds: Sequence[int], shape: tuple[int, ...],
            sampling: Sampling, start: int = 0, given: Tensor | None = None, device: str = "cpu") -> Iterator[Chunk]:
    """Yield the chunks of B films one after another, from chunk `start` on.

    text    has .plain (prompts as the net takes them) and .twice (the same for a doubled batch)
    shape   (c, C, H, W) of a chunk        seeds   one a film
    given   latents (B, frames, C, H, W): these chunks are not made but taken (a known history)
    """
    for index in range(start, script.slot.shape[1]):
        began = time.perf_counter()
        memory.begin(index, script.shot[:, index])
        known = given is not None and (index + 1) * script.chunk <= given.shape[1]
        if known:
            latents = given[:, index * script.chunk : (index + 1) * script.chunk]
        else:
            noise = noise_for(seeds, index, shape).to(device)
            latents = denoise(net, memory, text, script, index, noise, sampling)
        made = time.perf_counter()
        remember(net, memory, text, script, index, latents)
        seconds = {"dit": made - began, "memory": time.perf_counter() - made}
        yield Chunk(index, latents, seconds)
