"""Few-step students as notebooks use them: stage 2 (causal ODE, consistency) and stage 3 (DMD).

    stage = students.consistency("results/cd", "results/store", teacher="toybox-base")
    stage.watch()
    stage.export("results/cd/checkpoint")

A run whose exams are on keeps the weights that scored best, not the last.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from cinelab.config import override, to_dict
from cinelab.errors import CinelabError
from cinelab.files import write_text
from cinelab.flow.sampler import Sampling
from cinelab.lab.training import samples
from cinelab.lab.training.panel import counted
from cinelab.lab.training.stages import Stage, opened
from cinelab.latent.store import Store
from cinelab.metrics.toybox.recogniser import load_recogniser
from cinelab.metrics.toybox.validation import ValidationConfig, Validator
from cinelab.model.wan import CausalWan, WanConfig
from cinelab.runs import Run
from cinelab.texts import LINES, read_text
from cinelab.train import consistency as stage2b
from cinelab.train import dmd as stage3
from cinelab.train import ode as stage2a
from cinelab.train import pairs as ode_pairs
from cinelab.train import presets
from cinelab.train.losses import with_loss
from cinelab.train.trained_policy import policy_of, trained_under
from cinelab.weights.load import dtype_of
from cinelab.zoo import checkpoints as zoo
from cinelab.zoo.bundle import Bundle

SMOKE_EXAM = ValidationConfig(films=2, latents=6, recalls=2, away=1)


def few_steps(steps: int, shift: float = 2.0, first_steps: int | None = None) -> Sampling:
    """A student's sampling: `steps` levels, no guidance (it is distilled in)."""
    return Sampling(steps, "consistency", guidance=1.0, shift=shift, first_steps=first_steps)


def fitting(name: str | Path, model: WanConfig, role: str) -> Bundle:
    """Load a checkpoint that is to teach or start a student of shape `model`; another shape is
    refused by name."""
    bundle = zoo.load(name)
    theirs = to_dict(bundle.model.config)
    ours = to_dict(model)
    if odd := [key for key in ours if ours[key] != theirs[key]]:
        raise CinelabError(
            f"The {role} {name} has {odd[0]}={theirs[odd[0]]!r}, the student "
            f"{odd[0]}={ours[odd[0]]!r}; "
            f"train the student with the {role}'s model settings."
        )
    return bundle


def trainable(model: CausalWan) -> CausalWan:
    """A copy to train."""
    return deepcopy(model).requires_grad_(True).train()


@dataclass(frozen=True)
class PairsPlan:
    """ODE pairs that are integrated when they are first needed. `folder` is theirs; `store` as a
    stage takes it."""

    folder: str | Path
    store: Store | str | Path
    teacher: str | Path
    preset: str
    config: ode_pairs.PairsConfig

    @cached_property
    def made(self) -> ode_pairs.Pairs:
        """The pairs, integrated under a bar where they are missing."""
        store = opened(self.store, self.preset)
        bundle = zoo.load(self.teacher)
        mark = zoo.fingerprint(self.teacher)
        with counted(self.config.clips, "clips") as tell:
            for done in ode_pairs.build(self.folder, self.config, bundle.model, mark, store):
                tell(done)
        return ode_pairs.Pairs(self.folder, self.config, mark, store)


def plan_pairs(
    folder: str | Path,
    store: Store | str | Path,
    teacher: str | Path,
    preset: str = "toy",
    kind: str = "autoregressive",
    changes: dict | None = None,
) -> PairsPlan:
    """The ODE pairs of a teacher, checked and not yet made."""
    zoo.find(teacher)
    return PairsPlan(
        folder, store, teacher, preset, override(presets.pairs(preset, kind), changes or {})
    )


def build_pairs(
    folder: str | Path,
    store: Store,
    teacher: str | Path,
    preset: str = "toy",
    kind: str = "autoregressive",
    changes: dict | None = None,
) -> ode_pairs.Pairs:
    """The ODE pairs of a teacher, integrated where they are missing."""
    return plan_pairs(folder, store, teacher, preset, kind, changes).made


def ode(
    run_dir: str | Path,
    pairs: ode_pairs.Pairs | PairsPlan,
    init: str | Path = "toybox-base",
    preset: str = "toy",
    seed: int = 0,
    changes: dict | None = None,
    steps: int = 4,
    validate: bool = True,
    loss: str | Callable | None = None,
) -> Stage:
    """Stage 2a (or its bidirectional baseline): regress to the end points of `pairs`. `steps`:
    levels it is sampled with."""
    config = override(presets.ode(preset, pairs.config.teacher, seed), with_loss(changes, loss))
    config = replace(config, pairs=pairs.config)
    start = fitting(init, config.model, "initial checkpoint")
    return _student(
        start,
        config,
        run_dir,
        few_steps(steps),
        pairs.config.chunk,
        preset,
        validate,
        lambda model, run, sit: stage2a.train(
            config, model, getattr(pairs, "made", pairs), run, sit
        ),
        stage="ode",
        init=str(init),
    )


def consistency(
    run_dir: str | Path,
    store: Store | str | Path,
    teacher: str | Path = "toybox-base",
    preset: str = "toy",
    seed: int = 0,
    changes: dict | None = None,
    steps: int = 4,
    validate: bool = True,
    init: str | Path | None = None,
    loss: str | Callable | None = None,
) -> Stage:
    """Stage 2b: causal consistency distillation of `teacher`, from itself or from an earlier
    student (`init`)."""
    config = override(presets.consistency(preset, seed), with_loss(changes, loss))
    init = init or teacher
    guide = fitting(teacher, config.model, "teacher")
    start = fitting(init, config.model, "initial checkpoint")
    return _student(
        start,
        config,
        run_dir,
        few_steps(steps),
        config.chunk,
        preset,
        validate,
        lambda model, run, sit: stage2b.train(
            config, model, guide.model, opened(store, preset), run, sit
        ),
        stage="consistency",
        teacher=str(teacher),
        init=str(init),
    )


def dmd(
    run_dir: str | Path,
    store: Store | str | Path,
    init: str | Path,
    real: str | Path = "toybox-bidirectional-24",
    preset: str = "toy",
    seed: int = 0,
    changes: dict | None = None,
    validate: bool = True,
    loss: str | Callable | None = None,
) -> Stage:
    """Stage 3: from a stage 2 checkpoint (or the base model itself), judged by `real`, which the
    critic starts from too."""
    config = override(presets.dmd(preset, seed), with_loss(changes, loss))
    start = fitting(init, config.model, "initial checkpoint")
    judge = fitting(real, config.model, "real score")
    if (longest := max(config.lengths)) > judge.span:
        raise CinelabError(
            f"lengths has {longest} latent frames, but the real score {real} was trained on "
            f"{judge.span}; "
            "shorten the roll-outs or name another real score."
        )
    if not {"max_distance", "reach"} & set(changes or {}):
        config = replace(config, max_distance=start.max_distance)
    critic = trainable(judge.model)
    return _student(
        start,
        config,
        run_dir,
        config.sampling,
        config.chunk,
        preset,
        validate,
        lambda model, run, sit: stage3.train(
            config, model, judge.model, critic, opened(store, preset), run, sit
        ),
        stage="dmd",
        init=str(init),
        real=str(real),
    )


def _student(
    start: Bundle,
    config: Any,
    run_dir: str | Path,
    sampling: Sampling,
    chunk: int,
    preset: str,
    validate: bool,
    rows: Callable[..., Iterator[dict]],
    **about: Any,
) -> Stage:
    run = Run(run_dir, config)
    model = trainable(start.model)
    bundle = replace(start, sampling=sampling, chunk=chunk)

    def train() -> Iterator[dict]:
        setting = SMOKE_EXAM if preset == "smoke" else None
        sit = Validator(bundle, load_recogniser(), policy_of(config), setting) if validate else None
        return rows(model, run, sit)

    def describe() -> dict:
        return zoo.model_config(
            config.model,
            start.encoder,
            start.config["codec"],
            sampling,
            chunk,
            start.span,
            start.fps,
            start.size,
            **about,
            **trained_under(config),
        )

    film = lambda trained, step: samples.held_out_film(replace(bundle, model=trained), step)  # noqa: E731
    return Stage(config, run, model, train, describe, film)


def blend(checkpoints: list[str | Path], folder: str | Path, dtype: str = "bf16") -> Path:
    """A checkpoint whose weights are the mean of several students of one shape, fine-tuned from one
    base (a model soup).

    Runs from different starts keep different strengths; their mean often has both, at no cost when
    sampling.
    """
    first = zoo.load(checkpoints[0])
    bundles = [
        first,
        *(fitting(name, first.model.config, "checkpoint to blend") for name in checkpoints[1:]),
    ]
    weights = [bundle.model.state_dict() for bundle in bundles]
    mean = {key: torch.stack([one[key] for one in weights]).mean(0) for key in weights[0]}
    first.model.load_state_dict(mean)
    parts = [
        {
            "init": one.config.get("init"),
            "fingerprint": zoo.fingerprint(name),
            "training": one.config.get("training"),
        }
        for name, one in zip(checkpoints, bundles, strict=True)
    ]
    run = first.config["run"] | {
        key: sum(one.config["run"][key] for one in bundles) for key in ("steps", "seconds")
    }
    zoo.save_checkpoint(
        Path(folder),
        first.model,
        first.config | {"stage": "blend", "blend": parts, "run": run},
        dtype_of(dtype),
    )
    logs = [read_text(zoo.find(name) / "log.jsonl", LINES) for name in checkpoints]
    write_text(Path(folder) / "log.jsonl", "".join(logs))  # one run after the other
    return Path(folder)
