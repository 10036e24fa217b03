"""One process of a training: `torchrun --standalone --nproc-per-node 8 -m cinelab.train.worker run.yaml`.

Trains the stage through the one loop, resumes when started again on any number of processes, saves and ends when asked to
(SIGTERM), and exports at the end. Without torchrun, `python -m cinelab.train.worker run.yaml` is one process.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cinelab.config import to_dict
from cinelab.errors import CinelabError
from cinelab.files import write_json
from cinelab.flow.sampler import Sampling
from cinelab.model import zoo
from cinelab.model.wan import CausalWan, kept_dtype
from cinelab.train import bidirectional, consistency, dmd, teacher_forcing
from cinelab.train.checkpoint import SharedRun, export, pour, weights_in
from cinelab.train.job import Job, fresh, load_job, open_store, weights_of
from cinelab.train.lora import add_lora, begin, mark, save_lora
from cinelab.train.memory import trained_under
from cinelab.train.parallel import Parallel
from cinelab.world.render import FPS, HEIGHT, WIDTH


def train(job: Job, parallel: Parallel) -> Iterator[dict]:
    """Yield one log row per step; resumes. Every process yields the same rows."""
    config = job.config
    if parallel.world > 1 and job.stage == "dmd" and config.score != "bidirectional":
        raise CinelabError(f"score is {config.score!r}, whose critic learns through keys kept from another pass, which sharded "
                           "weights do not allow; use score bidirectional (the papers'), or one process.")
    about = {"stage": job.stage, "init": job.init, "teacher": job.teacher, "parts": job.layout.parts}
    run = SharedRun(job.run, config, parallel, about | {"lora": to_dict(job.lora) if job.lora else None})
    if not run.done:
        store = open_store(job.store, config, parallel.device)
        nets = [network(job, config, parallel, job.init)]
        if job.teacher is not None:
            nets.append(network(job, config, parallel, job.teacher, frozen=True))
        if job.stage == "dmd":
            nets.append(network(job, config, parallel, job.teacher))
        stages = {"bidirectional": bidirectional, "teacher_forcing": teacher_forcing, "consistency": consistency, "dmd": dmd}
        yield from stages[job.stage].train(config, *nets, store, run)
    if run.done and job.export is not None:
        parallel.once(lambda: deliver(job, config, run))


def network(job: Job, config: Any, parallel: Parallel, place: str | None, frozen: bool = False) -> CausalWan:
    """A network of the job, sharded and filled: no process ever holds all of it. What is
    frozen is kept in bf16 on GPUs."""
    with torch.device("meta"):
        model = CausalWan(config.model).train(not frozen).requires_grad_(not frozen)
        if job.lora is not None and not frozen:
            add_lora(model, job.lora)
    for name, weight in model.named_parameters():
        if not weight.requires_grad and config.bf16 and parallel.device != "cpu":
            weight.data = weight.data.to(kept_dtype(name, torch.bfloat16))
    model = parallel.shard(model, config.bf16).to_empty(device=parallel.device)
    if place == "random":
        return scatter(model, job.seed + parallel.rank)
    pour(model, fresh(config.model, job.seed) if place is None else weights_of(place), place or "made here")
    return pour(model, begin(model.state_dict(), job.seed), "adapters", partly=True)


@torch.no_grad()
def scatter(model: CausalWan, seed: int) -> CausalWan:
    """Random weights, each process its own shards of them: to rehearse memory and time, not to train."""
    torch.manual_seed(seed)
    for weight in model.parameters():
        weight.normal_(0, 0.02)
    return model


def deliver(job: Job, config: Any, run: SharedRun) -> None:
    """Write the averaged weights, or the adapters, with what they are."""
    folder = Path(job.export)
    if job.lora is not None:
        base = "random" if job.init == "random" else mark(weights_of(job.init))
        save_lora(folder / "lora.safetensors", dict(weights_in(run.folder)), job.lora, base)
    else:
        export(run.folder, folder / zoo.WEIGHTS)
    write_json(folder / zoo.CONFIG, described(job, config) | {"run": run.done_info, "training": to_dict(config)})


WAN_GUIDED = Sampling(48, "euler", 3.0, 5.0)  # of a many-step model of Wan, as the papers integrate their teachers


def described(job: Job, config: Any) -> dict:
    """What the result's config.json says; a toybox checkpoint is whole by it and opens with `cinelab.load`.

    `policy` and `reach` say under which memory the student saw its history.
    """
    guided = replace(Sampling() if job.store.kind == "toybox" else WAN_GUIDED, shift=config.shift)
    sampling, chunk, span = {
        "bidirectional": lambda: (guided, 1, max(config.lengths)),
        "teacher_forcing": lambda: (guided, config.chunk, max(config.curriculum)),
        "consistency": lambda: (Sampling(4, "consistency", 1.0, config.shift), config.chunk, config.frames),
        "dmd": lambda: (config.sampling, config.chunk, (config.reach or max(config.lengths) - 1) + 1),
    }[job.stage]()
    about = {"stage": job.stage, "init": job.init, "teacher": job.teacher, "parts": job.layout.parts} | trained_under(config)
    if job.store.kind == "toybox":
        return zoo.model_config(config.model, zoo.toy_encoder(), "toybox-codec", sampling, chunk, span, FPS, (HEIGHT, WIDTH), **about)
    return {"model": to_dict(config.model), "sampling": to_dict(sampling.filled()), "chunk": chunk, "span": span, **about}


def told(row: dict) -> str:
    """A log row as a line."""
    numbers = [f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items() if name != "step"]
    return f"step {row['step'] + 1}: " + ", ".join(numbers)


def main(path: str) -> int:
    """Train what the file says; returns the exit code: 0 done or ended when asked to, 2 with a sentence."""
    parallel = None
    try:
        job = load_job(path)
        parallel = Parallel.join(job.layout)
        parallel.listen()
        for row in train(job, parallel):
            if parallel.first:
                print(told(row), flush=True)
        if parallel.first:
            print("asked to stop: saved, start it again to go on" if parallel.stops else f"done: {job.export or job.run}", flush=True)
        return 0
    except CinelabError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"cinelab: {error}", file=sys.stderr, flush=True)
        return 2
    finally:
        if parallel is not None:
            parallel.leave()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: torchrun --standalone --nproc-per-node N -m cinelab.train.worker RUN.yaml")
    sys.exit(main(sys.argv[1]))
