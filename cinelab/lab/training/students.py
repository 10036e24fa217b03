"""Few-step students as notebooks use them: stage 2 (causal ODE, consistency), stage 3 (DMD), and
fine-tuning by rewards.

    run = students.consistency("results/cd", "results/store", teacher="toybox-base")
    run.watch()
    run.export("results/cd/checkpoint")

A validated run exports the weights that scored best, not the last.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from cinelab.config import override
from cinelab.files import write_text
from cinelab.flow.sampler import Sampling
from cinelab.lab.training.panel import counted
from cinelab.lab.training.run import StageRun
from cinelab.lab.training.stages import fitting, opened, train_stage
from cinelab.latent.placed import placed
from cinelab.latent.store import Store
from cinelab.texts import LINES, read_text
from cinelab.train import pairs as ode_pairs
from cinelab.train import presets
from cinelab.weights.load import dtype_of
from cinelab.zoo import checkpoints as zoo


def few_steps(steps: int, shift: float = 2.0, first_steps: int | None = None) -> Sampling:
    """Return a student's sampling: `steps` levels, no guidance (it is distilled in)."""
    return Sampling(steps, "consistency", guidance=1.0, shift=shift, first_steps=first_steps)


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
        bundle = zoo.load(self.teacher)
        store = placed(opened(self.store, self.preset, bundle.world_name), bundle.device)
        mark = zoo.fingerprint(self.teacher)
        with counted(self.config.clips, "clips") as tell:
            for done in ode_pairs.integrate_pairs(
                self.folder, self.config, bundle.model, mark, store
            ):
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
    """Return the ODE pairs of a teacher, checked and not yet made."""
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
    """Return the ODE pairs of a teacher, integrated where they are missing."""
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
) -> StageRun:
    """Set up stage 2a (or its bidirectional baseline): regress to the end points of `pairs`. The
    student is sampled with `steps` levels."""
    given_truth = pairs.config.teacher in ode_pairs.GIVEN_TRUTH
    own = {name: value for name, value in (changes or {}).items() if name.split(".")[0] != "pairs"}
    return train_stage(
        "ode",
        run_dir,
        pairs,
        preset=preset,
        init=init,
        seed=seed,
        changes={"pairs": pairs.config, "history": "truth" if given_truth else "noisy"} | own,
        loss=loss,
        sampling=few_steps(steps),
        validate=validate,
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
) -> StageRun:
    """Set up stage 2b: causal consistency distillation of `teacher`, from itself or from an earlier
    student (`init`). The student is sampled with `steps` levels."""
    return train_stage(
        "consistency",
        run_dir,
        store,
        preset=preset,
        init=init or teacher,
        teacher=teacher,
        seed=seed,
        changes=changes,
        loss=loss,
        sampling=few_steps(steps),
        validate=validate,
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
) -> StageRun:
    """Set up stage 3: from a stage 2 checkpoint (or the base model itself), corrected by the real
    score of `real`, which the critic begins as too."""
    return train_stage(
        "dmd",
        run_dir,
        store,
        preset=preset,
        init=init,
        teacher=real,
        seed=seed,
        changes=changes,
        loss=loss,
        validate=validate,
    )


def forward_process(
    run_dir: str | Path,
    store: Store | str | Path,
    init: str | Path,
    preset: str = "toy",
    *,
    seed: int = 0,
    changes: dict | None = None,
    validate: bool = True,
) -> StageRun:
    """Set up fine-tuning by rewards of a student's own clips, from a student (stage 2 or 3), whose
    levels it keeps."""
    return train_stage(
        "forward_process",
        run_dir,
        store,
        preset=preset,
        init=init,
        seed=seed,
        changes=changes,
        validate=validate,
    )


def blend(checkpoints: list[str | Path], folder: str | Path, dtype: str = "bf16") -> Path:
    """Write a checkpoint whose weights are the mean of several students of one shape, fine-tuned
    from one base (a model soup).

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
        dtype_of(dtype) or torch.bfloat16,
    )
    logs = [read_text(zoo.find(name) / "log.jsonl", LINES) for name in checkpoints]
    write_text(Path(folder) / "log.jsonl", "".join(logs))  # one run after the other
    return Path(folder)
