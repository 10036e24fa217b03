"""What DMD ruins first, measured on pixels: motion, colour and detail. No reader, no prompt, any
video.

frames uint8 (F, H, W, 3) of one film; a ratio to the same numbers of the truth states how much is
left. The measures are ours: few-step students are known to lose motion and to saturate.
"""

from collections.abc import Callable, Sequence

import numpy as np

from cinelab.metrics.rows import WHOLE, Row, clip_of


def motion(frames: np.ndarray, spans: Sequence[tuple[int, int]]) -> float:
    """Mean absolute change from frame to frame inside shots, in grey levels; cuts do not
    count."""
    steps = np.abs(np.diff(frames.astype(np.int16), axis=0)).mean(axis=(1, 2, 3))  # (F - 1,)
    inside = np.concatenate([steps[first : end - 1] for first, end in spans])
    return float(inside.mean()) if len(inside) else 0.0


def saturation(frames: np.ndarray) -> float:
    """Mean distance between the strongest and the weakest colour channel of a pixel, in grey
    levels."""
    return float((frames.max(-1).astype(np.int16) - frames.min(-1)).mean())


def contrast(frames: np.ndarray) -> float:
    """Mean standard deviation of a frame's brightness, in grey levels."""
    return float(frames.mean(-1).std(axis=(1, 2)).mean())


def sharpness(frames: np.ndarray) -> float:
    """High-frequency energy: mean absolute Laplacian of the brightness, in grey levels. Blur lowers
    it."""
    grey = frames.mean(-1)
    middle = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return float(np.abs(around - 4 * middle).mean())


def _still(measure: Callable[[np.ndarray], float]) -> Callable[..., float]:
    """A measure of single frames, which has no use for the shots' spans."""
    return lambda frames, spans: measure(frames)


MEASURES = {
    "motion": motion,
    "saturation": _still(saturation),
    "contrast": _still(contrast),
    "sharpness": _still(sharpness),
}


def appearance_rows(
    frames: np.ndarray, truth: np.ndarray, spans: Sequence[Sequence[tuple[int, int]]]
) -> list[Row]:
    """Motion, saturation, contrast and sharpness of whole films (B, F, H, W, 3), as shares of the
    true films' mean."""
    rows = []
    for name, measure in MEASURES.items():
        each = [measure(true, shots) for true, shots in zip(truth, spans, strict=True)]
        whole = max(float(np.mean(each)), 1e-6)
        rows += [
            Row(clip_of(film), WHOLE, name, float(measure(made, shots) / whole))
            for film, (made, shots) in enumerate(zip(frames, spans, strict=True))
        ]
    return rows
