"""How a sweep goes: on a terminal a live table of the running cells, elsewhere one line a cell that
ended."""

import time
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Any

from cinelab.config import read_mapping
from cinelab.printing import Group, Live, Plain, Table, moves, visible
from cinelab.progress import duration_text, spoken, still

OFTEN = 60.0  # seconds between two lines of how it goes, where there is no table
REMEMBERED = 100  # finished cells whose times foretell the others'


class Board:
    """Counts and shows the cells of a sweep. Used as a context, it keeps a live table on a
    terminal; left by Ctrl-C, it leaves the last table and says how to go on."""

    def __init__(self, console: Any = None):
        self.console = console or Plain(soft_wrap=True)
        self.total = 0
        self.workers = 1
        self.running: dict[Any, list] = {}  # key: name, when it began, megabytes now
        self.counts = {"done": 0, "skipped": 0, "failed": 0}
        self.spent = []
        self.said = time.monotonic()  # when a line was last printed
        drawn = {"transient": True, "refresh_per_second": 2}
        self.live = Live(get_renderable=self.table, console=self.console, **drawn)

    def __enter__(self) -> "Board":
        if moves(self.console):
            self.live.start()
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        self.live.stop()
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self.console.print(self.table("stopped"))
            self.console.print("Finished cells are kept. The same command goes on with the others.")

    def begin(self, key: Any, name: str) -> None:
        self.running[key] = [name, time.monotonic(), None]

    def end(self, key: Any, folder: Path, status: str, why: str) -> None:
        name, began, _ = self.running.pop(key)
        self.counts[status] += 1
        if status == "done":
            self.spent.append(time.monotonic() - began)
            why = f"  {cost(folder)}"
        self._say(f"{status:<8}{name}{': ' if status == 'failed' else ''}{why}")

    def remember(self, folders: Iterable[Path]) -> None:
        """Let cells that were finished earlier foretell how long the others take."""
        for folder in list(folders)[-REMEMBERED:]:
            seconds = read_mapping(folder / "done.json", seconds=float | None).get("seconds")
            self.spent += [seconds] if seconds else []

    def watch(self, engine: Any) -> None:
        if moves(self.console):
            for key, row in self.running.items():
                row[2] = engine.memory(key)
        elif self.running and time.monotonic() - self.said >= OFTEN:
            now = time.monotonic()
            at_work = [
                f"{name} for {spoken(now - began)}" for name, began, _ in self.running.values()
            ]
            self._say(f"running {', '.join(at_work)}; {self.line()}")

    def _say(self, text: str) -> None:
        self.said = time.monotonic()
        self.console.print(text)

    def table(self, title: str = "running") -> Group:
        table = Table(title, "time", "memory", box=None, padding=(0, 2, 0, 0))
        # rich draws in a thread
        now = time.monotonic()
        running = list(self.running.values())
        for name, began, megabytes in running:
            memory = spoken_memory(megabytes) if megabytes else ""
            table.add_row(visible(name), spoken(now - began), memory)
        return Group(*([table] if self.running else []), self.line(title == "running"))

    def line(self, going: bool = True) -> str:
        """How many cells are done, failed and left, and while it goes on the time to the end."""
        left = self.total - sum(self.counts.values())
        counts = f"{self.counts['done']} done, {self.counts['failed']} failed, {left} left"
        seconds = self.to_go(left) if going else None
        return counts if seconds is None else f"{counts}, about {duration_text(seconds)} to go"

    def to_go(self, left: int) -> float | None:
        """Seconds to the end by the cells so far, or None before one has ended.

        A running cell ends no sooner than now: one that takes longer than all others moves the end
        (see `still`).
        """
        if not self.spent or not left:
            return None
        now = time.monotonic()
        begun = [still(self.spent, now - began) for _, began, _ in list(self.running.values())]
        waiting = (left - len(begun)) * mean(self.spent)
        return max([(waiting + sum(begun)) / max(1, min(self.workers, left)), *begun])


def cost(folder: Path) -> str:
    """What done.json says of a cell's time and memory."""
    done = read_mapping(folder / "done.json", seconds=float, peak_memory_mb=float)
    return f"{spoken(done['seconds'])}  {spoken_memory(done['peak_memory_mb'])}"


def spoken_memory(megabytes: float) -> str:
    return f"{megabytes / 1024:.1f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"
