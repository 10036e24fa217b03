"""Rewards of a student's own clips: what one is, the list of them, and the two ways in which a loss
takes them in.

    @register.reward("bright")
    def bright(shown):
        return shown.frames.mean((1, 2, 3, 4)) / 255

A reward is a function of `ShownClips`, what a batch of clips shows, and gives one number a clip
within its range; NaN where the clip gives no occasion, as identity does where nobody comes back.
Settings weigh rewards by name, {"identity": 1.0, "motion": 1.0}; one of weight 0 is measured and
logged, and changes nothing.

Stages do not know who computes rewards: they are given a `Reward`, as the loop is given its
`Validator` (`cinelab.metrics.toybox.clip_rewards` makes one).

    B clips   F latent frames   C channels   H, W latent size   N pixel frames   Y, X frame size
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.latent.store import Clips
from cinelab.limits import is_number, short
from cinelab.readable import Readable
from cinelab.registry import Registry
from cinelab.script.shotlist import ListedShot
from cinelab.world.worlds import World

# what a reward may need beside the frames: the same prompts' true clips, or a reader of attributes
NEEDS = ("truth", "reader")
UNIT = (0.0, 1.0)
MOST = 1.0  # standard deviations beyond which an advantage counts as that many
LEAST = 0.1  # of a reward's unit: a smaller spread is taken for noise
# (sample (B, F, C, H, W), its clips, made (F,) bool) -> the rewards (B,) by their names
Reward = Callable[[Tensor, Clips, Tensor], Mapping[str, Tensor]]


@dataclass(frozen=True)
class ShownClips(Readable):
    """What a batch of clips shows, and what it was to show.

    frames   uint8 (B, N, Y, X, 3)
    shots    the shots of every clip, with their prompts and, in `shows`, what these name
    made     bool (N,), the frames that the student made; the others are a true beginning
    truth    uint8 (B, N, Y, X, 3), true clips of the same prompts; None where no reward needs them
    seen     by clip and shot, attribute -> value as the reader has it; None likewise
    world    the world that the prompts speak of
    """

    frames: np.ndarray
    shots: tuple[tuple[ListedShot, ...], ...]
    made: np.ndarray
    truth: np.ndarray | None = None
    seen: tuple[tuple[dict[str, str], ...], ...] | None = None
    world: World | None = None

    def is_made(self, shot: ListedShot) -> bool:
        """Whether the student made a shot, or the end of it."""
        return bool(self.made[shot.end - 1])


@dataclass(frozen=True)
class RewardTerm:
    """One registered reward: its function, the range of its values, and what it needs."""

    name: str
    measure: Callable[[ShownClips], Any]
    range: tuple[float, float] = UNIT
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.range) == 2 or not self.range[0] < self.range[1]:
            raise CinelabError(
                f"Reward {self.name!r}: range is {self.range!r}; give the least and the most, "
                "like (0, 1)."
            )
        if odd := [need for need in self.needs if need not in NEEDS]:
            raise CinelabError(
                f"Reward {self.name!r} needs {odd[0]!r}; known needs are {', '.join(NEEDS)}."
            )

    def values(self, shown: ShownClips) -> Tensor:
        """Return the reward of every clip (B,). CinelabError where it is not one number a clip, or
        leaves its range."""
        found = torch.as_tensor(np.asarray(self.measure(shown), dtype=np.float32))
        if found.shape != (len(shown.frames),):
            raise CinelabError(
                f"Reward {self.name!r} gives {tuple(found.shape)} for {len(shown.frames)} clips; "
                "return one number a clip."
            )
        low, high = self.range
        known = found[~found.isnan()]
        if len(known) and not (low <= known.min() and known.max() <= high):
            worst = known[((known < low) | (known > high)).nonzero()[0]].item()
            raise CinelabError(
                f"Reward {self.name!r} gives {worst:g}, outside its range {low:g} to {high:g}; "
                "correct one of the two."
            )
        return found


class Rewards(Registry):
    """The one list of rewards; `add` takes their range and needs too."""

    def add(self, name: str, thing: Any = None, **about: Any) -> Any:
        """See `Registry.add`. Further: range (least, most), and needs, some of NEEDS."""
        if thing is None:
            return lambda thing: self.add(name, thing, **about)
        self._check(name, thing)
        try:
            self._things[name] = RewardTerm(name, thing, **about)
        except TypeError as error:
            raise CinelabError(
                f"Reward {name!r}: {error}; a reward has range and needs."
            ) from error
        return thing

    def origin(self, thing: Any) -> str:
        """Return the import path of the function that measures."""
        return super().origin(thing.measure if isinstance(thing, RewardTerm) else thing)

    def term(self, name: str) -> RewardTerm:
        """Return the reward of a name or import path."""
        found = self.get(name)
        return found if isinstance(found, RewardTerm) else RewardTerm(name, found)


# those of the toybox stand in a later room, which knows its reader
REWARDS = Rewards("reward", builtin=("cinelab.metrics.toybox.rewards",))


def check_rewards(weights: Mapping[str, float] | None) -> None:
    """Raise CinelabError unless `weights`, a setting `reward`, weighs known rewards, or is None."""
    if weights is None:
        return
    if not weights:
        raise CinelabError("reward names none; give weights by name, like {'identity': 1.0}.")
    for name, weight in weights.items():
        REWARDS.get(name)
        if not is_number(weight) or not 0 <= weight < float("inf"):
            raise CinelabError(
                f"reward.{name} is {short(weight)}; give a weight of at least 0 (0 = only "
                "measured)."
            )


def given_reward(networks: Mapping[str, Any], weights: Mapping[str, float] | None) -> Reward | None:
    """Return what computes the rewards of a stage's settings, None where these name none.
    CinelabError where the training was given nothing that does."""
    if weights is None:
        return None
    if "reward" not in networks:
        raise CinelabError(
            f"reward is {short(dict(weights))}, but this training was given nothing that computes "
            "rewards; start it from a notebook (cinelab.lab.training), or leave reward out."
        )
    found: Reward = networks["reward"]
    return found


def mean_known(values: Tensor) -> Tensor:
    """Return the mean of the values (B,) that are not NaN; NaN where none is."""
    return values[~values.isnan()].mean()


def standardised(values: Tensor, group: int, least: float = 1e-3) -> Tensor:
    """Return numbers (B,) as distances from the mean of their group of `group` neighbours, in
    standard deviations of all B, at least `least`. NaN is its group's mean, and so 0."""
    groups = values.unflatten(0, (-1, group))
    centred = (groups - groups.nanmean(1, keepdim=True)).nan_to_num(0.0).flatten()
    return centred / centred.square().mean().sqrt().clamp(min=least)


def advantage(values: Mapping[str, Tensor], weights: Mapping[str, float], group: int) -> Tensor:
    """Return how much better than the others of its group each clip is, in [-1, 1] (B,): 0 where
    all are alike. Rewards by name (B,) are standardised each by itself, weighed, summed, and
    standardised again.

    DiffusionNFT (arXiv 2509.16117) centres a reward by prompt, divides by a scale Z and clips; the
    standard deviation of the whole batch is one of its two choices of Z. Doing so reward by reward
    first is ours: a weight then says how much a reward counts whatever its spread. In a plain sum
    identity, which varies most, drowns its guards. A spread below LEAST is taken for noise.
    """
    first = next(iter(values.values()))
    total = torch.zeros_like(first)
    whole = max(sum(weights.values()), 1e-12)
    for name, weight in weights.items():
        total = total + weight / whole * standardised(values[name], group, LEAST)
    return standardised(total, group).clamp(-MOST, MOST)


def exponential_weights(advantages: Tensor, beta: float) -> Tensor:
    """Return the weights (B,) of a batch's clips in reward-weighted distribution matching:
    exp(beta r), of mean 1.

    Reward Forcing's Re-DMD multiplies the loss of a roll-out by exp(beta r), with beta = 2 and r
    the motion quality that a video reward model gives, which that model's own training centred.
    Here r is the advantage within the batch. Dividing by the mean is ours too: beta then decides
    which clips count, and not how large a step is.
    """
    weights = (beta * advantages).exp()
    return weights / weights.mean()


def frame_weights(
    reward: Reward | None, sample: Tensor, clips: Clips, made: Tensor, *, config: Any
) -> tuple[Tensor | None, dict[str, float]]:
    """Return the weights of the frames that the student made, one a clip (B, made frames), and the
    rewards for the log; None and nothing without rewards. `config` has `reward` and `beta`."""
    if reward is None or config.reward is None:
        return None, {}
    values = reward(sample, clips, made)
    weights = exponential_weights(advantage(values, config.reward, len(sample)), config.beta)
    columns = reward_columns(values, config.reward)
    return weights[:, None].expand(-1, int(made.sum())), columns


def optimality(advantages: Tensor) -> Tensor:
    """Return the probability r in [0, 1] (B,) that each clip is optimal among those of its prompt:
    1/2 is as good as their mean (DiffusionNFT, arXiv 2509.16117, section 3)."""
    return 0.5 + 0.5 * advantages


def reward_columns(values: Mapping[str, Tensor], weights: Mapping[str, float]) -> dict[str, float]:
    """Return the columns of the log: the weighted mean reward of what has occasion, and the mean of
    every reward by name (NaN where no clip gives it occasion)."""
    means = {name: mean_known(found).item() for name, found in values.items()}
    known = {name: weight for name, weight in weights.items() if means[name] == means[name]}
    whole = max(sum(known.values()), 1e-12)
    total = sum(weight / whole * means[name] for name, weight in known.items())
    each = {f"reward_{name}": round(mean, 4) for name, mean in means.items()}
    return {"reward": round(total, 4), **each}
