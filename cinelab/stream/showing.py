"""How a film shows itself: one line in a terminal, the film where a notebook can play it."""

import base64
import html
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from cinelab.script.screenplay import Screenplay
from cinelab.stream.video import write_mp4


def film_line(frames: np.ndarray, fps: float, play: Screenplay) -> str:
    """A film of frames (F, H, W, 3) in one line."""
    count, height, width = frames.shape[:3]
    title = f"{play.title!r}: " if play.title else ""
    shots = f"{len(play.shots)} shot{'s' * (len(play.shots) != 1)}"
    return f"Film({title}{shots}, {count} frames of {width} x {height} at {fps:g} a second, {count / fps:.1f} s)"


def film_html(frames: np.ndarray, fps: float, caption: str) -> str:
    """The film itself, as a player that needs no other file, over its caption."""
    with TemporaryDirectory() as folder:
        write_mp4(Path(folder) / "film.mp4", frames, fps, small=True)
        data = base64.b64encode((Path(folder) / "film.mp4").read_bytes()).decode()
    player = f'<video controls loop muted autoplay style="max-width:100%" src="data:video/mp4;base64,{data}"></video>'
    return f"<figure style=\"margin:0\">{player}<figcaption>{html.escape(caption)}</figcaption></figure>"
