"""The benchmark at the papers' size, on a very small one: it measures what it says."""

from dataclasses import replace

import pytest
import torch

from cinelab.bench.wan_options import measure_options, options, speed_options
from cinelab.bench.wan_speed import (
    Maker,
    WanBench,
    measure_chunks,
    overhead,
    overlap_rates,
    random_history,
    random_model,
)
from cinelab.errors import CinelabError
from cinelab.memory.store import Storage
from cinelab.scale.acceleration import Speed

SMALL = WanBench(
    "small",
    "frame-2step",
    (32, 48),
    layers=1,
    policies=("camr", "window"),
    budget=3,
    summary=2,
    history=(4, 8),
    repeats=1,
    words=4,
)


def test_a_row_a_policy_and_history_and_the_first_chunk():
    table = measure_chunks(SMALL, decode=lambda latents, state: (latents, (state or 0) + 1))
    assert table["policy"].tolist() == ["first", "camr", "camr", "window", "window"] and table[
        "history"
    ].tolist() == [0, 4, 8, 4, 8]
    later = table[table["policy"] != "first"]
    assert (later[["dit s", "memory s", "chunk s", "frames/s"]] > 0).all().all() and table[
        "first frame s"
    ].iloc[0] > 0
    assert (later["chunk s"] - later["dit s"] - later["memory s"]).abs().max() < 1e-9
    found = overhead(table)
    assert set(found.index) == {"camr", "window"} and found.loc["camr"].notna().all()


def test_layers_that_stand_for_more_are_scaled():
    assert SMALL.scaled == 4 and replace(SMALL, layers=None).scaled == 1
    assert (
        WanBench("wan-14b", layers=2).config.num_layers == 2
        and WanBench("wan-14b", layers=2).scaled == 20
    )


def test_a_filled_history_is_like_one_that_was_made():
    memory = random_history(SMALL, SMALL.policy("camr"), 5, "cpu")
    assert memory.length == memory.frames_done == 5 and memory.page_shots.shape == (1, 5)
    assert (memory.summaries[0].done, memory.summaries[0].tokens) == (5, 2)
    Maker.of(SMALL, "cpu").chunk(memory)
    assert memory.length == 6 and memory.summaries[0].done == 6


def test_a_random_model_is_kept_as_a_published_one():
    model = random_model(SMALL.config, "cpu")
    assert (
        model.proj_out.weight.dtype == torch.bfloat16
        and model.scale_shift_table.dtype == torch.float32
    )
    assert not any(part.is_meta or part.requires_grad for part in model.parameters())


def test_decoding_one_after_the_other_and_at_once():
    found = overlap_rates(Maker.of(SMALL, "cpu"), lambda latents, state: (latents, None), chunks=4)
    assert found["times"] == pytest.approx(found["at once"] / found["one after the other"])


def test_every_option_has_its_line(monkeypatch):
    names = set(options(SMALL))
    assert {
        "compiled blocks",
        "kernel sdpa",
        "history in host memory",
        "history int8",
        "history fp8",
        "clean pass fused",
    } <= names
    few = {
        name: setting
        for name, setting in options(SMALL).items()
        if name in ("history int8", "history in host memory", "clean pass fused")
    }
    monkeypatch.setattr("cinelab.bench.wan_options.options", lambda bench: few)
    table = measure_options(SMALL, units=4).set_index("option")
    assert table["way"].to_dict() == {
        "history in host memory": "exact",
        "history int8": "fast",
        "clean pass fused": "exact",
    }
    assert (table["times as fast"] > 0).all() and (
        table["times as fast"] - table["plain s"] / table["chunk s"]
    ).abs().max() < 1e-9
    assert (
        table.loc["history int8", "history MiB"]
        < 0.6 * table.loc["clean pass fused", "history MiB"]
    )
    assert (
        few["history in host memory"].storage == Storage("host")
        and few["history int8"].speed == Speed()
    )


def test_every_option_says_whether_it_is_exact_or_fast():
    found = {name: speed.mode for name, speed in speed_options(Speed()).items()}
    exact = {name for name, mode in found.items() if mode == "exact"}
    assert exact == {"kernel sdpa", "kernel cudnn", "kernel flash", "kernel flash3", "graphs"}
    assert {"kernel sage", "compiled blocks", "compiled blocks, linears fp8", "speed fast"} <= set(
        found
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": "wan-2b"}, "wan-1.3b"),
        ({"mode": "fast"}, "frame-2step"),
        ({"size": (480, 830)}, "multiples of 16"),
        ({"repeats": 0}, "repeats is 0"),
    ],
)
def test_bad_settings_are_one_sentence(settings, said):
    with pytest.raises(CinelabError, match=said):
        WanBench(**settings)
