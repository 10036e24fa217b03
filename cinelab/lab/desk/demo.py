"""The desk as a web page for several visitors, `cinelab demo`: one process, one model, films in
turns.

A visitor's film has an address of its own, `/?film=<id>&token=<token>`: opened again it continues,
and several may watch it at once. The token that directs is one for all films; each film has
another one that only watches. See `cinelab.lab.desk.access` for who may enter, and
`cinelab.lab.desk.hosting` for what a film may take.

Between browser and server: JSON texts, and after a text with `buffers: n` as many binary messages
(JPEG). Texts: `about` and `view` at first, then `changes` of the view, `custom` messages of the
desk, `full` with the reason why there is nothing here.

Threads: tornado's loop serves requests and websockets; the clerk, one thread, opens and closes
films, which takes its time; each film has the threads of its desk (`cinelab.lab.desk.widget`).
"""

import asyncio
import logging
import re
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import tornado.httpserver
import tornado.iostream
import tornado.web
import tornado.websocket
from tornado.ioloop import PeriodicCallback

from cinelab.errors import CinelabError, reason
from cinelab.files import to_json
from cinelab.lab.desk.access import (
    DIRECTOR,
    HEADERS,
    AllowedHosts,
    Tokens,
    chosen_token,
    page_policy,
)
from cinelab.lab.desk.hosting import FILM, OFFERED, DemoLimits, FilmHost, HostedDesk, hide_paths
from cinelab.lab.desk.messages import MESSAGE
from cinelab.lab.desk.page import HERE, SCRIPTS, STYLE
from cinelab.lab.desk.viewers import Viewer
from cinelab.limits import PORT, check_number
from cinelab.memory.policy import Policy
from cinelab.outputs import ready_folder
from cinelab.stream.batch import policy_for
from cinelab.zoo.checkpoints import load

CHECK_IDLE = 1.0  # seconds between two checks for idle films
STUCK = 60.0  # seconds that a browser may take for one message
SLOW = 30  # seconds for what a request takes to arrive
LOG = logging.getLogger("cinelab.demo")
SENTENCES = {
    400: "This request cannot be read; open the address that `cinelab demo` printed.",
    403: "This desk needs its token: open the address that `cinelab demo` printed.",
    404: "There is nothing here; open the address that `cinelab demo` printed.",
    405: "This cannot be done here; open the address that `cinelab demo` printed.",
}
PLAIN = re.compile(r"[A-Za-z0-9_./:*-]*")  # what of an address's path may stand in the log
BROKEN = "Something failed here; try again."
CLOSED = (tornado.websocket.WebSocketClosedError, tornado.iostream.StreamClosedError)


# ---- every request


class _Guarded(tornado.web.RequestHandler):
    """Checks a request before anything else; whatever goes wrong is one sentence here and one line
    in the log."""

    def initialize(self, *_args: Any, **settings: Any) -> None:
        self.host: FilmHost = settings["host"]
        self.allowed: AllowedHosts = settings["allowed"]
        self.role: str | None = None

    def set_default_headers(self) -> None:
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        headers = self.request.headers
        refusal = self.allowed.refusal(headers.get("Host"), headers.get("Origin"))
        if refusal:
            return self.refuse(403, refusal)
        return self.check()

    def check(self) -> None:
        """Refuse a request with neither the token that directs nor the one that watches this
        film."""
        self.role = self.host.tokens.role(self.film, self.argument("token"))
        if self.role is None:
            self.refuse(403)

    def argument(self, name: str) -> bytes:
        """Return the last value of an argument of the address, as bytes: bytes that are not UTF-8
        are no error."""
        return self.request.query_arguments.get(name, [b""])[-1]

    @property
    def film(self) -> str:
        """The film that the address names, "" where it names none."""
        film = self.argument("film").decode("ascii", "replace")
        return film if FILM.fullmatch(film) else ""

    def refuse(self, status: int, sentence: str = "") -> None:
        self.set_status(status)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish((sentence or SENTENCES.get(status, BROKEN)) + "\n")

    def write_error(self, status_code: int, **_: Any) -> None:
        self.refuse(status_code)

    def log_exception(self, kind: Any, error: Any, _traceback: Any) -> None:
        if isinstance(error, tornado.web.HTTPError):
            return
        sentence = hide_paths(" ".join(str(error).split()), self.host.folder)
        LOG.error("%s: %s", kind.__name__, sentence.replace(self.host.tokens.token, "***"))


class _Page(_Guarded):
    def get(self) -> None:
        if not self.film and self.role == DIRECTOR:
            film = secrets.token_hex(5)
            return self.redirect(f"/?token={self.host.tokens.token}&film={film}")
        page = (HERE / "demo.html").read_text(encoding="utf-8")
        self.set_header("Content-Security-Policy", page_policy(page, self.request.host))
        self.write(page)


class _Nothing(_Guarded):
    """Any other address."""

    def check(self) -> None:
        self.refuse(404)


class _File(_Guarded, tornado.web.StaticFileHandler):
    """The page's own files, which hold no secret."""

    def initialize(self, *_args: Any, **settings: Any) -> None:
        _Guarded.initialize(self, **settings)
        tornado.web.StaticFileHandler.initialize(self, str(settings["path"]))

    def check(self) -> None:
        return None


class _Download(_File):
    """A file of an export, <film>/<number>/<name>, for every visitor of the film."""

    @property
    def film(self) -> str:
        return self.path_args[0].partition("/")[0]

    def check(self) -> None:
        _Guarded.check(self)

    def parse_url_path(self, url_path: str) -> str:
        film, number, name = url_path.split("/")
        return super().parse_url_path(f"{film}/export-{number}/{name}")

    def set_extra_headers(self, path: str) -> None:
        name = self.path_args[0].replace("/", "-")
        self.set_header("Content-Disposition", f'attachment; filename="{name}"')


class _Wire(_Guarded, tornado.websocket.WebSocketHandler):
    """A browser at a film's desk."""

    desk: HostedDesk | None = None
    writer: asyncio.Task | None = None

    def check_origin(self, origin: str) -> bool:
        return True  # `prepare` has checked it

    async def open(self) -> None:
        self._awake = asyncio.Event()
        loop = asyncio.get_running_loop()
        self.viewer = Viewer(lambda: _call_soon(loop, self._wake), directs=self.role == DIRECTOR)
        self.set_nodelay(True)
        try:
            await loop.run_in_executor(self.settings["clerk"], self._enter)
            self.writer = asyncio.ensure_future(self._write_all())
        except Exception as error:  # the page shows why, whatever it is
            await self._send(to_json({"full": self._open_error(error), "buffers": 0}), [])
            self.close()

    def _open_error(self, error: Exception) -> str:
        if isinstance(error, CinelabError):
            return hide_paths(str(error), self.host.folder)
        self.log_exception(type(error), error, None)
        return f"This film cannot be opened ({type(error).__name__}); begin another one."

    def _enter(self) -> None:
        """Take a place; on the clerk's thread, for reading a long film takes its time."""
        if not self.film:
            raise CinelabError("This address names no film; open the first page for a new one.")
        desk = self.host.open(self.film, self.viewer, self.request.remote_ip or "")
        more = {"role": self.role, "film": self.film, "watch": self.host.tokens.watch(self.film)}
        self.viewer.welcome({"about": desk.about | more}, desk.view)
        self.desk = desk

    def on_message(self, message: str | bytes) -> None:
        if self.desk is not None:
            self.desk.receive_text(message, self.viewer)

    def on_close(self) -> None:
        if self.writer is not None:
            self.writer.cancel()
        if self.desk is not None:
            with suppress(RuntimeError):  # the server ends, and closes every film itself
                self.settings["clerk"].submit(self.host.leave, self.film, self.viewer)

    def _wake(self) -> None:
        """Let the writer send; a browser for which too much waits is disconnected at once."""
        self._awake.set()
        if self.viewer.lost:
            self._disconnect()

    def _disconnect(self) -> None:
        # a closing handshake would wait behind all the rest
        stream = self.ws_connection.stream if self.ws_connection is not None else None
        if stream is not None:
            stream.close()

    async def _write_all(self) -> None:
        """Send what waits, one message after the other, each when the one before has gone."""
        with suppress(asyncio.CancelledError, *CLOSED):
            while True:
                await self._awake.wait()
                self._awake.clear()
                while (message := self.viewer.take()) is not None:
                    if not await self._send(*message):
                        return self._disconnect()

    async def _send(self, text: str, buffers: Sequence[bytes]) -> bool:
        """Send a text and its buffers. Return whether the browser has taken them in time."""
        parts = []
        with suppress(*CLOSED):
            parts.append(self.write_message(text))
            for buffer in buffers:
                parts.append(self.write_message(bytes(buffer), binary=True))
        try:
            results = await asyncio.wait_for(asyncio.gather(*parts, return_exceptions=True), STUCK)
        except TimeoutError:
            return False
        failed = any(isinstance(result, BaseException) for result in results)
        return len(parts) == 1 + len(buffers) and not failed


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop has ended, and the browser with it
        loop.call_soon_threadsafe(call)


def _log_refusal(handler: tornado.web.RequestHandler) -> None:
    """Write one line for a request that was refused: never its query, nor what a mistyped address
    has in its place, for that holds the token."""
    status = handler.get_status()
    if status < 400:
        return
    request = handler.request
    found = PLAIN.match(request.path or "")
    path = found[0][:60] if found else ""
    path = path.replace(handler.application.settings["token"], "***")
    LOG.warning("%d %s %s (%s)", status, request.method, path, request.remote_ip)


def _log_failure(work: Future) -> None:
    if error := work.exception():
        LOG.error("%s while idle films were closed", type(error).__name__)


# ---- the server


def application(
    host: FilmHost, allowed: AllowedHosts, clerk: ThreadPoolExecutor | None = None
) -> tornado.web.Application:
    """Return the demo's addresses: the page, its files, the websocket, and the downloads."""
    settings: dict[str, Any] = {"host": host, "allowed": allowed}
    exports = settings | {"path": host.folder.resolve()}
    export = rf"/export/([a-z0-9]{{10}}/[1-9][0-9]{{0,4}}/(?:{_any_of(*OFFERED)}))"
    return tornado.web.Application(
        [
            (r"/", _Page, settings),
            (r"/wire", _Wire, settings),
            (f"/({_any_of('demo.js', STYLE, *SCRIPTS)})", _File, settings | {"path": HERE}),
            (export, _Download, exports),
        ],
        default_handler_class=_Nothing,
        default_handler_args=settings,
        log_function=_log_refusal,
        clerk=clerk or ThreadPoolExecutor(1),
        token=host.tokens.token,
        websocket_ping_interval=20,
        websocket_max_message_size=MESSAGE,
    )


def _any_of(*names: str) -> str:
    """Return a pattern of file names."""
    return "|".join(map(re.escape, names))


async def serve_demo(
    films: FilmHost,
    host: str,
    port: int,
    *,
    announce: Callable[[str], None],
    until: asyncio.Event | None = None,
    names: Sequence[str] = (),
) -> None:
    """Serve until cancelled, or until `until` is set. `announce` is called with every address once
    the server listens; `names` are those of a proxy. Raises CinelabError where the port is
    taken."""
    allowed = AllowedHosts(host, tuple(names))
    clerk = ThreadPoolExecutor(1, "cinelab-clerk")
    server = tornado.httpserver.HTTPServer(
        application(films, allowed, clerk),
        max_header_size=2**14,
        max_body_size=MESSAGE,
        idle_connection_timeout=SLOW,
        body_timeout=SLOW,
    )
    port = _listen(server, host, port)
    idle_check = PeriodicCallback(
        lambda: clerk.submit(films.close_idle_films).add_done_callback(_log_failure),
        1000 * min(CHECK_IDLE, films.limits.idle),
    )
    idle_check.start()
    for address in allowed.addresses(port):
        announce(f"{address}/?token={films.tokens.token}")
    try:
        await (until or asyncio.Event()).wait()
    finally:
        idle_check.stop()
        server.stop()
        clerk.submit(films.close).result()
        clerk.shutdown()


def _listen(server: tornado.httpserver.HTTPServer, host: str, port: int) -> int:
    """Listen on a port, 0 = any free one. Return its number. Raises CinelabError."""
    try:
        server.listen(port, host)
    except (OSError, UnicodeError) as error:  # UnicodeError: a host of empty or too long parts
        raise CinelabError(
            f"port {port} on {host} cannot be used ({reason(error)}); give another with --port or "
            "--host."
        ) from error
    return next(iter(server._sockets.values())).getsockname()[1]


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
    """Serve films until Ctrl-C.

    policy    of films that begin; None = the model's own
    token     None = that of $CINELAB_TOKEN, else a new one
    names     host names besides our own (of a proxy in front of us)
    """
    check_number("port", port, 0, PORT)
    tokens = Tokens(chosen_token(token))
    AllowedHosts(host, tuple(names))  # refused now, before the model is read
    ready_folder(folder)
    bundle = load(model)
    policy_for(bundle, policy, budget)  # refused now, not at the first visit
    films = FilmHost(Path(folder), bundle, limits, policy=policy, budget=budget, tokens=tokens)
    try:
        asyncio.run(serve_demo(films, host, port, announce=announce, names=names))
    except KeyboardInterrupt:
        announce("Closed; every film is in " + str(folder))
