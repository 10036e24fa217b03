"""What every function that takes a film's frames checks first."""

import numpy as np

from cinelab.errors import CinelabError


def check_frames(frames: np.ndarray, where: str = "frames") -> np.ndarray:
    """Return `frames` if it is a uint8 array (F >= 1, H, W, 3); else raise CinelabError."""
    dtype = getattr(frames, "dtype", None)
    if not isinstance(frames, np.ndarray) or dtype != np.uint8:
        found = type(frames).__name__ if dtype is None else dtype
        raise CinelabError(f"{where}: expected a numpy array of uint8 in 0..255, found {found}")
    shape = frames.shape
    if len(shape) != 4 or shape[3] != 3 or 0 in shape[1:]:
        raise CinelabError(f"{where}: expected the shape (F, H, W, 3), found {shape}")
    if shape[0] == 0:
        raise CinelabError(f"{where}: the film has no frames (shape {shape}), give at least one")
    return frames
