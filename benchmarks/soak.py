"""Does the demo last? `python benchmarks/soak.py --visitors 10 --minutes 10 [--churn]`, `--film
2000`.

Visitors direct their films through the demo's own server, by websocket: prompts, cuts, retakes,
undos, settings, branches, one command every second or two, the first of them in bursts of a
hundred. With --churn a visitor leaves after a while and comes back with another film, some without
a word; so nothing may be left of those who went. With --film one film grows to so many chunks,
alone, and its memory is noted at each quarter. Noted: chunks a visitor (least and most), resident
memory, commands sent, refused and lost, bytes that came.

The server is a process of its own, so its memory holds nothing of the visitors'. It is read
every two seconds after a warm-up of a fifth of the time (at least a minute); growth is the
median of the last fifth of those readings over that of the first fifth.
"""

import argparse
import asyncio
import json
import random
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

import cinelab  # noqa: F401 - first, so that torch's threads sleep while they wait

# isort: split
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from demoserver import Guest  # noqa: E402

from cinelab.files import write_json  # noqa: E402
from cinelab.runs import hardware  # noqa: E402
from cinelab.stream.session import Session, read_record  # noqa: E402
from cinelab.zoo.checkpoints import load  # noqa: E402

MODEL = "toybox-2step"
# chunks after which a script goes back to an early one, so that films stop growing after the warm-
# up
LONG = 40
STAY = (20, 60)  # seconds that a visitor stays with --churn
BURST = 100  # commands at once
POLICIES = ("camr", "window", "full")
PROMPTS = [
    f"{size} shot of a {who} that {what} in the {where} by day"
    for size, who, what, where in (
        ("wide", "red cat", "waves", "meadow"),
        ("close", "blue robot", "dances", "city"),
        ("medium", "green ghost", "jumps", "beach"),
    )
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--visitors", type=int, default=10)
    parser.add_argument("--churn", action="store_true", help="visitors come and go")
    parser.add_argument(
        "--film", type=int, help="one film of so many chunks instead, its memory at each quarter"
    )
    parser.add_argument(
        "--verify", action="store_true", help="make every film again from its log and compare"
    )
    parser.add_argument("-o", "--output", type=Path, help="a .json file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chunks = options.film or 4000
        with Server(Path(folder), options.visitors, chunks) as server:
            work = (
                grow(server, options.film)
                if options.film
                else soak(server, options.visitors, options.minutes, options.churn)
            )
            row = asyncio.run(work)
        if options.verify:
            row["films_equal_alone"] = sum(
                equal_alone(film) for film in sorted(Path(folder).iterdir())
            )
    row["hardware"] = hardware()
    print(json.dumps(row, indent=1))
    if options.output:
        write_json(options.output, row)


class Server:
    """`cinelab demo` in a process of its own."""

    def __init__(self, folder: Path, visitors: int, chunks: int):
        self.token = secrets.token_hex(16)
        command = [
            sys.executable,
            "-m",
            "cinelab",
            "demo",
            "--model",
            MODEL,
            "--folder",
            str(folder),
            "--port",
            "0",
            "--token",
            self.token,
            "--visitors",
            str(visitors),
            "--chunks",
            str(chunks),
        ]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.address = self.process.stdout.readline().strip()
        self.port = int(self.address.split(":")[2].split("/")[0])
        self.memory: list[tuple[float, float]] = []  # seconds, MiB

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.output = self.process.communicate(timeout=60)[1]

    @property
    def mib(self) -> float:
        return psutil.Process(self.process.pid).memory_info().rss / 2**20

    async def watch(self) -> None:
        began = time.monotonic()
        while True:
            await asyncio.sleep(2)
            self.memory.append((time.monotonic() - began, self.mib))


class Visitor:
    """Directs a film by a script, or one film after the other."""

    def __init__(self, server: Server, number: int, churn: bool):
        self.server = server
        self.churn = churn
        self.bursts = number == 0
        self.rng = random.Random(number)
        self.chunks = 0
        self.films = 0
        self.outcomes = Counter()
        self.bytes = 0
        self.last = ""  # command that was sent

    async def run(self, until: float) -> None:
        while time.monotonic() < until:
            stay = min(until, time.monotonic() + self.rng.uniform(*STAY)) if self.churn else until
            await self.visit(stay)

    async def visit(self, until: float) -> None:
        self.films += 1
        async with Guest(self.server.port, secrets.token_hex(5), self.server.token) as guest:
            if guest.full:
                self.outcomes["no place"] += 1
                return await asyncio.sleep(1)
            if self.churn and self.rng.random() < 0.2:  # looks in and goes
                return await asyncio.sleep(1)
            requested = [
                await guest.say(
                    "do", command="prompt", value={"text": self.rng.choice(PROMPTS)}, play=True
                )
            ]
            while time.monotonic() < until and not guest.full:
                await asyncio.sleep(min(self.rng.uniform(1, 2), max(0, until - time.monotonic())))
                requested += await self.direct(guest)
            await self.count(guest, requested)

    async def direct(self, guest: Guest) -> list[int]:
        """Send what the script has next; return the numbers of the messages."""
        if self.bursts and self.rng.random() < 0.2:
            seeds = [{"value": number} for number in range(BURST)]
            return [await guest.say("do", command="seed", value=value) for value in seeds]
        command, value = self.choose(guest)
        self.last = command
        play = command == "prompt" and not guest.view["playing"]
        return [await guest.say("do", command=command, value=value, play=play)]

    def choose(self, guest: Guest) -> tuple[str, dict]:
        """A command and its values. Undo comes after a change of the seed only: one more could take
        the first prompt back, and the film would stand still."""
        text = {"text": self.rng.choice(PROMPTS)}
        if not guest.view["playing"]:
            return "prompt", text
        if sum(shot["chunks"] for shot in guest.view["shots"]) > LONG:
            return "branch", {"chunk": self.rng.randrange(10)}
        if self.last == "seed":
            return "undo", {}
        switch = self.rng.choice(("keep", "recache"))
        policy = self.rng.choice(POLICIES)
        seed = self.rng.randrange(99)
        commands = [
            ("prompt", text | {"switch": switch}),
            ("prompt", {"text": " "}),
            ("cut", text),
            ("retake", {}),
            ("seed", {"value": seed}),
            ("policy", {"value": policy}),
        ]
        return self.rng.choice(commands)

    async def count(self, guest: Guest, requested: list[int]) -> None:
        """The chunks of now, and what became of what was requested; an answer may take its time."""
        self.chunks += guest.view["chunks"]
        self.bytes += guest.bytes
        for number in requested:
            try:
                answer = await guest.answer(number, 30)
            except TimeoutError:
                self.outcomes["lost"] += 1
                continue
            self.outcomes["refused" if answer["error"] else "done"] += 1


async def soak(server: Server, visitors: int, minutes: float, churn: bool) -> dict:
    began = time.monotonic()
    guests = [Visitor(server, number, churn) for number in range(visitors)]
    watch = asyncio.create_task(server.watch())
    await asyncio.gather(*(guest.run(began + 60 * minutes) for guest in guests))
    watch.cancel()
    made = [guest.chunks for guest in guests]
    outcomes = sum((guest.outcomes for guest in guests), Counter())
    return {
        "visitors": visitors,
        "minutes": minutes,
        "churn": churn,
        "films": sum(guest.films for guest in guests),
        "chunks": sum(made),
        "chunks_least_most": [min(made), max(made)],
        "commands": dict(outcomes),
        "lost": outcomes["lost"],
        "kib_a_second_a_visitor": round(
            sum(guest.bytes for guest in guests) / 1024 / 60 / minutes / visitors, 1
        ),
    } | growth(server.memory)


def growth(memory: list[tuple[float, float]]) -> dict:
    """Of resident memory after the warm-up."""
    warm = max(memory[-1][0] / 5, min(60, memory[-1][0] / 2))
    late = [mib for when, mib in memory if when > warm]
    part = max(1, len(late) // 5)
    first, last = statistics.median(late[:part]), statistics.median(late[-part:])
    every = max(1, len(memory) // 12)
    return {
        "mib_early": round(first),
        "mib_late": round(last),
        "growth_percent": round(100 * (last / first - 1), 2),
        "mib_over_time": [round(mib) for _, mib in memory[::every]],
    }


async def grow(server: Server, chunks: int) -> dict:
    """One film that grows, cut every 100 chunks."""
    quarters = {round(chunks * part / 4): part for part in range(1, 5)}
    async with Guest(server.port, secrets.token_hex(5), server.token) as guest:
        before = server.mib
        at = {}
        seconds = {}
        began = time.monotonic()
        await guest.do("prompt", play=True, text=PROMPTS[0])
        cut = 0
        while guest.view["chunks"] < chunks:
            await asyncio.sleep(0.2)
            for mark in [
                mark for mark in quarters if mark not in at and guest.view["chunks"] >= mark
            ]:
                at[mark], seconds[mark] = server.mib - before, time.monotonic() - began
            if guest.view["chunks"] // 100 > cut:
                cut = guest.view["chunks"] // 100
                await guest.do("cut", text=PROMPTS[cut % len(PROMPTS)])
        at.setdefault(chunks, server.mib - before)
        seconds.setdefault(chunks, time.monotonic() - began)
    return {
        "film": chunks,
        "mib_before": round(before),
        "mib_above_at": {mark: round(mib, 1) for mark, mib in at.items()},
        "seconds_at": {mark: round(spent) for mark, spent in seconds.items()},
        "last_over_first": round(at[chunks] / at[min(at)], 2),
        "kib_came": round(guest.bytes / 1024),
    }


def equal_alone(folder: Path) -> bool:
    """Whether a film's log, carried out alone, makes the same chunks bit for bit."""
    if not (folder / "log.jsonl").exists():
        return True
    bundle = load(MODEL)
    made = Session.read(folder, bundle)
    with (
        tempfile.TemporaryDirectory() as place,
        Session.create(Path(place) / "alone", bundle, read_record(folder).settings) as alone,
    ):
        for line in made.log:
            alone.step() if "made" in line else alone.do(line["do"], **line["value"])
        return alone.nodes == made.nodes and all(
            torch.equal(alone.latents(n), made.latents(n)) for n in alone.nodes
        )


if __name__ == "__main__":
    main()
