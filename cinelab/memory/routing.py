"""Routing: relevance of pages to a chunk's queries, and the choice of the best under a budget.

    B batch   h heads   d head size   n pages   U tokens a page
    R query chunks   T tokens a query chunk
    G groups of heads that retrieve together: 1, or h where every head retrieves for itself

CAMR's score follows CausalCine (arXiv 2605.12496), section on content-aware memory routing: s(i, f)
is the mean query of chunk i times the mean unrotated key d_f of history frame f, summed over heads
and channels (`score="mean", summary=1, unit="frame"`). Attention mass (`score="mass"`) is ours.

Training (all chunks of a clip at once) and streaming (one chunk) call the same functions.
"""

from collections.abc import Callable
from math import inf, sqrt

import torch
import torch.nn.functional as fn
from einops import rearrange
from torch import Tensor

from cinelab.memory.policy import BLOCK, Policy
from cinelab.ops.tensors import to_device

# the score of a page that the search passed over: below every other, above an erased page's
UNSEARCHED = -1e6


def relevance(
    policy: Policy, q: Tensor, k: Tensor, past: Tensor | None = None, place: tuple[int, ...] = ()
) -> Tensor:
    """Return scores (B, G, R, n), higher = more relevant, of a routed policy.

    q (B, R, T, h, d) and k (B, n, U, h, d) are unrotated. `past` (R, n) is False where a page is
    not yet finished, None where all are; `place` (its last number is the layer) addresses what is
    random. In a layer that does not route, the most recent pages are the most relevant.
    """
    if place and not policy.routed_in(place[-1]):
        newest = torch.arange(k.shape[1], device=q.device, dtype=torch.float32)
        return newest.expand(len(q), 1, q.shape[1], -1)
    # detached: which pages are retrieved is a choice, through which no gradient flows
    own = policy.relevance_at(q.detach(), k.detach(), place)
    if own is not None:
        return own.to(q.device)
    q, k = (pool(x.detach(), policy.summary).float() for x in (q, k))
    scores = mean_score(q, k) if policy.score == "mean" else mass_score(q, k, past)  # (B, h, R, n)
    return scores if policy.per_head else scores.mean(1, keepdim=True)


def searched_in_two_steps(
    policy: Policy,
    q: Tensor,
    keys: Callable[[Tensor], Tensor],
    count: int,
    *,
    blocks: Tensor,
    place: tuple[int, ...],
) -> Tensor:
    """Return scores (B, G, 1, n) of a long history of `count` pages: those of the best blocks and
    of the newest pages, and UNSEARCHED elsewhere.

    q (B, 1, T, h, d); `keys` fetches the pooled keys (B, c, U, h, d) of pages (B, c); blocks (B, m,
    1, h, d) are the mean keys of every BLOCK pages. Blocks are ranked by mean query times mean key,
    all heads of the layer together. Pages beyond the last whole block are always compared.
    """
    whole = blocks.shape[1]
    compared = policy.compared
    wanted = whole if compared is None else compared // BLOCK - 1
    q = pool(q.detach(), policy.summary)
    ranked = blocks.flatten(2) @ q.float().mean(2).flatten(1)[..., None]  # (B, m, 1)
    best = ranked[..., 0].topk(min(wanted, whole), dim=-1).indices.sort(dim=-1).values
    pages = (best[..., None] * BLOCK + torch.arange(BLOCK, device=best.device)).flatten(1)
    newest = torch.arange(whole * BLOCK, count, device=best.device).expand(len(pages), -1)
    pages = torch.cat([pages, newest], dim=1)  # (B, c), in film order
    found = relevance(policy, q, keys(pages), None, place)  # (B, G, 1, c)
    scores = found.new_full((*found.shape[:3], count), UNSEARCHED)
    return scores.scatter_(-1, pages[:, None, None].expand(found.shape), found)


def pool(x: Tensor, tokens: int | None) -> Tensor:
    """Return queries or keys (B, n, U, h, d) averaged to `tokens` bands of neighbours a page.

    None, or a page of no more tokens, leaves them as they are; so what is pooled stays pooled, and
    a film may store its history pooled.
    """
    if tokens is None or x.shape[2] <= tokens:
        return x
    if x.shape[2] % tokens == 0:  # then one kernel reads x as it is
        return x.unflatten(2, (tokens, -1)).mean(3, dtype=torch.float32)
    bands = fn.adaptive_avg_pool1d(rearrange(x.float(), "b n u h d -> (b n) (h d) u"), tokens)
    return rearrange(bands, "(b n) (h d) t -> b n t h d", n=x.shape[1], h=x.shape[3])


def mean_score(q: Tensor, k: Tensor) -> Tensor:
    """Return mean query times mean key (B, h, R, n), as MoBA (arXiv 2502.13189) and Mixture of
    Contexts (arXiv 2508.21058) route.

    A softmax over pages would not change their order, and is left out. The mean over heads that
    `relevance` takes orders pages as CausalCine's sum does.
    """
    return torch.einsum("brhd,bnhd->bhrn", q.mean(2), k.mean(2)) / sqrt(q.shape[-1])


def mass_score(q: Tensor, k: Tensor, past: Tensor | None) -> Tensor:
    """Return the share of attention (B, h, R, n) that each page's tokens would draw, averaged over
    the chunk's queries.

    That is the softmax over all pooled keys of the history, summed over each page: unlike the mean
    score it lets a single matching token bring its page back.
    """
    chunks = q.shape[1]
    pages, tokens = k.shape[1:3]
    queries = q.flatten(1, 2).transpose(1, 2)  # (B, h, R T, d)
    keys = k.flatten(1, 2).permute(0, 2, 3, 1)  # (B, h, d, n U)
    scores = (queries @ keys / sqrt(q.shape[-1])).unflatten(2, (chunks, -1))  # (B, h, R, T, n U)
    if past is not None:
        scores = scores.masked_fill(~past.repeat_interleave(tokens, -1)[:, None], float("-inf"))
    share = scores.softmax(-1).unflatten(-1, (pages, tokens)).sum(-1)
    if past is not None:
        share = share.nan_to_num(0.0)  # a chunk without history has no mass to share
    return share.mean(3)


def choose(
    policy: Policy, priority: Tensor, scores: Tensor | None, most: int | None = None
) -> Tensor:
    """Return the retrieved pages (B, G, k) in film order, for one chunk with n finished pages.

    priority (B, n) is the policy's: +inf = pinned, 0 = competing, below 0 = the rest. Scores (B, G,
    n) take the place of its zeros; None = nothing competes. At most `most` pages are there to be
    retrieved.
    """
    count = min(policy.budget_at(priority.shape[-1]), priority.shape[-1])
    count = count if most is None else min(count, most)
    ranked = priority[:, None]
    if scores is not None:
        ranked = ranked.to(scores.device)
        ranked = torch.where(ranked == 0, scores, ranked)
    # in film order, so that packed positions keep the order of time
    return ranked.topk(count, dim=-1).indices.sort(dim=-1).values


def choose_all(
    policy: Policy, priorities: list[Tensor], scores: Tensor | None, pages: int = 1
) -> Tensor:
    """Return `choose` for every chunk of a clip: bool (B, G, R, m), [.., i, j] = chunk i retrieves
    page j of an earlier chunk; m = R `pages`.

    priorities[i] (B, i pages) as `past_priorities` gives them; scores (B, G, R, m) or None. A GPU
    chooses for all chunks together.
    """
    if scores is not None and scores.device.type != "cpu":
        return choose_together(policy, priorities, scores)
    rows = []
    for i, priority in enumerate(priorities):
        picks = choose(policy, priority, None if scores is None else scores[:, :, i, : i * pages])
        shape = (*picks.shape[:2], len(priorities) * pages)
        retrieved = torch.zeros(shape, dtype=torch.bool, device=picks.device)
        rows.append(retrieved.scatter_(-1, picks, True))
    return torch.stack(rows, dim=2)


def choose_together(policy: Policy, priorities: list[Tensor], scores: Tensor) -> Tensor:
    """Return `choose_all` in one search: what is not yet finished ranks below all else."""
    count = scores.shape[-1]
    finished = [one.shape[-1] for one in priorities]
    wanted = torch.tensor([min(policy.budget_at(n), n) for n in finished])
    padded = [fn.pad(one, (0, count - one.shape[-1]), value=-inf) for one in priorities]
    ranked = torch.stack(padded, dim=1)[:, None].to(scores.device)  # (B, 1, R, m)
    ranked = torch.where(ranked == 0, scores, ranked)
    most = int(wanted.max())
    best = ranked.topk(most, dim=-1).indices  # (B, G, R, most), the best first
    kept = to_device(torch.arange(most) < wanted[:, None], scores.device)
    retrieved = torch.zeros(ranked.shape, dtype=torch.bool, device=scores.device)
    return retrieved.scatter_(-1, best, kept.expand(best.shape))


def past_priorities(policy: Policy, shots: Tensor, pages: int = 1) -> list[Tensor]:
    """Return, for every chunk i of films cut as `shots` (B, n), the priorities (B, i pages) of the
    pages of the chunks before it; a chunk has `pages` of them, all of its shot."""
    # a policy need not know what to do with no history
    nothing = torch.zeros((shots.shape[0], 0), device=shots.device)
    of_pages = shots.repeat_interleave(pages, 1)
    return [
        policy.priority(of_pages[:, : i * pages], shots[:, i]) if i else nothing
        for i in range(shots.shape[1])
    ]
