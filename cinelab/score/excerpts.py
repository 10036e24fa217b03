"""What outside tools are given to look at: whole films, or their shots, cut out frame by frame without loss.

A score across a hard cut punishes the cut, so a film whose shots are known is scored shot by shot. A shot is
written with the decoded pictures as they are (same pixel format, H.264 at qp 0): no pixel differs from the film's.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import av

from cinelab.errors import CinelabError
from cinelab.score.footage import find_videos as find_files
from cinelab.score.footage import label_of
from cinelab.script.shotlist import ShotList, beside

Span = tuple[int, int]  # (first frame, end), end excluded
LOSSLESS = "libx264"


@dataclass(frozen=True)
class Video:
    """A film to score. `prompts` has one prompt a shot where they differ; `clip` names it in the table."""

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
            object.__setattr__(self, "spans", tuple((int(first), int(end)) for first, end in self.spans))
            if any(first < 0 or end <= first for first, end in self.spans) or not self.spans:
                raise CinelabError(f"spans: {self.spans} of {self.path}; give (first, end) pairs with 0 <= first < end.")
        if self.prompts and len(self.prompts) != len(self.spans or ()):
            raise CinelabError(f"prompts: {len(self.prompts)} for {len(self.spans or ())} shots of {self.path}; give one a shot.")


@dataclass(frozen=True)
class Clip:
    """One thing to score: a whole film (shot 0) or one shot, as a file of its own."""

    video: Video
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


def find_videos(paths: Iterable[Path], prompt: str = "", prompts: dict[str, str] | None = None) -> list[Video]:
    """Videos and folders of them at any depth, with the shots and prompts of the shot list beside each.

    A prompt is looked up in `prompts` by file name or stem, then `prompt` is taken; a run folder's own come last.
    """
    found = [video for path in paths for video in _videos_at(Path(path))]
    if not found:
        raise CinelabError("No video: name video files, folders of them, or folders that `cinelab direct` wrote.")
    return [_with_prompt(video, prompt, prompts or {}) for video in found]


def each_clip(video: Video, frames: int, whole: bool) -> list[tuple[int, Span, str]]:
    """(shot, span, prompt) of everything to score in a video of so many frames."""
    if video.spans is None:
        return [(0, (0, frames), video.prompt)]
    if video.spans[-1][1] > frames:
        raise CinelabError(f"spans: {video.path} has {frames} frames, its last shot ends at {video.spans[-1][1]}; "
                           "give the spans of this file.")
    prompts = video.prompts or (video.prompt,) * len(video.spans)
    shots = [(i, span, prompts[i - 1]) for i, span in enumerate(video.spans, 1)]
    return [(0, (0, frames), video.prompt or ". ".join(dict.fromkeys(prompts))), *shots] if whole else shots


def lay_out(video: Video, folder: Path, name: Callable[[int, str], str], whole: bool = False) -> list[Clip]:
    """Put every clip of `video` into `folder` as the file `name(shot, prompt)`; one that is the whole film is a link."""
    frames, fps = measure(video.path)
    wanted = [Clip(video, shot, folder / name(shot, prompt), prompt, fps, end - first, (first, end) != (0, frames))
              for shot, (first, end), prompt in each_clip(video, frames, whole)]
    spans = [span for _, span, _ in each_clip(video, frames, whole)]
    for clip in wanted:
        if not clip.cut_out:
            clip.file.symlink_to(video.path.resolve())
    cut(video.path, {clip.file: span for clip, span in zip(wanted, spans, strict=True) if clip.cut_out})
    return wanted


def measure(path: Path) -> tuple[int, float]:
    """(frames, frames per second), every frame decoded once; a damaged or truncated file raises CinelabError."""
    return read_through(path, lambda index, frame: None)


def cut(path: Path, parts: dict[Path, Span]) -> None:
    """Write the frames of every span to its file: the pictures exactly as they were decoded."""
    if not parts:
        return
    open_parts: dict[Path, _Lossless] = {}

    def visit(index: int, frame: av.VideoFrame) -> None:
        for file, (first, end) in parts.items():
            if first <= index < end:
                part = open_parts.get(file) or open_parts.setdefault(file, _Lossless(file, frame, rate, path))
                part.add(frame, index - first)

    with av.open(str(path)) as container:
        rate = container.streams.video[0].average_rate or container.streams.video[0].guessed_rate
    try:
        read_through(path, visit)
    finally:
        for part in open_parts.values():
            part.close()


def read_through(path: Path, visit: Callable[[int, av.VideoFrame], None]) -> tuple[int, float]:
    """Decode a video picture by picture. Returns (frames, fps)."""
    if not path.is_file():
        raise CinelabError(f"{path}: no such video file; check the path.")
    count = 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise CinelabError(f"{path}: has no video stream; give a film.")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                visit(count, frame)
                count += 1
            rate, promised = float(stream.average_rate or stream.guessed_rate or 0), stream.frames
    except (av.error.FFmpegError, OSError) as error:
        raise CinelabError(f"{path}: is damaged or not a video ({error.strerror}); make or copy it again.") from error
    if not count or count < promised or not rate:
        raise CinelabError(f"{path}: is truncated, {count} of {promised} frames can be read; make or copy it again.")
    return count, rate


class _Lossless:
    """A shot's file: H.264 at qp 0 in the film's own pixel format and colours."""

    def __init__(self, file: Path, like: av.VideoFrame, rate, source: Path):
        try:
            formats = {known.name for known in av.Codec(LOSSLESS, "w").video_formats}
        except ValueError as error:
            raise CinelabError(f"{LOSSLESS}: is not in this build of PyAV, so no shot can be cut out without loss; "
                               "pip install --force-reinstall av") from error
        if like.format.name not in formats:
            raise CinelabError(f"{source}: has pixels of the format {like.format.name}, which {LOSSLESS} cannot keep; "
                               "save the film as yuv420p mp4.")
        self.container, self.rate = av.open(str(file), "w", format="mp4"), rate
        self.stream = self.container.add_stream(LOSSLESS, rate=rate, options={"qp": "0", "preset": "ultrafast"})
        self.stream.width, self.stream.height, self.stream.pix_fmt = like.width, like.height, like.format.name
        context = self.stream.codec_context
        context.color_range, context.colorspace = like.color_range, like.colorspace

    def add(self, frame: av.VideoFrame, index: int) -> None:
        frame.pts, frame.time_base, frame.pict_type = index, 1 / self.rate, av.video.frame.PictureType.NONE
        self.container.mux(self.stream.encode(frame))

    def close(self) -> None:
        self.container.mux(self.stream.encode(None))
        self.container.close()


def _videos_at(path: Path) -> list[Video]:
    return [_listed(file) for file in find_files([path])]


def _listed(file: Path) -> Video:
    """A video with the shots of its list, if it has one; they are numbered as everywhere else."""
    if not beside(file).exists():
        return Video(file, run=str(file.parent), clip=label_of(file))
    listed = ShotList.load(beside(file))
    prompts = tuple(shot.prompt for shot in listed.shots)
    whole = ". ".join(dict.fromkeys(prompt.strip().rstrip(".") for prompt in prompts if prompt))
    return Video(file, whole, tuple(listed.spans), str(file.parent), label_of(file), prompts)


def _with_prompt(video: Video, prompt: str, prompts: dict[str, str]) -> Video:
    keys = str(video.path), video.path.name, video.path.stem, video.run
    given = next((prompts[key] for key in keys if key in prompts), prompt)
    return video if not given else Video(video.path, given, video.spans, video.run, video.clip)


def read_prompts(path: Path) -> dict[str, str]:
    """A JSON file {"file name": "prompt"}."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CinelabError(f"{path}: cannot be read ({error}); write JSON like {{\"a.mp4\": \"a red cat\"}}.") from error
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise CinelabError(f"{path}: is no table of prompts; write JSON like {{\"a.mp4\": \"a red cat\"}}.")
    return found

