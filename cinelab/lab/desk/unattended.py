"""A short film directed by the engine's thread without anybody at the desk: what the desk's
notebook does where no browser is."""

import time
from pathlib import Path

from PIL import Image

from cinelab.errors import CinelabError
from cinelab.lab.desk.widget import new_folder, open_session
from cinelab.memory.policy import Policy
from cinelab.stream.export import export_film, snapshot
from cinelab.stream.live_engine import Engine

CAT = "wide shot of a red cat that waves in the meadow by day"
# What is said, and how many chunks are made before the next word.
COMMANDS = (
    ("prompt", {"text": CAT}, 0),
    ("resume", {}, 3),
    ("prompt", {"text": CAT.replace("waves", "jumps"), "switch": "recache"}, 3),
    ("cut", {"text": "close shot of a blue robot that dances in the city at night"}, 3),
    ("retake", {}, 3),
    ("pause", {}, 0),
)
PATIENCE = 120.0  # seconds for one command's chunks


def rehearse(
    folder: str | Path,
    model: str = "toybox-2step",
    seed: int = 0,
    policy: str | Policy | None = None,
    budget: int | None = None,
) -> Image.Image:
    """Direct the commands, export the film to <folder>/export-<n>, close; returns the
    storyboard."""
    session = open_session(Path(folder), model, seed, policy, budget)
    live = Engine(session, pace=None)
    try:
        for command, value, chunks in COMMANDS:
            live.send(command, **value).result(PATIENCE)
            _wait_for(live, live.readout.chunks + chunks)
        made = export_film(
            live.call(snapshot).result(PATIENCE), new_folder(Path(folder)), title="A rehearsal"
        )
    finally:
        live.close()
        session.close()
    with Image.open(made / "storyboard.png") as board:
        return board.copy()


def _wait_for(live: Engine, chunks: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while live.readout.chunks < chunks:
        if live.readout.error or time.monotonic() > deadline:
            raise CinelabError(
                live.readout.error
                or f"No chunk came for {PATIENCE:.0f} s; look whether the machine is busy."
            )
        time.sleep(0.01)
