"""The desk as an app: token, places, films that go on, and two visitors at once in a real browser."""

import asyncio
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from directing import CAT, ROBOT, until

from cinelab import load
from cinelab.errors import CinelabError
from cinelab.lab.demo import House, Rules, serve


class Served:
    """A demo in a thread of its own."""

    def __init__(self, folder, bundle, rules):
        self.house, self.address, self.ready = House(folder, bundle, rules), None, threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self.thread.start()
        assert self.ready.wait(30)

    async def _run(self):
        self.loop, self.end = asyncio.get_running_loop(), asyncio.Event()
        await serve(self.house, "127.0.0.1", 0, self._told, self.end)

    def _told(self, address):
        self.address = address
        self.ready.set()

    def close(self):
        self.loop.call_soon_threadsafe(self.end.set)
        self.thread.join(30)


@pytest.fixture(scope="module")
def bundle():
    return load("toybox-1step")


@pytest.fixture
def served(bundle, tmp_path):
    made = []

    def start(**rules):
        made.append(Served(tmp_path / "films", bundle, Rules(**rules)))
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_nobody_comes_in_without_the_token(served):
    address = served().address
    for bad in (address.split("?")[0], address + "x"):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(bad)
    with urllib.request.urlopen(address) as page:
        assert "film=" in page.url and "Direct a film" in page.read().decode()


def test_rules_and_ports_that_make_no_sense(bundle, tmp_path, served):
    with pytest.raises(CinelabError, match="visitors is 0"):
        Rules(visitors=0)
    port = int(served().address.split(":")[2].split("/")[0])
    with pytest.raises(CinelabError, match=f"port {port} on 127.0.0.1 cannot be used"):
        with ThreadPoolExecutor(1) as other:  # a browser's driver may have a loop in this thread
            other.submit(lambda: asyncio.run(serve(House(tmp_path, bundle), "127.0.0.1", port, str))).result(30)


def test_places_are_limited_and_an_idle_film_is_let_go_of_and_goes_on_later(bundle, tmp_path):
    house, wires = House(tmp_path, bundle, Rules(visitors=1, idle=0.01)), [lambda *_: None, lambda *_: None]
    visit = house.open("a" * 10, wires[0])
    visit.live.send("prompt", text=CAT).result(10)
    visit.live.send("resume").result(10)
    until(lambda: visit.live.readout.chunks >= 2)
    with pytest.raises(CinelabError, match="All 1 places are taken"):
        house.open("b" * 10, wires[1])
    house.leave("a" * 10, wires[0])
    time.sleep(0.05)
    house.sweep()
    assert not house.visits
    again = house.open("a" * 10, wires[1])
    assert again.live.readout.chunks >= 2 and again.live.readout.desk.settings.prompt == CAT
    house.close()


def test_a_film_ends_at_the_houses_limit(bundle, tmp_path):
    house = House(tmp_path, bundle, Rules(chunks=2))
    visit = house.open("a" * 10, lambda *_: None)
    visit.live.send("prompt", text=CAT).result(10)
    visit.live.send("resume").result(10)
    until(lambda: visit.live.readout.chunks == 2 and not visit.live.readout.playing)
    assert "the most here" in visit.live.readout.said
    house.close()


@pytest.mark.browser
def test_two_visitors_direct_their_own_films(served, browser):
    running, errors = served(), []
    pages = [browser.new_context().new_page() for _ in range(2)]
    for page, prompt in zip(pages, (CAT, ROBOT), strict=True):
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(running.address)
        page.wait_for_selector("body[data-ready=yes] canvas")
        page.locator("textarea").fill(prompt)
        page.locator("textarea").press("Enter")
    until(lambda: all(visit.live.readout.chunks >= 3 for visit in running.house.visits.values()))
    colours = [page.evaluate("(() => { const c = document.querySelector('canvas'); const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
                             " let s = [0, 0, 0]; for (let i = 0; i < d.length; i += 4) for (const k of [0, 1, 2]) s[k] += d[i + k]; return s; })()")
               for page in pages]
    assert colours[0] != colours[1] and min(map(sum, colours)) > 0
    assert len({page.url for page in pages}) == 2 and len(running.house.visits) == 2
    film = pages[0].url.split("film=")[1]
    pages[0].close()
    until(lambda: not running.house.visits[film].live.readout.playing)
    assert errors == []
