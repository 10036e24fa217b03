"""Cuts: where they were planned, where they are seen, and how well the two agree.

A cut is the index of the first frame of a new shot, so a film of F frames has cuts in 1..F-1.
Frames are uint8 (F, H, W, 3) RGB. Two detectors look for cuts: ours, from the change between
neighbouring frames, and PySceneDetect's, which owes nothing to this package.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import cv2
import numpy as np

from cinelab.errors import CinelabError
from cinelab.optional import Later
from cinelab.readable import Readable

if TYPE_CHECKING:
    import scenedetect
else:
    scenedetect = Later("scenedetect", extra="lab", what="The second cut detector")

COLOUR_LEVELS = 5  # per channel: 125 soft colour bins
LOOK_ROWS = 64  # larger frames are shrunk to about this height before colours are counted


@dataclass(frozen=True)
class CutDetector:
    """A step between two frames is a cut when it is large and stands out of the steps around it."""

    floor: float = 0.04  # least change, 0..1
    ratio: float = 2.0  # times the usual change on the livelier side of the step
    window: int = 6  # steps looked at on either side
    least_shot: int = 3  # frames; of two steps nearer than that only the larger can be a cut

    def __post_init__(self):
        if not (0 < self.floor < 1 and self.ratio >= 1 and min(self.window, self.least_shot) >= 1):
            raise CinelabError(
                f"{self}: needs 0 < floor < 1, and ratio, window, least_shot of at least 1"
            )

    @classmethod
    def at(cls, fps: float) -> "CutDetector":
        """For videos of so many frames a second: the defaults are those of 8, and last as long at a
        higher rate."""
        scale = max(1.0, fps / 8)
        return cls(window=round(cls.window * scale), least_shot=round(cls.least_shot * scale))


def frame_difference(frames: np.ndarray) -> np.ndarray:
    """Mean absolute change of a pixel from each frame to the next, (F-1,) in 0..1."""
    _check(frames)
    steps = [cv2.absdiff(a, b).mean() for a, b in pairwise(frames)]
    return np.array(steps, dtype=np.float64) / 255


def colour_difference(frames: np.ndarray) -> np.ndarray:
    """Share of the frame whose colour is new, (F-1,) in 0..1; motion and pans hardly count."""
    return np.abs(np.diff(colour_histograms(frames), axis=0)).sum(1) / 2


def colour_histograms(frames: np.ndarray) -> np.ndarray:
    """Soft colour histogram of every frame, (F, 125), rows that sum to 1."""
    _check(frames)
    return np.stack([_colours(_small(frame)) for frame in frames])


def frame_change(frames: np.ndarray) -> np.ndarray:
    """How much each step looks like a cut, (F-1,) in 0..1: large only where pixels *and* colours
    change.

    A jump in a close-up moves as many pixels as a cut but brings few colours, so colours count
    twice in the geometric mean; a cut between two alike places still moves pixels.
    """
    return _change(frame_difference(frames), colour_difference(frames))


def _change(steps: np.ndarray, colours: np.ndarray) -> np.ndarray:
    return np.cbrt(steps * colours**2)


@dataclass(frozen=True)
class Seen(Readable):
    """What one pass over a film found: `steps` (mean change of a pixel, 0..1) and `changes` (see
    `change`), (F - 1,) each, and the first frame of every new shot as PySceneDetect sees it."""

    steps: np.ndarray
    changes: np.ndarray
    scenes: list[int]

    def cuts(self, detector: CutDetector) -> list[int]:
        """First frame of every new shot by our own detector."""
        return cuts_among(self.changes, detector)


def look_for_cuts(frames: Iterable[np.ndarray], fps: float) -> Seen:
    """Both detectors on the frames (H, W, 3) of a film, one after another; a few numbers a frame
    are kept."""
    watcher = SceneDetect(fps)
    before = None
    steps = []
    colours = []
    for frame in frames:
        watcher.see(frame)
        now = frame, _colours(_small(frame))
        if before:
            steps.append(cv2.absdiff(before[0], frame).mean() / 255)
            colours.append(np.abs(now[1] - before[1]).sum() / 2)
        before = now
    found = np.array(steps, np.float64)
    return Seen(found, _change(found, np.array(colours, np.float64)), watcher.cuts())


def _small(frame: np.ndarray) -> np.ndarray:
    shrink = frame.shape[0] // LOOK_ROWS
    if shrink < 2:
        return frame
    size = (max(1, frame.shape[1] // shrink), frame.shape[0] // shrink)
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


# Value 0..255 -> its share in each of the levels: a little noise moves a little weight.
_SHARES = np.clip(
    1 - np.abs(np.arange(256)[:, None] * (COLOUR_LEVELS - 1) / 255 - np.arange(COLOUR_LEVELS)), 0, 1
)


def _colours(frame: np.ndarray) -> np.ndarray:
    """Soft colour histogram of one frame, (125,), sums to 1."""
    red, green, blue = _SHARES[frame.reshape(-1, 3)].transpose(1, 0, 2)  # each (H*W, levels)
    red_green = (red[:, :, None] * green[:, None, :]).reshape(len(red), -1)
    return (red_green.T @ blue).ravel() / len(red)


def usual_change(steps: np.ndarray, window: int) -> np.ndarray:
    """For each step the second largest of the `window` steps before it or after it, the larger one,
    (F-1,).

    The larger side makes the first step of a pan no cut: what follows it is as large. A codec that
    packs two frames into one moves in every other step, which a median would call usual; the very
    largest may be the next cut.
    """
    usual = np.zeros(len(steps))
    for i in range(len(steps)):
        sides = steps[max(0, i - window) : i], steps[i + 1 : i + 1 + window]
        usual[i] = max(
            (np.quantile(side, 0.8, method="lower") for side in sides if len(side)), default=0.0
        )
    return usual


def detect_cuts(frames: np.ndarray, detector: CutDetector | None = None) -> list[int]:
    """First frame of every new shot; `detector` holds the thresholds."""
    return cuts_among(frame_change(frames), detector or CutDetector())


def cuts_among(steps: np.ndarray, detector: CutDetector) -> list[int]:
    """The same from the changes (F-1,) alone, for films too long to be held."""
    if not len(steps):
        return []
    usual = usual_change(steps, detector.window)
    near = detector.least_shot - 1
    largest = [steps[max(0, i - near) : i + near + 1].max() for i in range(len(steps))]
    found = (steps >= detector.floor) & (steps >= detector.ratio * usual) & (steps >= largest)
    return [int(step) + 1 for step in np.flatnonzero(found)]


def detect_cuts_pyscenedetect(
    frames: np.ndarray, fps: float, kind: str = "adaptive", least_shot: int = 2
) -> list[int]:
    """First frame of every new shot as PySceneDetect sees it, no file needed.

    `kind` is "adaptive" (content change against its neighbourhood, settings that suit 8 fps) or
    "content" (the library's fixed threshold, made for 24 fps); `least_shot` is in frames.
    """
    _check(frames)
    watcher = SceneDetect(fps, kind, least_shot)
    for frame in frames:
        watcher.see(frame)
    return watcher.cuts()


class SceneDetect:
    """PySceneDetect fed with one frame after another: `see` each uint8 (H, W, 3), then ask for the
    `cuts`."""

    def __init__(self, fps: float, kind: str = "adaptive", least_shot: int = 2):
        if not fps > 0:
            raise CinelabError(f"fps: {fps} is not a frame rate, give a number above 0")
        self._detector = _scenedetect(kind, least_shot)
        self._fps = float(fps)
        # the last few, for the ending
        self._late: deque[np.ndarray] = deque(maxlen=self._detector.event_buffer_length + 1)
        self._found: list[int] = []
        self._count = 0

    def see(self, frame: np.ndarray) -> None:
        bgr = np.ascontiguousarray(_small(frame)[:, :, ::-1])
        self._late.append(bgr)
        self._judge(bgr, self._count)
        self._count += 1

    def cuts(self) -> list[int]:
        """First frame of every new shot. The detector judges a frame only when it has seen what
        follows: mirror the ending."""
        for later, bgr in enumerate(list(self._late)[-2::-1]):
            self._judge(bgr, self._count + later)
        return sorted({cut for cut in self._found if 0 < cut < self._count})

    def _judge(self, bgr: np.ndarray, number: int) -> None:
        time = scenedetect.FrameTimecode(number, self._fps)
        self._found += [cut.frame_num for cut in self._detector.process_frame(time, bgr)]


def _scenedetect(kind: str, least_shot: int) -> "scenedetect.ContentDetector":
    if kind == "adaptive":
        return scenedetect.AdaptiveDetector(
            adaptive_threshold=2.0, window_width=3, min_scene_len=least_shot
        )
    if kind == "content":
        # the default merges cuts and reports the last
        keep_first = scenedetect.detector.FlashFilter.Mode.SUPPRESS
        return scenedetect.ContentDetector(min_scene_len=least_shot, filter_mode=keep_first)
    raise CinelabError(f"kind: {kind!r} is not a detector, use 'adaptive' or 'content'")


@dataclass(frozen=True)
class CutMatch:
    """How planned and detected cuts agree: three counts, and the usual rates made of them."""

    hits: int  # planned cuts that were found
    missed: int  # planned cuts that were not
    spurious: int  # detected cuts that nobody planned

    @property
    def accuracy(self) -> float:
        """Hits among everything that was planned or detected; 1 when there was nothing."""
        return _share(self.hits, self.hits + self.missed + self.spurious)

    @property
    def precision(self) -> float:
        return _share(self.hits, self.hits + self.spurious)

    @property
    def recall(self) -> float:
        return _share(self.hits, self.hits + self.missed)

    @property
    def f1(self) -> float:
        return _share(2 * self.hits, 2 * self.hits + self.missed + self.spurious)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def match_cuts(planned: Iterable[int], detected: Iterable[int], tolerance: int = 1) -> CutMatch:
    """Pair planned with detected cuts one to one, at most `tolerance` frames apart.

    Going through both in order finds as many pairs as any other pairing could.
    """
    if tolerance < 0:
        raise CinelabError(f"tolerance: {tolerance} frames, give 0 or more")
    plan = sorted(set(planned))
    seen = sorted(set(detected))
    hits = i = j = 0
    while i < len(plan) and j < len(seen):
        if abs(plan[i] - seen[j]) <= tolerance:
            hits = hits + 1
            i = i + 1
            j = j + 1
        elif plan[i] < seen[j]:
            i += 1
        else:
            j += 1
    return CutMatch(hits, len(plan) - hits, len(seen) - hits)


def _check(frames: np.ndarray) -> None:
    shape: tuple[int, ...] = getattr(frames, "shape", ())
    if getattr(frames, "dtype", None) != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape:
        found = f"{getattr(frames, 'dtype', type(frames).__name__)} {getattr(frames, 'shape', '')}"
        raise CinelabError(f"frames: expected uint8 (F, H, W, 3) with F >= 1, found {found}")
