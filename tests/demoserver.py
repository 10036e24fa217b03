"""A demo in a thread of its own, and a visitor without a browser: what tests and benchmarks of
the demo share."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import tornado.httpclient
import tornado.websocket

from cinelab.lab.desk.demo import serve_demo
from cinelab.lab.desk.hosting import FilmHost


def alone(work):
    """What a coroutine returns, run in a thread of its own: a browser's driver may have a loop in
    this one."""
    with ThreadPoolExecutor(1) as other:
        return other.submit(asyncio.run, work).result()


class Served:
    """A host that is served on a free port; `address` is the one that the command prints."""

    def __init__(self, films: FilmHost, names=()):
        self.films = films
        self.names = names
        self.addresses = []
        self.ready = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self.thread.start()
        assert self.ready.wait(30)
        self.address = self.addresses[0]
        self.port = urlsplit(self.address).port
        self.token = films.tokens.token

    async def _run(self):
        self.loop = asyncio.get_running_loop()
        self.end = asyncio.Event()
        await serve_demo(
            self.films,
            "127.0.0.1",
            0,
            announce=self._announced,
            until=self.end,
            names=self.names,
        )

    def _announced(self, address):
        self.addresses.append(address)
        self.ready.set()

    def close(self):
        self.loop.call_soon_threadsafe(self.end.set)
        self.thread.join(30)


async def fetch(port, path, method="GET", **headers):
    """An answer to a plain request, whatever its status."""
    request = tornado.httpclient.HTTPRequest(
        f"http://127.0.0.1:{port}{path}",
        method,
        headers,
        follow_redirects=False,
        body="" if method == "POST" else None,
    )
    return await tornado.httpclient.AsyncHTTPClient().fetch(request, raise_error=False)


class Guest:
    """A browser's side of the wire: what it has been told, as a page would know it."""

    def __init__(self, port, film, token, **headers):
        self.port = port
        self.film = film
        self.token = token
        self.headers = headers
        self.about = {}
        self.view = {}
        self.full = ""
        self.sent = []
        self.frames = 0
        self.stills = set()
        self.number = 0
        self.bytes = 0
        self.answers = {}

    async def __aenter__(self):
        request = tornado.httpclient.HTTPRequest(
            f"ws://127.0.0.1:{self.port}/wire?film={self.film}&token={self.token}",
            headers=self.headers,
        )
        self.wire = await tornado.websocket.websocket_connect(request, max_message_size=2**26)
        self.reader = asyncio.ensure_future(self._read())
        await self.until(lambda: self.about or self.full)
        if self.about:
            await self.say("hello")
        return self

    async def __aexit__(self, *_):
        self.reader.cancel()
        self.wire.close()

    async def say(self, kind, **more):
        self.number += 1
        await self.wire.write_message(json.dumps({"kind": kind, "id": self.number} | more))
        return self.number

    async def do(self, command, play=False, **value):
        """The answer to a command."""
        return await self.answer(await self.say("do", command=command, value=value, play=play))

    async def answer(self, number, seconds=60):
        await self.until(lambda: number in self.answers, seconds)
        return self.answers[number]

    async def until(self, condition, seconds=60):
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.01)

    async def _read(self):
        while (message := await self.wire.read_message()) is not None:
            self.bytes += len(message)
            text = json.loads(message)
            buffers = [await self.wire.read_message() for _ in range(text["buffers"])]
            self.bytes += sum(len(one or "") for one in buffers)
            await self._take(text)
        self.full = self.full or "closed"

    async def _take(self, text):
        self.full = text.get("full", self.full)
        self.about = text.get("about", self.about)
        self.view = text.get("view", self.view)
        if "changes" in text:
            self._apply(text["changes"])
        if "custom" in text:
            await self._custom(text["custom"])

    def _apply(self, changes):
        for name, (length, *rows) in changes.get("rows", {}).items():
            new = dict(rows)
            old = self.view[name]
            self.view[name] = [
                new.get(place, old[place] if place < len(old) else None) for place in range(length)
            ]
        self.view |= changes.get("set", {})

    async def _custom(self, content):
        if content["kind"] == "frames":
            self.frames += 1
            await self.draw(content["number"])
        elif content["kind"] == "answer":
            self.answers[content["id"]] = content
        elif content["kind"] == "stills":
            self.stills |= set(content["lines"])
        else:
            self.sent.append(content)

    async def draw(self, number):
        await self.wire.write_message(json.dumps({"kind": "drawn", "number": number}))
