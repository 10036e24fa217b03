"""The cells of one or several sweeps as one table: pooled over seeds, with intervals, and compared
pair by pair.

Films are the independent units; where a cell trained something, its seed is one too, and is
resampled first.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from cinelab.lab.reports.sweep_cells import Cells, is_numeric, setting_text
from cinelab.lab.reports.verdicts import CONFIRMED, LEVEL, REFUTED, UNDECIDED, Look, judged, level_p
from cinelab.lab.reports.withdrawn import NOTE
from cinelab.metrics.legacy import current_labels
from cinelab.metrics.stats import bootstrap, nested_bootstrap, paired_difference, tails

# settings that make the test harder or another
TASKS = ("away", "shots", "latents", "shot_latents", "grain", "reframed", "stage")
DRAWS = 10_000  # sign flips or resamples behind a p
# what the others are measured against, where it is among them
BASES = ("full", "toybox-base", "none")


def pooled(cells: Cells, metrics: list[str] | None = None) -> pd.DataFrame:
    """A row for every setting and metric: value, low, high, n (films), seeds, chance, upper."""
    films = cells.films
    found = []
    wanted = current_labels(metrics, cells.metrics) if metrics else cells.metrics
    films = films[films["metric"].isin(wanted)]
    for key, part in _groups(films, [*cells.varied, "metric"]):
        made = part[part["source"] == "model"]
        if made.empty:
            continue
        e = estimate(made["value"].tolist(), made["seed"].tolist(), cells.trained)
        others = part.groupby("source")["value"].mean()
        found.append(
            key
            | {
                "value": e.value,
                "low": e.low,
                "high": e.high,
                "n": e.n,
                "seeds": made["seed"].nunique(),
                "chance": others.get("chance"),
                "upper": others.get("truth"),
            }
        )
    return pd.DataFrame(found)


def estimate(values: list[float], seeds: list, trained: bool):
    """Films resampled; where trainings stand behind the seeds, seeds first."""
    return nested_bootstrap(values, seeds) if trained else bootstrap(values)


def compared(cells: Cells, metric: str, base: Any = None, margin: float = LEVEL) -> pd.DataFrame:
    """One metric's table, as `comparisons` makes them; p is corrected over this table alone."""
    (metric,) = current_labels([metric], cells.metrics)
    return comparisons(cells, [metric], base, margin)[metric]


def comparisons(
    cells: Cells, metrics: Sequence[str], base: Any = None, margin: float = LEVEL
) -> dict[str, pd.DataFrame]:
    """metric -> every value of `which` against `base`, on the films both made, all else equal.

    `base` is by default one of BASES, else the first or smallest. Columns: the other settings,
    `which`, against, difference, low, high, n (films), trainings, p, corrected p, level p, margin,
    verdict (of a user's own metric: by its direction). A row is looked at twice, for being above or
    below and for being level within `margin`;
    `level p` is the corrected p of the second. Both are corrected by Holm over all the tables.
    """
    pairs = {metric: _pairs(cells, metric, base) for metric in metrics}
    count = sum(map(len, pairs.values()))
    draws = max(DRAWS, 200 * count)  # so that the smallest p survives being corrected
    looks = [
        _looks(cells, about, both, margin=margin, draws=draws)
        for table in pairs.values()
        for about, both in table
    ]
    judgements = judged(look for pair in looks for look in pair)
    rows = iter(judgements.to_dict("records"))
    found = {}
    for metric, table in pairs.items():
        lines = [_line(about, next(rows), next(rows), margin) for about, _ in table]
        found[metric] = pd.DataFrame(lines)
        if metric in cells.about and lines:
            better = cells.better(metric)
            found[metric]["verdict"] = [directed(word, better) for word in found[metric]["verdict"]]
    return found


def _pairs(cells: Cells, metric: str, base: Any) -> list[tuple[dict, pd.DataFrame]]:
    """(settings of a row, the films that it and its base both made), a pair a comparison."""
    which = cells.which
    films = cells.films
    films = films[(films["metric"] == metric) & (films["source"] == "model")]
    if which is None or films.empty:
        return []
    values = list(dict.fromkeys(films[which]))
    base = next((name for name in BASES if name in values), values[0]) if base is None else base
    rest = [name for name in cells.varied if name != which]
    found = []
    for key, part in _groups(films, rest):
        kinds = part.groupby(which, sort=False)
        by = {name: one.set_index(["seed", "clip"])["value"] for name, one in kinds}
        for name in by if base in by else ():
            both = pd.concat([by[name], by[base]], axis=1, join="inner")
            if name != base and len(both):
                found.append((key | {which: name, "against": base}, both))
    return found


def _looks(
    cells: Cells, about: dict, both: pd.DataFrame, *, margin: float, draws: int
) -> list[Look]:
    """Is the first column apart from the second, and is it level with it?"""
    one, other = (both.iloc[:, place].tolist() for place in (0, 1))
    gaps = (both.iloc[:, 0] - both.iloc[:, 1]).tolist()
    seeds = both.index.get_level_values("seed").tolist()
    e = nested_bootstrap(gaps, seeds) if cells.trained else paired_difference(one, other)
    outer = seeds if cells.trained else None
    apart, upper, lower = tails(gaps, (0.0, margin, -margin), outer, draws)
    above = Look(
        "",
        e,
        *apart,
        kind="above",
        margin=0.0,
        films=len(gaps),
        trainings=len(set(seeds)) if cells.trained else None,
        withdrawn=cells.withdrawn(about),
    )
    p_true, p_false = level_p(upper, lower)
    return [above, replace(above, p_true=p_true, p_false=p_false, kind="level", margin=margin)]


def _line(about: dict, apart: dict, level: dict, margin: float) -> dict:
    """One row of a table of comparisons."""
    numbers = {"difference": apart["value"], "low": apart["low"], "high": apart["high"]}
    counts = {"n": apart["films"], "trainings": apart["trainings"]}
    p = {"p": apart["p"], "corrected p": apart["corrected p"], "level p": level["corrected p"]}
    word = _word(apart["verdict"], level["verdict"], margin)
    return about | numbers | counts | p | {"margin": margin, "verdict": word}


def _word(apart: str, level: str, margin: float) -> str:
    """What both looks say together."""
    if apart.startswith(NOTE):
        return apart
    side = {CONFIRMED: "above", REFUTED: "below"}.get(apart)
    near = f"level within {margin:g}" if level == CONFIRMED else ""
    if side and near:
        return f"{side}, by less than {margin:g}"
    return side or near or UNDECIDED


def directed(word: str, better: str | None) -> str:
    """A verdict on a user's own metric, by its direction: better or worse; higher or lower where
    neither is better."""
    names = {"high": ("better", "worse"), "low": ("worse", "better"), None: ("higher", "lower")}[
        better
    ]
    for side, name in zip(("above", "below"), names, strict=True):
        if word.startswith(side):
            return name + word.removeprefix(side)
    return word


def _groups(table: pd.DataFrame, names: list[str]):
    """(names -> values, part) in the order of the table."""
    if not names:
        yield {}, table
        return
    for key, part in table.groupby(names, sort=False, observed=True, dropna=False):
        yield dict(zip(names, key, strict=True)), part


def costs(cells: Cells) -> pd.DataFrame:
    """What a setting costs, from its cells' own records: frames per second of CPU time and by the
    clock, MiB of the KV cache that a chunk attends to, how much slower the last quarter of a film
    is; or how many chunks are attended to. Median over seeds."""
    found = []
    for cell in cells.table.to_dict("records"):
        info = cell["info"]
        speed = (
            {name: value for name, value in info["speed"].items() if is_numeric(value)}
            if isinstance(info.get("speed"), dict)
            else {}
        )
        # unlike the clock's, this does not know of other cells beside it
        spent = speed.get("cpu_s_per_frame")
        line = {
            "frames per CPU second": spent and round(1 / spent, 2),
            "frames per second": speed.get("frames_per_second"),
            "first frame, s": speed.get("first_frame_s"),
            "KV cache attended to, MiB": speed.get("kv_mib"),
            "last quarter / first": speed.get("late_over_early"),
        }
        if is_numeric(info.get("history")) and is_numeric(info.get("budget")):
            line["chunks attended to"] = (
                info["history"]
                if info.get("policy") == "full"
                else min(info["budget"], info["history"])
            )
        if cell["status"] == "done":
            found.append(
                {
                    name: setting_text(cell["parameters"].get(name))
                    for name in cells.varied
                    if name in cell["parameters"]
                }
                | line
            )
    table = pd.DataFrame(found)
    names = [name for name in cells.varied if name in table]
    numbers = [name for name in table if name not in names and table[name].notna().any()]
    return (
        table.groupby(names, sort=False, dropna=False)[numbers].median().reset_index()
        if names and numbers
        else pd.DataFrame()
    )
