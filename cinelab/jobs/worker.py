"""One process of a training: `torchrun --standalone --nproc-per-node 8 -m cinelab.jobs.worker
run.yaml`.

Trains the stage through the one loop, resumes when started again on any number of processes, saves
and ends when asked to (SIGTERM), and exports at the end. Without torchrun, `python -m
cinelab.jobs.worker run.yaml` is one process.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from cinelab.checksums import read_sealed, write_checksums
from cinelab.config import to_dict
from cinelab.errors import CinelabError
from cinelab.files import write_atomic, write_json
from cinelab.flow.sampler import Sampling
from cinelab.jobs.job import Job, check_weights, fresh, load_job, open_store, placed, weights_of
from cinelab.model.wan import CausalWan, kept_dtype
from cinelab.outputs import together
from cinelab.scale.adapters import add_lora, begin, marks, save_lora
from cinelab.scale.checkpoints import SharedRun, export, pour, weights_in
from cinelab.scale.parallel import Parallel
from cinelab.train import bidirectional, consistency, dmd, teacher_forcing
from cinelab.train.provenance import draws_from
from cinelab.train.trained_policy import trained_under
from cinelab.weights.load import DTYPES, open_weights
from cinelab.world.render import FPS, HEIGHT, WIDTH
from cinelab.zoo import checkpoints as zoo

CODEC = "toybox-codec"


def train(job: Job, parallel: Parallel) -> Iterator[dict]:
    """Yield one log row per step; resumes. Every process yields the same rows."""
    config = job.config
    if parallel.world > 1 and job.stage == "dmd" and config.score != "bidirectional":
        raise CinelabError(
            f"score is {config.score!r}, whose critic learns through keys kept from another pass, "
            "which sharded "
            "weights do not allow; use score bidirectional (the papers'), or one process."
        )
    about = {
        "stage": job.stage,
        "init": job.init,
        "teacher": job.teacher,
        "parts": job.layout.micro_batches,
    }
    run = SharedRun(
        job.run, config, parallel, about | {"lora": to_dict(job.lora) if job.lora else None}
    )
    if not run.done:
        for place in (job.init, job.teacher):
            if place not in (None, "random"):
                check_weights(place, config.model)
        store = open_store(job.store, config, parallel.device)
        draws_from(run, store, config.model)  # the stage asks again, when the networks are there
        nets = [network(job, config, parallel, job.init)]
        if job.teacher is not None:
            nets.append(network(job, config, parallel, job.teacher, frozen=True))
        if job.stage == "dmd":
            nets.append(network(job, config, parallel, job.teacher))
        stages = {
            "bidirectional": bidirectional,
            "teacher_forcing": teacher_forcing,
            "consistency": consistency,
            "dmd": dmd,
        }
        yield from stages[job.stage].train(config, *nets, store, run)
    # a store that has gone since is not missed
    elif run.data is not None and Path(job.store.path).is_dir():
        run.trains_on(open_store(job.store, config).about())
    if run.done and job.export is not None:
        parallel.once(lambda: deliver(job, config, run))


def network(
    job: Job, config: Any, parallel: Parallel, place: str | None, frozen: bool = False
) -> CausalWan:
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
    pour(
        model,
        fresh(config.model, job.seed) if place is None else weights_of(place),
        place or "made here",
    )
    return pour(model, begin(model.state_dict(), job.seed), "adapters", partly=True)


@torch.no_grad()
def scatter(model: CausalWan, seed: int) -> CausalWan:
    """Random weights, each process its own shards of them: to rehearse memory and time, not to
    train."""
    torch.manual_seed(seed)
    for weight in model.parameters():
        weight.normal_(0, 0.02)
    return model


def deliver(job: Job, config: Any, run: SharedRun) -> None:
    """Write the averaged weights, or the adapters, and what they are, all or nothing. Of adapters
    for the toybox also the whole weights with them merged, so that the folder can be directed as
    any other."""
    toybox = recipe_of_toybox(job, run)
    with together(job.export, zoo.CONFIG) as folder:
        if job.lora is None:
            export(run.folder, folder / zoo.WEIGHTS, dtype=job.export_dtype or "bf16")
        else:
            file = deliver_lora(job, run, folder / zoo.ADAPTER)
            if toybox is not None and job.init != "random":
                merged = open_weights(placed(job.init), dtype=job.export_dtype, lora=file)
                write_atomic(
                    folder / zoo.WEIGHTS,
                    lambda path: save_file(
                        {name: value.contiguous() for name, value in merged}, path
                    ),
                )
        write_json(
            folder / zoo.CONFIG,
            described(job, config, toybox) | {"run": run.done_info, "training": to_dict(config)},
        )
        write_checksums(folder, sorted(path.name for path in folder.iterdir()))


# of a many-step model of Wan, as the papers integrate their teachers
WAN_GUIDED = Sampling(48, "euler", 3.0, 5.0)


def deliver_lora(job: Job, run: SharedRun, file: Path) -> Path:
    """Write the averaged adapters with the marks of their base."""
    base, exact = ("random", "") if job.init == "random" else marks(weights_of(job.init))
    return save_lora(
        file,
        dict(weights_in(run.folder)),
        job.lora,
        base,
        exact,
        DTYPES[job.export_dtype or "fp32"],
    )


def recipe_of_toybox(job: Job, run: SharedRun) -> dict | None:
    """Rate and size of the films of a run whose clips were encoded by the toybox's codec and word
    encoder, whichever kind of store holds them; None where other parts made them."""
    if job.store.kind == "toybox":
        return {"fps": FPS, "size": (HEIGHT, WIDTH)}
    recipe = ((run.data or {}).get("recipe")) or _recipe_beside(job.store.path)
    encoder = zoo.toy_encoder()
    mine = {"codec": zoo.fingerprint(CODEC), "width": encoder.width, "words": encoder.length}
    if any(recipe.get(name) != value for name, value in mine.items()) or not str(
        recipe.get("encoder")
    ).startswith("words"):
        return None
    return {"fps": recipe["fps"], "size": tuple(recipe["size"])}


def _recipe_beside(store: str) -> dict:
    """The recipe of a store, for a run that was begun before runs noted it; {} where there is
    none."""
    path = Path(store) / "store.json"
    return read_sealed(path, "restore it") if path.is_file() else {}


def described(job: Job, config: Any, toybox: dict | None) -> dict:
    """What the result's config.json says; a toybox checkpoint (see `recipe_of_toybox`) is whole by
    it and opens with `cinelab.load`. `policy` and `max_distance` say under which memory the student saw
    its history."""
    guided = replace(WAN_GUIDED if toybox is None else Sampling(), shift=config.shift)
    sampling, chunk, span = {
        "bidirectional": lambda: (guided, 1, max(config.lengths)),
        "teacher_forcing": lambda: (guided, config.chunk, max(config.curriculum)),
        "consistency": lambda: (
            Sampling(4, "consistency", 1.0, config.shift),
            config.chunk,
            config.frames,
        ),
        "dmd": lambda: (
            config.sampling,
            config.chunk,
            (config.max_distance or max(config.lengths) - 1) + 1,
        ),
    }[job.stage]()
    about = {
        "stage": job.stage,
        "init": job.init,
        "teacher": job.teacher,
        "parts": job.layout.micro_batches,
    } | trained_under(config)
    if toybox is not None:
        return zoo.model_config(
            config.model, zoo.toy_encoder(), CODEC, sampling, chunk, span, **toybox, **about
        )
    return {
        "model": to_dict(config.model),
        "sampling": to_dict(sampling.filled()),
        "chunk": chunk,
        "span": span,
        **about,
    }


def told(row: dict) -> str:
    """A log row as a line."""
    numbers = [
        f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in row.items()
        if name != "step"
    ]
    return f"step {row['step'] + 1}: " + ", ".join(numbers)


def main(path: str) -> int:
    """Train what the file says; returns the exit code: 0 done or ended when asked to, 2 with a
    sentence."""
    parallel = None
    try:
        job = load_job(path)
        parallel = Parallel.join(job.layout)
        parallel.listen()
        for row in train(job, parallel):
            if parallel.first:
                print(told(row), flush=True)
        if parallel.first:
            print(
                "asked to stop: saved, start it again to go on"
                if parallel.stops
                else f"done: {job.export or job.run}",
                flush=True,
            )
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
        sys.exit("usage: torchrun --standalone --nproc-per-node N -m cinelab.jobs.worker RUN.yaml")
    if code := main(sys.argv[1]):
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    # All is saved and the group is left. A third of two-process trainings aborted behind this line,
    # in the destructors of
    # gloo's threads ("terminate called without an active exception"), and torchrun called them
    # failed: so none are run.
    os._exit(0)
