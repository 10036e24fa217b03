"""Files of a directed film: the folder of an export, and a take as a small film."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np

from cinelab.errors import CinelabError
from cinelab.stream.video import VideoWriter
from cinelab.zoo.bundle import Bundle

DOWNLOADS = ("film.mp4", "storyboard.png", "screenplay.yaml")  # of an export, sent to the browser


def new_export_folder(folder: Path) -> Path:
    """Make the next export-<n> in a film's folder; two exports never share one. Raises
    CinelabError where it cannot be made."""
    for number in count(1):
        place = folder / f"export-{number}"
        if place.exists():
            continue
        try:
            place.mkdir(parents=True)
        except OSError as error:
            raise CinelabError(
                f"{folder} cannot be written to ({error.strerror}); the film is safe, and "
                "cinelab.stream.export.export_film(film.live.session, another_folder) writes it "
                "elsewhere."
            ) from error
        return place
    raise AssertionError("count() has no end")


@contextmanager
def removed_if_empty(folder: Path) -> Iterator[None]:
    """Remove a folder that is still empty when its writer fails."""
    try:
        yield
    finally:
        if not any(folder.iterdir()):
            folder.rmdir()


def write_take(path: Path, chunks: Iterable[np.ndarray], bundle: Bundle) -> list[int]:
    """Write frames uint8 (f, H, W, 3) of one chunk after another as an mp4. Return how many frames
    the film has after each chunk."""
    ends = []
    with VideoWriter(path, bundle.fps, bundle.size) as film:
        for frames in chunks:
            film.add(frames)
            ends.append(film.count)
    return ends
