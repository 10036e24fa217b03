"""What the starts of the initialisation study cost, from the records of its cells (cell.json)."""

from pathlib import Path

import pandas as pd

from cinelab.config import read_mapping
from cinelab.errors import CinelabError
from cinelab.lab.reports.verdicts import Look, about_times
from cinelab.lab.reports.withdrawn import EDITION, edition_of, with_edition, withdrawn
from cinelab.lab.studies.initialisation_starts import INITS

STUDY = "initialisation"
CHEAPER = 3.0  # times that causal ODE is to take, for "about a quarter"


def init_cells(*sweeps: str | Path) -> pd.DataFrame:
    """What every finished cell records (cell.json): a row a cell, by start and seed."""
    paths = [path for sweep in sweeps for path in sorted(Path(sweep).glob("*/cell.json"))]
    if not paths:
        raise CinelabError(
            f"{sweeps[0]} holds no finished cell; run `cinelab sweep "
            "experiments/initialisation.yaml` first."
        )
    cells = pd.DataFrame(
        [
            read_mapping(path, init=str, seed=int, edition=float | None, protocol=float | None)
            for path in paths
        ]
    )
    order = cells["init"].map(lambda name: INITS.index(name) if name in INITS else len(INITS))
    return (
        with_edition(cells)
        .assign(order=order)
        .sort_values(["order", "seed"], ignore_index=True)
        .drop(columns="order")
    )


def init_costs(cells: pd.DataFrame) -> pd.DataFrame:
    """What each initialisation took: means over its trainings, how many these are, and what they
    share.

    Seconds are of one machine at one hour, whatever else ran on it; `init_turns` compares.
    """
    numbers = [c for c in cells if "seconds" in c or "bytes" in c or c == "clips seen"]
    costs = cells.groupby("init", sort=False)[numbers].mean()
    costs.insert(0, "seconds before DMD", costs["stage 2 seconds"] + costs["pairs seconds"])
    counts = cells.groupby("init", sort=False).agg(
        trainings=("seed", "nunique"), edition=("edition", "min")
    )
    shared = cells["shared"] if "shared" in cells else pd.Series(None, cells.index)
    common = shared.map(_together).groupby(cells["init"], sort=False).first()
    return costs.round(1).join(counts).join(common.rename("shared")).reset_index()


def _together(shared: list[str] | None) -> str:
    return "not recorded" if not isinstance(shared, list) else ", ".join(shared) or "nothing"


def init_turns(cells: pd.DataFrame) -> pd.DataFrame:
    """Seconds of causal ODE (pairs included) and of consistency at equal clips, measured by turns.

    A row a turn: seed, edition, causal_ode, consistency, ratio. Cells without turns give none.
    """
    rows = []
    for cell in cells.to_dict("records"):
        for turn in cell["turns"] if isinstance(cell.get("turns"), list) else ():
            rows.append((cell["seed"], cell["edition"], turn["causal_ode"], turn["consistency"]))
    turns = pd.DataFrame(rows, columns=["seed", "edition", "causal_ode", "consistency"])
    return turns.assign(ratio=turns.causal_ode / turns.consistency)


def cheaper(cells: pd.DataFrame) -> Look:
    """Does consistency cost about a quarter of causal ODE's time?"""
    claim = f"causal_ode takes {CHEAPER:g} times consistency's seconds or more, at equal clips"
    turns = init_turns(cells)
    turns = _unlike(cells) if turns.empty else turns
    old = withdrawn(STUDY, ("cost",), edition_of(turns)) if len(turns) else ""
    ratios = turns.ratio.tolist()
    seeds = turns.seed.tolist()
    return about_times(claim, ratios, seeds, margin=CHEAPER, withdrawn=old)


def _unlike(cells: pd.DataFrame) -> pd.DataFrame:
    """Ratios of seconds by seed as old cells have them: at unequal clips, and not by turns."""
    old = cells[cells.edition < EDITION[STUDY]]
    whole = old.assign(whole=old["stage 2 seconds"] + old["pairs seconds"])
    table = whole.pivot_table(index="seed", columns="init", values="whole")
    table = table.reindex(columns=["causal_ode", "consistency"]).dropna()
    ratio = table.causal_ode / table.consistency
    return pd.DataFrame({"ratio": ratio, "edition": 1.0}).reset_index(names="seed")
