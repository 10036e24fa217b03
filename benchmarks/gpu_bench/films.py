"""Films of the toybox: on the CPU against the GPU, and every way of making one against the plain
one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_bench.one import Task
from cinelab.memory.policy import Policy
from cinelab.script.screenplay import PromptChange, Screenplay, Shot
from cinelab.stream.batch import policy_for
from cinelab.stream.director import Director
from cinelab.zoo.bundle import Bundle
from cinelab.zoo.checkpoints import load

MODEL = "toybox-2step"
POLICIES = ("camr", "full", "window")
SECONDS = 0.25  # of a rehearsal's shots
CAT = "wide shot of a red cat that waves in the meadow by day, static camera"
ROBOT = "close shot of a blue robot that dances in the city at night, zoom in"
ROUNDING = 1e-3  # of latents in fp32, whose deviation is about 1, after a whole film
HISTORIES = {
    "in host memory": ({"place": "host"}, 0.0),
    "in int8": ({"packing": "int8"}, 0.5),
    "in fp8": ({"packing": "fp8"}, 2.0),
    "in fp8 in host memory": ({"place": "host", "packing": "fp8"}, 2.0),
}


class Made(NamedTuple):
    """A film's latents (F, C, h, w) and frames uint8 (f, H, W, 3)."""

    latents: Tensor
    frames: np.ndarray


def run(task: Task) -> None:
    """Record the largest difference of each pair of films that ought to be equal."""
    reference = load(MODEL, "cpu")
    bundle = load(MODEL, task.device)
    for policy in POLICIES[:1] if task.rehearsed else POLICIES:
        with task.rows.trying(f"film, {policy}"):
            on_both(task, reference, bundle, policy)
    plain = film(bundle, "camr", task)
    checks: dict[str, Callable[[], None]] = {
        "film, overlap": lambda: compare(
            task, plain, bundle, "decoded beside", most=0.0, overlap=True
        ),
        "film, fused": lambda: compare(task, plain, bundle, "fused", most=ROUNDING, fused=True),
        "films, histories": lambda: histories(task, plain, bundle),
        "film, bf16": lambda: compare(task, plain, bundle, "bf16", most=1.0, bf16=True),
    }
    for name, check in checks.items():
        with task.rows.trying(name):
            check()


def on_both(task: Task, reference: Bundle, bundle: Bundle, policy: str) -> None:
    """Compare CPU and device in fp32, and the device with itself to the bit."""
    first = film(bundle, policy, task)
    again = film(bundle, policy, task)
    note(task, f"film, {policy}: twice, exact", first, again, most=0.0)
    note(
        task,
        f"film, {policy}: CPU against device",
        film(reference, policy, task),
        first,
        most=ROUNDING,
    )


def compare(task: Task, plain: Made, bundle: Bundle, what: str, *, most: float, **how: Any) -> None:
    """Compare a film made in another way with the plain one."""
    note(task, f"film, camr: {what}", plain, film(bundle, "camr", task, **how), most=most)


def histories(task: Task, plain: Made, bundle: Bundle) -> None:
    """Compare films whose history is stored in other ways."""
    for name, (memory, most) in HISTORIES.items():
        with task.rows.trying(f"film, history {name}"):
            stored = replace(bundle, memory=memory)
            compare(task, plain, stored, f"history {name}", most=most)


def film(bundle: Bundle, policy: str | Policy, task: Task, **how: Any) -> Made:
    """Return a film of three shots with a change and a re-cache (one shot in a rehearsal)."""
    rule = policy_for(bundle, policy, 3 if policy == "camr" else None)
    chunks = list(Director(bundle, rule, **how).stream(screenplay(task)))
    latents = torch.cat([one.latents[0].float().cpu() for one in chunks])
    return Made(latents, np.concatenate([one.frames[0] for one in chunks]))


def screenplay(task: Task) -> Screenplay:
    """Return what the films show."""
    if task.rehearsed:
        return Screenplay("Two", (Shot(CAT, SECONDS), Shot(ROBOT, SECONDS)), seed=4)
    change = PromptChange(0.5, CAT.replace("waves", "jumps"))
    recache = PromptChange(0.5, CAT, recache=True)
    shots = (Shot(CAT, 1.0, changes=(change,)), Shot(ROBOT, 0.75), Shot(CAT, 0.75, (recache,)))
    return Screenplay("Two", shots, seed=4)


def note(task: Task, name: str, one: Made, other: Made, *, most: float) -> None:
    """Record how far two films are apart: the largest and mean difference of latents, and the
    largest of frames (of 255)."""
    gap = (one.latents - other.latents).abs()
    levels = np.abs(one.frames.astype(int) - other.frames).max()
    task.rows.check(name, gap.max().item(), most, mean=gap.mean().item(), levels=int(levels))
