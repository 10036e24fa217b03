"""The one attention switch: which kernel multiplies queries, keys and values.

    q (B, T, h, d)   k, v (B, S, h, d)
    mask broadcastable to (B, h, T, S): bool, True = attended; or a bias that is added to the
    scores, -inf = not attended

    B batch   T queries   S keys   h heads   d head size

`use_kernel` names the kernel for all calls inside it; without it the fastest that fits is chosen.
Kernels in eight bits (`cinelab.ops.eight_bit_attention`) are fast, not exact, and never chosen
unasked. An `AttentionContext` is what the network is given: it decides what each token attends to.
"""

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as fn
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.weak import WeakTensorKeyDictionary

from cinelab.errors import CinelabError
from cinelab.ops import eight_bit_attention
from cinelab.ops.rope import Rope

FASTEST = ("flash3", "flash", "cudnn", "sdpa")  # in the order in which they are tried on a GPU
# in the order in which `eight-bits` tries them: e4m3 throughout on Hopper, int8 scores elsewhere
EIGHT_BITS = ("flash3-fp8", "sage")
KERNELS = ("auto", "sdpa", "math", "cudnn", "flash", "flash3", "flex", "eight-bits", *EIGHT_BITS)
# exact kernels that torch.compile cannot look into: inside what it compiles SDPA takes their place
OPAQUE = ("flash3", "flash", "cudnn")
MASKLESS = ("flash", "flash3", *EIGHT_BITS)
REMEDY = {
    "cudnn": "a CUDA GPU of Ampere or newer with cuDNN",
    "flex": "torch with FlexAttention; on a CPU it has no backward",
    "flash": "the package flash-attn and a CUDA GPU: pip install 'cinelab[flash]'",
    "flash3": "a Hopper GPU and flash-attn's hopper build (module flash_attn_interface)",
    "flash3-fp8": "a Hopper GPU and flash-attn's hopper build (module flash_attn_interface)",
    "sage": "the package sageattention and a CUDA GPU of Ampere or newer",
    "eight-bits": "a CUDA GPU with flash-attn's hopper build or the package sageattention",
}
# keys up to which the plain formula beats the fused kernel on a CPU (its backward by 2 to 10 times)
SMALL = 1024
_kernel: ContextVar[str] = ContextVar("kernel", default="auto")


def available(kernel: str) -> bool:
    """Return whether `kernel` runs here: one small forward call is tried on a GPU, once a process.

    The answer depends neither on `no_grad` nor on `inference_mode`, and nothing is compiled for it:
    FlexAttention is looked up only, since it is compiled where it is used.
    """
    if kernel == "eight-bits":
        return any(map(available, EIGHT_BITS))
    return kernel in KERNELS and _runs(kernel, torch.cuda.is_available())


@cache
def _runs(kernel: str, gpu: bool) -> bool:
    if kernel in ("auto", "sdpa", "math"):
        return True
    if kernel == "flex":
        module = "triton" if gpu else "torch.nn.attention.flex_attention"
        return importlib.util.find_spec(module) is not None
    if not gpu:
        return False
    try:
        q = torch.zeros(1, 128, 1, 64, dtype=torch.bfloat16, device="cuda")
        CALLS[kernel](q, q, q, None)
        return True
    except Exception:
        return False


@torch.compiler.assume_constant_result
def fastest() -> str:
    """Return the first of FASTEST that runs on this machine's GPU."""
    return next(kernel for kernel in FASTEST if available(kernel))


@torch.compiler.assume_constant_result
def fastest_in_eight_bits() -> str:
    """Return the first of EIGHT_BITS that runs here. Raise CinelabError where none does."""
    for kernel in EIGHT_BITS:
        if available(kernel):
            return kernel
    raise _absent("eight-bits", "neither runs here")


class AttentionContext(Protocol):
    """What each token of a call of the network may attend to: the context does the attention.

    The network hands over unrotated queries, keys and values and gets the heads' outputs back. So
    it does not know whether keys come from the same clip (training) or a KV cache (streaming).
    """

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rope: Rope) -> Tensor:
        """Return the heads' outputs (B, T, h, d) from unrotated q, k, v (B, T, h, d)."""
        ...


@contextmanager
def use_kernel(kernel: str) -> Iterator[None]:
    """Make `attention` use this kernel (one of KERNELS), inside, where a call names none."""
    before = _kernel.set(kernel)
    try:
        yield
    finally:
        _kernel.reset(before)


@torch.compiler.assume_constant_result
def current_kernel() -> str:
    """Return the kernel that `use_kernel` named; a compiled block keeps the one it began with."""
    return _kernel.get()


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, kernel: str | None = None
) -> Tensor:
    """Return softmax attention (B, T, h, d) of q (B, T, h, d) over k, v (B, S, h, d).

    Kernel `auto` is the plain formula for short keys on a CPU, on a GPU the fastest that is there,
    and SDPA where there is a mask; `eight-bits` is the first of EIGHT_BITS that is there. None is
    the kernel that `use_kernel` named, else auto. Meta tensors take the way of a GPU.
    """
    kernel = _chosen(kernel or current_kernel(), q, k, mask)
    if kernel not in KERNELS:
        raise CinelabError(
            f"Attention kernel {kernel!r} is unknown; use one of {', '.join(KERNELS)}."
        )
    if mask is not None and kernel in MASKLESS:
        raise CinelabError(f"Kernel {kernel!r} takes no mask; use kernel 'auto'.")
    if q.is_meta and kernel in FASTEST:
        return _as_on_a_gpu(q, k, v, mask)
    return CALLS[kernel](q, k, v, mask)


def _chosen(kernel: str, q: Tensor, k: Tensor, mask: Tensor | None) -> str:
    """Return the kernel of one call, from shapes, device and precision alone: nothing waits."""
    if kernel in ("eight-bits", *EIGHT_BITS) and k.shape[1] <= SMALL:
        return "sdpa"  # a prompt's words: to quantize them would cost more than it saves
    if kernel in OPAQUE and torch.compiler.is_compiling():
        return "sdpa"  # of a prompt's few words, or of a training step compiled whole
    if kernel == "eight-bits":
        return fastest_in_eight_bits() if not q.is_meta else EIGHT_BITS[0]
    if kernel != "auto":
        return kernel
    if q.device.type == "cpu":
        return "math" if k.shape[1] <= SMALL else "sdpa"
    if q.is_meta or mask is not None or q.dtype == torch.float32 or torch.compiler.is_compiling():
        return "sdpa"
    return fastest()


def _as_on_a_gpu(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Return SDPA of meta tensors as the one operation that it is on a GPU, where on meta tensors
    torch writes out the formula: cuDNN's, or the memory-efficient one for masks and fp32."""
    heads = [x.transpose(1, 2) for x in (q, k, v)]
    graph = torch.is_grad_enabled() and q.requires_grad
    if mask is None and q.dtype != torch.float32:
        call = torch.ops.aten._scaled_dot_product_cudnn_attention
    else:
        call = torch.ops.aten._scaled_dot_product_efficient_attention
    bias = None if mask is None else mask.to(q.dtype)
    return call(*heads, bias, graph)[0].transpose(1, 2)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    out = fn.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask
    )
    return out.transpose(1, 2)


def _math(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Return softmax(q k' / sqrt(d)) v, written out."""
    scores = (q.transpose(1, 2) * q.shape[-1] ** -0.5) @ k.permute(0, 2, 3, 1)  # (B, h, T, S)
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill_(~mask, float("-inf"))
    elif mask is not None:
        scores = scores.add_(mask)
    return (scores.softmax(-1).type_as(v) @ v.transpose(1, 2)).transpose(1, 2)


def _cudnn(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    try:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return _sdpa(q, k, v, mask)
    except RuntimeError as error:
        raise _absent("cudnn", error) from error


def _flash(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    try:
        from flash_attn import flash_attn_func
    except ImportError as error:
        raise _absent("flash", error) from error
    return flash_attn_func(q, k, v)


def _flash3(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    try:
        from flash_attn_interface import flash_attn_func
    except ImportError as error:
        raise _absent("flash3", error) from error
    out = flash_attn_func(q, k, v)
    # its versions differ in whether the scores' log-sum-exp is returned too
    return out[0] if isinstance(out, tuple) else out


def _sage(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return _in_eight_bits("sage", q, k, v)


def _flash3_fp8(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return _in_eight_bits("flash3-fp8", q, k, v)


def _in_eight_bits(kernel: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if q.dtype not in (torch.bfloat16, torch.float16):
        raise CinelabError(
            f"Kernel {kernel!r} takes bf16 or fp16, not {str(q.dtype).removeprefix('torch.')}; use "
            "kernel 'auto', or a model in bf16."
        )
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        raise CinelabError(f"Kernel {kernel!r} has no gradient; train with kernel 'auto'.")
    try:
        return eight_bit_attention.OPERATIONS[kernel](q, k, v)
    except ImportError as error:
        raise _absent(kernel, error) from error


def _flex(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Skip blocks of the mask in which nothing is attended to: for long masked clips on a GPU."""
    from torch.nn.attention.flex_attention import flex_attention

    if q.device.type == "cpu" and q.requires_grad and torch.is_grad_enabled():
        raise _absent("flex", "there is no gradient on a CPU")
    call = cast(Callable[..., Any], flex_attention)
    if q.device.type != "cpu":
        call = _compiled_flex()
    blocks = None if mask is None else _blocks(mask, q)
    with warnings.catch_warnings():
        # on a CPU it runs uncompiled on purpose
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
        return call(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), block_mask=blocks
        ).transpose(1, 2)


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


# block masks by mask, since a context hands the same mask to all layers
_block_masks = WeakTensorKeyDictionary()


def _blocks(mask: Tensor, q: Tensor) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    if mask not in _block_masks:
        attended = mask if mask.dtype == torch.bool else mask == 0
        attended = attended.expand(*mask.shape[:2], q.shape[1], -1)
        films, heads = (None if n == 1 else n for n in attended.shape[:2])

        def allow(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return attended[b if films else 0, h if heads else 0, i, j]

        _block_masks[mask] = create_block_mask(
            allow, films, heads, attended.shape[2], attended.shape[3], device=str(q.device)
        )
    return _block_masks[mask]


def _absent(kernel: str, why: object) -> CinelabError:
    return CinelabError(
        f"Kernel {kernel!r} needs {REMEDY[kernel]}; or use kernel 'auto' "
        f"({' '.join(str(why).split())[:120]})."
    )


CALLS = {
    "sdpa": _sdpa,
    "math": _math,
    "cudnn": _cudnn,
    "flash": _flash,
    "flash3": _flash3,
    "flash3-fp8": _flash3_fp8,
    "sage": _sage,
    "flex": _flex,
}
