"""Frame-level injectivity, measured: is a frame's clean end point a function of what a causal student sees?

Fix frame u's noisy state and its past; vary all that a causal student does not see; integrate the teacher's
probability-flow ODE each time; report the variance of the end points (Causal Forcing, the argument for an
autoregressive teacher).

    held fixed   x_t of frame u; the past (clean for the autoregressive teacher, at the same level for the bidirectional)
    varied       autoregressive: the noisy copies of all other frames, and the future's clean frames (another film's)
                 bidirectional: the noise of the future frames
    `own`        reference: the frame's own noise is varied too, so that a share of 1 means "as free as a fresh sample"
    `history`    noise put on the clean past, another lot for every repeat: what a self-made history adds

    K repeats (the batch)   F frames   u the frame that is looked at
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from torch import Tensor

from cinelab.flow import path
from cinelab.flow.sampler import solve
from cinelab.lab.plots import ablation_lines
from cinelab.lab.students import build_pairs, ode
from cinelab.latent.store import Clips, Store
from cinelab.model import zoo
from cinelab.model.zoo import Bundle
from cinelab.score.pictures import sharpness
from cinelab.score.stats import bootstrap
from cinelab.seeds import rng_at
from cinelab.stream.engine import decode
from cinelab.train import pairs as ode_pairs
from cinelab.train.ode import OdeTraining, jump
from cinelab.train.pairs import field_of


@dataclass(frozen=True)
class Setting:
    """What is asked. `levels` are times t on the path (after the shift); the ODE goes from t to 0 in `steps` steps."""

    clips: int = 12
    frames: int = 8
    frame: int = 4  # u
    repeats: int = 6  # K
    levels: tuple[float, ...] = (0.4, 0.7, 1.0)
    histories: tuple[float, ...] = (0.1, 0.25, 0.5)
    steps: int = 6
    guidance: float = 2.0
    seed: int = 0


SMOKE = Setting(clips=2, frames=4, frame=2, repeats=2, levels=(0.5, 1.0), histories=(0.3,), steps=2)


def alone(clips: Clips, index: int, repeats: int) -> Clips:
    """One clip K times."""
    return Clips(*(part[index : index + 1].expand(repeats, *part.shape[1:]).contiguous()
                   for part in (clips.latents, clips.text, clips.slot, clips.shot)))


@torch.no_grad()
def end_points(bundle: Bundle, teacher: str, clips: Clips, index: int, t: float, setting: Setting, own: bool = False,
               history: float = 0.0, varied: bool = True) -> Tensor:
    """End points of frame u (K, C, h, w) over K repeats. With `varied=False` all repeats are the same: the control."""
    many, u, count = alone(clips, index, setting.repeats), setting.frame, setting.repeats
    x0 = many.latents
    fixed = torch.randn(x0[:1].shape, generator=rng_at(setting.seed, "fixed", index)).expand_as(x0)
    fresh = torch.randn(x0.shape, generator=rng_at(setting.seed, "varied", index))
    at = torch.arange(setting.frames)
    free = (at > u) if teacher == "bidirectional" else (at != u)
    free = free | (at == u) if own else free
    eps = torch.where((free & torch.tensor(varied))[None, :, None, None, None], fresh, fixed)
    clean = x0.clone()
    if teacher == "autoregressive" and varied:
        others = [clips.latents[(index + 1 + k) % len(clips.latents)] for k in range(count)]
        clean[:, u + 1 :] = torch.stack(others)[:, u + 1 :]
        lot = torch.randn(x0.shape, generator=rng_at(setting.seed, "history", index))
        clean[:, :u] = path.noised(clean, lot, torch.full(x0.shape[:2], history))[:, :u]
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        field = field_of(bundle.model, replace(many, latents=clean), teacher, setting.guidance, 1)
        levels = t * torch.linspace(1, 0, setting.steps + 1, dtype=torch.float64)
        return solve(field, path.noised(x0, eps, torch.full(x0.shape[:2], t)), levels, "ab2")[:, u]


def spread(ends: Tensor) -> float:
    """Variance over the repeats (K, C, h, w), mean over the latent's numbers."""
    return float(ends.double().var(0).mean())


def sharp(bundle: Bundle, ends: Tensor) -> float:
    """Sharpness of frames (K, C, h, w), each decoded as a still."""
    return sharpness(decode(bundle, ends[:, None].float())[:, 0])


def measure(teachers: dict[str, tuple[str, str]], store: Store, setting: Setting) -> pd.DataFrame:
    """Rows (teacher, kind, clip, t, history, what, value) for named teachers: label -> (kind, checkpoint).

    what: variance; own (variance with the frame's own noise varied); share = variance / own; control (the same lot twice);
    blur = sharpness of the mean end point over the mean sharpness of the end points: what least squares would make of them.
    """
    rows, clips = [], store.clips(setting.clips, setting.frames, rng_at(setting.seed, "injectivity"))
    for label, (kind, checkpoint) in teachers.items():
        bundle = zoo.load(checkpoint)
        for clip in range(setting.clips):
            for t in setting.levels:
                ends = end_points(bundle, kind, clips, clip, t, setting)
                own, unseen = spread(end_points(bundle, kind, clips, clip, t, setting, own=True)), spread(ends)
                found = {"variance": unseen, "own": own, "share": unseen / own,
                         "blur": sharp(bundle, ends.mean(0, keepdim=True)) / sharp(bundle, ends)}
                rows += [(label, kind, clip, t, 0.0, what, value) for what, value in found.items()]
            again = end_points(bundle, kind, clips, clip, setting.levels[-1], setting, varied=False)
            rows.append((label, kind, clip, setting.levels[-1], 0.0, "control", spread(again)))
            for history in setting.histories if kind == "autoregressive" else ():
                ends = end_points(bundle, kind, clips, clip, setting.levels[-1], setting, history=history)
                rows.append((label, kind, clip, setting.levels[-1], history, "variance", spread(ends)))
    return pd.DataFrame(rows, columns=["teacher", "kind", "clip", "t", "history", "what", "value"])


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over clips with 95 % intervals."""
    found = []
    for keys, part in rows.groupby(["teacher", "what", "t", "history"], sort=False):
        e = bootstrap(part.value.tolist())
        same = part.value.nunique() == 1  # a variance of exactly 0 everywhere is no share of 0 in n trials
        found.append((*keys, e.value, *((e.value, e.value) if same else (e.low, e.high)), e.n))
    return pd.DataFrame(found, columns=["teacher", "what", "t", "history", "value", "low", "high", "n"])


def variance_figure(rows: pd.DataFrame) -> go.Figure:
    """Share of a frame's freedom that hangs on what a causal student does not see, by noise level."""
    table = summary(rows[(rows.what == "share") & (rows.history == 0)])
    return ablation_lines(table, x="t", y="value", colour="teacher", low="low", high="high",
                          title="Variance of a frame's end point when only the unseen varies (share of a fresh sample's)")


def blur_figure(rows: pd.DataFrame) -> go.Figure:
    """Sharpness of the mean end point, the best that least squares can answer."""
    table = summary(rows[rows.what == "blur"])
    return ablation_lines(table, x="t", y="value", colour="teacher", low="low", high="high", upper=1.0,
                          title="Sharpness of the mean end point, as a share of the end points' own")


def history_figure(rows: pd.DataFrame) -> go.Figure:
    """Variance of the autoregressive teacher's end points by the noise on its past, beside a fresh sample's."""
    causal = rows[(rows.kind == "autoregressive") & (rows.t == rows.t.max()) & rows.what.isin(["variance", "own"])]
    table = summary(causal)
    own = table[table.what == "own"].value.mean()
    return ablation_lines(table[table.what == "variance"], x="history", y="value", colour="teacher", low="low", high="high",
                          upper=own, title="Variance of the end point by the noise on the past (upper: a fresh sample's)")


def regression_students(folder: str | Path, store: Store, pairs: str | Path, given: dict, preset: str,
                        seed: int) -> dict[str, tuple[str | Path, ode_pairs.Pairs, str]]:
    """label -> (checkpoint, its teacher's pairs, history): the given ones, or one trained here of each teacher."""
    kinds = {"autoregressive": ("toybox-base", "truth"), "bidirectional": ("toybox-bidirectional-24", "noisy")}
    made = {kind: build_pairs(Path(pairs) / kind, store, teacher, preset, kind) for kind, (teacher, _) in kinds.items()}
    if given:
        return {label: (checkpoint, made[kind], history) for label, (checkpoint, kind, history) in given.items()}
    found = {}
    for kind, (_, history) in kinds.items():
        stage = ode(Path(folder) / f"student-{kind}", made[kind], preset=preset, seed=seed, exam=False)
        for _ in stage.train():
            pass
        found[f"student of the {kind} teacher"] = (stage.export(Path(folder) / f"student-{kind}" / "checkpoint"), made[kind], history)
    return found


def sharpness_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean sharpness and error of the students over clips, with 95 % intervals."""
    found = []
    for student, part in rows.groupby("student", sort=False):
        sharp, error = (bootstrap(part[name].tolist()) for name in ("sharpness of teacher", "squared error"))
        found.append({"student": student, "sharpness of teacher": str(sharp), "squared error": str(error)})
    return pd.DataFrame(found)


@torch.no_grad()
def student_sharpness(students: dict[str, tuple[str | Path, ode_pairs.Pairs, str]], shards: Sequence[int]) -> pd.DataFrame:
    """Sharpness of regression students' jumps from t = 1 as a share of their teachers' end points', a row a clip.

    label -> (checkpoint, pairs, history); the student sees what it saw in training.
    """
    rows = []
    for label, (checkpoint, pairs, history) in students.items():
        bundle = zoo.load(checkpoint)
        config = OdeTraining(model=bundle.model.config, pairs=pairs.config, history=history)
        for shard in shards:
            clips, states, end = pairs.shard(shard)
            level = torch.zeros(end.shape[:2], dtype=torch.long)
            made = jump(bundle.model, clips, states, end, level, config)
            for clip in range(len(end)):
                own, true = (sharpness(decode(bundle, x[clip : clip + 1].float())[0]) for x in (made, end))
                error = float(np.mean((made[clip] - end[clip]).square().numpy()))
                rows.append((label, shard * len(end) + clip, own / true, error))
    return pd.DataFrame(rows, columns=["student", "clip", "sharpness of teacher", "squared error"])
