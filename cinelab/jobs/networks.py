"""The networks of a job: built, sharded and filled from a checkpoint, from published weights, or
from scratch."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cinelab.config import to_dict
from cinelab.errors import CinelabError
from cinelab.jobs.job import RANDOM, Job
from cinelab.latent.checkpoint import read_weights
from cinelab.model.backbone import build_backbone, initialised, is_wan_config
from cinelab.model.wan import parameter_dtype
from cinelab.scale.adapters import add_lora, fingerprint_of, initial_adapters
from cinelab.scale.checkpoints import load_tensors
from cinelab.scale.parallel import Parallel
from cinelab.weights.load import open_weights
from cinelab.zoo import checkpoints as zoo


def network(
    job: Job, config: Any, parallel: Parallel, place: str | None, *, frozen: bool = False
) -> Any:
    """Return a network of the job, sharded and filled: no process ever holds all of it. What is
    frozen is stored in bf16 on GPUs."""
    with torch.device("meta"):
        model = build_backbone(config.model).train(not frozen).requires_grad_(not frozen)
        if job.lora is not None and not frozen:
            add_lora(model, job.lora)
    for name, weight in model.named_parameters():
        if not weight.requires_grad and config.bf16 and parallel.device != "cpu":
            weight.data = weight.data.to(parameter_dtype(name, torch.bfloat16))
    model = parallel.shard(model, bf16=config.bf16).to_empty(device=parallel.device)
    if place == RANDOM:
        return scatter(model, job.seed + parallel.rank)
    load_tensors(
        model,
        fresh(config.model, job.seed) if place is None else weights_of(place, config.model),
        place or "made here",
    )
    return load_tensors(
        model, initial_adapters(model.state_dict(), job.seed), "adapters", partly=True
    )


@torch.no_grad()
def scatter(model: nn.Module, seed: int) -> nn.Module:
    """Random weights, each process its own shards of them: to rehearse memory and time, not to
    train."""
    torch.manual_seed(seed)
    for weight in model.parameters():
        weight.normal_(0, 0.02)
    return model


def weights_of(place: str, model: Any = None) -> Iterator[tuple[str, Tensor]]:
    """Yield name and full tensor of every weight, one after another: of a checkpoint's name, or of
    a folder or file in any published layout (see `cinelab.weights.load`). Those of a backbone of
    one's own (settings `model`) are a checkpoint of cinelab's."""
    if model is not None and not is_wan_config(model):
        yield from read_weights(zoo.find(place) / zoo.WEIGHTS).items()
        return
    weights = open_weights(place_of(place))
    weights.report().demand()
    yield from weights


def check_start(place: str, model: Any) -> None:
    """Raise CinelabError where the model of a job does not take these weights, by names and shapes,
    before anything is built or read."""
    if not is_wan_config(model):
        zoo.find(place)  # its own shapes are compared when it is filled
        return
    weights = open_weights(place_of(place))
    report = replace(weights, config=model).report()
    theirs = weights.source.stated | {"num_layers": report.layers}
    settings = to_dict(model)
    odd = next(
        (name for name in settings if theirs.get(name, settings[name]) != settings[name]), ""
    )
    if odd:
        raise CinelabError(
            f"Weights {place} do not fit the model: they have {odd} {theirs[odd]!r}, the model "
            f"{getattr(model, odd)!r}; name the preset that fits them, or set changes: "
            f"{{model.{odd}: {theirs[odd]!r}}}."
        )
    if report.whole:
        return
    if report.wrong:
        name, found, expected = report.wrong[0]
        first = f"{name} is {found}, expected {expected}"
    else:
        first = str((report.missing or report.unexpected)[0])
    raise CinelabError(
        f"Weights {place} do not fit the model: {len(report.missing)} tensors missing, "
        f"{len(report.unexpected)} unknown, {len(report.wrong)} of another shape (first: {first}); "
        "name the preset that fits them."
    )


def place_of(place: str | Path) -> Path:
    """Return where the weights lie that a job names: a path, or a shipped checkpoint's folder."""
    return Path(place) if Path(place).exists() else zoo.find(place)


def fresh(model: Any, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Yield weights to train from scratch, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield from initialised(model).state_dict().items()


def fingerprint_at(place: str | None) -> str:
    """Return a fingerprint of the weights that a job names: a checkpoint's own, as notebooks have
    it, else one of all numbers."""
    if place in (None, RANDOM):
        return str(place)
    folder = place_of(place)
    if (folder / zoo.CONFIG).exists() and (folder / zoo.WEIGHTS).exists():
        return zoo.fingerprint(folder)
    return fingerprint_of(weights_of(place))
