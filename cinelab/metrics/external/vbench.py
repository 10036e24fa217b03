"""VBench 0.1.5 on films of our own, shot by shot, from an environment of its own.

What VBench itself leaves uneven is made even here and stated in `detail`: imaging quality's values
a video are of 100, dynamic degree and human action answer yes or no, human action reads its label
from the file name, and files come in the order of the disk, so answers are matched by file name.
The 16-dimension prompt suite is in vbench_suite.py.
"""

import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cinelab.metrics.external.clip_files import FilmFile, ShotFile, lay_out
from cinelab.metrics.external.environments import VBENCH, python_of, run_worker
from cinelab.metrics.external.vbench_files import (
    DIMENSIONS,
    PROMISED,
    VERSION,
    Missing,
    cache,
    check_names,
    preflight,
    preflight_long,
    waiting_for,
)
from cinelab.metrics.rows import Row, absent, failed
from cinelab.metrics.video.clips import why_failed
from cinelab.outputs import passing_folder

__all__ = [
    "DIMENSIONS",
    "PROMISED",
    "VERSION",
    "Missing",
    "ClipRules",
    "FilmFile",
    "preflight",
    "preflight_long",
    "vbench_rows",
]
LONG_SECONDS = 5.0  # VBench's own rule: from here on VBench-Long
SAMPLED_FPS = 8  # dynamic degree looks at about so many frames a second
ACTION = "person is "
Tell = Callable[[str], None]


@dataclass(frozen=True)
class ClipRules:
    """How clips are scored: `whole` adds the film uncut as shot 0, `long` sends clips of 5 s and
    more to VBench-Long."""

    whole: bool = False
    long: bool = False
    samples: int = 1
    rewriting: str = "none"


def vbench_rows(
    videos: Sequence[FilmFile],
    dimensions: Iterable[str] = PROMISED,
    rules: ClipRules = ClipRules(),
    tell: Tell = print,
) -> list[Row]:
    """Rows of every dimension on every clip: shots 1..n where a video's spans are known, else the
    video as shot 0.

    A damaged video is one `failed` row and costs the others nothing; a dimension whose weights are
    missing, or that has no meaning for a clip, is `absent` and says why. Raises CinelabError
    without VBench's environment.
    """
    names = check_names(dimensions)
    python_of(VBENCH)
    waits = waiting_for(preflight(names)) | {
        name: "VBench scores it only on its own prompts: `cinelab eval suite`"
        for name in names
        if not DIMENSIONS[name].custom
    }
    with passing_folder("clips") as scratch:
        clips, rows = _lay_out_all(videos, scratch, rules)
        for long in (False, True):
            part = [clip for clip in clips if long == (rules.long and clip.seconds >= LONG_SECONDS)]
            blocked = waits | (_long_waits(names) if long else {})
            rows += _score(
                part,
                names,
                blocked,
                folder=scratch / ("long" if long else "short"),
                long=long,
                tell=tell,
            )
    order = {(video.run, video.clip): place for place, video in enumerate(videos)}
    return [
        replace(row, samples=rules.samples, rewriting=rules.rewriting)
        for row in sorted(rows, key=lambda row: (order[row.run, row.clip], row.shot))
    ]


def prompt_file_name(number: int, shot: int, prompt: str) -> str:
    """A file name that VBench reads the prompt from: no slash, no underscore, and `-<number>` at
    its end."""
    words = re.sub(r"[/\\_\x00-\x1f]+", " ", prompt).strip()
    words = words.encode()[:150].decode(errors="ignore")
    return f"{words or 'video'}-{number}{shot:04d}.mp4"


def even(dimension: str, value: float) -> tuple[float, str]:
    """(value of 1, what was done to it): a raw value a video as VBench writes it."""
    if dimension == "imaging_quality":
        return float(value) / 100, "of 100 in VBench's file"
    if isinstance(value, bool) or dimension in ("dynamic_degree", "human_action"):
        return float(value), "VBench answers yes (1) or no (0) a clip"
    return float(value), ""


def meaningless(dimension: str, clip: ShotFile) -> str:
    """Why the dimension has no meaning for this clip, or an empty text."""
    need = DIMENSIONS[dimension].frames
    # with fewer than three sampled frames VBench calls every clip moving
    if dimension == "dynamic_degree":
        need = 2 * max(1, round(clip.fps / SAMPLED_FPS)) + 1
    if clip.frames < need:
        return f"has {clip.frames} frames, {dimension} needs {need}: make the shot longer"
    if dimension == "human_action" and ACTION not in clip.prompt.lower():
        return "its prompt names no action in VBench's words, 'A person is <action>'"
    if dimension in ("overall_consistency", "temporal_style") and not clip.prompt:
        return "has no prompt: give one with --prompt or --prompts"
    return ""


def _lay_out_all(
    videos: Sequence[FilmFile], scratch: Path, rules: ClipRules
) -> tuple[list[ShotFile], list[Row]]:
    """Every clip as a file in scratch/short or scratch/long, and a failed row a video that cannot
    be read."""
    folder = scratch / "all"
    clips = []
    rows = []
    for part in ("all", "short", "long"):
        (scratch / part).mkdir()
    for number, video in enumerate(videos):
        try:
            clips += lay_out(
                video,
                folder,
                partial(prompt_file_name, number),
                rules.whole,
            )
        except Exception as error:
            rows.append(failed(video.clip, why_failed(video.path, error), run=video.run))
    return [_moved(clip, scratch, rules.long) for clip in clips], rows


def _moved(clip: ShotFile, scratch: Path, long: bool) -> ShotFile:
    place = (
        scratch / ("long" if long and clip.seconds >= LONG_SECONDS else "short") / clip.file.name
    )
    return replace(clip, file=clip.file.rename(place))


def _long_waits(names: Sequence[str]) -> dict[str, str]:
    """VBench-Long's two consistencies import dreamsim; the others do without."""
    lacks = preflight_long()
    rest = [one for one in lacks if one.path.name != "dreamsim"]
    kept = {
        name: lacks if name in ("subject_consistency", "background_consistency") else rest
        for name in names
    }
    return {name: "; ".join(map(str, found)) for name, found in kept.items() if found}


def _score(
    clips: list[ShotFile],
    names: Sequence[str],
    waits: dict[str, str],
    *,
    folder: Path,
    long: bool,
    tell: Tell,
) -> list[Row]:
    """Rows of all clips in one folder. What cannot run is never sent to the worker, which would go
    and fetch files."""
    why = {
        (name, clip): waits.get(name) or meaningless(name, clip) for name in names for clip in clips
    }
    wanted = {name: [clip.file.name for clip in clips if not why[name, clip]] for name in names}
    wanted = {name: files for name, files in wanted.items() if files}
    prompts = {clip.file.name: clip.prompt for clip in clips}
    answer = (
        ask("long_custom_input" if long else "custom_input", folder, wanted, prompts, tell)
        if wanted
        else {}
    )
    backend = "vbench-long" if long else "vbench"
    return [
        absent(metric=name, why=why[name, clip], backend=backend, version=VERSION, **clip.columns)
        if why[name, clip]
        else _row(clip, name, answer, backend)
        for clip in clips
        for name in names
    ]


def ask(
    mode: str,
    folder: Path,
    wanted: dict[str, list[str]],
    prompts: dict[str, str],
    tell: Tell = print,
) -> dict:
    """VBench's answer on the files of `folder` that every dimension wants; see
    workers/vbench_worker.py."""
    with passing_folder("vbench") as scratch:
        job = {
            "mode": mode,
            "videos": str(folder),
            "dimensions": wanted,
            "prompts": prompts,
            "cache": str(cache()),
            "scratch": str(scratch),
            "long_home": os.environ.get("VBENCH_LONG_HOME", ""),
        }
        return run_worker(VBENCH, job, tell)


def _row(clip: ShotFile, name: str, answer: dict, backend: str) -> Row:
    """The row of what VBench measured of one clip; a dimension that failed there, or gave nothing
    for it, is absent."""
    version = answer["versions"]["vbench"]
    values = answer["results"].get(name, {"videos": {}})["videos"]
    if name in answer["errors"] or not _finite(values.get(clip.file.name)):
        error = answer["errors"].get(name)
        why = f"VBench failed: {error}" if error else "VBench gave no number for this clip"
        return absent(metric=name, why=why, backend=backend, version=version, **clip.columns)
    value, made = even(name, values[clip.file.name])
    notes = [made, *_notes(clip, backend), measured_with(answer)]
    return Row(
        metric=name,
        value=value,
        backend=backend,
        version=version,
        detail="; ".join(filter(None, notes)),
        **clip.columns,
    )


def _notes(clip: ShotFile, backend: str) -> list[str]:
    cut = f"cut out without loss, {clip.frames} frames" if clip.cut_out else ""
    late = "5 s or longer: VBench asks for VBench-Long" if clip.seconds >= LONG_SECONDS else ""
    return [cut, "pieces of 2 s, only within pieces" if backend == "vbench-long" else late]


def measured_with(answer: dict) -> str:
    """What a number has to be read beside: versions and device."""
    versions = answer["versions"]
    return f"torch {versions['torch']}, transformers {versions['transformers']}, {answer['device']}"


def _finite(value) -> bool:
    return value is not None and math.isfinite(value)
