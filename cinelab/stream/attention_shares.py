"""What chunks retrieve: the share of each layer's heads that retrieve something of a shot, and each
chunk's attention over the history."""

from collections import defaultdict

import pandas as pd

from cinelab.memory.cache import KVCache
from cinelab.memory.policy import Policy, RandomTopK


def shots_retrieved(cache: KVCache, chunk: int) -> dict[int, dict[int, float]]:
    """Return {layer: {shot: share of heads}} of `chunk`, the last in the KV `cache`; empty
    when it retrieved nothing."""
    shares = {
        one["layer"]: _shares(cache, one["picks"][0].tolist()) for one in cache.decisions_of(chunk)
    }
    return dict(sorted(shares.items()))


def _shares(cache: KVCache, picks: list[list[int]]) -> dict[int, float]:
    """Return the share of heads (or of the one choice that all heads share) that retrieve a page of
    each shot."""
    heads: defaultdict[int, int] = defaultdict(int)
    for retrieved in picks:
        for shot in {int(cache.page_shots[0, page]) for page in retrieved}:
            heads[shot] += 1
    return {shot: heads[shot] / len(picks) for shot in sorted(heads)}


def scores_attention(policy: Policy) -> bool:
    """Return whether the scores of a policy's routing table are shares of attention (CAMR's
    `mass`), not dot products, random numbers or a score of one's own."""
    plain = type(policy).relevance is Policy.relevance and not isinstance(policy, RandomTopK)
    return policy.routed and plain and policy.score == "mass"


def attention_shares(routing: pd.DataFrame, scored: bool = True) -> pd.DataFrame:
    """Return rows (chunk, shot, kept_chunk, kept_shot, share, heads, kind): how a chunk's attention
    divides over what it retrieved.

    `share` adds up to 1 over a chunk's rows, and every layer and head has equal weight. With
    `scored` it is the routing score, the share of attention that the policy expects of a page;
    without, and where nothing was scored, all that a head retrieved counts alike. `heads` is the
    share of layers and heads that retrieved it; `kind` is why most of them did. `routing` is the
    table of `KVCache.routing_table`.
    """
    place = ["chunk", "kept_chunk"]
    head = ["chunk", "layer", "head"]
    table = routing.assign(weight=routing["score"].clip(lower=0) if scored else 1.0)
    blank = table["weight"].isna().groupby([table[name] for name in head]).transform("any")
    table.loc[blank, "weight"] = 1.0
    sums = table.groupby(head)["weight"].transform("sum")
    table["weight"] = (table["weight"] / sums).where(
        sums > 0, 1 / table.groupby(head)["weight"].transform("size")
    )
    voters = table.drop_duplicates(head).groupby("chunk").size()
    found = table.groupby(place).agg(
        shot=("shot", "first"), kept_shot=("kept_shot", "first"), share=("weight", "sum")
    )
    found["heads"] = table.drop_duplicates([*head, "kept_chunk"]).groupby(place).size()
    found["kind"] = (
        table.groupby([*place, "kind"]).size().unstack("kind", fill_value=0).idxmax(axis=1)
    )
    for name in ("share", "heads"):
        found[name] = found[name].div(voters, level="chunk")
    return found.reset_index()[
        ["chunk", "shot", "kept_chunk", "kept_shot", "share", "heads", "kind"]
    ]
