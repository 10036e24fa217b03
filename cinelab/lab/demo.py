"""The desk as an app for several visitors: one process, one model, their films in turns. `cinelab demo`

A visitor's film has an address of its own, `/?film=<id>`: whoever opens it again goes on with it. A film that nobody looks at is
paused, saved (it always is) and let go of after a while. Without the token nobody comes in.

Between browser and server: JSON texts, and after a text that says `buffers: n` as many binary messages (JPEG or mp4).
"""

import asyncio
import json
import re
import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import tornado.httpserver
import tornado.web
import tornado.websocket
from tornado.ioloop import IOLoop, PeriodicCallback

from cinelab.errors import CinelabError
from cinelab.files import reason, to_json
from cinelab.lab.desk import HERE, Desk, open_session
from cinelab.limits import CHUNKS, PORT, VISITORS, check_number
from cinelab.memory.policy import Policy
from cinelab.model.zoo import Bundle, load
from cinelab.outputs import ready_folder
from cinelab.stream.engine import policy_for
from cinelab.stream.live import Bounds, Turns

FILM = re.compile(r"[a-z0-9]{10}")
SWEEP = 1.0  # seconds between two looks at who is idle
FULL = "All {} places are taken; come again in a while."


@dataclass(frozen=True)
class Rules:
    """What a visitor may: how many at once, chunks a film, seconds until an unwatched film is let go of."""

    visitors: int = 10
    chunks: int = 480
    idle: float = 300.0

    def __post_init__(self):
        check_number("visitors", self.visitors, 1, VISITORS)
        check_number("chunks", self.chunks, 1, CHUNKS)
        check_number("idle", self.idle, above=0, most=1e9, whole=False)


class Visit(Desk):
    """A desk whose browser is at the other end of `wire`, called as wire(text, buffers) from any thread."""

    def __init__(self, session, wire: Callable[[dict, list], None], **more):
        self.wire = wire
        super().__init__(session, **more)
        self.observe(lambda change: self.wire({"view": change["new"]}, []), names="view")

    def send(self, content, buffers=None) -> None:
        self.wire({"custom": content}, list(buffers or []))


@dataclass
class House:
    """All visits, the model that they share, and the rules."""

    folder: Path
    bundle: Bundle
    rules: Rules = Rules()
    policy: str | Policy | None = None  # of a film that begins; None = the model's own
    budget: int | None = None
    token: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    turns: Turns = field(default_factory=Turns)
    visits: dict[str, Visit] = field(default_factory=dict)
    left: dict[str, float] = field(default_factory=dict)  # when the last viewer of a film went

    def open(self, film: str, wire: Callable[[dict, list], None]) -> Visit:
        """The film's desk for a new viewer; the one before stops getting pictures. Raises CinelabError when full."""
        self.left.pop(film, None)
        if film in self.visits:
            self.visits[film].wire = wire
            return self.visits[film]
        if len(self.visits) >= self.rules.visitors:
            raise CinelabError(FULL.format(self.rules.visitors))
        with ExitStack() as held:
            session = open_session(self.folder / film, self.bundle, policy=self.policy, budget=self.budget)
            held.callback(session.close)
            self.visits[film] = Visit(session, wire, held=held.pop_all(), turns=self.turns, bounds=Bounds(self.rules.chunks))
        return self.visits[film]

    def leave(self, film: str, wire: Callable) -> None:
        """A viewer has gone; if it was the last one the film pauses."""
        visit = self.visits.get(film)
        if visit and visit.wire is wire:
            visit.wire = lambda *_: None
            visit.live.send("pause")
            self.left[film] = time.monotonic()

    def sweep(self) -> None:
        """Let go of films that nobody has looked at for long."""
        for film in [film for film, when in self.left.items() if time.monotonic() - when > self.rules.idle]:
            del self.left[film]
            self.visits.pop(film).close()

    def close(self) -> None:
        for visit in self.visits.values():
            visit.close()
        self.visits.clear()


class _Guarded(tornado.web.RequestHandler):
    def initialize(self, house: House) -> None:
        self.house = house

    def prepare(self) -> None:
        if not secrets.compare_digest(self.get_argument("token", ""), self.house.token):
            self.set_status(403)
            self.finish("This desk needs its token: open the address that `cinelab demo` printed.")


class _Page(_Guarded):
    def get(self) -> None:
        film = self.get_argument("film", "")
        if not FILM.fullmatch(film):
            self.redirect(f"/?token={self.house.token}&film={secrets.token_hex(5)}")
            return
        self.set_header("Cache-Control", "no-store")
        self.write((HERE / "demo.html").read_text(encoding="utf-8"))


class _Wire(_Guarded, tornado.websocket.WebSocketHandler):
    def open(self) -> None:
        self.film, self.loop = self.get_argument("film", ""), IOLoop.current()
        self.wire = lambda text, buffers: self.loop.add_callback(self._write, text, buffers)
        try:
            if not FILM.fullmatch(self.film):
                raise CinelabError(f"film is {self.film!r}; open the first page for a new one.")
            visit = self.house.open(self.film, self.wire)
        except CinelabError as error:
            self._write({"full": str(error)}, [])
            self.close()
            return
        self._write({"about": visit.about, "view": visit.view}, [])

    def on_message(self, message) -> None:
        """Anything that is no message of the desk's is passed over: it changes nothing."""
        try:
            content = json.loads(message)
            self.house.visits[self.film].hear(content, self.house.visits[self.film]._post)
        except (ValueError, KeyError, TypeError):
            return

    def on_close(self) -> None:
        self.house.leave(self.film, self.wire)

    def _write(self, text: dict, buffers: list) -> None:
        """One text and its buffers, together; a browser that has gone hears nothing."""
        try:
            self.write_message(to_json(text | {"buffers": len(buffers)}))
            for buffer in buffers:
                self.write_message(bytes(buffer), binary=True)
        except tornado.websocket.WebSocketClosedError:
            return


def application(house: House) -> tornado.web.Application:
    files = {"path": str(HERE)}
    return tornado.web.Application([
        (r"/", _Page, {"house": house}), (r"/wire", _Wire, {"house": house}),
        (r"/(demo\.js|desk\.js|desk\.css)", tornado.web.StaticFileHandler, files)], websocket_ping_interval=20)


async def serve(house: House, host: str, port: int, told: Callable[[str], None], until: asyncio.Event | None = None) -> None:
    """Serve until cancelled, or until `until` is set; tells the address once it is there."""
    server = tornado.httpserver.HTTPServer(application(house))
    try:
        server.listen(port, host)
    except (OSError, UnicodeError) as error:  # UnicodeError: a host of empty or too long parts
        raise CinelabError(f"port {port} on {host} cannot be used ({reason(error)}); give another with --port or --host.") from error
    port = next(iter(server._sockets.values())).getsockname()[1]
    sweeper = PeriodicCallback(house.sweep, 1000 * min(SWEEP, house.rules.idle))
    sweeper.start()
    told(f"http://{host}:{port}/?token={house.token}")
    try:
        await (until or asyncio.Event()).wait()
    finally:
        sweeper.stop()
        server.stop()
        house.close()


def demo(folder: str | Path, model: str, rules: Rules, host: str, port: int, told: Callable[[str], None],
         policy: str | Policy | None = None, budget: int | None = None) -> None:
    """Run the app until Ctrl-C; films begin under `policy`, None = the model's own."""
    check_number("port", port, 0, PORT)
    ready_folder(folder)
    bundle = load(model)
    policy_for(bundle, policy, budget)  # refused now, not at the first visit
    house = House(Path(folder), bundle, rules, policy=policy, budget=budget)
    try:
        asyncio.run(serve(house, host, port, told))
    except KeyboardInterrupt:
        told("Closed; every film is in " + str(folder))
