"""The desk as an app: who comes in, places, limits, several viewers, and two visitors at once in
a real browser."""

import asyncio
import gc
import logging
import re
import socket
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from demoserver import Guest, Served, alone, fetch
from directing import CAT, ROBOT, until

from cinelab import load
from cinelab.errors import CinelabError
from cinelab.lab.desk import access, hosting
from cinelab.lab.desk import widget as desk_module
from cinelab.lab.desk.access import (
    DIRECTOR,
    WATCHER,
    AllowedHosts,
    Tokens,
    checked_name,
    checked_token,
    chosen_token,
    page_policy,
)
from cinelab.lab.desk.demo import demo, serve_demo
from cinelab.lab.desk.hosting import DemoLimits, FilmHost
from cinelab.lab.desk.messages import MESSAGE
from cinelab.lab.desk.viewers import MOST, Viewer
from cinelab.stream.live_engine import LiveEngine
from cinelab.stream.session import Session, Settings

FILM = "a" * 10
OTHER = "b" * 10


@pytest.fixture(scope="module")
def bundle():
    return load("toybox-1step")


@pytest.fixture
def house(bundle, tmp_path):
    made = []

    def build(**rules):
        made.append(
            FilmHost(
                tmp_path / "films", bundle, DemoLimits(**rules), tokens=Tokens("a-secret-token")
            )
        )
        return made[-1]

    yield build
    for one in made:
        one.close()


@pytest.fixture
def served(house):
    made = []

    def start(names=(), **rules):
        made.append(Served(house(**rules), names))
        return made[-1]

    yield start
    for one in made:
        one.close()


def play(visit, chunks=2):
    visit.live.send("prompt", text=CAT).result(10)
    visit.live.send("resume").result(10)
    until(lambda: visit.live.readout.chunks >= chunks)


# ---- who may come in


def test_hosts_and_origins_that_are_ours_and_those_that_are_not():
    hosts = AllowedHosts("127.0.0.1", ("demo.example.org",))
    for host in (
        "127.0.0.1:8890",
        "localhost",
        "LOCALHOST:1",
        "[::1]:8890",
        "demo.example.org",
        "demo.example.org.:443",
    ):
        assert hosts.refusal(host, None) == ""
    for host in (
        None,
        "",
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost@evil.example",
        "demo.example.org/x",
        "a b",
        "é",
        "127.0.0.1:x",
    ):
        assert "not this demo's" in hosts.refusal(host, None)
    assert (
        hosts.refusal("localhost:8890", "http://localhost:8890")
        == ""
        == hosts.refusal("localhost:8890", "https://demo.example.org")
    )
    for origin in (
        "",
        "null",
        "http://evil.example",
        "http://localhost:1",
        "http://localhost:8890.evil.example",
        "ftp://localhost:8890",
        "http://[",
    ):
        assert "not this demo's page" in hosts.refusal("localhost:8890", origin)


def test_an_ipv6_address_is_the_same_however_it_is_written():
    hosts = AllowedHosts("FD00:0:0:0::7", ("[fd00:0::8]",))
    assert hosts.addresses(80) == ["http://[fd00::7]:80"]
    for host in ("[fd00::7]:80", "[FD00:0::7]", "[fd00::8]:443", "[0:0:0:0:0:0:0:1]"):
        assert hosts.refusal(host, None) == ""
    for host in ("fd00::7", "[fd00::9]", "[localhost]", "[127.0.0.1]"):
        assert "not this demo's" in hosts.refusal(host, None)


def test_the_log_has_no_token_of_a_mistyped_address(served, caplog):
    caplog.set_level(logging.INFO)
    demo = served()
    watch = demo.films.tokens.watch(FILM)

    async def ask():
        for path in (
            f"/{demo.token}",
            f"/x/&token={demo.token}",
            f"/%3Ftoken={watch}",
            f"/;token={watch}",
            f"/token={watch}",
        ):
            assert (await fetch(demo.port, path)).code == 404

    alone(ask())
    assert "404 GET /*** (" in caplog.text and "404 GET /x/ (" in caplog.text
    assert demo.token not in caplog.text and watch not in caplog.text


def test_everywhere_means_this_machines_own_names_and_addresses_that_can_be_opened(monkeypatch):
    monkeypatch.setattr(access, "own_names", lambda: ["studio", "10.0.0.7", "fd00::7"])
    hosts = AllowedHosts("0.0.0.0")
    assert hosts.addresses(80) == ["http://localhost:80", "http://studio:80", "http://10.0.0.7:80"]
    assert AllowedHosts("::").addresses(80) == [
        "http://localhost:80",
        "http://studio:80",
        "http://[fd00::7]:80",
    ]
    assert len(AllowedHosts("").addresses(80)) == 4
    assert (
        hosts.refusal("studio:80", None)
        == hosts.refusal("[fd00::7]:80", None)
        == ""
        != hosts.refusal("0.0.0.0:80", None)
    )
    assert (
        AllowedHosts("::1").addresses(80) == ["http://[::1]:80"]
        and AllowedHosts("10.0.0.8").refusal("10.0.0.8:80", None) == ""
    )


def test_own_names_are_no_loopback():
    assert not {"127.0.0.1", "::1", "0.0.0.0"} & set(access.own_names())


@pytest.mark.parametrize(
    "name", ["", "http://a.b", "a b", "a/b", "a:80", "*.example.org", "-", "é.org"]
)
def test_names_of_a_proxy_that_are_none_are_refused(name):
    with pytest.raises(CinelabError, match="--allow-host is"):
        checked_name(name)


def test_tokens_are_checked_and_never_quoted(monkeypatch):
    for bad in ("", "short", "with space", "ééééééééé", "x" * 129, "a/b?c=d&e"):
        with pytest.raises(CinelabError, match="give 8 to 128") as caught:
            checked_token(bad)
        assert not bad or bad not in str(caught.value)
    assert len(checked_token(None)) >= 16 and checked_token(None) != checked_token(None)
    monkeypatch.setenv("CINELAB_TOKEN", "from-the-environment")
    assert (
        chosen_token(None) == "from-the-environment"
        and chosen_token("from-the-line") == "from-the-line"
    )
    assert "from-the-line" not in repr(Tokens("from-the-line"))


def test_a_token_that_watches_is_another_one_for_every_film_and_lasts():
    tokens = Tokens("a-secret-token")
    assert (
        tokens.role(FILM, b"a-secret-token") == DIRECTOR
        and tokens.role(FILM, tokens.watch(FILM).encode()) == WATCHER
    )
    assert (
        tokens.role(OTHER, tokens.watch(FILM).encode())
        is tokens.role(FILM, b"\xff\xc3")
        is tokens.role(FILM, b"")
        is None
    )
    assert (
        Tokens("a-secret-token").watch(FILM)
        == tokens.watch(FILM)
        != Tokens("another-token").watch(FILM)
    )


def test_every_answer_is_guarded_and_no_log_holds_the_token(served, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    running = served(names=["demo.example.org"])
    paths = ["/", "/wire", "/demo.js", "/desk.css", "/nothing", f"/export/{FILM}/1/film.mp4"]

    async def ask():
        foreign = [
            await fetch(
                running.port, f"{path}?token={running.token}&film={FILM}", Host="evil.example"
            )
            for path in paths
        ]
        origin = [
            await fetch(
                running.port,
                f"{path}?token={running.token}&film={FILM}",
                Origin="http://evil.example",
            )
            for path in paths
        ]
        bad = [
            await fetch(running.port, f"/?token={token}")
            for token in ("", "x", "%C3%A9", "%FF%FE", running.token + "x", running.token[:-1])
        ]
        tokenless = [
            await fetch(running.port, path) for path in ("/", "/wire", f"/export/{FILM}/1/film.mp4")
        ]
        others = [
            await fetch(running.port, f"/?token={running.token}&film={FILM}", method)
            for method in ("POST", "DELETE")
        ]
        good = [
            await fetch(running.port, f"/?token={running.token}&film={FILM}"),
            await fetch(running.port, "/demo.js"),
            await fetch(running.port, f"/?token={running.token}", Host="demo.example.org"),
        ]
        lost = [
            await fetch(running.port, f"{path}?token={running.token}")
            for path in ("/nothing", f"/export/{FILM}/1/film.mp4", "/export/../x")
        ]
        return foreign + origin + bad + tokenless, others, lost, good

    refused, others, lost, good = alone(ask())
    assert {answer.code for answer in refused} == {403} and {answer.code for answer in others} == {
        405
    }
    assert {answer.code for answer in lost} == {404} and [answer.code for answer in good] == [
        200,
        200,
        302,
    ]
    for answer in refused + others + lost + good:
        for name, value in (
            ("X-Frame-Options", "DENY"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
            ("Cache-Control", "no-store"),
        ):
            assert answer.headers[name] == value
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.code < 400 or answer.body.count(b"\n") == 1
    out = capfd.readouterr()
    for text in (caplog.text, out.out, out.err):
        assert running.token not in text and "Traceback" not in text and "?token" not in text


def test_the_page_may_load_what_is_its_own_and_no_inline_script():
    page = hosting.__file__.replace("house.py", "demo.html")
    text = open(page, encoding="utf-8").read()
    policy = page_policy(text, "localhost:1")
    assert (
        "unsafe" not in policy
        and "script-src 'self';" in policy
        and policy.count("'sha256-") == text.count("<style>")
    )
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|style=", text)


def test_rules_and_ports_that_make_no_sense(bundle, tmp_path, served):
    with pytest.raises(CinelabError, match="visitors is 0"):
        DemoLimits(visitors=0)
    port = served().port
    with pytest.raises(CinelabError, match=f"port {port} on 127.0.0.1 cannot be used"):
        with ThreadPoolExecutor(1) as other:  # a browser's driver may have a loop in this thread
            other.submit(
                lambda: asyncio.run(
                    serve_demo(FilmHost(tmp_path, bundle), "127.0.0.1", port, announce=str)
                )
            ).result(30)


def test_a_bad_token_or_name_is_refused_before_the_model_is_read(tmp_path):
    for bad, said in (
        ({"token": "short"}, "give 8 to 128"),
        ({"names": ["http://x"]}, "--allow-host is 'http://x'"),
    ):
        with pytest.raises(CinelabError, match=said):
            demo(
                tmp_path / "films",
                "no such model",
                DemoLimits(),
                host="127.0.0.1",
                port=0,
                announce=str,
                **bad,
            )
    assert not (tmp_path / "films").exists()


# ---- places and limits


def test_places_are_limited_and_an_idle_film_is_let_go_of_and_goes_on_later(house):
    house = house(visitors=1, idle=0.01)
    viewers = [Viewer(), Viewer()]
    visit = house.open(FILM, viewers[0])
    play(visit)
    with pytest.raises(CinelabError, match="All 1 places are taken"):
        house.open(OTHER, viewers[1])
    house.leave(FILM, viewers[0])
    until(lambda: not visit.live.readout.playing)
    time.sleep(0.05)
    house.close_idle_films()
    assert not house.desks
    again = house.open(FILM, viewers[1])
    assert again.live.readout.chunks >= 2 and again.live.readout.desk.settings.prompt == CAT


def test_a_full_house_gives_the_place_of_who_has_left_and_unplayed_films_first(house):
    house = house(visitors=2)
    viewers = [Viewer() for _ in range(4)]
    play(house.open(FILM, viewers[0]))
    house.open(OTHER, viewers[1])
    house.leave(FILM, viewers[0])
    house.leave(OTHER, viewers[1])
    house.open("c" * 10, viewers[2])
    assert set(house.desks) == {FILM, "c" * 10} and not (house.folder / OTHER).exists(), (
        "nothing was said in it: nothing is left"
    )
    house.open("d" * 10, viewers[3])
    assert set(house.desks) == {"c" * 10, "d" * 10} and (house.folder / FILM / "log.jsonl").exists()


def test_opening_the_printed_address_again_and_again_neither_closes_the_house_nor_fills_the_disk(
    house, monkeypatch
):
    monkeypatch.setattr(hosting, "MOST_BEGUN", 6)
    house = house(visitors=2)
    for number in range(6):
        viewer = Viewer()
        house.open(f"{number:010d}", viewer, "10.0.0.1")
        house.leave(f"{number:010d}", viewer)
    assert len(list(house.folder.iterdir())) == 2
    with pytest.raises(CinelabError, match="6 films were begun from your address"):
        house.open(FILM, Viewer(), "10.0.0.1")
    house.open(FILM, Viewer(), "10.0.0.2")


def test_the_folder_holds_so_many_films_and_those_can_be_gone_on_with(house):
    house = house(films=1)
    viewer = Viewer()
    play(house.open(FILM, viewer))
    house.leave(FILM, viewer)
    with pytest.raises(CinelabError, match="holds 1 films, the most here"):
        house.open(OTHER, Viewer())
    assert house.open(FILM, viewer).played


def test_a_film_ends_at_the_houses_limit_and_neither_playing_nor_branching_passes_it(house):
    visit = house(chunks=3).open(FILM, Viewer())
    play(visit)
    until(lambda: not visit.live.readout.playing)
    assert "the most here" in visit.live.readout.message and visit.live.readout.chunks == 3
    for _ in range(3):
        with pytest.raises(CinelabError, match="3 chunks with all its takes, the most here"):
            visit.live.send("resume").result(10)
    visit.live.send("branch", chunk=0).result(10)
    visit.live.send("retake").result(10)
    with pytest.raises(CinelabError, match="the most here"):
        visit.live.send("resume").result(10)
    assert visit.live.readout.chunks == 3


def test_a_films_bytes_are_limited_whatever_it_is_filled_with(house):
    house = house(mebibytes=1)
    visit = house.open(FILM, Viewer())
    (visit.folder / "log.jsonl").write_text("x" * 2**20)
    with pytest.raises(CinelabError, match="takes 1 MiB, the most here"):
        visit.live.send("prompt", text=CAT).result(10)
    (visit.folder / "log.jsonl").unlink()
    visit.live.send("prompt", text=CAT).result(10)


def test_a_films_log_is_limited_apart_from_its_chunks(house, monkeypatch):
    monkeypatch.setattr(hosting, "LOG", 2000)
    monkeypatch.setattr(hosting, "LINE", 0)
    visit = house().open(FILM, Viewer())
    tickets = [visit.live.send("seed", value=number) for number in range(30)]
    assert (
        "log takes" in str(tickets[-1].exception(10))
        and tickets[0].result(10)
        and (visit.folder / "log.jsonl").stat().st_size < 2200
    )


def test_commands_that_wait_are_bounded_and_pausing_is_always_possible(house):
    import threading

    visit = house(waiting=4).open(FILM, Viewer())
    go = threading.Event()
    begun = threading.Event()
    visit._threads[1].join(10)
    visit.live.call(lambda _session: (begun.set(), go.wait(10)), bounded=False)
    assert begun.wait(10)
    tickets = [visit.live.send("seed", value=number) for number in range(6)]
    paused = visit.live.pause()
    assert [bool(ticket.done() and ticket.exception()) for ticket in tickets] == [False] * 4 + [
        True
    ] * 2
    assert "4 commands wait already" in str(tickets[-1].exception())
    go.set()
    assert paused.result(10) == "Paused." and all(ticket.result(10) for ticket in tickets[:4])


def test_a_film_that_cannot_be_opened_is_one_sentence(served):
    running = served()
    folder = running.films.folder / FILM
    folder.mkdir(parents=True)
    (folder / "session.json").write_text("[]")

    async def visit():
        async with Guest(running.port, FILM, running.token) as guest:
            return guest.full

    said = alone(visit())
    assert (
        said
        and str(running.films.folder) not in said
        and "Traceback" not in said
        and not running.films.desks
    )


# ---- messages and viewers, by the wire


def test_viewers_of_one_film_all_see_it_and_who_watches_cannot_direct(served):
    running = served()

    async def visit():
        async with (
            Guest(running.port, FILM, running.token) as first,
            Guest(running.port, FILM, running.token) as second,
        ):
            watch = first.about["watch"]
            async with Guest(running.port, FILM, watch) as watcher:
                assert (await first.do("prompt", play=True, text=CAT))["message"]
                await first.until(lambda: min(one.frames for one in (first, second, watcher)) >= 3)
                await first.until(
                    lambda: all(
                        one.view["chunks"] >= 3 and one.view["playing"] for one in (second, watcher)
                    )
                )
                assert not second.answers and not watcher.answers, "answers go to whoever asked"
                assert (
                    "You are watching" in (await watcher.do("pause"))["error"]
                    and running.films.desks[FILM].live.readout.playing
                )
                assert (
                    "You are watching"
                    in (await watcher.answer(await watcher.say("export")))["error"]
                )
                assert (await second.do("pause"))["message"] == "Paused."
                return first, second, watcher

    first, second, watcher = alone(visit())
    assert (first.about["role"], watcher.about["role"]) == (
        DIRECTOR,
        WATCHER,
    ) and first.stills == watcher.stills == {0}
    until(lambda: FILM in running.films.left)

    async def elsewhere():
        async with Guest(running.port, OTHER, first.about["watch"]) as guest:
            return guest.full

    with pytest.raises(Exception, match="403"):
        alone(elsewhere())


def test_bad_messages_are_answered_or_dropped_and_large_ones_end_the_connection(
    served, caplog, capfd
):
    caplog.set_level(logging.DEBUG)
    running = served()

    async def visit():
        async with Guest(running.port, FILM, running.token) as guest:
            for text in (
                "[" * 60_000,
                "null",
                "nonsense",
                '{"kind": "do"}',
                '{"kind": "do", "id": {}}',
                '{"kind": "hello", "id": []}',
                "9" * 5000,
            ):
                await guest.wire.write_message(text)
            await guest.wire.write_message(b"\xff" * 10, binary=True)
            said = await guest.do("x" * 50_000)
            assert "is unknown" in said["error"] and len(said["error"]) < 250
            assert "Seed is True" in (await guest.do("seed", value=True))["error"]
            await guest.wire.write_message('"' + "x" * MESSAGE + '"')
            await guest.until(lambda: guest.full)

    alone(visit())
    out = capfd.readouterr()
    assert "Traceback" not in caplog.text + out.out + out.err


def test_browsers_that_vanish_or_never_read_leave_nothing_and_slow_nobody(
    served, caplog, capfd, monkeypatch
):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr("cinelab.lab.desk.viewers.MOST", 2**17)
    running = served()

    async def deaf():
        request = (
            f"GET /wire?film={FILM}&token={running.token} HTTP/1.1\r\nHost: localhost\r\nUpgrade: "
            "websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        sock = socket.create_connection(("127.0.0.1", running.port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(request.encode())
        return sock

    def framed(text):
        data = text.encode()
        return bytes([0x81, 0x80 | 126, *len(data).to_bytes(2, "big"), 0, 0, 0, 0]) + data

    async def visit():
        async with Guest(running.port, FILM, running.token) as guest:
            assert (await guest.do("prompt", play=True, text=CAT))["message"]
            sock = await deaf()
            await guest.until(lambda: len(running.films.desks[FILM].viewers) == 2)
            shout = framed('{"kind": "do", "id": 1, "command": "' + "x" * 400 + '"}') * 50
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            try:
                async with asyncio.timeout(60):
                    while len(running.films.desks[FILM].viewers) == 2:
                        await loop.sock_sendall(sock, shout)
            except OSError:
                pass
            await guest.until(lambda: len(running.films.desks[FILM].viewers) == 1)
            seen = guest.frames
            await guest.until(lambda: guest.frames > seen + 2)
            sock.close()
            for _ in range(3):
                gone = await deaf()
                await asyncio.sleep(0.05)
                gone.close()
            await guest.until(lambda: len(running.films.desks[FILM].viewers) == 1)

    alone(visit())
    gc.collect()
    out = capfd.readouterr()
    for text in (caplog.text, out.out, out.err):
        assert "Traceback" not in text and "never retrieved" not in text
    assert MOST == 8 * 2**20


def test_an_export_is_a_download_and_their_number_is_bounded(served):
    running = served(exports=1)

    async def visit():
        async with Guest(running.port, FILM, running.token) as guest:
            assert "no chunk yet" in (await guest.answer(await guest.say("export")))["error"]
            await guest.do("prompt", play=True, text=CAT)
            await guest.until(lambda: guest.view["chunks"] >= 2)
            await guest.do("pause")
            said = [await guest.answer(await guest.say("export")) for _ in range(2)]
            film = next(one for one in guest.sent if one["kind"] == "film")
            files = [
                await fetch(running.port, f"/export/{FILM}/{film['number']}/{name}?token={token}")
                for name, token in (
                    (film["files"][0], running.token),
                    (film["files"][0], guest.about["watch"]),
                    (film["files"][0], "x"),
                    ("film.json", running.token),
                    ("../session.json", running.token),
                )
            ]
            return said, film, files

    said, film, (whole, watched, *refused) = alone(visit())
    assert (
        said[0]["message"] == "Export 1 can be downloaded."
        and "1 exports, the most here" in said[1]["error"]
    )
    assert (
        whole.body
        == watched.body
        == (running.films.folder / FILM / "export-1/film.mp4").read_bytes()
    )
    assert "attachment" in whole.headers["Content-Disposition"] and [
        answer.code for answer in refused
    ] == [403, 404, 404]
    assert str(running.films.folder) not in str(said) + str(film)


def test_no_sentence_names_a_folder_of_the_machine(served, monkeypatch):
    running = served()

    async def visit():
        async with Guest(running.port, FILM, running.token) as guest:

            def full(self):
                raise OSError(
                    28, "No space left on device", str(self.folder / "chunks/00000.safetensors")
                )

            monkeypatch.setattr(Session, "step", full)
            await guest.do("prompt", play=True, text=CAT)
            await guest.until(lambda: guest.view["error"])
            return guest.view["error"]

    said = alone(visit())
    assert "No space left" in said and str(running.films.folder) not in said


# ---- memory


def test_a_visit_that_is_let_go_of_is_freed(house):
    house = house()
    visit = house.open(FILM, viewer := Viewer())
    play(visit)
    house.leave(FILM, viewer)
    kept = [
        weakref.ref(one)
        for one in (
            visit,
            visit.live,
            visit.live.session,
            visit.live.session.state(0).cache,
            visit.viewers,
        )
    ]
    house.close()
    del visit
    gc.collect()
    assert [ref() for ref in kept] == [None] * len(kept)


def test_opening_a_long_film_lets_the_others_go_on(bundle, tmp_path):
    from cinelab.stream.fair_lock import FairLock

    class Long:
        """A session whose 16 chunks take 100 ms each to be remembered."""

        calls = 0

    turns = FairLock()
    other = LiveEngine(
        Session.create(tmp_path / "other", bundle, Settings(CAT)), pace=None, turns=turns
    )
    session = Session.create(tmp_path / "long", bundle, Settings(CAT))
    for _ in range(16):
        session.step()
    opened = Session.resume(tmp_path / "long", bundle)
    restore = type(session.generator).restore
    seen = []

    def slow(reel, *args):
        reel.between()
        time.sleep(0.1)
        Long.calls += 1
        seen.append(other.readout.chunks)
        return restore(reel, *args)

    opened.generator.restore = lambda *args: slow(opened.generator, *args)
    other.send("resume").result(10)
    until(lambda: other.readout.chunks >= 2)
    again = LiveEngine(opened, pace=None, turns=turns)
    again.send("resume").result(30)
    until(lambda: again.readout.chunks > 16)
    other.close(), again.close()
    assert Long.calls == 16 and len(set(seen)) >= 4, "the other film got its turn every few chunks"


# ---- in a browser


def listen(page, errors):
    """Note whatever a page calls an error."""
    page.on(
        "console", lambda message: errors.append(message.text) if message.type == "error" else None
    )
    page.on("pageerror", lambda error: errors.append(str(error)))


@pytest.mark.browser
def test_two_visitors_direct_their_own_films(served, browser):
    running = served()
    errors = []
    pages = [browser.new_context().new_page() for _ in range(2)]
    for page, prompt in zip(pages, (CAT, ROBOT), strict=True):
        listen(page, errors)
        page.goto(running.address)
        page.wait_for_selector("body[data-ready=yes] canvas")
        page.locator("textarea").fill(prompt)
        page.locator("textarea").press("Enter")
    until(lambda: all(visit.live.readout.chunks >= 3 for visit in running.films.desks.values()))
    colours = [
        page.evaluate(
            "(() => { const c = document.querySelector('canvas'); const d = "
            "c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
            " let s = [0, 0, 0]; for (let i = 0; i < d.length; i += 4) for (const k of [0, 1, 2]) "
            "s[k] += d[i + k]; return s; })()"
        )
        for page in pages
    ]
    assert colours[0] != colours[1] and min(map(sum, colours)) > 0
    assert len({page.url for page in pages}) == 2 and len(running.films.desks) == 2
    film = re.search("film=([a-z0-9]{10})", pages[0].url)[1]
    pages[0].close()
    until(lambda: not running.films.desks[film].live.readout.playing)
    assert errors == []


@pytest.mark.browser
def test_a_tab_that_is_hidden_pauses_its_film_and_play_goes_on(served, browser, monkeypatch):
    monkeypatch.setattr(desk_module, "UNWATCHED", 0.3)
    running = served()
    page = browser.new_context().new_page()
    page.goto(running.address)
    page.locator("textarea").fill(CAT)
    page.locator("textarea").press("Enter")
    page.wait_for_selector(".cd-readout:has-text('frames/s')")
    # as in a hidden tab
    page.evaluate(
        "() => { window.kept = requestAnimationFrame; window.requestAnimationFrame = () => 0; }"
    )
    page.wait_for_selector(
        ".cinelab-desk:not(.cd-playing) .cd-state:has-text('Paused: nobody was watching')"
    )
    page.evaluate("() => { window.requestAnimationFrame = window.kept; }")
    monkeypatch.setattr(desk_module, "UNWATCHED", 60.0)
    live = next(iter(running.films.desks.values())).live
    made = live.readout.chunks
    page.click(".cd-play")
    until(lambda: live.readout.chunks > made + 2 and live.readout.playing)
    page.context.close()


@pytest.mark.browser
def test_a_watch_link_a_download_and_a_connection_that_comes_back(served, browser):
    running = served()
    errors = []
    page, watcher = (browser.new_context(accept_downloads=True).new_page() for _ in range(2))
    for one in (page, watcher):
        listen(one, errors)
    page.goto(running.address)
    page.wait_for_selector("body[data-ready=yes] canvas")
    watcher.goto(page.locator("#role a").get_attribute("href"))
    watcher.wait_for_selector("body[data-role=watch] canvas")
    page.locator("textarea").fill(CAT)
    page.locator("textarea").press("Enter")
    watcher.wait_for_selector(".cinelab-desk.cd-playing .cd-readout:has-text('frames/s')")
    page.click(".cd-export")
    page.wait_for_selector("#exports a")
    with page.expect_download() as download:
        page.click("#exports a")
    assert (
        download.value.suggested_filename.endswith("film.mp4")
        and download.value.path().stat().st_size > 1000
    )
    until(lambda: page.evaluate("document.querySelector('video')?.readyState ?? 0") >= 2)
    assert errors == []
    visit = next(iter(running.films.desks.values()))
    for viewer in visit.viewers._all:
        viewer.lost = True
        viewer._wake()
    page.wait_for_selector("body[data-lost=yes]")
    assert page.locator("#gone").is_hidden(), "the desk says it"
    page.wait_for_selector("body:not([data-lost])")
    page.wait_for_selector("#gone", state="hidden")
    assert len(running.films.desks) == 1
