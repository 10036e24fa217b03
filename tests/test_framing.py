"""The figure's centre is read where it stands, wherever that is; a figure that slides to the edge
raises the framing metrics, and one that is not there counts as at the edge; the study of the
adversarial head is resumable and its claims follow the rows."""

import numpy as np
import pandas as pd
import pytest

from cinelab.errors import CinelabError
from cinelab.lab.studies import framing_cell as cell
from cinelab.lab.studies import framing_study as study
from cinelab.metrics.metric import METRICS
from cinelab.metrics.rows import Row, row_table
from cinelab.metrics.toybox import framing
from cinelab.world.worlds import world_named

UNSEEN = 950_000
WORLD = world_named("toybox-1")


@pytest.fixture(scope="module")
def films():
    return list(framing.true_films(WORLD, UNSEEN, 6))


def shifted(frames, pixels):
    """Frames (F, H, W, 3) moved to the right, their first column repeated."""
    moved = np.roll(frames, pixels, axis=2)
    moved[:, :, :pixels] = frames[:, :, :1]
    return moved


def measured(frames, films):
    rows = framing.framing_rows(frames, [film.plan for film in films])
    return row_table(rows).groupby("metric").value.mean()


def test_the_centre_is_the_boxs_on_films_that_were_not_learnt_from(films):
    error = framing.locating_error(films)
    assert not np.isnan(error).any()
    assert np.abs(error).mean() < 0.03 and (np.abs(error) > 0.1).mean() < 0.02


def test_the_reader_has_no_preference_for_the_middle(films):
    wide = films[0].frames.shape[2]
    away = []
    for film in films:
        for frames, attributes in framing.entries_of(film):
            left, right = film.boxes[frames][:, [0, 2]].T
            true = np.minimum(left + wide // 4, wide) + np.minimum(right + wide // 4, wide)
            moved = shifted(film.frames[frames], wide // 4)
            found = framing.locator(WORLD.name).centres(moved, attributes)
            away += (found - true / 2 / wide).tolist()
    assert np.abs(away).mean() < 0.05


def test_true_films_hold_their_figures_and_sliding_ones_do_not(films):
    true = measured(np.stack([film.frames for film in films]), films)
    assert true["framing offset"] < 0.08 and true["at the edge"] == 0
    assert abs(true["framing drift"]) < 0.03
    sliding = []
    for film in films:
        wide = film.frames.shape[2]
        parts = [
            shifted(film.frames[frames], min(wide // 2 - 2, number * wide // 8))
            for number, (frames, _) in enumerate(framing.entries_of(film))
        ]
        sliding.append(np.concatenate(parts))
    slid = measured(np.stack(sliding), films)
    assert slid["framing offset"] > 2 * true["framing offset"]
    assert slid["framing drift"] > 0.05 and slid["at the edge"] > 0


def test_a_figure_that_is_not_there_is_at_the_edge(films):
    shot = films[0].plan.shots[0].attributes
    sky = np.broadcast_to(films[0].frames[:, :1, :1], films[0].frames.shape)
    empty = sky[slice(*framing.spans_of(films[0].plan)[0])]
    assert np.isnan(framing.locator(WORLD.name).centres(empty, shot)).all()
    assert framing.offsets_of(np.array([np.nan, 0.5, 0.1])).tolist() == [0.5, 0.0, 0.4]
    gone = measured(sky[None], films[:1])
    assert gone["at the edge"] == 1 and gone["framing offset"] == 0.5
    unknown = shot | {"colour": "no colour"}
    assert np.isnan(framing.locator(WORLD.name).centres(films[0].frames, unknown)).all()


def test_drift_is_over_the_appearances_of_one_character(films):
    plan = films[0].plan
    numbers = list(range(len(plan.shots)))
    for values in framing.appearances(plan, numbers):
        shots = [plan.shots[number] for number in values]
        assert len(shots) > 1 and len({shot.character for shot in shots}) == 1
        assert not any(shot.continues for shot in shots)
    assert framing.slope([0.0, 0.1, 0.2]) == pytest.approx(0.1)


def test_the_metrics_are_listed_with_chance_and_bound_and_logged():
    logged = {one.name for one in METRICS.validated()}
    wanted = {"identity above chance", "diversity of identity", "identity", "motion"}
    assert {*study.FRAMING, *wanted} <= logged
    assert all(METRICS.of(name).chance and METRICS.of(name).upper for name in study.FRAMING)
    assert not {*study.FRAMING} & {one.name for one in METRICS.validated(selects=True)}


# The study


def rows_of(offsets, seeds=3, films=8):
    """Made-up rows: (head, updates) -> the mean framing offset."""
    rng = np.random.default_rng(0)
    parts = []
    for (head, updates), offset in offsets.items():
        for seed in range(seeds):
            values = offset + 0.01 * rng.standard_normal(films)
            some = [
                Row(f"{film}", 1, "framing offset", value, backend="toybox")
                for film, value in enumerate(values)
            ]
            parts.append(row_table(some).assign(head=head, seed=seed, updates=updates))
    return pd.concat(parts, ignore_index=True)


def test_a_head_that_holds_the_figure_is_confirmed_and_one_that_does_not_is_refuted():
    rows = rows_of({("none", 0): 0.05, ("none", 9): 0.2, ("teacher", 9): 0.06, ("data", 9): 0.3})
    claims = study.framing_claims(rows).set_index("claim").verdict
    assert claims["without a head, framing offset grows over 9 updates"] == "confirmed"
    assert claims["the head (teacher) lowers framing offset after 9 updates"] == "confirmed"
    assert claims["the head (data) lowers framing offset after 9 updates"] == "refuted"
    assert claims["the head (data) lowers framing drift after 9 updates"] == "not measured"
    single = study.framing_claims(rows[rows.seed == 0]).verdict
    assert not {"confirmed", "refuted"} & set(single)
    with pytest.raises(CinelabError, match="no measured student"):
        study.framing_claims(rows.assign(source="truth"))


def test_a_cell_that_was_stopped_measures_what_is_missing_and_no_more(tmp_path, monkeypatch):
    made = []

    def measure(bundle, reader, seed, **sizes):
        made.append(1)
        weight = float(next(bundle.model.parameters()).sum())
        return row_table([Row("0", 1, "motion", weight)])

    monkeypatch.setattr(cell, "measure_student", measure)
    monkeypatch.setattr(cell, "true_rows", lambda *given: row_table([]))
    monkeypatch.setattr(cell, "locating_error", lambda films: np.zeros(1))
    given = {"updates": 2, "every": 1, "preset": "smoke", "changes": {"gan.clips": 1}}
    store = tmp_path / "store"
    rows = cell.framing_cell(tmp_path / "whole", store, "teacher", **given)
    assert rows.updates.tolist() == [0, 1, 2] and len(made) == 3
    assert rows.value.nunique() == 3  # each measurement is of other weights
    (tmp_path / "whole" / "measured" / "00002.parquet").unlink()
    again = cell.framing_cell(tmp_path / "whole", store, "teacher", **given)
    assert len(made) == 4
    pd.testing.assert_frame_equal(rows, again)
    with pytest.raises(CinelabError, match="head is 'both'; use one of none, teacher, data"):
        cell.framing_cell(tmp_path / "other", store, "both", **given)
