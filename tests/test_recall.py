"""The memory sweep's report on rows whose answer is known: claims are decided when they should be,
and only then."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cinelab.errors import CinelabError
from cinelab.lab.studies import memory_cell as ablation
from cinelab.lab.studies.memory_study import (
    claims,
    keep_raw_rows,
    recall_figure,
    sweep_rows,
    sweep_table,
)

TRUE = {"full": 0.9, "camr": 0.88, "random": 0.5, "sink": 0.35, "window": 0.26}


def rows(true: dict[str, float], films: int = 60) -> pd.DataFrame:
    """Rows of one absence and budget; a film's luck is the same under every policy."""
    luck = np.random.default_rng(0).random((3, films, 3))
    parts = []
    for policy, share in true.items():
        for source, level in (("model", share), ("truth", 0.99), ("chance", 0.25)):
            seed, film, _ = np.indices(luck.shape)
            parts.append(
                pd.DataFrame(
                    {
                        "seed": seed.ravel(),
                        "film": film.ravel(),
                        "value": (luck < level).ravel() * 1.0,
                        "policy": policy,
                        "source": source,
                    }
                )
            )
    return pd.concat(parts).assign(metric="identity", budget=5, away=5, history=21)


def test_claims_hold_when_they_are_true():
    verdict = claims(rows(TRUE), away=5, budget=5)
    assert (verdict.verdict == "confirmed").all() and len(verdict) == 6
    assert "24 %" in verdict.claim[2] and (verdict.films == 180).all()


@pytest.mark.parametrize(
    ("policy", "share", "failed"),
    [
        ("full", 0.7, [0]),
        ("window", 0.45, [1]),
        ("camr", 0.5, [2, 3, 4]),
        ("sink", 0.93, [5]),
    ],
)
def test_a_claim_that_fails_is_refuted(policy, share, failed):
    verdict = claims(rows(TRUE | {policy: share}), away=5, budget=5).verdict
    assert set(failed) <= set(np.flatnonzero(verdict != "confirmed"))
    assert verdict[failed[0]] == "refuted"


def test_a_point_estimate_decides_nothing():
    table = claims(rows(TRUE | {"camr": 0.875}, films=12), away=5, budget=5)
    kept = table.loc[2]
    assert kept.value > 0.95 > kept.low and kept.verdict.startswith("undecided")


def test_every_absence_that_was_looked_at_counts():
    one = rows(TRUE)
    more = pd.concat([one, *(one.assign(away=away) for away in (1, 9))])
    alone, together = (claims(table, 5, 5) for table in (one, more))
    assert together.p.tolist() == alone.p.tolist()
    assert (together["corrected p"] >= 2 * alone["corrected p"]).any()


def test_cells_of_several_settings_are_not_one_claim():
    both = pd.concat([rows(TRUE).assign(max_distance=name) for name in ("trained", "none")])
    with pytest.raises(CinelabError, match="differ in 'max_distance' too"):
        claims(both, 5, 5)
    assert len(claims(both[both.max_distance == "none"], 5, 5)) == 6


def test_raw_rows_are_kept_small(tmp_path):
    kept = keep_raw_rows(rows(TRUE), tmp_path / "rows.parquet")
    pd.testing.assert_frame_equal(
        pd.read_parquet(kept).astype({"policy": object, "source": object, "metric": object}),
        rows(TRUE).reset_index(drop=True),
        check_dtype=False,
    )


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


def test_the_shipped_claims_follow_from_the_shipped_rows():
    kept = Path(__file__).parents[1] / "results" / "reference"
    found = claims(pd.read_parquet(kept / "memory_claims_rows.parquet"), away=5, budget=5)
    shipped = pd.read_csv(kept / "memory_claims.csv")
    assert found.verdict.tolist() == shipped.verdict.tolist()
    assert found.value.tolist() == pytest.approx(shipped.value.tolist(), abs=1e-4)


@pytest.mark.parametrize("max_distance, farthest", [("trained", 23), ("none", None)])
def test_max_distance_places_far_history(max_distance, farthest, monkeypatch, tmp_path):
    asked = []
    made = ablation.make_frames
    monkeypatch.setattr(
        ablation,
        "make_frames",
        lambda bundle, *more: asked.append(bundle.max_distance) or made(bundle, *more),
    )
    ablation.memory_cell(tmp_path, "toybox-1step", "window", 3, 1, 0, 2, max_distance=max_distance)
    assert asked == [farthest]
