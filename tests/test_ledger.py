"""The ledger: counts of a run on `meta` tensors are exact, and its times are what was measured."""

import json
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch.nn import functional as fn
from typer.testing import CliRunner

from cinelab.bench import ledger_report
from cinelab.bench.training_size import step_trace
from cinelab.bench.true_size import chunk_counts, chunk_trace, peak_bytes, traced
from cinelab.bench.wan_speed import WanBench
from cinelab.cli.commands import app
from cinelab.cli.ledger import memory_lines
from cinelab.errors import CinelabError
from cinelab.model.wan import Block
from cinelab.model.wan import cast as half_precision
from cinelab.scale.acceleration import SPEEDS
from cinelab.scale.ceilings import CARDS, H100, card_named
from cinelab.scale.ledger import (
    Counts,
    LaunchTimes,
    Trace,
    counts_from_dict,
    counts_to_dict,
    predict_seconds,
    time_of,
)
from cinelab.scale.ledger_memory import LiveBytes
from cinelab.scale.ledger_mode import OpRecording, counted_compilation
from cinelab.scale.ledger_ops import Op
from cinelab.zoo.codec_footprint import codec_footprint

ROOT = Path(__file__).parents[1]
RECORD = json.loads((ROOT / "results" / "reference" / "ledger_0.2.0.json").read_text())
GROUPS = {  # the kinds that a measured profile has put together
    "attention": ("self attention", "cross attention"),
    "products": ("product",),
    "gathers": ("gather",),
    "concatenations": ("concatenation",),
    "copies": ("copy",),
    "elementwise": ("elementwise", "norm", "reduction"),
}
SMALL = WanBench("small", size=(64, 64), budget=3)


@cache
def recorded(run: str) -> Counts:
    return counts_from_dict(RECORD["runs"][run])


@pytest.mark.parametrize(
    "row", RECORD["measured"], ids=lambda row: f"{row['run']} on {row['card']}"
)
def test_the_clock_is_what_was_measured(row):
    found = predict_seconds(recorded(row["run"]), card_named(row["card"])).clock
    assert found == pytest.approx(row["seconds"], rel=0.15)


@pytest.mark.parametrize("row", RECORD["profiles"], ids=lambda row: row["run"])
def test_a_profile_is_what_was_measured(row):
    counts = recorded(row["run"])
    found = predict_seconds(counts, card_named(row["card"]))
    assert counts.launches == pytest.approx(row["launches"], rel=0.15)
    assert found.busy == pytest.approx(row["busy"], rel=0.15)
    for group, milliseconds in row.get("milliseconds", {}).items():
        assert 1000 * found.seconds(*GROUPS[group]) == pytest.approx(milliseconds, rel=0.15), group
    assert counts.uploads == row.get("uploads", counts.uploads)


def test_two_layers_and_three_say_what_all_cost():
    counts = chunk_counts(SMALL, "camr", 5)
    whole = chunk_trace(replace(SMALL, layers=4), "camr", 5)
    assert counts.layers == 4
    assert counts.tally() == whole.tally()


def test_arithmetic_is_counted_to_the_last_operation():
    weight = torch.empty(64, 32, device="meta")
    x = torch.empty(2, 8, 32, device="meta")
    q = torch.empty(1, 2, 8, 16, device="meta")
    k = torch.empty(1, 2, 24, 16, device="meta")
    trace = traced(lambda: (fn.linear(x, weight), fn.scaled_dot_product_attention(q, k, k)))
    product, attention = trace.ops
    assert (product.kind, product.flops) == ("product", 2 * 16 * 32 * 64)
    assert product.bytes == 4 * (x.numel() + weight.numel() + 16 * 64)
    assert (attention.kind, attention.flops) == ("self attention", 4 * 2 * 8 * 24 * 16)
    assert attention.bytes == 4 * (2 * q.numel() + 2 * k.numel())


def test_views_cost_nothing_and_what_is_expanded_is_read_once():
    x = torch.empty(4, 1, 8, device="meta")
    trace = traced(lambda: x.expand(4, 100, 8).transpose(0, 1)[:50].add(1.0))
    (add,) = trace.ops
    assert (add.read, add.written) == (4 * 4 * 8, 4 * 4 * 50 * 8)


def test_what_the_host_waits_for_is_counted():
    x = torch.empty(3, device="meta")
    host = torch.ones(3)

    def run():
        int(x.sum())
        x.tolist()
        x.to("cpu")
        host.to("meta")
        host.to("meta", non_blocking=True)
        torch.tensor([1, 2], device="meta")
        x[x > 0]

    counts = Counts(traced(run))
    assert (counts.waits, counts.uploads) == (6, 3)


def test_a_training_step_counts_backward():
    x = torch.empty(2, 8, 32, device="meta")
    weight = torch.empty(64, 32, device="meta", requires_grad=True)
    q = torch.empty(1, 2, 8, 16, device="meta", requires_grad=True)
    with OpRecording() as recording:
        out = fn.linear(x, weight).square().mean()
        (out + fn.scaled_dot_product_attention(q, q, q).sum()).backward()
    trace = Trace(recording.ops, tuple(recording.events))
    products = [op.flops for op in trace.tally() if op.kind == "product"]
    assert products == [2 * 16 * 32 * 64] * 2  # the input has no gradient
    flops = {op.name: op.flops for op in trace.ops if op.kind == "self attention"}
    assert flops["attention backward"] == flops["attention"] * 5 // 2


def test_an_operation_takes_the_longest_of_its_limits():
    product = Op("product", "mm", "bfloat16", flops=10**12, read=10**6, launches=1)
    copy = Op("copy", "clone", "bfloat16", read=10**9, written=10**9, launches=1)
    assert time_of(product, H100) == (10**12 / H100.matmul, "compute")
    assert time_of(copy, H100) == (2 * 10**9 / H100.pointwise, "memory")
    assert time_of(Op("copy", "clone", launches=1), H100)[1] == "launches"


def test_a_gpu_that_waits_for_the_host_shows_on_the_clock():
    kernel = Op("elementwise", "add", read=10**9, launches=1)
    wait = Op("host", "item", launches=1, waits=True)
    free = Counts(Trace((kernel, wait), (0, 0, 0, 0)))
    bound = Counts(Trace((kernel, wait), (0, 1, 0, 1, 0, 1, 0, 1)))
    assert predict_seconds(free, H100, LaunchTimes(1e-5)).clock == pytest.approx(
        predict_seconds(free, H100).busy, rel=0.1
    )
    found = predict_seconds(bound, H100, LaunchTimes(1e-3))
    assert found.clock > found.busy + 3e-3


def test_counts_go_through_a_file():
    counts = chunk_counts(SMALL, "window", 4)
    assert counts_from_dict(json.loads(json.dumps(counts_to_dict(counts)))) == counts
    with pytest.raises(CinelabError, match="holds no counts"):
        counts_from_dict({"layers": 3})


def test_live_bytes_are_those_of_tensors_that_are_held():
    memory = LiveBytes()
    with OpRecording(memory=memory):
        with memory.because("held"):
            held = torch.empty(100, device="meta")
        for _ in range(3):
            made = held + 1.0
            view = made[:50]
            del made
        assert memory.live == {"held": 400, "activations": 400}
        del view
    assert memory.live["activations"] == 0
    assert memory.most == {"held": 400, "activations": 800}  # the next, before the last is freed


def test_the_history_lies_in_memory_once():
    peak = peak_bytes(SMALL, "window", 20)
    page = 2 * SMALL.config.num_layers * 48 * 256 * 2  # keys and values of 48 tokens, in bfloat16
    assert 20 * page <= peak["history"] <= 40 * page  # with what the store grows by


def test_what_is_compiled_is_counted_as_inductor_fuses_it():
    """The kernels are those that inductor generates for the two halves of a block (read off its
    code for a CPU): norms with what is made of them, products and attention alone."""
    block = half_precision(Block(SMALL.config), torch.bfloat16).to("meta")
    x = torch.empty(1, 3, 16, 256, dtype=torch.bfloat16, device="meta")
    modulation = torch.empty(1, 3, 6, 256, device="meta")
    words = tuple(
        torch.empty(1, 1, 32, 4, 64, dtype=torch.bfloat16, device="meta") for _ in range(2)
    )
    slot = torch.zeros(1, 3, dtype=torch.long, device="meta")
    with counted_compilation():
        before = torch.compile(block.pre_attention)
        after = torch.compile(block.post_attention)
    made = traced(lambda: before(x, modulation), 32)
    kernels = Counter(op.name for op in map(made.ops.__getitem__, made.events))
    assert kernels == {"addmm": 3, "fused": 3}
    made = traced(lambda: after(x, x, modulation, words, slot), 32)
    kernels = Counter(op.name for op in map(made.ops.__getitem__, made.events))
    assert kernels == {"addmm": 5, "fused": 5, "attention": 1}
    (norm, *_) = [op for op in made.ops if op.name == "fused"]
    assert norm.written <= 2 * x.nbytes  # what lies between is nowhere
    assert all(op.compiled for op in made.ops)


def test_a_compiled_function_reads_and_writes_each_tensor_once():
    x = torch.empty(8, 32, device="meta")
    y = torch.empty(8, 32, device="meta")
    with counted_compilation():
        function = torch.compile(lambda x, y: ((x + y).exp() * x).softmax(-1) + y)
    (op,) = traced(lambda: function(x, y)).ops
    assert (op.read, op.written, op.launches) == (x.nbytes + y.nbytes, x.nbytes, 1)


# What a chunk of Wan 1.3B after 20 others may cost an H100; the limits may only fall.
BUDGETS = {  # (policy, speed): waits, copies to the GPU, launches, GB, predicted ms
    ("camr", "exact"): (2, 10, 9_250, 410, 500),
    ("window", "exact"): (2, 6, 7_400, 360, 475),
    ("sink", "exact"): (2, 100, 7_750, 380, 495),
    ("window", "compiled"): (2, 6, 3_500, 195, 395),
    ("camr", "fast"): (2, 10, 5_500, 210, 283),
}


@pytest.mark.parametrize("policy, speed", BUDGETS)
def test_a_chunk_stays_within_its_budget(policy, speed):
    waits, uploads, launches, moved, milliseconds = BUDGETS[policy, speed]
    counts = chunk_counts(WanBench(speed=SPEEDS[speed]), policy, 20)
    assert counts.waits <= waits
    assert counts.uploads <= uploads
    assert counts.launches <= launches
    assert counts.moved <= moved * 10**9
    predicted = 1000 * predict_seconds(counts, H100).clock
    assert predicted <= milliseconds
    assert documented().get((policy, speed), predicted) == pytest.approx(predicted, abs=2)


@cache
def documented() -> dict[tuple[str, str], int]:
    """Milliseconds by policy and speed as docs/ledger.md has them, after 20 chunks."""
    lines = (ROOT / "docs" / "ledger.md").read_text().splitlines()
    heads = {"camr": "| CAMR, 6 chunks of history |", "window": "| window of 6 |"}
    found = {}
    for policy, head in heads.items():
        (line,) = [line for line in lines if line.startswith(head)]
        found |= {
            (policy, speed): int(text)
            for speed, text in zip(SPEEDS, line.split("|")[3:6], strict=True)
        }
    return found


def test_pages_that_name_the_prediction_agree():
    figures = [documented()["camr", speed] for speed in ("exact", "compiled", "fast")]
    exact, compiled, fast = figures
    sentence = f"{exact} ms, compiled {compiled} ms, fast {fast} ms"
    for page in ("README.md", "docs/wan.md"):
        text = " ".join((ROOT / page).read_text().split())
        assert sentence in text
    sitting = (ROOT / "docs" / "gpu.md").read_text().split()
    assert {f"0.{figure}" for figure in figures} <= set(sitting)


def test_the_command_prints_what_a_chunk_costs(tmp_path):
    path = tmp_path / "ledger.json"
    words = ["ledger", "--model", "small", "--mode", "frame-1step", "--size", "64x64"]
    ended = CliRunner().invoke(app, [*words, "--history", "4", "-o", str(path)])
    assert ended.exit_code == 0, ended.output
    assert "self attention" in ended.output
    assert "not measured" in ended.output
    record = json.loads(path.read_text())
    assert set(record["cards"]) == set(CARDS)
    assert record["clock"] >= record["busy"] >= record["floor"] > 0
    assert counts_from_dict(record["counts"]).launches == record["launches"]


def test_options_are_compared_in_a_table_that_fits_a_terminal(tmp_path, monkeypatch):
    path = tmp_path / "ledger.json"
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(ledger_report, "OPTIONS", ledger_report.OPTIONS[:1])
    words = ["ledger", "--model", "small", "--mode", "frame-1step", "--size", "64x64"]
    ended = CliRunner().invoke(app, [*words, "--budget", "3", "--compare", "-o", str(path)])
    assert ended.exit_code == 0, ended.output
    table = [line for line in ended.output.splitlines() if line[:1] in "┏┃┡│└"]
    assert table and max(map(len, table)) <= 80
    rows = {row["way"]: row for row in json.loads(path.read_text())["options"]}
    assert rows["exact"]["times as fast"] == 1.0
    assert rows["exact"]["launches"] < rows["exact, clean pass chooses anew"]["launches"]
    host = rows["exact, history in host memory"]
    assert host["waits"] == rows["exact"]["waits"] + SMALL.config.num_layers
    assert host["ms"] > rows["exact"]["ms"]


def test_what_a_card_does_not_hold_is_said():
    assert memory_lines({"history": 2**37}, H100)[0] == "128.0 GiB at most, more than the H100 has:"
    assert memory_lines({"history": 2**33, "weights": 2**32}, H100) == [
        "12.0 GiB at most:",
        "history 8.0, weights 4.0",
    ]


def test_the_decoders_past_is_that_of_a_film_under_way():
    bench = replace(SMALL, size=(96, 96))
    past = peak_bytes(bench, "window", 2, decoder="vae")["decoder's past"]
    assert past == pytest.approx(codec_footprint("vae", bench.size, 3, number=2).state, rel=0.02)


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--model", "wan-2"], "model is 'wan-2'; use one of"),
        (["--card", "A100"], "Card 'A100' is unknown; use one of H100"),
        (["--speed", "slow"], "speed is 'slow'; use one of exact"),
        (["--decoder", "jpeg"], "decoder is 'jpeg'; use one of none"),
        (["--policy", "all"], "all"),
        (["--size", "480"], "--size is '480'"),
        (["-o", "x.txt"], "must end in .json"),
    ],
)
def test_a_wrong_name_is_refused_before_any_work(words, sentence):
    ended = CliRunner().invoke(app, ["ledger", *words])
    assert isinstance(ended.exception, CinelabError)
    assert sentence in str(ended.exception)


def test_cards_are_known_by_their_names():
    assert card_named("rtx4090") is CARDS["RTX 4090"]
    assert card_named("h100").measured
    with pytest.raises(CinelabError, match="H200, B200"):
        card_named("A100")


def test_a_training_step_is_counted_by_the_loop_itself():
    trace = step_trace(2, 8, layers=1)
    names = {op.name for op in trace.ops}
    assert {"attention", "attention backward", "_foreach_lerp_"} <= names
    products = [op for op in map(trace.ops.__getitem__, trace.events) if op.kind == "product"]
    halves = [op for op in products if op.precision == "bfloat16"]
    assert len(halves) > 0.8 * len(products)  # autocast
    waits = [op for op in map(trace.ops.__getitem__, trace.events) if op.waits]
    assert 0 < len(waits) < 10
