"""What the `changes` of the notebooks at Wan's size may hold, sorted by who takes it.

    50_wan_film    `film_arguments`: the film's settings, and the folder's (`WanSettings`)
    51_train_wan   `training_arguments`: the run's settings; the others are its stage's, dotted
    53_bench_wan   `bench_arguments`: the benchmark's settings

Every refusal is one sentence with the names that are known.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from cinelab.config import override
from cinelab.errors import CinelabError

FILM = ("budget", "steps", "first", "overlap", "fused")
BENCH = (
    "history",
    "budget",
    "repeats",
    "layers",
    "speed",
    "kernel",
    "linears",
    "compiled",
    "place",
    "packing",
    "decoder",
)


@dataclass(frozen=True)
class LaunchSettings:
    """How a training is run, beside its stage's own settings."""

    processes: int = 2  # one a GPU
    micro_batches: int = 2  # of a step, shared out among the processes
    sequence: int = 1  # processes that share one clip
    activation_checkpointing: bool = True  # recompute a block's activations in the backward pass
    store_kind: str = "toybox"  # films, toybox, or noise
    teacher: str | None = None  # of consistency; of dmd: the real score
    lora_rank: int | None = None  # train adapters of this rank only; None trains everything
    dtype: str | None = None  # of the exported weights; None: bf16, of adapters fp32


@dataclass(frozen=True)
class LaunchArguments:
    """The number of processes, and the keyword arguments of `launch.job`."""

    processes: int
    job: dict[str, Any]


def film_arguments(changes: dict[str, Any]) -> tuple[dict, dict]:
    """Return the arguments of `make_film` and of `open_model`. Raises CinelabError for others."""
    from cinelab.zoo.wan import WanSettings

    folder = [field.name for field in fields(WanSettings) if field.name != "weights"]
    check_known_changes(changes, (*FILM, *folder))
    return split_changes(changes, FILM)


def training_arguments(changes: dict[str, Any], store: str) -> LaunchArguments:
    """Sort the settings of a run on the clips in `store` from those of its stage, which `job`
    passes on as its `changes`."""
    names = [field.name for field in fields(LaunchSettings)]
    own, stage = split_changes(changes, names)
    run = override(LaunchSettings(), own)
    layout = {
        "micro_batches": run.micro_batches,
        "sequence": run.sequence,
        "activation_checkpointing": run.activation_checkpointing,
    }
    job = {
        "store": {"kind": run.store_kind, "path": store},
        "teacher": run.teacher,
        "lora_rank": run.lora_rank,
        "export_dtype": run.dtype,
        "layout": layout,
        "changes": stage,
    }
    return LaunchArguments(run.processes, job)


def bench_arguments(changes: dict[str, Any]) -> tuple[dict, bool]:
    """Return the arguments of `wan_bench.bench`, and whether every option is measured too."""
    check_known_changes(changes, (*BENCH, "options"))
    settings, others = split_changes(changes, BENCH)
    return settings, bool(others.get("options", False))


def check_known_changes(changes: dict[str, Any], known: Iterable[str]) -> None:
    """Refuse the first entry whose name is none of the known ones, and name the nearest."""
    names = list(known)
    for key in changes:
        if key not in names:
            near = get_close_matches(key, names, n=3) or names
            raise CinelabError(f"changes has no entry {key!r}; use some of {', '.join(near)}.")


def split_changes(changes: dict[str, Any], names: Iterable[str]) -> tuple[dict, dict]:
    """Return the entries with these names, and the others."""
    known = set(names)
    own = {key: value for key, value in changes.items() if key in known}
    return own, {key: value for key, value in changes.items() if key not in known}
