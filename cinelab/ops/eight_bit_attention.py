"""Attention with queries and keys in eight bits, by packages that are well kept: fast, not exact.

    q (B, T, h, d)   k, v (B, S, h, d)   in bf16 or fp16   ->   (B, T, h, d), in q's precision

Each is an operation of torch's own registry: under `torch.compile` it stays whole, and on meta
tensors it has its shape without the package. There is no gradient.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from cinelab.ops.compiling import Compiled

E4M3 = torch.float8_e4m3fn


@torch.library.custom_op("cinelab::sage_attention", mutates_args=())
def sage_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return attention with int8 scores (SageAttention, arXiv 2410.02367 and 2411.10958): keys are
    smoothed by their mean and quantized by block. ImportError without the package."""
    from sageattention import sageattn

    return sageattn(q, k, v, tensor_layout="NHD", is_causal=False).contiguous()


@torch.library.custom_op("cinelab::flash3_fp8_attention", mutates_args=())
def flash3_fp8_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return attention with q, k, v in e4m3 and a scale for each film and head (FlashAttention-3,
    arXiv 2407.08608, section 3.3). ImportError without the package."""
    from flash_attn_interface import flash_attn_func

    quantize = _quantized() if q.is_cuda else quantize_heads
    (q8, q_scale), (k8, k_scale), (v8, v_scale) = (quantize(x) for x in (q, k, v))
    out = flash_attn_func(q8, k8, v8, q_descale=q_scale, k_descale=k_scale, v_descale=v_scale)
    # its versions differ in whether the scores' log-sum-exp is returned too
    out = out[0] if isinstance(out, tuple) else out
    return out.to(q.dtype).contiguous()


@sage_attention.register_fake
@flash3_fp8_attention.register_fake
def _like_queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return q.new_empty(q.shape)


def quantize_heads(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x (B, T, h, d) in e4m3, and what each film and head was divided by (B, h), fp32."""
    largest = x.abs().amax(dim=(1, 3)).float()  # (B, h)
    scale = largest.clamp(min=1e-12) / torch.finfo(E4M3).max
    return (x.float() / scale[:, None, :, None]).to(E4M3), scale


@cache
def _quantized() -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Return `quantize_heads` compiled, which reads keys and values twice and else seven times; for
    any length, since a film's history grows."""
    return Compiled(quantize_heads, remedy="use kernel 'auto'", dynamic=True)


OPERATIONS = {"sage": sage_attention, "flash3-fp8": flash3_fp8_attention}
