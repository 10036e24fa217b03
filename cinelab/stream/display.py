"""A film on display: one line in a terminal, a player in a notebook."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from cinelab.optional import need
from cinelab.script.screenplay import Screenplay
from cinelab.script.timeline import Timeline


def film_line(frames: np.ndarray, fps: float, play: Screenplay) -> str:
    """Return a film of frames (F, H, W, 3) in one line."""
    count, height, width = frames.shape[:3]
    title = f"{play.title!r}: " if play.title else ""
    shots = f"{len(play.shots)} shot{'s' * (len(play.shots) != 1)}"
    size = f"{count} frames of {width} x {height} at {fps:g} a second"
    return f"Film({title}{shots}, {size}, {count / fps:.1f} s)"


def shot_lines(line: Timeline, play: Screenplay) -> list[str]:
    """Return a line an entry of the screenplay: its time, its prompt, and what changes in it,
    when."""
    found = []
    for (first, end), shot, turns in zip(line.entry_spans, play.shots, line.turns, strict=True):
        changes = "; ".join([shot.prompt, *(turn.line for turn in turns)])
        found.append(f"{first / line.fps:.1f} to {end / line.fps:.1f} s: {changes}")
    return found


def small_mp4(frames: np.ndarray, fps: float, scale: int | None = None) -> bytes:
    """Return the bytes of a small mp4 of frames (F, H, W, 3); `scale` as in `write_mp4`."""
    need("av", extra="lab", what="Showing a film")
    from cinelab.stream.video import write_mp4  # late, as a film is rendered without PyAV

    with TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        write_mp4(path, frames, fps, scale, small=True)
        return path.read_bytes()


def video_uri(mp4: bytes) -> str:
    """Return the bytes of an mp4 as a data address, which a page plays without any other file."""
    return f"data:video/mp4;base64,{base64.b64encode(mp4).decode()}"


def film_html(frames: np.ndarray, fps: float, caption: str, lines: Sequence[str] = ()) -> str:
    """Return a player of the film that needs no other file, over its caption and a list of its
    shots."""
    source = video_uri(small_mp4(frames, fps))
    player = f'<video controls loop muted autoplay style="max-width:100%" src="{source}"></video>'
    shots = "".join(f"<li>{html.escape(one)}</li>" for one in lines)
    listed = f"<details><summary>shots</summary><ol>{shots}</ol></details>" if lines else ""
    below = f"<figcaption>{html.escape(caption)}{listed}</figcaption>"
    return f'<figure style="margin:0">{player}{below}</figure>'
