"""A written film as a session: the director's bits, on the disk, to be directed on."""

import shutil

import numpy as np
import pytest
import torch

from cinelab import CAMR, Sampling, load
from cinelab.errors import CinelabError
from cinelab.lab.desk import inspector
from cinelab.lab.first_film import director_for
from cinelab.script.screenplay import PromptChange, Screenplay, Shot
from cinelab.stream.director import Director
from cinelab.stream.export import export_film
from cinelab.stream.session import Session, Settings
from cinelab.stream.session_from_film import session_from_run, session_from_screenplay
from cinelab.stream.whatif import what_if

CAT = "medium shot of a red cat that stands still in the meadow by day"
ROBOT = "medium shot of a blue robot that stands still in the city at night"
PLAY = Screenplay(
    "Everything",
    (
        Shot(
            CAT,
            1.0,
            changes=(PromptChange(0.5, "the red cat jumps", seed=9, steps=3, recache=True),),
            policy="window",
            budget=4,
        ),
        Shot(ROBOT, 0.5, cut="continue"),
        Shot(CAT, 0.75, cut="continue", changes=(PromptChange(0.5, CAT, recache=True),)),
        Shot(ROBOT, 0.75, seed=1, steps=0, policy="camr"),
    ),
    seed=3,
    caption="A storybook film.",
)


@pytest.fixture(scope="module")
def bundle():
    return load("toybox-1step")


def test_its_chunks_are_the_directors(bundle, tmp_path):
    film = Director(bundle).render(PLAY)
    session = session_from_screenplay(
        PLAY, tmp_path / "s", bundle, settings=Settings(seed=PLAY.seed)
    )
    assert np.array_equal(session.frames(), film.frames)
    assert [node.cut for node in session.nodes.values()].count(
        True
    ) == 1 and session.desk.settings.policy == "camr"
    folder = export_film(session, tmp_path / "film")
    again = Director(bundle).render(Screenplay.load(folder / "screenplay.yaml"))
    assert np.array_equal(again.frames, film.frames)


def test_it_goes_on_from_its_folder_and_can_be_directed(bundle, tmp_path):
    session = session_from_screenplay(
        PLAY, tmp_path / "s", bundle, settings=Settings(seed=PLAY.seed)
    )
    shutil.copytree(tmp_path / "s", tmp_path / "copy", ignore=shutil.ignore_patterns(".lock"))
    again = Session.resume(tmp_path / "copy", bundle)
    assert again.desk == session.desk and again.nodes == session.nodes
    for one in (session, again):
        one.do("prompt", text="the blue robot waves")
        one.step()
    last = len(session.nodes) - 1
    assert session.nodes == again.nodes and torch.equal(session.latents(last), again.latents(last))


def test_the_inspector_opens_a_films_folder(tmp_path):
    film = director_for("toybox-1step", "sink", 5, seed=8, steps=2).render(PLAY)
    run = film.save(tmp_path / "run")
    session = inspector.open_session(run, tmp_path / "own")
    assert np.array_equal(session.frames(), film.frames) and not (run / "session").exists()
    assert len(what_if(session)) == 6
    assert inspector.open_session(run, tmp_path / "own").nodes == session.nodes


def test_a_run_that_no_session_can_make_is_one_sentence(bundle, tmp_path):
    with pytest.raises(CinelabError, match="is no film's folder"):
        session_from_run(tmp_path, tmp_path / "s")


def test_a_policy_and_levels_with_settings_of_their_own_are_followed_too(bundle, tmp_path):
    film = Director(
        bundle, CAMR(budget=4, sink=2), sampling=Sampling(at=(1.0, 0.4), guidance=1.5)
    ).render(PLAY)
    session = session_from_run(film.save(tmp_path / "run"), tmp_path / "s")
    assert np.array_equal(session.frames(), film.frames)
    again = Session.resume(tmp_path / "s", bundle)
    assert again.nodes == session.nodes and again.desk == session.desk
