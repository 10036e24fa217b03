"""What test_parallel.py compares: small trainings that run alike in one process and, through
torchrun, in two.

torchrun --nproc-per-node 2 tests/processes.py FOLDER      every case; results as FOLDER/<case>.pt
"""

import faulthandler
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from test_train import Fake
from test_train import model as plain

from cinelab.memory.policy import CAMR
from cinelab.model.wan import cast
from cinelab.scale.adapters import Lora, add_lora
from cinelab.scale.checkpoints import SharedRun
from cinelab.scale.parallel import Layout, Parallel
from cinelab.train import bidirectional, consistency, dmd, presets, teacher_forcing
from cinelab.train.optim import Optim, whole

# so that three steps move the weights well beyond rounding
FAST = Optim(lr=1e-3, warmup=0, ema=0.9)
COMMON = {"bf16": False, "optim": FAST, "model": presets.SMOKE, "save_every": 9}
TF = replace(
    presets.teacher_forcing("smoke"), **COMMON, steps=3, curriculum=(4, 6, 8), routed_from=0.0
)
CD = replace(presets.consistency("smoke"), **COMMON)
DMD = replace(
    presets.dmd("smoke"), **COMMON, critic=FAST, batch=2, policy=CAMR(budget=2), known=0.5
)
LONG = replace(presets.bidirectional("smoke"), **COMMON, steps=2, lengths=(5,), frames_per_batch=10)
RESUMED = replace(TF, steps=4, save_every=2)


def seeded(seed):
    made = plain()
    lots = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=lots))
    return made


def model(parallel, seed=0, frozen=False, lora=None):
    made = seeded(seed).requires_grad_(not frozen)
    return parallel.shard(add_lora(made, lora) if lora else made)


def trained(parallel, folder, stage, config, *nets, kill_after=None):
    """Rows without times, and all weights of all networks, whole."""
    run = SharedRun(folder, config, parallel)
    rows = []
    for row in stage.train(config, *nets, Fake(), run):
        rows.append({name: value for name, value in row.items() if name != "seconds"})
        if row["step"] == kill_after:
            break
    weights = [
        {name: whole(value.detach()).clone() for name, value in one.state_dict().items()}
        for one in nets
    ]
    return {"rows": rows, "weights": weights}


def case_teacher_forcing(parallel, folder):
    return trained(parallel, folder, teacher_forcing, TF, model(parallel))


def case_consistency(parallel, folder):
    return trained(
        parallel, folder, consistency, CD, model(parallel), model(parallel, 1, frozen=True)
    )


def case_dmd(parallel, folder):
    return trained(
        parallel,
        folder,
        dmd,
        DMD,
        model(parallel),
        model(parallel, 1, frozen=True),
        model(parallel, 2),
    )


def case_lora(parallel, folder):
    return trained(parallel, folder, teacher_forcing, TF, model(parallel, lora=Lora(rank=2)))


def case_half(parallel, folder):
    """As on a GPU: weights gathered as bf16, gradients reduced in fp32, a frozen teacher kept in
    bf16. ("cpu:0" is no "cpu".)"""
    there = replace(parallel, device="cpu:0")
    teacher = there.shard(cast(seeded(1).requires_grad_(False), torch.bfloat16))
    return trained(
        parallel, folder, consistency, replace(CD, bf16=True), there.shard(seeded(0)), teacher
    )


def case_sequence(parallel, folder):
    return trained(parallel, folder, teacher_forcing, TF, model(parallel))


def case_uneven(parallel, folder):
    return trained(parallel, folder, bidirectional, LONG, model(parallel))


def case_known_history(parallel, folder):
    return trained(
        parallel, folder, consistency, CD, model(parallel), model(parallel, 1, frozen=True)
    )


def case_resumed(parallel, folder):
    return trained(parallel, folder, teacher_forcing, RESUMED, model(parallel))


CASES = {  # name -> layout; the case is the function of that name
    "teacher_forcing": Layout(micro_batches=2),
    "consistency": Layout(micro_batches=4, defer=True),
    "dmd": Layout(micro_batches=2, activation_checkpointing=True),
    "lora": Layout(micro_batches=4, reshard=False),
    "half": Layout(micro_batches=2),
    "sequence": Layout(sequence=2, activation_checkpointing=True),
    "uneven": Layout(micro_batches=3, sequence=2),
    "known_history": Layout(sequence=2),
    "resumed": Layout(micro_batches=2),
}


def run(name, parallel, folder):
    return globals()[f"case_{name}"](parallel, Path(folder))


if __name__ == "__main__":
    # processes that wait for each other say where
    faulthandler.dump_traceback_later(290, exit=True)
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    joined = Parallel.join(Layout(micro_batches=2))
    for name, layout in CASES.items():
        parallel = joined.with_layout(layout)
        result = run(name, parallel, place / name)
        if parallel.first:
            torch.save(result, place / f"{name}.pt")
    joined.leave()
    sys.stdout.flush()
    os._exit(0)  # as cinelab.jobs.worker does
