"""Directing sessions: nothing made is lost or changed, and log, folder and screenplay each give the
same film again."""

import errno
import json
import os
import random
import shutil
import tempfile
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from directing import CAT, ROBOT
from hypothesis import given, settings
from hypothesis import strategies as st
from writers import child_refuses

from cinelab import Director, load
from cinelab.errors import CinelabError
from cinelab.flow.sampler import Sampling
from cinelab.memory.policy import CAMR
from cinelab.memory.policy_registry import POLICIES, budget_of, name_of, policy_named
from cinelab.script.screenplay import Screenplay
from cinelab.script.timeline import plan
from cinelab.stream.batch import empty_cache, stream
from cinelab.stream.chunk_file import write_chunk
from cinelab.stream.export import export_film, screenplay_of
from cinelab.stream.generator import ChunkGenerator, ChunkRequest
from cinelab.stream.session import Session, Settings
from cinelab.stream.video import read_video

JUMP = CAT.replace("waves", "jumps")


@pytest.fixture(scope="module")
def bundle():
    return load("toybox-1step")


@pytest.fixture
def session(bundle, tmp_path):
    return Session.create(tmp_path / "session", bundle, Settings(CAT, seed=3))


def copy_of(session, folder):
    """The session's folder, copied as a backup would."""
    shutil.copytree(session.folder, folder, ignore=shutil.ignore_patterns(".lock"))
    return folder


def play(session, chunks):
    return [session.step().latents for _ in range(chunks)]


def direct_everything(session):
    """A session with every command in it."""
    play(session, 3)
    session.do("prompt", text=JUMP, switch="recache")
    play(session, 2)
    session.do("cut", text=ROBOT)
    play(session, 2)
    session.do("retake")
    play(session, 3)
    session.do("policy", value="window")
    session.do("budget", value=4)
    play(session, 1)
    session.do("prompt", text=CAT, switch="keep")
    session.do("levels", value=2)
    play(session, 2)
    session.do("cut")
    session.do("seed", value=11)
    play(session, 2)
    return session


def test_a_reel_makes_the_batch_rollouts_bits(bundle):
    shots = [
        {"prompt": CAT, "seconds": 0.75, "changes": [{"at": 0.25, "prompt": JUMP}]},
        {"prompt": ROBOT, "seconds": 0.5},
    ]
    line = plan(
        Screenplay.parse(json.dumps({"title": "t", "shots": shots})),
        bundle.fps,
        bundle.codec.stride,
        bundle.chunk,
    )
    whole = torch.cat(
        [
            timed.latents
            for timed in stream(bundle, [line], empty_cache(bundle, CAMR(budget=4)), [5])
        ],
        dim=1,
    )
    reel = ChunkGenerator(bundle)
    parts = []
    state = reel.begin()
    for slot in line.slots:
        state, timed = reel.step(
            state, ChunkRequest(line.prompts[slot.prompt], slot.shot, slot.cut, 5, CAMR(budget=4))
        )
        parts.append(timed.latents)
    assert torch.equal(torch.cat(parts, dim=1), whole)


def test_a_recalled_chunk_leaves_the_state_that_making_it_left(bundle):
    reel = ChunkGenerator(bundle)
    made = again = reel.begin()
    for index, text in enumerate([CAT, CAT, f"then {JUMP}"]):
        ask = ChunkRequest(text, recache=index == 2)
        made, timed = reel.step(made, ask)
        again = reel.restore(again, ask, timed.latents)
    a, b = (reel.step(state, ChunkRequest(ROBOT, 1, cut=True))[1] for state in (made, again))
    assert torch.equal(a.latents, b.latents) and np.array_equal(a.frames, b.frames)


def test_recaching_changes_what_follows_and_keeping_does_not_forget(bundle):
    reel = ChunkGenerator(bundle)
    state = ChunkGenerator(bundle).begin()
    for _ in range(3):
        state, _ = reel.step(state, ChunkRequest(CAT))
    kept, recached = (
        reel.step(state, ChunkRequest(f"then {JUMP}", recache=recache))[1].latents
        for recache in (False, True)
    )
    assert not torch.equal(kept, recached)


def test_a_session_goes_on_from_its_folder_bit_for_bit(session, bundle, tmp_path):
    direct_everything(session)
    copy_of(session, tmp_path / "copy")
    copy = Session.resume(tmp_path / "copy", bundle)
    assert copy.desk == session.desk and copy.nodes == session.nodes
    assert all(torch.equal(a, b) for a, b in zip(play(session, 2), play(copy, 2), strict=True))


def test_its_log_replays_to_the_same_film(session, bundle, tmp_path):
    direct_everything(session)
    again = Session.create(tmp_path / "again", bundle, Settings(CAT, seed=3))
    for line in session.log:
        if "made" in line:
            again.step()
        else:
            again.do(line["do"], **line["value"])
    assert again.nodes == session.nodes
    assert all(torch.equal(again.latents(n), session.latents(n)) for n in session.nodes)


def test_its_screenplay_renders_to_the_same_film(session, bundle, tmp_path):
    direct_everything(session)
    folder = export_film(session, tmp_path / "film")
    film = Director(bundle).render(Screenplay.load(folder / "screenplay.yaml"))
    assert np.array_equal(film.frames, session.frames())
    assert read_video(folder / "film.mp4")[0].shape[0] == len(film.frames)
    with pytest.raises(CinelabError, match="already holds a film"):
        export_film(session, folder)


def test_a_take_that_a_kill_cut_short_is_gone_and_nothing_else(session, bundle):
    play(session, 3)
    with open(session.folder / "log.jsonl", "a") as file:
        file.write('{"made": {"number": 3')  # the line of a chunk that was being written
    again = Session.resume(session.folder, bundle)
    assert again.path() == [0, 1, 2]
    play(again, 1)
    assert Session.resume(session.folder, bundle).path() == [0, 1, 2, 3]


def test_a_log_that_was_tampered_with_is_one_sentence(session, bundle):
    play(session, 1)
    with open(session.folder / "log.jsonl", "a") as file:
        file.write("nonsense\n")
    with pytest.raises(CinelabError, match="log.jsonl has a line that cannot be read"):
        Session.resume(session.folder, bundle)


def test_any_script_and_emoji_may_be_said(session, bundle, tmp_path):
    for text in ("a red cat 🐈 in the meadow by day", "一只红猫在草地上", "قطة حمراء"):
        session.do("prompt", text=text)
        play(session, 1)
    again = Session.resume(session.folder, bundle)
    assert again.nodes == session.nodes
    film = Director(bundle).render(
        Screenplay.load(export_film(session, tmp_path / "film") / "screenplay.yaml")
    )
    assert np.array_equal(film.frames, session.frames())


def test_the_models_own_levels_can_be_gone_back_to(session, bundle, tmp_path):
    for value in (3, None):
        session.do("levels", value=value)
        play(session, 2)
    film = Director(bundle).render(
        Screenplay.load(export_film(session, tmp_path / "film") / "screenplay.yaml")
    )
    assert np.array_equal(film.frames, session.frames())


def test_a_retake_keeps_the_old_take_and_begins_where_the_shot_did(session):
    play(session, 2)
    session.do("cut", text=ROBOT)
    first = play(session, 2)
    session.do("retake")
    second = play(session, 2)
    assert session.path() == [0, 1, 4, 5] and not torch.equal(first[0], second[0])
    session.do("branch", chunk=3)
    assert session.path() == [0, 1, 2, 3] and session.desk.settings.seed == 3


def test_a_retake_follows_the_directions_of_the_shot(session):
    play(session, 1)
    session.do("prompt", text=JUMP)
    play(session, 2)
    session.do("retake", seed=9)
    play(session, 4)
    assert [session.nodes[n].model_prompt for n in session.path()] == [
        CAT,
        f"then {JUMP}",
        f"then {JUMP}",
        f"then {JUMP}",
    ]
    assert {session.nodes[n].settings.seed for n in session.path()} == {9}


def test_undo_goes_back_before_the_last_command(session):
    play(session, 2)
    session.do("cut", text=ROBOT)
    play(session, 2)
    assert session.do("undo") == "Undone: shot 1, chunk 2."
    assert session.path() == [0, 1] and session.desk.settings.prompt == CAT and not session.desk.cut
    assert len(session.nodes) == 4
    with pytest.raises(CinelabError, match="nothing to undo"):
        session.do("undo")


def test_a_branch_of_a_branch(session):
    play(session, 3)
    session.do("branch", chunk=0)
    play(session, 2)
    session.do("branch", chunk=3)
    play(session, 1)
    assert session.path() == [0, 3, 5] and len(session.nodes) == 6


def test_retake_again_takes_the_same_shot_again_with_the_next_seed(session):
    play(session, 2)
    session.do("cut", text=ROBOT)
    play(session, 2)
    assert [session.do("retake") for _ in range(3)] == [
        f"Shot 2 again, with seed {seed}." for seed in (4, 5, 6)
    ]
    play(session, 2)
    assert [session.nodes[n].settings.prompt for n in session.path()] == [CAT, CAT, ROBOT, ROBOT]
    assert session.nodes[session.desk.head].settings.seed == 6
    session.do("branch", chunk=1)
    session.do("retake")
    assert (
        session.do("retake", seed=40) == "Shot 1 again, with seed 40." and session.desk.head is None
    )


def test_a_retake_in_the_middle_of_a_retake_has_all_of_the_shots_directions(session):
    play(session, 1)
    session.do("prompt", text=JUMP)
    play(session, 2)
    session.do("retake")
    play(session, 1)
    session.do("retake")
    play(session, 3)
    assert [session.nodes[n].settings.prompt for n in session.path()] == [CAT, JUMP, JUMP]


def test_every_changed_bit_of_a_session_is_noticed(session, bundle, tmp_path):
    direct_everything(session)
    copy = copy_of(session, tmp_path / "copy")
    rng = random.Random(0)
    for path in [*sorted(copy.glob("*.json*")), copy / "chunks" / "00004.safetensors"]:
        data = path.read_bytes()
        for place in [len(data) - 1, *(rng.randrange(len(data)) for _ in range(12))]:
            path.write_bytes(
                data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
            )
            if place == len(data) - 1 and path.name == "log.jsonl":  # its last line end: mended
                assert Session.resume(copy, bundle).nodes == session.nodes
            elif path.name == "session.json" and json.loads(data) == _json(path):
                pass  # the last line end of a whole file
            else:
                with pytest.raises(CinelabError, match=path.name):
                    Session.read(copy, bundle).latents(4)
        path.write_bytes(data)
    assert Session.resume(copy, bundle).nodes == session.nodes


def _json(path):
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None


@pytest.mark.parametrize("damage", ["exchange", "double", "without", "swap lines"])
def test_files_and_lines_in_another_order_are_noticed(session, bundle, damage):
    play(session, 4)
    log = session.folder / "log.jsonl"
    chunks = session.folder / "chunks"
    lines = log.read_text().splitlines(keepends=True)
    if damage == "exchange":
        (chunks / "00001.safetensors").rename(chunks / "x")
        (chunks / "00002.safetensors").rename(chunks / "00001.safetensors")
        (chunks / "x").rename(chunks / "00002.safetensors")
    else:
        log.write_text(
            "".join(
                {
                    "double": lines[:2] + lines[1:],
                    "without": lines[:1] + lines[2:],
                    "swap lines": [lines[1], lines[0], *lines[2:]],
                }[damage]
            )
        )
    with pytest.raises(CinelabError, match="hash differs|checksum differs"):
        Session.resume(session.folder, bundle).frames()


def test_chunks_beyond_a_log_cut_short_are_moved_aside_and_not_overwritten(session, bundle):
    play(session, 4)
    log = session.folder / "log.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:2]))
    lost = (session.folder / "chunks" / "00003.safetensors").read_bytes()
    with pytest.warns(UserWarning, match="2 chunk.* were moved to aside"):
        again = Session.resume(session.folder, bundle)
    play(again, 2)
    assert lost in [path.read_bytes() for path in (session.folder / "aside").iterdir()]


def test_chunks_that_are_no_finite_latents_of_the_model_are_refused(session, bundle):
    play(session, 2)
    for bad, said in (
        (session.latents(0) * float("nan"), "not finite"),
        (session.latents(0).int(), "no latents"),
        (session.latents(0)[..., :2], "latents"),
    ):
        session.checksums[1] = write_chunk(session._file(1), bad)
        with pytest.raises(CinelabError, match=f"00001.safetensors holds .*{said}"):
            session.latents(1)


def test_a_session_of_the_first_schema_goes_on_and_is_hashed_from_there(session, bundle, tmp_path):
    play(session, 3)
    old = copy_of(session, tmp_path / "old")
    record = json.loads((old / "session.json").read_text())
    (old / "session.json").write_text(
        json.dumps({k: v for k, v in record.items() if k != "sum"} | {"schema": 1})
    )
    rows = [{k: v for k, v in row.items() if k != "sum"} for row in session.log]
    (old / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    again = Session.resume(old, bundle)
    assert torch.equal(play(again, 1)[0], play(session, 1)[0])
    text = (old / "log.jsonl").read_text()
    (old / "log.jsonl").write_text(text.replace('"cut": false', '"cut": true', 1))
    with pytest.raises(CinelabError, match="line 4 is not as it was written"):
        Session.resume(old, bundle)


def test_a_command_is_on_the_disk_before_it_is_carried_out(session, monkeypatch):
    play(session, 1)
    before = session.desk

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.write", full)
    for command, value in (("seed", {"value": 9}), ("cut", {"text": ROBOT}), ("retake", {})):
        with pytest.raises(CinelabError, match="no space left"):
            session.do(command, **value)
        assert session.desk == before
    monkeypatch.undo()
    session.do("seed", value=9)
    assert [row["do"] for row in session.log if "do" in row] == ["seed"]


@pytest.mark.parametrize("value", [{}, {"steps": None}, Sampling()])
def test_a_sampling_that_asks_for_nothing_is_the_models_own(session, value):
    session.do("levels", value=value)
    play(session, 1)
    assert session.desk.settings.steps is None
    assert Screenplay.parse(screenplay_of(session).to_yaml()) == screenplay_of(session)


def test_a_policy_that_keeps_fewer_than_a_named_one_is_exported_too(session, bundle, tmp_path):
    session.do("policy", value=CAMR(budget=2, sink=0))
    play(session, 2)
    session.do("budget", value=1)
    play(session, 2)
    film = Director(bundle).render(
        Screenplay.load(export_film(session, tmp_path / "film") / "screenplay.yaml")
    )
    assert np.array_equal(film.frames, session.frames())


@pytest.mark.parametrize("moment", ["before", "half", "after"])
def test_an_interrupt_while_a_line_is_written_leaves_log_and_session_alike(
    session, bundle, monkeypatch, moment
):
    play(session, 1)
    write = os.write

    def cut_short(handle, data):
        monkeypatch.setattr("os.write", write)
        write(handle, {"before": b"", "half": data[: len(data) // 2], "after": data}[moment])
        raise KeyboardInterrupt

    for work in (session.step, lambda: session.do("seed", value=9)):
        monkeypatch.setattr("os.write", cut_short)
        with pytest.raises(KeyboardInterrupt):
            work()
    assert session.desk.settings.seed == 3
    play(session, 1)
    assert session.path() == [0, 1] == Session.read(session.folder, bundle).path()


def test_an_interrupt_between_a_line_and_what_it_says_asks_for_the_folder_to_be_opened_again(
    session, bundle, monkeypatch
):
    def cut_short(*_):
        raise KeyboardInterrupt

    play(session, 1)
    monkeypatch.setattr(session, "_apply", cut_short)
    with pytest.raises(KeyboardInterrupt):
        session.do("seed", value=9)
    with pytest.raises(CinelabError, match="interrupted while it wrote; open the folder again"):
        session.step()
    assert Session.resume(session.folder, bundle).desk.settings.seed == 9


@pytest.mark.parametrize(
    "damage",
    ["log gone", "log emptied", "lines lost", "line added", "folder gone", "session.json gone"],
)
def test_a_folder_that_changes_under_a_session_gets_no_line_that_does_not_follow(session, damage):
    play(session, 2)
    log = session.folder / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    if damage == "folder gone":
        shutil.rmtree(session.folder)
    elif damage.endswith("gone"):
        (log if damage == "log gone" else session.folder / "session.json").unlink()
    else:
        log.write_text(
            "".join(
                {"log emptied": [], "lines lost": lines[:1], "line added": [*lines, lines[1]]}[
                    damage
                ]
            )
        )
    before = {path: path.is_file() and path.read_bytes() for path in session.folder.rglob("*")}
    for work in (session.step, lambda: session.do("seed", value=9)):
        with pytest.raises(CinelabError, match="gone or has changed|session.json any more"):
            work()
    assert {
        path: path.is_file() and path.read_bytes() for path in session.folder.rglob("*")
    } == before
    assert len(session.nodes) == 2


def test_a_log_without_its_session_is_not_written_to(session, bundle):
    play(session, 1)
    (session.folder / "session.json").unlink()
    with pytest.raises(CinelabError, match="log without its session.json"):
        Session.create(session.folder, bundle)


def test_one_session_writes_to_a_folder(session, bundle, monkeypatch):
    play(session, 2)
    monkeypatch.setattr("cinelab.outputs.PATIENCE", 0.0)
    assert child_refuses(lambda: Session.resume(session.folder, bundle))
    looking = Session.read(session.folder, bundle)
    assert looking.nodes == session.nodes
    with pytest.raises(CinelabError, match="closed or only read"):
        looking.step()
    again = Session.resume(session.folder, bundle)
    play(again, 1)
    with pytest.raises(CinelabError, match="closed or only read"):
        session.do("seed", value=4)


def test_what_a_film_attended_to_is_kept_with_its_chunks(session, bundle):
    play(session, 8)
    was = session.state(session.desk.head).cache.routing_table()
    assert len(was) and Session.read(session.folder, bundle).routing().equals(was)


COMMAND = st.one_of(
    st.tuples(st.just("step"), st.just({})),
    st.tuples(st.sampled_from(["undo", "retake", "pause", "resume"]), st.just({})),
    st.tuples(
        st.sampled_from(["prompt", "cut"]),
        st.fixed_dictionaries(
            {
                "text": st.one_of(
                    st.sampled_from([CAT, ROBOT, JUMP]), st.text(max_size=8), st.integers()
                )
            }
        ),
    ),
    st.tuples(
        st.sampled_from(["seed", "budget", "levels", "policy", "switch"]),
        st.fixed_dictionaries(
            {
                "value": st.one_of(
                    st.none(),
                    st.booleans(),
                    st.integers(-1, 9),
                    st.floats(),
                    st.just([1.0, 0.5]),
                    st.sampled_from(["camr", "window", "full", "recache", "cut"]),
                )
            }
        ),
    ),
    st.tuples(
        st.just("branch"),
        st.fixed_dictionaries(
            {"chunk": st.one_of(st.integers(-1, 4), st.floats(0, 2), st.booleans())}
        ),
    ),
    st.tuples(st.text(max_size=3), st.dictionaries(st.text(max_size=3), st.integers(), max_size=1)),
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(COMMAND, max_size=12))
def test_whatever_was_accepted_is_opened_and_exported_again(bundle, commands):
    with (
        tempfile.TemporaryDirectory() as place,
        Session.create(f"{place}/s", bundle, Settings(CAT)) as session,
    ):
        for command, value in commands:
            with suppress(CinelabError):
                session.step() if command == "step" else session.do(command, **value)
        again = Session.read(f"{place}/s", bundle)
        assert (again.nodes, again._before) == (session.nodes, session._before)
        assert again.desk == replace(session.desk, playing=False)
        if session.desk.head is not None:
            play = screenplay_of(session)
            assert Screenplay.parse(play.to_yaml()) == play


@pytest.mark.parametrize(
    ("command", "value", "said"),
    [
        ("prompt", {"text": "  "}, "prompt is empty"),
        ("prompt", {"text": "a" * 10_000}, "10000 characters"),
        ("prompt", {"text": CAT, "switch": "blend"}, "'blend'; use one of keep, recache, cut"),
        ("retake", {}, "no shot to take again"),
        ("cut", {}, "nothing to cut from"),
        ("undo", {}, "nothing to undo"),
        ("branch", {"chunk": 7}, "chunk is 7"),
        ("policy", {"value": "best"}, "'best'; use one of full"),
        ("budget", {"value": 1}, "budget is 1"),
        ("levels", {"value": 0}, "levels is 0"),
        ("seed", {"value": -1}, "seed is -1"),
        ("dance", {}, "'dance' is unknown"),
    ],
)
def test_bad_commands_change_nothing(session, command, value, said):
    before = session.desk
    with pytest.raises(CinelabError, match=said):
        session.do(command, **value)
    assert session.desk == before and session.log == []


def test_folders_that_are_no_session_of_ours(session, bundle, tmp_path):
    with pytest.raises(CinelabError, match="already holds a session"):
        Session.create(session.folder, bundle)
    with pytest.raises(CinelabError, match="made with toybox-1step"):
        Session.resume(session.folder, load("toybox-2step"))
    with pytest.raises(CinelabError, match="cannot be read"):
        Session.resume(tmp_path / "nowhere", bundle)
    with pytest.raises(CinelabError, match="play first"):
        session.frames()
    with pytest.raises(CinelabError, match="no chunk yet"):
        screenplay_of(session)


@pytest.mark.parametrize("name", list(POLICIES))
def test_a_policy_knows_its_name_and_budget(name):
    policy = policy_named(name, 7)
    budget = {"full": 6, "causalcine": 14}.get(name, 7)
    assert name_of(policy) == name and budget_of(policy) == budget


def test_few_states_are_kept_and_those_that_shots_began_from_longest(session):
    for shot in range(3):
        if shot:
            session.do("cut", text=ROBOT if shot % 2 else CAT)
        play(session, 8)
    assert set(session._states) == {7, 15, 22, 23}
    before = session.latents(8)
    session.do("branch", chunk=10)
    assert torch.equal(session.state(8).shot_chunks[-1], before), (
        "a state that was let go of is made again"
    )


def test_a_film_whose_screenplay_could_not_be_read_is_not_made(session, monkeypatch):
    import cinelab.stream.session_limits as room

    play(session, 2)
    needed = session._screenplay.up_to(1)
    assert session._screenplay.up_to(0) == needed and needed[0] > len(CAT), (
        "a chunk that goes on as before adds nothing"
    )
    assert len(screenplay_of(session).to_yaml().encode()) < needed[0] + 200
    monkeypatch.setattr(room, "SCREENPLAY_ROOM", (needed[0] + 100, 10**6))
    play(session, 1)
    session.do("prompt", text=JUMP)
    with pytest.raises(CinelabError, match="as a screenplay, which is the most"):
        session.step()
    monkeypatch.setattr(room, "SCREENPLAY_ROOM", (10**6, needed[1]))
    with pytest.raises(CinelabError, match="values as a screenplay"):
        session.step()
    session.do("undo")
    play(session, 1)
    assert Screenplay.parse(screenplay_of(session).to_yaml()) == screenplay_of(session)


def test_the_size_of_a_screenplay_is_never_less_than_what_is_written():
    from cinelab.limits import VALUES
    from cinelab.script.screenplay import ROOM, PromptChange, Shot, screenplay_size
    from cinelab.texts import SCREENPLAY

    texts = ["x", "it's: a 'cat' " * 140, "\x81\u200b" * 600, "\U0001f98a" * 2000, "- no" * 400]
    changes = tuple(
        PromptChange(i + 1 / 3, text, i, CAMR(budget=4 + i), 9, (1.0, 0.6, 0.3), True)
        for i, text in enumerate(texts)
    )
    shots = tuple(
        Shot(text, 100 / 3, "continue" if i else "cut", changes, 7, "full", 8, 3)
        for i, text in enumerate(texts)
    )
    written = Screenplay("t", shots).to_yaml()
    sizes = [
        screenplay_size(part)
        for shot in shots
        for part in (PromptChange(200 / 3, shot.prompt, 7, "full", 8, 3), *shot.changes)
    ]
    assert len(written.encode()) <= sum(size for size, _ in sizes) + 100
    assert (
        ROOM[0] < SCREENPLAY.most and ROOM[1] < VALUES and Screenplay.parse(written).shots == shots
    )
