"""The one attention switch: which kernel multiplies queries, keys and values.

    q (B, T, heads, D)   k, v (B, S, heads, D)
    mask broadcastable to (B, heads, T, S): bool, True = seen; or a bias that is added to the scores, -inf = not seen

A sparse mask may come as strips, a tuple of (rows, columns, mask): the queries in the slices `rows`
see the keys in the slices `columns` and no others, and every query is in one strip.
"""

import warnings
from functools import cache

import torch
import torch.nn.functional as fn
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.weak import WeakTensorKeyDictionary

from cinelab.errors import CinelabError

KERNELS = ("auto", "sdpa", "math", "cudnn", "flash", "flash3", "flex")
FASTEST = ("flash3", "flash", "cudnn", "sdpa")  # in the order in which they are tried on a GPU
REMEDY = {
    "cudnn": "a CUDA GPU of Ampere or newer with cuDNN",
    "flex": "torch with FlexAttention; on a CPU it has no backward",
    "flash": "the package flash-attn and a CUDA GPU: pip install 'cinelab[flash]'",
    "flash3": "a Hopper GPU and flash-attn's hopper build (module flash_attn_interface)",
}
# keys up to which the plain formula beats the fused kernel on a CPU (its backward by 2 to 10 times)
SMALL = 1024


def available(kernel: str) -> bool:
    """Whether `kernel` can run here, by probing one small call (forward and, on a GPU,
    backward)."""
    if kernel in ("auto", "sdpa", "math"):
        return True
    if kernel not in KERNELS or (kernel != "flex" and not torch.cuda.is_available()):
        return False
    try:
        if torch.cuda.is_available():
            q = torch.zeros(1, 128, 1, 64, dtype=torch.bfloat16, device="cuda", requires_grad=True)
            attention(q, q, q, None, kernel).sum().backward()
        else:
            q = torch.zeros(1, 8, 1, 32)
            attention(q, q, q, None, kernel)
        return True
    except Exception:
        return False


@cache
def fastest() -> str:
    """The first of FASTEST that runs on this machine's GPU."""
    return next(kernel for kernel in FASTEST if available(kernel))


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | tuple | None = None, kernel: str = "auto"
) -> Tensor:
    """Softmax attention (B, T, heads, D). `auto`: the plain formula for short keys on a CPU; on a
    GPU the fastest that is there; SDPA where there is a mask."""
    if isinstance(mask, tuple):
        return _strips(q, k, v, mask, kernel)
    if kernel == "auto":
        kernel = _automatic(q, k, mask)
    if kernel not in KERNELS:
        raise CinelabError(
            f"Attention kernel {kernel!r} is unknown; use one of {', '.join(KERNELS)}."
        )
    if mask is not None and kernel in ("flash", "flash3"):
        raise CinelabError(f"Kernel {kernel!r} takes no mask; use kernel 'auto'.")
    return CALLS[kernel](q, k, v, mask)


def _automatic(q: Tensor, k: Tensor, mask: Tensor | None) -> str:
    if q.device.type == "cpu":
        return "math" if k.shape[1] <= SMALL else "sdpa"
    return fastest() if mask is None and q.dtype != torch.float32 else "sdpa"


def _strips(q: Tensor, k: Tensor, v: Tensor, strips: tuple, kernel: str) -> Tensor:
    # its gradient is cheaper than an index's
    pick = lambda x, slices: torch.cat([x[:, part] for part in slices], dim=1)
    outs = []
    for rows, columns, mask in strips:
        out = attention(pick(q, rows), pick(k, columns), pick(v, columns), mask, kernel)
        outs += zip(
            [part.start for part in rows],
            out.split([part.stop - part.start for part in rows], dim=1),
            strict=True,
        )
    return torch.cat([out for _, out in sorted(outs, key=lambda piece: piece[0])], dim=1)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    out = fn.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask
    )
    return out.transpose(1, 2)


def _math(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k' / sqrt(D)) v, written out."""
    scores = (q.transpose(1, 2) * q.shape[-1] ** -0.5) @ k.permute(0, 2, 3, 1)  # (B, heads, T, S)
    if mask is not None:
        scores = (
            scores.masked_fill_(~mask, float("-inf"))
            if mask.dtype == torch.bool
            else scores.add_(mask)
        )
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
    # its versions differ in whether the log-sum comes too
    return out[0] if isinstance(out, tuple) else out


def _flex(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Blocks of which nothing is seen are skipped: for long masked clips on a GPU."""
    from torch.nn.attention.flex_attention import flex_attention

    if q.device.type == "cpu" and q.requires_grad and torch.is_grad_enabled():
        raise _absent("flex", "there is no gradient on a CPU")
    call = flex_attention if q.device.type == "cpu" else _compiled_flex()
    blocks = None if mask is None else _blocks(mask, q)
    with warnings.catch_warnings():
        # on a CPU that is meant
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
        return call(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), block_mask=blocks
        ).transpose(1, 2)


@cache
def _compiled_flex():
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


_MADE = WeakTensorKeyDictionary()  # block masks by mask: a sight hands the same one to all layers


def _blocks(mask: Tensor, q: Tensor):
    from torch.nn.attention.flex_attention import create_block_mask

    if mask not in _MADE:
        seen = (mask if mask.dtype == torch.bool else mask == 0).expand(
            *mask.shape[:2], q.shape[1], -1
        )
        films, heads = (None if n == 1 else n for n in seen.shape[:2])
        see = lambda b, h, i, j: seen[b if films else 0, h if heads else 0, i, j]
        _MADE[mask] = create_block_mask(
            see, films, heads, seen.shape[2], seen.shape[3], device=str(q.device)
        )
    return _MADE[mask]


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
    "flex": _flex,
}
