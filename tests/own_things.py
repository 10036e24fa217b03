"""A user's own module, as docs/extending.md shows one: what the tests of extending import."""

from dataclasses import dataclass

import torch

from cinelab import CAMR, Full, Policy, register


@register.policy("last_of_shots")
@dataclass(frozen=True)
class LastOfShots(Policy):
    """The last unit of every shot, the most recent first."""

    budget: int = 4

    def budget_at(self, count):
        return min(self.budget, count)

    def priority(self, shots, shot):
        after = torch.cat([shots[..., 1:], shot[..., None]], dim=-1)
        last = (shots != after).float()
        last[..., -1] = 1.0
        order = torch.arange(shots.shape[-1]) - float(shots.shape[-1] + 1)
        return torch.where(last == 1, 1000.0 + order, order)


@dataclass(frozen=True)
class Steadier(CAMR):
    """A class below a built-in one, with a setting of its own."""

    calm: float = 0.5


@dataclass(frozen=True)
class OnlyFirst(Full):
    """A class below Full that does not see all."""

    def budget_at(self, count):
        return min(1, count)

    def priority(self, shots, shot):
        return -torch.arange(shots.shape[-1], dtype=torch.float).expand(shots.shape) - 1.0


@dataclass(frozen=True)
class ByMeanKey(Policy):
    """A routed policy with scores of its own."""

    budget: int = 2

    @property
    def routed(self):
        return True

    def budget_at(self, count):
        return self.budget  # more than there are is no harm

    def priority(self, shots, shot):
        return torch.zeros(shots.shape)

    def relevance(self, q, k):
        return torch.einsum("brhd,bnhd->brn", q.mean(2), k.mean(2))[:, None]


register.policy("two_last", lambda budget: LastOfShots(2))


@register.metric("redness", better="low", unit="grey levels", range=(0, 255))
def redness(frames, shots):
    return [
        [film[one.start : one.end, ..., 0].mean() for one in parts]
        for film, parts in zip(frames, shots, strict=True)
    ]


@register.metric("brightness")
def brightness(frames):
    return frames.mean((1, 2, 3, 4))


@register.loss("huber")
def huber(pred, target, t):
    assert t.shape == pred.shape[:2]
    return torch.nn.functional.huber_loss(pred, target, reduction="none")


def plain_l1(pred, target):
    return (pred - target).abs().mean()


@register.solver("heun")
def heun(field, x, levels):
    for here, there in zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True):
        v = field(x, here)
        end = x + (there - here) * v
        x = x + (there - here) / 2 * (v + field(end, there))
        yield x


def leap(field, x, levels, fresh):
    """One step to the data, and the noise that it was given."""
    assert fresh(1).shape == x.shape
    return x - float(levels[0]) * field(x, float(levels[0]))
