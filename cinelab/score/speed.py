"""Speed: frames a second, first frame, where the time goes, and whether a chunk's cost grows with the film.

Frames a second count output pictures. Warm-up is left out; medians over chunks; everything in one process.
"""

import resource
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from cinelab.flow.sampler import Sampling
from cinelab.memory.cache import Memory
from cinelab.memory.policy import CAMR, Policy
from cinelab.memory.routing import relevance
from cinelab.model.zoo import Bundle
from cinelab.script.timeline import Slot, Timeline
from cinelab.stream.engine import quick, stream
from cinelab.world.casting import caption_of_film

CAUSES = ("text", "dit", "memory", "decode")


def endless(bundle: Bundle, chunks: int, shot_chunks: int = 8, seed: int = 0) -> Timeline:
    """A timeline of many shots in which a small cast keeps coming back."""
    texts = caption_of_film(seed, 6)
    slots = [Slot(i, i // shot_chunks, i // shot_chunks, (i // shot_chunks) % len(texts), i * bundle.chunk, bundle.chunk,
                  i > 0 and i % shot_chunks == 0) for i in range(chunks)]
    return Timeline(tuple(slots), tuple(texts), bundle.fps, bundle.codec.stride)


def run(bundle: Bundle, policy: Policy, chunks: int, sampling: Sampling | None = None) -> pd.DataFrame:
    """A row a chunk: chunk, text, dit, memory, decode, total (seconds), frames."""
    memory, rows = Memory(policy, bundle.chunk), []
    for timed in stream(bundle, [endless(bundle, chunks)], memory, [0], sampling):
        rows.append({"chunk": timed.index, **timed.seconds, "total": timed.total, "frames": timed.frames.shape[1]})
    return pd.DataFrame(rows)


def summary(timings: pd.DataFrame, warm: int = 4) -> dict:
    """First frame (seconds, text and decode included), steady frames a second, and each cause's share."""
    steady = timings[timings.chunk >= warm]
    total = steady.total.median()
    shares = {f"{cause} %": round(100 * float((steady[cause] / steady.total).median()), 1) for cause in CAUSES}
    return {"first frame s": round(float(timings.total.iloc[0]), 3), "frames/s": round(float(steady.frames.median() / total), 1),
            "chunk ms": round(1000 * float(total), 1), **shares}


def growth(bundle: Bundle, policy: Policy, early: int = 20, late: int = 200, around: int = 5) -> dict:
    """Median chunk time around chunk `late` over that around chunk `early`, in one run with two levels.

    Few levels, since they weigh the memory's own cost most; chunks are compared within one film.
    """
    timings = run(bundle, policy, late + around + 1, replace(bundle.sampling, steps=2, guidance=1.0))
    near = lambda at: float(timings[(timings.chunk - at).abs() <= around].total.median())  # noqa: E731
    return {"early ms": round(1000 * near(early), 2), "late ms": round(1000 * near(late), 2),
            "ratio": round(near(late) / near(early), 3)}


def scoring_share(bundle: Bundle, policy: CAMR, history: int = 200, repeats: int = 20) -> float:
    """CAMR's scoring of `history` units by all layers, as a share of a whole chunk's time (both medians)."""
    shape = bundle.model.config
    tokens = bundle.chunk * bundle.latent_shape[1] * bundle.latent_shape[2] // np.prod(shape.patch_size)
    q = torch.randn(1, 1, int(tokens), shape.num_attention_heads, shape.attention_head_dim)
    k = torch.randn(1, history, int(tokens), shape.num_attention_heads, shape.attention_head_dim)
    allowed = torch.ones(1, history, dtype=torch.bool)
    times = []
    with quick(False):
        for _ in range(repeats):
            began = time.perf_counter()
            for _ in range(2 * shape.num_layers):  # once for the noisy chunk, once for the clean one
                relevance(policy, q, k, allowed)
            times.append(time.perf_counter() - began)
    chunk = run(bundle, policy, 12).total.iloc[4:].median()
    return float(np.median(times) / chunk)


def peak_memory_gib() -> float:
    """Highest resident memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def benchmark(bundle: Bundle, policies: dict[str, Policy], chunks: int = 40, growth_to: int = 200) -> pd.DataFrame:
    """One row a policy: speed summary, growth ratio, and CAMR's scoring share."""
    run(bundle, next(iter(policies.values())), 4)  # warm-up
    rows = []
    for name, policy in policies.items():
        row = {"policy": name, **summary(run(bundle, policy, chunks))}
        row |= {f"growth {key}": value for key, value in growth(bundle, policy, late=growth_to).items()}
        if isinstance(policy, CAMR):
            row["scoring %"] = round(100 * scoring_share(bundle, policy, growth_to), 2)
        rows.append(row)
    return pd.DataFrame(rows).assign(**{"peak GiB": round(peak_memory_gib(), 2)})
