"""The arithmetic against real models and real memories; the refusals."""

import pytest
import torch
from test_memory import CONFIG, scene, stream
from torch.profiler import profile

from cinelab.errors import CinelabError
from cinelab.flow.condition import Condition
from cinelab.memory.context import BidirectionalContext
from cinelab.memory.policy import BLOCK, CAMR
from cinelab.memory.store import Storage
from cinelab.model.wan import WAN_1_3B, WAN_14B, CausalWan, WanConfig, cast
from cinelab.zoo.footprint import GIB, GROUPED, FilmSpec, check_memory, footprint, weight_bytes


def test_the_papers_sizes():
    assert weight_bytes(WAN_1_3B, bits=32) == 4 * 1_418_996_800
    assert 14.2e9 < weight_bytes(WAN_14B, bits=32) / 4 < 14.4e9
    assert weight_bytes(WAN_14B, "fp8") < 0.55 * weight_bytes(WAN_14B)
    film = footprint(WAN_1_3B, FilmSpec(chunks=200, chunk=3, seen=6))
    assert film.stored == 200 * 2 * 4680 * 1536 * 2 * 30 and film.attended == 7 * film.stored // 200
    assert 150 < film.stored / GIB < 165  # 172 GB: more than any GPU has


def test_weights_are_those_of_a_real_model():
    model = cast(CausalWan(CONFIG), torch.bfloat16)
    assert weight_bytes(CONFIG) == sum(part.nbytes for part in model.parameters())


@pytest.mark.parametrize(
    "storage",
    [Storage(), Storage("host", slots=4), Storage(packing="fp8"), Storage("host", "int8", slots=4)],
    ids=repr,
)
@torch.no_grad()
def test_keys_and_values_are_those_of_a_real_memory(storage):
    model, x, prompts, shot, _ = scene(2, batch=1)
    _, memory = stream(
        model,
        x[:1],
        prompts[:1],
        shot[:1],
        2,
        CAMR(budget=3, summary=4, per_head=False),
        storage=storage,
    )
    film = FilmSpec(
        (4 * 8, 6 * 8),
        chunks=7,
        chunk=2,
        seen=3,
        summary=4,
        place=storage.place,
        packing=storage.packing,
        slots=storage.slots,
    )
    need = footprint(CONFIG, film, bits=32)
    assert need.stored == 7 * sum(
        shelf.page_bytes() for pair in memory.layers.values() for shelf in pair
    )
    assert GROUPED == BLOCK and need.summaries == 7 * sum(
        kept.pages.page_bytes() for kept in memory.summaries.values()
    )
    if storage == Storage("host", slots=4):
        held = sum(shelf.pool.buffer.nbytes for pair in memory.layers.values() for shelf in pair)
        assert need.slots == held and need.host and need.device < need.device + need.stored


@torch.no_grad()
def test_heads_that_choose_apart_hold_more_than_the_budget_and_the_plan_says_so():
    model, x, prompts, shot, _ = scene(1, batch=1)
    policy = CAMR(budget=2, window=1, per_head=True)
    storage = Storage("host", slots=2)
    assert (
        policy.held_at(7, 3) == 4
        and CAMR(budget=2).held_at(7, 3) == 2
        and policy.held_at(3, 12) == 3
    )
    _, memory = stream(model, x[:1], prompts[:1], shot[:1], 1, policy, storage=storage)
    room = max(shelf.pool.room for pair in memory.layers.values() for shelf in pair)
    kept = sum(shelf.page_bytes() for pair in memory.layers.values() for shelf in pair)
    film = FilmSpec(
        (4 * 8, 6 * 8), chunks=7, chunk=1, seen=2, place="host", slots=2, held=policy.held_at(7, 3)
    )
    assert 2 < room <= 4 and footprint(CONFIG, film, bits=32).slots == 4 * kept


def test_activations_are_of_the_order_that_a_profiler_sees():
    config = WanConfig(
        num_attention_heads=4,
        attention_head_dim=32,
        num_layers=2,
        ffn_dim=512,
        text_dim=12,
        in_channels=4,
        out_channels=4,
    )
    torch.manual_seed(0)
    model = CausalWan(config).eval().requires_grad_(False)
    x = torch.randn(1, 3, 4, 32, 48)
    text = model.encode_text(torch.zeros(1, 1, 5, 12))
    with profile(profile_memory=True) as found:
        model(
            x,
            torch.ones(1, 3),
            Condition(text, torch.zeros(1, 3, dtype=torch.long)),
            BidirectionalContext(torch.arange(3)),
        )
    live = peak = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    need = footprint(config, FilmSpec((32 * 8, 48 * 8), chunks=1, chunk=3, seen=0), bits=32)
    assert 0.5 * need.activations < peak < 2 * need.activations


def test_what_cannot_fit_is_refused_with_the_numbers():
    need = footprint(WAN_14B, FilmSpec(chunks=200))
    with pytest.raises(
        CinelabError,
        match=r"needs \d+\.\d GiB on the device .*most of it is stored: "
        "keep the history in host memory",
    ):
        check_memory(need, 80 * GIB, 500 * GIB, "The film")
    host = footprint(WAN_14B, FilmSpec(chunks=200, place="host"))
    with pytest.raises(
        CinelabError, match=r"GiB of host memory for its history and 500.0 GiB are free; pack it"
    ):
        check_memory(host, 140 * GIB, 500 * GIB)
    with pytest.raises(CinelabError, match="most of it is weights: quantise"):
        check_memory(footprint(WAN_14B, FilmSpec(chunks=4, chunk=1)), 24 * GIB, 64 * GIB)
    check_memory(footprint(WAN_1_3B, FilmSpec(chunks=200, place="host")), 40 * GIB, 200 * GIB)
