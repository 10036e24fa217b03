"""How far a sweep is: on a terminal a live table of the running cells, elsewhere one line for every
cell that ended."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from cinelab.config import read_mapping
from cinelab.printing import Group, Live, Plain, Table, moves, visible
from cinelab.progress import duration_text, spoken, still

OFTEN = 60.0  # seconds between two lines of progress, where there is no table
RECENT = 100  # finished cells whose times predict those of the others


@dataclass
class RunningCell:
    """A row of the table."""

    name: str
    began: float  # time.monotonic()
    megabytes: float | None = None


class ProgressTable:
    """Counts and shows the cells of a sweep. As a context it draws a live table on a terminal; left
    by Ctrl-C, it prints the last table and how to continue."""

    def __init__(self, console: Any = None):
        self.console = console or Plain(soft_wrap=True)
        self.total = 0
        self.workers = 1
        self.running: dict[Any, RunningCell] = {}
        self.counts = {"done": 0, "skipped": 0, "failed": 0}
        self.spent: list[float] = []  # seconds of finished cells
        self.printed = time.monotonic()  # when a line was last printed
        self.live = Live(
            get_renderable=self.table, console=self.console, transient=True, refresh_per_second=2
        )

    def __enter__(self) -> "ProgressTable":
        if moves(self.console):
            self.live.start()
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        self.live.stop()
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self.console.print(self.table("stopped"))
            self.console.print("Finished cells stay. The same command continues with the others.")

    def begin(self, key: Any, name: str) -> None:
        self.running[key] = RunningCell(name, time.monotonic())

    def end(self, key: Any, folder: Path, status: str, why: str) -> None:
        cell = self.running.pop(key)
        self.counts[status] += 1
        if status == "done":
            self.spent.append(time.monotonic() - cell.began)
            why = f"  {cost(folder)}"
        self._print(f"{status:<8}{cell.name}{': ' if status == 'failed' else ''}{why}")

    def learn_times(self, folders: Iterable[Path]) -> None:
        """Predict the time of the other cells from those that were finished earlier."""
        for folder in list(folders)[-RECENT:]:
            seconds = read_mapping(folder / "done.json", seconds=float | None).get("seconds")
            self.spent += [seconds] if seconds else []

    def update(self, memory: Callable[[Any], float | None]) -> None:
        """Show the running cells; `memory(key)` returns the megabytes of one."""
        now = time.monotonic()
        if moves(self.console):
            for key, cell in self.running.items():
                cell.megabytes = memory(key)
        elif self.running and now - self.printed >= OFTEN:
            cells = [
                f"{cell.name} for {spoken(now - cell.began)}" for cell in self.running.values()
            ]
            self._print(f"running {', '.join(cells)}; {self.line()}")

    def _print(self, text: str) -> None:
        self.printed = time.monotonic()
        self.console.print(text)

    def table(self, title: str = "running") -> Group:
        table = Table(title, "time", "memory", box=None, padding=(0, 2, 0, 0))
        now = time.monotonic()
        running = list(self.running.values())  # a copy: rich draws in a thread
        for cell in running:
            memory = spoken_memory(cell.megabytes) if cell.megabytes else ""
            table.add_row(visible(cell.name), spoken(now - cell.began), memory)
        return Group(*([table] if running else []), self.line(going=title == "running"))

    def line(self, *, going: bool = True) -> str:
        """Return how many cells are done, failed and left; while `going`, the time to the end."""
        left = self.total - sum(self.counts.values())
        counts = f"{self.counts['done']} done, {self.counts['failed']} failed, {left} left"
        seconds = self.seconds_to_go(left) if going else None
        return counts if seconds is None else f"{counts}, about {duration_text(seconds)} to go"

    def seconds_to_go(self, left: int) -> float | None:
        """Return the seconds to the end by the cells so far, None before one has ended.

        A running cell ends no sooner than now: one that takes longer than all others moves the end
        (see `still`).
        """
        if not self.spent or not left:
            return None
        now = time.monotonic()
        running = list(self.running.values())
        begun = [still(self.spent, now - cell.began) for cell in running]
        waiting = (left - len(begun)) * mean(self.spent)
        return max([(waiting + sum(begun)) / max(1, min(self.workers, left)), *begun])


def cost(folder: Path) -> str:
    """Return the time and memory of a finished cell, from its done.json."""
    done = read_mapping(folder / "done.json", seconds=float, peak_memory_mb=float)
    return f"{spoken(done['seconds'])}  {spoken_memory(done['peak_memory_mb'])}"


def spoken_memory(megabytes: float) -> str:
    """Return megabytes as a reader says them: 812 MB, 1.4 GB."""
    return f"{megabytes / 1024:.1f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"
