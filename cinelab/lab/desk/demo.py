"""The desk as an app for several visitors: one process, one model, films in turns. `cinelab demo`

A visitor's film has an address of its own, `/?film=<id>&token=<token>`: whoever opens it again goes
on with it, and several may look at it at once. The token that directs is one for all films; each
film has another one that only watches. See cinelab.lab.desk.access for who comes in, cinelab.lab.desk.visits
for what a film may take.

Between browser and server: JSON texts, and after a text that says `buffers: n` as many binary
messages (JPEG). Texts: `about` and `view` at first, then `news` of the view, `custom` messages
of the desk, `full` with why there is nothing here.
"""

import asyncio
import logging
import re
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import tornado.httpserver
import tornado.iostream
import tornado.web
import tornado.websocket
from tornado.ioloop import PeriodicCallback

from cinelab.errors import CinelabError, reason
from cinelab.files import to_json
from cinelab.lab.desk.access import DIRECTS, HEADERS, Doors, Keys, page_policy, token_given
from cinelab.lab.desk.messages import MESSAGE
from cinelab.lab.desk.viewers import Viewer
from cinelab.lab.desk.visits import FILM, OFFERED, House, DemoLimits, Visit, plain
from cinelab.lab.desk.widget import HERE
from cinelab.limits import PORT, check_number
from cinelab.memory.policy import Policy
from cinelab.outputs import ready_folder
from cinelab.stream.batch import policy_for
from cinelab.zoo.checkpoints import load

SWEEP = 1.0  # seconds between two looks at who is idle
STUCK = 60.0  # seconds that a browser may take for one message
SLOW = 30  # seconds for what a request takes to arrive
LOG = logging.getLogger("cinelab.demo")
SENTENCES = {
    400: "This request cannot be read; open the address that `cinelab demo` printed.",
    403: "This desk needs its token: open the address that `cinelab demo` printed.",
    404: "There is nothing here; open the address that `cinelab demo` printed.",
    405: "This cannot be done here; open the address that `cinelab demo` printed.",
}
PLAIN = re.compile(r"[A-Za-z0-9_./:*-]*")  # how far the path of an address may stand in the log
BROKEN = "Something failed here; try again."
CLOSED = (tornado.websocket.WebSocketClosedError, tornado.iostream.StreamClosedError)


# ---- every request


class _Guarded(tornado.web.RequestHandler):
    """Checks who asks before anything else; whatever goes wrong is one sentence here and one
    line in the log."""

    def initialize(self, house: House, doors: Doors) -> None:
        self.house = house
        self.doors = doors
        self.role = None

    def set_default_headers(self) -> None:
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        headers = self.request.headers
        if refused := self.doors.lets_in(headers.get("Host"), headers.get("Origin")):
            return self.refuse(403, refused)
        return self.check()

    def check(self) -> None:
        """Refuse whoever has neither the token that directs nor the one that watches this film."""
        self.role = self.house.keys.role(self.film, self.given("token"))
        if self.role is None:
            self.refuse(403)

    def given(self, name: str) -> bytes:
        """The last value of an argument of the address, as bytes: what is no UTF-8 is no error."""
        return self.request.query_arguments.get(name, [b""])[-1]

    @property
    def film(self) -> str:
        """The film that the address names, "" where it names none."""
        film = self.given("film").decode("ascii", "replace")
        return film if FILM.fullmatch(film) else ""

    def refuse(self, status: int, said: str = "") -> None:
        self.set_status(status)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish((said or SENTENCES.get(status, BROKEN)) + "\n")

    def write_error(self, status_code: int, **_) -> None:
        self.refuse(status_code)

    def log_exception(self, kind, error, _traceback) -> None:
        if not isinstance(error, tornado.web.HTTPError):
            LOG.error(
                "%s: %s",
                kind.__name__,
                plain(" ".join(str(error).split()), self.house.folder).replace(
                    self.house.keys.token, "***"
                ),
            )


class _Page(_Guarded):
    def get(self) -> None:
        if not self.film and self.role == DIRECTS:
            return self.redirect(f"/?token={self.house.keys.token}&film={secrets.token_hex(5)}")
        page = (HERE / "demo.html").read_text(encoding="utf-8")
        self.set_header("Content-Security-Policy", page_policy(page, self.request.host))
        return self.write(page)


class _Nothing(_Guarded):
    """Any other address."""

    def check(self) -> None:
        self.refuse(404)


class _File(_Guarded, tornado.web.StaticFileHandler):
    """The page's own files, which hold no secret."""

    def initialize(self, house: House, doors: Doors, path: Path) -> None:
        _Guarded.initialize(self, house, doors)
        tornado.web.StaticFileHandler.initialize(self, str(path))

    def check(self) -> None:
        return None


class _Download(_File):
    """A file of an export, to whoever may see the film."""

    @property
    def film(self) -> str:
        return self.path_args[0]

    def check(self) -> None:
        _Guarded.check(self)

    async def head(self, film: str, number: str, name: str) -> None:
        await self.get(film, number, name, False)

    async def get(self, film: str, number: str, name: str, include_body: bool = True) -> None:
        self.set_header("Content-Disposition", f'attachment; filename="{film}-{number}-{name}"')
        await super().get(f"{film}/export-{number}/{name}", include_body)


class _Wire(_Guarded, tornado.websocket.WebSocketHandler):
    """A browser at a film's desk."""

    visit: Visit | None = None
    writer: asyncio.Task | None = None

    def check_origin(self, origin: str) -> bool:
        return True  # `prepare` has looked at it

    async def open(self) -> None:
        self._awake = asyncio.Event()
        loop = asyncio.get_running_loop()
        self.viewer = Viewer(lambda: _soon(loop, self._rouse), self.role == DIRECTS)
        self.set_nodelay(True)
        try:
            await loop.run_in_executor(self.settings["clerk"], self._enter)
            self.writer = asyncio.ensure_future(self._write_all())
        except Exception as error:  # a film that cannot be opened must be said, whatever it is
            await self._sent(to_json({"full": self._why(error), "buffers": 0}), [])
            self.close()

    def _why(self, error: Exception) -> str:
        if isinstance(error, CinelabError):
            return plain(str(error), self.house.folder)
        self.log_exception(type(error), error, None)
        return f"This film cannot be opened ({type(error).__name__}); begin another one."

    def _enter(self) -> None:
        """Take a place; on the clerk's thread, for reading a long film takes its time."""
        if not self.film:
            raise CinelabError("This address names no film; open the first page for a new one.")
        visit = self.house.open(self.film, self.viewer, self.request.remote_ip)
        more = {"role": self.role, "film": self.film, "watch": self.house.keys.watch(self.film)}
        self.viewer.welcome({"about": visit.about | more}, visit.view)
        self.visit = visit

    def on_message(self, message: str | bytes) -> None:
        if self.visit is not None:
            self.visit.hear_text(message, self.viewer)

    def on_close(self) -> None:
        if self.writer is not None:
            self.writer.cancel()
        if self.visit is not None:
            with suppress(RuntimeError):  # the server ends, and closes every film itself
                self.settings["clerk"].submit(self.house.leave, self.film, self.viewer)

    def _rouse(self) -> None:
        """There is something to send; a browser for which too much waits is let go of at once."""
        self._awake.set()
        if self.viewer.lost:
            self._cut_off()

    def _cut_off(self) -> None:
        if self.ws_connection is not None:
            self.ws_connection.stream.close()  # a word of goodbye would wait behind all the rest

    async def _write_all(self) -> None:
        """Send what waits, one message after the other, each when the one before has gone."""
        with suppress(asyncio.CancelledError, *CLOSED):
            while True:
                await self._awake.wait()
                self._awake.clear()
                while (sent := self.viewer.take()) is not None:
                    if not await self._sent(*sent):
                        return self._cut_off()

    async def _sent(self, text: str, buffers: Sequence[bytes]) -> bool:
        """Whether the browser has taken a text and its buffers in time."""
        parts = []
        with suppress(*CLOSED):
            for one in (text, *map(bytes, buffers)):
                parts.append(self.write_message(one, binary=isinstance(one, bytes)))
        try:
            results = await asyncio.wait_for(asyncio.gather(*parts, return_exceptions=True), STUCK)
        except TimeoutError:
            return False
        return len(parts) == 1 + len(buffers) and not any(
            isinstance(result, BaseException) for result in results
        )


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop has ended, and the browser with it
        loop.call_soon_threadsafe(call)


def _noted(handler: tornado.web.RequestHandler) -> None:
    """One line for a request that was refused: never its query, nor what a mistyped address has in
    its place, for that holds the token."""
    if (status := handler.get_status()) >= 400:
        path = PLAIN.match(handler.request.path)[0][:60]
        path = path.replace(handler.application.settings["token"], "***")
        LOG.warning(
            "%d %s %s (%s)", status, handler.request.method, path, handler.request.remote_ip
        )


def _failed(work: Future) -> None:
    if error := work.exception():
        LOG.error("%s while films were let go of", type(error).__name__)


# ---- the server


def application(
    house: House, doors: Doors, clerk: ThreadPoolExecutor | None = None
) -> tornado.web.Application:
    more: dict = {"house": house, "doors": doors}
    offered = "|".join(name.replace(".", r"\.") for name in OFFERED)
    return tornado.web.Application(
        [
            (r"/", _Page, more),
            (r"/wire", _Wire, more),
            (r"/(demo\.js|desk\.js|desk\.css)", _File, more | {"path": HERE}),
            (
                rf"/export/([a-z0-9]{{10}})/([1-9][0-9]{{0,4}})/({offered})",
                _Download,
                more | {"path": house.folder.resolve()},
            ),
        ],
        default_handler_class=_Nothing,
        default_handler_args=more,
        log_function=_noted,
        clerk=clerk or ThreadPoolExecutor(1),
        token=house.keys.token,
        websocket_ping_interval=20,
        websocket_max_message_size=MESSAGE,
    )


async def serve(
    house: House,
    host: str,
    port: int,
    *,
    announce: Callable[[str], None],
    until: asyncio.Event | None = None,
    names: Sequence[str] = (),
) -> None:
    """Serve until cancelled, or until `until` is set. `announce` is called with every address once
    the server listens; `names` are those of a proxy. Raises CinelabError where the port is taken."""
    doors = Doors(host, tuple(names))
    clerk = ThreadPoolExecutor(1, "cinelab-clerk")
    server = tornado.httpserver.HTTPServer(
        application(house, doors, clerk),
        max_header_size=2**14,
        max_body_size=MESSAGE,
        idle_connection_timeout=SLOW,
        body_timeout=SLOW,
    )
    try:
        server.listen(port, host)
    except (OSError, UnicodeError) as error:  # UnicodeError: a host of empty or too long parts
        raise CinelabError(
            f"port {port} on {host} cannot be used ({reason(error)}); give another with --port or "
            "--host."
        ) from error
    port = next(iter(server._sockets.values())).getsockname()[1]
    sweeper = PeriodicCallback(
        lambda: clerk.submit(house.sweep).add_done_callback(_failed),
        1000 * min(SWEEP, house.limits.idle),
    )
    sweeper.start()
    for address in doors.addresses(port):
        announce(f"{address}/?token={house.keys.token}")
    try:
        await (until or asyncio.Event()).wait()
    finally:
        sweeper.stop()
        server.stop()
        clerk.submit(house.close).result()
        clerk.shutdown()


def demo(
    folder: str | Path,
    model: str,
    limits: DemoLimits,
    *,
    host: str,
    port: int,
    announce: Callable[[str], None],
    policy: str | Policy | None = None,
    budget: int | None = None,
    token: str | None = None,
    names: Sequence[str] = (),
) -> None:
    """Run the app until Ctrl-C; films begin under `policy`, None = the model's own. `token` None
    = that of $CINELAB_TOKEN, else a new one; `names` are host names besides our own (of a proxy
    before us)."""
    check_number("port", port, 0, PORT)
    keys = Keys(token_given(token))
    Doors(host, tuple(names))  # refused now, before the model is read
    ready_folder(folder)
    bundle = load(model)
    policy_for(bundle, policy, budget)  # refused now, not at the first visit
    house = House(Path(folder), bundle, limits, policy=policy, budget=budget, keys=keys)
    try:
        asyncio.run(serve(house, host, port, announce=announce, names=names))
    except KeyboardInterrupt:
        announce("Closed; every film is in " + str(folder))
