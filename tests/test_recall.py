"""The memory sweep's report on rows whose answer is known: claims hold when they should and fail when they should."""

import numpy as np
import pandas as pd
import pytest

from cinelab.errors import CinelabError
from cinelab.lab.recall import claims, recall_figure, sweep_rows, sweep_table

TRUE = {"full": 0.9, "camr": 0.88, "random": 0.5, "sink": 0.35, "window": 0.26}


def rows(true: dict[str, float], films: int = 150) -> pd.DataFrame:
    """Rows of one absence and budget; a film's luck is the same under every policy."""
    luck = np.random.default_rng(0).random((3, films, 3))
    parts = []
    for policy, share in true.items():
        for source, level in (("model", share), ("truth", 0.99), ("chance", 0.25)):
            seed, film, _ = np.indices(luck.shape)
            parts.append(pd.DataFrame({"seed": seed.ravel(), "film": film.ravel(), "value": (luck < level).ravel() * 1.0,
                                       "policy": policy, "source": source}))
    return pd.concat(parts).assign(metric="identity", budget=5, away=5, history=21)


def test_claims_hold_when_they_are_true():
    verdict = claims(rows(TRUE), away=5, budget=5)
    assert verdict.holds.all() and len(verdict) == 5
    assert "24 %" in verdict.claim[2] and "n=450" in verdict.measured[0]


@pytest.mark.parametrize(("policy", "share", "failed"), [
    ("full", 0.7, [0]), ("window", 0.45, [1]), ("camr", 0.5, [2, 3]), ("sink", 0.87, [4]),
])
def test_a_claim_that_fails_is_reported(policy, share, failed):
    verdict = claims(rows(TRUE | {policy: share}), away=5, budget=5)
    assert set(failed) <= set(np.flatnonzero(~verdict.holds))


def test_the_table_pools_seeds():
    table = sweep_table(rows(TRUE)).set_index(["policy", "source"])
    assert table.loc[("full", "model"), "value"] == pytest.approx(0.9, abs=0.03)
    assert table.loc[("full", "model"), "low"] < 0.9 < table.loc[("full", "model"), "high"]


def test_the_figure_has_a_line_for_every_policy():
    names = {trace.name for trace in recall_figure(rows(TRUE)).data}
    assert set(TRUE) <= names


def test_missing_cells_are_named(tmp_path):
    with pytest.raises(CinelabError, match="no 'sink' at away=5"):
        claims(rows({name: 0.5 for name in TRUE if name != "sink"}), 5, 5)
    with pytest.raises(CinelabError, match="holds no measured cell"):
        sweep_rows(tmp_path)
