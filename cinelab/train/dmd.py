"""Stage 3: asymmetric distribution matching with self-rollout. The causal student makes films, two
scores correct them (Self Forcing, arXiv 2506.08009, Algorithm 1; Causal Forcing, arXiv 2602.02214,
stage 3).

    roll out     the student makes a multi-shot clip with its own memory (policy, cuts and prompt
                 switches included); each chunk ends at a random exit step, whose prediction x alone
                 keeps its graph
    student      noise x to a level t; descend  (fake_x0 - real_x0) / mean|x - real_x0|,  taken as a
                 fixed gradient on x
    critic       flow matching on the student's clips, several updates for one of the student

    B clips   F latent frames   C channels   H, W latent size

The real score is the teacher's guided prediction, the fake score the critic's: both bidirectional
(the papers), or both autoregressive, given the clip's own clean past. `gan` adds CausalCine's
adversarial head on the critic's features (see `cinelab.train.gan`).

With `history="truth"` the student remembers true chunks in place of its own, and autoregressive
scores are given the same: causal score distillation, an initialisation that Causal Forcing++
compares with.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as fn
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.flow import path
from cinelab.flow.sampler import Sampling
from cinelab.latent.store import Clips, Store, compared_with
from cinelab.memory.policy import CAMR, FULL, Policy
from cinelab.model.wan import CausalWan, WanConfig
from cinelab.runs import Run
from cinelab.script.unconditional import NAME as PUBLISHED
from cinelab.seeds import fork_rng, integers, normal, rng_at
from cinelab.train.computing import Computing
from cinelab.train.gan import Adversary, GanConfig, adversary_of, critic_term, student_term
from cinelab.train.loop import Columns, Learner, Validator
from cinelab.train.losses import error, loss_name
from cinelab.train.optim import Optim
from cinelab.train.pairs import TEACHERS, teacher_velocity
from cinelab.train.precision import prime_autocast
from cinelab.train.rewards import Reward, check_rewards, frame_weights, given_reward
from cinelab.train.self_rollout import RolloutDraw, self_rollout
from cinelab.train.sizes import CHUNK, PAPERS, SPAN, TOY, WAN_CAMR, wan_presets
from cinelab.train.stage import STUDENT, TEACHER, Networks, Role, Stage, stage

HISTORIES = ("self", "truth")


@dataclass(frozen=True)
class DmdTraining(Computing):
    """The settings of stage 3."""

    model: WanConfig
    # the student's levels
    sampling: Sampling = field(default_factory=lambda: Sampling(2, "consistency", guidance=1.0))
    optim: Optim = field(
        default_factory=lambda: Optim(lr=1e-4, betas=(0.0, 0.999), ema=0.98, warmup=10)
    )
    critic: Optim = field(default_factory=lambda: Optim(lr=2e-4, betas=(0.0, 0.999), warmup=10))
    policy: Policy = field(default_factory=CAMR)  # of the student's memory in its roll-outs
    loss: str = "mse"  # of the student: a registered name or an import path (see train.losses)
    # weights of rewards by name (see train.rewards): each clip's loss times exp(beta r)
    reward: dict[str, float] | None = None
    beta: float = 2.0
    score: str = "bidirectional"  # whose judgement: both scores are of this kind
    # what the student remembers: what it made, or the truth (causal score distillation)
    history: str = "self"
    # of the real score: w of u + w (c - u); the papers' "3" is c + 3 (c - u), which is 4 here
    guidance: float = 2.0
    # the prompt of u: a text, or "published" (Wan's negative prompt; the papers')
    unconditional: str = ""
    shift: float = 2.0  # of the levels at which the scores are evaluated
    t_range: tuple[float, float] = (0.02, 0.98)
    critic_updates: int = 5  # for each of the student
    gan: GanConfig | None = None  # the adversarial head; None: without it
    steps: int = 500  # updates of the critic
    batch: int = 16  # clips
    lengths: tuple[int, ...] = (12,)  # latent frames of a roll-out, each as likely
    known: float = 0.0  # share of the roll-outs that continue a true clip (its first half is given)
    chunk: int = 1  # latent frames a chunk
    # latent frames: what is farther back stands at this distance (see `KVCache`)
    max_distance: int | None = field(default=23, metadata={"was": "reach"})
    seed: int = 0
    save_every: int = 50
    validate_every: int = field(default=50, metadata={"was": "exam_every"})
    bf16: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        loss_name(self.loss)
        check_rewards(self.reward)
        # filled in here, so that the run's config.json has all of it
        object.__setattr__(self, "sampling", self.sampling.filled())
        if self.sampling.solver != "consistency":
            raise CinelabError(
                f"sampling.solver is {self.sampling.solver!r}; a few-step student samples by "
                "'consistency'."
            )
        if self.score not in TEACHERS:
            raise CinelabError(f"score is {self.score!r}; use one of {', '.join(TEACHERS)}.")
        if self.history not in HISTORIES:
            raise CinelabError(f"history is {self.history!r}; use one of {', '.join(HISTORIES)}.")
        if self.history == "truth" and (self.score, self.known) != ("autoregressive", 0.0):
            raise CinelabError(
                "history='truth' goes with score='autoregressive' and known=0, not with "
                f"{self.score!r} and "
                f"{self.known}; a bidirectional score would judge frames that do not belong "
                "together."
            )
        if self.critic_updates < 1:
            raise CinelabError(
                f"critic_updates is {self.critic_updates}; the critic needs at least 1."
            )
        if not 0 < self.t_range[0] < self.t_range[1] < 1:
            raise CinelabError(
                f"t_range is {list(self.t_range)}; give two levels that rise within (0, 1)."
            )
        for frames in self.lengths:
            if frames % self.chunk:
                raise CinelabError(
                    f"lengths has {frames} latent frames, which chunk={self.chunk} does not divide."
                )


def score_velocity(
    net: Any,
    sample: Tensor,
    x: Tensor,
    t: Tensor,
    clips: Clips,
    config: DmdTraining,
    guidance: float = 1,
) -> Tensor:
    """Return a score network's velocity at x (B, F, C, H, W), t (B, F). Its score is
    -(x + (1 - t) v) / t, so that the two say the same.

    A bidirectional one attends to all noisy frames, an autoregressive one to the clean past: the
    sample's own, or the true one.
    """
    past = replace(clips, latents=sample) if config.history == "self" else clips
    return teacher_velocity(net, past, config.score, guidance, config.chunk)(x, t)


def noised_at_random(
    sample: Tensor, config: DmdTraining, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return noised x, its timesteps t (B, F), one a clip, and the noise."""
    t = path.draw_t((sample.shape[0], 1), config.shift, rng, sample.device).clamp(*config.t_range)
    t = t.expand(-1, sample.shape[1])
    eps = normal(sample.shape, rng, sample.device)
    return path.noised(sample, eps, t), t, eps


@torch.no_grad()
def dmd_gradient(
    sample: Tensor, clips: Clips, real: Any, fake: Any, config: DmdTraining, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the distribution-matching gradient on a sample (B, F, C, H, W), and the distance of
    the two scores (B, F): zero where they agree.

    DMD, Eq. 7 and 8 (arXiv 2311.18828): (fake x0 - real x0), normalised by mean |sample - real x0|.
    """
    x, t, _ = noised_at_random(sample, config, rng)
    real_x0 = path.clean(x, score_velocity(real, sample, x, t, clips, config, config.guidance), t)
    fake_x0 = path.clean(x, score_velocity(fake, sample, x, t, clips, config), t)
    gap = fake_x0 - real_x0  # (B, F, C, H, W)
    # a GPU is not waited for: there the loss is found not to be finite when it is read
    if not gap.is_cuda and not torch.isfinite(gap).all():
        raise CinelabError(
            "The critic's score is not finite any more; lower critic.lr and resume from the last "
            "save."
        )
    size = (sample - real_x0).abs().mean(dim=(1, 2, 3, 4), keepdim=True)  # one a clip
    return gap / size.clamp(min=1e-6), gap.abs().mean(dim=(2, 3, 4)) / size.flatten()[:, None]


def student_loss(
    model: CausalWan,
    clips: Clips,
    real: Any,
    fake: Any,
    config: DmdTraining,
    rng: torch.Generator,
    draw: RolloutDraw | None = None,
    *,
    reward: Reward | None = None,
    gan: Adversary | None = None,
) -> tuple[Tensor, dict]:
    """Return half the squared distance to the fixed target (sample - gradient), whose gradient on
    the sample is that gradient, with the adversarial loss where there is one; and how far the
    scores are apart (`gap`, for the log).

    Only frames that the student made itself count, not those of a true beginning. With a `reward`
    each clip's distance is multiplied by exp(beta r) (Reward Forcing's Re-DMD).
    """
    sample, own = self_rollout(model, clips, config, rng, draw)
    gradient, gap = dmd_gradient(sample.detach(), clips, real, fake, config, rng)
    goal = (sample - gradient).detach()
    weight, rewarded = frame_weights(reward, sample, clips, own, config=config)
    loss = 0.5 * error(config.loss, sample[:, own], goal[:, own], weight=weight)
    columns: Columns = {"gap": gap[:, own].mean().detach()} | rewarded
    if gan is None:
        return loss, columns
    x, t, _ = noised_at_random(sample, config, rng)
    judged = gan.judge_frozen(fake, partial(score_velocity, fake, sample, x, t, clips, config))
    adversarial = student_term(judged.logits[:, own])
    return loss + gan.config.weight * adversarial, columns | {"adversarial": adversarial.detach()}


def critic_loss(
    fake: CausalWan,
    student: CausalWan,
    clips: Clips,
    config: DmdTraining,
    rng: torch.Generator,
    draw: RolloutDraw | None = None,
    *,
    gan: Adversary | None = None,
) -> tuple[Tensor, Columns]:
    """Return the flow matching error of the fake score on what the student makes, with the
    adversarial loss where there is one, and columns for the log.

    The student's roll-out is without gradient here; the frames that it made itself count.
    """
    with torch.no_grad():
        sample, own = self_rollout(student, clips, config, rng, draw)
    x, t, eps = noised_at_random(sample, config, rng)
    velocity = partial(score_velocity, fake, sample, x, t, clips, config)
    goal = path.velocity(sample, eps)
    if gan is None:
        return fn.mse_loss(velocity()[:, own], goal[:, own]), {}
    v, made = gan.judge(fake, velocity)
    truth = gan.reals(clips, rng)
    x, t, _ = noised_at_random(truth.latents, config, rng)
    real = partial(score_velocity, fake, truth.latents, x, t, truth, config)
    true = gan.judge(fake, real).logits[:, own]
    made = made[:, own]
    loss = fn.mse_loss(v[:, own], goal[:, own]) + gan.config.critic_weight * critic_term(true, made)
    return loss, {"real": true.mean().detach(), "made": made.mean().detach()}


@stage("dmd")
class DistributionMatching(Stage):
    """Stage 3, from stage 2; the critic begins as the real score."""

    config = DmdTraining
    roles = (
        STUDENT,
        Role("teacher", TEACHER, trained=False, title="real score"),
        Role("critic", TEACHER, title="real score"),
    )
    validated = True
    rolls_out = True
    full_precision = True

    def presets(self, seed: int) -> dict[str, DmdTraining]:
        toy = DmdTraining(
            model=TOY,
            optim=Optim(lr=1e-4, betas=(0.0, 0.999), ema=0.95, warmup=10),
            steps=120,
            batch=8,
            lengths=(12, 24),
            known=0.4,
            critic_updates=3,
            save_every=24,
            validate_every=24,
            seed=seed,
        )
        smoke = replace(
            toy,
            steps=3,
            batch=1,
            lengths=(4,),
            critic_updates=2,
            known=0.5,
            save_every=2,
            validate_every=2,
        )
        h100 = replace(
            toy,
            optim=replace(toy.optim, ema=0.98, warmup=20),
            steps=600,
            batch=64,
            critic_updates=5,
            save_every=50,
            validate_every=100,
        )
        large = wan_presets(
            toy,
            {"policy": WAN_CAMR},
            sampling=Sampling(4, "consistency", guidance=1.0, shift=5.0),
            optim=replace(PAPERS, ema_from=200),
            critic=replace(PAPERS, lr=4e-7),
            policy=FULL,
            guidance=4.0,
            unconditional=PUBLISHED,
            shift=5.0,
            critic_updates=5,
            steps=1000,
            batch=1,
            lengths=(SPAN,),
            known=0.0,
            chunk=CHUNK,
            max_distance=SPAN - 1,
        )
        return {"smoke": smoke, "toy": toy, "h100": h100, **large}

    def learners(self, config: DmdTraining, data: Store, networks: Networks) -> list[Learner]:
        model = networks["student"]
        real = networks["teacher"]
        fake = networks["critic"]
        reward = given_reward(networks, config.reward)
        gan = adversary_of(config.gan, config, networks, data) if config.gan else None

        def clips_at(step: int, micro_batch: int, who: str, kind: type[torch.Generator]) -> Clips:
            rng = rng_at(config.seed, "clips", who, step, kind=kind)
            # the same length in all micro-batches, whose processes must make the same calls
            frames = config.lengths[int(integers(len(config.lengths), (), rng))]
            clips = data.clips(config.batch, frames, fork_rng(rng, micro_batch))
            return compared_with(clips, data, config.unconditional)

        def student_step(
            model: CausalWan, step: int, micro_batch: int, rng: torch.Generator
        ) -> tuple[Tensor, Columns]:
            draw = RolloutDraw.of(rng)  # before the fork: alike in all micro-batches
            clips = clips_at(step, micro_batch, "student", type(rng))
            prime_autocast(model, clips)
            forked = fork_rng(rng, micro_batch)
            return student_loss(
                model, clips, real, fake, config, forked, draw, reward=reward, gan=gan
            )

        def critic_step(
            fake: CausalWan, step: int, micro_batch: int, rng: torch.Generator
        ) -> tuple[Tensor, Columns]:
            draw = RolloutDraw.of(rng)
            clips = clips_at(step, micro_batch, "critic", type(rng))
            forked = fork_rng(rng, micro_batch)
            return critic_loss(fake, model, clips, config, forked, draw, gan=gan)

        student = Learner(model, student_step, config.optim, every=config.critic_updates)
        critic = Learner(
            fake,
            critic_step,
            config.critic,
            name="critic",
            averaged=False,
            heads={"head": gan.head} if gan else {},
            head_rate=gan.config.rate if gan else 1.0,
        )
        return [student, critic]

    def check(self, config: DmdTraining, *, processes: int) -> None:
        if processes > 1 and config.score != "bidirectional":
            raise CinelabError(
                f"score is {config.score!r}, whose critic learns through keys of another pass, "
                "which sharded weights do not allow; use score bidirectional (the papers'), or one "
                "process."
            )
        if processes > 1 and config.gan is not None:
            raise CinelabError(
                f"gan is set for {processes} processes, but its head is no part of the sharded "
                "critic and would differ among them; train in one process, or set gan to null."
            )

    def fitted(
        self, config: DmdTraining, changes: Mapping[str, Any], init: Any, teacher: Any
    ) -> DmdTraining:
        if (longest := max(config.lengths)) > teacher.span:
            raise CinelabError(
                f"lengths has {longest} latent frames, but the real score {teacher.name} was "
                f"trained on {teacher.span}; shorten the roll-outs or name another real score."
            )
        # the student keeps the distances it knows, unless its user sets another limit
        given = {"max_distance", "reach"} & set(changes)
        return config if given else replace(config, max_distance=init.max_distance)

    def sampling(self, config: DmdTraining, many_steps: Sampling) -> Sampling:
        return config.sampling

    def span(self, config: DmdTraining) -> int:
        return (config.max_distance or max(config.lengths) - 1) + 1

    def passes(self, back: float, chunks: int, *, gan: bool = False) -> float:
        # 2.5 levels in the mean and a clean pass of every chunk, which attends to its past
        rollout = 3.5 * (1 + 1 / chunks) / 2
        critic = rollout + back
        # one level of each chunk has a gradient; the guided teacher's two passes, and the critic's
        student = rollout * (1 + (back - 1) / 3.5) + 2 + 1
        if gan:
            # the real clips, which the critic's weights learn from; the made ones, through which
            # the gradient reaches the student alone. The teacher's clips are made once.
            critic += back
            student += back - 1
        return critic + student / 5  # of the mean step: every fifth moves the student too


def train(
    config: DmdTraining,
    model: CausalWan,
    real: CausalWan,
    fake: CausalWan,
    store: Store,
    run: Run,
    validator: Validator | None = None,
) -> Iterator[Columns]:
    """Yield one log row per step (an update of the critic); resumes with both networks and their
    optimizers."""
    networks = {"student": model, "teacher": real, "critic": fake}
    made = DistributionMatching("dmd")
    return made.train(config, store, networks, run=run, validator=validator)
