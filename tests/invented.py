"""Tiny invented cells, for tests of what reads a sweep."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from cinelab.files import write_json
from cinelab.lab.reports.withdrawn import EDITION
from cinelab.lab.studies.initialisation_costs import STUDY
from cinelab.lab.studies.initialisation_study import CONSISTENCY, MEASURED, STAGES
from cinelab.metrics.rows import clip_of, save_rows

INITS = ("none", "bidirectional_ode", "causal_ode", *CONSISTENCY)


def initialisation_cells(folder: Path) -> Path:
    """Write cells of the initialisation study under its present edition; returns the folder."""
    rng = np.random.default_rng(0)
    for init, seed in itertools.product(INITS, (0, 1)):
        cell = folder / f"{init}-{seed}"
        about = {"init": init, "seed": seed, "edition": EDITION[STUDY]}
        parts = [films(rng, *key) for key in itertools.product(MEASURED, STAGES)]
        save_rows(pd.concat(parts, ignore_index=True).assign(**about), cell / "rows.parquet")
        cost = {"stage 2 seconds": 1.0, "pairs seconds": 2.0, "stored bytes": 10, "clips seen": 8}
        turns = {"turns": [{"causal_ode": 3.0 + seed, "consistency": 2.0}]}
        more = turns if init == "consistency_equal_seconds" else {}
        write_json(cell / "cell.json", about | cost | more)
    return folder


def films(rng: np.random.Generator, label: str, stage: str) -> pd.DataFrame:
    """Rows of four films."""
    metric, _, rest = label.partition(" (")
    values = {"clip": [clip_of(film) for film in range(4)], "value": rng.random(4)}
    about = {"metric": metric, "protocol": rest.rstrip(")"), "backend": "", "shot": 0}
    return pd.DataFrame(values | about | {"source": "model", "status": "ok", "steps": 1}).assign(
        stage=stage
    )
