"""Stage 3: asymmetric distribution matching with self-rollout. The causal student makes films, two
scores correct them.

    roll out     the student makes a multi-shot clip with its own memory (policy, cuts and prompt switches included);
                 each chunk ends at a random exit level, whose prediction x alone keeps its graph
    student      noise x to a level t; descend  (fake_x0 - real_x0) / mean|x - real_x0|,  taken as a fixed gradient on x
    critic       flow matching on the student's clips, several updates for one of the student

The real score is the teacher's guided prediction, the fake score the critic's: both bidirectional
(the papers), or both autoregressive, given the clip's own clean past.

With `history="truth"` the student remembers true chunks in place of its own, and autoregressive
scores see the same: causal score distillation, an initialisation that Causal Forcing++ compares
with.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as fn
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.flow import path
from cinelab.flow.sampler import Prompts, Sampling, Script, rollout
from cinelab.latent.store import Clips, Store, compared_with
from cinelab.memory.cache import KVCache
from cinelab.memory.context import BidirectionalContext
from cinelab.memory.policy import CAMR, FULL, Policy
from cinelab.model.wan import CausalWan, WanConfig
from cinelab.readable import Readable
from cinelab.runs import Run
from cinelab.script.unconditional import NAME as PUBLISHED
from cinelab.seeds import fork_rng, rng_at
from cinelab.train.loop import Columns, Learner, Validator
from cinelab.train.losses import error, loss_name
from cinelab.train.optim import Optim
from cinelab.train.pairs import TEACHERS, teacher_velocity
from cinelab.train.sizes import CHUNK, PAPERS, SPAN, TOY, WAN_CAMR, wan_presets
from cinelab.train.stage import STUDENT, TEACHER, Networks, Role, Stage, stage

HISTORIES = ("self", "truth")


@dataclass(frozen=True)
class DmdTraining(Readable):
    model: WanConfig
    # the student's levels
    sampling: Sampling = field(default_factory=lambda: Sampling(2, "consistency", guidance=1.0))
    optim: Optim = field(
        default_factory=lambda: Optim(lr=1e-4, betas=(0.0, 0.999), ema=0.98, warmup=10)
    )
    critic: Optim = field(default_factory=lambda: Optim(lr=2e-4, betas=(0.0, 0.999), warmup=10))
    policy: Policy = field(default_factory=CAMR)  # of the student's memory in its roll-outs
    loss: str = "mse"  # of the student: a registered name or an import path (see train.losses)
    score: str = "bidirectional"  # whose judgement: both scores are of this kind
    # what the student remembers: what it made, or the truth (causal score distillation)
    history: str = "self"
    # of the real score: w of u + w (c - u); the papers' "3" is c + 3 (c - u), which is 4 here
    guidance: float = 2.0
    # the prompt of u: a text, or "published" (Wan's negative prompt; the papers')
    unconditional: str = ""
    shift: float = 2.0  # of the levels at which the scores are asked
    t_range: tuple[float, float] = (0.02, 0.98)
    critic_updates: int = 5  # for each of the student
    steps: int = 500  # updates of the critic
    batch: int = 16  # clips
    lengths: tuple[int, ...] = (12,)  # latent frames of a roll-out, each as likely
    known: float = 0.0  # share of the roll-outs that continue a true clip (its first half is given)
    chunk: int = 1  # latent frames a chunk
    # latent frames: the cache holds what is farther back at this distance
    max_distance: int | None = field(default=23, metadata={"was": "reach"})
    seed: int = 0
    save_every: int = 50
    validate_every: int = field(default=50, metadata={"was": "exam_every"})
    bf16: bool = True

    def __post_init__(self):
        loss_name(self.loss)
        # so that the run's config.json says all of it
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


def self_rollout(
    model: CausalWan,
    clips: Clips,
    config: DmdTraining,
    rng: torch.Generator,
    lots: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The student's own clips (B, F, C, h, w), and which frames (F,) it made itself. `lots` (2,),
    else drawn: whether a true beginning is given, and how deep the chunks go. All processes of a
    step must draw them alike, to make the same calls."""
    batch, frames, *latent = clips.latents.shape
    lot, depth = (torch.rand(2, generator=rng) if lots is None else lots).tolist()
    half = frames // 2 // config.chunk * config.chunk
    given = clips.latents[:, :half] if lot < config.known else None
    seeds = torch.randint(2**40, (batch,), generator=rng).tolist()
    script = Script(
        clips.slot[:, :: config.chunk], clips.shot[:, :: config.chunk], config.chunk, clips.null
    )
    text = Prompts(model, clips.text)
    # Autocast keeps the weights it casts: those cast in a pass without gradient would be lost to
    # the passes with one.
    model(
        clips.latents[:1, :1],
        clips.latents.new_zeros(1, 1),
        clips.text[:1],
        clips.slot[:1, :1],
        BidirectionalContext(torch.arange(1)),
    )
    chunks = rollout(
        model,
        KVCache(config.policy, config.chunk, config.max_distance),
        text,
        script,
        seeds,
        (config.chunk, *latent),
        config.sampling,
        given=given,
        device=clips.latents.device,
        depth=depth,
        truth=clips.latents if config.history == "truth" else None,
    )
    made = torch.cat([chunk.latents.float() for chunk in chunks], dim=1)
    return made, torch.arange(frames) >= (0 if given is None else half)


def score(
    net: Any,
    sample: Tensor,
    x: Tensor,
    t: Tensor,
    clips: Clips,
    config: DmdTraining,
    guidance: float = 1,
) -> Tensor:
    """A score's velocity at x, t (B, F): it sees all noisy frames of the sample, or the sample's
    (or the true) clean past."""
    past = replace(clips, latents=sample) if config.history == "self" else clips
    return teacher_velocity(net, past, config.score, guidance, config.chunk)(x, t)


def noised_at_random(
    sample: Tensor, config: DmdTraining, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """x, t (B, F) and the noise: one level a clip."""
    t = (
        path.draw_t((sample.shape[0], 1), config.shift, rng)
        .clamp(*config.t_range)
        .expand(-1, sample.shape[1])
        .to(sample.device)
    )
    eps = torch.randn(sample.shape, generator=rng).to(sample.device)
    return path.noised(sample, eps, t), t, eps


@torch.no_grad()
def direction(
    sample: Tensor, clips: Clips, real: Any, fake: Any, config: DmdTraining, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The distribution-matching gradient on a sample, and the scores' distance (B, F): zero where
    they agree."""
    x, t, _ = noised_at_random(sample, config, rng)
    wanted = path.clean(x, score(real, sample, x, t, clips, config, config.guidance), t)
    gap = path.clean(x, score(fake, sample, x, t, clips, config), t) - wanted
    if not torch.isfinite(gap).all():
        raise CinelabError(
            "The critic's score is not finite any more; lower critic.lr and resume from the last "
            "save."
        )
    size = (sample - wanted).abs().mean(dim=(1, 2, 3, 4), keepdim=True)
    return gap / size.clamp(min=1e-6), gap.abs().mean(dim=(2, 3, 4)) / size.flatten()[:, None]


def student_loss(
    model: CausalWan,
    clips: Clips,
    real: Any,
    fake: Any,
    config: DmdTraining,
    rng: torch.Generator,
    lots: Tensor | None = None,
) -> tuple[Tensor, dict]:
    """Half the squared distance to sample - gradient, which has that gradient; and how far the
    scores are apart."""
    sample, own = self_rollout(model, clips, config, rng, lots)
    gradient, gap = direction(sample.detach(), clips, real, fake, config, rng)
    goal = (sample - gradient).detach()
    return 0.5 * error(config.loss, sample[:, own], goal[:, own]), {
        "gap": round(gap[:, own].mean().item(), 4)
    }


def critic_loss(
    fake: CausalWan,
    student: CausalWan,
    clips: Clips,
    config: DmdTraining,
    rng: torch.Generator,
    lots: Tensor | None = None,
) -> Tensor:
    """Flow matching on what the student makes."""
    with torch.no_grad():
        sample, own = self_rollout(student, clips, config, rng, lots)
    x, t, eps = noised_at_random(sample, config, rng)
    v = score(fake, sample, x, t, clips, config)
    return fn.mse_loss(v[:, own], path.velocity(sample, eps)[:, own])


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
        return {"smoke": smoke, "toy": toy, **large}

    def learners(self, config: DmdTraining, data: Store, networks: Networks) -> list[Learner]:
        model = networks["student"]
        real = networks["teacher"]
        fake = networks["critic"]

        def clips_at(step: int, micro_batch: int, who: str) -> Clips:
            rng = rng_at(config.seed, "clips", who, step)
            # the same length in all micro-batches, whose processes must make the same calls
            frames = config.lengths[int(torch.randint(len(config.lengths), (), generator=rng))]
            clips = data.clips(config.batch, frames, fork_rng(rng, micro_batch))
            return compared_with(clips, data, config.unconditional)

        def student_step(
            model: CausalWan, step: int, micro_batch: int, rng: torch.Generator
        ) -> tuple[Tensor, Columns]:
            shared = torch.rand(2, generator=rng)  # before the fork: alike in all micro-batches
            clips = clips_at(step, micro_batch, "student")
            return student_loss(
                model, clips, real, fake, config, fork_rng(rng, micro_batch), shared
            )

        def critic_step(
            fake: CausalWan, step: int, micro_batch: int, rng: torch.Generator
        ) -> tuple[Tensor, Columns]:
            shared = torch.rand(2, generator=rng)
            clips = clips_at(step, micro_batch, "critic")
            forked = fork_rng(rng, micro_batch)
            return critic_loss(fake, model, clips, config, forked, shared), {}

        student = Learner(model, student_step, config.optim, every=config.critic_updates)
        critic = Learner(fake, critic_step, config.critic, name="critic", averaged=False)
        return [student, critic]

    def check(self, config: DmdTraining, *, processes: int) -> None:
        if processes > 1 and config.score != "bidirectional":
            raise CinelabError(
                f"score is {config.score!r}, whose critic learns through keys of another pass, "
                "which sharded weights do not allow; use score bidirectional (the papers'), or one "
                "process."
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

    def passes(self, back: float, chunks: int) -> float:
        # 2.5 levels in the mean and a clean pass of every chunk, which attends to its past
        rollout = 3.5 * (1 + 1 / chunks) / 2
        critic = rollout + back
        # one level of each chunk has a gradient; the guided teacher's two passes, and the critic's
        student = rollout * (1 + (back - 1) / 3.5) + 2 + 1
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
