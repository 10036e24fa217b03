"""Stage 0: the bidirectional backbone, first single latent frames, then short clips. It stands
where Wan2.1 (arXiv 2503.20314) stands in the papers.

    t ~ shifted uniform, one a clip;  x_t = (1 - t) x0 + t eps
    loss = || net(x_t, t) - (eps - x0) ||^2           the velocity of rectified flow

    B clips   F latent frames   C channels   H, W latent size

Every frame attends to every frame, and to the prompt of its own shot: CausalCine (arXiv 2605.12496)
does the same by cross-attention per shot. Lengths, shares and rates are the toybox's own; at Wan's
size the stage starts from Wan's weights, and the batch and rate of Self Forcing's public code are
taken over.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from cinelab.flow import path
from cinelab.latent.store import Clips, Store, dropped
from cinelab.memory.context import BidirectionalContext
from cinelab.model.wan import CausalWan, WanConfig
from cinelab.runs import Run
from cinelab.seeds import fork_rng, normal, rng_at
from cinelab.train.computing import Computing
from cinelab.train.loop import Columns, Learner
from cinelab.train.losses import error, loss_name
from cinelab.train.optim import Optim
from cinelab.train.sizes import FRAMES_A_STEP, H100_OPTIM, PAPERS, SMOKE, SPAN, TOY, wan_presets
from cinelab.train.stage import Networks, Stage, stage
from cinelab.train.true_past import draw_true_past, mean_over


@dataclass(frozen=True)
class BidirectionalTraining(Computing):
    """The settings of stage 0."""

    model: WanConfig
    optim: Optim = field(default_factory=Optim)
    loss: str = "mse"  # a registered name or an import path (see train.losses)
    steps: int = 2000
    frames_per_batch: int = 256  # latent frames over all clips of a batch
    lengths: tuple[int, ...] = (1, 2, 4, 8)  # clip lengths in latent frames, from images on
    images_until: float = 0.3  # share of the training with images only
    drop_text: float = 0.1
    # of the clips: their first frames, of random number, are given as the truth at t = 0 (a control
    # of the initialisation study: `train.true_past`)
    true_past: float = 0.0
    shift: float = 2.0
    seed: int = 0
    save_every: int = 200
    bf16: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        loss_name(self.loss)


def draw_clip_length(config: BidirectionalTraining, step: int, rng: torch.Generator) -> int:
    """Return the latent frames of a step's clips: images first; later every length is as likely."""
    if step < config.images_until * config.steps:
        return config.lengths[0]
    return config.lengths[int(torch.randint(len(config.lengths), (), generator=rng))]


def loss(
    model: CausalWan, clips: Clips, config: BidirectionalTraining, rng: torch.Generator
) -> Tensor:
    """Return the error of the velocity of noised clips (B, F, C, H, W), one timestep a clip; frames
    that are given as the truth stand at t = 0 and have no loss."""
    x0 = clips.latents
    batch, frames = x0.shape[:2]
    t = path.draw_t((batch, 1), config.shift, rng, x0.device).expand(-1, frames)
    eps = normal(x0.shape, rng, x0.device)
    condition = replace(clips.condition, slot=dropped(clips, config.drop_text, rng))
    weight = None
    if config.true_past:
        known = draw_true_past((batch, frames), config.true_past, rng, x0.device)
        t = t.masked_fill(known, 0.0)
        weight = mean_over(~known)
    context = BidirectionalContext(torch.arange(frames))
    pred = model(path.noised(x0, eps, t), t, condition, context)
    return error(config.loss, pred.float(), path.velocity(x0, eps), t, weight)


@stage("bidirectional")
class Bidirectional(Stage):
    """Stage 0, from scratch or from another backbone. Its result makes clips, not films."""

    config = BidirectionalTraining
    causal = False

    def presets(self, seed: int) -> dict[str, BidirectionalTraining]:
        toy = BidirectionalTraining(
            model=TOY, steps=1700, optim=Optim(lr=1e-3, ema=0.998), seed=seed
        )
        smoke = replace(toy, model=SMOKE, steps=4, frames_per_batch=16, save_every=2)
        h100 = replace(
            toy,
            optim=replace(H100_OPTIM, lr=1e-3),
            steps=5000,
            frames_per_batch=FRAMES_A_STEP,
            lengths=(1, 4, 12, 24),
            images_until=0.1,
        )
        large = wan_presets(
            toy,
            optim=PAPERS,
            steps=2000,
            frames_per_batch=SPAN,
            lengths=(SPAN,),
            images_until=0.0,
            shift=5.0,
        )
        return {"smoke": smoke, "toy": toy, "h100": h100, **large}

    def learners(
        self, config: BidirectionalTraining, data: Store, networks: Networks
    ) -> list[Learner]:
        def stage_loss(
            model: CausalWan, step: int, micro_batch: int, rng: torch.Generator
        ) -> tuple[Tensor, Columns]:
            rng = fork_rng(rng, micro_batch)
            # the same length in all micro-batches of a step, which are averaged as equals
            frames = draw_clip_length(config, step, rng_at(config.seed, "length", step))
            clips = data.clips(max(1, config.frames_per_batch // frames), frames, rng)
            return loss(model, clips, config, rng), {"frames": frames}

        return [Learner(networks["student"], stage_loss, config.optim)]

    def span(self, config: BidirectionalTraining) -> int:
        return max(config.lengths)


def train(
    config: BidirectionalTraining, model: CausalWan, store: Store, run: Run
) -> Iterator[Columns]:
    """Yield one log row per step; resumes."""
    return Bidirectional("bidirectional").train(config, store, {"student": model}, run=run)
