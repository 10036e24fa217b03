"""Every metric of some videos in one table: our own, VBench's and VisionReward's."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from cinelab.errors import CinelabError
from cinelab.lab.reports.plots import PALETTE, TEMPLATE
from cinelab.lab.studies.tasks import answer_tasks, export_tasks
from cinelab.metrics.card import CardConfig
from cinelab.metrics.metric import labelled
from cinelab.metrics.rows import WHOLE, absent, row_table, save_rows
from cinelab.metrics.video.evaluate import evaluate
from cinelab.world.worlds import prompted_names, world_named, world_of


def evaluate_all(
    videos: Sequence[str | Path],
    run_dir: str | Path,
    backends: Sequence[str],
    tolerance: int = 1,
    vbench: Sequence[str] = (),
    visionreward: bool = False,
    rewriting: str = "none",
    tell: Callable[[str], None] = lambda text: None,
) -> pd.DataFrame:
    """Rows of every video by every backend, written to <run_dir>/rows.parquet. A backend that is
    not here is an absent row."""
    parts = [evaluate(videos, backends, tolerance, tell=tell)]
    if vbench:
        parts.append(
            _outside("vbench", videos, lambda films: _vbench(films, vbench, rewriting, tell), tell)
        )
    if visionreward:
        parts.append(
            _outside(
                "visionreward", videos, lambda films: _visionreward(films, rewriting, tell), tell
            )
        )
    rows = pd.concat(parts, ignore_index=True)
    save_rows(rows, Path(run_dir) / "rows.parquet")
    return rows


def _outside(
    name: str, videos: Sequence[str | Path], score: Callable, tell: Callable[[str], None]
) -> pd.DataFrame:
    from cinelab.metrics.external.clip_files import find_film_files

    try:
        return row_table(score(find_film_files(map(Path, videos), tell=tell)))
    except CinelabError as error:  # no environment: reported once
        return row_table([absent("", name, str(error), name)])


def _vbench(films: list, dimensions: Sequence[str], rewriting: str, tell: Callable) -> list:
    from cinelab.metrics.external.vbench import ClipRules, vbench_rows

    return vbench_rows(films, dimensions, ClipRules(rewriting=rewriting), tell)


def _visionreward(films: list, rewriting: str, tell: Callable) -> list:
    from cinelab.metrics.external.visionreward import visionreward_rows

    return visionreward_rows(films, rewriting=rewriting, tell=tell)


def sample_tasks(folder: str | Path, films: int = 2) -> Path:
    """A few tasks of the toybox with their true answers: something to evaluate where nothing has
    been made yet."""
    few = {"seeds": (0,), "films": films, "away": (1,), "in_span": (), "held": 0}
    config = CardConfig.of(world_named(), **few)
    export_tasks(folder, config)
    answer_tasks(folder, lambda plan, given: world_of(plan).render(plan).frames, config)
    return Path(folder)


def per_shot_figure(rows: pd.DataFrame, most: int = 6) -> go.Figure:
    """Metrics that single shots have, a panel each, a line a clip."""
    good = rows[
        (rows["status"] == "ok") & (rows["shot"] > WHOLE) & ~rows["metric"].isin(prompted_names())
    ]
    good = labelled(good).rename(columns={"metric": "name"})
    names = list(good.groupby("name")["shot"].nunique().sort_values(ascending=False).index[:most])
    fig = make_subplots(
        rows=-(-len(names) // 2) or 1, cols=2, subplot_titles=names, vertical_spacing=0.12
    )
    clips = list(dict.fromkeys(zip(good["run"], good["clip"], strict=True)))[: len(PALETTE)]
    for place, name in enumerate(names):
        for number, (run, clip) in enumerate(clips):
            part = (
                good[(good["name"] == name) & (good["run"] == run) & (good["clip"] == clip)]
                .groupby("shot")["value"]
                .mean()
            )
            fig.add_scatter(
                x=part.index,
                y=part,
                name=clip,
                legendgroup=f"{run}/{clip}",
                showlegend=place == 0,
                mode="lines+markers",
                line={"color": PALETTE[number]},
                row=place // 2 + 1,
                col=place % 2 + 1,
            )
    return (
        fig.update_layout(
            template=TEMPLATE, height=260 * (-(-len(names) // 2) or 1) + 80, title="Shot by shot"
        )
        .update_xaxes(dtick=1, title_text="shot (from 1)")
        .update_yaxes(title_text="value")
    )
