"""What outside tools are given to look at: whole films, or their shots, cut out frame by frame
without loss.

A score across a hard cut punishes the cut, so a film whose shots are known is scored shot by shot.
A shot is written with the decoded frames as they are (same pixel format, H.264 at qp 0): no pixel
differs from the film's. What other tools would show in another way (turned, of varying rate, hidden
in part, of high dynamic range) is written as our own reader shows it, the whole film too, so that
shots and film agree.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cinelab.errors import CinelabError
from cinelab.files import composed
from cinelab.metrics.video.clips import Tell, labels
from cinelab.metrics.video.clips import find_videos as find_files
from cinelab.optional import Later
from cinelab.script.shotlist import ShotList, shot_list_path
from cinelab.stream.colour import rgb
from cinelab.stream.decoded_video import HIDDEN, VARIES, DecodedVideo, nominal
from cinelab.texts import PROMPTS, read_json

if TYPE_CHECKING:
    import av
else:
    av = Later("av", extra="lab", what="Reading and writing videos")

Span = tuple[int, int]  # (first frame, end), end excluded
LOSSLESS = "libx264"
LOSSLESS_RGB = "libx264rgb"
AS_STORED = {HIDDEN, VARIES}  # changes of a film that leave its decoded frames as they are
LIKE = '{"a.mp4": "a red cat"}'


@dataclass(frozen=True)
class FilmFile:
    """A film to score. `prompts` has one prompt a shot where they differ; `clip` names it in the
    table."""

    path: Path
    prompt: str = ""
    spans: tuple[Span, ...] | None = None
    run: str = ""
    clip: str = ""
    prompts: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "path", Path(self.path))
        object.__setattr__(self, "clip", self.clip or self.path.stem)
        if self.spans is not None:
            object.__setattr__(
                self, "spans", tuple((int(first), int(end)) for first, end in self.spans)
            )
            if any(first < 0 or end <= first for first, end in self.spans) or not self.spans:
                raise CinelabError(
                    f"spans: {self.spans} of {self.path}; give (first, end) pairs with 0 <= first "
                    "< end."
                )
        if self.prompts and len(self.prompts) != len(self.spans or ()):
            raise CinelabError(
                f"prompts: {len(self.prompts)} for {len(self.spans or ())} shots of {self.path}; "
                "give one a shot."
            )


@dataclass(frozen=True)
class ShotFile:
    """One thing to score: a whole film (shot 0) or one shot, as a file of its own."""

    video: FilmFile
    shot: int
    file: Path
    prompt: str
    fps: float
    frames: int
    cut_out: bool = False

    @property
    def seconds(self) -> float:
        return self.frames / self.fps

    @property
    def columns(self) -> dict:
        """What its rows say of where they come from."""
        return {"run": self.video.run, "clip": self.video.clip, "shot": self.shot, "fps": self.fps}


def find_film_files(
    paths: Iterable[Path],
    prompt: str = "",
    prompts: dict[str, str] | None = None,
    tell: Tell = print,
) -> list[FilmFile]:
    """Videos and folders of them at any depth, with the shots and prompts of the shot list beside
    each.

    A prompt is looked up in `prompts` (see `assign`), then `prompt` is taken; a run folder's own
    come last. `tell` hears of keys that fit no video and of what was passed over.
    """
    paths = list(map(Path, paths))
    files = find_files(paths, tell)
    if not files:
        raise CinelabError(
            "No video: name video files, folders of them, or folders that `cinelab direct` wrote."
        )
    given, lost = assign(files, prompts or {})
    if lost:
        tell(
            f"prompts: {', '.join(map(repr, lost))} {'fits' if len(lost) == 1 else 'fit'} none of "
            f"the {len(files)} videos; give file "
            "names, or paths below the folder that is named."
        )
    named = labels(files)
    return [_with_prompt(_listed(file, named[file]), given.get(file, prompt)) for file in files]


def assign(files: Iterable[Path], prompts: dict[str, str]) -> tuple[dict[Path, str], list[str]]:
    """Which video has which prompt, and the keys that fit none.

    A key is a path as typed, its last parts (`a/0001.mp4`), a file name or a stem, or the folder of
    a run; however accents are composed. One that fits several videos, and two that give one video
    different prompts, raise CinelabError.
    """
    names = {file: _names(file) for file in files}
    found: dict[Path, tuple[str, str]] = {}
    lost = []
    for key, prompt in prompts.items():
        wanted = _composed(Path(key).as_posix())
        exact = [
            file
            for file in names
            if wanted
            in (_composed(file.as_posix()), _composed(Path(os.path.abspath(file)).as_posix()))
        ]
        fits = exact or [file for file, known in names.items() if wanted in known]
        if len(fits) > 1:
            raise CinelabError(
                f"prompts: {key!r} fits {len(fits)} videos ({fits[0]}, {fits[1]}); write each "
                "with its folder."
            )
        if not fits:
            lost.append(key)
        elif found.get(fits[0], (key, prompt))[1] != prompt:
            raise CinelabError(
                f"prompts: {found[fits[0]][0]!r} and {key!r} both name {fits[0]}, with different "
                "prompts; keep one."
            )
        else:
            found[fits[0]] = key, prompt
    return {file: prompt for file, (_, prompt) in found.items()}, lost


def _names(file: Path) -> set[str]:
    """Every key that may name a video."""
    parts = Path(os.path.abspath(file)).parts[1:]
    tails = {"/".join(parts[first:]) for first in range(len(parts))}
    stems = {tail.removesuffix(file.suffix) for tail in tails}
    runs = (
        {"/".join(parts[first:-1]) for first in range(len(parts) - 1)} | {file.parent.as_posix()}
        if file.stem == "film"
        else set()
    )
    return {_composed(name) for name in tails | stems | runs}


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def each_clip(video: FilmFile, frames: int, whole: bool) -> list[tuple[int, Span, str]]:
    """(shot, span, prompt) of everything to score in a video of so many frames."""
    if video.spans is None:
        return [(0, (0, frames), video.prompt)]
    if video.spans[-1][1] > frames:
        raise CinelabError(
            f"spans: {video.path} has {frames} frames, its last shot ends at {video.spans[-1][1]}; "
            "give the spans of this file."
        )
    prompts = video.prompts or (video.prompt,) * len(video.spans)
    shots = [(i, span, prompts[i - 1]) for i, span in enumerate(video.spans, 1)]
    return (
        [(0, (0, frames), video.prompt or ". ".join(dict.fromkeys(prompts))), *shots]
        if whole
        else shots
    )


def lay_out(
    video: FilmFile, folder: Path, name: Callable[[int, str], str], whole: bool = False
) -> list[ShotFile]:
    """Put every clip of `video` into `folder` as the file `name(shot, prompt)`; one that is the
    whole film is a link where other tools show the film as it is shown here."""
    film = DecodedVideo(video.path, keep=0)
    clips = []
    parts = {}
    for shot, (first, end), prompt in each_clip(spans_as_shown(video, film), len(film), whole):
        file = folder / name(shot, prompt)
        cut_out = (first, end) != (0, len(film))
        clips.append(ShotFile(video, shot, file, prompt, film.fps, end - first, cut_out))
        if cut_out or film.changes:
            parts[file] = first, end
        else:
            file.symlink_to(video.path.resolve())
    cut_out_spans(film, parts)
    return clips


def spans_as_shown(video: FilmFile, film: DecodedVideo) -> FilmFile:
    """The video with its spans in the film's shown frames instead of its decoded ones. Raises
    CinelabError if they do not fit."""
    if video.spans is None:
        return video
    if video.spans[-1][1] > film.decoded:
        raise CinelabError(
            f"spans: {video.path} has {film.decoded} frames, its last shot ends at "
            f"{video.spans[-1][1]}; "
            "give the spans of this file."
        )
    return replace(
        video, spans=tuple((film.place(first), film.place(end)) for first, end in video.spans)
    )


def frames_and_rate(path: Path) -> tuple[int, float]:
    """(frames, frames per second), every frame decoded once; a damaged or truncated file raises
    CinelabError."""
    film = DecodedVideo(path, keep=0)
    return len(film), film.fps


def cut_out_spans(film: DecodedVideo | Path, parts: dict[Path, Span]) -> None:
    """Write the frames of every span to its file: as they were decoded where that is how they are
    shown, else as shown."""
    if not parts:
        return
    film = film if isinstance(film, DecodedVideo) else DecodedVideo(film, keep=0)
    exact = not set(film.changes) - AS_STORED
    open_parts: dict[Path, _Lossless] = {}
    try:
        shown: Iterable[av.VideoFrame | np.ndarray] = film.raw() if exact else film
        for place, frame in enumerate(shown):
            for file, (first, end) in parts.items():
                if first <= place < end:
                    part = open_parts.get(file) or open_parts.setdefault(
                        file, _Lossless(file, frame, film.fps)
                    )
                    part.add(frame, place - first)
    finally:
        for part in open_parts.values():
            part.close()


class _Lossless:
    """A shot's file: H.264 at qp 0, in the film's own pixel format and colours where that can be,
    else in RGB."""

    def __init__(self, file: Path, like: av.VideoFrame | np.ndarray, fps: float):
        self.rate = nominal(fps)
        same = like if isinstance(like, av.VideoFrame) and _takes(like) else None
        self.exact = same is not None
        if not self.exact:
            _formats(LOSSLESS_RGB)
        self.container = av.open(str(file), "w", format="mp4")
        options = {"qp": "0", "preset": "ultrafast"}
        encoder = LOSSLESS if self.exact else LOSSLESS_RGB
        stream = self.container.add_stream(encoder, rate=self.rate, options=options)
        assert isinstance(stream, av.VideoStream)  # both encoders are of video
        self.stream = stream
        height, width = (
            like.shape[:2] if isinstance(like, np.ndarray) else (like.height, like.width)
        )
        stream.width = width
        stream.height = height
        stream.pix_fmt = same.format.name if same else "rgb24"
        if same:
            stream.codec_context.color_range = same.color_range
            stream.codec_context.colorspace = same.colorspace

    def add(self, frame: av.VideoFrame | np.ndarray, index: int) -> None:
        if isinstance(frame, np.ndarray) or not self.exact:
            shown = frame if isinstance(frame, np.ndarray) else rgb(frame)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(shown), format="rgb24")
        frame.pts = index
        frame.time_base = 1 / self.rate
        frame.pict_type = av.video.frame.PictureType.NONE
        self.container.mux(self.stream.encode(frame))

    def close(self) -> None:
        self.container.mux(self.stream.encode(None))
        self.container.close()


def _takes(frame: av.VideoFrame) -> bool:
    """Whether the encoder takes a frame as it is: even sides, and a pixel format of its own."""
    even = not (frame.height % 2 or frame.width % 2)
    return even and frame.format.name in _formats(LOSSLESS)


@cache
def _formats(encoder: str) -> frozenset[str]:
    """The pixel formats that an encoder takes."""
    try:
        return frozenset(known.name for known in av.Codec(encoder, "w").video_formats or ())
    except ValueError as error:
        raise CinelabError(
            f"{encoder}: is not in this build of PyAV, so no shot can be cut out without loss; "
            "pip install --force-reinstall av"
        ) from error


def _listed(file: Path, name: str) -> FilmFile:
    """A video with the shots of its list, if it has one; they are numbered as everywhere else."""
    where = composed(shot_list_path(file))
    if not where.exists():
        return FilmFile(file, run=str(file.parent), clip=name)
    listed = ShotList.load(where)
    prompts = tuple(shot.prompt for shot in listed.shots)
    whole = ". ".join(dict.fromkeys(prompt.strip().rstrip(".") for prompt in prompts if prompt))
    return FilmFile(file, whole, tuple(listed.spans), str(file.parent), name, prompts)


def _with_prompt(video: FilmFile, given: str) -> FilmFile:
    return video if not given else FilmFile(video.path, given, video.spans, video.run, video.clip)


def read_prompts(path: Path) -> dict[str, str]:
    """A JSON file {"file name": "prompt"}; a name that stands there twice is refused."""
    found = read_json(
        path, replace(PROMPTS, remedy=f"write JSON like {LIKE}", absent=f"write JSON like {LIKE}")
    )
    if not isinstance(found, dict):
        raise CinelabError(f"{path}: is no table of prompts; write JSON like {LIKE}.")
    if wrong := next((key for key, value in found.items() if not isinstance(value, str)), None):
        raise CinelabError(
            f"{path}: is no table of prompts, {wrong!r} has {found[wrong]!r:.60} and no text; "
            f"write JSON like {LIKE}."
        )
    return found
