"""The memory sweep as a whole: one table, one figure, and the papers' claims with verdicts."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from cinelab.errors import CinelabError
from cinelab.files import write_atomic
from cinelab.lab.reports.plots import ablation_lines
from cinelab.lab.reports.verdicts import LEVEL, Look, about_gap, about_mean, about_ratio, judged
from cinelab.lab.studies.memory_cell import summarise
from cinelab.lab.sweeps.measured import read_rows
from cinelab.metrics.legacy import analysed, current_labels
from cinelab.metrics.rows import COLUMNS
from cinelab.tables import read_frame

BY = ("policy", "budget", "away")
NO_SETTING = (*COLUMNS, "seed")  # columns that are measured, or say what was
RECALLED = "identity (recalled)"
NEEDED = ("full", "camr", "random", "sink", "window")  # policies that the claims compare


def sweep_rows(folder: str | Path, *more: str | Path) -> pd.DataFrame:
    """Rows of all measured cells below `folder`, and of those below `more` where these exist; the
    column `metric` holds labels."""
    paths = sorted(Path(folder).glob("*/rows.parquet"))
    if not paths:
        raise CinelabError(
            f"{folder} holds no measured cell; run `cinelab sweep "
            f"experiments/{Path(folder).name}.yaml` first."
        )
    paths += [path for other in more for path in sorted(Path(other).glob("*/rows.parquet"))]
    return analysed(pd.concat([read_rows(path) for path in paths], ignore_index=True))


def sweep_layers(folder: str | Path) -> pd.DataFrame:
    """What every layer retrieved in all cells below `folder` that record it (notebook 24)."""
    paths = sorted(Path(folder).glob("*/layers.parquet"))
    if not paths:
        raise CinelabError(
            f"{folder} holds no layers.parquet; it is written by cells of notebook 24."
        )
    again = "run its cell again"
    return pd.concat([read_frame(path, again) for path in paths], ignore_index=True)


def keep_raw_rows(rows: pd.DataFrame, path: str | Path) -> Path:
    """Write a sweep's raw rows small (texts as categories, zstd), for others to analyse again."""
    texts = [name for name in rows if rows[name].dtype == object]
    small = rows.astype(dict.fromkeys(texts, "category"))
    write_atomic(path, lambda place: small.to_parquet(place, compression="zstd", index=False))
    return Path(path)


def sweep_table(rows: pd.DataFrame, by: tuple[str, ...] = BY) -> pd.DataFrame:
    """Pooled over seeds: by, metric, source, value, low, high, n."""
    rows = analysed(rows)
    parts = [
        summarise(part).assign(**dict(zip(by, key, strict=True)))
        for key, part in rows.groupby(list(by), sort=True)
    ]
    table = pd.concat(parts, ignore_index=True)
    return table[[*by, *(name for name in table if name not in by)]]


def recall_figure(rows: pd.DataFrame, metric: str = RECALLED) -> go.Figure:
    """Recall against absence, a line a policy; chance and the truth through the codec beside it.

    `rows` are a sweep's, or already its table.
    """
    rows = _of_metric(rows, metric)
    table = rows if "low" in rows else sweep_table(rows)
    bound = table.groupby("source").value.mean()
    several = table.budget.nunique() > 1
    made = table[table.source == "model"]
    made = made.assign(label=made.policy + (" " + made.budget.astype(str) if several else ""))
    made.loc[made.policy == "full", "label"] = "full"
    made = made.drop_duplicates(["label", "away"])
    return ablation_lines(
        made,
        x="away",
        y="value",
        colour="label",
        low="low",
        high="high",
        chance=float(bound["chance"]),
        upper=float(bound["truth"]),
        title=f"Unprompted {metric} after an absence of so many shots",
    )


def claims(
    rows: pd.DataFrame, away: int, budget: int, metric: str = RECALLED, margin: float = LEVEL
) -> pd.DataFrame:
    """The memory claims at one absence and budget, on the same films for every policy.

    p is corrected over the claims at every absence and budget of the sweep, since all were looked
    at. `margin` is of "level with full attention". The columns are those of `judged`.
    """
    rows = _of_metric(rows, metric)
    here = rows[(rows.away == away) & (rows.budget == budget)]
    if missing := [name for name in NEEDED if name not in set(here.policy)]:
        raise CinelabError(
            f"The sweep has no {missing[0]!r} at away={away}, budget={budget}; add it to the grid."
        )
    if varied := _also_varied(here):
        raise CinelabError(
            f"The cells at away={away}, budget={budget} differ in {varied!r} too; give the rows "
            "of one "
            f"{varied}, as rows[rows.{varied} == ...]."
        )
    looks = {
        key: list(_looks(part, key[0], key[1], margin))
        for key, part in rows.groupby(["away", "budget"])
        if set(NEEDED) <= set(part.policy)
    }
    table = judged(look for part in looks.values() for look in part)
    where = [key for key, part in looks.items() for _ in part]
    return table[[key == (away, budget) for key in where]].reset_index(drop=True)


def _of_metric(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows of a metric by its label, or by an earlier name of it."""
    rows = rows if "low" in rows else analysed(rows)
    (name,) = current_labels([metric], rows["metric"])
    return rows[rows["metric"] == name]


def _also_varied(rows: pd.DataFrame) -> str | None:
    """A setting beside policy, budget and away that full attention was measured under several of.

    Columns of fractions are measurements of a cell, not settings.
    """
    full = rows[(rows.policy == "full") & (rows.source == "model")]
    settings = [name for name in full if name not in NO_SETTING and full[name].dtype.kind != "f"]
    return next((name for name in settings if full[name].nunique() > 1), None)


def _looks(rows: pd.DataFrame, away: int, budget: int, margin: float) -> Iterator[Look]:
    """The claims at one absence and budget."""
    made = rows[rows.source == "model"]
    policies = {name: _films(made[made.policy == name]) for name in NEEDED}
    chance = _films(rows[(rows.policy == "full") & (rows.source == "chance")])
    history = int(rows.history.iloc[0])
    at = f"{away} shots away"
    share = f"{100 * budget / history:.0f} %"
    full = policies["full"]
    camr = policies["camr"]
    yield about_mean(f"{at}: full attention recalls at least 0.80", full.tolist(), margin=0.80)
    yield about_gap(
        f"{at}: window is level with chance",
        *_both(policies["window"], chance),
        kind="level",
        margin=0.10,
    )
    which = f"CAMR with {budget} of {history} chunks ({share})"
    yield about_ratio(
        f"{at}: {which} keeps 0.95 of full attention", *_both(camr, full), margin=0.95
    )
    name = f"{at}: {which} is level with full attention"
    yield about_gap(name, *_both(camr, full), kind="level", margin=margin)
    for name in ("random", "sink"):
        yield about_gap(f"{at}: {which} is ahead of {name}", *_both(camr, policies[name]))


def _films(rows: pd.DataFrame) -> pd.Series:
    """Mean of each film, addressed by (seed, clip): the independent units."""
    return rows.groupby(["seed", "clip"]).value.mean()


def _both(one: pd.Series, other: pd.Series) -> tuple[list[float], list[float]]:
    """The values of the films that both have."""
    both = pd.concat([one, other], axis=1, join="inner")
    return both.iloc[:, 0].tolist(), both.iloc[:, 1].tolist()
