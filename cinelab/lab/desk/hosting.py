"""The films of a demo: which of them are open, what each may take, and which is closed when another
visitor needs its place.

A place belongs to a film. A film that nobody watches keeps its place until another film needs it,
or for `idle` seconds; it is on the disk and can be continued. A film that was never played leaves
nothing behind.
"""

import re
import shutil
import threading
import time
from collections import defaultdict, deque
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cinelab.errors import CinelabError
from cinelab.lab.desk.access import Tokens
from cinelab.lab.desk.frame_channel import MessageChannel
from cinelab.lab.desk.kernel import KernelActivity
from cinelab.lab.desk.messages import Do, Export, Watch, read_message
from cinelab.lab.desk.viewers import Viewer, Viewers
from cinelab.lab.desk.widget import DeskWidget, ExportReply, open_or_create_session
from cinelab.limits import CHUNKS, FILMS, VISITORS, check_number
from cinelab.memory.policy import Policy
from cinelab.readable import Readable
from cinelab.stream.fair_lock import FairLock
from cinelab.stream.readout import FilmBounds
from cinelab.stream.session import Session
from cinelab.zoo.bundle import Bundle

FILM = re.compile(r"[a-z0-9]{10}")
FULL = "All {} places are taken; come again in a while."
WATCHING = "You are watching this film; only its own address can direct it."
OFFERED = (
    "film.mp4",
    "film.gif",
    "storyboard.png",
    "film.shots.json",
    "screenplay.yaml",
)  # of an export; other files name folders of this machine
# films that one address may begin in so many seconds
MOST_BEGUN = 30
WHILE = 60.0
# bytes of a film's log for commands, and for each of its chunks
LOG = 4 * 2**20
LINE = 2**13
LONGEST_SENTENCE = 500  # characters, whatever the sentence quotes


@dataclass(frozen=True)
class DemoLimits:
    """What visitors may take."""

    visitors: int = 10  # films at once
    chunks: int = 480  # of a film, all takes counted
    idle: float = 300.0  # seconds until a film that nobody watches is closed
    viewers: int = 20  # browsers that watch one film
    waiting: int = 64  # commands of a film that wait
    exports: int = 10  # of a film
    mebibytes: int = 1024  # MiB of a film's log and chunks
    films: int = 1000  # that the folder holds

    def __post_init__(self):
        check_number("visitors", self.visitors, 1, VISITORS)
        check_number("chunks", self.chunks, 1, CHUNKS)
        check_number("idle", self.idle, above=0, most=1e9, whole=False)
        check_number("viewers", self.viewers, 1, VISITORS)
        check_number("waiting", self.waiting, 1, 10_000)
        check_number("exports", self.exports, 0, 10_000)
        check_number("mebibytes", self.mebibytes, 1, 2**20)
        check_number("films", self.films, 1, FILMS)

    @property
    def bounds(self) -> FilmBounds:
        return FilmBounds(
            self.chunks, self.mebibytes * 2**20, self.waiting, LOG + self.chunks * LINE
        )


class HostedDesk(DeskWidget):
    """A film's desk whose views are browsers at the other ends of `viewers`. No message names a
    folder of this machine."""

    def __init__(
        self, session: Session, limits: DemoLimits, disk_lock: threading.Lock, **more: Any
    ):
        self.viewers = Viewers()
        self.limits = limits
        self._disk_lock = disk_lock  # one export or take at a time in the whole demo
        self._export_lock = threading.Lock()  # one export at a time of this film
        super().__init__(session, bounds=limits.bounds, **more)
        self.observe(self._show_view, names="view")

    def _make_channel(self) -> Viewers:
        return self.viewers

    def _follow_kernel(self) -> KernelActivity:
        return KernelActivity()  # no cell is in the way

    def _show_view(self, change: dict) -> None:
        self.viewers.show(change["new"])

    def send(self, content: dict, buffers: list[bytes] | None = None) -> None:
        self.viewers.send(content, list(buffers or []))

    @property
    def played(self) -> bool:
        return self.live.readout.chunks > 0

    def receive_text(self, text: str | bytes, viewer: Viewer) -> None:
        """Handle a message of a viewer's browser."""
        self.receive_message(text, viewer, read_message)

    def _on_command(self, message: Do, viewer: MessageChannel) -> None:
        if not viewer.directs:
            return self._reply(message.id, viewer, error=WATCHING)
        super()._on_command(message, viewer)

    def _on_export(self, message: Export, viewer: MessageChannel) -> None:
        if not viewer.directs:
            return self._reply(message.id, viewer, error=WATCHING)
        if not self._export_lock.acquire(blocking=False):
            error = "An export is being written; wait until it is there."
            return self._reply(message.id, viewer, error=error)
        most = self.limits.exports
        if len(list(self.folder.glob("export-*"))) >= most:
            self._export_lock.release()
            error = f"A film has {most} exports, the most here; download one of them."
            return self._reply(message.id, viewer, error=error)
        super()._on_export(message, viewer)

    def _export_film(
        self, message: Export, viewer: MessageChannel, ticket: "Future[Session]"
    ) -> None:
        try:
            with self._disk_lock:
                super()._export_film(message, viewer, ticket)
        finally:
            self._export_lock.release()

    def _send_take(self, message: Watch, viewer: MessageChannel) -> None:
        # the films continue while a take is read from the disk
        with self._disk_lock:
            super()._send_take(message, viewer)

    def _export_reply(self, folder: Path) -> ExportReply:
        number = int(folder.name.rpartition("-")[2])
        files = [name for name in OFFERED if (folder / name).is_file()]
        content = {"kind": "film", "path": f"export {number}", "number": number, "files": files}
        return content, [], f"Export {number} can be downloaded."

    def _reply(self, id: int, viewer: MessageChannel, text: str = "", *, error: str = "") -> None:
        hidden = hide_paths(error, self.folder)
        super()._reply(id, viewer, hide_paths(text, self.folder), error=hidden)

    def current_view(self) -> dict:
        view = super().current_view()
        return view | {name: hide_paths(view[name], self.folder) for name in ("message", "error")}


def hide_paths(text: str, folder: Path) -> str:
    """Take the paths of this machine out of a sentence, and bound its length."""
    for place in (folder.resolve(), folder):
        text = text.replace(str(place), "this film")
    if len(text) > LONGEST_SENTENCE:
        return f"{text[: LONGEST_SENTENCE - 3]}..."
    return text


@dataclass
class FilmHost(Readable):
    """All open films, the model that they share, and the limits. Its methods may be called from any
    thread."""

    folder: Path
    bundle: Bundle
    limits: DemoLimits = DemoLimits()
    policy: str | Policy | None = None  # of a film that begins; None = the model's own
    budget: int | None = None
    tokens: Tokens = field(default_factory=Tokens)
    turns: FairLock = field(default_factory=FairLock)
    desks: dict[str, HostedDesk] = field(default_factory=dict)  # by film
    left: dict[str, float] = field(default_factory=dict)  # film -> when its last viewer left

    def __post_init__(self):
        self._lock = threading.RLock()
        self._disk_lock = threading.Lock()
        self._begun: dict[str, deque[float]] = defaultdict(deque)  # address -> when films began

    def open(self, film: str, viewer: Viewer, address: str = "") -> HostedDesk:
        """Return the film's desk for one more viewer. Raises CinelabError: no place, no such film,
        too many viewers."""
        with self._lock:
            desk = self.desks.get(film) or self._open_film(film, viewer, address)
            if len(desk.viewers) >= self.limits.viewers:
                raise CinelabError(
                    f"{self.limits.viewers} browsers watch this film, the most here; close one of "
                    "them."
                )
            self.left.pop(film, None)
            desk.viewers.add(viewer)
            return desk

    def _open_film(self, film: str, viewer: Viewer, address: str) -> HostedDesk:
        folder = self.folder / film
        is_new = not (folder / "session.json").exists()
        if is_new and not viewer.directs:
            raise CinelabError("There is no such film; get its address again from its director.")
        if is_new:
            self._check_film_count()
        self._free_a_place()
        if is_new:
            self._check_rate(address)
        with ExitStack() as resources:
            session = open_or_create_session(
                folder, self.bundle, policy=self.policy, budget=self.budget
            )
            resources.callback(session.close)
            self.desks[film] = HostedDesk(
                session,
                self.limits,
                self._disk_lock,
                resources=resources.pop_all(),
                turns=self.turns,
            )
        self.left[film] = time.monotonic()
        return self.desks[film]

    def _free_a_place(self) -> None:
        """Close a film that nobody watches, one that was never played first, if all places are
        taken."""
        if len(self.desks) < self.limits.visitors:
            return
        if not self.left:
            raise CinelabError(FULL.format(self.limits.visitors))
        self._close_film(
            min(self.left, key=lambda film: (self.desks[film].played, self.left[film]))
        )

    def _check_film_count(self) -> None:
        """Refuse a new film where the folder holds as many as it may."""
        count = sum(FILM.fullmatch(one.name) is not None for one in self.folder.glob("*"))
        if count >= self.limits.films:
            raise CinelabError(
                f"This demo holds {self.limits.films} films, the most here; continue one of yours."
            )

    def _check_rate(self, address: str) -> None:
        """Refuse a new film where too many were begun from one address just now."""
        now = time.monotonic()
        for known, times in list(self._begun.items()):
            if not times or now - times[-1] > WHILE:
                del self._begun[known]
        times = self._begun[address]
        while times and now - times[0] > WHILE:
            times.popleft()
        if len(times) >= MOST_BEGUN:
            raise CinelabError(
                f"{MOST_BEGUN} films were begun from your address within a minute; continue one of "
                "them, or wait a little."
            )
        times.append(now)

    def leave(self, film: str, viewer: Viewer) -> None:
        """Remove a viewer; without any the film pauses."""
        with self._lock:
            desk = self.desks.get(film)
            if desk is None or viewer not in desk.viewers:
                return
            desk.viewers.remove(viewer)
            if not len(desk.viewers):
                desk.live.pause()
                self.left[film] = time.monotonic()

    def close_idle_films(self) -> None:
        """Close the films that nobody has watched for `limits.idle` seconds."""
        now = time.monotonic()
        with self._lock:
            idle = [film for film, when in self.left.items() if now - when > self.limits.idle]
            for film in idle:
                self._close_film(film)

    def _close_film(self, film: str) -> None:
        self.left.pop(film, None)
        desk = self.desks.pop(film)
        desk.close()
        if not desk.played:
            self._remove_unplayed(desk.folder)

    def _remove_unplayed(self, folder: Path) -> None:
        """Remove the folder of a film without any command or chunk."""
        if (folder / "log.jsonl").exists() or any((folder / "chunks").glob("*.safetensors")):
            return
        with suppress(OSError):
            shutil.rmtree(folder)

    def close(self) -> None:
        with self._lock:
            for film in list(self.desks):
                self._close_film(film)
            self.left.clear()
