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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as fn
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.flow import path
from cinelab.flow.rollout import (
    ChunkModel,
    ChunkRequest,
    NumberedPrompts,
    RolloutState,
    rollout,
)
from cinelab.flow.sampler import Sampling
from cinelab.latent.store import Clips, Store, compared_with
from cinelab.memory.cache import KVCache
from cinelab.memory.policy import CAMR, Policy
from cinelab.model.wan import CausalWan, WanConfig
from cinelab.readable import Readable
from cinelab.runs import Run
from cinelab.seeds import fork_rng, rng_at
from cinelab.train.loop import Learner, Validator
from cinelab.train.loop import train as run_loop
from cinelab.train.losses import error, loss_name
from cinelab.train.optim import Optim
from cinelab.train.pairs import TEACHERS, teacher_velocity
from cinelab.train.precision import prime_autocast
from cinelab.train.provenance import draws_from

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


@dataclass(frozen=True)
class RolloutDraw:
    """What a self-rollout draws: all processes of a step must draw alike, to make the same calls."""

    known: float  # below config.known, the roll-out continues a true beginning
    exit_at: float  # in [0, 1): the share of the levels at which chunks end (random exit step)

    @classmethod
    def of(cls, rng: torch.Generator) -> "RolloutDraw":
        known, exit_at = torch.rand(2, generator=rng).tolist()
        return cls(known, exit_at)


def self_rollout(
    model: CausalWan,
    clips: Clips,
    config: DmdTraining,
    rng: torch.Generator,
    draw: RolloutDraw | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the student's own clips (B, F, C, h, w), and which frames (F,) it made itself.

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
        ChunkModel(model, prompts, shape, device, config.sampling),
        RolloutState(0, KVCache(config.policy, config.chunk, config.max_distance)),
        requests_of(clips, seeds, config.chunk),
        given=clips.latents[:, :half] if continued else None,
        clean=clips.latents if config.history == "truth" else None,
        exit_at=draw.exit_at,
    )
    sample = torch.cat([chunk.latents.float() for chunk in chunks], dim=1)
    return sample, torch.arange(frames) >= (half if continued else 0)


def requests_of(clips: Clips, seeds: Sequence[int], chunk: int) -> list[list[ChunkRequest]]:
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


def score_velocity(
    net: Any,
    sample: Tensor,
    x: Tensor,
    t: Tensor,
    clips: Clips,
    config: DmdTraining,
    guidance: float = 1,
) -> Tensor:
    """Return a score function's velocity at x, t (B, F), which says the same as its score.

    It attends to all noisy frames of the sample, or to the sample's (or the true) clean past.
    """
    past = replace(clips, latents=sample) if config.history == "self" else clips
    return teacher_velocity(net, past, config.score, guidance, config.chunk)(x, t)


def noised_at_random(
    sample: Tensor, config: DmdTraining, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return noised x, its timesteps t (B, F), one a clip, and the noise."""
    t = path.draw_t((sample.shape[0], 1), config.shift, rng).clamp(*config.t_range)
    t = t.expand(-1, sample.shape[1]).to(sample.device)
    eps = torch.randn(sample.shape, generator=rng).to(sample.device)
    return path.noised(sample, eps, t), t, eps


@torch.no_grad()
def direction(
    sample: Tensor, clips: Clips, real: Any, fake: Any, config: DmdTraining, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the distribution-matching gradient on a sample (B, F, C, h, w), and the distance of
    the two scores (B, F): zero where they agree.

    DMD, Eq. 7 and 8 (arXiv 2311.18828): (fake x0 - real x0), normalised by mean |sample - real x0|.
    """
    x, t, _ = noised_at_random(sample, config, rng)
    real_x0 = path.clean(x, score_velocity(real, sample, x, t, clips, config, config.guidance), t)
    fake_x0 = path.clean(x, score_velocity(fake, sample, x, t, clips, config), t)
    gap = fake_x0 - real_x0
    if not torch.isfinite(gap).all():
        raise CinelabError(
            "The critic's score is not finite any more; lower critic.lr and resume from the last "
            "save."
        )
    size = (sample - real_x0).abs().mean(dim=(1, 2, 3, 4), keepdim=True)
    return gap / size.clamp(min=1e-6), gap.abs().mean(dim=(2, 3, 4)) / size.flatten()[:, None]


def student_loss(
    model: CausalWan,
    clips: Clips,
    real: Any,
    fake: Any,
    config: DmdTraining,
    rng: torch.Generator,
    draw: RolloutDraw | None = None,
) -> tuple[Tensor, dict]:
    """Return half the squared distance to sample - gradient, whose gradient is that gradient; and
    how far the scores are apart."""
    sample, own = self_rollout(model, clips, config, rng, draw)
    gradient, gap = direction(sample.detach(), clips, real, fake, config, rng)
    goal = (sample - gradient).detach()
    loss = 0.5 * error(config.loss, sample[:, own], goal[:, own])
    return loss, {"gap": round(gap[:, own].mean().item(), 4)}


def critic_loss(
    fake: CausalWan,
    student: CausalWan,
    clips: Clips,
    config: DmdTraining,
    rng: torch.Generator,
    draw: RolloutDraw | None = None,
) -> Tensor:
    """Return the flow matching error of the fake score on what the student makes."""
    with torch.no_grad():
        sample, own = self_rollout(student, clips, config, rng, draw)
    x, t, eps = noised_at_random(sample, config, rng)
    v = score_velocity(fake, sample, x, t, clips, config)
    return fn.mse_loss(v[:, own], path.velocity(sample, eps)[:, own])


def train(
    config: DmdTraining,
    model: CausalWan,
    real: CausalWan,
    fake: CausalWan,
    store: Store,
    run: Run,
    validator: Validator | None = None,
) -> Iterator[dict]:
    """Yield one log row per step (an update of the critic); resumes with both networks and their
    optimisers."""

    def clips_at(step: int, part: int, who: str) -> Clips:
        rng = rng_at(config.seed, "clips", who, step)
        # the same for all parts
        frames = config.lengths[int(torch.randint(len(config.lengths), (), generator=rng))]
        clips = store.clips(config.batch, frames, fork_rng(rng, part))
        return compared_with(clips, store, config.unconditional)

    def student_step(
        model: CausalWan, step: int, part: int, rng: torch.Generator
    ) -> tuple[Tensor, dict]:
        draw = RolloutDraw.of(rng)
        clips = clips_at(step, part, "student")
        prime_autocast(model, clips)
        return student_loss(model, clips, real, fake, config, fork_rng(rng, part), draw)

    def critic_step(
        fake: CausalWan, step: int, part: int, rng: torch.Generator
    ) -> tuple[Tensor, dict]:
        draw = RolloutDraw.of(rng)
        clips = clips_at(step, part, "critic")
        return critic_loss(fake, model, clips, config, fork_rng(rng, part), draw), {}

    student = Learner(model, student_step, config.optim, every=config.critic_updates)
    critic = Learner(fake, critic_step, config.critic, "critic", averaged=False)
    draws_from(run, store, config.model)
    return run_loop([student, critic], config, run, validator)
