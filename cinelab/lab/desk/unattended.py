"""A short film directed without anybody at the desk: what the desk's notebook does where no browser
is."""

import time
from pathlib import Path
from typing import Any

from PIL import Image

from cinelab.errors import CinelabError
from cinelab.lab.desk.exports import new_export_folder
from cinelab.lab.desk.widget import open_or_create_session
from cinelab.memory.policy import Policy
from cinelab.stream.export import export_film, snapshot
from cinelab.stream.live_engine import LiveEngine

CAT = "wide shot of a red cat that waves in the meadow by day"
# A command, its values, and how many chunks are made before the next command.
COMMANDS: tuple[tuple[str, dict[str, Any], int], ...] = (
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
    *,
    policy: str | Policy | None = None,
    budget: int | None = None,
) -> Image.Image:
    """Direct COMMANDS, export the film to <folder>/export-<n>, and close. Return the storyboard."""
    folder = Path(folder)
    session = open_or_create_session(folder, model, seed, policy=policy, budget=budget)
    live = LiveEngine(session, pace=None)
    try:
        for command, value, chunks in COMMANDS:
            live.send(command, **value).result(PATIENCE)
            _wait_for_chunks(live, live.readout.chunks + chunks)
        copy = live.call(snapshot).result(PATIENCE)
        made = export_film(copy, new_export_folder(folder), title="A rehearsal")
    finally:
        live.close()
        session.close()
    with Image.open(made / "storyboard.png") as board:
        return board.copy()


def _wait_for_chunks(live: LiveEngine, chunks: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while live.readout.chunks < chunks:
        if live.readout.error or time.monotonic() > deadline:
            raise CinelabError(
                live.readout.error
                or f"No chunk was made within {PATIENCE:.0f} s; check whether the machine is busy."
            )
        time.sleep(0.01)
