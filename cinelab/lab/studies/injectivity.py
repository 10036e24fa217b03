"""Frame-level injectivity: does a frame's end point hang on what its causal student does not see?

The argument of Causal Forcing for an autoregressive teacher: regression can learn a teacher's flow
only where the end point is a function of what the student sees. For each teacher, what ITS student
sees in training (`cinelab.train.ode`) is held fixed, the rest is drawn again, and the teacher's ODE
is integrated, as its pairs were, each time.

    teacher         history  held, beside the frame's own state     drawn again
    autoregressive  truth    the true, clean past                   the other frames' noise and the
                                                                    future's clean frames
    bidirectional   noisy    the states of the past at levels of    the future frames' noise
                             their own, one a chunk
    bidirectional   clean    the end points of the past             the future frames' noise
    given the past  future   the true, clean past, as its own       the future frames' noise

That the autoregressive teacher's variance is exactly zero is no finding: its causal mask hides what
is drawn again, by construction. The row tests the code. What can be a finding is the other rows, as
a share of the squared error that the student of that teacher makes on the same held-out clips
(`share_of_error`): what it cannot learn, against what it has not learnt.

A held state is one of a reference trajectory from noise to data: a frame follows the reference down
to the level where the student sees it, then goes its own way with the others. For the bidirectional
teacher that approximates a draw of the future given what is held.

The last row is of a bidirectional teacher that is given the true past (`cinelab.train.true_past`):
its student sees what the autoregressive teacher's does, and only the future is added.

    K repeats (the batch)   F frames   L kept levels   u the frame that is looked at
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.flow import path
from cinelab.flow.solvers import solve, trajectory
from cinelab.lab.reports.withdrawn import EDITION
from cinelab.lab.studies.initialisation_cell import film_clips, planned
from cinelab.latent.store import Clips
from cinelab.metrics.stats import bootstrap, paired_ratio
from cinelab.metrics.toybox.attributes import encode_plans
from cinelab.metrics.video.appearance import sharpness
from cinelab.readable import Readable
from cinelab.seeds import rng_at
from cinelab.stream.batch import decode
from cinelab.train.ode import OdeTraining, predicted_end
from cinelab.train.pairs import GIVEN_TRUTH, PairsConfig, teacher_velocity
from cinelab.train.true_past import TRUE_PAST, beside_the_truth
from cinelab.zoo import checkpoints as zoo
from cinelab.zoo.bundle import Bundle

UNSEEN = (
    10_000  # added to the held-out seeds, so that no card and no student is measured on these films
)
HISTORIES = {
    "truth": "autoregressive",
    "noisy": "bidirectional",
    "clean": "bidirectional",
    "future": TRUE_PAST,
}


@dataclass(frozen=True)
class Case:
    """A teacher, what its student sees of the past, and the student, where one is measured."""

    teacher: str
    history: str
    student: str | Path | None = None

    def __post_init__(self):
        if self.history not in HISTORIES:
            raise CinelabError(f"history is {self.history!r}; use one of {', '.join(HISTORIES)}.")

    @property
    def kind(self) -> str:
        return HISTORIES[self.history]

    @property
    def given(self) -> str:
        """The past that the student is given: truth, noisy or clean."""
        return "truth" if self.kind in GIVEN_TRUTH else self.history


@dataclass(frozen=True)
class Setting:
    """What is measured. `pairs` is the recipe of the trajectories: that of the students' pairs."""

    clips: int = 12
    frame: int = 12  # u
    repeats: int = 6  # K
    past_noise: tuple[float, ...] = (0.1, 0.25, 0.5)  # for the sensitivity to the input
    seed: int = 0
    pairs: PairsConfig = field(default_factory=PairsConfig)

    def __post_init__(self):
        if not 0 <= self.frame < self.pairs.frames:
            raise CinelabError(
                f"frame is {self.frame}; clips have {self.pairs.frames} frames, from 0."
            )
        if self.repeats < 2:
            raise CinelabError(f"repeats is {self.repeats}; a variance needs at least 2.")

    @property
    def own(self) -> range:
        """The frames of u's chunk: they are at one level, and see each other."""
        start = self.frame // self.pairs.chunk * self.pairs.chunk
        return range(start, start + self.pairs.chunk)

    @property
    def known(self) -> Tensor:
        """Which frames (F,) stand before u's chunk."""
        return torch.arange(self.pairs.frames) < self.own.start


SMOKE = Setting(
    clips=2,
    frame=3,
    repeats=2,
    past_noise=(0.3,),
    pairs=PairsConfig(steps=4, levels=(1.0, 0.5), frames=6),
)


@dataclass
class Trajectory(Readable):
    """A teacher's way from noise to data.

    noise, end (1, F, C, h, w)   velocities, one a solver step   states (1, L, F, C, h, w)
    """

    noise: Tensor
    velocities: list[Tensor]
    states: Tensor
    end: Tensor


def held_out(bundle: Bundle, setting: Setting) -> Clips:
    """Clips of films that nothing was trained on and no card was measured on, a film each."""
    plans = planned(bundle, UNSEEN + setting.seed, setting.clips, setting.pairs.frames)
    return film_clips(bundle, encode_plans(bundle, plans))


def alone(clips: Clips, index: int, repeats: int = 1) -> Clips:
    """One clip K times."""

    def times(part: Tensor) -> Tensor:
        return part[index : index + 1].expand(repeats, *part.shape[1:]).contiguous()

    return Clips(times(clips.latents), times(clips.text), times(clips.slot), times(clips.shot))


def noise_like(x: Tensor, seed: int, *address: int | str) -> Tensor:
    """Noise of a tensor's shape on its device, drawn on the CPU from a place of its own."""
    return torch.randn(x.shape, generator=rng_at(seed, *address)).to(x.device)


def _field(bundle: Bundle, kind: str, clips: Clips, setting: Setting) -> Callable:
    """The teacher's guided velocity, in full precision, that zero can be zero. One that is given
    the true past has it before u's chunk."""
    velocity = teacher_velocity(
        bundle.model, clips, kind, setting.pairs.guidance, setting.pairs.chunk
    )

    def precise(x: Tensor, t: float | Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=False):
            return velocity(x, t)

    if kind != TRUE_PAST:
        return precise
    return beside_the_truth(precise, setting.known.to(clips.latents.device))


@torch.no_grad()
def reference(bundle: Bundle, kind: str, clips: Clips, index: int, setting: Setting) -> Trajectory:
    """The trajectory whose states are held."""
    clip = alone(clips, index)
    config = setting.pairs
    velocities = []
    noise = noise_like(clip.latents, setting.seed, "fixed", index)
    if kind == TRUE_PAST:
        noise[:, : setting.own.start] = clip.latents[:, : setting.own.start]
    velocity = _field(bundle, kind, clip, setting)

    def recorded(x: Tensor, t: float) -> Tensor:
        velocities.append(velocity(x, t))
        return velocities[-1]

    levels = config.sampling.levels()
    states = [state for state, _ in trajectory(recorded, noise, levels, config.solver)]
    kept = torch.stack([states[_steps(config, n)] for n in range(len(config.levels))], 1)
    return Trajectory(noise, velocities, kept, states[-1])


def _steps(config: PairsConfig, level: int) -> int:
    """Solver steps from noise to kept level number `level`."""
    return round((1 - config.levels[level]) * config.steps)


def seen_levels(setting: Setting, index: int, level: int) -> Tensor:
    """Level numbers (1, F) at which the student sees each frame: u's chunk at `level`, the past at
    levels of its own, one a chunk; those of the future are not seen."""
    config = setting.pairs
    levels = torch.randint(
        len(config.levels),
        (config.frames // config.chunk,),
        generator=rng_at(setting.seed, "levels of the past", index),
    ).repeat_interleave(config.chunk)
    levels[setting.own.start : setting.own.stop] = level
    return levels[None]


@torch.no_grad()
def end_points(
    bundle: Bundle,
    case: Case,
    clips: Clips,
    index: int,
    level: int,
    setting: Setting,
    held: Trajectory,
    *,
    own: bool = False,
    varied: bool = True,
    past_noise: float = 0.0,
) -> Tensor:
    """End points of u's chunk (K, c, C, h, w) over K draws of what the student does not see.

    `own` draws the frame's own noise again too: a share of 1 is as free as a fresh sample given the
    past. `varied=False` draws nothing, the control. `past_noise` noises the true past that the
    autoregressive teacher AND its student see: sensitivity to the input, not to the unseen.
    """
    config = setting.pairs
    frames = torch.arange(setting.pairs.frames)
    mine = (frames >= setting.own.start) & (frames < setting.own.stop)
    future = frames >= setting.own.stop
    drawn = (~mine if case.kind == "autoregressive" else future) | (mine & torch.tensor(own))
    drawn = drawn & torch.tensor(varied)
    clip = _clips(case, clips, index, setting=setting, varied=varied, noise=past_noise)
    fresh = noise_like(clip.latents, setting.seed, "varied", index)
    drawn = drawn.to(fresh.device)
    start = torch.where(drawn[None, :, None, None, None], fresh, held.noise)
    followed = _followed(case, index, level, setting).to(fresh.device).masked_fill(drawn, 0)
    velocity = _holding(_field(bundle, case.kind, clip, setting), held, followed)
    ends = solve(velocity, start, config.sampling.levels(), config.solver)
    return ends[:, setting.own.start : setting.own.stop]


def _clips(
    case: Case, clips: Clips, index: int, *, setting: Setting, varied: bool, noise: float
) -> Clips:
    """The clip K times; an autoregressive teacher is shown another film's future each time."""
    many = alone(clips, index, setting.repeats)
    own = setting.own
    if case.kind != "autoregressive" or not varied:
        return many
    shown = many.latents.clone()
    others = [(index + 1 + k) % len(clips.latents) for k in range(setting.repeats)]
    shown[:, own.stop :] = clips.latents[others, own.stop :]
    noise_drawn = noise_like(shown, setting.seed, "past noise", index)
    noised = path.noised(shown, noise_drawn, shown.new_full(shown.shape[:2], noise))
    shown[:, : own.start] = noised[:, : own.start]
    return replace(many, latents=shown)


def _followed(case: Case, index: int, level: int, setting: Setting) -> Tensor:
    """For how many solver steps (F,) each frame follows the reference: down to where it is seen."""
    config = setting.pairs
    numbers = seen_levels(setting, index, level)[0]
    steps = torch.tensor([_steps(config, n) for n in range(len(config.levels))])[numbers]
    if case.history == "clean":
        steps[: setting.own.start] = config.steps
    steps[setting.own.stop :] = 0
    return steps


def _holding(velocity: Callable, held: Trajectory, followed: Tensor) -> Callable:
    """The velocity, in which frames follow the reference for their first `followed` (F,) steps."""
    steps = count()

    def holding(x: Tensor, t: float) -> Tensor:
        step = next(steps)
        keep = (step < followed)[None, :, None, None, None]
        return torch.where(keep, held.velocities[step], velocity(x, t))

    return holding


@torch.no_grad()
def student_end(
    bundle: Bundle,
    case: Case,
    clips: Clips,
    index: int,
    level: int,
    setting: Setting,
    held: Trajectory,
) -> Tensor:
    """What the student makes of u's chunk (1, c, C, h, w) from what it sees of the reference."""
    pairs = replace(setting.pairs, teacher=case.kind)
    config = OdeTraining(model=bundle.model.config, pairs=pairs, history=case.given)
    numbers = seen_levels(setting, index, level)
    made = predicted_end(bundle.model, alone(clips, index), held.states, held.end, numbers, config)
    return made[:, setting.own.start : setting.own.stop]


def spread(ends: Tensor) -> float:
    """Variance over the repeats (K, ...), mean over the latent's numbers."""
    return float(ends.double().var(0).mean())


def sharp(bundle: Bundle, ends: Tensor) -> float:
    """Sharpness of frames (K, c, C, h, w), each decoded as a still."""
    return sharpness(decode(bundle, ends.flatten(0, 1)[:, None].float())[:, 0])


def measure_cases(cases: dict[str, Case], clips: Clips, setting: Setting) -> pd.DataFrame:
    """Rows (case, history, clip, t, past_noise, what, value, protocol) of named cases.

    what: variance (of what the student does not see); own (with the frame's own noise drawn too);
    share = variance / own; blur = sharpness of the mean end point over that of the end points;
    control (nothing drawn); sensitivity (variance under a noised past that both see); and of the
    student: squared error and sharpness of its frame, the latter as a share of the teacher's.
    """
    rows = []
    for label, case in cases.items():
        bundle = zoo.load(case.teacher)
        student = zoo.load(case.student) if case.student else None
        for index in range(setting.clips):
            found = _one_clip(bundle, student, case, clips=clips, index=index, setting=setting)
            rows += [(label, case.history, index, *row) for row in found]
    names = ["case", "history", "clip", "t", "past_noise", "what", "value"]
    return pd.DataFrame(rows, columns=names).assign(edition=EDITION["injectivity"])


def _one_clip(
    bundle: Bundle,
    student: Bundle | None,
    case: Case,
    *,
    clips: Clips,
    index: int,
    setting: Setting,
) -> Iterator[tuple[float, float, str, float]]:
    """(t, past noise, what, value) of one clip."""
    held = reference(bundle, case.kind, clips, index, setting)
    times = setting.pairs.times().tolist()
    about = (bundle, case, clips, index)
    free = spread(end_points(*about, 0, setting, held, own=True))
    for level, t in enumerate(times):
        ends = end_points(*about, level, setting, held)
        blur = sharp(bundle, ends.mean(0, keepdim=True)) / sharp(bundle, ends)
        found = {"variance": spread(ends), "own": free, "share": spread(ends) / free, "blur": blur}
        if student:
            made = student_end(student, *about[1:], level, setting, held)
            end = held.end[:, setting.own.start : setting.own.stop]
            found["squared error"] = float((made - end).square().mean())
            found["student's sharpness"] = sharp(bundle, made) / sharp(bundle, end)
        yield from ((t, 0.0, what, value) for what, value in found.items())
    yield times[0], 0.0, "control", spread(end_points(*about, 0, setting, held, varied=False))
    for noise in setting.past_noise if case.kind == "autoregressive" else ():
        ends = end_points(*about, 0, setting, held, past_noise=noise)
        yield times[0], noise, "sensitivity", spread(ends)


def injectivity_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over clips with 95 % intervals: case, what, t, past_noise, value, low, high, n."""
    found = []
    for keys, part in rows.groupby(["case", "what", "t", "past_noise"], sort=False):
        e = bootstrap(part.value.tolist())
        same = part.value.nunique() == 1  # a variance of exactly 0 everywhere is no share of 0 in n
        found.append((*keys, e.value, *((e.value, e.value) if same else (e.low, e.high)), e.n))
    return pd.DataFrame(
        found, columns=["case", "what", "t", "past_noise", "value", "low", "high", "n"]
    )


def share_of_error(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each student's squared error, the share that the unseen decides, by level, with intervals.

    A ratio of means over held-out clips: variance over squared error, clips resampled in pairs.
    case, t, variance, squared error, value, low, high, n. Without students there are no rows.
    """
    found = []
    wide = rows[rows.past_noise == 0].pivot_table(
        index=["case", "t", "clip"], columns="what", values="value", sort=False
    )
    if "squared error" in wide:
        for (case, t), part in wide.dropna(subset="squared error").groupby(
            level=["case", "t"], sort=False
        ):
            unseen = part["variance"].tolist()
            error = part["squared error"].tolist()
            e = paired_ratio(unseen, error)
            means = part["variance"].mean(), part["squared error"].mean()
            found.append((case, t, *means, e.value, e.low, e.high, e.n))
    return pd.DataFrame(
        found, columns=["case", "t", "variance", "squared error", "value", "low", "high", "n"]
    )
