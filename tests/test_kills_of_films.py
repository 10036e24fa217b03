"""Films and sessions under SIGKILL before their file operations: the next start ends with the
undisturbed bits."""

from pathlib import Path

import pytest
from directing import CAT, ROBOT
from kills import contents, killed_at_every_operation

from cinelab import Screenplay, load
from cinelab.lab.first_film import direct_film
from cinelab.stream.export import export_film
from cinelab.stream.session import Session, Settings

PLAY = Screenplay.parse(
    f"title: Two\nseed: 3\nshots:\n- {{prompt: {CAT}, seconds: 0.5}}\n- {{prompt: {ROBOT}, "
    "seconds: 0.5}\n"
)
# hold times or names drawn by chance, which no two runs share
OTHER = ("timings.parquet", "metrics.parquet", "routing.html")
POINTS = 4  # moments of each that are tried (all with $CINELAB_EVERY_KILL)


@pytest.fixture(scope="module", autouse=True)
def bundle():
    return load("toybox-1step")


def films(folder: Path) -> dict[str, str]:
    """What two runs of one film share: every file but those of OTHER, which must be there."""
    found = contents(folder)
    assert all((folder / name).stat().st_size for name in OTHER)
    return {name: mark for name, mark in found.items() if name not in OTHER}


def sessions(folder: Path) -> tuple:
    """The tree of a session and its chunks; seconds and hashes of the log do not count."""
    session = Session.read(folder, load("toybox-1step"))
    return session.desk, tuple(session.nodes.values()), tuple(session.checksums.values())


def directed(folder: Path) -> None:
    """Begin a session, or go on with what a kill left of it, until it holds four chunks of two
    shots."""
    bundle = load("toybox-1step")
    begun = (folder / "session.json").exists()
    with (
        Session.resume(folder, bundle)
        if begun
        else Session.create(folder, bundle, Settings(CAT)) as session
    ):
        while len(session.nodes) < 4:
            if len(session.nodes) == 2 and not session.desk.cut:
                session.do("cut", text=ROBOT)
            session.step()


def test_a_killed_direct_ends_as_an_undisturbed_one(tmp_path):
    assert (
        killed_at_every_operation(
            lambda folder: direct_film(PLAY, folder, "toybox-1step"),
            tmp_path,
            films,
            refusal="already holds a film",
            points=POINTS,
        )
        == []
    )


def test_a_killed_session_ends_as_an_undisturbed_one(tmp_path):
    assert killed_at_every_operation(directed, tmp_path, sessions, points=POINTS) == []


def test_a_killed_export_is_exported_again(bundle, tmp_path):
    with Session.create(tmp_path / "s", bundle, Settings(CAT)) as session:
        session.step()
        session.step()
        assert (
            killed_at_every_operation(
                lambda folder: export_film(session, folder),
                tmp_path / "films",
                refusal="already holds a film",
                points=POINTS,
            )
            == []
        )
