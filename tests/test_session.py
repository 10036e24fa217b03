"""Directing sessions: nothing made is lost or changed, and log, folder and screenplay each give the same film again."""

import json
import shutil

import numpy as np
import pytest
import torch
from directing import CAT, ROBOT

from cinelab import Director, load
from cinelab.errors import CinelabError
from cinelab.memory.policy import CAMR, POLICIES, budget_of, name_of, policy_named
from cinelab.script.screenplay import Screenplay
from cinelab.script.timeline import plan
from cinelab.stream.engine import empty_memory, stream
from cinelab.stream.export import export, screenplay_of
from cinelab.stream.reel import Ask, Reel
from cinelab.stream.session import Session, Settings
from cinelab.stream.video import read_video

JUMP = CAT.replace("waves", "jumps")


@pytest.fixture(scope="module")
def bundle():
    return load("toybox-1step")


@pytest.fixture
def session(bundle, tmp_path):
    return Session.create(tmp_path / "session", bundle, Settings(CAT, seed=3))


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
    shots = [{"prompt": CAT, "seconds": 0.75, "changes": [{"at": 0.25, "prompt": JUMP}]}, {"prompt": ROBOT, "seconds": 0.5}]
    line = plan(Screenplay.parse(json.dumps({"title": "t", "shots": shots})), bundle.fps, bundle.codec.stride, bundle.chunk)
    whole = torch.cat([timed.latents for timed in stream(bundle, [line], empty_memory(bundle, CAMR(budget=4)), [5])], dim=1)
    reel, parts = Reel(bundle), []
    state = reel.begin()
    for slot in line.slots:
        state, timed = reel.step(state, Ask(line.prompts[slot.prompt], slot.shot, slot.cut, 5, CAMR(budget=4)))
        parts.append(timed.latents)
    assert torch.equal(torch.cat(parts, dim=1), whole)


def test_a_recalled_chunk_leaves_the_state_that_making_it_left(bundle):
    reel = Reel(bundle)
    made = again = reel.begin()
    for index, text in enumerate([CAT, CAT, f"then {JUMP}"]):
        ask = Ask(text, recache=index == 2)
        made, timed = reel.step(made, ask)
        again = reel.recall(again, ask, timed.latents)
    a, b = (reel.step(state, Ask(ROBOT, 1, cut=True))[1] for state in (made, again))
    assert torch.equal(a.latents, b.latents) and np.array_equal(a.frames, b.frames)


def test_recaching_changes_what_follows_and_keeping_does_not_forget(bundle):
    reel, state = Reel(bundle), Reel(bundle).begin()
    for _ in range(3):
        state, _ = reel.step(state, Ask(CAT))
    kept, recached = (reel.step(state, Ask(f"then {JUMP}", recache=recache))[1].latents for recache in (False, True))
    assert not torch.equal(kept, recached)


def test_a_session_goes_on_from_its_folder_bit_for_bit(session, bundle, tmp_path):
    direct_everything(session)
    shutil.copytree(session.folder, tmp_path / "copy")
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
    folder = export(session, tmp_path / "film")
    film = Director(bundle).render(Screenplay.load(folder / "screenplay.yaml"))
    assert np.array_equal(film.frames, session.frames())
    assert read_video(folder / "film.mp4")[0].shape[0] == len(film.frames)
    with pytest.raises(CinelabError, match="already holds a film"):
        export(session, folder)


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
    film = Director(bundle).render(Screenplay.load(export(session, tmp_path / "film") / "screenplay.yaml"))
    assert np.array_equal(film.frames, session.frames())


def test_the_models_own_levels_can_be_gone_back_to(session, bundle, tmp_path):
    for value in (3, None):
        session.do("levels", value=value)
        play(session, 2)
    film = Director(bundle).render(Screenplay.load(export(session, tmp_path / "film") / "screenplay.yaml"))
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
    assert [session.nodes[n].text for n in session.path()] == [CAT, f"then {JUMP}", f"then {JUMP}", f"then {JUMP}"]
    assert {session.nodes[n].said.seed for n in session.path()} == {9}


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


@pytest.mark.parametrize(("command", "value", "said"), [
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
])
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
    with pytest.raises(CinelabError, match="Cannot read"):
        Session.resume(tmp_path / "nowhere", bundle)
    with pytest.raises(CinelabError, match="play first"):
        session.frames()
    with pytest.raises(CinelabError, match="no chunk yet"):
        screenplay_of(session)


@pytest.mark.parametrize("name", list(POLICIES))
def test_a_policy_knows_its_name_and_budget(name):
    policy = policy_named(name, 7)
    assert name_of(policy) == name and budget_of(policy) == (6 if name == "full" else 7)


def test_few_states_are_kept_and_those_that_shots_began_from_longest(session):
    for shot in range(3):
        if shot:
            session.do("cut", text=ROBOT if shot % 2 else CAT)
        play(session, 8)
    assert set(session._states) == {7, 15, 22, 23}
    before = session.latents(8)
    session.do("branch", chunk=10)
    assert torch.equal(session.state(8).shot_chunks[-1], before), "a state that was let go of is made again"
