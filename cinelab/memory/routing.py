"""Routing: relevance of history units to a chunk's queries, and the choice of the best under a
budget.

    B batch   h heads   d head size   R query chunks   n units   U tokens a unit   T tokens a query chunk
    G groups of heads that choose together: 1, or h when every head chooses for itself

Training (all chunks of a clip at once) and streaming (one chunk) call the same functions.
"""

from collections.abc import Callable
from math import sqrt

import torch
import torch.nn.functional as fn
from einops import rearrange
from torch import Tensor

from cinelab.memory.policy import BLOCK, CAMR, Policy, RandomTopK
from cinelab.seeds import rng_at

# the score of a unit that was passed over: below every other, above what is erased
UNSEARCHED = -1e6


def relevance(
    policy: Policy, q: Tensor, k: Tensor, allowed: Tensor | None = None, place: tuple[int, ...] = ()
) -> Tensor:
    """Scores (B, G, R, n), higher = more relevant.

    q (B, R, T, h, d) and k (B, n, U, h, d) are unrotated. `allowed` (R, n) is False where a unit is
    not yet past, None where all are; `place` addresses the random control's lot.
    """
    if isinstance(policy, RandomTopK):
        return random_relevance(policy, q.shape[0], (q.shape[1], k.shape[1]), place).to(q.device)
    if (own := policy.relevance(q.detach(), k.detach())) is not None:
        return own
    q, k = (pool(x.detach(), policy.summary).float() for x in (q, k))
    # (B, h, R, n)
    scores = mean_score(q, k) if policy.score == "mean" else mass_score(q, k, allowed)
    return scores if policy.per_head else scores.mean(1, keepdim=True)


def searched_in_two_steps(
    policy: CAMR,
    q: Tensor,
    keys: Callable[[Tensor], Tensor],
    count: int,
    blocks: Tensor,
    place: tuple[int, ...],
) -> Tensor:
    """Scores (B, G, 1, n) of a long history of `count` units: UNSEARCHED but for those of the best
    blocks, and the newest.

    q (B, 1, T, h, d); `keys` fetches the pooled keys (B, c, U, h, d) of units (B, c); blocks (B, m,
    1, h, d) the mean key of every BLOCK units. Blocks are ranked by mean query times mean key, all
    heads of the layer together. What is left of n beyond the whole blocks is always compared.
    """
    whole = blocks.shape[1]
    wanted = policy.compared // BLOCK - 1
    q = pool(q.detach(), policy.summary)
    ranked = blocks.flatten(2) @ q.float().mean(2).flatten(1)[..., None]  # (B, m, 1)
    best = ranked[..., 0].topk(min(wanted, whole), dim=-1).indices.sort(dim=-1).values
    units = (best[..., None] * BLOCK + torch.arange(BLOCK, device=best.device)).flatten(1)
    newest = torch.arange(whole * BLOCK, count, device=best.device).expand(len(units), -1)
    units = torch.cat([units, newest], dim=1)  # (B, c), in film order
    found = relevance(policy, q, keys(units), None, place)  # (B, G, 1, c)
    scores = found.new_full((*found.shape[:3], count), UNSEARCHED)
    return scores.scatter_(-1, units[:, None, None].expand(found.shape), found)


def pool(x: Tensor, tokens: int | None) -> Tensor:
    """Queries or keys (B, n, U, h, d) of each unit averaged to `tokens` bands of neighbours; None,
    or a unit of no more tokens, leaves them as they are.

    What is pooled already stays as it is, so that a film may keep its history pooled.
    """
    if tokens is None or x.shape[2] <= tokens:
        return x
    bands = fn.adaptive_avg_pool1d(rearrange(x.float(), "b n u h d -> (b n) (h d) u"), tokens)
    return rearrange(bands, "(b n) (h d) t -> b n t h d", n=x.shape[1], h=x.shape[3])


def mean_score(q: Tensor, k: Tensor) -> Tensor:
    """Mean query times mean key, softmax over units is monotone and left out (MoBA, MoC). (B, h, R,
    n)"""
    return torch.einsum("brhd,bnhd->bhrn", q.mean(2), k.mean(2)) / sqrt(q.shape[-1])


def mass_score(q: Tensor, k: Tensor, allowed: Tensor | None) -> Tensor:
    """Share of attention that each unit's tokens would draw, averaged over the chunk's queries. (B,
    h, R, n)"""
    chunks = q.shape[1]
    units = k.shape[1]
    tokens = k.shape[2]
    # (B, h, R T, n U)
    scores = (
        q.flatten(1, 2).transpose(1, 2) @ k.flatten(1, 2).permute(0, 2, 3, 1) / sqrt(q.shape[-1])
    )
    scores = scores.unflatten(2, (chunks, -1))  # (B, h, R, T, n U)
    if allowed is not None:
        scores = scores.masked_fill(~allowed.repeat_interleave(tokens, -1)[:, None], float("-inf"))
    share = scores.softmax(-1).unflatten(-1, (units, tokens)).sum(-1)
    return share.nan_to_num(0.0).mean(3)  # a chunk without history has no mass to share


def random_relevance(
    policy: RandomTopK, batch: int, shape: tuple[int, int], place: tuple[int, ...]
) -> Tensor:
    """Random scores (B, 1, R, n), addressed by place; its last number is the layer's."""
    place = place[:-1] if policy.shared else place
    return torch.rand((batch, 1, *shape), generator=rng_at(policy.seed, "lot", *place))


def choose(
    policy: Policy, priority: Tensor, scores: Tensor | None, most: int | None = None
) -> Tensor:
    """Indices (B, G, k) of the kept units in film order, for one chunk with n finished units.

    priority (B, n) from the policy, scores (B, G, n) or None where nothing competes; `most` units
    are there to be kept.
    """
    count = min(policy.budget_at(priority.shape[-1]), priority.shape[-1])
    count = count if most is None else min(count, most)
    ranked = priority[:, None]
    if scores is not None:
        ranked = ranked.to(scores.device)
        ranked = torch.where(ranked == 0, scores, ranked)
    return ranked.topk(count, dim=-1).indices.sort(dim=-1).values


def choose_all(policy: Policy, priorities: list[Tensor], scores: Tensor | None) -> Tensor:
    """`choose` for every chunk of a clip: bool (B, G, n, n), [.., i, j] = chunk i sees finished
    unit j < i.

    priorities[i] (B, i) as `past_priorities` gives them; scores (B, G, n, n) or None. One unit per
    chunk.
    """
    rows = []
    for i, priority in enumerate(priorities):
        picks = choose(policy, priority, None if scores is None else scores[:, :, i, :i])
        seen = torch.zeros(
            (*picks.shape[:2], len(priorities)), dtype=torch.bool, device=picks.device
        )
        rows.append(seen.scatter_(-1, picks, True))
    return torch.stack(rows, dim=2)


def past_priorities(policy: Policy, shots: Tensor) -> list[Tensor]:
    """For every chunk i of films cut as `shots` (B, n): priorities (B, i) of the units before
    it."""
    # a policy need not know what to do with no history
    nothing = torch.zeros((shots.shape[0], 0), device=shots.device)
    return [
        policy.priority(shots[:, :i], shots[:, i]) if i else nothing for i in range(shots.shape[1])
    ]
