"""Clean pass and first level in one call of the network: [clean chunk i | noisy chunk i + 1].

Law: equal to one after the other, to rounding. It saves one call of the network a chunk, which
matters for a student of few levels. Guided calls show each film twice and are not fused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.flow.condition import Condition
from cinelab.flow.rollout import ChunkModel, ChunkRequest, MadeChunk, denoise, renoise_of
from cinelab.flow.sampler import Sampling
from cinelab.memory.cache import KVCache
from cinelab.memory.open_chunk import OpenChunk
from cinelab.ops.rope import Rope
from cinelab.readable import Readable


@dataclass(frozen=True)
class FusedContext(Readable):
    """The attention context of [clean chunk i | noisy chunk i + 1].

    The clean chunk attends to the cache and is appended to it; the noisy one then attends to the
    cache including it. Both happen layer by layer, within one call.
    """

    clean: OpenChunk
    noisy: OpenChunk

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rope: Rope) -> Tensor:
        """Return the heads' outputs (B, 2 T, h, d) from unrotated q, k, v (B, 2 T, h, d)."""
        (clean_q, q), (clean_k, k), (clean_v, v) = (x.chunk(2, dim=1) for x in (q, k, v))
        clean = self.clean.attend(layer, clean_q, clean_k, clean_v, rope)
        self.noisy.cache.store(layer, self.clean)
        return torch.cat([clean, self.noisy.attend(layer, q, k, v, rope)], dim=1)


def append_and_denoise(
    model: ChunkModel, pending: MadeChunk, requests: Sequence[ChunkRequest], sampling: Sampling
) -> tuple[KVCache, MadeChunk]:
    """Append a pending chunk and make the one after it, with one call fewer.

    Return the cache after the pending chunk, and the new chunk, which is open in it.
    """
    sampling = sampling.filled()
    if sampling.guidance != 1:
        raise CinelabError(
            f"sampling.guidance is {sampling.guidance}; the clean pass joins the first level of "
            "unguided calls only."
        )
    clean = pending.opened.record()
    cache = clean.cache.snapshot()
    if requests[0].policy is not None:
        cache.policy = requests[0].policy
    cache.count(clean)
    index = clean.chunk + 1
    shot = torch.tensor([one.shot for one in requests])
    opened = cache.open(index, shot)
    condition = model.encode(requests)
    velocity = _FirstLevelFused(model.net, pending, clean, opened, condition)
    latents = denoise(velocity, renoise_of(model, index, requests), sampling)
    return cache, MadeChunk(opened, condition, latents)


class _FirstLevelFused:
    """The velocity v(x, t) of a chunk, whose first call shows the clean chunk before it as well."""

    def __init__(
        self,
        net: Callable[..., Tensor],
        pending: MadeChunk,
        clean: OpenChunk,
        opened: OpenChunk,
        condition: Condition,
    ):
        self.net = net
        self.latents = pending.latents
        self.clean = clean
        self.opened = opened
        self.words = condition.picked(condition.slot[:, 0])
        before = pending.condition
        self.both = _joined(before.picked(before.slot[:, 0]), self.words)
        self.calls = 0

    def __call__(self, x: Tensor, t: float) -> Tensor:
        self.calls += 1
        levels = x.new_full(x.shape[:2], t)
        if self.calls > 1:
            return self.net(x, levels, self.words, self.opened)
        both = torch.cat([self.latents.type_as(x), x], dim=1)
        times = torch.cat([torch.zeros_like(levels), levels], dim=1)
        v = self.net(both, times, self.both, FusedContext(self.clean, self.opened))
        self.opened.cache.note(self.clean)
        return v[:, x.shape[1] :]


def _joined(first: Condition, second: Condition) -> Condition:
    """Return the condition of two chunks in a row, each with one prompt of its own."""
    text = [
        (torch.cat([k, other_k], 1), torch.cat([v, other_v], 1))
        for (k, v), (other_k, other_v) in zip(first.text, second.text, strict=True)
    ]
    both = first.then(replace(second, slot=second.slot + 1))
    return replace(both, text=text)
