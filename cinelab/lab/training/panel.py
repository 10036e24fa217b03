"""The panel of a running training: a bar, one figure that is updated in place, and the last sample
film.

    rows = watch(stage.train(), stage.config, sample=stage.sample)      in a notebook: the panel; elsewhere: lines

It costs 1 to 2 % of the time that it watches (2.0 % of six minutes at toy size, two films among
them): the bar is refreshed every OFTEN seconds, and figure and sample film each wait until they
have taken no more than SHARE of it. What it shows is stored with the notebook as any output is, so
a notebook that was run by papermill holds the last state, once.
"""

import base64
import html
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio

from cinelab.lab.reports.plots import loss_curve, svg
from cinelab.lab.training.samples import Sample, looped
from cinelab.progress import spoken
from cinelab.train.optim import rate

OFTEN = 2.0  # seconds between two refreshes
SHARE = 0.005  # of the time that passes, at most, goes into drawing, and as much into sample films
LINES = 30.0  # seconds between two lines where there is no panel
WINDOW = 120.0  # seconds from which the speed is taken
SAMPLES = 10  # films a training, if its saves and SHARE allow
LATEST = 20  # steps whose mean is shown as the loss
MARKS = ("score", "prompt", "identity", "motion")  # of the last exam
CURVES = "the training's curves"  # where nothing better can be shown
GREY = "#767e8b"
CLEAR = "rgba(0,0,0,0)"
COLOURS = {"running": "#0072B2", "done": "#009E73", "stopped": "#D55E00"}


def watch(
    rows: Iterable[dict],
    config: Any = None,
    *,
    draw: Callable[[list[dict]], go.Figure] = loss_curve,
    alarms: Callable[[list[dict]], list[str]] = lambda rows: [],
    sample: Callable[[int], Sample | None] | None = None,
    earlier: Sequence[dict] = (),
    every: int | None = None,
) -> list[dict]:
    """Drain a training under a live panel, and return its whole log.

    `config` is the training's (its `steps` and `optim` give time left and learning rate); `draw`
    makes the figure of a log, `alarms` its warnings, each of which is printed once; `sample(since)`
    makes a film of the weights last saved, or returns None where none were saved after step
    `since`; `earlier` is the log of earlier sittings. Outside a notebook a line is printed every
    `every` steps (None: every LINES seconds).
    """
    panel = Panel(config, draw, alarms, sample, earlier, every)
    state = "stopped"
    try:
        for row in rows:
            panel.add(row)
        state = "done"
    finally:
        panel.close(state)
        if hasattr(rows, "close"):  # interrupted between two rows: what makes them has to end, too
            rows.close()
    return panel.rows


@contextmanager
def counted(total: int | None, unit: str) -> Iterator[Callable[..., None]]:
    """A bar over preparations: yields a function that is told how many are done, of how many if
    that was not known before, and what else to show."""
    bar = Bar(total, unit)
    began = time.perf_counter()
    shown = began

    def tell(done: int, of: int | None = total, **facts: str) -> None:
        nonlocal shown
        now, bar.pace.total = time.perf_counter(), of
        if now - shown >= OFTEN or done == of:
            shown = now
            bar.show(done, now, now - began, facts, "done" if done == of else "running")

    yield tell


def in_notebook() -> bool:
    """Whether outputs can be replaced in place: a kernel runs this, not a terminal."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return getattr(get_ipython(), "kernel", None) is not None


def in_jupyter() -> bool:
    """Whether a Jupyter server started this kernel, so that a browser shows its outputs; papermill
    has none."""
    return in_notebook() and "JPY_SESSION_NAME" in os.environ


class Place:
    """One output of the running cell, empty at first, replaced in place by everything that is shown
    in it."""

    def __init__(self):
        from IPython.display import display

        self._handle = display({"text/plain": "", "text/html": ""}, raw=True, display_id=True)

    def show(self, bundle: dict) -> None:
        """Show a MIME bundle (type -> data), in place of the one before."""
        # raw: a plotly figure would show itself anew, elsewhere
        self._handle.update(bundle, raw=True)


class Figure:
    """A plotly figure in one output: a widget while a browser watches it grow, and the plain figure
    at the end.

    JupyterLab's renderer of plain plotly figures draws once and ignores what is sent later.
    """

    def __init__(self):
        self._place = Place()
        self._shape = ""
        self._widget = go.FigureWidget() if in_jupyter() else None

    def show(self, figure: go.Figure, last: bool) -> None:
        """Show a figure in place of the one before; the last one is stored with the notebook."""
        figure = themed(figure)
        if last or self._widget is None:
            page = pio.renderers["plotly_mimetype"].to_mimebundle(figure.to_dict())
            if self._widget is not None:
                self._widget.close()  # first: two figures would stand there for an instant
            self._place.show(page | {"image/svg+xml": svg(figure), "text/plain": CURVES})
            return
        began = not self._shape
        shape = _shape_of(figure)
        if shape == self._shape:
            self._move(figure)
        else:
            self._rebuild(figure)
        self._shape = shape
        if began:
            page = self._widget._repr_mimebundle_()
            self._place.show(
                (page[0] if isinstance(page, tuple) else page) | {"text/plain": CURVES}
            )

    def _move(self, figure: go.Figure) -> None:
        """Give the widget's traces their new points."""
        with self._widget.batch_update():
            for old, new in zip(self._widget.data, figure.data, strict=True):
                old.update(x=new.x, y=new.y)

    def _rebuild(self, figure: go.Figure) -> None:
        """Give the same widget other panels and traces: JupyterLab loses one that takes another's
        place."""
        self._widget.data = ()
        self._widget.update_layout(figure.layout, overwrite=True)
        self._widget.add_traces(figure.data)


def themed(figure: go.Figure) -> go.Figure:
    """A figure without ground, in a grey that can be read on white and on black."""
    lines = {"gridcolor": "rgba(128,128,128,0.25)", "linecolor": GREY}
    figure.update_layout(
        paper_bgcolor=CLEAR, plot_bgcolor=CLEAR, legend_bgcolor=CLEAR, font_color=GREY
    )
    figure.update_layout(uirevision="panel")  # a reader's zoom stays
    return figure.update_xaxes(lines).update_yaxes(lines)


def _shape_of(figure: go.Figure) -> str:
    """All of a figure but its points: two of one shape differ by the traces' x and y alone."""
    traces = [trace.to_plotly_json() | {"x": None, "y": None} for trace in figure.data]
    return repr((traces, figure.layout.to_plotly_json()))


class Pace:
    """The speed of anything counted, from the last WINDOW seconds, and the time left to `total`."""

    def __init__(self, total: int | None = None):
        self.total = total
        self.done = 0
        self._marks: deque[tuple[float, int]] = deque()

    def mark(self, done: int, now: float) -> None:
        """`done` are finished at time `now`, in seconds."""
        self.done = done
        self._marks.append((now, done))
        while len(self._marks) > 5 and now - self._marks[0][0] > WINDOW:
            self._marks.popleft()

    @property
    def speed(self) -> float | None:
        """A second; None before two marks tell it."""
        if len(self._marks) < 2:
            return None
        (began, first), (now, last) = self._marks[0], self._marks[-1]
        return (last - first) / (now - began) if now > began and last > first else None

    @property
    def left(self) -> float | None:
        """Seconds to the end at this speed; None while unknown."""
        speed = self.speed
        return (
            None if self.total is None or speed is None else max(0, self.total - self.done) / speed
        )


class Due:
    """When costly work is due again: after `least` seconds, and after 1 / SHARE times what it took.

    With `sets_up`, the first time, which pays for what is set up once, sets no pace.
    """

    def __init__(self, least: float, clock: Callable[[], float], sets_up: bool = False):
        self.least = least
        self.clock = clock
        self.next = 0.0
        self.sets_up = sets_up

    def run(self, work: Callable[[], Any], always: bool = False) -> None:
        """Do the work if it is due, or `always`."""
        began = self.clock()
        if always or began >= self.next:
            work()
            now = self.clock()
            pace = 0 if self.sets_up else 1 / SHARE
            self.next = now + max(self.least, pace * (now - began))
            self.sets_up = False


class Bar:
    """A bar with its numbers: in a notebook one output, elsewhere (and for papermill's reader)
    lines."""

    def __init__(self, total: int | None, unit: str = "steps", every: int | None = None):
        self.pace = Pace(total)
        self.unit = unit
        self.every = every
        self.place = Place() if in_notebook() else None
        self._said = float("-inf")  # when the last line was printed

    def show(
        self,
        done: int,
        now: float,
        elapsed: float | None,
        facts: dict[str, str] | None = None,
        state: str = "running",
    ) -> None:
        """`done` are finished after `elapsed` seconds; `facts` are shown beside (name -> text)."""
        self.pace.mark(done, now)
        facts = self.numbers(elapsed, state) | (facts or {})
        line = ", ".join(f"{name} {text}" for name, text in facts.items())
        if self.place:
            page = bar_html(self.share(state), facts, COLOURS[state])
            self.place.show({"text/plain": line, "text/html": page})
        if not in_jupyter() and (state != "running" or self._due(done, now)):
            self._said = now
            print(line, flush=True)

    def _due(self, done: int, now: float) -> bool:
        return (bool(self.every) and done % self.every == 0) or now - self._said >= LINES

    def share(self, state: str) -> float | None:
        """The part that is done, 0 to 1; None where the total is unknown."""
        if self.pace.total:
            return min(1.0, self.pace.done / self.pace.total)
        return 1.0 if state == "done" else None

    def numbers(self, elapsed: float | None, state: str) -> dict[str, str]:
        """Done of how many, speed, time left (or taken)."""
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
    """A bar over a row of named numbers, in the colours of JupyterLab's theme where there is
    one."""
    width = 0 if share is None else 100 * share
    tiles = "".join(
        f'<div><div style="font-size:11px;opacity:.7">{html.escape(name)}</div>'
        f'<div style="font-size:14px;font-variant-numeric:tabular-nums">{html.escape(text)}</div></div>'
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


@dataclass
class _Film:
    """What the panel knows of sample films: who makes them, of which step the last one is."""

    make: Callable[[int], Sample | None] | None
    every: int
    step: int = 0


class Panel:
    """What `watch` shows. `spent` are the seconds that it has taken so far."""

    def __init__(self, config, draw, alarms, sample, earlier, every, clock=time.perf_counter):
        self.config = config
        self.draw = draw
        self.alarms = alarms
        self.clock = clock
        self.rows = list(earlier)
        self.spent = 0.0
        self.began = clock()
        steps = getattr(config, "steps", None)
        self.bar = Bar(steps, every=every)
        self.figure = Figure() if in_notebook() else None
        self.film = Place() if in_notebook() and sample else None
        self._made = _Film(sample, max(1, (steps or 1) // SAMPLES))
        self._drawing = Due(OFTEN, clock, sets_up=True)
        self._filming = Due(OFTEN, clock)
        self._told = set()
        self._refreshed = self.began
        self._new = 0
        if self.bar.place:
            self.bar.place.show(
                {
                    "text/plain": "preparing",
                    "text/html": bar_html(None, {"": "preparing the first step"}, ""),
                }
            )

    def add(self, row: dict) -> None:
        """One more step; what is shown is refreshed when it is time, and after every exam."""
        if self.rows and row["step"] <= self.rows[-1]["step"]:  # made again after the last save
            self.rows = [one for one in self.rows if one["step"] < row["step"]]
        self.rows.append(row)
        self._new += 1
        now = self.clock()
        due = self.bar.every and self.bar.place is None and len(self.rows) % self.bar.every == 0
        if now - self._refreshed >= OFTEN or "score" in row or due:
            self._refresh()

    def close(self, state: str) -> None:
        """Show the last state, `done` or `stopped`, with its figure and film."""
        if self.rows:
            self._refresh(state)
        elif self.bar.place:
            self.bar.place.show(
                {"text/plain": state, "text/html": bar_html(None, {"": state}, COLOURS[state])}
            )

    def _refresh(self, state: str = "running") -> None:
        began = self.clock()
        last = state != "running"
        step = self.rows[-1]["step"] + 1
        elapsed = began - self.began if self._new else None  # a finished run is only shown
        self.bar.show(step, began, elapsed, self.facts(), state)
        if self.figure:
            self._drawing.run(lambda: self.figure.show(self.draw(self.rows), last), last)
        if self.film and (state == "done" or step - self._made.step >= self._made.every):
            self._filming.run(self._shoot, last)
        self._alarm()
        self._refreshed = self.clock()
        self.spent += self._refreshed - began

    def facts(self) -> dict[str, str]:
        """Learning rate, loss, and what the last exam said."""
        row = self.rows[-1]
        found = {}
        if self._new and hasattr(self.config, "optim"):
            found["learning rate"] = (
                f"{rate(self.config.optim, row['step'], self.config.steps):.2g}"
            )
        losses = [one["loss"] for one in self.rows[-5 * LATEST :] if "loss" in one][-LATEST:]
        if losses:
            found[f"loss (last {len(losses)})"] = f"{np.mean(losses):.4f}"
        validate = next((one for one in reversed(self.rows) if "score" in one), {})
        return found | {name: f"{validate[name]:.3f}" for name in MARKS if name in validate}

    def _shoot(self) -> None:
        sample = self._made.make(self._made.step)
        if sample is not None:
            self._made.step = sample.step
            self.film.show(film_bundle(sample))

    def _alarm(self) -> None:
        for text in self.alarms(self.rows):
            if (kind := text.split()[0]) not in self._told:
                self._told.add(kind)
                print(f"ALARM: {text}", flush=True)


def film_bundle(sample: Sample) -> dict:
    """A looping film under its captions, as a MIME bundle."""
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
