"""Speed: frames a second, first frame, where the time goes, and whether a chunk's cost grows with
the film.

Frames per second count output frames. Warm-up is left out; medians over chunks; everything in one
process.
"""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import pandas as pd
import torch

from cinelab.flow.sampler import Sampling
from cinelab.limits import CHUNKS, check_number
from cinelab.memory.policy import Policy
from cinelab.metrics.stats import paired_ratio
from cinelab.script.timeline import Slot, Timeline
from cinelab.stream.batch import TimedChunk, empty_cache, inference_mode, stream, threads_for
from cinelab.world.worlds import world_named
from cinelab.zoo.bundle import Bundle

WARM = 4  # chunks that are left out
EARLY = 20  # the chunk with which a later one's cost is compared
CAUSES = ("text", "dit", "memory", "decode")
FULL_TO = 200  # the chunk up to which full attention is followed


def endless(bundle: Bundle, chunks: int, shot_chunks: int = 8, seed: int = 0) -> Timeline:
    """A timeline of many shots in which a small cast keeps coming back."""
    texts = world_named(bundle.world_name).captions(seed, 6)
    slots = [
        Slot(
            i,
            i // shot_chunks,
            i // shot_chunks,
            (i // shot_chunks) % len(texts),
            i * bundle.chunk,
            bundle.chunk,
            i > 0 and i % shot_chunks == 0,
        )
        for i in range(chunks)
    ]
    return Timeline(tuple(slots), tuple(texts), bundle.fps, bundle.codec.stride)


def time_chunks(
    bundle: Bundle, policy: Policy, chunks: int, sampling: Sampling | None = None
) -> pd.DataFrame:
    """A row a chunk: chunk, text, dit, memory, decode, total (seconds), frames."""
    cache = empty_cache(bundle, policy)
    rows = []
    for timed in stream(bundle, [endless(bundle, chunks)], cache, [0], sampling):
        rows.append(
            {
                "chunk": timed.index,
                **timed.seconds,
                "total": timed.total,
                "frames": timed.frames.shape[1],
            }
        )
    return pd.DataFrame(rows)


def summarise_timings(timings: pd.DataFrame, warm: int = WARM) -> dict:
    """First frame (seconds, text and decode included), steady frames a second, and each cause's
    share."""
    steady = timings[timings.chunk >= warm]
    total = steady.total.median()
    shares = {
        f"{cause} %": round(100 * float((steady[cause] / steady.total).median()), 1)
        for cause in CAUSES
    }
    return {
        "first frame s": round(float(timings.total.iloc[0]), 3),
        "frames/s": round(float(steady.frames.median() / total), 1),
        "chunk ms": round(1000 * float(total), 1),
        **shares,
    }


def running(
    bundle: Bundle, policy: Policy, start: int, count: int, sampling: Sampling
) -> Iterator[TimedChunk]:
    """Chunks start .. start + count of a film whose earlier chunks are only remembered, not
    made."""
    given = torch.randn(1, start * bundle.chunk, *bundle.latent_shape).to(bundle.device)
    chunks = stream(
        bundle, [endless(bundle, start + count)], empty_cache(bundle, policy), [0], sampling, given
    )
    return islice(chunks, start, None)


def growth(
    bundle: Bundle,
    policy: Policy,
    sampling: Sampling,
    early: int = EARLY,
    late: int = 200,
    around: int = 5,
) -> dict:
    """Median time of the chunks around `late` over that around `early`; the two films take turns,
    chunk by chunk.

    `ratio low` and `ratio high` are its 95 % interval, turns resampled: the noise of timing.
    """
    films = [running(bundle, policy, at - around, 2 * around + 1, sampling) for at in (early, late)]
    # (chunks, 2)
    times = np.array([[timed.total for timed in pair] for pair in zip(*films, strict=True)])
    first, last = np.median(times[1:], axis=0)
    e = paired_ratio(times[1:, 1].tolist(), times[1:, 0].tolist(), of=np.median)
    edges = {"ratio": e.value, "ratio low": e.low, "ratio high": e.high}
    milliseconds = {"early ms": round(1000 * first, 2), "late ms": round(1000 * last, 2)}
    return milliseconds | {name: round(value, 3) for name, value in edges.items()}


def compare_speeds(
    contenders: dict[str, tuple[Bundle, Sampling]],
    policy: Policy,
    chunks: int = 40,
    warm: int = WARM,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> pd.DataFrame:
    """Several models or samplings on the same film, taking turns chunk by chunk: a row each.

    `progress(done, of)` is called after every turn. `times the first`, with its 95 % interval
    (`low`, `high`, turns resampled), is how many times as fast as the first one it is, by the
    median times of a chunk.
    """
    check_number("chunks", chunks, warm + 1, CHUNKS)
    films = [
        stream(bundle, [endless(bundle, chunks)], empty_cache(bundle, policy), [0], sampling)
        for bundle, sampling in contenders.values()
    ]
    time_chunks(*next(iter(contenders.values()))[:1], policy, 4)  # warm-up
    turns = []  # (chunks, contenders)
    for turn in zip(*films, strict=True):
        turns.append(turn)
        progress(len(turns), chunks)
    rows = []
    for place, (label, (bundle, sampling)) in enumerate(contenders.items()):
        times = [turn[place].total for turn in turns]
        rate = turns[-1][place].frames.shape[1] / float(np.median(times[warm:]))
        rows.append(
            {
                "model": label,
                "levels": sampling.steps,
                "guidance": sampling.guidance,
                "frames/s": round(rate, 1),
                "first frame s": round(times[0], 3),
                "of real time": round(rate / bundle.fps, 2),
            }
            | _faster([turn[0] for turn in turns[warm:]], [turn[place] for turn in turns[warm:]])
        )
    return pd.DataFrame(rows)


def _faster(first: list[TimedChunk], other: list[TimedChunk]) -> dict:
    """How many times as many frames a second `other` makes as `first`, with an interval."""
    a, b = ([timed.total / timed.frames.shape[1] for timed in times] for times in (first, other))
    e = paired_ratio(a, b, of=np.median)
    return {"times the first": round(e.value, 2), "low": round(e.low, 2), "high": round(e.high, 2)}


def scoring_share(bundle: Bundle, policy: Policy, history: int = 200, repeats: int = 20) -> float:
    """A routed policy's scoring of `history` units by all layers, as a share of a whole chunk's
    time (both medians)."""
    shape = bundle.model.config
    cache = empty_cache(bundle, policy)
    times = []
    given = torch.randn(1, history * bundle.chunk, *bundle.latent_shape).to(bundle.device)
    for _ in stream(bundle, [endless(bundle, history)], cache, [0], given=given, decode=False):
        pass
    opened = cache.open(history, cache.page_shots[:, -1])
    q = torch.randn(1, bundle.chunk_tokens, shape.num_attention_heads, shape.attention_head_dim)
    q = q.to(bundle.device)
    with inference_mode(False, bundle.device, threads_for(bundle)):
        for _ in range(repeats):
            began = time.perf_counter()
            # once for the noisy chunk, once for the clean one
            for layer in range(2 * shape.num_layers):
                opened.scores(layer // 2, q)
            times.append(time.perf_counter() - began)
    chunk = time_chunks(bundle, policy, 12).total.iloc[4:].median()
    return float(np.median(times[1:] or times) / chunk)


def peak_memory_gib() -> float:
    """Highest resident memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def benchmark(
    bundle: Bundle,
    policies: dict[str, Policy],
    chunks: int = 40,
    growth_to: int = 1000,
    tell: Callable[[str], None] = lambda text: None,
) -> pd.DataFrame:
    """One row a policy: speed summary, cost of chunk `growth_to` over that of chunk 20, and CAMR's
    scoring share.

    Full attention, whose cost grows with the square of the film, is followed to chunk FULL_TO at
    most. `tell` hears "3 of 4: what" as it begins.
    """
    check_number("chunks", chunks, WARM + 1, CHUNKS)
    check_number("growth_to", growth_to, EARLY + 1, CHUNKS)
    time_chunks(bundle, next(iter(policies.values())), WARM)  # warm-up
    rows = []
    for number, (name, policy) in enumerate(policies.items(), 1):
        here = f"{number} of {len(policies)}: {name}"
        tell(f"{here}, {chunks} chunks")
        row = {"policy": name, **summarise_timings(time_chunks(bundle, policy, chunks))}
        # where the memory's own cost weighs most
        few = replace(bundle.sampling.with_steps(2), guidance=1.0)
        late = min(growth_to, FULL_TO) if policy.sees_all else growth_to
        row["late chunk"] = late
        tell(f"{here}, chunk {late} beside chunk {EARLY}")
        row["late / early"] = growth(bundle, policy, bundle.sampling, late=late)["ratio"]
        tell(f"{here}, chunk {late} beside chunk {EARLY} in 2 steps")
        row["late / early, 2 steps"] = growth(bundle, policy, few, late=late)["ratio"]
        if policy.routed:
            tell(f"{here}, its scoring")
            row["scoring %"] = round(100 * scoring_share(bundle, policy, growth_to), 2)
        rows.append(row)
    return pd.DataFrame(rows).assign(**{"peak GiB": round(peak_memory_gib(), 2)})
