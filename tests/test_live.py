"""The engine's thread: commands in order, nobody waits for anybody, and what it makes is what the
session alone makes."""

import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from directing import CAT, ROBOT, until

from cinelab import load
from cinelab.errors import CinelabError
from cinelab.stream.fair_lock import FairLock
from cinelab.stream.live_engine import LiveEngine
from cinelab.stream.readout import FilmBounds
from cinelab.stream.session import Session, Settings


@pytest.fixture(scope="module")
def bundle():
    return load("toybox-1step")


@pytest.fixture
def live(bundle, tmp_path):
    live = LiveEngine(Session.create(tmp_path / "session", bundle, Settings(CAT)), pace=None)
    yield live
    live.close()


def test_it_plays_obeys_and_pauses(live):
    live.send("resume").result(10)
    until(lambda: live.readout.chunks >= 3)
    assert live.send("cut", text=ROBOT).result(10) == "A cut comes with the next chunk."
    until(lambda: live.session.nodes[live.session.desk.head].shot == 1)
    live.send("pause").result(10)
    made = live.readout.chunks
    time.sleep(0.2)
    assert live.readout.chunks == made and live.readout.rate > 0 and live.readout.first_frame > 0
    assert set(live.readout.causes) == {"text", "dit", "memory", "decode"}


def test_a_burst_of_commands_is_carried_out_in_order_and_none_is_lost(live):
    live.send("resume").result(10)
    tickets = [live.send("seed", value=n) for n in range(100)]
    assert [ticket.result(60) for ticket in tickets][-1].startswith("The seed is 99")
    live.send("pause").result(10)
    seeds = [line["value"]["value"] for line in live.session.log if line.get("do") == "seed"]
    assert seeds == list(range(100))


def test_bad_commands_are_said_and_the_film_goes_on(live):
    live.send("resume").result(10)
    for command, value, said in (
        ("prompt", {"text": ""}, "empty"),
        ("policy", {"value": "best"}, "'best'"),
        ("seed", {"wrong": 1}, "seed"),
    ):
        with pytest.raises(CinelabError, match=said):
            live.send(command, **value).result(10)
        assert live.readout.error
    made = live.readout.chunks
    until(lambda: live.readout.chunks > made + 1)


def test_a_slow_viewer_misses_pictures_and_the_film_has_them_all(live):
    seen = []
    last = None
    live.send("resume").result(10)
    while live.readout.chunks < 12:
        shown = live.latest(after=last, timeout=10)
        last = shown.node
        seen.append(last)
        time.sleep(0.2)
    live.send("pause").result(10)
    assert (
        len(seen) < len(live.session.nodes)
        and len(live.session.frames()) == 2 * len(live.session.path()) - 1
    )


def test_a_paced_engine_keeps_to_the_films_own_speed(bundle, tmp_path):
    live = LiveEngine(Session.create(tmp_path / "paced", bundle, Settings(CAT)), pace=1.0)
    live.send("resume").result(10)
    until(lambda: live.readout.chunks >= 1)
    began = time.monotonic()
    first = live.readout.chunks
    time.sleep(2)
    made = live.readout.chunks - first
    spent = time.monotonic() - began
    live.close()
    # two pictures a chunk; half a second ahead at most, never a flood
    assert made <= (spent + 1.0) * bundle.fps / 2 + 1


def test_it_makes_the_bits_that_the_session_makes_alone(live, bundle, tmp_path):
    live.send("resume").result(10)
    until(lambda: live.readout.chunks >= 2)
    live.send("cut", text=ROBOT).result(10)
    until(lambda: live.readout.chunks >= 5)
    live.send("pause").result(10)
    alone = Session.create(tmp_path / "alone", bundle, Settings(CAT))
    for line in live.session.log:
        alone.step() if "made" in line else alone.do(line["do"], **line["value"])
    assert alone.nodes == live.session.nodes
    assert all(torch.equal(alone.latents(n), live.session.latents(n)) for n in alone.nodes)


def test_what_goes_wrong_while_making_pauses_and_is_said(live, monkeypatch):
    def full(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Session, "step", full)
    live.send("resume").result(10)
    until(lambda: live.readout.error)
    assert "No space left" in live.readout.error and not live.readout.playing
    monkeypatch.undo()
    live.send("resume").result(10)
    until(lambda: live.readout.chunks >= 1)


def test_a_film_ends_where_it_must(bundle, tmp_path):
    live = LiveEngine(
        Session.create(tmp_path / "short", bundle, Settings(CAT)),
        pace=None,
        bounds=FilmBounds(chunks=3),
    )
    live.send("resume").result(10)
    until(lambda: live.readout.chunks >= 3 and not live.readout.playing)
    live.close()
    assert len(live.session.path()) == 3
    with pytest.raises(CinelabError, match="has ended"):
        live.send("resume").result(10)


def test_a_film_that_is_opened_again_says_how_much_of_it_is_remembered(
    bundle, tmp_path, monkeypatch
):
    session = Session.create(tmp_path / "session", bundle, Settings(CAT))
    for _ in range(6):
        session.step()
    again = Session.resume(session.folder, bundle)
    recall = Session.state
    seen = []

    def noted(asked, number):
        seen.append(live.readout.remembering)
        return recall(asked, number)

    live = LiveEngine(again, pace=None)
    until(lambda: live.readout.remembering is None)
    monkeypatch.setattr(Session, "state", noted)
    live.send("resume").result(10)
    until(lambda: live.readout.chunks >= 7)
    live.send("pause").result(10)
    assert set(seen) == {None}, "all of it was remembered before it went on"
    seen.clear()
    live.send("branch", chunk=2).result(10)
    until(lambda: live.readout.remembering is None)
    assert seen == [(0, 3), (1, 3), (2, 3)]
    live.close()


def test_a_command_that_comes_meanwhile_does_not_begin_the_count_anew(
    bundle, tmp_path, monkeypatch
):
    session = Session.create(tmp_path / "session", bundle, Settings(CAT))
    for _ in range(4):
        session.step()
    again = Session.resume(session.folder, bundle)
    recall = Session.state
    seen = []
    begun = threading.Event()

    def noted(asked, number):
        assert begun.wait(10)
        seen.append(live.readout.remembering)
        if len(seen) == 2:
            live.send("seed", value=7)
        return recall(asked, number)

    monkeypatch.setattr(Session, "state", noted)
    live = LiveEngine(again, pace=None)
    begun.set()
    until(lambda: len(seen) >= 4 and live.readout.remembering is None)
    live.close()
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4)]


def test_a_chunk_that_cannot_be_remembered_is_said_and_others_can_be_gone_on_from(bundle, tmp_path):
    session = Session.create(tmp_path / "session", bundle, Settings(CAT))
    for _ in range(4):
        session.step()
    (session.folder / "chunks/00002.safetensors").unlink()
    live = LiveEngine(Session.resume(session.folder, bundle), pace=None)
    until(lambda: "00002.safetensors" in live.readout.error and live.readout.remembering is None)
    live.send("branch", chunk=1).result(10)
    live.send("resume").result(10)
    until(lambda: live.readout.chunks >= 5)
    live.close()


def test_what_is_called_runs_between_two_chunks_in_order(live):
    live.send("resume").result(10)
    seen = [live.call(lambda session: (session.desk.head, len(session.nodes))) for _ in range(20)]
    assert all(
        head is None or count == head + 1 for head, count in (ticket.result(10) for ticket in seen)
    )
    assert live.call(lambda session: session.desk.settings.prompt).result(10) == CAT
    with pytest.raises(CinelabError, match="ZeroDivisionError"):
        live.call(lambda session: 1 / 0).result(10)
    assert "ZeroDivisionError" in live.readout.error and live.send("seed", value=5).result(10)
    live.close()
    with pytest.raises(CinelabError, match="has ended"):
        live.call(len).result(10)


def test_ten_films_of_one_model_take_turns_and_each_is_the_film_it_would_be_alone(bundle, tmp_path):
    turns = FairLock()
    films = [
        LiveEngine(
            Session.create(tmp_path / f"film-{n}", bundle, Settings(CAT, seed=n)),
            pace=None,
            turns=turns,
        )
        for n in range(10)
    ]
    for film in films:
        film.send("resume")
    until(lambda: min(film.readout.chunks for film in films) >= 4)
    made = [film.readout.chunks for film in films]
    for film in films:
        film.close()
    assert max(made) - min(made) <= 4, "nobody is served twice while another waits"
    for n in (0, 9):
        alone = Session.create(tmp_path / f"alone-{n}", bundle, Settings(CAT, seed=n))
        for number in range(4):
            alone.step()
            assert torch.equal(alone.latents(number), films[n].session.latents(number))


def test_turns_are_given_in_the_order_of_asking():
    turns = FairLock()
    order = []
    threads = []
    with turns:
        for number in range(8):
            threads.append(
                threading.Thread(target=lambda number=number: _take(turns, order, number))
            )
            threads[-1].start()
            until(lambda wanted=number + 2: turns._next == wanted)
    for thread in threads:
        thread.join(10)
    assert order == list(range(8))


def test_a_film_that_is_sent_many_commands_makes_as_many_chunks_as_the_others(bundle, tmp_path):
    turns = FairLock()
    films = [
        LiveEngine(
            Session.create(tmp_path / f"film-{n}", bundle, Settings(CAT, seed=n)),
            pace=None,
            turns=turns,
        )
        for n in range(3)
    ]
    for film in films:
        film.send("resume").result(30)
    tickets = [films[0].send("seed", value=n) for n in range(60)]
    until(lambda: films[1].readout.chunks >= 6)
    made = [film.readout.chunks for film in films]
    assert max(made) - min(made) <= 3, "eight commands and a chunk are a turn, whoever sends more"
    assert all(ticket.result(60) for ticket in tickets)
    for film in films:
        film.close()


def test_a_film_whose_work_was_too_long_for_its_turns_catches_up(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("cinelab.stream.live_engine.TURN", 0.0)
    monkeypatch.setattr(FairLock.pass_on, "__defaults__", (0.0,))
    session = Session.create(tmp_path / "long", bundle, Settings(CAT))
    for _ in range(12):
        session.step()
    turns = FairLock()
    other = LiveEngine(
        Session.create(tmp_path / "other", bundle, Settings(CAT)), pace=None, turns=turns
    )
    long = LiveEngine(session, pace=None, turns=turns)
    for film in (other, long):
        film.send("resume").result(30)
    until(lambda: long.readout.chunks > 14)
    before = long.readout.chunks - other.readout.chunks
    long.send("prompt", text=ROBOT, switch="recache").result(30)
    until(lambda: long._owed >= 3)
    until(lambda: long._owed == 0)
    assert abs(long.readout.chunks - other.readout.chunks - before) <= 4
    other.close()
    long.close()


def test_long_work_passes_the_turn_on_and_only_who_has_it_can():
    turns = FairLock()
    order = []

    def work():
        with turns:
            order.append("other")

    with turns:
        other = threading.Thread(target=work)
        other.start()
        until(lambda: turns._next == 2)
        turns.pass_on(60)
        order.append("not yet")
        turns.pass_on(0)
        order.append("again")
        turns.pass_on(0)
    turns.pass_on(0)
    other.join(10)
    assert order == ["not yet", "other", "again"] and turns._now == turns._next == 3


def test_remembering_a_long_film_ends_with_the_engine(bundle, tmp_path, monkeypatch):
    session = Session.create(tmp_path / "film", bundle, Settings(CAT))
    for _ in range(30):
        session.step()
    again = Session.resume(tmp_path / "film", bundle)
    begun = threading.Event()
    restore = again.generator.restore
    again.generator.restore = lambda *args: (begun.set(), time.sleep(0.1), restore(*args))[-1]
    live = LiveEngine(again, pace=None)
    ticket = live.call(lambda one: one.state(29))
    assert begun.wait(10)
    live.close(2)
    with pytest.raises(CinelabError, match="The engine ends"):
        ticket.result(10)


def test_a_running_film_keeps_the_decisions_of_its_last_chunk(live):
    live.send("resume").result(10)
    until(lambda: live.readout.chunks >= 4)
    live.send("pause").result(10)
    memory = live.latest(timeout=10).cache
    assert {decision["chunk"] for decision in memory.decisions} == {
        memory.page_chunks[-1]
    } and memory.length >= 4


def _take(turns, order, number):
    with turns:
        order.append(number)


KILLED = """
from cinelab import load
from cinelab.stream.live_engine import LiveEngine
from cinelab.stream.session import Session, Settings
settings = Settings({prompt!r}, seed=5)
live = LiveEngine(Session.create({folder!r}, load("toybox-1step"), settings), pace=None)
live.send("resume").result()
input()
"""


def test_a_kill_in_mid_shot_loses_the_running_chunk_at_most(bundle, tmp_path):
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED.format(folder=str(folder), prompt=CAT)], stdin=subprocess.PIPE
    )
    until(lambda: (folder / "chunks" / "00005.safetensors").exists())
    process.send_signal(signal.SIGKILL)
    process.wait()
    written = len(list((folder / "chunks").glob("[0-9]*.safetensors")))
    session = Session.resume(folder, bundle)
    assert written - 1 <= len(session.nodes) <= written
    alone = Session.create(tmp_path / "alone", bundle, Settings(CAT, seed=5))
    for number in range(len(session.nodes) + 2):
        alone.step()
        if number >= len(session.nodes):
            session.step()
        assert torch.equal(alone.latents(number), session.latents(number))
