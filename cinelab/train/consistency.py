"""Stage 2b: causal consistency distillation (Causal Forcing++, arXiv 2605.15141, stage 2b; the loss
is that of Consistency Models, arXiv 2303.01469, Algorithm 2). No stored pairs: one teacher step,
taken online.

    draw a clean clip, a level t_n of the grid a chunk, noise;         x_n = (1 - t_n) x0 + t_n eps
    the teacher takes one guided ODE step with the clean history:      x_m,  t_m the next level down
    loss = || student(x_n, t_n) - EMA student(x_m, t_m) ||^2           both predict the clean chunk

    B clips   F latent frames   N intervals of the grid   C channels   H, W latent size

At t = 0 the prediction x - t v is x itself: the boundary condition holds by construction. Chunks
draw their levels apart, since given the clean history each is its own sample; `levels="clip"` draws
one for the whole clip, as the paper does. It also never draws the grid's last interval
(`last_interval=False`), whose lower end is the clean clip. The growing grid (coarse first) and the
shares of routed histories are ours.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.flow import path
from cinelab.flow.condition import given_history
from cinelab.flow.sampler import Sampling
from cinelab.latent.store import Clips, Store, compared_with
from cinelab.memory.context import FULL_HISTORY, HistoryPolicy, sample_history_policy
from cinelab.memory.policy import CAMR, Policy
from cinelab.model.wan import CausalWan, WanConfig
from cinelab.ops.tensors import to_device
from cinelab.runs import Run
from cinelab.script.unconditional import NAME as PUBLISHED
from cinelab.seeds import fork_rng, normal
from cinelab.train.computing import Computing
from cinelab.train.levels import check_drawn, draw_levels
from cinelab.train.loop import Columns, Learner, Validator
from cinelab.train.losses import error, loss_name
from cinelab.train.optim import Ema, Optim
from cinelab.train.pairs import teacher_velocity
from cinelab.train.sizes import (
    CHUNK,
    H100_STUDENT,
    PAPERS,
    SPAN,
    STUDENT_OPTIM,
    TOY,
    WAN_CAMR,
    wan_presets,
)
from cinelab.train.stage import STUDENT, TEACHER, Networks, Role, Stage, stage


@dataclass(frozen=True)
class ConsistencyTraining(Computing):
    """The settings of stage 2b."""

    model: WanConfig
    optim: Optim = field(default_factory=lambda: Optim(ema=0.99))
    # teacher steps from noise to data, over equal parts of the training
    grid: tuple[int, ...] = (8, 16, 48)
    guidance: float = 2.0  # inside the teacher: w of u + w (c - u)
    # the prompt of u: a text, or "published" (Wan's negative prompt; the papers')
    unconditional: str = ""
    camr: Policy = field(default_factory=CAMR)
    loss: str = "mse"  # a registered name or an import path (see train.losses)
    # of the steps: all three attend to their history through CAMR, as in streaming
    camr_share: float = 0.3
    # of the steps: all three attend to other shots only, so that recall is distilled too
    other_shots_share: float = field(default=0.4, metadata={"was": "across_share"})
    levels: str = "chunk"  # what draws a level of its own: a chunk, or a clip (the paper)
    # whether the step down to t = 0 is among those drawn; the paper leaves it out
    last_interval: bool = True
    shift: float = 2.0
    steps: int = 600
    batch: int = 8  # clips
    frames: int = 24  # latent frames a clip
    chunk: int = 1  # latent frames a chunk
    seed: int = 0
    save_every: int = 100
    validate_every: int = field(default=100, metadata={"was": "exam_every"})
    bf16: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        loss_name(self.loss)
        if not self.grid or any(n < 1 for n in self.grid):
            raise CinelabError(
                f"grid is {list(self.grid)}; give numbers of teacher steps, each at least 1."
            )
        if not self.last_interval and min(self.grid) < 2:
            raise CinelabError(
                f"grid is {list(self.grid)} without its last interval; give at least 2 steps each."
            )
        check_drawn(self.levels)
        if self.frames % self.chunk:
            raise CinelabError(
                f"frames is {self.frames}, which chunk={self.chunk} does not divide."
            )


def grid_at(config: ConsistencyTraining, step: int) -> Tensor:
    """Return the levels (N + 1,) from 1 to 0 at a step of the training: coarse first, which is
    quick to learn."""
    parts = len(config.grid)
    count = config.grid[min(parts - 1, step * parts // config.steps)]
    return path.shifted(torch.linspace(1, 0, count + 1), config.shift)


def predict(
    net: Callable[..., Tensor],
    x: Tensor,
    t: Tensor,
    clips: Clips,
    chunk: int,
    history: HistoryPolicy = FULL_HISTORY,
) -> Tensor:
    """Return the clean clip that `net` predicts from x (B, F, C, H, W) at t (B, F), given the true
    history."""
    context = history.context(clips.shot, chunk)
    v = given_history(net, clips.latents, x, t, clips.condition, context)
    return path.clean(x, v.float(), t)


def loss(
    model: CausalWan,
    target: Ema,
    teacher: CausalWan,
    clips: Clips,
    grid: Tensor,
    config: ConsistencyTraining,
    history: HistoryPolicy,
    rng: torch.Generator,
) -> Tensor:
    """Return the mean squared distance between the clean predictions (B, F, C, H, W) at adjacent
    levels of `grid` (N + 1,).

    `target` holds the student's averaged weights. Student, average and teacher attend to the same
    true history, under the same policy.
    """
    x0 = clips.latents
    intervals = len(grid) - 1 if config.last_interval else len(grid) - 2
    grid = to_device(grid, x0.device)
    shape = (len(x0), config.frames)
    level = draw_levels(intervals, shape, config.chunk, levels=config.levels, rng=rng, on=x0)
    t = grid[level]  # (B, F)
    t_next = grid[level + 1]
    x = path.noised(x0, normal(x0.shape, rng, x0.device), t)
    with torch.no_grad():
        teacher_v = teacher_velocity(
            teacher, clips, "autoregressive", config.guidance, config.chunk, history
        )
        x_next = x + path.expand_t(t_next - t, x) * teacher_v(x, t)  # one guided ODE step
        with target.applied_to(model):
            goal = predict(model, x_next, t_next, clips, config.chunk, history)
    return error(config.loss, predict(model, x, t, clips, config.chunk, history), goal, t)


@stage("consistency")
class ConsistencyDistillation(Stage):
    """Stage 2b: student, averaged student and teacher all begin as stage 1's result."""

    config = ConsistencyTraining
    roles = (STUDENT, Role("teacher", TEACHER, trained=False, title="teacher"))
    validated = True
    doubled = True
    full_precision = True

    def presets(self, seed: int) -> dict[str, ConsistencyTraining]:
        toy = ConsistencyTraining(
            model=TOY, optim=STUDENT_OPTIM, grid=(8, 12, 16), steps=450, batch=4, seed=seed
        )
        smoke = replace(
            toy, steps=3, batch=1, frames=4, grid=(2, 4), save_every=2, validate_every=2
        )
        h100 = replace(
            toy, optim=H100_STUDENT, grid=(8, 16, 32), steps=2000, batch=64, validate_every=250
        )
        large = wan_presets(
            toy,
            {"camr": WAN_CAMR, "camr_share": toy.camr_share},
            optim=PAPERS,
            grid=(48,),
            guidance=3.0,
            unconditional=PUBLISHED,
            levels="clip",
            last_interval=False,
            camr_share=0.0,
            other_shots_share=0.0,
            shift=5.0,
            steps=3000,
            batch=1,
            frames=SPAN,
            chunk=CHUNK,
            save_every=100,
        )
        return {"smoke": smoke, "toy": toy, "h100": h100, **large}

    def learners(
        self, config: ConsistencyTraining, data: Store, networks: Networks
    ) -> list[Learner]:
        def stage_loss(
            model: CausalWan, step: int, micro_batch: int, rng: torch.Generator
        ) -> tuple[Tensor, Columns]:
            rng = fork_rng(rng, micro_batch)
            clips = data.clips(config.batch, config.frames, rng)
            clips = compared_with(clips, data, config.unconditional)
            grid = grid_at(config, step)
            history = sample_history_policy(
                config.seed,
                step,
                config.camr,
                camr_share=config.camr_share,
                other_shots_share=config.other_shots_share,
            )
            columns = {"grid": len(grid) - 1, "policy": history.name}
            # The target is the student's own average: its learner is there when this runs.
            target = student.average
            return loss(model, target, teacher, clips, grid, config, history, rng), columns

        teacher = networks["teacher"]
        student = Learner(networks["student"], stage_loss, config.optim)
        return [student]

    def sampling(self, config: ConsistencyTraining, many_steps: Sampling) -> Sampling:
        return Sampling(4, "consistency", 1.0, config.shift)

    def passes(self, back: float, chunks: int) -> float:
        # the averaged student's target, and the teacher's guided step over the noisy half
        return back + 1 + 1.5


def train(
    config: ConsistencyTraining,
    model: CausalWan,
    teacher: CausalWan,
    store: Store,
    run: Run,
    validator: Validator | None = None,
) -> Iterator[Columns]:
    """Yield one log row per step; resumes."""
    made = ConsistencyDistillation("consistency")
    networks = {"student": model, "teacher": teacher}
    return made.train(config, store, networks, run=run, validator=validator)
