"""Sequence parallelism: processes share the frames of one clip, and trade frames for heads around
attention (DeepSpeed Ulysses, arXiv 2309.14509).

    P processes   F latent frames, f of this process   T = F N tokens, T' of this process   h heads

    outside attention   (B, T', h, d)   all heads of this process's frames
    inside attention    (B, T, h/P, d)  this process's heads of all frames: contexts and masks hold
                                        the whole clip, as in one process

Every process of the group is given the whole clip and gets the whole velocity back, so losses need
not know. The gradient of the velocity is multiplied by P on its way in: each process carries its
own frames' share of the weights' gradient, and the mean over all processes (what FSDP takes) is
then the whole.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cinelab.errors import CinelabError
from cinelab.flow.condition import Condition
from cinelab.ops.attention import AttentionContext
from cinelab.ops.rope import Rope
from cinelab.readable import Readable


@dataclass(frozen=True)
class Sequence(Readable):
    """The processes that share a clip: a process group and its size."""

    group: Any
    size: int

    def join(self, model: nn.Module) -> None:
        """Let `model` (a CausalWan) share its clips with the group: its forward pass is wrapped."""
        config: Any = model.config  # torch types it as a tensor or a module
        heads: int = config.num_attention_heads
        if heads % self.size:
            raise CinelabError(
                f"layout.sequence is {self.size}, which does not divide the model's {heads} heads; "
                "give a divisor of them."
            )
        forward = model.forward

        def shared(x: Tensor, t: Tensor, condition: Condition, context: AttentionContext) -> Tensor:
            share = self.share(x.shape[1])
            own = condition.over_frames(share.own)
            return share.whole(forward(share.own(x), share.own(t), own, share.around(context)))

        model.forward = shared

    def share(self, frames: int) -> "Share":
        """Return how many of a clip's frames each process has, as even as they go."""
        if frames < self.size:
            raise CinelabError(
                f"A clip of {frames} frames cannot be shared by {self.size} processes; "
                "lower layout.sequence or lengthen the clips."
            )
        return Share(
            self.group, [frames // self.size + (i < frames % self.size) for i in range(self.size)]
        )


@dataclass(frozen=True)
class Share(Readable):
    """One pass of one clip: `counts` are the frames of each process."""

    group: Any
    counts: list[int]

    @property
    def rank(self) -> int:
        """The rank of this process in the group."""
        return dist.get_rank(self.group)

    def own(self, x: Tensor) -> Tensor:
        """Return this process's frames of x (B, F, ...)."""
        return x.split(self.counts, dim=1)[self.rank]

    def whole(self, x: Tensor) -> Tensor:
        """Return all frames (B, F, ...) from every process's own (B, f, ...)."""
        return _Gather.apply(x.transpose(0, 1), self.counts, self.group).transpose(0, 1)

    def around(self, context: AttentionContext) -> "SharedContext":
        """Return `context` for callers who have all heads of some frames."""
        if hasattr(context, "average_scores"):  # it retrieves: a layer's heads choose together
            context.average_scores = self.average
        return SharedContext(context, self)

    def average(self, scores: Tensor) -> Tensor:
        """Return scores averaged over all heads, from the mean over each process's own: the heads
        of a layer choose as one."""
        whole = scores.contiguous().clone()
        dist.all_reduce(whole, group=self.group)
        return whole / len(self.counts)

    def heads(self, x: Tensor) -> Tensor:
        """Return this process's heads of all frames (B, T, h/P, d), from all heads of its frames
        (B, T', h, d)."""
        size = len(self.counts)
        own = x.shape[1]
        # tokens of each process
        takes = [own // self.counts[self.rank] * count for count in self.counts]
        split = x.unflatten(2, (size, -1)).permute(2, 1, 0, 3, 4).flatten(0, 1)  # (P T', B, h/P, d)
        return _Exchange.apply(split, [own] * size, takes, self.group).transpose(0, 1)

    def tokens(self, x: Tensor) -> Tensor:
        """Return all heads of this process's frames (B, T', h, d): `heads` undone."""
        size = len(self.counts)
        each = x.shape[1] // sum(self.counts)  # tokens a frame
        gives = [each * count for count in self.counts]
        # (P T', B, h/P, d)
        parts = _Exchange.apply(x.transpose(0, 1), gives, [gives[self.rank]] * size, self.group)
        return parts.unflatten(0, (size, -1)).permute(2, 1, 0, 3, 4).flatten(2, 3)


@dataclass(frozen=True)
class SharedContext(Readable):
    """Attention over the whole clip, by heads, around another context."""

    context: AttentionContext
    share: Share

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rope: Rope) -> Tensor:
        """Return the outputs (B, T', h, d) of this process's frames from its unrotated q, k, v."""
        q, k, v = (self.share.heads(x) for x in (q, k, v))
        return self.share.tokens(self.context.attend(layer, q, k, v, rope=rope))


def _exchange(x: Tensor, give: list[int], take: list[int], group: Any) -> Tensor:
    """Send `give` rows of x (sum of give, ...) to each process in turn, and return the `take` rows
    (sum of take, ...) that each has sent."""
    out = x.new_empty((sum(take), *x.shape[1:]))
    dist.all_to_all_single(out, x.contiguous(), take, give, group=group)
    return out


class _Exchange(torch.autograd.Function):
    """`_exchange`, whose gradient is the opposite exchange."""

    @staticmethod
    def forward(ctx, x: Tensor, give: list[int], take: list[int], group: Any) -> Tensor:
        ctx.way = (take, give, group)
        return _exchange(x, give, take, group)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        return _exchange(grad, *ctx.way), None, None, None


class _Gather(torch.autograd.Function):
    """Rows of all processes, in order. Backward takes the gradient of this process's own rows,
    times the number of processes (see the head of the file)."""

    @staticmethod
    def forward(ctx, x: Tensor, counts: list[int], group: Any) -> Tensor:
        ctx.counts = counts
        ctx.group = group
        copies = x.repeat(len(counts), *[1] * (x.ndim - 1))
        return _exchange(copies, [len(x)] * len(counts), counts, group)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        own = grad.split(ctx.counts)[dist.get_rank(ctx.group)]
        return own * len(ctx.counts), None, None
