"""Does a held shot melt? Each second of it against its own first second: sharpness, saturation,
contrast, motion. Any video.

The mean of a long film hides a shot that blurs while it is held, and a drift from the film's first
to its last shots compares two shots that differ anyway; so a shot is compared with itself. A frozen
shot keeps all looks, and its motion is 0. The measures are ours.

    F frames of a shot   S whole seconds of it
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from cinelab.metrics.rows import Row
from cinelab.metrics.video.appearance import contrast, saturation, sharpness
from cinelab.metrics.video.clips import Clip

HELD = 4.0  # seconds from which on a shot counts as held
SHOWN = (2, 4, 8)  # seconds whose values are rows of their own, beside the last one's
STILL = 1e-9  # mean change of a pixel, of 255, below which nothing moves
MEASURES_HELD: dict[str, Callable[[np.ndarray], float]] = {
    "held sharpness": sharpness,
    "held saturation": saturation,
    "held contrast": contrast,
}
MOVING = "held motion"


def held_rows(clip: Clip) -> Iterator[Row]:
    """Rows of every shot of at least `HELD` seconds: its last whole second over its first, and
    those of `SHOWN` by the protocol second=k."""
    for number, shot, frames in clip.parts():
        if shot.end - shot.start < HELD * clip.fps:
            continue
        for metric, curve in looks_by_second(frames, clip.fps).items():
            relative = over_first(curve)
            last = len(relative)
            yield Row(clip.name, number, metric, float(relative[-1]), detail=f"second {last}")
            for second in SHOWN:
                if second < last:
                    value = float(relative[second - 1])
                    yield Row(clip.name, number, metric, value, protocol=f"second={second}")


def looks_by_second(frames: Iterable[np.ndarray], fps: float) -> dict[str, np.ndarray]:
    """Return metric -> its mean in every whole second (S,) of a shot; frames uint8 (H, W, 3)."""
    looks = []
    steps = [np.nan]  # of the first frame there is no change yet
    before = None
    for frame in frames:
        looks.append([measure(frame[None]) for measure in MEASURES_HELD.values()])
        if before is not None:
            steps.append(float(np.abs(frame.astype(np.int16) - before).mean()))
        before = frame
    second = (np.arange(len(looks)) / fps).astype(int)
    whole = int(len(looks) / fps)
    table = np.column_stack([looks, steps])  # (F, measures)
    means = [np.nanmean(table[second == one], axis=0) for one in range(whole)]
    return dict(zip((*MEASURES_HELD, MOVING), np.array(means).T, strict=True))


def over_first(curve: np.ndarray) -> np.ndarray:
    """Return a curve (S,) as shares of its first value; 0 where that is nothing: a shot that never
    moved has kept no motion."""
    return curve / curve[0] if curve[0] > STILL else np.zeros_like(curve)
