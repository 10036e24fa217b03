"""CausalWan is Wan2.1: equal to diffusers on values and gradients, with the same parameter
names."""

import pytest
import torch

from cinelab.errors import CinelabError
from cinelab.flow.condition import Condition
from cinelab.memory.context import BidirectionalContext
from cinelab.model.wan import WAN_1_3B, WAN_14B, CausalWan, WanConfig

CONFIGS = [
    WanConfig(
        num_attention_heads=2,
        attention_head_dim=24,
        num_layers=2,
        ffn_dim=96,
        text_dim=32,
        in_channels=4,
        out_channels=4,
    ),
    WanConfig(
        num_attention_heads=3,
        attention_head_dim=16,
        num_layers=3,
        ffn_dim=64,
        text_dim=20,
        freq_dim=64,
        cross_attn_norm=False,
        patch_size=(1, 1, 2),
    ),
    WanConfig(
        num_attention_heads=1,
        attention_head_dim=32,
        num_layers=1,
        ffn_dim=48,
        text_dim=8,
        in_channels=16,
        out_channels=8,
        patch_size=(1, 1, 1),
    ),
]


def reference(config: WanConfig):
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(**{**vars(config), "rope_max_seq_len": 64})


@pytest.mark.parametrize("config", CONFIGS)
def test_equals_diffusers_on_forward_and_gradients(config):
    torch.manual_seed(0)
    ours = CausalWan(config)
    theirs = reference(config)
    theirs.load_state_dict(ours.state_dict())
    frames = 5
    batch = 2
    x = torch.randn(batch, frames, config.in_channels, 6, 8)
    text = torch.randn(batch, 1, 7, config.text_dim)
    t = torch.rand(batch)
    slot = torch.zeros(batch, frames, dtype=torch.long)
    x1 = x.clone().requires_grad_()
    x2 = x.clone().requires_grad_()
    out = ours(
        x1,
        t[:, None].expand(-1, frames),
        Condition(text, slot),
        BidirectionalContext(torch.arange(frames)),
    )
    ref = theirs(x2.transpose(1, 2), t * 1000, text[:, 0], return_dict=False)[0].transpose(1, 2)
    assert (out - ref).abs().max() <= 1e-5
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    (ref * weight).sum().backward()
    assert (x1.grad - x2.grad).abs().max() <= 1e-5 * x2.grad.abs().max().clamp(min=1)
    wanted = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        scale = wanted[name].grad.abs().max().clamp(min=1)
        assert (parameter.grad - wanted[name].grad).abs().max() <= 1e-5 * scale, name


def test_per_frame_times_equal_diffusers_per_token_times():
    config = CONFIGS[0]
    frames = 3
    torch.manual_seed(1)
    ours = CausalWan(config)
    theirs = reference(config)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, frames, 4, 4, 6)
    text = torch.randn(1, 1, 5, config.text_dim)
    t = torch.tensor([[0.1, 0.6, 1.0]])
    out = ours(
        x,
        t,
        Condition(text, torch.zeros(1, frames, dtype=torch.long)),
        BidirectionalContext(torch.arange(frames)),
    )
    tokens = t.repeat_interleave(6, dim=1) * 1000
    ref = theirs(x.transpose(1, 2), tokens, text[:, 0], return_dict=False)[0].transpose(1, 2)
    assert (out - ref).abs().max() <= 1e-5


@pytest.mark.parametrize("config", [WAN_1_3B, WAN_14B])
def test_true_sizes_have_exactly_the_diffusers_keys(config):
    with torch.device("meta"):
        ours = CausalWan(config)
        theirs = reference(config)
    shapes = {name: tuple(value.shape) for name, value in theirs.state_dict().items()}
    assert {name: tuple(value.shape) for name, value in ours.state_dict().items()} == shapes


def test_each_frame_reads_its_own_prompt():
    config = CONFIGS[0]
    torch.manual_seed(2)
    model = CausalWan(config)
    x = torch.randn(1, 2, 4, 4, 4)
    t = torch.full((1, 2), 0.5)
    text = torch.randn(1, 2, 5, config.text_dim)
    sight = BidirectionalContext(torch.arange(2))
    both = model(x, t, Condition(text, torch.tensor([[0, 1]])), sight)
    swapped = model(x, t, Condition(text.flip(1), torch.tensor([[1, 0]])), sight)
    assert torch.allclose(both, swapped, atol=1e-6)
    assert not torch.allclose(
        both, model(x, t, Condition(text, torch.tensor([[0, 0]])), sight), atol=1e-3
    )


def test_latents_of_another_layout_are_refused():
    model = CausalWan(CONFIGS[0])
    with pytest.raises(CinelabError, match="divisible by 2"):
        model(
            torch.zeros(1, 1, 4, 5, 4),
            torch.zeros(1, 1),
            Condition(torch.zeros(1, 1, 5, 32), torch.zeros(1, 1, dtype=torch.long)),
            BidirectionalContext(torch.arange(1)),
        )
