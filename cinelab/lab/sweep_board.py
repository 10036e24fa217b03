"""How a sweep goes: on a terminal a live table of the running cells, elsewhere one line a cell that ended."""

import time
from pathlib import Path
from typing import Any

from cinelab.config import read_mapping
from cinelab.printing import Group, Live, Plain, Table, visible


class Board:
    """Counts and shows the cells of a sweep. Used as a context, it keeps a live table on a terminal."""

    def __init__(self, console: Any = None):
        self.console = console or Plain(soft_wrap=True)
        self.total, self.workers = 0, 1
        self.running: dict[Any, list] = {}  # key: name, when it began, megabytes now
        self.counts, self.spent = {"done": 0, "skipped": 0, "failed": 0}, []
        self.live = Live(get_renderable=self.table, console=self.console, transient=True, refresh_per_second=2)

    def __enter__(self) -> "Board":
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_) -> None:
        self.live.stop()

    def begin(self, key: Any, name: str) -> None:
        self.running[key] = [name, time.monotonic(), None]

    def end(self, key: Any, folder: Path, status: str, why: str) -> None:
        name, began, _ = self.running.pop(key)
        self.counts[status] += 1
        if status == "done":
            self.spent.append(time.monotonic() - began)
            why = f"  {cost(folder)}"
        self.console.print(f"{status:<8}{name}{': ' if status == 'failed' else ''}{why}")

    def watch(self, engine: Any) -> None:
        if self.console.is_terminal:
            for key, row in self.running.items():
                row[2] = engine.memory(key)

    def table(self) -> Group:
        table, now = Table("running", "time", "memory", box=None, padding=(0, 2, 0, 0)), time.monotonic()
        for name, began, megabytes in list(self.running.values()):  # rich draws in a thread of its own
            table.add_row(visible(name), spoken(now - began), spoken_memory(megabytes) if megabytes else "")
        return Group(table, self.line())

    def line(self) -> str:
        left = self.total - sum(self.counts.values())
        counts = f"{self.counts['done']} done, {self.counts['failed']} failed, {left} left"
        seconds = self.to_go(left)
        return counts if seconds is None else f"{counts}, about {spoken(seconds)} to go"

    def to_go(self, left: int) -> float | None:
        """Seconds to the end by the mean of the cells so far, or None before one has ended."""
        if not self.spent:
            return None
        mean, now = sum(self.spent) / len(self.spent), time.monotonic()
        begun = sum(max(0.0, mean - (now - began)) for _, began, _ in list(self.running.values()))
        return ((left - len(self.running)) * mean + begun) / self.workers


def cost(folder: Path) -> str:
    """What done.json says of a cell's time and memory."""
    done = read_mapping(folder / "done.json", seconds=float, peak_memory_mb=float)
    return f"{spoken(done['seconds'])}  {spoken_memory(done['peak_memory_mb'])}"


def spoken(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def spoken_memory(megabytes: float) -> str:
    return f"{megabytes / 1024:.1f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"
