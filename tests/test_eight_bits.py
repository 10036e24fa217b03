"""Attention in eight bits by packages that are not here: how each is called, and on what."""

import sys
from types import ModuleType

import pytest
import torch

from cinelab.errors import CinelabError
from cinelab.ops import attention as switch
from cinelab.ops.attention import EIGHT_BITS, attention, available, fastest
from cinelab.ops.eight_bit_attention import quantize_heads

KEYS = 1100  # above which a call is worth rounding


def qkv(keys=KEYS, dtype=torch.bfloat16):
    torch.manual_seed(0)
    return [torch.randn(2, n, 3, 64).to(dtype) for n in (40, keys, keys)]


@pytest.fixture
def packages(monkeypatch):
    """Stand-ins for both packages; what they were called with is in the list."""
    calls = []

    def sageattn(q, k, v, tensor_layout="HND", is_causal=False, sm_scale=None):
        calls.append((tensor_layout, is_causal, sm_scale))
        return attention(q, k, v, None, "sdpa")

    def flash_attn_func(q, k, v, *, q_descale, k_descale, v_descale):
        calls.append((q.dtype, q_descale.shape, q_descale.dtype))
        scaled = (
            x.float() * scale[:, None, :, None]
            for x, scale in ((q, q_descale), (k, k_descale), (v, v_descale))
        )
        return attention(*scaled, None, "sdpa").to(torch.bfloat16), None

    for name, call in (("sageattention", sageattn), ("flash_attn_interface", flash_attn_func)):
        module = ModuleType(name)
        setattr(module, call.__name__, call)
        monkeypatch.setitem(sys.modules, name, module)
    return calls


def test_sage_is_called_in_our_layout(packages):
    q, k, v = qkv()
    assert torch.equal(attention(q, k, v, None, "sage"), attention(q, k, v, None, "sdpa"))
    assert packages == [("NHD", False, None)]


def test_flash3_takes_e4m3_and_a_scale_for_each_film_and_head(packages):
    q, k, v = qkv()
    out = attention(q, k, v, None, "flash3-fp8")
    assert packages == [(torch.float8_e4m3fn, (2, 3), torch.float32)]
    plain = attention(q, k, v, None, "sdpa")
    assert out.dtype == torch.bfloat16
    assert 0 < (out - plain).abs().mean() / plain.float().std() < 0.05


def test_what_is_rounded_by_head_comes_back():
    x = qkv()[0] * torch.tensor([1.0, 1000.0, 1e-4])[:, None]
    rounded, scale = quantize_heads(x)
    back = rounded.float() * scale[:, None, :, None]
    largest = x.float().abs().amax((1, 3), keepdim=True)
    assert ((back - x.float()).abs() / largest).max() < 0.04
    zeros, _ = quantize_heads(torch.zeros_like(x))
    assert zeros.float().abs().max() == 0


@pytest.mark.parametrize("kernel", [*EIGHT_BITS, "eight-bits"])
def test_short_keys_are_not_rounded(packages, kernel):
    q, k, v = qkv(512)
    assert torch.equal(attention(q, k, v, None, kernel), attention(q, k, v, None, "sdpa"))
    assert packages == []


@pytest.mark.parametrize("kernel", EIGHT_BITS)
def test_refusals_are_one_sentence(packages, monkeypatch, kernel):
    q, k, v = qkv()
    with pytest.raises(CinelabError, match="takes bf16 or fp16, not float32"):
        attention(q.float(), k.float(), v.float(), None, kernel)
    with pytest.raises(CinelabError, match="no gradient"):
        attention(q.requires_grad_(), k, v, None, kernel)
    with pytest.raises(CinelabError, match="takes no mask"):
        attention(q, k, v, torch.ones(1, 1, 40, KEYS, dtype=torch.bool), kernel)
    for name in ("sageattention", "flash_attn_interface"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(CinelabError, match="sageattention|flash_attn_interface"):
        attention(q.detach(), k, v, None, kernel)


@pytest.mark.parametrize("kernel", ["auto", "sdpa", "cudnn", "flash", "eight-bits", *EIGHT_BITS])
def test_meta_tensors_have_the_shape_without_a_package(kernel):
    q, k, v = (x.to("meta") for x in qkv())
    out = attention(q, k, v, None, kernel)
    assert (out.shape, out.dtype, out.is_meta) == (q.shape, q.dtype, True)


def test_meta_tensors_are_attended_to_in_one_operation():
    """As on a GPU; on a CPU's way the formula would be written out, and its scores counted."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Calls(TorchDispatchMode):
        def __torch_dispatch__(self, call, types, args=(), kwargs=None):
            names.append(call.name())
            return call(*args, **(kwargs or {}))

    q, k, v = (x.to("meta") for x in qkv())
    mask = torch.ones(1, 1, 40, KEYS, dtype=torch.bool, device="meta")
    for given, expected in ((None, "cudnn"), (mask, "efficient")):
        names = []
        with Calls():
            attention(q, k, v, given)
        whole = [name for name in names if "attention" in name]
        assert whole == [f"aten::_scaled_dot_product_{expected}_attention"]
        assert not any("bmm" in name or "softmax" in name for name in names)


def test_what_runs_is_asked_once_without_a_backward(monkeypatch):
    """A GPU that is not there: its kernels are stand-ins, and say whether gradients were on."""
    calls = []
    zeros = torch.zeros

    def kernel(q, k, v, mask):
        calls.append(q.requires_grad)
        return q

    def absent(q, k, v, mask):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", lambda *shape, device, **more: zeros(*shape, **more))
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled to answer"))
    own = switch.CALLS | {"cudnn": kernel, "flash": absent, "flash3": absent, "sage": kernel}
    monkeypatch.setattr(switch, "CALLS", own)
    switch._runs.cache_clear()
    try:
        for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
            with mode():
                assert available("cudnn") and not available("flash") and fastest() == "cudnn"
                assert available("eight-bits")
                available("flex")
        assert calls == [False, False], "one call of cudnn, one of sage"
    finally:
        switch._runs.cache_clear()
