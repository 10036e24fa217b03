"""Attention kernels, compiled blocks and eight-bit linears against the plain model."""

import importlib.util
import sys
from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from cinelab.errors import CinelabError
from cinelab.flow.condition import Condition
from cinelab.memory.context import BidirectionalContext
from cinelab.model.wan import FULL_PRECISION, CausalWan, WanConfig, cast, parameter_dtype
from cinelab.ops.attention import attention, available
from cinelab.ops.compiling import Compiled, speed_record
from cinelab.scale.acceleration import (
    SPEEDS,
    Speed,
    accelerate,
    fuse_qkv,
    quantise,
    speed_named,
)
from cinelab.scale.adapters import Lora, add_lora
from cinelab.scale.epilogues import fuse_gelu
from cinelab.scale.fp8_linears import Fp8Linear

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
def test_compiled_halves_are_the_plain_ones_in_few_kernels():
    """Two kernels and a product before attention, one for the rotation; five, five products and
    the cross-attention after it. `fullgraph` refuses a break."""
    from torch._inductor.utils import run_and_get_code

    plain = velocity(model())
    fast = accelerate(model(), replace(SPEEDS["compiled"], kernel="sdpa"))
    with torch._inductor.config.patch(fx_graph_cache=False):
        made, codes = run_and_get_code(velocity, fast)
    assert torch.allclose(made, plain, atol=1e-5)
    assert torch.equal(velocity(fast), made)
    assert len(codes) == 3, "all blocks share the programs"
    before, rotation, after = (code.count("async_compile.cpp") for code in codes)
    assert before <= 2 and rotation <= 1 and after <= 5


@pytest.mark.parametrize("change", [{}, {"fused_qkv": True}])
def test_a_block_is_traced_whole_once_for_all_blocks(monkeypatch, change):
    traced = []

    def backend(graph, inputs):
        traced.append(graph)
        return graph.forward

    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **more: compiler(f, backend=backend, **more))
    plain = velocity(model())
    assert torch.allclose(velocity(accelerate(model(), Speed(compiled=True, **change))), plain)
    assert len(traced) == 3, "before attention, the rotation, after attention"


@pytest.mark.parametrize("change", [{}, {"fused_qkv": True}, {"compiled": True}], ids=str)
@torch.no_grad()
def test_a_copied_moved_or_reloaded_model_computes_with_its_own_weights(change, monkeypatch):
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **more: compiler(f, backend="eager", **more))
    plain = model()
    other = model()
    for weight in other.parameters():
        weight.mul_(0.9)
    wanted, wanted_other = velocity(plain), velocity(other)
    fast = accelerate(model(), Speed(**change))
    copied = deepcopy(fast)
    copied.load_state_dict(other.state_dict())
    assert torch.allclose(velocity(copied), wanted_other, atol=1e-6)
    assert torch.allclose(velocity(fast), wanted, atol=1e-6)
    copied.load_state_dict(plain.state_dict(), assign=True)
    assert torch.allclose(velocity(copied), wanted, atol=1e-6)
    copied.double().float().load_state_dict(other.state_dict())
    assert torch.allclose(velocity(copied), wanted_other, atol=1e-6)
    if change.get("fused_qkv"):
        attention = copied.blocks[0].attn1
        assert (
            attention.to_q.weight.untyped_storage().data_ptr()
            == attention.to_qkv.weight.untyped_storage().data_ptr()
        )


def test_an_accelerated_model_is_neither_accelerated_otherwise_nor_given_adapters():
    fused = accelerate(model(), Speed(fused_qkv=True))
    with pytest.raises(CinelabError, match="already runs at another speed .* load it again"):
        accelerate(fused, Speed())
    with pytest.raises(CinelabError, match="load it without a speed"):
        add_lora(fused, Lora())


def test_one_product_leaves_the_state_dict_as_it_was():
    plain = model()
    fused = accelerate(model(), Speed(fused_qkv=True))
    assert torch.allclose(velocity(fused), velocity(plain), atol=1e-6)
    before = plain.state_dict()
    after = fused.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    attention = fused.blocks[0].attn1
    assert attention.to_q.weight.data_ptr() == attention.to_qkv.weight.data_ptr()


def broken_compiler(graph, inputs):
    raise RuntimeError("ptxas: this driver is too old")


def test_what_cannot_be_compiled_is_one_sentence_and_falls_back_only_where_it_may(monkeypatch):
    compiler = torch.compile
    broken = lambda f, **more: compiler(f, backend=broken_compiler, **more)  # noqa: E731
    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(CinelabError, match="could not compile.*use speed 'exact'"):
        velocity(accelerate(model(), Speed(compiled=True)))
    with pytest.warns(UserWarning, match="runs uncompiled, as fallback says"):
        made = velocity(accelerate(model(), Speed(compiled=True, fallback="exact")))
    assert torch.equal(made, velocity(model()))


def test_more_shapes_than_torch_compiles_by_itself_are_compiled(monkeypatch):
    shapes = []

    def backend(graph, inputs):
        shapes.append(inputs[0].shape)
        return graph.forward

    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **more: compiler(f, backend=backend, **more))
    double = Compiled(lambda x: x * 2, remedy="", dynamic=False, fullgraph=True)
    for count in (*range(2, 14), 3):
        assert torch.equal(double(torch.ones(count)), torch.full((count,), 2.0))
    assert len(shapes) == 12


@pytest.mark.parametrize("kernel", ["cudnn", "flash", "flash3"])
def test_a_kernel_that_cannot_be_traced_is_sdpa_inside_what_is_compiled(kernel):
    q, k, v = qkv()

    def attend(q, k, v):
        return attention(q, k, v, None, kernel)

    compiled = torch.compile(attend, backend="eager", fullgraph=True)
    assert torch.equal(compiled(q, k, v), attention(q, k, v, None, "sdpa"))


def test_an_error_of_the_function_itself_is_no_failure_to_build():
    def full(x):
        raise torch.OutOfMemoryError("no room")

    compiled = Compiled(full, remedy="", fallback=True)
    compiled.call = full
    with pytest.raises(torch.OutOfMemoryError):
        compiled(torch.zeros(1))


def test_what_does_not_run_here_falls_back_only_where_it_may():
    if available("eight-bits"):
        pytest.skip("kernels in eight bits run on this machine")
    with pytest.raises(CinelabError, match="sageattention"):
        accelerate(model(), SPEEDS["fast"])
    with pytest.warns(UserWarning, match="runs as exact"):
        same = accelerate(model(), replace(SPEEDS["fast"], fallback="exact"))
    assert torch.equal(velocity(same), velocity(model())) and speed_record(same) == {}


def test_every_way_says_whether_it_is_exact_or_fast():
    assert {name: speed.mode for name, speed in SPEEDS.items()} == {
        "exact": "exact",
        "compiled": "fast",
        "fast": "fast",
    }
    assert Speed("cudnn").mode == Speed(graphs=True).mode == "exact"
    assert Speed("sage").mode == Speed(linears="int8-weights").mode == "fast"
    record = speed_record(accelerate(model(), Speed(fused_qkv=True)))
    assert record["speed"]["mode"] == "fast" and record["speed"]["fused_qkv"]


def test_a_named_way_takes_changes():
    assert speed_named("fast", kernel="sdpa", compiled=False) == replace(
        SPEEDS["fast"], kernel="sdpa"
    )
    assert not speed_named("compiled", linears="int8-weights").fused_qkv
    with pytest.raises(CinelabError, match="speed is 'quick'; use one of exact, compiled, fast"):
        speed_named("quick")


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
            accelerate(model(), Speed(linears="fp8", compiled=True))


@pytest.mark.parametrize("linears", ["fp8-weights", "int8-weights"])
def test_eight_bit_weights_are_nearly_the_model(linears):
    if not importlib.util.find_spec("torchao"):
        pytest.skip("NO TORCHAO: pip install 'cinelab[fp8]' to test eight-bit linears")
    half = velocity(model(torch.bfloat16), torch.bfloat16).float()
    rough = velocity(
        accelerate(model(torch.bfloat16), Speed(linears=linears)), torch.bfloat16
    ).float()
    assert 0 < (half - rough).abs().mean() / half.std() < 0.03


@torch.no_grad()
def test_fp8_linears_are_nearly_the_model():
    half = model(torch.bfloat16)
    rough = quantise(fuse_qkv(model(torch.bfloat16)), "fp8")
    plain = velocity(half, torch.bfloat16).float()
    error = (plain - velocity(rough, torch.bfloat16).float()).abs().mean() / plain.std()
    assert 0 < error < 0.05
    linear = half.blocks[0].ffn.net[2]
    x = torch.randn(2, 3, 256).to(torch.bfloat16)
    rounded = Fp8Linear(linear)
    assert rounded.weight.dtype == torch.float8_e4m3fn
    assert (rounded(x) - linear(x)).abs().max() < 0.1 * linear(x).abs().max()
    with pytest.raises(CinelabError, match="cannot be saved"):
        rough.state_dict()


def test_fp8_linears_run_on_meta_tensors_as_one_product():
    rounded = Fp8Linear(torch.nn.Linear(32, 64, device="meta", dtype=torch.bfloat16))
    x = torch.empty(2, 3, 32, device="meta", dtype=torch.bfloat16)
    assert rounded(x).shape == (2, 3, 64)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kernel": "fast"}, "speed.kernel is 'fast'"),
        ({"linears": "fp4"}, "fp8-weights"),
        ({"linears": "fp8"}, "without compiled"),
        ({"fallback": "fast"}, "none, exact"),
    ],
)
def test_bad_speed_is_one_sentence(settings, said):
    with pytest.raises(CinelabError, match=said):
        Speed(**settings)


def test_gelu_in_the_epilogue_is_the_gelu_after_the_product():
    """To rounding, with the state dict as it was; and torch.compile leaves it one operator."""
    net = fuse_gelu(model())
    plain = model()
    assert net.state_dict().keys() == plain.state_dict().keys()
    assert torch.allclose(velocity(net), velocity(plain), atol=1e-6)
    gate = net.blocks[0].ffn.net[0]
    x = torch.randn(1, 2, 3, 128)
    with torch.autocast("cpu", torch.bfloat16):
        for given in (x, x.bfloat16()):
            made = gate(given)
            wanted = plain.blocks[0].ffn.net[0](given)
            assert made.dtype == wanted.dtype == torch.bfloat16
            assert torch.allclose(made.float(), wanted.float(), atol=0.02)
    graphs = []

    def backend(graph, inputs):
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return graph

    torch.compile(gate, backend=backend, fullgraph=True)(torch.randn(1, 2, 3, 128))
    assert sum("linear_gelu" in name for name in graphs[0]) == 1
    assert not any("gelu" in name and "linear" not in name for name in graphs[0])
