"""Stage 1: teacher forcing on native multi-shot clips. Denoise every chunk given the clean chunks
before it (Causal Forcing, arXiv 2602.02214, stage 1; CausalCine, arXiv 2605.12496, multi-shot
tuning).

    show the clip twice, [clean | noisy], both halves at the same positions, the clean one at t = 0
    clean chunk i attends to clean chunks up to i, noisy chunk i to those before i and to itself
    loss = w(t) || net([x0 | x_t])_noisy - (eps - x0) ||^2

    B clips   F latent frames   C channels   H, W latent size

Each chunk has a timestep of its own, as in Causal Forcing; CausalCine draws one a clip
(`levels="clip"`), which has the same expectation where noisy chunks do not attend to each other. A
share of the steps routes the history with CAMR, so that training meets the memory of streaming:
CausalCine routes in all steps (preset `causalcine`). Another share hides what the running shot has
already shown, so that a chunk which could copy its neighbour must recall an earlier shot, as after
a cut; this is ours.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import exp

import torch
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.flow import path
from cinelab.flow.condition import given_history
from cinelab.latent.store import Clips, Store, dropped
from cinelab.memory.context import FULL_HISTORY, HistoryPolicy, sample_history_policy
from cinelab.memory.policy import CAMR, CausalCine, Policy
from cinelab.model.wan import CausalWan, WanConfig
from cinelab.runs import Run
from cinelab.seeds import fork_rng, normal
from cinelab.train.computing import Computing
from cinelab.train.levels import check_drawn
from cinelab.train.loop import Columns, Learner
from cinelab.train.losses import error, loss_name
from cinelab.train.optim import Optim
from cinelab.train.shown import numbers_of
from cinelab.train.sizes import (
    CHUNK,
    FRAMES_A_STEP,
    H100_OPTIM,
    PAPERS,
    SMOKE,
    SPAN,
    TOY,
    WAN_CAMR,
    wan_presets,
)
from cinelab.train.stage import Networks, Stage, stage

WEIGHTS = ("even", "bell")
# The share of the training after which history is routed or hidden. Which chunks CAMR retrieves is
# decided by queries and keys, and those of an untrained network mean nothing: it first learns to
# denoise under its full history. The shipped base did so in about 1,700 of its 5,300 steps, the
# short clips of its curriculum and the first long ones.
ROUTED_FROM = 0.321


@dataclass(frozen=True)
class TeacherForcingTraining(Computing):
    """The settings of stage 1."""

    model: WanConfig
    optim: Optim = field(default_factory=Optim)
    camr: Policy = field(default_factory=CAMR)
    loss: str = "mse"  # a registered name or an import path (see train.losses)
    steps: int = 3000
    frames_per_batch: int = 192  # latent frames over all clips of a batch
    # clip length over equal parts of the training
    curriculum: tuple[int, ...] = (8, 24, 24, 24, 24)
    chunk: int = 1  # latent frames a chunk
    camr_share: float = 0.3  # of the later steps: the memory of streaming
    # of the later steps: other shots only, so that every chunk must recall, not copy
    other_shots_share: float = field(default=0.4, metadata={"was": "across_share"})
    routed_from: float = ROUTED_FROM  # the later steps begin after this share of the training
    drop_text: float = 0.1
    # of the noise levels in the loss: even, or a bell around t = 0.5 (Wan's, the papers')
    weight: str = "even"
    # what draws a timestep of its own: a chunk, or a clip (CausalCine)
    levels: str = "chunk"
    shift: float = 2.0
    seed: int = 0
    save_every: int = 100
    bf16: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        loss_name(self.loss)
        check_drawn(self.levels)
        if self.weight not in WEIGHTS:
            raise CinelabError(f"weight is {self.weight!r}; use one of {', '.join(WEIGHTS)}.")
        for frames in self.curriculum:
            if frames % self.chunk:
                raise CinelabError(
                    f"curriculum has {frames} latent frames, which chunk={self.chunk} does not "
                    "divide."
                )


def clip_length(config: TeacherForcingTraining, step: int) -> int:
    """Return the latent frames of a step's clips, by the curriculum."""
    parts = len(config.curriculum)
    return config.curriculum[min(parts - 1, step * parts // config.steps)]


def history_at(config: TeacherForcingTraining, step: int) -> HistoryPolicy:
    """Return what a step attends to: full memory first; the later steps alternate full memory, CAMR
    and other shots only."""
    if step < config.routed_from * config.steps:
        return FULL_HISTORY
    return sample_history_policy(
        config.seed,
        step,
        config.camr,
        camr_share=config.camr_share,
        other_shots_share=config.other_shots_share,
    )


def bell(t: Tensor, shift: float) -> Tensor:
    """Return the weights of times t in [0, 1], of t's shape: most at 0.5, none at 1, and 1 in the
    mean over shifted times.

    This is the training weight of Wan's flow matching scheduler with its 1,000 times, as Self
    Forcing and Causal Forcing train with it (`training_weight`).
    """
    times = path.shifted(torch.arange(1, 1001) / 1000, shift)
    height, mean = (((-2 * (x - 0.5) ** 2).exp() - exp(-0.5)) for x in (t, times))
    return height / mean.mean()


def loss(
    model: CausalWan,
    clips: Clips,
    config: TeacherForcingTraining,
    history: HistoryPolicy,
    rng: torch.Generator,
) -> Tensor:
    """Return the error of the noisy copy's velocity (B, F, C, H, W), every frame weighted by its
    timestep.

    Each chunk, or each clip, has a timestep of its own.
    """
    x0 = clips.latents
    batch, frames = x0.shape[:2]
    size = config.chunk if config.levels == "chunk" else frames
    t = path.draw_t((batch, frames // size), config.shift, rng, x0.device)
    t = t.repeat_interleave(size, 1)  # (B, F)
    eps = normal(x0.shape, rng, x0.device)
    # the history always knows its prompts, the noisy copy may have lost them
    condition = replace(clips.condition, slot=dropped(clips, config.drop_text, rng))
    context = history.context(numbers_of(clips, history.policy), config.chunk)
    pred = given_history(
        model,
        x0,
        path.noised(x0, eps, t),
        t,
        condition,
        context,
        past_condition=clips.condition,
    )
    weight = None if config.weight == "even" else bell(t, config.shift)
    return error(config.loss, pred.float(), path.velocity(x0, eps), t, weight)


@stage("teacher_forcing")
class TeacherForcing(Stage):
    """Stage 1, from a bidirectional backbone or from scratch."""

    config = TeacherForcingTraining
    doubled = True

    def presets(self, seed: int) -> dict[str, TeacherForcingTraining]:
        toy = TeacherForcingTraining(
            model=TOY, steps=5300, optim=Optim(lr=8e-4, ema=0.998), seed=seed
        )
        smoke = replace(
            toy,
            model=SMOKE,
            steps=4,
            frames_per_batch=16,
            curriculum=(4, 8),
            camr=CAMR(budget=3),
            routed_from=0.5,
            camr_share=0.5,
            other_shots_share=0.5,
            save_every=2,
        )
        # as published: chunks of 3, routed in all steps, one timestep a clip
        causalcine = replace(
            toy,
            chunk=CHUNK,
            curriculum=(24,),
            camr=CausalCine(),
            camr_share=1.0,
            other_shots_share=0.0,
            routed_from=0.0,
            levels="clip",
        )
        h100 = replace(
            toy,
            optim=H100_OPTIM,
            steps=6000,
            frames_per_batch=FRAMES_A_STEP,
            curriculum=(12, 24, 36, 24, 12, 36, 24, 36),
            save_every=200,
        )
        large = wan_presets(
            toy,
            {"camr": WAN_CAMR, "camr_share": toy.camr_share},
            optim=replace(PAPERS, ema=0.0),
            steps=2000,
            frames_per_batch=SPAN,
            curriculum=(SPAN,),
            chunk=CHUNK,
            camr_share=0.0,
            other_shots_share=0.0,
            drop_text=0.0,
            weight="bell",
            shift=5.0,
        )
        return {"smoke": smoke, "toy": toy, "causalcine": causalcine, "h100": h100, **large}

    def learners(
        self, config: TeacherForcingTraining, data: Store, networks: Networks
    ) -> list[Learner]:
        def stage_loss(
            model: CausalWan, step: int, micro_batch: int, rng: torch.Generator
        ) -> tuple[Tensor, Columns]:
            rng = fork_rng(rng, micro_batch)
            frames = clip_length(config, step)
            history = history_at(config, step)
            clips = data.clips(max(1, config.frames_per_batch // frames), frames, rng)
            columns = {"frames": frames, "policy": history.name}
            return loss(model, clips, config, history, rng), columns

        return [Learner(networks["student"], stage_loss, config.optim)]

    def span(self, config: TeacherForcingTraining) -> int:
        return max(config.curriculum)


def train(
    config: TeacherForcingTraining, model: CausalWan, store: Store, run: Run
) -> Iterator[Columns]:
    """Yield one log row per step; resumes."""
    return TeacherForcing("teacher_forcing").train(config, store, {"student": model}, run=run)
