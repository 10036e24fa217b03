"""Score cards from the command line and from notebooks."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from cinelab.config import to_dict
from cinelab.files import write_atomic, write_json
from cinelab.memory.policy import policy_named
from cinelab.model.zoo import find, load
from cinelab.score.card import CardConfig, card, measure
from cinelab.score.recogniser import load_recogniser


def score_card(name: str, seeds: tuple[int, ...], films: int, policy: str = "camr", budget: int = 6,
               output: str | Path = "results/reference", tell: Callable[[str], None] = print) -> Path:
    """Measure a checkpoint on held-out films and write <output>/<name>.json and its rows as parquet."""
    bundle, reader = load(name), load_recogniser()
    config, rule = CardConfig(seeds=seeds, films=films), policy_named(policy, budget)
    rows = measure(bundle, reader, rule, config, tell)
    record = card(rows, model=bundle.name, policy={"name": policy} | to_dict(rule), sampling=to_dict(bundle.sampling),
                  config=to_dict(config), recogniser=reader.accuracy)
    label = find(name).name + ("" if policy == "camr" else f"-{policy}")
    path = Path(output) / f"{label}.json"
    write_json(path, record)
    write_atomic(path.with_suffix(".parquet"), lambda temporary: rows.to_parquet(temporary))
    return path


def card_table(record: dict) -> pd.DataFrame:
    """A card as a table, one row a metric."""
    return pd.DataFrame(record["metrics"]).T.rename_axis("metric")


def print_card(record: dict, console: Console) -> None:
    """A card for reading, and the recogniser's own held-out accuracy beside it."""
    table = Table("metric", "value", "95 % interval", "n", "chance", "upper", title=f"{record['model']}")
    for metric, row in record["metrics"].items():
        interval = f"{_text(row['low'])} to {_text(row['high'])}"
        table.add_row(metric, _text(row["value"]), interval, str(row["n"]), _text(row["chance"]), _text(row["upper"]))
    console.print(table)
    worst = min(record["recogniser"].items(), key=lambda item: item[1])
    console.print(f"[dim]The recogniser's own held-out accuracy: worst {worst[0]} {worst[1]:.3f}.[/]")


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
