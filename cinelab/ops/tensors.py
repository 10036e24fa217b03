"""Tensor helpers that several rooms share.

B batch   n pages   U tokens a page   h heads   d head size   R query chunks   k retrieved pages
"""

import torch
from einops import rearrange
from torch import Tensor


def gather_pages(x: Tensor, picks: Tensor) -> Tensor:
    """Return the picked pages of x (B, n, U, h, d), side by side: (B, R, k U, h, d).

    picks (B or 1, G, R, k) holds page numbers; G is 1, or h where every head picks for itself. A
    pick of -1 fetches page 0, which the caller masks.
    """
    batch, _, _, heads, _ = x.shape
    picks = picks.clamp(min=0)
    if picks.shape[1] == 1:
        first = torch.arange(batch, device=x.device)[:, None, None] * x.shape[1]
        rows = first + picks[:, 0]  # (B, R, k)
        pages = x.flatten(0, 1).index_select(0, rows.flatten())
        return pages.unflatten(0, rows.shape).flatten(2, 3)
    rows = torch.arange(batch, device=x.device)[:, None, None, None]
    columns = torch.arange(heads, device=x.device)[None, :, None, None]
    pages = x.transpose(2, 3).transpose(1, 2)[rows, columns, picks]  # (B, h, R, k, U, d)
    return rearrange(pages, "b h r k t d -> b r (k t) h d")


def repeat_batch(x: Tensor, batch: int) -> Tensor:
    """Return x (B, ...) repeated to (batch, ...), where `batch` is a multiple of B.

    A guided call shows each film twice, and both halves attend to the same history.
    """
    times = batch // x.shape[0]
    return x if times == 1 else x.repeat(times, *[1] * (x.ndim - 1))
