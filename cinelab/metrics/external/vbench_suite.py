"""VBench's own prompt suite: which films it asks for, which of them are missing, and what all of
them score.

A film of prompt P and sample i (0 to 4) is the file `P-i.mp4`; scores of an incomplete folder mean
nothing and are refused. The total is a weighted mean of what each dimension makes of its published
range.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cinelab.errors import CinelabError
from cinelab.metrics.external.environments import VBENCH, packages, python_of
from cinelab.metrics.external.vbench import ask, measured_with
from cinelab.metrics.external.vbench_files import (
    DIMENSIONS,
    VERSION,
    check_names,
    preflight,
    waiting_for,
)
from cinelab.metrics.rows import Row, absent
from cinelab.stream.decoded_video import DecodedVideo
from cinelab.stream.video import write_mp4
from cinelab.texts import RECORD, read_json

SAMPLES = 5
CLIP = "VBench suite"
QUALITY_SHARE = 4  # the quality score counts four times the semantic one
# (prompt, seed) -> frames uint8 (F, H, W, 3), frames per second
Make = Callable[[str, int], tuple[np.ndarray, float]]


@dataclass(frozen=True)
class SuiteFilm:
    """One film the suite asks for. `seed` is made of prompt and sample, the same everywhere."""

    prompt: str
    sample: int
    dimensions: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.prompt}-{self.sample}.mp4"

    @property
    def seed(self) -> int:
        return (
            int.from_bytes(hashlib.blake2b(self.name.encode(), digest_size=4).digest(), "big") >> 1
        )


def suite(dimensions: Iterable[str] = tuple(DIMENSIONS)) -> list[SuiteFilm]:
    """Every film that these dimensions ask for, in the order of VBench's list. Needs VBench's
    environment."""
    python_of(VBENCH)
    listing = packages(VBENCH) / "vbench" / "VBench_full_info.json"
    again = replace(
        RECORD, remedy=f"remove {listing.parents[4]} and run `cinelab eval setup vbench`"
    )
    entries = read_json(listing, replace(again, absent=again.remedy))
    wanted_by: dict[str, list[str]] = {}
    for entry in entries:  # some prompts stand there twice, for other dimensions
        wanted_by.setdefault(entry["prompt_en"], []).extend(entry["dimension"])
    wanted = set(check_names(dimensions))
    return [
        SuiteFilm(prompt, sample, tuple(names))
        for prompt, names in wanted_by.items()
        if wanted & set(names)
        for sample in range(SAMPLES)
    ]


def missing_of_suite(
    folder: Path, dimensions: Iterable[str] = tuple(DIMENSIONS)
) -> list[SuiteFilm]:
    """The films that are not in `folder`, or are empty files there."""
    folder = Path(folder)
    sizes = (
        {entry.name: entry.stat().st_size for entry in os.scandir(folder)}
        if folder.is_dir()
        else {}
    )
    return [job for job in suite(dimensions) if not sizes.get(job.name)]


def make_suite(
    folder: Path,
    make: Make,
    dimensions: Iterable[str] = tuple(DIMENSIONS),
    tell: Callable[[str], None] = print,
) -> int:
    """Make every film that is missing, each written whole or not at all; the same call goes on
    later. Returns how many."""
    lacking = missing_of_suite(folder, dimensions)
    for number, job in enumerate(lacking, 1):
        frames, fps = make(job.prompt, job.seed)
        write_mp4(Path(folder) / job.name, frames, fps, scale=1)
        tell(f"{number} of {len(lacking)}: {job.name}")
    return len(lacking)


def suite_rows(
    folder: Path,
    dimensions: Iterable[str] = tuple(DIMENSIONS),
    rewriting: str = "none",
    run: str = "",
    tell: Callable[[str], None] = print,
) -> list[Row]:
    """One row a dimension, then the quality, semantic and total score. An incomplete folder raises
    CinelabError."""
    names = check_names(dimensions)
    folder = Path(folder)
    _refuse_incomplete(folder, names)
    waits = waiting_for(preflight(names))
    jobs = suite(names)
    wanted = {
        name: [job.name for job in jobs if name in job.dimensions]
        for name in names
        if name not in waits
    }
    more = {
        "run": run or folder.name,
        "fps": _rate(folder, jobs),
        "samples": SAMPLES,
        "rewriting": rewriting,
    }
    answer = (
        ask("vbench_standard", folder, wanted, {}, tell)
        if wanted
        else {"results": {}, "errors": {}}
    )
    rows = [_row(name, waits, answer, more) for name in names]
    return rows + total_rows({row.metric: row.value for row in rows if row.status == "ok"}, more)


def total(values: dict[str, float]) -> dict[str, float]:
    """{"quality score", "semantic score", "total score"} of all 16 dimensions' averages, each
    mapped to its range first."""
    parts = {}
    for quality, name in ((True, "quality score"), (False, "semantic score")):
        group = {key: one for key, one in DIMENSIONS.items() if one.quality == quality}
        scaled = sum(
            one.weight * (values[key] - one.low) / (one.high - one.low)
            for key, one in group.items()
        )
        parts[name] = scaled / sum(one.weight for one in group.values())
    share = (QUALITY_SHARE * parts["quality score"] + parts["semantic score"]) / (QUALITY_SHARE + 1)
    return parts | {"total score": share}


def total_rows(values: dict[str, float], more: dict) -> list[Row]:
    """The three scores, or why there are none: a total of fewer than 16 dimensions would pass for
    another number."""
    lacking = [name for name in DIMENSIONS if name not in values]
    common = {"clip": CLIP, "backend": "vbench", "version": VERSION, **more}
    if lacking:
        why = f"needs all 16 dimensions; without a value: {', '.join(lacking)}"
        return [
            absent(metric=name, why=why, **common)
            for name in ("quality score", "semantic score", "total score")
        ]
    return [
        Row(
            shot=0,
            metric=name,
            value=value,
            detail="of 16 dimensions, each mapped to its published range",
            **common,
        )
        for name, value in total(values).items()
    ]


def _row(name: str, waits: dict[str, str], answer: dict, more: dict) -> Row:
    common = {"clip": CLIP, "metric": name, "backend": "vbench", "version": VERSION, **more}
    if why := waits.get(name) or answer["errors"].get(name):
        return absent(why=why if name in waits else f"VBench failed: {why}", **common)
    found = answer["results"][name]
    detail = f"average of {len(found['videos'])} films; {measured_with(answer)}"
    if name == "temporal_flickering":  # the leaderboard keeps only films that stand still
        detail += "; moving films are not filtered out"
    return Row(shot=0, value=float(found["average"]), detail=detail, **common)


def _refuse_incomplete(folder: Path, names: Sequence[str]) -> None:
    lacking = missing_of_suite(folder, names)
    if lacking:
        first = ", ".join(repr(job.name) for job in lacking[:3])
        raise CinelabError(
            f"{folder}: {len(lacking)} of {len(suite(names))} films of the suite are missing, "
            f"first {first}; "
            "make them all before scoring."
        )


def _rate(folder: Path, jobs: Sequence[SuiteFilm]) -> float:
    """The films' common frame rate, or NaN where they differ. A file that cannot be read to its
    end, and one that VBench would show in another way than it is meant, raise CinelabError."""
    rates = set()
    for job in jobs:
        film = DecodedVideo(folder / job.name, keep=0)
        if film.changes:
            raise CinelabError(
                f"{film.path}: {film.changes[0]}, which VBench does not see; write it plainly."
            )
        rates.add(film.fps)
    return rates.pop() if len(rates) == 1 else float("nan")
