"""Cards from the command line and from notebooks: measured, read, printed and compared."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from cinelab.config import mapping, read_mapping, to_dict
from cinelab.errors import CinelabError
from cinelab.files import write_json
from cinelab.lab.reports.index import CARD, NUMBERS
from cinelab.lab.reports.number_text import interval, rounded_text
from cinelab.lab.reports.origin import file_mark, made
from cinelab.memory.policy import Policy
from cinelab.memory.policy_registry import label_of, name_of
from cinelab.metrics.card import CardConfig, card, measure_card
from cinelab.metrics.legacy import analysed, current_label
from cinelab.metrics.memory_card import BOXES, box_lines, memory_card
from cinelab.metrics.metric import METRICS
from cinelab.metrics.rows import save_rows
from cinelab.metrics.stats import bootstrap, paired_difference, paired_ratio
from cinelab.metrics.toybox.attributes import with_prompt
from cinelab.metrics.toybox.recogniser import load_recogniser
from cinelab.outputs import half_saved, ready_folder, together, writing_set
from cinelab.printing import out, say, show_table
from cinelab.stream.batch import policy_for
from cinelab.tables import read_frame
from cinelab.zoo.checkpoints import find, load, read_part


def score_card(
    name: str,
    seeds: tuple[int, ...],
    films: int,
    policy: str | Policy | None = None,
    budget: int | None = None,
    output: str | Path = "results/reference",
    tell: Callable[[str], None] = print,
) -> Path:
    """Measure a checkpoint on held-out films and write <output>/<name>.json and its rows as
    parquet.

    No policy is the one that it was trained under (see `policy_for`); another one is in the card's
    name.
    """
    CardConfig(seeds=seeds, films=films)  # refused before anything is loaded
    ready_folder(output)
    bundle = load(name)
    config = CardConfig.of(bundle.world, seeds=seeds, films=films)
    reader = load_recogniser(world=bundle.world)
    rule = policy_for(bundle, policy, budget)
    policy_label = label_of(rule if policy is None else policy)
    label = find(name).name + (
        "" if name_of(rule) == name_of(policy_for(bundle)) else f"-{safe_name(policy_label)}"
    )
    path = Path(output) / f"{label}.json"
    with writing_set(output, path.name):
        rows = measure_card(bundle, reader, rule, config, tell)
        record = card(
            rows,
            model=bundle.name,
            policy={"name": name_of(rule)} | to_dict(rule),
            sampling=to_dict(bundle.sampling),
            config=to_dict(config),
            recogniser=reader.accuracy,
            memory=memory_card(rows, reader.accuracy_codec, bundle.world.identity),
            made=made([find(name)], seeds=list(seeds), films=films),
        )
        with together(output, path.name, again=True) as scratch:
            save_rows(rows, scratch / f"{label}.parquet")
            write_json(scratch / path.name, record)
    return path


def read_card(path: Path) -> dict:
    """A card. Raises CinelabError where it is broken or of another shape."""
    record = read_mapping(path, recogniser=dict[str, float], **CARD)
    more = {"chance": float | None, "upper": float | None}
    record["metrics"] = {
        current_label(metric): dict.fromkeys((*NUMBERS, *more))
        | mapping(row, f"{path}: {metric}", **NUMBERS, **more)
        for metric, row in record["metrics"].items()
    }
    return record


def safe_name(text: str) -> str:
    """A label as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_.=+-]+", "-", text).strip("-")


def card_table(record: dict) -> pd.DataFrame:
    """A card as a table, one row a metric."""
    return pd.DataFrame(record["metrics"]).T.rename_axis("metric")


def print_card(record: dict, console=out) -> None:
    """A card for reading, and the recogniser's own held-out accuracy beside it."""
    lines = []
    for metric, row in record["metrics"].items():
        known = row["low"] is not None and row["high"] is not None
        interval = f"{_text(row['low'])} to {_text(row['high'])}" if known else ""
        lines.append(
            [
                metric,
                _text(row["value"]),
                interval,
                str(row["n"]),
                _text(row["chance"]),
                _text(row["upper"]),
            ]
        )
    show_table(
        ["metric", "value", "95 % interval", "n", "chance", "upper"],
        lines,
        str(record["model"]),
        console,
    )
    print_memory(record.get("memory") or {}, console)
    if not record["recogniser"]:
        return
    worst = min(record["recogniser"].items(), key=lambda item: item[1])
    say(
        (f"The recogniser's own held-out accuracy: worst {worst[0]} {worst[1]:.3f}.", "dim"),
        to=console,
    )


def print_memory(memory: dict, console=out) -> None:
    """The boxes that each claim of memory passes, fails or leaves open; nothing where none was
    made."""
    if memory:
        show_table(["memory", "", *BOXES], box_lines(memory), "five boxes", console)


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def compare_cards(names: list[str], folder: str | Path = "results/reference") -> pd.DataFrame:
    """Cards side by side, a row a metric and model: value, interval, and its share of the first
    model's; the metrics are those that the list names as compared, and a user's own.

    The share's interval comes from resampling the films that both made; it is left out where they
    are not the same, as between a frame-wise and a chunk-wise model. What is a difference already
    is compared by the paired difference.
    """
    films = {name: films_of_card(Path(folder) / f"{name}.parquet") for name in names}
    chunks = {name: _chunk(name) for name in names}
    rows = []
    measured = dict.fromkeys(metric for one in films.values() for metric in one.index.levels[0])
    compared = METRICS.headlines(measured, compared=True)
    for metric in dict.fromkeys([*compared, *own_metrics(names, folder)]):
        for name in names:
            if metric not in films[name].index:
                continue
            mine = films[name].loc[metric]
            base = films[names[0]]
            e = bootstrap(mine.tolist())
            row = {
                "metric": metric,
                "model": name,
                "value": e.value,
                "low": e.low,
                "high": e.high,
                "n": e.n,
            }
            comparable = (
                name != names[0] and chunks[name] == chunks[names[0]] and metric in base.index
            )
            if comparable and mine.index.equals(base.loc[metric].index):
                compare = _minus if METRICS.of(metric).signed else _share
                row |= compare(mine.to_numpy(), base.loc[metric].to_numpy())
            rows.append(row)
    return pd.DataFrame(rows).round(4)


def made_from(names: list[str], folder: str | Path = "results/reference") -> dict:
    """What makes a comparison: the command, and each card's table, its hash and what made that."""
    cards = {}
    for name in names:
        record = Path(folder) / f"{name}.json"
        origin = (
            read_mapping(record, **CARD, made=dict | None).get("made") if record.exists() else None
        )
        cards[name] = file_mark(Path(folder) / f"{name}.parquet") | {"made": origin}
    return made(cards=cards)


def comparison_lines(rows: pd.DataFrame, names: list[str]) -> list[list[str]]:
    """A line a metric: every model's value and interval, and what it is against the first
    model's."""
    lines = []
    for metric, part in rows.groupby("metric", sort=False):
        cells = {row["model"]: _beside(row) for row in part.to_dict("records")}
        lines.append([metric, *(cells.get(name, "") for name in names)])
    return lines


def comparison_note(rows: pd.DataFrame, names: list[str]) -> str:
    """What the table's numbers are, and which models could not be set beside the first one."""
    columns = [name for name in ("share", "minus") if name in rows]
    beside = set(rows.loc[rows[columns].notna().any(axis=1), "model"]) if columns else set()
    note = "Mean over films [95 % interval]"
    if beside:
        note += (
            f"; x: the share of {names[0]}'s on the films that both made, + or -: the difference "
            "from it"
        )
    if apart := [name for name in names[1:] if name not in beside]:
        note += f". Not set beside {names[0]}: {', '.join(apart)}, since the films are not the same"
    return note + "."


def _beside(row: dict) -> str:
    """0.478 [0.437, 0.523], and x 0.95 [0.91, 0.99] of the first model's, or +0.010 [-0.005, 0.025]
    from it."""
    text = rounded_text(row["value"]) + interval(row["low"], row["high"])
    for name, sign in (("share", "x "), ("minus", "+")):
        value = row.get(name)
        if value is not None and np.isfinite(value):
            sign = "" if name == "minus" and rounded_text(value).startswith("-") else sign
            text += (
                f"; {sign}{rounded_text(value)}{interval(row[f'{name} low'], row[f'{name} high'])}"
            )
    return text


def own_metrics(names: list[str], folder: str | Path) -> list[str]:
    """A user's own metrics that the cards of these models hold."""
    paths = [Path(folder) / f"{name}.json" for name in names]
    return list(
        dict.fromkeys(
            metric
            for path in paths
            if path.exists()
            for metric in read_mapping(path, **CARD).get("own", {})
        )
    )


def _chunk(name: str) -> int | None:
    """Latent frames a chunk of a checkpoint, if it is here; films of a card are cut to whole
    chunks."""
    try:
        return read_part(find(name), "chunk")
    except CinelabError:
        return None


def films_of_card(path: Path) -> pd.Series:
    """Mean of every film, by (metric, seed, clip); `prompt` is the mean of all that prompts
    name."""
    if not path.exists() or half_saved(path.parent, f"{path.stem}.json"):
        raise CinelabError(
            f"There is no card's table {path}; run `cinelab score {path.stem}` first."
        )
    rows = _read_films(path)
    return (
        with_prompt(rows[rows.source == "model"]).groupby(["metric", "seed", "clip"]).value.mean()
    )


def _read_films(path: Path) -> pd.DataFrame:
    """A card's rows, of any version, with labels of metrics."""
    again = f"run `cinelab score {path.stem}` again"
    return analysed(read_frame(path, again, ("source", "metric", "seed", "value")))


def _share(mine: np.ndarray, base: np.ndarray) -> dict:
    """Ratio of the means with a 95 % interval over films that both made."""
    e = paired_ratio(mine.tolist(), base.tolist())
    return {"share": e.value, "share low": e.low, "share high": e.high}


def _minus(mine: np.ndarray, base: np.ndarray) -> dict:
    """Difference of the means with a 95 % interval over films that both made."""
    e = paired_difference(mine.tolist(), base.tolist())
    return {"minus": e.value, "minus low": e.low, "minus high": e.high}


# the columns of the reference table: what makes the benchmark, whatever else cards hold
BENCHMARK = (
    "prompt",
    "action",
    "cut accuracy",
    "identity (away=1)",
    "identity (away=3)",
    "identity (away=5)",
    "scenery (away=5)",
    "hit rate (away=5)",
    "identity above chance (kept)",
    "scenery above chance (kept)",
    "diversity of identity",
    "diversity of scenery",
    "paired histories (away=5)",
    "SCA",
    "held sharpness",
)


def benchmark_table(names: list[str], folder: str | Path = "results/reference") -> pd.DataFrame:
    """The reference table: a row a system, value with its interval; ground truth and chance from
    the first system's films."""
    rows = {}
    place = Path(folder) / f"{names[0]}.parquet"
    first = _read_films(place) if place.exists() else None
    for label, source in (("ground truth", "truth"), ("chance", "chance")):
        if first is not None:
            rows[label] = _values(
                with_prompt(first[first.source == source])
                .groupby(["metric", "seed", "clip"])
                .value.mean()
            )
    for name in names:
        rows[name] = _values(films_of_card(Path(folder) / f"{name}.parquet"))
    return (
        pd.DataFrame(rows)
        .T.reindex(columns=list(BENCHMARK))
        .astype(object)
        .fillna("")
        .rename_axis("system")
        .reset_index()
    )


def _values(films: pd.Series) -> dict[str, str]:
    found = {
        metric: bootstrap(films.loc[metric].tolist())
        for metric in BENCHMARK
        if metric in films.index.get_level_values(0)
    }
    return {metric: f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]" for metric, e in found.items()}


def markdown(table: pd.DataFrame) -> str:
    """A table of texts as Markdown."""
    lines = [
        list(map(str, table.columns)),
        ["---"] * len(table.columns),
        *(list(map(str, row)) for row in table.itertuples(index=False)),
    ]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
