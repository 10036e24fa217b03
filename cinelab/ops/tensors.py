"""Tensor helpers that several rooms share.

B batch   n pages   U tokens a page   h heads   d head size   R query chunks   k retrieved pages
"""

import torch
from einops import rearrange
from torch import Tensor


def gather_pages(x: Tensor, picks: Tensor, out: Tensor | None = None) -> Tensor:
    """Return the picked pages of x (B, n, U, h, d), side by side: (B, R, k U, h, d).

    picks (B or 1, G, R, k) holds page numbers; G is 1, or h where every head picks for itself. They
    are written into `out` (B, k U, h, d) where it is given and R is 1.
    """
    batch, _, _, heads, _ = x.shape
    if picks.shape[1] != 1:
        rows = torch.arange(batch, device=x.device)[:, None, None, None]
        columns = torch.arange(heads, device=x.device)[None, :, None, None]
        pages = x.transpose(2, 3).transpose(1, 2)[rows, columns, picks]  # (B, h, R, k, U, d)
        return _into(out, rearrange(pages, "b h r k t d -> b r (k t) h d"))
    rows = picks[:, 0]  # (B or 1, R, k)
    if batch > 1:
        rows = rows + torch.arange(batch, device=x.device)[:, None, None] * x.shape[1]
    kind = _widest(x)
    # a view as another number has no gradient, not even as the same one
    flat = x.flatten(0, 1) if kind == x.dtype else x.flatten(0, 1).view(kind)
    if out is not None and out.is_contiguous() and out.dtype == x.dtype:
        there = out.view(kind).unflatten(1, (picks.shape[-1], -1)).flatten(0, 1)
        torch.index_select(flat, 0, rows.flatten(), out=there)
        return out[:, None]
    pages = flat.index_select(0, rows.flatten())
    pages = pages if kind == x.dtype else pages.view(x.dtype)
    return _into(out, pages.unflatten(0, rows.shape).flatten(2, 3))


def _into(out: Tensor | None, pages: Tensor) -> Tensor:
    """Return pages (B, 1, k U, h, d), in `out` (B, k U, h, d) where it is given."""
    if out is None:
        return pages
    return out.copy_(pages[:, 0])[:, None]


def _widest(x: Tensor) -> torch.dtype:
    """Return in which numbers the rows of x (..., d) are copied: on a GPU of eight bytes where
    they can be, since few large numbers are copied faster than many small ones."""
    fits = x.device.type != "cpu" and x.is_contiguous() and x.shape[-1] * x.element_size() % 8 == 0
    return torch.int64 if fits and not x.requires_grad else x.dtype


def to_device(x: Tensor, device: torch.device | str) -> Tensor:
    """Return x on a device. From the host to a GPU nothing waits: neither the host for the copy,
    nor the copy for the GPU's running work."""
    if x.device.type == "cpu" and torch.device(device).type == "cuda":
        x = x.pin_memory()
    return x.to(device, non_blocking=x.device.type == "cpu")


def repeat_batch(x: Tensor, batch: int) -> Tensor:
    """Return x (B, ...) repeated to (batch, ...), where `batch` is a multiple of B.

    A guided call shows each film twice, and both halves attend to the same history.
    """
    times = batch // x.shape[0]
    return x if times == 1 else x.repeat(times, *[1] * (x.ndim - 1))
