"""The panel of a running training: a bar, one figure that is updated in place, and the last sample
film.

    rows = watch(stage.train(), stage.config, sample=stage.sample)

In a notebook it is a panel, elsewhere lines.

It costs 1 to 2 % of the training's time (2.0 % of six minutes at toy size, two films among them):
the bar is refreshed every OFTEN seconds, and figure and sample film each wait until they have taken
no more than SHARE of the time. What it shows is stored with the notebook as any output is, so a
notebook that was run by papermill holds the last state, once.
"""

import base64
import html
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from cinelab.lab.reports.plots import loss_curve
from cinelab.lab.training.cell_output import CellOutput, LiveFigure, in_notebook
from cinelab.lab.training.progress_bar import COLOURS, ProgressBar, bar_html
from cinelab.lab.training.samples import Sample, looped
from cinelab.train.optim import rate

OFTEN = 2.0  # seconds between two refreshes
SHARE = 0.005  # of the time that passes, at most, goes into drawing, and as much into sample films
SAMPLES = 10  # films a training, if its saves and SHARE allow
LATEST = 20  # steps whose mean is shown as the loss
METRICS = ("score", "prompt", "identity", "motion")  # of the last validation that are shown

MakeSample = Callable[[int], Sample | None]


def watch(
    rows: Iterable[dict],
    config: Any = None,
    *,
    draw: Callable[[list[dict]], go.Figure] = loss_curve,
    alarms: Callable[[list[dict]], list[str]] = lambda rows: [],
    sample: MakeSample | None = None,
    earlier: Sequence[dict] = (),
    every: int | None = None,
) -> list[dict]:
    """Run a training, the iterator `rows`, under a live panel. Return its whole log.

    config    the training's; its `steps` and `optim` give time left and learning rate
    draw      makes the figure of a log
    alarms    returns the warnings of a log, each of which is printed once
    sample    sample(since) makes a film of the weights last saved, or returns None where none were
              saved after step `since`
    earlier   the log of the run before it was interrupted
    every     steps between two lines outside a notebook; None = a line every LINES seconds
    """
    panel = Panel(config, draw=draw, alarms=alarms, sample=sample, earlier=earlier, every=every)
    state = "stopped"
    try:
        for row in rows:
            panel.add(row)
        state = "done"
    finally:
        panel.close(state)
        if hasattr(rows, "close"):  # interrupted between two rows: the training has to end, too
            rows.close()
    return panel.rows


@contextmanager
def counted(total: int | None, unit: str) -> Iterator[Callable[..., None]]:
    """Show a bar over preparations. Yields `update(done, of, **facts)`: how many are done, of how
    many if that was not known before, and what else to show."""
    bar = ProgressBar(total, unit)
    began = time.perf_counter()
    shown = began

    def update(done: int, of: int | None = total, **facts: str) -> None:
        nonlocal shown
        now = time.perf_counter()
        bar.pace.total = of
        if now - shown >= OFTEN or done == of:
            shown = now
            state = "done" if done == of else "running"
            bar.show(done, now, now - began, facts=facts, state=state)

    yield update


class Throttle:
    """Limits costly work: it is due again after `least` seconds, and after 1 / SHARE times what it
    took.

    With `sets_up`, the first run, which pays for what is set up once, does not count.
    """

    def __init__(self, least: float, clock: Callable[[], float], *, sets_up: bool = False):
        self.least = least
        self.clock = clock
        self.next = 0.0
        self.sets_up = sets_up

    def run(self, work: Callable[[], Any], *, always: bool = False) -> None:
        """Do the work if it is due, or `always`."""
        began = self.clock()
        if always or began >= self.next:
            work()
            now = self.clock()
            pace = 0 if self.sets_up else 1 / SHARE
            self.next = now + max(self.least, pace * (now - began))
            self.sets_up = False


@dataclass
class _SampleFilms:
    """The sample films of a panel: how they are made, and the step of the last one."""

    make: MakeSample
    every: int  # steps
    output: CellOutput
    step: int = 0


class Panel:
    """What `watch` shows. `spent` are the seconds that it has taken so far."""

    def __init__(
        self,
        config: Any,
        *,
        draw: Callable[[list[dict]], go.Figure],
        alarms: Callable[[list[dict]], list[str]],
        sample: MakeSample | None,
        earlier: Sequence[dict],
        every: int | None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.config = config
        self.draw = draw
        self.alarms = alarms
        self.clock = clock
        self.rows = list(earlier)
        self.spent = 0.0
        self.began = clock()
        steps = getattr(config, "steps", None)
        self.bar = ProgressBar(steps, every=every)
        self.figure = LiveFigure() if in_notebook() else None
        self.films: _SampleFilms | None = None
        if sample is not None and in_notebook():
            between = max(1, (steps or 1) // SAMPLES)
            self.films = _SampleFilms(sample, between, CellOutput())
        self._drawing = Throttle(OFTEN, clock, sets_up=True)
        self._filming = Throttle(OFTEN, clock)
        self._alarmed: set[str] = set()  # kinds of alarms that were printed
        self._refreshed = self.began
        self._new = 0
        self._show_state("preparing", {"": "preparing the first step"}, "")

    def _show_state(self, text: str, facts: dict[str, str], colour: str) -> None:
        if self.bar.output:
            page = bar_html(None, facts, colour)
            self.bar.output.show({"text/plain": text, "text/html": page})

    def add(self, row: dict) -> None:
        """Add a step. The panel is refreshed when it is time, and after every validation."""
        if self.rows and row["step"] <= self.rows[-1]["step"]:  # made again after the last save
            self.rows = [one for one in self.rows if one["step"] < row["step"]]
        self.rows.append(row)
        self._new += 1
        now = self.clock()
        due = self.bar.output is None and self._is_line_due()
        if now - self._refreshed >= OFTEN or "score" in row or due:
            self._refresh()

    def _is_line_due(self) -> bool:
        return bool(self.bar.every and len(self.rows) % self.bar.every == 0)

    def close(self, state: str) -> None:
        """Show the last state, `done` or `stopped`, with its figure and film."""
        if self.rows:
            self._refresh(state)
        else:
            self._show_state(state, {"": state}, COLOURS[state])

    def _refresh(self, state: str = "running") -> None:
        began = self.clock()
        last = state != "running"
        step = self.rows[-1]["step"] + 1
        elapsed = began - self.began if self._new else None  # a finished run is only shown
        self.bar.show(step, began, elapsed, facts=self.facts(), state=state)
        self._draw_figure(last=last)
        films = self.films
        if films and (state == "done" or step - films.step >= films.every):
            self._filming.run(lambda: self._make_film(films), always=last)
        self._print_alarms()
        self._refreshed = self.clock()
        self.spent += self._refreshed - began

    def _draw_figure(self, *, last: bool) -> None:
        figure = self.figure
        if figure is not None:
            self._drawing.run(lambda: figure.show(self.draw(self.rows), last=last), always=last)

    def facts(self) -> dict[str, str]:
        """Return learning rate, loss, and the metrics of the last validation."""
        row = self.rows[-1]
        found: dict[str, str] = {}
        if self._new and hasattr(self.config, "optim"):
            found["learning rate"] = (
                f"{rate(self.config.optim, row['step'], self.config.steps):.2g}"
            )
        losses = [one["loss"] for one in self.rows[-5 * LATEST :] if "loss" in one][-LATEST:]
        if losses:
            found[f"loss (last {len(losses)})"] = f"{np.mean(losses):.4f}"
        validations = [one for one in self.rows if "score" in one]
        last: dict = validations[-1] if validations else {}
        return found | {name: f"{last[name]:.3f}" for name in METRICS if name in last}

    def _make_film(self, films: _SampleFilms) -> None:
        sample = films.make(films.step)
        if sample is not None:
            films.step = sample.step
            films.output.show(film_bundle(sample))

    def _print_alarms(self) -> None:
        for text in self.alarms(self.rows):
            if (kind := text.split()[0]) not in self._alarmed:
                self._alarmed.add(kind)
                print(f"ALARM: {text}", flush=True)


def film_bundle(sample: Sample) -> dict:
    """Return a looping film with its captions, as a MIME bundle."""
    data = base64.b64encode(looped(sample.frames, sample.fps)).decode()
    lines = "".join(f"<li>{html.escape(caption)}</li>" for caption in sample.captions)
    title = f"Sample film of the weights saved at step {sample.step:,}"
    page = (
        '<div class="cinelab-sample" '
        'style="display:flex;flex-wrap:wrap;gap:16px;align-items:center;max-width:900px;'
        'font-family:var(--jp-ui-font-family,sans-serif);color:var(--jp-ui-font-color1,inherit)">'
        f'<img alt="{html.escape(title)}" src="data:image/webp;base64,{data}" '
        'style="border-radius:4px">'
        f'<div style="font-size:13px">{html.escape(title)}<ol style="margin:4px '
        f'0;padding-left:20px">{lines}</ol></div></div>'
    )
    return {"text/plain": f"{title}: {'; '.join(sample.captions)}", "text/html": page}
