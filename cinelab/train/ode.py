"""Stage 2a: ODE initialisation. The student learns to jump from a stored state of the teacher's ODE
to its end point (Causal Forcing, arXiv 2602.02214, stage 2a; CausalCine's initialisation too).

    draw a stored level t_k a chunk, x = state at t_k of the pairs
    loss = || (x - t_k v(x, t_k)) - end ||^2             the student's clean prediction

    B clips   F latent frames   K stored levels   C channels   H, W latent size

    pairs of the        history  what the student attends to      source
    autoregressive      truth    the clean clip, as its teacher   Causal Forcing, stage 2a
    bidirectional       noisy    the stored states of the past    Self Forcing and CausVid
    bidirectional       clean    the end points of the past       ours, a control
    bidirectional_true_past
                        truth    the clean clip, as its teacher   ours, a control

Each chunk is at a stored level of its own (`levels="chunk"`), so that with a noisy history the
student meets pasts that are less noisy than the chunk, and more, as in Self Forcing (arXiv
2506.08009; `uniform_timestep=False`). `levels="clip"` puts the whole clip at one level: under the
truth that is Causal Forcing's own draw, where it comes to the same, since chunks under a clean
history do not attend to each other. With a noisy history it is no paper's: the student would never
meet a past clearer than the chunk.

Under an autoregressive teacher, the end point is a function of what the student attends to. Under a
bidirectional one it also depends on the noisy future, which the student cannot attend to, and least
squares answers with a mean (Causal Forcing, section on injectivity).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.flow import path
from cinelab.flow.condition import given_history
from cinelab.flow.sampler import Sampling
from cinelab.latent.store import Clips
from cinelab.memory.context import (
    FULL_HISTORY,
    CausalContext,
    HistoryPolicy,
    sample_history_policy,
)
from cinelab.memory.policy import CAMR, Policy
from cinelab.model.wan import CausalWan, WanConfig
from cinelab.ops.tensors import to_device
from cinelab.runs import Run
from cinelab.seeds import fork_rng
from cinelab.train.computing import Computing
from cinelab.train.levels import check_drawn, draw_levels
from cinelab.train.loop import Columns, Learner, Validator
from cinelab.train.losses import error, loss_name
from cinelab.train.optim import Optim
from cinelab.train.pairs import GIVEN_TRUTH, Pairs, PairsConfig, counted_frames
from cinelab.train.shown import numbers_of
from cinelab.train.sizes import H100_STUDENT, STUDENT_OPTIM, TOY
from cinelab.train.stage import PAIRS, Networks, Stage, stage
from cinelab.train.true_past import mean_over

HISTORIES = ("truth", "clean", "noisy")


@dataclass(frozen=True)
class OdeTraining(Computing):
    """The settings of stage 2a."""

    model: WanConfig
    pairs: PairsConfig = field(default_factory=PairsConfig)
    optim: Optim = field(default_factory=Optim)
    # the past that the student is given: the clip's truth, the pairs' end points, or their states
    history: str = "truth"
    # what draws a level of its own: a chunk or a clip
    levels: str = field(default="chunk", metadata={"before": None})
    camr: Policy = field(default_factory=CAMR)
    loss: str = "mse"  # a registered name or an import path (see train.losses)
    # of the steps: the student attends to its history through CAMR, as in streaming
    camr_share: float = 0.5
    steps: int = 600
    seed: int = 0
    save_every: int = 100
    validate_every: int = field(default=100, metadata={"was": "exam_every"})
    bf16: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        loss_name(self.loss)
        if self.history not in HISTORIES:
            raise CinelabError(f"history is {self.history!r}; use one of {', '.join(HISTORIES)}.")
        check_drawn(self.levels)
        if (self.pairs.teacher in GIVEN_TRUTH) != (self.history == "truth"):
            raise CinelabError(
                f"history is {self.history!r} with pairs of the {self.pairs.teacher} teacher; "
                "autoregressive and bidirectional_true_past go with 'truth', bidirectional with "
                "'noisy' or 'clean'."
            )


def predicted_end(
    model: CausalWan,
    clips: Clips,
    states: Tensor,
    end: Tensor,
    level: Tensor,
    config: OdeTraining,
    history: HistoryPolicy = FULL_HISTORY,
) -> Tensor:
    """Return the student's clean prediction (B, F, C, H, W) from states (B, K, F, C, H, W) at the
    stored level number `level` (B, F)."""
    batch, frames = level.shape
    chunk = config.pairs.chunk
    t = _times(config, states)[level]
    # each frame's state at its own level: (B, F, C, H, W)
    rows = torch.arange(batch, device=level.device)[:, None]
    x = states[rows, level, torch.arange(frames, device=level.device)]
    if config.history == "noisy":
        noisy = CausalContext(history.policy, clips.shot, chunk)
        v = model(x, t, clips.condition, noisy)
    else:
        past = clips.latents if config.history == "truth" else end
        context = history.context(numbers_of(clips, history.policy), chunk)
        v = given_history(model, past, x, t, clips.condition, context)
    return path.clean(x, v.float(), t)


def loss(
    model: CausalWan,
    clips: Clips,
    states: Tensor,
    end: Tensor,
    config: OdeTraining,
    rng: torch.Generator,
    history: HistoryPolicy = FULL_HISTORY,
    *,
    counted: Tensor | None = None,
) -> Tensor:
    """Return the mean squared distance of the student's clean prediction from the end point
    (B, F, C, H, W), over the frames that are `counted` (F,); None stands for all."""
    batch, stored, frames = states.shape[:3]
    shape = (batch, frames)
    level = draw_levels(stored, shape, config.pairs.chunk, levels=config.levels, rng=rng, on=end)
    t = _times(config, end)[level]
    weight = None if counted is None else mean_over(counted.to(end.device).expand(shape))
    made = predicted_end(model, clips, states, end, level, config, history)
    return error(config.loss, made, end, t, weight)


def _times(config: OdeTraining, like: Tensor) -> Tensor:
    """Return the timesteps (K,) of the stored states, fp32, on the device of a tensor."""
    return to_device(config.pairs.times().float(), like.device)


def pairs_presets(teacher: str, seed: int) -> dict[str, PairsConfig]:
    """Return the named settings of a kind of teacher's ODE pairs."""
    toy = PairsConfig(teacher=teacher, seed=seed)
    smoke = replace(toy, steps=4, clips=2, frames=4, batch=1)
    return {"smoke": smoke, "toy": toy, "h100": replace(toy, clips=2048, batch=64)}


def ode_presets(teacher: str, seed: int) -> dict[str, OdeTraining]:
    """Return the named settings of the stage from a kind of teacher's pairs."""
    pairs = pairs_presets(teacher, seed=0)
    toy = OdeTraining(
        model=TOY,
        pairs=pairs["toy"],
        history="truth" if teacher in GIVEN_TRUTH else "noisy",
        optim=STUDENT_OPTIM,
        steps=240,
        seed=seed,
    )
    smoke = replace(toy, pairs=pairs["smoke"], steps=3, save_every=2, validate_every=2)
    h100 = replace(
        toy, pairs=pairs["h100"], optim=H100_STUDENT, steps=1000, save_every=200, validate_every=200
    )
    return {"smoke": smoke, "toy": toy, "h100": h100}


@stage("ode")
class OdeInitialisation(Stage):
    """Stage 2a, from stage 1; its pairs are made by the teacher beforehand."""

    config = OdeTraining
    draws_from = PAIRS
    validated = True
    doubled = True  # under a clean history, the default

    def presets(self, seed: int) -> dict[str, OdeTraining]:
        return ode_presets("autoregressive", seed)

    def learners(self, config: OdeTraining, data: Pairs, networks: Networks) -> list[Learner]:
        def stage_loss(
            model: CausalWan, step: int, micro_batch: int, rng: torch.Generator
        ) -> tuple[Tensor, Columns]:
            rng = fork_rng(rng, micro_batch)
            history = sample_history_policy(
                config.seed, step, config.camr, camr_share=config.camr_share
            )
            shard = data.draw(rng)
            counted = counted_frames(config.pairs, shard)
            clips, states, end = data.shard(shard)
            found = loss(model, clips, states, end, config, rng, history, counted=counted)
            return found, {"policy": history.name}

        return [Learner(networks["student"], stage_loss, config.optim)]

    def check(self, config: OdeTraining, *, processes: int) -> None:
        if processes > 1:
            raise CinelabError(
                f"stage ode was started as {processes} processes, but its pairs are integrated and "
                "regressed on in one; start one process."
            )

    def sampling(self, config: OdeTraining, many_steps: Sampling) -> Sampling:
        pairs = config.pairs
        return Sampling(len(pairs.levels), "consistency", 1.0, pairs.shift, at=pairs.levels)

    def chunk(self, config: OdeTraining) -> int:
        return config.pairs.chunk

    def span(self, config: OdeTraining) -> int:
        return config.pairs.frames


def train(
    config: OdeTraining,
    model: CausalWan,
    pairs: Pairs,
    run: Run,
    validator: Validator | None = None,
) -> Iterator[Columns]:
    """Yield one log row per step; resumes."""
    made = OdeInitialisation("ode")
    return made.train(config, pairs, {"student": model}, run=run, validator=validator)
