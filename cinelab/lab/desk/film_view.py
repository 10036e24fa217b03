"""What the views of a desk show of one film: its tree, a still of every take, and the shots that
the newest chunk attends to."""

from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Event

import numpy as np

from cinelab.config import to_dict
from cinelab.errors import CinelabError
from cinelab.lab.desk.frame_channel import jpeg
from cinelab.lab.desk.view import memory_strip, next_retake, readout_line, sentence, step_count
from cinelab.stream.attention_shares import shots_retrieved
from cinelab.stream.commands import policy_label
from cinelab.stream.film_tree import FilmTree, node_frames
from cinelab.stream.readout import LiveChunk, Readout
from cinelab.stream.session import Node, Session

EARLIER = 50  # prompts that the box goes back to


class FilmView:
    """Follows the chunks of a film.

    `on_disk` is a copy of the session at rest, which any thread may read; `send(content, buffers)`
    reaches every view. The engine's thread calls `new_chunks.put`; everything else but
    `load_stills` belongs to the sender's thread.
    """

    def __init__(self, on_disk: Session, send: Callable[[dict, list[bytes]], None]):
        self.on_disk = on_disk
        self.new_chunks: SimpleQueue[LiveChunk] = SimpleQueue()
        self.tree = FilmTree()
        self.stills: dict[int, bytes] = {}  # line -> JPEG
        self._send = send
        self._attended: dict[int, dict[int, float]] = {}  # layer -> shot -> share of heads
        for node in on_disk.nodes.values():
            self.tree.add(node)

    def take(self, chunk: int) -> list[Node]:
        """Return the chunks of a shot up to `chunk`, in order."""
        return self.tree.take(chunk)

    def last_frame(self, chunk: int) -> np.ndarray:
        """Return a chunk's last frame uint8 (1, H, W, 3), read from the disk."""
        return node_frames(self.on_disk, self.tree.nodes[chunk])[-1:]

    def note_attended(self, shown: LiveChunk) -> None:
        """Note what the chunk that is shown now attended to."""
        self._attended = shots_retrieved(shown.cache, shown.place.index)

    def values(self, now: Readout, *, closed: bool) -> dict:
        """Return the view as plain values. `now` was read before, so the tree is at least as
        new."""
        self._receive_chunks()
        shots = self.tree.shots(now.desk.head, now.desk.cut)
        return {
            "playing": now.playing,
            "revision": now.serial,
            "message": now.message,
            "error": sentence(now.error),
            "readout": readout_line(now),
            "chunks": now.chunks,
            "settings": _shown_settings(now),
            "cut": now.desk.cut,
            "shots": shots,
            "closed": closed,
            "attended": memory_strip(self._attended, len(shots)),
            "earlier": list(self.tree.prompts)[-EARLIER:],
            "remembering": now.remembering,
            "retake": next_retake(now.desk, self.tree),
        }

    def _receive_chunks(self) -> None:
        """Add the chunks that the engine has made since to the tree."""
        while True:
            try:
                shown = self.new_chunks.get_nowait()
            except Empty:
                return
            if self.tree.add(shown.place):
                self._send_still(shown.node, shown.frames[0])

    def _send_still(self, line: int, frame: np.ndarray) -> None:
        self.stills[line] = jpeg(frame)
        self._send({"kind": "stills", "lines": [line]}, [self.stills[line]])

    def load_stills(self, ended: Event) -> None:
        """Send a still of every take that is on the disk, until `ended`; a take whose file cannot
        be read has none."""
        for line in self.tree.lines:
            if ended.is_set():
                return
            with suppress(CinelabError):
                frames = node_frames(self.on_disk, self.on_disk.nodes[line])
                self._send_still(line, frames[0])


def _shown_settings(now: Readout) -> dict:
    settings = now.desk.settings
    return to_dict(settings) | {
        "policy": policy_label(settings),
        "steps": step_count(settings.steps),
    }
