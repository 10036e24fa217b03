"""The tables of the pages, made from results/reference: no figure of theirs is written by hand.

    <!-- table: steps -->
    ... what `BLOCKS["steps"]` makes ...
    <!-- /table -->

`with_tables(text, reference)` writes every such block of a page anew; `cinelab evidence --pages`
does it to `PAGES`, and a test holds that they are what the tables say. `unsourced` lists the
numbers with an interval that stand outside of blocks and in no table of results/reference.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from cinelab.errors import CinelabError
from cinelab.lab.reports import cards
from cinelab.lab.reports.number_text import interval, rounded_text
from cinelab.lab.reports.reference import table_of
from cinelab.lab.reports.verdicts import p_text
from cinelab.lab.reports.withdrawn import withdrawn_table
from cinelab.metrics.legacy import modern_columns
from cinelab.texts import read_json

BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n)(.*?)(<!-- /table -->)", re.S)
MEASURED = re.compile(r"([-+]?\d*\.\d{2,3}) \[([-+]?\d*\.\d{2,3}), ([-+]?\d*\.\d{2,3})\]")
PAGES = ("README.md", "docs/results.md", "docs/benchmark.md", "docs/withdrawn.md")
RECALLED = "identity (recalled)"
FILMS = {
    "prompt": "prompt",
    "action": "action",
    "identity (kept)": "identity kept",
    "scenery (kept)": "scenery kept",
    "cut accuracy": "cuts",
    "drift": "drift",
    "sharpness": "sharpness of truth",
}
# of the README: a card's name -> what the system is, and its memory
SYSTEMS = {
    "ground truth": ("ground truth, read by the recogniser", ""),
    "chance": ("chance", ""),
    "toybox-base": ("base, 8 guided steps", "CAMR"),
    "toybox-base-full": ("", "full"),
    "toybox-base-random": ("", "random"),
    "toybox-base-window": ("", "window"),
    "toybox-4step": ("student, 4 steps", "CAMR"),
    "toybox-2step": ("student, 2 steps", "CAMR"),
    "toybox-1step": ("student, 1 step", "CAMR"),
}
README_METRICS = {
    "prompt": "prompt",
    "cut accuracy": "cuts",
    "identity (away=5)": "identity recalled, 5 shots away",
    "scenery (away=5)": "scenery recalled, 5 shots away",
}
STUDENTS = ("toybox-base", "toybox-4step", "toybox-2step", "toybox-1step", "toybox-chunk-4step")
BENCHMARK = (
    "toybox-base",
    "toybox-base-full",
    "toybox-base-random",
    "toybox-base-sink",
    "toybox-base-window",
    *STUDENTS[1:],
)

Block = Callable[[Path], str]


def with_tables(text: str, reference: str | Path) -> str:
    """A page whose blocks are made anew. CinelabError where a block is unknown, or its table is not
    there."""

    def made(found: re.Match) -> str:
        head, name, _, tail = found.groups()
        if name not in BLOCKS:
            raise CinelabError(f"A page has a table {name!r}; known are {', '.join(BLOCKS)}.")
        return head + BLOCKS[name](Path(reference)) + tail

    return BLOCK.sub(made, text)


def unsourced(text: str, reference: str | Path) -> list[str]:
    """The numbers with an interval of a page, outside of its blocks, that no table of the reference
    folder has."""
    known = set(_sourced(Path(reference)))
    prose = BLOCK.sub("", text)
    return [found[0] for found in MEASURED.finditer(prose) if _key(*found.groups()) not in known]


def _key(*numbers: str | float) -> tuple[float, ...]:
    """Three numbers as they are compared: to three places, and without a sign."""
    return tuple(round(abs(float(number)), 3) for number in numbers)


def _sourced(reference: Path) -> Iterator[tuple[float, ...]]:
    """Every (value, low, high) of the tables and cards, also of paired ones, and reversed, since
    "behind by" turns an interval around."""
    columns = [("value", "low", "high"), ("difference", "low", "high")]
    columns += [("share", "share low", "share high"), ("minus", "minus low", "minus high")]
    for path in reference.rglob("*.csv"):
        table = table_of(path)
        for names in columns:
            if set(names) <= set(table):
                for numbers in table[list(names)].dropna().itertuples(index=False):
                    yield _key(*numbers)
                    yield _key(numbers[0], numbers[2], numbers[1])
    for path in reference.glob("*.json"):
        card = read_json(path)
        for row in card.get("metrics", {}).values() if isinstance(card, dict) else ():
            if row.get("low") is not None:
                yield _key(row["value"], row["low"], row["high"])


def _table(reference: Path, name: str) -> pd.DataFrame:
    path = reference / name
    if not path.exists():
        raise CinelabError(f"{path} is not here; make it with `cinelab evidence`.")
    return modern_columns(table_of(path))


def _cell(row: pd.Series, value: str = "value") -> str:
    return rounded_text(row[value]) + interval(row["low"], row["high"])


def _grid(table: pd.DataFrame, rows: list[str], column: str, prefix: str = "") -> str:
    """Settings down the side, the values of one setting across."""
    text = table.apply(_cell, axis=1)
    wide = table.assign(text=text).pivot_table(
        index=rows, columns=column, values="text", aggfunc="first", sort=False
    )
    order = sorted(wide.columns, key=lambda name: (isinstance(name, str), name))
    wide = wide[order].sort_index()
    wide.columns = [f"{prefix}{name}" for name in wide.columns]
    return cards.markdown(wide.fillna("").reset_index())


def _made(
    reference: Path, names: Sequence[str], metrics: Sequence[str] = (RECALLED,)
) -> pd.DataFrame:
    """The model's rows of some metrics in tables that belong together."""
    table = pd.concat([_table(reference, name) for name in names], ignore_index=True)
    table = table[table["metric"].isin(list(metrics))]
    return table[table["source"] == "model"] if "source" in table else table


def _films(reference: Path, name: str, setting: str) -> str:
    """The headline metrics of whole films by a setting, and frames a CPU second."""
    table = _table(reference, f"experiments/{name}.csv")
    costs = table_of(reference / f"experiments/{name}_cost.csv").set_index(setting)
    speed = next((column for column in costs if column.endswith("CPU second")), None)
    lines = []
    for value, part in table.groupby(setting, sort=False):
        found = part.set_index("metric")
        line = {setting: value}
        line |= {text: _cell(found.loc[m]) for m, text in FILMS.items() if m in found.index}
        lines.append(line | {"frames a CPU second": costs[speed].get(value, "") if speed else ""})
    return cards.markdown(pd.DataFrame(lines).fillna(""))


def _paired(reference: Path, name: str, setting: str, metric: str) -> str:
    """One metric of a paired table: differences, n and p."""
    table = _table(reference, f"experiments/{name}_paired.csv")
    table = table[table["metric"] == metric]
    found = table[[setting, "against"]].copy()
    sign = table["difference"].map(lambda x: "+" if x > 0 else "")
    found["difference"] = sign + table.apply(partial(_cell, value="difference"), axis=1)
    found["n"] = table["n"]
    if "p" in table:
        found["p"] = table["p"].map(p_text)
    return cards.markdown(found)


def _card(reference: Path, name: str) -> str:
    """A card: value, interval, n, chance and upper bound."""
    card = cards.read_card(reference / f"{name}.json")

    def text(value: float | None) -> str:
        return "" if value is None else rounded_text(value)

    lines = [
        {
            "metric": metric,
            "value": text(row["value"]),
            "95 % interval": interval(row["low"], row["high"]).strip()
            if row["low"] is not None
            else "",
            "n": row["n"],
            "chance": text(row["chance"]),
            "upper": text(row["upper"]),
        }
        for metric, row in card["metrics"].items()
    ]
    return cards.markdown(pd.DataFrame(lines))


def _claims(reference: Path, name: str) -> str:
    """A table of claims."""
    table = table_of(reference / name)
    lines = [
        {
            "claim": row["claim"],
            "measured": _cell(row) if not pd.isna(row["value"]) else "",
            "margin": row["margin"],
            "films": row["films"],
            "trainings": "" if pd.isna(row["trainings"]) else int(row["trainings"]),
            "corrected p": p_text(row["corrected p"]),
            "verdict": row["verdict"],
        }
        for row in table.to_dict("records")
    ]
    return cards.markdown(pd.DataFrame(lines))


def _speed(reference: Path) -> str:
    """What `cinelab bench` measured, a column a policy."""
    rows = read_json(reference / "bench.json")["rows"]
    table = pd.DataFrame(rows).set_index("policy").T
    table = table.drop(index="text %", errors="ignore").astype(object)
    table = table.where(table.notna(), "").rename_axis("").reset_index()
    return cards.markdown(table)


def _race(reference: Path) -> dict[str, dict]:
    rows = read_json(reference / "race.json")["rows"]
    return {row["model"]: row for row in rows}


def _students(reference: Path) -> str:
    """Students against the base: value, and the share of the base's or the difference from it."""
    table = _table(reference, "students.csv")
    names = [name for name in STUDENTS if name in set(table["model"])]
    lines = []
    for metric, part in table.groupby("metric", sort=False):
        found = part.set_index("model")
        values = {name: _beside(found.loc[name]) if name in found.index else "" for name in names}
        lines.append({"metric": metric, **values})
    race = _race(reference)
    for column in ("frames/s", "first frame s"):
        speeds = {name: race.get(name, {}).get(column, "") for name in names}
        lines.append({"metric": column, **speeds})
    return cards.markdown(pd.DataFrame(lines))


def _beside(row: pd.Series) -> str:
    text = rounded_text(row["value"])
    for name, sign in (("share", ""), ("minus", "+")):
        if not math.isnan(value := row[name]):
            sign = sign if value >= 0 else ""
            edges = interval(row[f"{name} low"], row[f"{name} high"])
            return f"{text} ({sign}{rounded_text(value)}{edges})"
    return text


def _readme(reference: Path) -> str:
    """The table of the README: systems by prompt, cuts, recall and speed."""
    names = [name for name in SYSTEMS if (reference / f"{name}.parquet").exists()]
    table = cards.benchmark_table(names, reference).set_index("system")
    race = _race(reference)
    lines = []
    for name, row in table.iterrows():
        system, memory = SYSTEMS[str(name)]
        values = {title: _short(row[metric]) for metric, title in README_METRICS.items()}
        speed = race.get(str(name), {}).get("frames/s", "")
        lines.append({"system": system, "memory": memory, **values, "frames/s": speed})
    return cards.markdown(pd.DataFrame(lines))


def _short(text: str) -> str:
    """0.951 [0.944, 0.958] as .951 [.944, .958]."""
    return re.sub(r"\b0\.", ".", text)


def _benchmark(reference: Path) -> str:
    names = [name for name in BENCHMARK if (reference / f"{name}.parquet").exists()]
    return cards.markdown(cards.benchmark_table(names, reference))


def _withdrawn(reference: Path) -> str:
    return cards.markdown(withdrawn_table())


BLOCKS: dict[str, Block] = {
    "readme": _readme,
    "benchmark": _benchmark,
    "memory": lambda folder: _grid(
        _made(folder, ("memory.csv", "budget.csv")), ["away", "policy"], "budget", "budget "
    ),
    "in-span": lambda folder: _grid(_made(folder, ("in_span.csv",)), ["away"], "policy"),
    "max-distance": lambda folder: _grid(_made(folder, ("reach.csv",)), ["reach"], "policy"),
    "summary": lambda folder: _grid(
        _made(folder, ("experiments/summary.csv",), (RECALLED, "scenery (recalled)", "prompt")),
        ["summary"],
        "metric",
    ),
    "steps": lambda folder: _films(folder, "steps", "steps"),
    "guidance": lambda folder: _films(folder, "guidance", "guidance"),
    "students-films": lambda folder: _films(folder, "students", "model"),
    "students-prompt": lambda folder: _paired(folder, "students", "model", "prompt"),
    "length": lambda folder: _films(folder, "length", "policy"),
    "length-scenery": lambda folder: _paired(folder, "length", "policy", "scenery (kept)"),
    "length-drift": lambda folder: _paired(folder, "length", "policy", "drift"),
    "base-card": lambda folder: _card(folder, "toybox-base"),
    "memory-claims": lambda folder: _claims(folder, "memory_claims.csv"),
    "speed": _speed,
    "routing": lambda folder: _grid(
        _made(folder, ("routing.csv",)), ["score", "per_head"], "positions"
    ),
    "students": _students,
    "withdrawn": _withdrawn,
}
