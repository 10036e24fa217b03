"""The noise floor of each mode: the same film and seed twice, and against exact."""

import numpy as np
import torch

from benchmarks.gpu_bench.films import MODEL, Made, film
from benchmarks.gpu_bench.one import Task
from benchmarks.gpu_bench.speeds import speeds
from cinelab.scale.acceleration import accelerate
from cinelab.zoo.checkpoints import load

# the largest difference that is allowed: fast films are other films where a choice of pages flips
MOST = {
    "exact": {"twice": 0.0, "against exact": 0.0},
    "compiled": {"twice": 0.0, "against exact": 3.0},
    "fast": {"twice": 3.0, "against exact": 6.0},
}


@torch.no_grad()
def run(task: Task) -> None:
    """Record largest and mean differences of latents and frames."""
    exact = None
    for name, speed in speeds().items():
        with task.rows.trying(f"noise floor, {name}"):
            bundle = load(MODEL, task.device)
            accelerate(bundle.model, speed)
            first = film(bundle, "camr", task, bf16=True)
            again = film(bundle, "camr", task, bf16=True)
            exact = exact or first
            for what, other in (("twice", again), ("against exact", exact)):
                apart(
                    task,
                    f"noise floor, {name}: {what}",
                    other,
                    first,
                    MOST[name.partition(",")[0]][what],
                )


def apart(task: Task, name: str, one: Made, other: Made, most: float) -> None:
    """Record how far two films are apart, in latents (whose deviation is about 1) and in levels
    of 255."""
    gap = (one.latents - other.latents).abs()
    frames = np.abs(one.frames.astype(int) - other.frames)
    task.rows.check(
        name,
        gap.max().item(),
        most,
        mean=gap.mean().item(),
        levels=int(frames.max()),
        mean_levels=float(frames.mean()),
    )
