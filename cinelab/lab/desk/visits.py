"""The films of a demo: who has a place, what a film may take, and what is let go of when somebody
else asks.

A place belongs to a film. One that nobody looks at keeps its place until it is asked for, or for
`idle` seconds; it is saved and can be gone on with. One that was never played leaves nothing
behind.
"""

import re
import shutil
import threading
import time
from collections import defaultdict, deque
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cinelab.errors import CinelabError
from cinelab.lab.desk.access import Keys
from cinelab.lab.desk.kernel import Kernel
from cinelab.lab.desk.messages import Do, Export, Watch, read
from cinelab.lab.desk.viewers import Viewer, Viewers
from cinelab.lab.desk.widget import Desk, open_session
from cinelab.limits import CHUNKS, FILMS, VISITORS, check_number
from cinelab.memory.policy import Policy
from cinelab.readable import Readable
from cinelab.stream.fair_lock import FairLock
from cinelab.stream.readout import FilmBounds
from cinelab.stream.session import Session
from cinelab.zoo.bundle import Bundle

FILM = re.compile(r"[a-z0-9]{10}")
FULL = "All {} places are taken; come again in a while."
WATCHING = "You are watching this film; only who has its own address can direct it."
OFFERED = (
    "film.mp4",
    "film.gif",
    "storyboard.png",
    "film.shots.json",
    "screenplay.yaml",
)  # of an export; the rest names our folders
# films that one address may begin in so many seconds
FRESH = 30
WHILE = 60.0
# bytes of a film's log for commands, and for each of its chunks
LOG = 4 * 2**20
LINE = 2**13
SAID = 500  # characters of a sentence at most, whatever it quotes


@dataclass(frozen=True)
class Rules:
    """What a visitor may: films at once, chunks of a film with all its takes, seconds until an
    unwatched film is let go of, browsers that look at one film, commands that wait, exports of a
    film, MiB of a film's log and chunks, films that the folder holds."""

    visitors: int = 10
    chunks: int = 480
    idle: float = 300.0
    viewers: int = 20
    waiting: int = 64
    exports: int = 10
    mebibytes: int = 1024
    films: int = 1000

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


class Visit(Desk):
    """A film's desk whose views are browsers at the other ends of `viewers`. No message names a
    folder of this machine."""

    def __init__(self, session: Session, rules: Rules, exporting: threading.Lock, **more):
        self.viewers = Viewers()
        self.rules = rules
        # one export at a time in the house, and of this film
        self._exporting = exporting
        self._one = threading.Lock()
        super().__init__(session, bounds=rules.bounds, **more)
        self.observe(self._pass_on_view, names="view")

    def _posted(self) -> Viewers:
        return self.viewers

    def _hears(self) -> Kernel:
        return Kernel()  # no cell is between

    def _pass_on_view(self, change: dict) -> None:
        self.viewers.show(change["new"])

    def send(self, content, buffers=None) -> None:
        self.viewers.send(content, list(buffers or []))

    @property
    def played(self) -> bool:
        return self.live.readout.chunks > 0

    def hear_text(self, text: str | bytes, viewer: Viewer) -> None:
        """A message from a viewer's browser."""
        self.hear(text, viewer, read)

    def _do(self, message: Do, viewer: Viewer) -> None:
        if not viewer.directs:
            return self._say(message.id, viewer, error=WATCHING)
        return super()._do(message, viewer)

    def _export(self, message: Export, viewer: Viewer) -> None:
        if not viewer.directs:
            return self._say(message.id, viewer, error=WATCHING)
        if not self._one.acquire(blocking=False):
            return self._say(
                message.id, viewer, error="An export is being written; wait until it is there."
            )
        if len(list(self.folder.glob("export-*"))) >= self.rules.exports:
            self._one.release()
            return self._say(
                message.id,
                viewer,
                error=f"A film has {self.rules.exports} exports, the most here; download one of "
                "them.",
            )
        return super()._export(message, viewer)

    def _write(self, message: Export, viewer: Viewer, ticket) -> None:
        try:
            with self._exporting:
                super()._write(message, viewer, ticket)
        finally:
            self._one.release()

    def _read_take(self, message: Watch, viewer: Viewer) -> None:
        # reading from the disk goes on beside the films: one at a time in the house
        with self._exporting:
            super()._read_take(message, viewer)

    def _written(self, folder: Path) -> tuple[tuple[dict, list[bytes]], str]:
        number = int(folder.name.rpartition("-")[2])
        files = [name for name in OFFERED if (folder / name).is_file()]
        return (
            {"kind": "film", "path": f"export {number}", "number": number, "files": files},
            [],
        ), f"Export {number} can be downloaded."

    def _say(self, id: int, viewer: Viewer, said: str = "", error: str = "") -> None:
        super()._say(id, viewer, plain(said, self.folder), plain(error, self.folder))

    def _seen(self) -> dict:
        view = super()._seen()
        return view | {name: plain(view[name], self.folder) for name in ("said", "error")}


def plain(text: str, folder: Path) -> str:
    """A sentence without the paths of this machine, and of bounded length."""
    for place in (folder.resolve(), folder):
        text = text.replace(str(place), "this film")
    return text if len(text) <= SAID else f"{text[: SAID - 3]}..."


@dataclass
class House(Readable):
    """All visits, the model that they share, and the rules. Its methods may be called from any
    thread."""

    folder: Path
    bundle: Bundle
    rules: Rules = Rules()
    policy: str | Policy | None = None  # of a film that begins; None = the model's own
    budget: int | None = None
    keys: Keys = field(default_factory=Keys)
    turns: FairLock = field(default_factory=FairLock)
    visits: dict[str, Visit] = field(default_factory=dict)
    left: dict[str, float] = field(default_factory=dict)  # when the last viewer of a film went

    def __post_init__(self):
        self._lock = threading.RLock()
        self._exporting = threading.Lock()
        self._fresh: dict[str, deque[float]] = defaultdict(deque)  # when an address began films

    def open(self, film: str, viewer: Viewer, address: str = "") -> Visit:
        """The film's desk for one more viewer. Raises CinelabError: no place, no such film, too
        many viewers."""
        with self._lock:
            visit = self.visits.get(film) or self._begin(film, viewer, address)
            if len(visit.viewers) >= self.rules.viewers:
                raise CinelabError(
                    f"{self.rules.viewers} browsers look at this film, the most here; close one "
                    "of them."
                )
            self.left.pop(film, None)
            visit.viewers.add(viewer)
            return visit

    def _begin(self, film: str, viewer: Viewer, address: str) -> Visit:
        folder = self.folder / film
        fresh = not (folder / "session.json").exists()
        if fresh and not viewer.directs:
            raise CinelabError("There is no such film; ask for its address again.")
        if fresh:
            self._check_films()
        self._make_place()
        if fresh:
            self._count(address)
        with ExitStack() as held:
            session = open_session(folder, self.bundle, policy=self.policy, budget=self.budget)
            held.callback(session.close)
            self.visits[film] = Visit(
                session, self.rules, self._exporting, held=held.pop_all(), turns=self.turns
            )
        self.left[film] = time.monotonic()
        return self.visits[film]

    def _make_place(self) -> None:
        """Let go of a film that nobody looks at, one that was never played before others, if all
        places are taken."""
        if len(self.visits) < self.rules.visitors:
            return
        if not self.left:
            raise CinelabError(FULL.format(self.rules.visitors))
        self._let_go(min(self.left, key=lambda film: (self.visits[film].played, self.left[film])))

    def _check_films(self) -> None:
        """Refuse a new film where the folder holds as many as it may."""
        kept = sum(FILM.fullmatch(one.name) is not None for one in self.folder.glob("*"))
        if kept >= self.rules.films:
            raise CinelabError(
                f"This demo keeps {self.rules.films} films, the most here; go on with one of yours."
            )

    def _count(self, address: str) -> None:
        """Refuse a new film where too many were begun from one address just now."""
        now = time.monotonic()
        for known in [
            known for known, times in self._fresh.items() if not times or now - times[-1] > WHILE
        ]:
            del self._fresh[known]
        times = self._fresh[address]
        while times and now - times[0] > WHILE:
            times.popleft()
        if len(times) >= FRESH:
            raise CinelabError(
                f"{FRESH} films were begun from your address within a minute; go on with one of "
                "them, or wait a little."
            )
        times.append(now)

    def leave(self, film: str, viewer: Viewer) -> None:
        """A viewer has gone; if it was the last one the film pauses."""
        with self._lock:
            visit = self.visits.get(film)
            if visit is None or viewer not in visit.viewers:
                return
            visit.viewers.remove(viewer)
            if not len(visit.viewers):
                visit.live.pause()
                self.left[film] = time.monotonic()

    def sweep(self) -> None:
        """Let go of films that nobody has looked at for long."""
        with self._lock:
            for film in [
                film
                for film, when in self.left.items()
                if time.monotonic() - when > self.rules.idle
            ]:
                self._let_go(film)

    def _let_go(self, film: str) -> None:
        self.left.pop(film, None)
        visit = self.visits.pop(film)
        visit.close()
        if not visit.played:
            self._remove_unplayed(visit.folder)

    def _remove_unplayed(self, folder: Path) -> None:
        """A film in which nothing was ever said or made leaves nothing behind."""
        if (folder / "log.jsonl").exists() or any((folder / "chunks").glob("*.safetensors")):
            return
        with suppress(OSError):
            shutil.rmtree(folder)

    def close(self) -> None:
        with self._lock:
            for film in list(self.visits):
                self._let_go(film)
            self.left.clear()
