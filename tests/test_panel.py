"""The live panel: one figure, a bar with the time left, a sample film; cheap, and gone from nothing
that it watches.

With CINELAB_SHOTS set to a folder, screenshots of the browser test are left there.
"""

import os
import threading
import time
from pathlib import Path

import nbformat
import numpy as np
import plotly.graph_objects as go
import pytest
from labserver import jupyter_lab, run_all

from cinelab.errors import CinelabError
from cinelab.lab.reports import plots
from cinelab.lab.training import panel, stages
from cinelab.lab.training.monitor import distillation_curves
from cinelab.lab.training.panel import Throttle, watch
from cinelab.lab.training.progress_bar import Pace
from cinelab.lab.training.samples import Sample
from cinelab.train import presets

CONFIG = presets.teacher_forcing("toy")


def rows(count, first=0):
    return [{"step": step, "loss": 1 / (1 + step)} for step in range(first, first + count)]


def test_pace_tells_speed_and_time_left():
    pace = Pace(100)
    pace.note(10, 5.0)
    assert pace.speed is None and pace.left is None
    pace.note(30, 15.0)
    assert pace.speed == 2 and pace.left == 35
    for second in range(20, 400):
        pace.note(40, float(second))  # it stands still: what was fast minutes ago does not count
    assert pace.speed is None


def test_costly_work_takes_at_most_its_share():
    now = [0.0]
    done = []
    throttle = Throttle(2.0, lambda: now[0], sets_up=True)

    def work():
        done.append(now[0])
        now[0] += 0.5

    for _ in range(1000):
        throttle.run(work)
        now[0] += 1.0
    assert done[1] <= 5  # the first one pays for what is set up once
    assert 0.5 * len(done[1:]) <= 1.1 * panel.SHARE * now[0]


def test_a_log_as_lines_ends_with_the_step_of_how_many(capsys):
    seen = watch(iter(rows(40)), CONFIG)
    last = capsys.readouterr().out.splitlines()[-1]
    assert (
        seen == rows(40)
        and "step 40 of 5,300, done" in last
        and "learning rate" in last
        and "loss" in last
    )


def test_every_so_many_steps_a_line_where_asked(capsys):
    watch(iter(rows(40)), CONFIG, every=10)
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()][:4] == [
        f"step {n} of 5" for n in (10, 20, 30, 40)
    ]


def test_an_interrupt_ends_what_makes_the_rows_and_says_so(capsys):
    ended = threading.Event()

    def training():
        try:
            yield from rows(5)
        finally:
            ended.set()

    def alarms(seen):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch(training(), CONFIG, alarms=alarms)
    assert ended.is_set()
    with pytest.raises(CinelabError, match="lower it"):
        watch(failing(), CONFIG)
    assert "step 5 of 5,300, stopped" in capsys.readouterr().out


def failing():
    yield from rows(5)
    raise CinelabError("The loss is nan; lower it.")


def test_alarms_are_printed_once(capsys):
    watch(
        iter([row | {"score": 0.5} for row in rows(3)]),
        CONFIG,
        alarms=lambda seen: ["Motion is dying."],
    )
    assert capsys.readouterr().out.count("ALARM") == 1


def test_a_resumed_log_has_each_step_once():
    seen = watch(iter(rows(10, first=20)), CONFIG, earlier=rows(25))
    assert [row["step"] for row in seen] == list(range(30))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return stages.film_store(tmp_path_factory.mktemp("store"), "smoke", tell=lambda done: None)


def test_sample_films_leave_a_training_as_it_is(store, tmp_path):
    changes = {"steps": 3, "save_every": 2}
    plain = stages.teacher_forcing(tmp_path / "plain", store, "smoke", None, changes=changes)
    filmed = stages.teacher_forcing(tmp_path / "filmed", store, "smoke", None, changes=changes)
    for _ in plain.train():
        pass
    for row in filmed.train():
        if row["step"] == 1:
            sample = filmed.sample()
            assert (
                sample.step == 2 and len(sample.captions) == 2 and sample.frames.dtype == np.uint8
            )
            assert filmed.sample(since=2) is None
    assert [row["loss"] for row in plain.run.rows] == [row["loss"] for row in filmed.run.rows]


def test_what_a_sample_film_shows_stays_text():
    bundle = panel.film_bundle(
        Sample(7, np.zeros((3, 48, 64, 3), np.uint8), 8.0, ("a <b>red</b> cat",))
    )
    assert (
        "data:image/webp;base64," in bundle["text/html"] and "&lt;b&gt;red" in bundle["text/html"]
    )


@pytest.mark.parametrize("draw", [plots.loss_curve, distillation_curves])
def test_a_figure_is_also_there_for_pages_without_plotly(draw):
    log = [
        row | ({"score": 0.5, "identity": 1.0} if row["step"] % 10 == 0 else {})
        for row in rows(3000)
    ]
    figure = draw(log)
    assert (
        max(len(trace.x) for trace in figure.data) < 2 * plots.POINTS
        and figure.data[0].x[-1] == 2999
    )
    assert plots.svg(figure).count("<polyline") == len(figure.data)
    assert "<polyline" not in plots.svg(go.Figure(go.Bar(x=["a"], y=[1])))


NOTEBOOK = """
import time
from cinelab.lab.training import panel
from cinelab.lab.training import stages
panel.OFTEN, panel.SHARE = 0.3, 1
changes = {"steps": 60, "save_every": 5}
stage = stages.teacher_forcing("run", "store", "smoke", None, changes=changes)
# a browser needs seconds to show the first figure
slowly = (time.sleep(0.25) or row for row in stage.train())
seen = panel.watch(slowly, stage.config, sample=stage.sample)
"""


@pytest.mark.browser
@pytest.mark.slow
def test_the_panel_is_one_figure_that_is_updated(browser, tmp_path_factory):
    root = tmp_path_factory.mktemp("lab")
    own = tmp_path_factory.mktemp("settings")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(NOTEBOOK)])
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    nbformat.write(notebook, root / "train.ipynb")
    with jupyter_lab(root, own) as address:
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.set_default_timeout(60_000)
        elsewhere = []
        page.on(
            "request",
            lambda one: (
                one.url.startswith((address, "data:", "blob:")) or elsewhere.append(one.url)
            ),
        )
        page.goto(f"{address}/lab/tree/train.ipynb?reset")
        page.wait_for_selector(".jp-Notebook")
        run_all(page)
        page.wait_for_selector(".js-plotly-plot")
        page.evaluate("document.querySelector('.js-plotly-plot').dataset.mine = 'first'")
        steps, figures, points = watched(page)
        shoot(page, "panel")
        same = page.locator(".js-plotly-plot").count()
        page.close()
    assert figures <= {0, 1} and same == 1
    assert len(steps) >= 3 and len(points) >= 3 and max(points) == 60
    assert not elsewhere, "nothing may need the network"


def watched(page):
    """What a reader sees until the training is done: texts of the step, counts of figures, points
    drawn."""
    steps = set()
    figures = set()
    points = set()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        drawn = page.locator(".js-plotly-plot").count()
        steps.add(page.locator(".cinelab-panel").first.inner_text().split("\n")[1])
        # then the plain figure comes and the widget goes, each by a message of its own
        if not any("done" in step for step in steps):
            figures.add(drawn)
        points.add(
            page.evaluate(
                "Number((document.querySelector('.js-plotly-plot')?.data?.[1]?.x?.length) || 0)"
            )
        )
        if any("done" in step for step in steps) and page.locator(".cinelab-sample img").count():
            page.wait_for_timeout(1000)
            points.add(
                page.evaluate("document.querySelector('.js-plotly-plot')._fullData[1].x.length")
            )
            return steps, figures | {page.locator(".js-plotly-plot").count()}, points
        page.wait_for_timeout(150)
    raise AssertionError(f"not done after two minutes: {steps}")


def shoot(page, name):
    if os.environ.get("CINELAB_SHOTS"):
        page.screenshot(path=Path(os.environ["CINELAB_SHOTS"]) / f"{name}.png")
