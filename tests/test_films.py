"""Cells of whole films: the same films as the cards', files that reports read, and refusals that
name the remedy."""

import json

import numpy as np
import pandas as pd
import pytest

from cinelab.errors import CinelabError
from cinelab.lab.reports.cards import benchmark_table, markdown
from cinelab.lab.reports.report import film_uri
from cinelab.lab.reports.sweep_cells import load_cells
from cinelab.lab.reports.sweep_table import pooled
from cinelab.lab.studies.film_cell import FilmSetting, film_cell, listed
from cinelab.memory.cache import KVCache
from cinelab.memory.passes import Written
from cinelab.memory.policy import Full, Window
from cinelab.metrics.card import HELD_OUT
from cinelab.metrics.toybox.attributes import with_prompt
from cinelab.metrics.video.cuts import CutDetector
from cinelab.stream.video import write_mp4
from cinelab.world.worlds import world_named


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    for policy in ("full", "window"):
        film_cell(
            folder / policy,
            FilmSetting("toybox-1step", policy, latents=9, shot_latents=(3, 3), films=3, budget=3),
        )
    return folder


def test_a_cell_holds_what_a_report_reads(cells):
    made = {path.name for path in (cells / "full").iterdir()}
    assert made == {"rows.parquet", "cell.json", "film.mp4", "film.shots.json", "storyboard.png"}
    told = json.loads((cells / "full" / "cell.json").read_text())
    assert (
        told["setting"]["policy"] == "full"
        and told["speed"]["chunks"] == 9
        and told["speed"]["frames_per_second"] > 0
    )
    rows = pd.read_parquet(cells / "full" / "rows.parquet")
    assert set(rows["source"]) == {"model", "truth", "chance"} and set(rows["clip"]) == {
        "0000",
        "0001",
        "0002",
    }
    assert set(rows[rows["source"] == "model"]["metric"]) >= {
        "action",
        "identity",
        "cut accuracy",
        "temporal flickering",
        "drift of contrast",
    }


def test_a_window_sees_less_memory_than_full_attention(cells):
    seen = [
        json.loads((cells / name / "cell.json").read_text())["speed"]["kv_mib"]
        for name in ("full", "window")
    ]
    assert seen[0] == pytest.approx(3 * seen[1], rel=0.01)  # 9 chunks against 3


def test_cells_run_by_hand_can_be_reported_too(cells):
    found = load_cells(cells)
    assert found.varied == ["policy"] and set(pooled(found, ["prompt"])["policy"]) == {
        "full",
        "window",
    }


def test_settings_that_cannot_be_measured(tmp_path):
    with pytest.raises(
        CinelabError, match="grain is 1, but toybox-chunk-4step makes 3 latent frames"
    ):
        film_cell(tmp_path, FilmSetting("toybox-chunk-4step", latents=6, films=2))
    with pytest.raises(CinelabError, match="films is 1"):
        film_cell(tmp_path, FilmSetting("toybox-1step", latents=6, films=1))
    assert not any(tmp_path.iterdir())


def test_retrieved_bytes_grow_with_full_attention_only():
    import torch

    for policy, wanted in ((Full(), 5), (Window(window=2), 2)):
        memory = KVCache(policy, 1, 8)
        for chunk in range(5):
            clean = memory.open(chunk, torch.zeros(1, dtype=torch.long)).record()
            clean.written[0] = Written(torch.zeros(1, 4, 2, 8), torch.zeros(1, 4, 2, 8), None)
            memory.append(clean)
        assert memory.retrieved_bytes() == wanted * 2 * 4 * 2 * 8 * 4


def test_a_planned_film_is_listed_with_its_whole_truth():
    plan = world_named().cast_film(HELD_OUT, 0, 24, shot_latents=(3, 6))
    shots = listed(plan)
    assert shots.frames == 47 and shots.shots[0].shows == plan.shots[0].attributes
    assert shots.cuts == world_named().timeline(plan).cuts and len(shots.chunks) == 24


def test_the_cut_detector_looks_as_long_at_any_rate():
    assert CutDetector.at(8) == CutDetector() == CutDetector.at(4)
    assert CutDetector.at(24).window == 3 * CutDetector().window


def test_large_films_are_embedded_small(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (40, 96, 128, 3), dtype=np.uint8)
    write_mp4(tmp_path / "film.mp4", frames, 8, 2)
    assert len(film_uri(tmp_path / "film.mp4")) < (tmp_path / "film.mp4").stat().st_size / 2


def test_the_benchmark_table_has_truth_chance_and_every_system(tmp_path):
    rows = [
        (seed, film, "identity after 5 away", value, source)
        for seed in (0, 1)
        for film in range(4)
        for value, source in ((0.7, "model"), (1.0, "truth"), (0.25, "chance"))
    ]
    rows += [
        (seed, film, name, 1.0, "model")
        for seed in (0, 1)
        for film in range(4)
        for name in ("action", "setting")
    ]
    pd.DataFrame(rows, columns=["seed", "film", "metric", "value", "source"]).to_parquet(
        tmp_path / "one.parquet"
    )
    table = benchmark_table(["one"], tmp_path).set_index("system")
    assert list(table.index) == ["ground truth", "chance", "one"]
    assert table.loc["one", "identity (away=5)"].startswith("0.700") and table.loc[
        "one", "prompt"
    ].startswith("1.000")
    assert markdown(table.reset_index()).splitlines()[1].startswith("| --- |")
    with pytest.raises(CinelabError, match="cinelab score two"):
        benchmark_table(["one", "two"], tmp_path)


def test_prompt_is_added_once():
    rows = pd.DataFrame({"metric": ["action", "setting", "cuts"], "value": [0.0, 1.0, 0.3]})
    once = with_prompt(rows)
    assert once[once["metric"] == "prompt"]["value"].tolist() == [0.0, 1.0] and len(
        with_prompt(once)
    ) == len(once)
