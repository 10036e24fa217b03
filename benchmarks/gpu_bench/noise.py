"""The noise floor of each mode: the same film and seed twice, and against exact."""

import torch

from benchmarks.gpu_bench.films import MODEL, film, note
from benchmarks.gpu_bench.one import Task
from benchmarks.gpu_bench.speeds import speeds
from cinelab.zoo.accelerated import at_speed
from cinelab.zoo.checkpoints import load

# the largest difference that is allowed: fast films are other films where a choice of pages flips
MOST = {
    "exact": {"twice": 0.0, "against exact": 0.0},
    "compiled": {"twice": 0.0, "against exact": 3.0},
    "fast": {"twice": 3.0, "against exact": 6.0},
}


@torch.no_grad()
def run(task: Task) -> None:
    """Record largest and mean differences of latents and frames, and SSIM."""
    exact = None
    for name, speed in speeds().items():
        with task.rows.trying(f"noise floor, {name}"):
            bundle = at_speed(load(MODEL, task.device), speed)
            first = film(bundle, "camr", task, bf16=True)
            again = film(bundle, "camr", task, bf16=True)
            exact = exact or first
            for what, other in (("twice", again), ("against exact", exact)):
                most = MOST[name.partition(",")[0]][what]
                note(task, f"noise floor, {name}: {what}", other, first, most=most)
