"""Three training steps of every stage, at a small size and from a seed, for goldens.py."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from fingerprints import numbers_of_rows

from cinelab.data.toybox import build_toybox
from cinelab.devices import chosen_device
from cinelab.latent.store import Clips, Store, StoreConfig
from cinelab.memory.policy import CAMR
from cinelab.metrics.toybox.recogniser import Recogniser
from cinelab.model.wan import CausalWan, init_toy
from cinelab.runs import Run
from cinelab.scale.adapters import Lora, add_lora
from cinelab.scale.checkpoints import SharedRun
from cinelab.scale.parallel import Layout, Parallel
from cinelab.seeds import rng_at
from cinelab.states import read_state
from cinelab.train import (
    bidirectional,
    codec,
    consistency,
    dmd,
    forward_process,
    ode,
    pairs,
    presets,
    recogniser,
    teacher_forcing,
)
from cinelab.train.gan import GanConfig
from cinelab.zoo.checkpoints import fingerprint, load_codec, toy_encoder

Results = dict[str, object]


class RandomClips:
    """A store of random latents, with three prompts a clip."""

    recipe = {"films": "random"}

    def clips(self, count: int, frames: int, rng: torch.Generator) -> Clips:
        slot = (torch.arange(frames) // 3).expand(count, -1)
        text = torch.randn(count, 4, 24, 64, generator=rng)
        text[:, -1] = 0
        latents = torch.randn(count, frames, 24, 6, 8, generator=rng)
        return Clips(latents, text, slot.clamp(max=2), slot).to(chosen_device())


def network(seed: int = 0) -> CausalWan:
    """Return a small network whose output is not zero."""
    torch.manual_seed(seed)
    made = init_toy(CausalWan(presets.SMOKE))
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=rng))
    return made.to(chosen_device())


def teacher() -> CausalWan:
    return network(1).requires_grad_(False)


def three_steps(config: object, start: Callable, folder: Path) -> Results:
    """Return the logged numbers of three steps of `start(config, run)` and the weights after."""
    # the same random numbers on every device
    host = {"draws": "host"} if hasattr(config, "draws") else {}
    config = replace(config, steps=3, save_every=3, **host)
    run = Run(folder / "run", config)
    rows = numbers_of_rows(start(config, run))
    parts = read_state(run.folder / "checkpoints" / "last.pt")["parts"]
    weights = {name: part for name, part in parts.items() if name.endswith("model")}
    return {"rows": rows, "average": parts["ema"]["values"], **weights}


def bidirectional_steps(folder: Path) -> Results:
    def start(config, run):
        return bidirectional.train(config, network(), RandomClips(), run)

    return three_steps(presets.bidirectional("smoke"), start, folder)


def teacher_forcing_steps(changes: dict, folder: Path) -> Results:
    def start(config, run):
        return teacher_forcing.train(config, network(), RandomClips(), run)

    return three_steps(replace(presets.teacher_forcing("smoke"), **changes), start, folder)


def lora_steps(folder: Path) -> Results:
    def start(config, run):
        return teacher_forcing.train(config, add_lora(network(), Lora(rank=2)), RandomClips(), run)

    return three_steps(presets.teacher_forcing("smoke"), start, folder)


def split_steps(folder: Path) -> Results:
    """Return steps in two micro-batches with activation checkpointing."""
    parallel = Parallel.here(Layout(micro_batches=2, activation_checkpointing=True))
    config = replace(
        presets.teacher_forcing("smoke"), steps=3, save_every=9, routed_from=0.0, bf16=False
    )
    student = parallel.shard(network())
    run = SharedRun(folder / "run", config, parallel)
    rows = numbers_of_rows(teacher_forcing.train(config, student, RandomClips(), run))
    return {"rows": rows, "model": student.state_dict()}


def ode_steps(teacher_kind: str, folder: Path) -> Results:
    def start(config, run):
        store = RandomClips()
        for _ in pairs.integrate_pairs(folder / "pairs", config.pairs, teacher(), "teacher", store):
            pass
        made = pairs.Pairs(folder / "pairs", config.pairs, "teacher", store)
        return ode.train(config, network(), made, run)

    config = replace(presets.ode("smoke", teacher_kind), model=presets.SMOKE, validate_every=9)
    return three_steps(config, start, folder)


def consistency_steps(changes: dict, folder: Path) -> Results:
    def start(config, run):
        return consistency.train(config, network(), teacher(), RandomClips(), run)

    config = replace(presets.consistency("smoke"), model=presets.SMOKE, validate_every=9, **changes)
    return three_steps(config, start, folder)


def dmd_steps(changes: dict, folder: Path) -> Results:
    def start(config, run):
        return dmd.train(config, network(), teacher(), network(2), RandomClips(), run)

    config = replace(
        presets.dmd("smoke"), model=presets.SMOKE, batch=2, policy=CAMR(budget=2), validate_every=9
    )
    return three_steps(replace(config, **changes), start, folder)


def latent_mean(sample: torch.Tensor, clips: Clips, made: torch.Tensor) -> dict:
    """Return a reward that any latents have, under the name of a registered one."""
    return {"action": sample[:, made].mean((1, 2, 3, 4)).sigmoid()}


def rewarded_dmd_steps(folder: Path) -> Results:
    def start(config, run):
        networks = {"student": network(), "teacher": teacher(), "critic": network(2)}
        stage = dmd.DistributionMatching("dmd")
        return stage.train(config, RandomClips(), networks, run=run, reward=latent_mean)

    config = replace(presets.dmd("smoke"), model=presets.SMOKE, batch=3, bf16=False)
    more = {"policy": CAMR(budget=2), "reward": {"action": 1.0}, "validate_every": 9}
    return three_steps(replace(config, **more), start, folder)


def forward_process_steps(folder: Path) -> Results:
    def start(config, run):
        return forward_process.train(config, network(), RandomClips(), reward=latent_mean, run=run)

    config = replace(presets.forward_process("smoke"), model=presets.SMOKE, bf16=False, rise=0.2)
    more = {"policy": CAMR(budget=2), "reward": {"action": 1.0}, "validate_every": 9}
    return three_steps(replace(config, **more), start, folder)


def codec_steps(folder: Path) -> Results:
    def start(config, run):
        return codec.train(config, run, codec.render_clips(config), device=chosen_device())

    return three_steps(presets.codec("smoke"), start, folder)


def recogniser_steps(folder: Path) -> Results:
    def start(config, run):
        torch.manual_seed(0)
        codec = load_codec(config.codec)
        mark = fingerprint(config.codec)
        clips = recogniser.labelled_shots(config, run.folder, codec, mark=mark)
        return recogniser.train(config, Recogniser().to(chosen_device()), clips, run)

    return three_steps(presets.recogniser("smoke"), start, folder)


def training_clips(folder: Path) -> Results:
    """Return clips of a small data set that is rendered and encoded."""
    config = StoreConfig(seed=3, films=4, latents=6, shard=2)
    for _ in build_toybox(
        folder / "store", config, load_codec(), toy_encoder(), fingerprint("toybox-codec")
    ):
        pass
    clips = Store(folder / "store", toy_encoder()).clips(3, 4, rng_at(0, "golden"))
    return {"latents": clips.latents, "text": clips.text, "slot": clips.slot, "shot": clips.shot}


PER_HEAD = {
    "routed_from": 0.0,
    "camr_share": 1.0,
    "camr": CAMR(budget=2, per_head=True),
    "bf16": False,
}
CHUNKS = {"routed_from": 0.0, "chunk": 2, "camr": CAMR(budget=2), "bf16": False}
TRUE_HISTORY = {"score": "autoregressive", "history": "truth", "known": 0.0}
TRAINING = {
    "clips": training_clips,
    "bidirectional": bidirectional_steps,
    "teacher-forcing-camr": partial(teacher_forcing_steps, {"routed_from": 0.0, "camr_share": 1.0}),
    "teacher-forcing-full": partial(
        teacher_forcing_steps, {"camr_share": 0.0, "other_shots_share": 0.0}
    ),
    "teacher-forcing-fp32": partial(teacher_forcing_steps, {"routed_from": 0.0, "bf16": False}),
    "teacher-forcing-per-head": partial(teacher_forcing_steps, PER_HEAD),
    "teacher-forcing-chunks": partial(teacher_forcing_steps, CHUNKS),
    "teacher-forcing-lora": lora_steps,
    "teacher-forcing-split": split_steps,
    "ode-causal": partial(ode_steps, "autoregressive"),
    "ode-bidirectional": partial(ode_steps, "bidirectional"),
    "consistency": partial(consistency_steps, {}),
    "consistency-fp32": partial(consistency_steps, {"bf16": False}),
    "dmd-bidirectional-score": partial(dmd_steps, {"score": "bidirectional"}),
    "dmd-causal-score": partial(dmd_steps, {"score": "autoregressive"}),
    "dmd-true-history": partial(dmd_steps, TRUE_HISTORY),
    "dmd-fp32": partial(dmd_steps, {"bf16": False}),
    "dmd-adversarial": partial(dmd_steps, {"gan": GanConfig(clips=4, steps=2), "bf16": False}),
    "dmd-known": partial(dmd_steps, {"known": 1.0, "chunk": 2, "lengths": (4, 8), "bf16": False}),
    "dmd-rewarded": rewarded_dmd_steps,
    "forward-process": forward_process_steps,
    "codec": codec_steps,
    "recogniser": recogniser_steps,
}
