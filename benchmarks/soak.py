"""Does the desk last? `python benchmarks/soak.py [--minutes 30] [--visitors 1] [--verify] [-o FILE]`.

So many films are directed at once in one process by a script: prompts, cuts, retakes, undos, settings, branches, one command every second or
two, with a viewer that takes 100 ms a picture. Noted: resident memory over time, commands sent and answered, how much of its due the
engine made, whether every picture of the film is on the disk; with --verify every film is made again from its log, alone, and compared.
"""

import argparse
import json
import random
import statistics
import tempfile
import threading
import time
from pathlib import Path

import psutil

import cinelab  # noqa: F401 - first, so that torch's threads sleep while they wait

# isort: split
import torch

from cinelab.errors import CinelabError
from cinelab.files import write_json
from cinelab.model.zoo import load
from cinelab.runs import hardware
from cinelab.stream.live import Live, Turns
from cinelab.stream.session import Session, Settings

LONG = 160  # chunks of a film (40 s), after which the script goes back to an early one: memory may not grow beyond
WARM = 0.1  # share of the time after which memory is looked at
SLOW = 0.1  # seconds that the viewer takes
PROMPTS = [f"{size} shot of a {who} that {what} in the {where} by day" for size, who, what, where in (
    ("wide", "red cat", "waves", "meadow"), ("close", "blue robot", "dances", "city"), ("medium", "green ghost", "jumps", "beach"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--visitors", type=int, default=1)
    parser.add_argument("--verify", action="store_true", help="make every film again from its log and compare")
    parser.add_argument("-o", "--output", type=Path, help="a .json file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        row = soak(Path(folder), options.visitors, options.minutes, options.verify)
    print(json.dumps(row, indent=1))
    if options.output:
        write_json(options.output, row)


class Visitor:
    """One film, its script and its slow viewer."""

    def __init__(self, folder: Path, bundle, seed: int, turns: Turns):
        self.settings = Settings(PROMPTS[seed % len(PROMPTS)], seed=seed)
        self.live = Live(Session.create(folder, bundle, self.settings), pace=1.0, turns=turns)
        self.rng, self.tickets, self.seen, self.over = random.Random(seed), [], 0, threading.Event()
        self.live.send("resume").result(60)
        for work in (self.direct, self.view):
            threading.Thread(target=work, daemon=True).start()

    def direct(self) -> None:
        while not self.over.wait(self.rng.uniform(1, 2)):
            session = self.live.session
            head = session.nodes[session.desk.head].index if session.desk.head is not None else 0
            if head > LONG:
                self.tickets.append(self.live.send("branch", chunk=self.rng.randrange(10)))
                continue
            command, value = self.rng.choice((
                ("prompt", {"text": self.rng.choice(PROMPTS), "switch": self.rng.choice(("keep", "recache"))}),
                ("cut", {"text": self.rng.choice(PROMPTS)}), ("retake", {}), ("undo", {}), ("seed", {"value": self.rng.randrange(99)}),
                ("policy", {"value": self.rng.choice(("camr", "window", "full"))}), ("prompt", {"text": ""})))
            self.tickets.append(self.live.send(command, **value))

    def view(self) -> None:
        last = None
        while not self.over.is_set():
            if shown := self.live.latest(after=last, timeout=0.5):
                last, self.seen = shown.node, self.seen + len(shown.frames)
                time.sleep(SLOW * len(shown.frames))

    def close(self) -> None:
        self.over.set()
        self.live.close()

    @property
    def outcomes(self) -> list[str]:
        found = []
        for ticket in self.tickets:
            error = ticket.exception(60)
            found.append("done" if error is None else "refused" if isinstance(error, CinelabError) else "lost")
        return found


def soak(folder: Path, visitors: int, minutes: float, verify: bool) -> dict:
    bundle, turns = load("toybox-2step"), Turns()
    films = [Visitor(folder / f"film-{n}", bundle, n, turns) for n in range(visitors)]
    began, memory, process = time.monotonic(), [], psutil.Process()
    while time.monotonic() - began < 60 * minutes:
        time.sleep(min(5, 6 * minutes))
        memory.append((time.monotonic() - began, process.memory_info().rss / 2**20))
    spent = time.monotonic() - began
    for film in films:
        film.close()
    outcomes = [outcome for film in films for outcome in film.outcomes]
    sessions = [film.live.session for film in films]
    made = [len(session.nodes) for session in sessions]
    late = [rss for when, rss in memory if when > WARM * spent]
    part = max(1, len(late) // 5)
    first, last = statistics.median(late[:part]), statistics.median(late[-part:])
    row = {"visitors": visitors, "minutes": round(spent / 60, 1), "chunks": sum(made), "chunks_least_most": [min(made), max(made)],
           "of_real_time": round(sum(made) * 2 / bundle.fps / spent / visitors, 3), "commands": len(outcomes),
           "refused": outcomes.count("refused"), "lost": outcomes.count("lost"),
           "rss_mib_early": round(first), "rss_mib_late": round(last), "rss_growth_percent": round(100 * (last / first - 1), 2),
           "pictures_seen_by_slow_viewers": sum(film.seen for film in films),
           "frame_exact": all(len(session.frames()) == 2 * len(session.path()) - 1 for session in sessions)}
    if verify:
        row["films_equal_alone"] = sum(equal_alone(session, film.settings, bundle, folder / f"alone-{n}")
                                       for n, (session, film) in enumerate(zip(sessions, films, strict=True)))
    return row | {"hardware": hardware()}


def equal_alone(session: Session, settings: Settings, bundle, folder: Path) -> bool:
    """Whether the film's log, carried out alone, makes the same chunks bit for bit."""
    alone = Session.create(folder, bundle, settings)
    for line in session.log:
        alone.step() if "made" in line else alone.do(line["do"], **line["value"])
    return alone.nodes == session.nodes and all(torch.equal(alone.latents(n), session.latents(n)) for n in alone.nodes)


if __name__ == "__main__":
    main()
