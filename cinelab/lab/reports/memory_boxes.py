"""The five boxes of every setting of a sweep, for its report."""

import pandas as pd

from cinelab.lab.reports.sweep_cells import Cells
from cinelab.metrics.memory_card import BOXES, box_lines, memory_card
from cinelab.metrics.metric import LABEL, metric_of
from cinelab.metrics.toybox.paired_histories import PAIRS
from cinelab.world.worlds import WORLDS, world_named

TITLE = "Five boxes of memory"


def box_table(cells: Cells) -> pd.DataFrame:
    """A row for every setting and distance at which pairs of histories were made: the verdict and
    the five boxes; empty where none were."""
    rows = cells.rows[cells.rows["metric"].str.startswith(PAIRS)]
    if rows.empty:
        return pd.DataFrame()
    stated = [one["recogniser"] for one in cells.table["info"] if "recogniser" in one]
    accuracy = stated[0] if stated else {}
    names = {name for world in WORLDS for name in world_named(world).identity}
    groups = cells.rows.groupby(cells.varied, sort=False) if cells.varied else [((), cells.rows)]
    found = []
    for key, part in groups:
        setting = dict(zip(cells.varied, key, strict=True))
        lines = box_lines(memory_card(with_protocols(part), accuracy, names))
        found += [
            setting | dict(zip(("claim", "memory", *BOXES), line, strict=True)) for line in lines
        ]
    return pd.DataFrame(found)


def with_protocols(rows: pd.DataFrame) -> pd.DataFrame:
    """Labelled rows with their metric and protocol in columns of their own again."""
    parts = [LABEL.fullmatch(label) for label in rows["metric"]]
    protocols = [match["rest"] if match else "" for match in parts]
    names = rows["metric"].map(metric_of)
    return rows.assign(metric=names, protocol=protocols, status="ok")
