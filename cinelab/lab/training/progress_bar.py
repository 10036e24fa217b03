"""A bar with its numbers: done of how many, speed, time left."""

import html
from collections import deque

from cinelab.lab.training.cell_output import CellOutput, in_jupyter, in_notebook
from cinelab.progress import spoken

LINES = 30.0  # seconds between two lines where there is no panel
WINDOW = 120.0  # seconds over which the speed is measured
COLOURS = {"running": "#0072B2", "done": "#009E73", "stopped": "#D55E00"}


class Pace:
    """The speed of anything that is counted, over the last WINDOW seconds, and the time left to
    `total`."""

    def __init__(self, total: int | None = None):
        self.total = total
        self.done = 0
        self._times: deque[tuple[float, int]] = deque()

    def note(self, done: int, now: float) -> None:
        """Note that `done` are finished at time `now`, in seconds."""
        self.done = done
        self._times.append((now, done))
        while len(self._times) > 5 and now - self._times[0][0] > WINDOW:
            self._times.popleft()

    @property
    def speed(self) -> float | None:
        """How many a second; None before two notes."""
        if len(self._times) < 2:
            return None
        began, first = self._times[0]
        now, last = self._times[-1]
        return (last - first) / (now - began) if now > began and last > first else None

    @property
    def left(self) -> float | None:
        """Seconds to the end at this speed; None while unknown."""
        speed = self.speed
        if self.total is None or speed is None:
            return None
        return max(0, self.total - self.done) / speed


class ProgressBar:
    """A bar with its numbers: in a notebook one output, elsewhere (and for papermill's reader)
    lines."""

    def __init__(self, total: int | None, unit: str = "steps", every: int | None = None):
        self.pace = Pace(total)
        self.unit = unit
        self.every = every
        self.output = CellOutput() if in_notebook() else None
        self._printed = float("-inf")  # when the last line was printed

    def show(
        self,
        done: int,
        now: float,
        elapsed: float | None,
        *,
        facts: dict[str, str] | None = None,
        state: str = "running",
    ) -> None:
        """Show that `done` are finished after `elapsed` seconds, with `facts` (name -> text)."""
        self.pace.note(done, now)
        facts = self.numbers(elapsed, state) | (facts or {})
        line = ", ".join(f"{name} {text}" for name, text in facts.items())
        if self.output:
            page = bar_html(self.share(state), facts, COLOURS[state])
            self.output.show({"text/plain": line, "text/html": page})
        if not in_jupyter() and (state != "running" or self._due(done, now)):
            self._printed = now
            print(line, flush=True)

    def _due(self, done: int, now: float) -> bool:
        counted = bool(self.every and done % self.every == 0)
        return counted or now - self._printed >= LINES

    def share(self, state: str) -> float | None:
        """Return the part that is done, 0 to 1; None where the total is unknown."""
        if self.pace.total:
            return min(1.0, self.pace.done / self.pace.total)
        return 1.0 if state == "done" else None

    def numbers(self, elapsed: float | None, state: str) -> dict[str, str]:
        """Return done of how many, speed, time left (or taken)."""
        pace = self.pace
        unit = self.unit.removesuffix("s")
        of = f" of {pace.total:,}" if pace.total else ""
        found = {unit: f"{pace.done:,}{of}" + (f", {state}" if state != "running" else "")}
        if pace.speed and elapsed is not None:
            fast = pace.speed >= 0.5
            found["speed"] = (
                f"{pace.speed:.2g} {self.unit}/s" if fast else f"{spoken(1 / pace.speed)} a {unit}"
            )
        if state != "running" and elapsed is not None:
            found["time taken"] = spoken(elapsed)
        elif pace.left is not None:
            found["time left"] = spoken(pace.left)
        return found


def bar_html(share: float | None, facts: dict[str, str], colour: str) -> str:
    """Return a bar over a row of named numbers, in the colours of JupyterLab's theme where there is
    one."""
    width = 0 if share is None else 100 * share
    tiles = "".join(
        f'<div><div style="font-size:11px;opacity:.7">{html.escape(name)}</div>'
        '<div style="font-size:14px;font-variant-numeric:tabular-nums">'
        f"{html.escape(text)}</div></div>"
        for name, text in facts.items()
    )
    return (
        '<div class="cinelab-panel" '
        'style="max-width:900px;font-family:var(--jp-ui-font-family,sans-serif);'
        'color:var(--jp-ui-font-color1,inherit)">'
        '<div style="height:8px;border-radius:4px;overflow:hidden;background:rgba(128,128,128,.3)">'
        f'<div role="progressbar" aria-valuenow="{width:.0f}" aria-valuemin="0" '
        'aria-valuemax="100" '
        f'style="height:100%;width:{width:.1f}%;background:{colour}"></div></div>'
        f'<div style="display:flex;flex-wrap:wrap;gap:6px 28px;margin-top:6px">{tiles}</div></div>'
    )
