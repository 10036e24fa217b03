"""What only a real GPU has: its attention kernels, compiled blocks, eight bits, the video codec."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from cinelab.errors import CinelabError
from cinelab.flow.condition import Condition
from cinelab.memory.context import BidirectionalContext
from cinelab.model.wan import CausalWan, WanConfig, cast
from cinelab.ops.attention import KERNELS, attention, available
from cinelab.scale.acceleration import Speed, accelerate

pytestmark = pytest.mark.gpu
EIGHT_BITS = ("eight-bits", "sage", "flash3-fp8")
WITHOUT_MASKS = ("flash", "flash3", *EIGHT_BITS)
CONFIG = WanConfig(
    num_attention_heads=4,
    attention_head_dim=64,
    in_channels=16,
    out_channels=16,
    text_dim=64,
    freq_dim=64,
    ffn_dim=512,
    num_layers=2,
)


def qkv(device, dtype):
    rng = torch.Generator().manual_seed(0)
    shapes = ((1, 192, 4, 64), (1, 1280, 4, 64), (1, 1280, 4, 64))
    return [torch.randn(shape, generator=rng).to(device, dtype) for shape in shapes]


def error(made, exact) -> float:
    """Root of the mean squared error, as a share of the exact values' deviation."""
    return float((made.float() - exact).square().mean().sqrt() / exact.std())


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_is_the_formula(cuda, kernel):
    if not available(kernel):
        pytest.skip(f"kernel {kernel} is not on this machine")
    q, k, v = qkv(cuda, torch.bfloat16)
    exact = attention(*(x.float() for x in (q, k, v)), None, "math")
    assert error(attention(q, k, v, None, kernel), exact) < (0.1 if kernel in EIGHT_BITS else 0.02)


@pytest.mark.parametrize("kernel", [name for name in KERNELS if name not in WITHOUT_MASKS])
def test_every_kernel_that_takes_a_mask_is_the_masked_formula(cuda, kernel):
    if not available(kernel):
        pytest.skip(f"kernel {kernel} is not on this machine")
    q, k, v = qkv(cuda, torch.bfloat16)
    rng = torch.Generator().manual_seed(1)
    allowed = (torch.rand(1, 4, 192, 1280, generator=rng) > 0.3).to(cuda)
    bias = torch.zeros(allowed.shape, device=cuda).masked_fill(~allowed, float("-inf"))
    exact = attention(*(x.float() for x in (q, k, v)), allowed, "math")
    for mask in (allowed, bias.to(torch.bfloat16)):
        assert error(attention(q, k, v, mask, kernel), exact) < 0.02


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_answers_the_same_without_gradients(cuda, kernel):
    with torch.no_grad():
        without = available(kernel)
    assert without == available(kernel)


def model(device, dtype=torch.bfloat16) -> CausalWan:
    torch.manual_seed(0)
    made = CausalWan(CONFIG)
    for weight in made.parameters():
        nn.init.normal_(weight, 0, 0.02)
    return cast(made, dtype).eval().requires_grad_(False).to(device)


@torch.no_grad()
def velocity(net) -> torch.Tensor:
    device = next(net.parameters()).device
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(1, 3, 16, 16, 16, generator=rng).to(device)
    text = torch.randn(1, 1, 8, 64, generator=rng).to(device, torch.bfloat16)
    slot = torch.zeros(1, 3, dtype=torch.long, device=device)
    t = torch.full((1, 3), 0.5, device=device)
    return net(x, t, Condition(text, slot), BidirectionalContext(torch.arange(3))).float()


def test_the_network_in_bf16_is_the_cpus_in_fp32(cuda):
    exact = velocity(model("cpu", torch.float32))
    assert error(velocity(model(cuda)).cpu(), exact) < 0.03


def test_compiled_blocks_are_the_plain_ones(cuda):
    plain = velocity(model(cuda))
    assert error(velocity(accelerate(model(cuda), Speed(compiled=True))), plain) < 0.02


@pytest.mark.parametrize("linears", ["fp8", "fp8-weights", "int8-weights"])
def test_linears_in_eight_bits_are_close(cuda, linears):
    speed = replace(Speed(), linears=linears, compiled=True)
    try:
        fast = accelerate(model(cuda), speed)
    except CinelabError as error_sentence:  # without torchao, or on an older GPU
        pytest.skip(str(error_sentence))
    assert error(velocity(fast), velocity(model(cuda))) < 0.1


def test_a_video_codec_decodes_any_split_alike(cuda):
    pytest.importorskip("diffusers")
    from cinelab.lab.wan_bench import random_codec

    codec = random_codec(cuda, small=True)
    latents = torch.randn(1, 4, codec.channels, 8, 8, generator=torch.Generator().manual_seed(0))
    latents = latents.to(cuda)
    with torch.no_grad():
        whole, _ = codec.decode(latents)
        first, state = codec.decode(latents[:, :1])
        second, _ = codec.decode(latents[:, 1:], state)
    split = torch.cat([first, second], dim=1)
    assert split.shape == whole.shape and error(split, whole.float()) < 0.02
