"""The one attention switch: which kernel multiplies queries, keys and values.

    q (B, T, heads, D)   k, v (B, S, heads, D)
    mask broadcastable to (B, heads, T, S): bool, True = seen; or a bias that is added to the scores, -inf = not seen

A sparse mask may come as strips, a tuple of (rows, columns, mask): the queries in the slices `rows` see the keys in the
slices `columns` and no others, and every query is in one strip.
"""

import torch
import torch.nn.functional as fn
from torch import Tensor

from cinelab.errors import CinelabError

KERNELS = ("auto", "sdpa", "math", "flash")
SMALL = 1024  # keys up to which the plain formula beats the fused kernel on a CPU (its backward by 2 to 10 times)


def available(kernel: str) -> bool:
    """Whether `kernel` can run here, by probing one small call (forward and backward)."""
    if kernel in ("auto", "sdpa", "math"):
        return True
    if kernel not in KERNELS or not torch.cuda.is_available():
        return False
    try:
        from flash_attn import flash_attn_func

        q = torch.zeros(1, 8, 1, 32, dtype=torch.bfloat16, device="cuda", requires_grad=True)
        flash_attn_func(q, q, q).sum().backward()
        return True
    except Exception:
        return False


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | tuple | None = None, kernel: str = "auto") -> Tensor:
    """Softmax attention (B, T, heads, D). `auto`: the plain formula for short keys on a CPU, else SDPA."""
    if isinstance(mask, tuple):
        return _strips(q, k, v, mask, kernel)
    if kernel == "auto":
        kernel = "math" if q.device.type == "cpu" and k.shape[1] <= SMALL else "sdpa"
    if kernel not in KERNELS:
        raise CinelabError(f"Attention kernel {kernel!r} is unknown; use one of {', '.join(KERNELS)}.")
    return {"sdpa": _sdpa, "math": _math, "flash": _flash}[kernel](q, k, v, mask)


def _strips(q: Tensor, k: Tensor, v: Tensor, strips: tuple, kernel: str) -> Tensor:
    pick = lambda x, slices: torch.cat([x[:, part] for part in slices], dim=1)  # its gradient is cheaper than an index's
    outs = []
    for rows, columns, mask in strips:
        out = attention(pick(q, rows), pick(k, columns), pick(v, columns), mask, kernel)
        outs += zip([part.start for part in rows], out.split([part.stop - part.start for part in rows], dim=1), strict=True)
    return torch.cat([out for _, out in sorted(outs, key=lambda piece: piece[0])], dim=1)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    out = fn.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask)
    return out.transpose(1, 2)


def _math(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k' / sqrt(D)) v, written out."""
    scores = (q.transpose(1, 2) * q.shape[-1] ** -0.5) @ k.permute(0, 2, 3, 1)  # (B, heads, T, S)
    if mask is not None:
        scores = scores.masked_fill_(~mask, float("-inf")) if mask.dtype == torch.bool else scores.add_(mask)
    return (scores.softmax(-1).type_as(v) @ v.transpose(1, 2)).transpose(1, 2)


def _flash(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None:
        raise CinelabError("Kernel 'flash' takes no mask; use kernel 'auto'.")
    try:
        from flash_attn import flash_attn_func
    except ImportError as error:
        raise CinelabError("Kernel 'flash' needs the package flash-attn and a CUDA GPU: "
                           "pip install 'cinelab[flash]', or use kernel 'auto'.") from error
    return flash_attn_func(q, k, v)
