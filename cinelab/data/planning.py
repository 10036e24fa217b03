"""What films a group of videos will make, before any is encoded, and what each video was when that
was decided."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from cinelab.checksums import checksum, checksum_of
from cinelab.data import layout
from cinelab.data.cutting import takes
from cinelab.data.layout import Piece, Take
from cinelab.data.listing import Source
from cinelab.data.settings import DataConfig
from cinelab.metrics.video.clips import why_failed


@dataclass(frozen=True)
class Planned:
    """A film before it is encoded."""

    source: Source
    number: int  # of the films of its source
    pieces: tuple[Piece, ...]
    videos: tuple[dict, ...]  # path, bytes, mtime_ns, blake2b of each reel

    @property
    def latents(self) -> int:
        return sum(piece.latents for piece in self.pieces)

    def about(self, fps: float) -> dict:
        """What the store says of it."""
        shots = [
            {
                "video": self.source.reels[piece.reel].video,
                "start": round(piece.first / fps, 4),
                "end": round((piece.first + piece.pictures) / fps, 4),
                "prompts": [list(prompt) for prompt in piece.prompts],
            }
            for piece in self.pieces
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


def plan(
    root: Path, group: Iterable[Source], config: DataConfig, stride: int, left: list[dict]
) -> tuple[list[dict], list[Planned]]:
    """What each source was, and its films. What cannot be used is added to `left`: film, video,
    why."""
    states = []
    films = []
    for source in group:
        found: list[Take] = []
        videos = tuple(_stamp(root, reel.video) for reel in source.reels)
        states.append({"name": source.name, "said": digest(asdict(source)), "videos": list(videos)})
        if not source.reels:
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
        for i, reel in enumerate(source.reels):
            row = {"film": source.name, "video": reel.video}
            try:
                shots, told = takes(reel, i, root / reel.video, config)
                found += shots
                left += [row | {"left_out": "shots", "why": told}] if told else []
            except Exception as error:  # of a library, or memory: it costs this video only
                left.append(
                    row | {"left_out": "video", "why": why_failed(root / reel.video, error)}
                )
        least = max(config.shortest, config.chunk)
        own, short = layout.films(found, stride, config.chunk, least, config.longest, config.fill)
        films += [Planned(source, i, pieces, videos) for i, pieces in enumerate(own)]
        left += _too_short(
            root,
            source,
            short,
            found,
            f"{least} latent frames ({least * stride / config.fps:.2f} s)",
        )
    return states, films


def _too_short(
    root: Path, source: Source, short: list[Take], found: list[Take], least: str
) -> Iterator[dict]:
    for i, reel in enumerate(source.reels):
        count, of = (sum(take.reel == i for take in some) for some in (short, found))
        if count:
            yield {
                "film": source.name,
                "video": reel.video,
                "left_out": "video" if count == of else "shots",
                "failed": False,
                "why": f"{root / reel.video}: {count} of {of} shots are shorter than {least} and "
                "left out; lower `shortest` "
                "to have them.",
            }


def unchanged(root: Path, source: Source, state: dict) -> bool:
    """Whether a source is what it was; one that is not listed any more is, and so is a file that is
    not there."""
    return not source.reels or (
        state["said"] == digest(asdict(source))
        and all(_same_file(root / video["path"], video) for video in state["videos"])
    )


def _stamp(root: Path, video: str) -> dict:
    """What a file was when it was read; all None if it is not there."""
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
    """Whether a file is what it was; one that is not there (any more) is."""
    if not path.is_file():
        return True
    state = path.stat()
    if state.st_size != old["bytes"]:
        return False
    return state.st_mtime_ns == old["mtime_ns"] or checksum(path) == old["blake2b"]


def digest(value) -> str:
    return checksum_of(json.dumps(value, sort_keys=True).encode())
