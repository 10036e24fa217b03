"""Packed positions for whole clips: what a chunk retrieved stands side by side before it, from
place 0 on (block-relative RoPE of CausalCine, arXiv 2605.12496).

    B batch   R query chunks   t tokens a chunk   h heads   d head size
    m pages of the clean clip   U tokens a page   k retrieved pages, the budget
    G heads that retrieve for themselves: 1 or h

No mask over the clip can say this, since the place of a key differs from query chunk to query
chunk: keys and values are gathered for each of them. The counterpart in streaming is
`cinelab.memory.open_chunk`.
"""

import torch
from einops import rearrange
from torch import Tensor

from cinelab.ops.attention import attention
from cinelab.ops.rope import Rope
from cinelab.ops.tensors import gather_pages

QKV = tuple[Tensor, Tensor, Tensor]


def attend_packed(
    retrieved: Tensor,
    own: QKV,
    history: tuple[Tensor, Tensor],
    *,
    budget: int,
    freqs: tuple[Tensor, Tensor],
    rope: Rope,
) -> Tensor:
    """Return the heads' outputs (B, R, t, h, d) of query chunks over their retrieved pages and
    themselves.

    retrieved (B or 1, G, R, m) bool, at most `budget` pages a chunk; `own` are the chunks'
    unrotated queries, keys and values (B, R, t, h, d), `history` the unrotated keys and the values
    (B, m, U, h, d) of the clean clip; `freqs` the rotations of `budget` pages side by side,
    (budget, 1, U, 1, d / 2, 2), and those of the chunk behind them, (t, 1, d / 2, 2).
    """
    q, own_k, own_v = own
    keys, values = history
    past, now = freqs
    count = keys.shape[1]
    picks = picks_of(retrieved, budget)
    # every page rotated to each of the `budget` places: m budget rotations, where one for every
    # retrieved page of every query chunk would be R budget
    placed = rope.rotate(keys[:, None], past).flatten(1, 2)
    at = picks.clamp(min=0) + count * torch.arange(budget, device=q.device)
    past_k = gather_pages(placed, at)  # (B, R, budget U, h, d)
    past_v = gather_pages(values, picks.clamp(min=0))
    k = torch.cat([past_k, rope.rotate(own_k, now)], dim=2)
    v = torch.cat([past_v, own_v], dim=2)
    mask = _mask(picks, q, keys.shape[2])
    rotated = rope.rotate(q, now).flatten(0, 1)
    return attention(rotated, k.flatten(0, 1), v.flatten(0, 1), mask).reshape(q.shape)


def picks_of(retrieved: Tensor, budget: int) -> Tensor:
    """Return the numbers (B or 1, G, R, budget) of retrieved pages in film order, -1 = none; those
    that are there come last, so that they stand right before the chunk."""
    filled, picks = retrieved.to(torch.int8).topk(budget, dim=-1)
    # topk keeps no order among equals
    return torch.where(filled.bool(), picks, -1).sort(dim=-1).values


def _mask(picks: Tensor, q: Tensor, tokens: int) -> Tensor:
    """Return (B R, h, 1, S): the retrieved pages that are there, and the chunk's own tokens."""
    batch, _, size, heads, _ = q.shape
    there = (picks >= 0).expand(batch, heads, -1, -1).repeat_interleave(tokens, -1)
    own = there.new_ones(*there.shape[:3], size)
    return rearrange(torch.cat([there, own], dim=-1), "b h r s -> (b r) h 1 s")
