"""What is evaluated: any video with, where there is one, the list of the shots that were planned.

A clip comes from a video file, a folder of them, or the folder of a run (film.mp4 with film.shots.json). Without a shot
list the cuts that are seen make the shots, and what needs a plan is reported as absent.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from cinelab.errors import CinelabError
from cinelab.score.cuts import CutDetector, detect_cuts, frame_difference
from cinelab.script.screenplay import Screenplay
from cinelab.script.shotlist import SUFFIX, ListedShot, ShotList, beside
from cinelab.stream.video import read_video
from cinelab.world.vocab import known_words, read, words

VIDEOS = (".mp4", ".webm", ".mkv", ".mov", ".avi", ".gif")
TIMINGS = "timings.parquet"


@dataclass(frozen=True)
class Clip:
    """A video to measure. frames uint8 (F, H, W, 3); `planned` None = no shot list was given."""

    name: str
    frames: np.ndarray
    fps: float
    planned: ShotList | None = None
    run: str = ""
    timings: pd.DataFrame | None = None  # seconds a chunk, where a run recorded them

    @property
    def shots(self) -> tuple[ListedShot, ...]:
        """The planned shots, or those between the cuts that are seen."""
        if self.planned:
            return self.planned.shots
        edges = [0, *self.seen_cuts, len(self.frames)]
        return tuple(ListedShot(a, b) for a, b in zip(edges, edges[1:], strict=False))

    @cached_property
    def seen_cuts(self) -> list[int]:
        """First frame of every shot that is seen to begin."""
        return detect_cuts(self.frames, CutDetector.at(self.fps)) if len(self.frames) > 1 else []

    @cached_property
    def steps(self) -> np.ndarray:
        """Mean absolute change of a pixel from each frame to the next, (F - 1,) in 0..1."""
        return frame_difference(self.frames)

    def of(self, shot: ListedShot) -> np.ndarray:
        return self.frames[shot.start : shot.end]


def find_videos(paths: Sequence[str | Path]) -> list[Path]:
    """Every video that `paths` name: files, and folders at any depth. Raises CinelabError."""
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise CinelabError(f"{path}: no such file or folder; check the path.")
        videos = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix.lower() in VIDEOS)
        if not videos:
            raise CinelabError(f"{path}: holds no video ({', '.join(VIDEOS)}); name a folder that does.")
        found += videos
    return list(dict.fromkeys(found))


def load_clip(video: Path, plan: Path | None = None) -> Clip:
    """Read a video and the shot list beside it (or `plan`: a shot list, or a screenplay in seconds)."""
    frames, fps = read_video(video)
    if not fps > 0:
        raise CinelabError(f"{video}: does not say its frame rate; write it again with one.")
    where = plan or (beside(video) if beside(video).exists() else None)
    planned = read_plan(where, fps, len(frames)) if where else None
    if planned and planned.frames != len(frames):
        raise CinelabError(f"{video}: has {len(frames)} frames, but its shots in {where} end at {planned.frames}; "
                           "correct the list or make the video again.")
    timings = video.parent / TIMINGS
    times = pd.read_parquet(timings) if video.stem == "film" and timings.exists() else None
    return Clip(label_of(video), frames, fps, planned and with_cast(planned), str(video.parent), times)


def label_of(video: Path) -> str:
    """What a clip is called: our own films, which are all `film.mp4`, by their folder."""
    return video.parent.name if video.stem == "film" else video.stem


def read_plan(path: Path, fps: float, frames: int) -> ShotList:
    """A shot list, or a screenplay whose seconds become frames (the last shot takes up the rounding)."""
    if path.name.endswith(SUFFIX) or path.suffix == ".json":
        return ShotList.load(path)
    play = Screenplay.load(path)
    ends = np.cumsum([shot.seconds for shot in play.shots]) * fps
    if abs(ends[-1] - frames) > max(2.0, 0.5 * fps):
        raise CinelabError(f"{path}: plans {ends[-1] / fps:.2f} s, the video lasts {frames / fps:.2f} s; give the right screenplay.")
    edges = [0, *(int(round(end)) for end in ends[:-1]), frames]
    return ShotList(tuple(ListedShot(a, b, shot.prompt, cut=shot.cut == "cut")
                          for a, b, shot in zip(edges, edges[1:], play.shots, strict=False)))


def with_cast(planned: ShotList) -> ShotList:
    """Shots that name nobody, in the words of the toybox: their kind and colour is who, their setting is where."""
    return replace(planned, shots=tuple(_cast(shot) for shot in planned.shots))


def _cast(shot: ListedShot) -> ListedShot:
    if shot.characters or shot.places or not speaks_toybox(shot.prompt):
        return shot
    named = read(shot.prompt)
    who = (f"{named['colour']} {named['kind']}",) if {"colour", "kind"} <= named.keys() else ()
    return replace(shot, characters=who, places=(named["setting"],) if "setting" in named else ())


def speaks_toybox(prompt: str) -> bool:
    """Whether every word is one of the toybox's."""
    return bool(prompt) and _known().issuperset(words(prompt))


@cache
def _known() -> frozenset[str]:
    return frozenset(known_words())


def returns(shots: Sequence[ListedShot], what: str) -> Iterator[tuple[int, int, str]]:
    """(shot, first shot, name) for every character or place (`what`) that comes back after a cut."""
    first: dict[str, int] = {}
    for number, shot in enumerate(shots):
        for name in getattr(shot, what):
            begin = first.setdefault(name, number)
            if begin != number and shot.cut:
                yield number, begin, name


def strangers(shots: Sequence[ListedShot], what: str) -> Iterator[tuple[int, int]]:
    """Pairs of shots that both name somebody and share nobody: what chance resemblance is measured on."""
    for late in range(len(shots)):
        for early in range(late):
            one, other = set(getattr(shots[late], what)), set(getattr(shots[early], what))
            if one and other and not one & other:
                yield late, early
