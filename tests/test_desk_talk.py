"""What the desk and its browser say to each other, without a browser; the board and the memory
strip it shows."""

import gc
import json
import weakref
from pathlib import Path

import numpy as np
import pytest
from directing import CAT, ROBOT, until

from cinelab import load
from cinelab.errors import CinelabError
from cinelab.lab.desk import widget as module
from cinelab.lab.desk.frame_channel import UNDER_WAY, FrameChannel
from cinelab.lab.desk.kernel import KernelActivity
from cinelab.lab.desk.unattended import rehearse
from cinelab.lab.desk.view import (
    EXAMPLES,
    desk_facts,
    examples,
    memory_strip,
    next_retake,
    readout_line,
    sentence,
)
from cinelab.lab.desk.widget import (
    SEED,
    DeskWidget,
    desk,
)
from cinelab.script.screenplay import Screenplay
from cinelab.stream.attention_shares import shots_retrieved
from cinelab.stream.export import export_film, snapshot
from cinelab.stream.film_tree import FilmTree, node_frames, words_changed
from cinelab.stream.readout import Readout
from cinelab.stream.session import Session, Settings
from cinelab.stream.video import read_video


@pytest.fixture(scope="module")
def bundle():
    return load("toybox-1step")


@pytest.fixture
def session(bundle, tmp_path):
    return Session.create(tmp_path / "film", bundle, Settings(CAT))


def play(session, chunks):
    for _ in range(chunks):
        session.step()


class Talk:
    """A desk whose messages end in a list instead of a browser."""

    def __init__(self, monkeypatch, folder, **more):
        self.sent = []
        monkeypatch.setattr(
            DeskWidget,
            "send",
            lambda _desk, content, buffers=None: self.sent.append((content, buffers or [])),
        )
        self.desk = desk(folder, "toybox-1step", **more)
        self.number = 0

    def hear(self, kind, **more):
        self.number += 1
        self.desk._receive_comm(self.desk, {"kind": kind, "id": self.number} | more, [])
        return self.number

    def do(self, command, play=False, **value):
        return self.answer(self.hear("do", command=command, value=value, play=play))

    def answer(self, number):
        until(lambda: any(one.get("id") == number for one, _ in self.sent))
        return next(one for one, _ in self.sent if one.get("id") == number)

    def kind(self, kind):
        return [one for one, _ in self.sent if one["kind"] == kind]

    def draw_all(self):
        for message in self.kind("frames"):
            self.hear("drawn", number=message["number"])


@pytest.fixture
def talk(monkeypatch, tmp_path):
    talk = Talk(monkeypatch, tmp_path / "film", pace=None)
    yield talk
    talk.desk.close()


def test_a_desk_that_is_closed_is_freed(tmp_path):
    made = desk(tmp_path / "film", "toybox-1step", pace=None)
    made.live.send("prompt", text=CAT).result(10)
    made.live.send("resume").result(10)
    until(lambda live=made.live: live.readout.chunks >= 2)
    kept = [
        weakref.ref(one) for one in (made, made.live, made.live.session, made.live.latest().cache)
    ]
    made.close()
    assert made.view["closed"]
    del made
    gc.collect()
    assert [ref() for ref in kept] == [None] * 4


def test_a_desk_that_is_closed_stays_on_the_page_to_say_so(talk, monkeypatch):
    facts = []
    monkeypatch.setattr(
        type(talk.desk.comm),
        "publish_msg",
        lambda _comm, kind, *_more, **_named: facts.append(kind),
    )
    talk.desk.close()
    assert set(facts) == {"comm_msg"}, "a comm_close would take the view away"
    assert talk.desk.view["closed"] and talk.desk.comm is None


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        "do",
        {},
        {"kind": "do"},
        {"kind": "do", "id": {}},
        {"kind": "drawn", "number": None},
        {"kind": []},
    ],
)
def test_messages_that_are_none_are_passed_over(talk, content):
    before = len(talk.kind("answer"))
    talk.desk._receive_comm(talk.desk, content, [])
    assert len(talk.kind("answer")) == before


# ---- pictures under way


def test_no_more_than_two_messages_are_ever_under_way(talk):
    talk.do("prompt", text=CAT, play=True)
    until(lambda: talk.desk.live.readout.chunks >= 8)
    assert len(talk.kind("frames")) == UNDER_WAY
    talk.do("pause")
    newest = talk.desk.live.readout.desk.head
    talk.hear("drawn", number=1)
    until(lambda: len(talk.kind("frames")) == 3)
    assert talk.kind("frames")[-1]["node"] == newest, "what was made meanwhile is passed over"


def test_an_ack_frees_one_place_whoever_says_it():
    sent = []
    channel = FrameChannel(lambda content, buffers: sent.append(content["number"]))
    for _ in range(UNDER_WAY):
        channel.send_frames({}, [])
    assert not channel.wait_for_room(0)
    channel.acknowledge(1)
    channel.acknowledge(1)
    assert channel.wait_for_room(0)
    channel.send_frames({}, [])
    assert not channel.wait_for_room(0) and sent == [1, 2, 3]
    channel.reset()
    assert channel.wait_for_room(0)


def test_a_view_that_comes_late_gets_stills_and_the_newest_pictures(talk):
    talk.do("prompt", text=CAT, play=True)
    until(lambda: talk.desk.live.readout.chunks >= 4)
    talk.do("pause")
    talk.draw_all()
    until(lambda: talk.kind("frames")[-1]["node"] == talk.desk.live.readout.desk.head)
    until(lambda: talk.kind("stills"))
    talk.sent.clear()
    talk.hear("hello")
    assert talk.kind("stills")[0]["lines"] == [0]
    until(lambda: talk.kind("frames"))
    assert talk.kind("frames")[0]["node"] == talk.desk.live.readout.desk.head


# ---- commands


def test_commands_are_answered_and_wrong_ones_say_why(talk):
    assert "Prompt is empty" in talk.do("prompt", text=" ", play=True)["error"]
    assert not talk.desk.live.readout.playing, "what was refused is not played"
    assert "no shot to take again" in talk.do("retake")["error"]
    assert "Seed is 1.5" in talk.do("seed", value=1.5)["error"]
    assert "Budget is None" in talk.do("budget", value=None)["error"]
    answer = talk.do("prompt", text=CAT, play=True)
    assert answer["message"].startswith("The prompt holds") and not answer["error"]
    until(lambda: talk.desk.live.readout.playing)


def test_the_view_tells_what_a_new_tab_must_know(talk):
    talk.do("prompt", text=CAT, play=True)
    until(lambda: talk.desk.live.readout.chunks >= 3)
    talk.do("cut", text=ROBOT)
    until(lambda: len(talk.desk.view["shots"]) == 2 and talk.desk.view["shots"][1]["line"])
    talk.do("retake")
    until(lambda: len(talk.desk.view["shots"][-1]["takes"]) == 2)
    talk.do("pause")
    talk.draw_all()
    until(lambda: not talk.desk.view["playing"])
    view = json.loads(json.dumps(talk.desk.view))
    assert (
        view["earlier"] == [CAT, ROBOT]
        and view["settings"]["seed"] == SEED + 1
        and not view["closed"]
    )
    assert [take["on"] for take in view["shots"][1]["takes"]] == [False, True]
    assert len(view["attended"]["rows"]) == len(
        talk.desk.live.session.generator.bundle.model.blocks
    )


def test_where_a_paused_film_stands_is_shown(talk):
    talk.do("prompt", text=CAT, play=True)
    until(lambda: talk.desk.live.readout.chunks >= 4)
    talk.do("pause")
    until(
        lambda: (
            talk.draw_all(),
            talk.kind("frames")[-1]["node"] == talk.desk.live.readout.desk.head,
        )[1]
    )
    talk.do("branch", chunk=1)
    until(lambda: (talk.draw_all(), talk.kind("frames")[-1]["node"] == 1)[1])


def test_an_export_answers_with_the_film_and_an_empty_one_leaves_nothing(talk):
    assert "no chunk yet" in talk.answer(talk.hear("export"))["error"]
    assert not (talk.desk.folder / "export-1").exists()
    talk.do("prompt", text=CAT, play=True)
    until(lambda: talk.desk.live.readout.chunks >= 2)
    assert (
        talk.answer(talk.hear("export"))["message"]
        == f"Exported to {talk.desk.folder / 'export-1'}"
    )
    film, buffers = next((one, buffers) for one, buffers in talk.sent if one["kind"] == "film")
    assert buffers[0] == (talk.desk.folder / "export-1" / "film.mp4").read_bytes()
    assert dict(zip(film["names"], buffers, strict=True)) == {
        name: (talk.desk.folder / "export-1" / name).read_bytes()
        for name in ("film.mp4", "storyboard.png", "screenplay.yaml")
    }


@pytest.mark.skipif(
    not Path("/proc/self").exists(), reason="needs a folder that not even root can write to"
)
def test_a_folder_that_cannot_be_written_to_is_one_line_and_the_film_goes_on(talk):
    with pytest.raises(CinelabError, match="/proc/cinelab cannot be written to"):
        desk("/proc/cinelab")
    talk.do("prompt", text=CAT, play=True)
    until(lambda: talk.desk.live.readout.chunks >= 2)
    talk.desk.folder = Path("/proc/cinelab")
    assert "/proc/cinelab cannot be written to" in talk.answer(talk.hear("export"))["error"]
    made = talk.desk.live.readout.chunks
    until(lambda: talk.desk.live.readout.chunks > made)


# ---- a film that nobody watches


def test_a_film_pauses_once_nothing_is_drawn_any_more_and_goes_on_when_asked(talk, monkeypatch):
    monkeypatch.setattr(module, "UNWATCHED", 0.1)
    talk.hear("hello")
    talk.do("prompt", text=CAT, play=True)
    until(
        lambda: not talk.desk.view["playing"] and "nobody was watching" in talk.desk.view["message"]
    )
    assert [line["do"] for line in talk.desk.live.session.log if "do" in line] == [
        "prompt",
        "resume",
        "pause",
    ]
    made = talk.desk.live.readout.chunks
    assert talk.do("resume")["message"] == "Playing."
    until(lambda: talk.desk.live.readout.chunks > made)


def test_a_film_that_any_view_draws_goes_on_and_so_does_one_that_never_had_a_view(
    talk, monkeypatch
):
    monkeypatch.setattr(module, "UNWATCHED", 0.2)
    talk.do("prompt", text=CAT, play=True)
    until(lambda: talk.desk.live.readout.chunks >= 4 and talk.desk._channel.seconds_late() > 0.4)
    assert talk.desk.live.readout.playing, "directed from Python"
    for _ in range(2):
        talk.hear("hello")  # two tabs, of which one draws
    until(lambda: (talk.draw_all(), len(talk.kind("frames")) > 12)[1])
    assert talk.desk.live.readout.playing


class Shell:
    """What is used of IPython's."""

    def __init__(self):
        self.events = self
        self.calls = {}

    def register(self, event, call):
        self.calls[event] = call

    def unregister(self, event, call):
        assert self.calls.pop(event) == call


def test_a_film_goes_on_while_a_cell_keeps_the_kernel_from_hearing_what_was_drawn(
    talk, monkeypatch
):
    monkeypatch.setattr(module, "UNWATCHED", 0.2)
    shell = Shell()
    talk.desk._kernel = KernelActivity(shell)
    talk.hear("hello")
    talk.do("prompt", text=CAT, play=True)
    until(lambda: talk.desk._channel.seconds_late() > 0.6)
    assert talk.desk.live.readout.playing
    shell.calls["post_execute"]()
    shell.calls["pre_execute"]()
    assert talk.desk._kernel.free_for() == 0
    shell.calls["post_execute"]()
    until(lambda: not talk.desk.live.readout.playing)
    talk.desk.close()
    assert shell.calls == {}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("prompt is empty; say it.", "Prompt is empty; say it."),
        ("this film: no", "This film: no"),
        ("log.jsonl is gone", "log.jsonl is gone"),
        ("", ""),
        ("/a b", "/a b"),
    ],
)
def test_a_refusal_begins_as_a_sentence_does(error, expected):
    assert sentence(error) == expected


def test_frames_that_are_shown_slowly_are_not_late():
    channel = FrameChannel(lambda content, buffers: None)
    assert channel.seconds_late() < 0
    channel.send_frames({"gap": 100.0}, [])
    assert channel.seconds_late() >= 0, "nothing to show: it is due at once"
    channel.reset()
    channel.send_frames({"gap": 100.0}, [np.zeros((2, 2, 3), np.uint8)])
    assert channel.seconds_late() < -90


def test_signs_of_life_come_whatever_happens_and_end_with_the_desk(talk, monkeypatch):
    monkeypatch.setattr(module, "BEAT", 0.05)
    talk.sent.clear()
    until(lambda: len(talk.kind("alive")) >= 3)
    talk.desk.close()
    talk.sent.clear()
    assert talk.desk.view["closed"] and not talk.kind("alive")


# ---- an earlier take is watched


def test_a_take_is_watched_from_the_disk_and_the_film_stays_where_it_is(talk, tmp_path):
    talk.do("prompt", text=CAT, play=True)
    until(lambda: talk.desk.live.readout.chunks >= 3)
    talk.do("cut", text=ROBOT)
    until(lambda: talk.desk.live.session.nodes[talk.desk.live.session.desk.head].shot == 1)
    talk.do("pause")
    until(lambda: len(talk.desk.view["shots"]) == 2)
    shot = talk.desk.view["shots"][0]
    head = talk.desk.live.session.desk.head
    assert not talk.answer(talk.hear("watch", chunk=shot["last"]))["error"]
    message, buffers = next((one, buffers) for one, buffers in talk.sent if one["kind"] == "take")
    (tmp_path / "take.mp4").write_bytes(buffers[0])
    assert (
        len(read_video(tmp_path / "take.mp4")[0]) == 2 * shot["chunks"] - 1 == message["ends"][-1]
    )
    assert (
        message["chunks"] == list(range(shot["chunks"])) and message["chunks"][-1] == shot["last"]
    )
    assert talk.desk.live.session.desk.head == head and not talk.desk.live.readout.playing
    assert "is not in this session" in talk.answer(talk.hear("watch", chunk=999))["error"]
    assert "Chunk is 'x'" in talk.answer(talk.hear("watch", chunk="x"))["error"]


# ---- one desk a folder


def test_a_cell_that_is_run_again_takes_over(talk, monkeypatch):
    talk.do("prompt", text=CAT, play=True)
    until(lambda: talk.desk.live.readout.chunks >= 2)
    again = desk(talk.desk.folder, "toybox-1step", pace=None)
    assert talk.desk.view["closed"] and "has ended" in talk.do("resume")["error"]
    assert again.view["chunks"] == talk.desk.live.readout.chunks >= 2 and not again.view["playing"]
    until(lambda: any(one["kind"] == "stills" for one, _ in talk.sent[-5:]))
    again.close()


def test_another_process_desk_is_refused(talk, monkeypatch):
    monkeypatch.setattr(module, "OPEN", {})
    monkeypatch.setattr("cinelab.stream.session.OPENED", {})
    monkeypatch.setattr("cinelab.outputs.PATIENCE", 0.2)
    with pytest.raises(CinelabError, match="is written by"):
        desk(talk.desk.folder, "toybox-1step")


def test_what_cannot_be_opened_leaves_the_folder_free(tmp_path):
    with pytest.raises(CinelabError, match="pace is 0"):
        desk(tmp_path / "film", pace=0)
    for _ in range(2):
        with pytest.raises(CinelabError, match="'best'"):
            desk(tmp_path / "film", "toybox-1step", policy="best")


# ---- what is shown


def test_the_board_agrees_with_the_sessions_own_tree(session):
    board = FilmTree()
    play(session, 3)
    session.do("cut", text=ROBOT)
    play(session, 2)
    session.do("retake")
    play(session, 2)
    session.do("branch", chunk=4)
    play(session, 1)
    session.do("branch", chunk=3)
    play(session, 1)
    assert (
        [number for number, node in session.nodes.items() if board.add(node)]
        == board.lines
        == [0, 3, 5, 8]
    )
    shots = board.shots(session.desk.head, cut=False)
    assert [(shot["line"], shot["last"], shot["chunks"]) for shot in shots] == [
        (0, 2, 3),
        (8, 8, 2),
    ]
    assert [(take["line"], take["last"], take["on"]) for take in shots[1]["takes"]] == [
        (3, 7, False),
        (5, 6, False),
        (8, 8, True),
    ]
    assert list(board.prompts) == [CAT, ROBOT]


def test_a_shot_that_is_still_to_come_shows_the_takes_it_has(session):
    board = FilmTree()
    assert board.shots(None, cut=False)[0]["takes"] == []
    play(session, 2)
    for node in session.nodes.values():
        board.add(node)
    session.do("retake")
    coming = board.shots(session.desk.head, session.desk.cut)
    assert len(coming) == 1 and coming[0]["line"] is None
    assert coming[0]["takes"] == [
        {"line": 0, "last": 1, "on": False, "changes": [], "prompt": CAT, "shot": 0}
    ]


def test_every_take_can_be_reached_from_what_is_in_sight(session):
    board = FilmTree()
    play(session, 2)
    session.do("cut", text=ROBOT)
    play(session, 2)
    session.do("cut", text=CAT)
    play(session, 1)
    session.do("branch", chunk=1)
    play(session, 2)
    session.do("branch", chunk=0)
    session.do("cut", text=ROBOT)
    play(session, 1)
    for node in session.nodes.values():
        board.add(node)
    seen = set()
    ask = [session.desk.head]
    while ask:
        fresh = {
            take["last"] for row in board.shots(ask.pop(), cut=False) for take in row["takes"]
        } - seen
        seen |= fresh
        ask += fresh
    assert seen == {
        max(number for number in session.nodes if board._line[number] == line)
        for line in board.lines
    }
    assert board.shots(session.desk.head, cut=False)[-1]["shot"] == 1, (
        "nothing else hangs on this path"
    )
    assert board.shots(1, cut=False)[-1]["shot"] is None


def test_a_change_in_mid_shot_is_told_with_its_place(session):
    board = FilmTree()
    play(session, 2)
    session.do("prompt", text=CAT.replace("waves", "jumps"))
    session.do("budget", value=4)
    play(session, 2)
    session.do("branch", chunk=1)
    session.do("seed", value=7)
    play(session, 1)
    for node in session.nodes.values():
        board.add(node)
    jumps = {"at": 2, "what": "waves → jumps, budget 6 → 4"}
    assert board.shots(3, cut=False)[0]["changes"] == [jumps]
    row = board.shots(4, cut=False)[0]
    assert row["changes"] == [{"at": 2, "what": "seed 0 → 7"}] and row["prompt"] == CAT
    assert [take["changes"] for take in row["takes"]] == [[jumps], row["changes"]]


@pytest.mark.parametrize(
    "before, after, words",
    [
        ("a cat waits", "a cat jumps", "waits → jumps"),
        ("a cat", "a cat at night", "+ at night"),
        ("a red cat by day", "a cat by day", "- red"),
        ("a red cat waits by day", "a blue cat waits at night", "red → blue, by day → at night"),
    ],
)
def test_words_that_differ(before, after, words):
    assert words_changed(before, after) == words


def test_a_retakes_shot_is_named_before_it_is_asked_for_and_while_it_is_pending(session):
    board = FilmTree()

    def now():
        for node in list(session.nodes.values())[len(board.nodes) :]:
            board.add(node)
        return next_retake(session.desk, board)

    assert now() is None
    play(session, 2)
    session.do("cut", text=ROBOT)
    assert now()["shot"] == 1
    play(session, 2)
    assert now() == {"shot": 2, "seed": 1}
    session.do("retake")
    assert now() == {"shot": 2, "seed": 2}
    play(session, 1)
    assert now() == {"shot": 2, "seed": 2}
    session.do("branch", chunk=0)
    session.do("retake")
    assert now() == {"shot": 1, "seed": 2}, "the first shot, before it has begun again"


def test_examples_are_in_words_that_the_model_knows(session):
    facts = desk_facts(session)
    assert [one["text"] for one in facts["examples"]] == list(EXAMPLES.values()) and facts[
        "trained_seconds"
    ] == 6
    assert examples({"a", "cat"}) == [] and examples(set()) == facts["examples"]


def test_a_chunks_pictures_are_the_films_own_bits(session):
    play(session, 4)
    film = session.frames()
    for number in (0, 3):
        shown = node_frames(snapshot(session), session.nodes[number])
        assert (shown == film[max(0, 2 * number - 1) :][: len(shown)]).all()


def test_a_copy_at_rest_is_exported_while_the_film_goes_on(session, tmp_path):
    play(session, 2)
    copy = snapshot(session)
    session.do("cut", text=ROBOT)
    play(session, 1)
    folder = export_film(copy, tmp_path / "out")
    assert len(Screenplay.load(folder / "screenplay.yaml").shots) == 1 and copy.path() == [0, 1]


def test_where_a_chunk_looked_is_what_the_routing_table_says(session):
    session.do("budget", value=4)
    play(session, 5)
    session.do("cut", text=ROBOT)
    play(session, 4)
    memory = session.state(8).cache
    chunk = 8
    table = memory.routing_table()
    table = table[table["chunk"] == chunk]
    heads = table.groupby("layer")["head"].nunique()
    pairs = (
        table.drop_duplicates(["layer", "head", "kept_shot"]).groupby(["layer", "kept_shot"]).size()
    )
    expected = {(layer, shot): count / heads[layer] for (layer, shot), count in pairs.items()}
    found = shots_retrieved(memory, chunk)
    assert {
        (layer, shot): share for layer, row in found.items() for shot, share in row.items()
    } == pytest.approx(expected)
    assert (
        shots_retrieved(memory, 99) == {}
        and shots_retrieved(session.generator.begin().cache, 0) == {}
    )


def test_the_strip_has_a_column_for_every_shot():
    assert memory_strip({0: {0: 0.5}, 1: {1: 1.0}}, 3) == {"rows": [[0.5, 0, 0], [0, 1.0, 0]]}
    assert memory_strip({}, 1) == {"rows": []}


def test_the_read_out_is_one_line():
    now = Readout(
        rate=58.4,
        first_frame=0.031,
        causes={"text": 0.01, "dit": 0.8, "memory": 0.12, "decode": 0.07},
    )
    assert (
        readout_line(now)
        == "first frame 0.03 s, 58 frames/s, text 1 %, model 80 %, memory 12 %, decode 7 %, "
        "rest 0 %"
    )
    assert readout_line(Readout()) == "nothing made since the desk was opened"


def test_a_rehearsal_goes_on_where_the_one_before_ended(tmp_path):
    first = rehearse(tmp_path / "film", "toybox-1step")
    rehearse(tmp_path / "film", "toybox-1step")
    assert first.width > 1000 and (tmp_path / "film/export-2/film.mp4").exists()
