"""What-if: nothing changed is the shot itself; an erased shot is never seen; the session is left as
it was."""

import numpy as np
import pytest

from cinelab import load
from cinelab.errors import CinelabError
from cinelab.stream.session import Session, Settings
from cinelab.stream.whatif import Change, mean_difference, most_retrieved, shares, what_if

CAT = "medium shot of a red cat that stands still in the meadow by day, the camera rests"
ROBOT = "medium shot of a blue robot that stands still in the city at night, the camera rests"


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    session = Session.create(
        tmp_path_factory.mktemp("s") / "session", load("toybox-1step"), Settings(CAT, seed=2)
    )
    for text in (CAT, ROBOT, CAT):
        if session.desk.head is not None:
            session.do("cut", text=text)
        for _ in range(3):
            session.step()
    return session


def test_without_a_change_it_is_the_shot_itself(session):
    before = session.desk, dict(session.nodes)
    assert np.array_equal(what_if(session), session.frames()[-6:])
    assert np.array_equal(what_if(session, Change("camr", 6)), session.frames()[-6:])
    assert (session.desk, session.nodes) == before


@pytest.mark.parametrize("policy", ["full", "camr", "random", "window", "sink", "shot_sink"])
def test_an_erased_shot_is_never_seen(session, policy):
    from dataclasses import replace

    state = session.state(5)
    cache = replace(state.cache.snapshot(), erased=(0,))
    state, _ = session.generator.step(
        replace(state, cache=cache),
        replace(session.request(session.nodes[6]), policy=_named(policy)),
    )
    looked = state.cache.routing_table()
    last = looked[looked["chunk"] == 6]
    assert set(last["kept_shot"]) == {1}, "only the shot in between is left to be seen"


def test_erasing_the_first_appearance_changes_the_return_more_than_erasing_another_shot(session):
    shot = what_if(session)
    home, other = (
        mean_difference(shot, what_if(session, Change("full", without=(number,))))
        for number in (1, 2)
    )
    assert home > other


def test_erasing_everything_is_a_film_that_begins_here(session):
    assert what_if(session, Change("full", without=(1, 2))).shape == (6, 48, 64, 3)


def test_where_the_last_shot_looked(session):
    found = shares(session)
    assert sum(found.values()) == pytest.approx(1) and set(found) <= {1, 2}
    assert all(0 <= chunk < 6 for chunk in most_retrieved(session))


def test_shots_that_are_not_there(session):
    with pytest.raises(CinelabError, match="without is 3; before this shot there are shots 1 to 2"):
        what_if(session, Change(without=(3,)))


def _named(name):
    from cinelab.memory.policy_registry import policy_named

    return policy_named(name, 6)
