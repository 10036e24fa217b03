"""Notebooks, their parameters and sweep files under earlier names.

A sweep file or a command that names one is answered with the name of today. A result that was made
under an earlier name opens in reports under today's, and still counts as done.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cinelab.errors import CinelabError

if TYPE_CHECKING:
    import pandas as pd

NOTEBOOKS = {
    "03_your_own": "03_extend",
    "06_video_data": "04_video_data",
    "08_codec": "10_codec",
    "07_recogniser": "11_recogniser",
    "09_bidirectional": "12_bidirectional",
    "10_teacher_forcing": "13_teacher_forcing",
    "11_causal_ode": "14_causal_ode",
    "12_consistency": "15_consistency",
    "13_dmd": "16_dmd",
    "bench_wan": "53_bench_wan",
    "32_evaluate": "60_evaluate",
    "50_report": "61_report",
}
SWEEPS = {"reach": "max_distance"}
# parameters that are entries of `changes` now
IN_CHANGES = {
    "50_wan_film": (
        "budget",
        "steps",
        "first",
        "overlap",
        "fused",
        "chunk",
        "size",
        "codec",
        "place",
        "packing",
        "linears",
        "compiled",
    ),
    "51_train_wan": (
        "dtype",
        "teacher",
        "store_kind",
        "lora_rank",
        "processes",
        "parts",
        "sequence",
        "activation_checkpointing",
    ),
    "53_bench_wan": (
        "history",
        "budget",
        "repeats",
        "layers",
        "kernel",
        "linears",
        "compiled",
        "place",
        "packing",
        "decoder",
        "options",
    ),
}
ENTRIES = {"parts": "micro_batches"}  # of those, the ones with another name there
# parameters with another name: notebook -> old name -> new name, its values old -> new
DISTANCES = {"clamp": "trained", "none": "none"}
PARAMETERS = {"20_ablate_memory": {"reach": ("max_distance", DISTANCES)}}


def current(name: str) -> str:
    """The file name that a notebook has now, given the one it had."""
    path = Path(str(name))
    return NOTEBOOKS.get(path.stem, path.stem) + path.suffix


def remedy(path: str | Path, otherwise: str) -> str:
    """What to do about a notebook that is not there: its name of today, or `otherwise`."""
    name = Path(path).name
    return otherwise if current(name) == name else f"it is called {current(name)} now"


def moved(notebook: str, name: str) -> str:
    """Where an earlier parameter of a notebook (its name without ending) went, "" if it had none.

    The answer is the end of a sentence.
    """
    if name in IN_CHANGES.get(notebook, ()):
        entry = ENTRIES.get(name, name)
        return f'it is an entry of changes now: changes = {{"{entry}": ...}}'
    if name not in PARAMETERS.get(notebook, {}):
        return ""
    new, values = PARAMETERS[notebook][name]
    changed = ", ".join(f"{old} is {now}" for old, now in values.items() if old != now)
    return f"it is called {new} now, and {changed} there"


def refuse(notebook: str, names: Iterable[str]) -> None:
    """Raise CinelabError where `names`, a notebook's globals before its first assignment, hold an
    earlier parameter: papermill passes on what a notebook does not declare."""
    for name in names:
        if remedy := moved(notebook, name):
            raise CinelabError(f"{notebook} has no parameter {name!r}; {remedy}.")


def settings(values: dict[str, Any]) -> dict[str, Any]:
    """The settings of a cell under today's names and values."""
    found = dict(values)
    for old, new, meanings in _renamed_settings():
        if old in found and _all_known([found[old]], meanings):
            found = {
                (new if name == old else name): (meanings[value] if name == old else value)
                for name, value in found.items()
            }
    return found


def columns(rows: "pd.DataFrame") -> "pd.DataFrame":
    """The rows of a cell, whose settings are columns, under today's names and values."""
    for old, new, meanings in _renamed_settings():
        if old in rows and _all_known(rows[old].unique(), meanings):
            rows = rows.assign(**{old: rows[old].map(meanings)}).rename(columns={old: new})
    return rows


def _renamed_settings() -> Iterator[tuple[str, str, dict[str, str]]]:
    for table in PARAMETERS.values():
        for old, (new, meanings) in table.items():
            yield old, new, meanings


def _all_known(values: Iterable[Any], meanings: dict[str, str]) -> bool:
    """Whether all values are of the renamed setting, and not of another one of the same name."""
    return all(isinstance(value, str) and value in meanings for value in values)
