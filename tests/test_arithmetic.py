"""The arithmetic of docs/scaling.md against the shapes themselves."""

from functools import partial
from pathlib import Path

import processes
import pytest
import torch

from cinelab.flow.condition import Condition
from cinelab.memory.context import BidirectionalContext, KnownHistory, TeacherForcingContext
from cinelab.memory.policy import CAMR, Full
from cinelab.model.wan import WAN_1_3B, WAN_14B, CausalWan, WanConfig, cast
from cinelab.ops import tiling
from cinelab.ops.attention import use_kernel
from cinelab.ops.rope import rope_for
from cinelab.scale import cost as arithmetic
from cinelab.scale.adapters import Lora, add_lora
from cinelab.scale.cost import Plan, adapter_parameters, memory, parameters

DOC = Path(__file__).parents[1] / "docs" / "scaling.md"


def test_the_papers_sizes():
    assert (
        round(parameters(WAN_1_3B) / 1e9, 3) == 1.419
        and round(parameters(WAN_14B) / 1e9, 2) == 14.29
    )
    assert Plan(WAN_1_3B).tokens == 32_760 and Plan(WAN_1_3B).shown == 65_520


def test_the_documents_table_is_what_the_arithmetic_says():
    assert arithmetic.cost_table() in DOC.read_text()


@pytest.mark.parametrize("config", [WAN_1_3B, WAN_14B], ids=["1.3B", "14B"])
def test_adapters_are_counted(config):
    with torch.device("meta"):
        model = add_lora(CausalWan(config), Lora(rank=8))
    assert adapter_parameters(config, 8) == sum(
        part.numel() for part in model.parameters() if part.requires_grad
    )


@pytest.mark.parametrize("width, ffn", [(128, 768), (256, 704)])
def test_what_a_block_keeps_of_a_token_is_counted(width, ffn):
    """Bytes that autograd saves in one bf16 block, weights apart."""
    model = cast(
        CausalWan(WanConfig(4, width // 4, num_layers=1, ffn_dim=ffn, text_dim=32)),
        torch.bfloat16,
    )
    weights = {part.untyped_storage().data_ptr() for part in model.parameters()}
    kept = {}
    hold = []
    x = torch.randn(1, 4, 64, width, dtype=torch.bfloat16, requires_grad=True)
    embedder = model.condition_embedder
    _, modulation = embedder.modulation(embedder.time(torch.rand(1, 4)))
    words = model.encode_text(torch.randn(1, 1, 8, 32, dtype=torch.bfloat16))
    rope = rope_for(width // 4, 8, 8, x.device)
    attend = partial(BidirectionalContext(torch.arange(4)).attend, 0, rope=rope)

    def pack(value):
        storage = value.untyped_storage()
        hold.append(value)  # so that no address is given out twice
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value)
    with use_kernel("sdpa"), hooks:
        model.blocks[0](x, modulation, attend, words[0], torch.zeros(1, 4, dtype=torch.long))
    expected = arithmetic.SAVED * width + arithmetic.SAVED_FFN * ffn
    assert sum(kept.values()) / 256 == pytest.approx(expected, rel=0.1)


def test_more_gpus_take_less_each_and_options_do_what_they_say():
    one, eight = (memory(Plan(WAN_14B, gpus=gpus)) for gpus in (1, 8))
    assert (
        eight["student"] == pytest.approx(one["student"] / 8)
        and eight["activations"] == one["activations"]
    )
    assert memory(Plan(WAN_14B, sequence=4))["activations"] == pytest.approx(
        eight["activations"] / 4
    )
    assert (
        memory(Plan(WAN_14B, activation_checkpointing=False))["activations"]
        > 15 * eight["activations"]
    )
    assert arithmetic.seconds(Plan(WAN_14B, gpus=64)) == pytest.approx(
        arithmetic.seconds(Plan(WAN_14B, gpus=8)) / 8
    )


@pytest.mark.parametrize("policy", [Full(), CAMR(budget=2, score="mean")], ids=["full", "camr"])
def test_wide_chunks_as_strips_of_their_own_see_the_same(policy, monkeypatch):
    net = processes.model(processes.Parallel.here())
    clips = processes.Fake().clips(2, 6, torch.Generator())
    t = torch.full((2, 6), 0.5)

    def seen():
        both = torch.cat([clips.latents, clips.latents + 1], 1)
        twice = [torch.cat([x, x], 1) for x in (t, clips.slot)]
        known = KnownHistory(policy, clips.shot, 1)
        known.encode(net, clips.latents, clips.condition)
        return (
            net(
                both,
                twice[0],
                Condition(clips.text, twice[1]),
                TeacherForcingContext(policy, clips.shot, 1),
            ),
            net(clips.latents + 1, t, Condition(clips.text, clips.slot), known),
        )

    narrow = seen()
    monkeypatch.setattr(tiling, "WIDE", 1)
    for a, b in zip(narrow, seen(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
