"""A forward-process method of reinforcement learning: negative-aware fine-tuning (DiffusionNFT,
arXiv 2509.16117, Algorithm 1). The student learns from its own clips by flow matching alone: no
likelihoods, no stochastic sampler, no guidance, and no graph through the roll-out.

    roll out    the old policy v_old makes `group` clips x0 under each prompt, with its own memory
    reward      r in [0, 1], the probability that a clip is optimal among those of its prompt
    noise       x_t = (1 - t) x0 + t eps,   v = eps - x0,   t a level of the student a chunk
    student     v+ = (1 - m) v_old + m v_theta        v- = (1 + m) v_old - m v_theta
                loss = r || v+ - v ||^2 + (1 - r) || v- - v ||^2              (Theorem 3.2)
    old policy  v_old <- eta v_old + (1 - eta) v_theta,   eta = min(rise * step, most)

    B clips   F latent frames   C channels   H, W latent size   m the mixture (the paper's beta)

The network sees [clean | noisy], the clips' own past under the policy that they were made with.

A few-step student samples by consistency: at its level t it predicts the clean chunk x_t - t v, so
v is (x_t - prediction) / t, defined at its own levels, which alone are drawn here (RVM, arXiv
2608.23664, does so too). That v is no mean of the flow's velocities, and plain flow matching on
it would blur the student. This loss does not: at r = 1/2 it is least at v_theta = v_old, whatever
v_old is, and its gradient there is 2 m (2 r - 1) (v_old - v), so that only clips above or below
their group's mean move the student.

At t = 1 fresh noise says nothing of the clip, so that the step there is one shift for all noises,
towards the mean of the better clips. A few-step student decides looks at that level, and this shift
makes them alike; `pure_noise=False` leaves that level out (ours), which keeps looks apart and holds
the student less: watch the loss, which grows where clips get noisier.

The paper weighs the two errors by a self-normalised factor that depends on t, and trains adapters;
we leave the weight at 1 and train what the job trains.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from cinelab.errors import CinelabError
from cinelab.flow import path
from cinelab.flow.condition import given_history
from cinelab.flow.sampler import Sampling
from cinelab.latent.store import Clips, Store
from cinelab.memory.context import HistoryPolicy
from cinelab.memory.policy import CAMR, Policy
from cinelab.model.wan import CausalWan, WanConfig
from cinelab.ops.tensors import to_device
from cinelab.runs import Run
from cinelab.seeds import fork_rng, integers, normal, rng_at
from cinelab.train.computing import Computing
from cinelab.train.levels import draw_levels
from cinelab.train.loop import Columns, Learner, Loss, Validator
from cinelab.train.optim import Ema, Optim
from cinelab.train.rewards import (
    Reward,
    advantage,
    check_rewards,
    given_reward,
    optimality,
    reward_columns,
)
from cinelab.train.self_rollout import RolloutDraw, self_rollout
from cinelab.train.sizes import TOY
from cinelab.train.stage import STUDENT, Networks, Stage, stage

LAST = 1 - 1e-9  # of the levels: a roll-out that ends at none but the last one
GUARDED = {"identity": 1.0, "motion": 1.0, "diversity": 1.0, "prompt": 1.0}


@dataclass(frozen=True)
class ForwardProcessTraining(Computing):
    """The settings of the forward-process method."""

    model: WanConfig
    # the student's levels
    sampling: Sampling = field(default_factory=lambda: Sampling(2, "consistency", guidance=1.0))
    optim: Optim = field(
        default_factory=lambda: Optim(
            lr=1e-4, floor=1.0, betas=(0.9, 0.999), weight_decay=0.0, ema=0.95, warmup=5
        )
    )
    policy: Policy = field(default_factory=CAMR)  # of the student's memory, in roll-out and loss
    # weights of rewards by name (see train.rewards)
    reward: dict[str, float] = field(default_factory=lambda: dict(GUARDED))
    # whether the level t = 1 is drawn, where x_t says nothing of the clip that it is noised from
    pure_noise: bool = True
    mixture: float = 1.0  # m: how far v+ and v- are from v_old
    rise: float = 0.001  # of the old policy's decay a step ...
    most: float = 0.5  # ... up to this
    steps: int = 200
    group: int = 8  # clips a prompt
    batch: int = 32  # clips a step: whole groups
    lengths: tuple[int, ...] = (12,)  # latent frames of a roll-out, each as likely
    known: float = 0.0  # share of the roll-outs that continue a true clip (its first half is given)
    chunk: int = 1  # latent frames a chunk
    max_distance: int | None = 23  # latent frames: see `KVCache`
    seed: int = 0
    save_every: int = 20
    validate_every: int = 50
    bf16: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rewards(self.reward)
        object.__setattr__(self, "sampling", self.sampling.filled())
        if self.group < 2:
            raise CinelabError(
                f"group is {self.group}; rewards are compared within a prompt, so give at least 2."
            )
        if self.batch % self.group:
            raise CinelabError(
                f"batch is {self.batch} clips, which groups of {self.group} do not fill; give a "
                "multiple of group."
            )
        if not len(self.drawn_levels()):
            raise CinelabError(
                "sampling has the level 1 alone, which pure_noise=False leaves out; set "
                "pure_noise to true, or take a student of more levels."
            )
        if not self.lengths:
            raise CinelabError("lengths names none; give latent frames of a roll-out, like [12].")
        for frames in self.lengths:
            if frames % self.chunk:
                raise CinelabError(
                    f"lengths has {frames} latent frames, which chunk={self.chunk} does not divide."
                )

    def drawn_levels(self) -> Tensor:
        """Return the student's levels that are drawn (n,)."""
        levels = self.sampling.levels()[:-1].float()
        return levels if self.pure_noise else levels[levels < 1]

    @property
    def history(self) -> str:
        """What the student remembers in a roll-out: what it made."""
        return "self"


class OldPolicy(Ema):
    """The policy that makes the clips: an average of the student whose decay rises from 0, that is,
    from the student itself."""

    def __init__(self, model: nn.Module, rise: float, most: float):
        super().__init__(model, 0.0, warm=False)
        self.rise = rise
        self.most = most

    def follow(self, model: nn.Module, step: int) -> None:
        """Take in the weights that the student has before `step`; once a step."""
        if self.count < step:
            self.decay = min(self.rise * step, self.most)
            self.update(model)


class PolicyLearner(Learner):
    """A learner with its old policy, which is saved and resumed with it."""

    def __init__(self, model: nn.Module, loss: Loss, optim: Optim, *, old: OldPolicy):
        super().__init__(model, loss, optim)
        self.old = old

    @property
    def parts(self) -> dict[str, Any]:
        """The parts of a checkpoint, the old policy among them."""
        return {**super().parts, "old": self.old}


def repeated(clips: Clips, group: int) -> Clips:
    """Return clips with each one `group` times, side by side."""
    parts = {
        name: getattr(clips, name).repeat_interleave(group, 0)
        for name in ("latents", "text", "slot", "shot")
    }
    controls = {name: x.repeat_interleave(group, 0) for name, x in clips.controls.items()}
    return replace(clips, **parts, controls=controls)


def noised_at_levels(
    x0: Tensor, config: ForwardProcessTraining, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return noised x, its timesteps t (B, F), a level of the student a chunk, and the path's
    velocity v at x, of the shape of x0 (B, F, C, H, W)."""
    levels = to_device(config.drawn_levels(), x0.device)
    shape = (x0.shape[0], x0.shape[1])
    drawn = draw_levels(len(levels), shape, config.chunk, levels="chunk", rng=rng, on=x0)
    t = levels[drawn]
    eps = normal(x0.shape, rng, x0.device)
    return path.noised(x0, eps, t), t, path.velocity(x0, eps)


def velocity_given_past(
    net: Any, clips: Clips, x: Tensor, *, t: Tensor, config: ForwardProcessTraining
) -> Tensor:
    """Return a network's velocity at x (B, F, C, H, W), t (B, F), given the clips' own past."""
    context = HistoryPolicy(config.policy).context(clips.shot, config.chunk)
    return given_history(net, clips.latents, x, t, clips.condition, context).float()


def contrastive_loss(
    v: Tensor, v_old: Tensor, target: Tensor, *, r: Tensor, mixture: float
) -> Tensor:
    """Return r || v+ - v ||^2 + (1 - r) || v- - v ||^2 in the mean over clips; velocities
    (B, F, C, H, W), r (B,). (DiffusionNFT, Theorem 3.2.)"""
    positive = (1 - mixture) * v_old + mixture * v
    negative = (1 + mixture) * v_old - mixture * v
    gained = (positive - target).square().flatten(1).mean(1)
    lost = (negative - target).square().flatten(1).mean(1)
    return (r * gained + (1 - r) * lost).mean()


def loss(
    model: CausalWan,
    clips: Clips,
    config: ForwardProcessTraining,
    *,
    old: OldPolicy,
    reward: Reward,
    rng: torch.Generator,
    draw: RolloutDraw,
) -> tuple[Tensor, Columns]:
    """Return the loss on clips that the old policy makes under the prompts and cuts of `clips`, and
    what they are worth, for the log. Only frames that it made itself count."""
    rollout_config: Any = config  # has what a roll-out reads of DMD's settings
    full = draw._replace(exit_at=LAST)
    with torch.no_grad(), old.applied_to(model):
        sample, made = self_rollout(model, clips, rollout_config, rng, full)
        own = replace(clips, latents=sample)
        x, t, target = noised_at_levels(sample, config, rng)
        v_old = velocity_given_past(model, own, x, t=t, config=config)
    values = reward(sample, clips, made)
    r = optimality(advantage(values, config.reward, config.group))
    v = velocity_given_past(model, own, x, t=t, config=config)
    parts = (v[:, made], v_old[:, made], target[:, made])
    found = contrastive_loss(*parts, r=r, mixture=config.mixture)
    apart = (v.detach() - v_old)[:, made].square().mean().sqrt()
    return found, {"apart": apart, **reward_columns(values, config.reward)}


@stage("forward_process")
class ForwardProcess(Stage):
    """Fine-tuning of a student by rewards of its own clips, after stage 2 or 3."""

    config = ForwardProcessTraining
    roles = (STUDENT,)
    validated = True
    rolls_out = True
    full_precision = True

    def presets(self, seed: int) -> dict[str, ForwardProcessTraining]:
        toy = ForwardProcessTraining(model=TOY, steps=120, batch=16, known=0.4, seed=seed)
        smoke = replace(
            toy, steps=3, group=2, batch=4, lengths=(4,), save_every=2, validate_every=2
        )
        h100 = replace(
            toy,
            steps=400,
            group=16,
            batch=256,
            lengths=(12, 24),
            save_every=50,
            validate_every=100,
        )
        return {"smoke": smoke, "toy": toy, "h100": h100}

    def learners(
        self, config: ForwardProcessTraining, data: Store, networks: Networks
    ) -> list[Learner]:
        model = networks["student"]
        reward = given_reward(networks, config.reward)
        assert reward is not None  # the settings name rewards
        old = OldPolicy(model, config.rise, config.most)

        def stage_loss(
            model: CausalWan, step: int, micro_batch: int, rng: torch.Generator
        ) -> tuple[Tensor, Columns]:
            old.follow(model, step)
            draw = RolloutDraw.of(rng)  # before the fork: alike in all micro-batches
            place = rng_at(config.seed, "clips", step, kind=type(rng))
            frames = config.lengths[int(integers(len(config.lengths), (), place))]
            prompts = data.clips(config.batch // config.group, frames, fork_rng(place, micro_batch))
            clips = repeated(prompts, config.group)
            forked = fork_rng(rng, micro_batch)
            return loss(model, clips, config, old=old, reward=reward, rng=forked, draw=draw)

        return [PolicyLearner(model, stage_loss, config.optim, old=old)]

    def fitted(
        self, config: ForwardProcessTraining, changes: Mapping[str, Any], init: Any, teacher: Any
    ) -> ForwardProcessTraining:
        if init is None:
            raise CinelabError(
                "forward_process begins from a student, whose clips are rewarded; name its "
                "checkpoint as init."
            )
        if (longest := max(config.lengths)) > init.span:
            raise CinelabError(
                f"lengths has {longest} latent frames, but the student {init.name} was trained on "
                f"{init.span}; shorten the roll-outs."
            )
        # the student keeps the distances it knows, and the levels, unless its user sets others
        kept = {"max_distance": init.max_distance, "sampling": init.sampling}
        own = {name.split(".")[0] for name in changes}
        return replace(config, **{name: x for name, x in kept.items() if name not in own})

    def sampling(self, config: ForwardProcessTraining, many_steps: Sampling) -> Sampling:
        return config.sampling

    def span(self, config: ForwardProcessTraining) -> int:
        return (config.max_distance or max(config.lengths) - 1) + 1

    def passes(self, back: float, chunks: int) -> float:
        # two levels and a clean pass of every chunk, which attends to its past; the old policy's
        # velocity and the student's over [clean | noisy]
        rollout = 3 * (1 + 1 / chunks) / 2
        return rollout + 2 + 2 * back


def train(
    config: ForwardProcessTraining,
    model: CausalWan,
    store: Store,
    *,
    reward: Reward,
    run: Run,
    validator: Validator | None = None,
) -> Iterator[Columns]:
    """Yield one log row per step; resumes with the old policy."""
    made = ForwardProcess("forward_process")
    networks = {"student": model}
    return made.train(config, store, networks, run=run, validator=validator, reward=reward)
