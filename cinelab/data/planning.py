"""The films that a group of videos will make, planned before any is encoded, and the state of each
video at that time."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cinelab.checksums import checksum, checksum_of
from cinelab.data import layout
from cinelab.data.cutting import find_shots
from cinelab.data.layout import ShotClip, VideoShot
from cinelab.data.listing import FilmSource
from cinelab.data.settings import DataConfig
from cinelab.metrics.video.clips import why_failed


@dataclass(frozen=True)
class FilmLayout:
    """A film before it is encoded: its clips in order."""

    source: FilmSource
    number: int  # of the films of its source
    clips: tuple[ShotClip, ...]
    videos: tuple[dict, ...]  # path, bytes, mtime_ns, blake2b of each video

    @property
    def latents(self) -> int:
        return sum(clip.latents for clip in self.clips)

    def about(self, fps: float) -> dict:
        """Return the description of the film in the store's index."""
        shots = [
            {
                "video": self.source.videos[clip.video].path,
                "start": round(clip.first / fps, 4),
                "end": round((clip.first + clip.frames) / fps, 4),
                "prompts": [list(prompt) for prompt in clip.prompts],
            }
            for clip in self.clips
        ]
        return {
            "source": self.source.name,
            "number": self.number,
            "latents": self.latents,
            "shots": shots,
            "videos": [
                {key: video[key] for key in ("path", "bytes", "blake2b")} for video in self.videos
            ],
        }


def plan_films(
    root: Path, group: Iterable[FilmSource], config: DataConfig, stride: int, left: list[dict]
) -> tuple[list[dict], list[FilmLayout]]:
    """Return the state of each source, and its films. What cannot be used is added to `left`: film,
    video, why."""
    states = []
    films = []
    for source in group:
        found: list[VideoShot] = []
        videos = tuple(_stamp(root, video.path) for video in source.videos)
        states.append({"name": source.name, "said": stated_digest(source), "videos": list(videos)})
        if not source.videos:
            left.append(
                {
                    "film": source.name,
                    "video": "",
                    "left_out": "video",
                    "failed": False,
                    "why": f"{source.name}: is no longer listed, and "
                    "another video of its group has changed; list it again to have its films back.",
                }
            )
        for i, video in enumerate(source.videos):
            row = {"film": source.name, "video": video.path}
            try:
                shots, warning = find_shots(video, i, root / video.path, config)
                found += shots
                left += [row | {"left_out": "shots", "why": warning}] if warning else []
            except Exception as error:  # of a library, or memory: it costs this video only
                left.append(
                    row | {"left_out": "video", "why": why_failed(root / video.path, error)}
                )
        least = max(config.shortest, config.chunk)
        own, short = layout.films(
            found,
            stride,
            config.chunk,
            shortest=least,
            longest=config.longest,
            fill=config.fill,
        )
        films += [FilmLayout(source, i, clips, videos) for i, clips in enumerate(own)]
        left += _too_short(
            root,
            source,
            short,
            found,
            f"{least} latent frames ({least * stride / config.fps:.2f} s)",
        )
    return states, films


def _too_short(
    root: Path, source: FilmSource, short: list[VideoShot], found: list[VideoShot], least: str
) -> Iterator[dict]:
    for i, video in enumerate(source.videos):
        count, of = (sum(shot.video == i for shot in some) for some in (short, found))
        if count:
            yield {
                "film": source.name,
                "video": video.path,
                "left_out": "video" if count == of else "shots",
                "failed": False,
                "why": f"{root / video.path}: {count} of {of} shots are shorter than {least} and "
                "left out; lower `shortest` "
                "to have them.",
            }


def unchanged(root: Path, source: FilmSource, state: dict) -> bool:
    """Return whether a source is unchanged. One that is no longer listed counts as unchanged, and
    so does a file that is not there."""
    return not source.videos or (
        state["said"] == stated_digest(source)
        and all(_same_file(root / video["path"], video) for video in state["videos"])
    )


def _stamp(root: Path, video: str) -> dict:
    """Return size, time and checksum of a file; all None if it is not there."""
    path = root / video
    if not path.is_file():
        return {"path": video, "bytes": None, "mtime_ns": None, "blake2b": None}
    state = path.stat()
    return {
        "path": video,
        "bytes": state.st_size,
        "mtime_ns": state.st_mtime_ns,
        "blake2b": checksum(path),
    }


def _same_file(path: Path, old: dict) -> bool:
    """Return whether a file is unchanged, or is not there (any more)."""
    if not path.is_file():
        return True
    state = path.stat()
    if state.st_size != old["bytes"]:
        return False
    return state.st_mtime_ns == old["mtime_ns"] or checksum(path) == old["blake2b"]


def stated_digest(source: FilmSource) -> str:
    """Return the hash of all that is stated of a source, as records of finished groups hold it."""
    # the names of the record, which stores that were built before this version have too
    videos = [
        {"video" if name == "path" else name: value for name, value in asdict(video).items()}
        for video in source.videos
    ]
    return value_digest({"name": source.name, "reels": videos})


def value_digest(value: Any) -> str:
    """Return the hash of plain values."""
    return checksum_of(json.dumps(value, sort_keys=True).encode())
