"""One process of a training: `torchrun --standalone --nproc-per-node 8 -m cinelab.jobs.worker
run.yaml`.

Trains the stage through the one loop, resumes when started again on any number of processes, saves
and ends on SIGTERM, and exports at the end. Without torchrun, `python -m
cinelab.jobs.worker run.yaml` is one process.
"""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from cinelab.checksums import read_sealed, write_checksums
from cinelab.config import to_dict
from cinelab.errors import CinelabError
from cinelab.files import write_atomic, write_json
from cinelab.flow.sampler import Sampling
from cinelab.jobs.job import RANDOM, Job, load_job
from cinelab.jobs.networks import check_start, network, place_of, weights_of
from cinelab.jobs.stores import check_worlds, open_pairs, open_store, pairs_folder, pairs_of
from cinelab.model.backbone import model_to_dict
from cinelab.outputs import together
from cinelab.registry import resolve
from cinelab.scale.adapters import Lora, fingerprints_of, save_lora
from cinelab.scale.checkpoints import SharedRun, export, weights_in
from cinelab.scale.parallel import Parallel
from cinelab.train.stage import PAIRS, stage_named
from cinelab.train.time_limit import TimeLimit
from cinelab.weights.load import DTYPES, open_weights
from cinelab.world.worlds import WORLD, WORLDS, World, named_in, world_named
from cinelab.zoo import checkpoints as zoo


def train(job: Job, parallel: Parallel, limit: TimeLimit | None = None) -> Iterator[dict]:
    """Yield one log row per step; resumes. Every process yields the same rows. The `limit` is of
    this sitting; None: the job's minutes from now on."""
    stage = stage_named(job.stage)
    config = job.config
    stage.check(config, processes=parallel.world)
    run = SharedRun(job.run, config, parallel, job_entries(job) | {"lora": lora_of(job)})
    run.time_limit = limit or TimeLimit(job.minutes)
    if not run.done:
        for place in (job.init, job.teacher):
            if place not in (None, RANDOM):
                check_start(place, config.model)
        data = open_data(job, config, parallel, limit=run.time_limit)
        if stage.draws_from != PAIRS:
            # the stage does so again, when the networks are there: large ones take a while
            stage.note_data(run, data, config)
        networks = {
            role.name: network(
                job, config, parallel, getattr(job, role.start), frozen=not role.trained
            )
            for role in stage.roles
        }
        yield from stage.train(config, data, networks, run=run, **rewarded(job, config, run))
    else:
        check_data(job, config, run)
    if run.ended and job.export is not None:
        parallel.once(lambda: deliver(job, config, run))


# what computes rewards is of a later room, and is found as a store or stage of one's own is
CLIP_REWARDS = "cinelab.metrics.toybox.clip_rewards:ClipRewards"


def rewarded(job: Job, config: Any, run: SharedRun) -> dict[str, Any]:
    """Return what a stage is given to compute the rewards that its settings name: nothing where
    they name none. CinelabError where the clips are not of the toybox."""
    weights = getattr(config, "reward", None)
    if weights is None:
        return {}
    if (toybox := recipe_of_toybox(job, run)) is None:
        raise CinelabError(
            f"reward is set, but {job.store.path} holds no films of the toybox, whose prompts "
            "say what a clip is to show; name a store of the toybox, or leave reward out."
        )
    world = world_named(toybox[WORLD])
    codec = zoo.load_codec(world.codec, run.device)
    parts = (codec, zoo.toy_encoder(world=world), list(weights))
    return {"reward": resolve(CLIP_REWARDS)(*parts, world=world, device=run.device)}


def job_entries(job: Job) -> dict[str, Any]:
    """Return what a run and its result state of their job, beside the stage's settings. The number
    of micro-batches is called as in runs of the first release."""
    return {
        "stage": job.stage,
        "init": job.init,
        "teacher": job.teacher,
        "parts": job.layout.micro_batches,
    }


def lora_of(job: Job) -> dict | None:
    """Return the settings of a job's adapters, or None."""
    return to_dict(job.lora) if job.lora else None


def open_data(job: Job, config: Any, parallel: Parallel, *, limit: TimeLimit) -> Any:
    """Return what the stage of a job draws from: its store, or the ODE pairs made of it within the
    time."""
    store = open_store(job.store, config, parallel.device)
    check_worlds(job, store)
    if stage_named(job.stage).draws_from != PAIRS:
        return store
    teacher = partial(network, job, config, parallel, job.teacher, frozen=True)
    return pairs_of(job, config, store, teacher=teacher, time_is_up=limit.is_up)


def check_data(job: Job, config: Any, run: SharedRun) -> None:
    """Raise CinelabError where the data of a finished run are of another content by now. Data that
    have gone since are not missed."""
    if run.data is None or not Path(job.store.path).is_dir():
        return
    store = open_store(job.store, config)
    if stage_named(job.stage).draws_from != PAIRS:
        run.trains_on(store.about())
    elif pairs_folder(job).is_dir():
        run.trains_on(open_pairs(job, config, store).about())


def deliver(job: Job, config: Any, run: SharedRun) -> None:
    """Write the averaged weights, or the adapters, and what they are, all or nothing. Of adapters
    for the toybox also the whole weights with them merged, so that the folder can be directed as
    any other."""
    toybox = recipe_of_toybox(job, run)
    with together(job.export or job.run, zoo.CONFIG) as folder:
        if job.lora is None:
            export(run.folder, folder / zoo.WEIGHTS, dtype=job.export_dtype or "bf16")
        else:
            file = deliver_lora(job, job.lora, run, file=folder / zoo.ADAPTER)
            if toybox is not None and job.init not in (None, RANDOM):
                deliver_merged(job, file, folder / zoo.WEIGHTS)
        entries = {"run": run.done_info, "training": to_dict(config)}
        write_json(folder / zoo.CONFIG, result_entries(job, config, toybox) | entries)
        write_checksums(folder, sorted(path.name for path in folder.iterdir()))


# of a many-step model of Wan, as the papers integrate their teachers
WAN_GUIDED = Sampling(48, "euler", 3.0, 5.0)


def deliver_lora(job: Job, lora: Lora, run: SharedRun, *, file: Path) -> Path:
    """Write the averaged adapters with the fingerprints of their base."""
    base = (RANDOM, "")
    if job.init is not None and job.init != RANDOM:
        base = fingerprints_of(weights_of(job.init, job.config.model))
    dtype = DTYPES[job.export_dtype or "fp32"]
    return save_lora(file, dict(weights_in(run.folder)), lora, *base, dtype)


def deliver_merged(job: Job, lora: Path, file: Path) -> None:
    """Write the weights that the adapters in a file were trained on, with these merged."""
    merged = open_weights(place_of(job.init or RANDOM), dtype=job.export_dtype, lora=lora)
    state = {name: value.contiguous() for name, value in merged}
    write_atomic(file, lambda path: save_file(state, path))


def recipe_of_toybox(job: Job, run: SharedRun) -> dict | None:
    """Rate and size of the films of a run, and their world, whose clips were encoded by the codec
    and word encoder of a made world, whichever kind of store holds them; None where other parts
    made them."""
    recipe = ((run.data or {}).get("recipe")) or _recipe_beside(job.store.path)
    if job.store.kind == "toybox":
        world = world_named(named_in(recipe))
        return {"fps": world.fps, "size": world.size, WORLD: world.name}
    for world in map(world_named, WORLDS):
        if _encoded_by(world, recipe):
            return {"fps": recipe["fps"], "size": tuple(recipe["size"]), WORLD: world.name}
    return None


def _encoded_by(world: World, recipe: dict) -> bool:
    """Whether a recipe names the codec and word encoder of a made world."""
    if world.codec not in zoo.shipped() or not str(recipe.get("encoder")).startswith("words"):
        return False
    encoder = zoo.toy_encoder(world=world)
    mine = {
        "codec": zoo.fingerprint(world.codec),
        "width": encoder.width,
        "words": encoder.length,
    }
    return all(recipe.get(name) == value for name, value in mine.items())


def _recipe_beside(store: str) -> dict:
    """The recipe of a store, for a run that was begun before runs noted it; {} where there is
    none."""
    path = Path(store) / "store.json"
    return read_sealed(path, "restore it") if path.is_file() else {}


def result_entries(job: Job, config: Any, toybox: dict | None) -> dict:
    """Return what the result's config.json says. A toybox checkpoint (see `recipe_of_toybox`) is
    whole by it and opens with `cinelab.load`. `policy` and `max_distance` say under which memory
    the student saw its history."""
    stage = stage_named(job.stage)
    sampling = stage.sampling(config, WAN_GUIDED if toybox is None else Sampling())
    chunk = stage.chunk(config)
    span = stage.span(config)
    entries = job_entries(job) | stage.trained_under(config)
    if toybox is not None:
        world = world_named(toybox[WORLD])
        encoder = zoo.toy_encoder(world=world)
        return zoo.model_config(
            config.model, encoder, world.codec, sampling, chunk, span, **toybox, **entries
        )
    return {
        "model": model_to_dict(config.model),
        "sampling": to_dict(sampling.filled()),
        "chunk": chunk,
        "span": span,
        **entries,
    }


def as_line(row: dict) -> str:
    """Return a log row as a line."""
    numbers = [
        f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in row.items()
        if name != "step"
    ]
    return f"step {row['step'] + 1}: " + ", ".join(numbers)


def outcome_line(job: Job, steps: int, *, stopped: bool) -> str:
    """Return how a sitting ended that stands at so many steps, as a line."""
    if stopped:
        return "stopped: saved, start it again to go on"
    if steps < job.config.steps:
        where = f"after {steps} of {job.config.steps} steps: {job.export or job.run}"
        return f"time is up {where}; start it again to go on"
    return f"done: {job.export or job.run}"


def main(path: str, minutes: float | None = None) -> int:
    """Train what the file says, for so many minutes (None: what it says); returns the exit code: 0
    done or stopped by a signal or the time, 2 with a sentence."""
    parallel = None
    try:
        job = load_job(path)
        limit = TimeLimit(job.minutes if minutes is None else minutes)
        parallel = Parallel.join(job.layout)
        parallel.listen()
        steps = job.config.steps
        for row in train(job, parallel, limit):
            steps = row["step"] + 1
            if parallel.first:
                print(as_line(row), flush=True)
        if parallel.first:
            print(outcome_line(job, steps, stopped=bool(parallel.stops)), flush=True)
        return 0
    except CinelabError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"cinelab: {error}", file=sys.stderr, flush=True)
        return 2
    finally:
        if parallel is not None:
            parallel.leave()


def arguments(given: list[str]) -> Namespace:
    """Return the command's arguments: the file, and the minutes of this sitting."""
    parser = ArgumentParser(
        prog="torchrun --standalone --nproc-per-node N -m cinelab.jobs.worker",
        description="Train what RUN.yaml says; started again, it goes on.",
    )
    parser.add_argument("run", metavar="RUN.yaml")
    parser.add_argument("--minutes", type=float, help="end, saved and exported, when they are up")
    return parser.parse_args(given)


if __name__ == "__main__":
    asked = arguments(sys.argv[1:])
    if code := main(asked.run, asked.minutes):
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    # All is saved and the group is left. A third of two-process trainings aborted behind this line,
    # in the destructors of
    # gloo's threads ("terminate called without an active exception"), and torchrun called them
    # failed: so none are run.
    os._exit(0)
