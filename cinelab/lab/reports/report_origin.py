"""Where a report's numbers come from: commands, notebooks, revisions, machines."""

from pathlib import Path

import pandas as pd

from cinelab.lab.reports.origin import short_revision
from cinelab.lab.reports.sweep_cells import Cells
from cinelab.lab.sweeps.sweep import made_cells, recorded

NOT_RECORDED = "not recorded"


def provenance(cells: Cells) -> dict[str, str]:
    """Where the numbers come from."""

    def seen(column: str) -> str:
        return (
            ", ".join(
                f"{value:g}" if isinstance(value, float) else str(value)
                for value in dict.fromkeys(cells.table[column].dropna())
            )
            or NOT_RECORDED
        )

    seconds = cells.table["seconds"].dropna()
    memory = cells.table["peak_memory_mb"].dropna()
    return {
        "made by": " ; ".join(makers(cells, folder) for folder in cells.folders),
        "notebook": seen("notebook"),
        "git revision": seen_revisions(cells),
        "hardware": f"{seen('device')}, {seen('cores')} cores",
        "torch": seen("torch"),
        "versions": seen("versions"),
        "seeds": ", ".join(map(str, sorted(set(cells.rows["seed"])))),
        "time": f"{seconds.sum() / 60:.0f} min in all, {seconds.median():.0f} s a cell (median)"
        if len(seconds)
        else NOT_RECORDED,
        "peak memory": f"{memory.max():.0f} MiB" if len(memory) else NOT_RECORDED,
    }


def seen_revisions(cells: Cells) -> str:
    """The revisions of the code that the cells were made by, in full, and whether files were
    changed."""
    texts = [
        git.replace("-dirty", " and changes that are not committed")
        for git in dict.fromkeys(cells.table["git"].dropna())
    ]
    return ", ".join(texts) or NOT_RECORDED


def made_by(folder: Path) -> str:
    """The commands that made a sweep's cells, each with the start of its file's SHA-256, as the
    sweep recorded them."""
    runs = [run_text(run) for run in recorded(folder)]
    return (
        ", ".join(runs)
        or f"{folder}: {NOT_RECORDED} (cells run by hand, or by a version that kept no record)"
    )


def makers(cells: Cells, folder: Path) -> str:
    """What made the cells of a folder: every command, and how many of them; where the record names
    no cells, the commands alone."""
    if not made_cells(folder):
        return made_by(folder)
    here = [cell for cell in cells.table.to_dict("records") if Path(cell["path"]).parent == folder]
    counts = pd.Series([maker_of(cell) for cell in here]).value_counts(sort=False)
    return ", ".join(
        f"{maker}: {count} cell{'s' * (count != 1)}" for maker, count in counts.items()
    )


def run_text(run: dict) -> str:
    return run.get("command", NOT_RECORDED) + (
        f" (file {run['sha256'][:12]})" if run.get("sha256") else ""
    )


def maker_of(cell: dict) -> str:
    """The command that made one cell; of a folder whose record names no cells, nothing is claimed
    of a single one."""
    folder = Path(cell["path"]).parent
    number = made_cells(folder).get(cell["cell"], -1)
    runs = recorded(folder)
    return run_text(runs[number]) if 0 <= number < len(runs) else NOT_RECORDED


def run_table(cells: Cells) -> pd.DataFrame:
    """A row a cell: what it is, what it cost, and the command, notebook and revision that made
    it."""
    columns = [
        "sweep",
        "cell",
        "status",
        "seconds",
        "peak_memory_mb",
        "notebook",
        "git",
        *["detail"] * bool(cells.table["detail"].any()),
    ]
    makers = [maker_of(cell) for cell in cells.table.to_dict("records")]
    notebooks = cells.table["notebook"].fillna(NOT_RECORDED)
    git = cells.table["git"].map(short_revision).replace("", NOT_RECORDED)
    return cells.table[columns].assign(notebook=notebooks, git=git, **{"made by": makers})
