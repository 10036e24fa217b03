"""The ledger's figures beside the measured ones.

    python -m benchmarks.gpu_bench.predictions FOLDER --card H100

A row states what the ledger predicts it from (`asks`); each such setting is counted once, on `meta`
tensors, by a process of its own beside the sections.
"""

import argparse
import json
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.gpu_bench.record import sentence
from cinelab.files import append_line, read_lines

LEDGER = "cinelab.bench.ledger_report"
NONE = "no prediction"
FILE = "predictions.jsonl"


def key_of(asks: dict) -> str:
    """Return the settings of a prediction as text, the same for the same settings."""
    return json.dumps(asks, sort_keys=True)


def figure(asks: dict, card: str) -> float | str:
    """Return what the ledger says of a setting, in the row's unit; a sentence where it says
    nothing."""
    return import_module("benchmarks.gpu_bench.ledger_figures").figure(asks, card)


def read(work: Path) -> dict[str, Any]:
    """Return the predictions that were written, by their settings."""
    return {row["asks"]: row["value"] for row in read_lines(work / FILE)}


def missing(work: Path, rows: Iterable[dict]) -> dict[str, dict]:
    """Return the settings that are still to be predicted; none where there is no ledger."""
    if find_spec(LEDGER) is None:
        return {}
    known = read(work)
    wanted = {key_of(row["asks"]): row["asks"] for row in rows if row.get("asks")}
    return {key: asks for key, asks in wanted.items() if key not in known}


def complete(work: Path, rows: Iterable[dict], card: str) -> dict[str, Any]:
    """Return the predictions of all rows; those that are missing are counted and written."""
    known = read(work)
    for key, asks in missing(work, rows).items():
        try:
            known[key] = figure(asks, card)
        except Exception as error:  # a figure without its prediction is still a figure
            known[key] = f"{NONE}: {sentence(error)}"
        append_line(work / FILE, {"asks": key, "value": known[key]}, sync=False)
    return known


def main() -> None:
    """Predict the figures of a folder."""
    from benchmarks.gpu_bench.summary import rows_of

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--card", default="H100")
    options = parser.parse_args()
    complete(options.work, rows_of(options.work), options.card)


if __name__ == "__main__":
    main()
