"""Attention kernels, compiled blocks and eight-bit linears against the plain model."""

import importlib.util
import sys

import pytest
import torch

from cinelab.errors import CinelabError
from cinelab.flow.condition import Condition
from cinelab.memory.context import BidirectionalContext
from cinelab.model.wan import FULL_PRECISION, CausalWan, WanConfig, cast, parameter_dtype
from cinelab.ops.attention import attention, available
from cinelab.scale.acceleration import Speed, accelerate

CONFIG = WanConfig(
    num_attention_heads=4, attention_head_dim=32, num_layers=2, ffn_dim=256, text_dim=32
)


def qkv(keys=70):
    torch.manual_seed(0)
    return (torch.randn(2, n, 3, 16) for n in (40, keys, keys))


@torch.no_grad()
def velocity(model, dtype=torch.float32):
    torch.manual_seed(1)
    x = torch.randn(1, 2, 16, 4, 4).to(dtype)
    text = torch.randn(1, 1, 5, 32).to(dtype)
    return model(
        x,
        torch.full((1, 2), 0.5),
        Condition(text, torch.zeros(1, 2, dtype=torch.long)),
        BidirectionalContext(torch.arange(2)),
    )


def model(dtype=torch.float32):
    torch.manual_seed(0)
    return cast(CausalWan(CONFIG), dtype).eval().requires_grad_(False)


# those that take tensors of a CPU; tests/gpu/test_gpu_kernels.py tries those of a GPU
ON_A_CPU = ("auto", "sdpa", "math", "flex")


@pytest.mark.parametrize("kernel", ON_A_CPU)
def test_every_kernel_of_a_cpu_is_the_formula(kernel):
    q, k, v = qkv()
    seen = torch.rand(1, 3, 40, 70, generator=torch.manual_seed(2)) > 0.3
    bias = torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))
    plain = attention(q, k, v, None, "math")
    assert torch.allclose(attention(q, k, v, None, kernel), plain, atol=1e-5)
    masked = attention(q, k, v, seen, "math")
    assert not torch.allclose(masked, plain, atol=1e-2)
    for mask in (seen, bias, bias):
        assert torch.allclose(attention(q, k, v, mask, kernel), masked, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        ("flash", "pip install 'cinelab\\[flash\\]'"),
        ("flash3", "flash_attn_interface"),
        ("cudnn", "a CUDA GPU"),
    ],
)
def test_a_kernel_that_is_not_here_is_one_sentence(kernel, said):
    if available(kernel):
        pytest.skip(f"{kernel} runs on this machine")
    with pytest.raises(CinelabError, match=said):
        attention(*qkv(), None, kernel)
    with pytest.raises(CinelabError, match="use 'auto'"):
        accelerate(model(), Speed(kernel=kernel))


def test_flex_refuses_gradients_on_a_cpu_and_flash_refuses_masks():
    q, k, v = qkv()
    with pytest.raises(CinelabError, match="no gradient on a CPU"):
        attention(q.requires_grad_(), k, v, None, "flex")
    with pytest.raises(CinelabError, match="takes no mask"):
        attention(q, k, v, torch.ones(1, 1, 40, 70, dtype=torch.bool), "flash")


@pytest.mark.slow
def test_compiled_blocks_are_the_plain_ones():
    plain = velocity(model())
    assert torch.allclose(velocity(accelerate(model(), Speed(compiled=True))), plain, atol=1e-5)


def test_half_precision_keeps_what_steers_in_full():
    half = model(torch.bfloat16)
    kept = {name for name, part in half.named_parameters() if part.dtype == torch.float32}
    assert (
        "scale_shift_table" in kept
        and "blocks.1.norm2.bias" in kept
        and "condition_embedder.time_embedder.linear_1.weight" in kept
    )
    assert (
        "blocks.0.attn1.norm_q.weight" not in kept
        and "condition_embedder.time_proj.weight" not in kept
    )
    assert parameter_dtype("blocks.0.ffn.net.2.weight", torch.bfloat16) == torch.bfloat16
    plain = velocity(model())
    rough = velocity(half, torch.bfloat16)
    assert rough.dtype == torch.bfloat16 and 0 < (plain - rough).abs().mean() / plain.std() < 0.02


def test_half_precision_keeps_the_same_as_diffusers():
    from diffusers import WanTransformer3DModel

    # rope has buffers only
    assert set(WanTransformer3DModel._keep_in_fp32_modules) - {"rope"} == set(FULL_PRECISION)


def test_eight_bits_without_torchao_or_a_gpu_are_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(CinelabError, match="pip install 'cinelab\\[fp8\\]'"):
        accelerate(model(), Speed(linears="fp8-weights"))
    if not torch.cuda.is_available():
        with pytest.raises(CinelabError, match="compute capability 8.9"):
            accelerate(model(), Speed(linears="fp8"))


@pytest.mark.parametrize("linears", ["fp8-weights", "int8-weights"])
def test_eight_bit_weights_are_nearly_the_model(linears):
    if not importlib.util.find_spec("torchao"):
        pytest.skip("NO TORCHAO: pip install 'cinelab[fp8]' to test eight-bit linears")
    half = velocity(model(torch.bfloat16), torch.bfloat16).float()
    rough = velocity(
        accelerate(model(torch.bfloat16), Speed(linears=linears)), torch.bfloat16
    ).float()
    assert 0 < (half - rough).abs().mean() / half.std() < 0.03


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"kernel": "fast"}, "speed.kernel is 'fast'"), ({"linears": "fp4"}, "fp8-weights")],
)
def test_bad_speed_is_one_sentence(settings, said):
    with pytest.raises(CinelabError, match=said):
        Speed(**settings)
