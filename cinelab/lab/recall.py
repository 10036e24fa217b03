"""The memory sweep as a whole: one table, one figure, and the papers' claims, held or failed."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from cinelab.errors import CinelabError
from cinelab.lab.ablation import summarise
from cinelab.lab.measured import read_rows
from cinelab.lab.plots import ablation_lines
from cinelab.score.stats import Estimate, bootstrap, paired_difference

BY = ("policy", "budget", "away")


def sweep_rows(folder: str | Path, *more: str | Path) -> pd.DataFrame:
    """Rows of all cells below `folder` that have been measured, and of those below `more` where these exist."""
    paths = sorted(Path(folder).glob("*/rows.parquet"))
    if not paths:
        raise CinelabError(f"{folder} holds no measured cell; run `cinelab sweep experiments/{Path(folder).name}.yaml` first.")
    paths += [path for other in more for path in sorted(Path(other).glob("*/rows.parquet"))]
    return pd.concat([read_rows(path) for path in paths], ignore_index=True)


def sweep_table(rows: pd.DataFrame, by: tuple[str, ...] = BY) -> pd.DataFrame:
    """Pooled over seeds: by, metric, source, value, low, high, n."""
    parts = [summarise(part).assign(**dict(zip(by, key, strict=True))) for key, part in rows.groupby(list(by), sort=True)]
    table = pd.concat(parts, ignore_index=True)
    return table[[*by, *(name for name in table if name not in by)]]


def recall_figure(rows: pd.DataFrame, metric: str = "identity") -> go.Figure:
    """Recall against absence, a line a policy; chance and the truth through codec and reader beside it."""
    table = sweep_table(rows[rows.metric == metric])
    bound = table.groupby("source").value.mean()
    several = table.budget.nunique() > 1
    made = table[table.source == "model"]
    made = made.assign(label=made.policy + (" " + made.budget.astype(str) if several else ""))
    made.loc[made.policy == "full", "label"] = "full"
    made = made.drop_duplicates(["label", "away"])
    return ablation_lines(made, x="away", y="value", colour="label", low="low", high="high",
                          chance=float(bound["chance"]), upper=float(bound["truth"]),
                          title=f"Unprompted {metric} recalled after an absence of so many shots")


@dataclass(frozen=True)
class Claim:
    """What was to be shown, what was measured, and whether it holds."""

    claim: str
    measured: str
    holds: bool


def claims(rows: pd.DataFrame, away: int, budget: int, metric: str = "identity") -> pd.DataFrame:
    """The memory claims at one absence and budget, on the same films for every policy."""
    part = rows[(rows.away == away) & (rows.budget == budget) & (rows.metric == metric)]
    names = ("full", "camr", "random", "sink", "window")
    if missing := [name for name in names if name not in set(part.policy)]:
        raise CinelabError(f"The sweep has no {missing[0]!r} at away={away}, budget={budget}; add it to the grid.")
    made = {name: _films(part[(part.policy == name) & (part.source == "model")]) for name in names}
    value = {name: _mean(films) for name, films in made.items()}
    chance = _mean(_films(part[(part.policy == "full") & (part.source == "chance")]))
    share = value["camr"].value / value["full"].value
    history = int(part.history.iloc[0])
    full_gap, beats = _gap(made["camr"], made["full"]), {name: _gap(made["camr"], made[name]) for name in ("random", "sink")}
    found = [
        Claim("full attention recalls at least 0.80", str(value["full"]), value["full"].value >= 0.80),
        Claim(f"window is within 0.10 of chance ({chance.value:.3f})", str(value["window"]),
              abs(value["window"].value - chance.value) <= 0.10),
        Claim(f"CAMR with {budget} of {history} chunks ({100 * budget / history:.0f} %) keeps 0.95 of full attention",
              f"{share:.3f} of it; difference {full_gap}", share >= 0.95),
        *(Claim(f"CAMR beats {name}, intervals apart", f"{value['camr']} against {value[name]}; difference {beats[name]}",
                value["camr"].low > value[name].high) for name in ("random", "sink")),
    ]
    return pd.DataFrame(found)


def _films(rows: pd.DataFrame) -> pd.Series:
    """Mean of each film, addressed by (seed, film): the independent units."""
    return rows.groupby(["seed", "film"]).value.mean()


def _mean(films: pd.Series) -> Estimate:
    return bootstrap(films.tolist())


def _gap(one: pd.Series, other: pd.Series) -> Estimate:
    """Paired difference on the films that both have."""
    both = pd.concat([one, other], axis=1, join="inner")
    return paired_difference(both.iloc[:, 0].tolist(), both.iloc[:, 1].tolist())
