"""The sizes that are measured, and the tiny ones of a rehearsal."""

from dataclasses import dataclass, replace

from cinelab.bench.wan_speed import WanBench


@dataclass(frozen=True)
class Sizes:
    """What the sections measure at."""

    chunkwise: WanBench  # 3 latent frames a chunk, 4 levels
    framewise: WanBench  # 1 latent frame a chunk, 2 levels
    large: WanBench  # the larger model
    late_layers: int  # layers of the chunks late in a film, scaled up: all would not fit
    late: tuple[int, ...]  # pages before those
    product: int  # rows and columns of the square product
    tokens: int  # of a chunk
    keys: int  # of a chunk under full attention after six others
    heads: int
    head_dim: int
    width: int
    hidden: int
    copied: int  # bytes of a device copy
    films: int  # of a correctness check
    film_chunks: int


TRUE = Sizes(
    chunkwise=WanBench(policies=("camr", "window", "sink", "full"), history=(6, 20), repeats=3),
    framewise=WanBench(mode="frame-2step", policies=("camr", "window"), budget=18, history=(18,)),
    large=WanBench("wan-14b", policies=("camr", "window"), history=(6,), repeats=2),
    late_layers=6,
    late=(20, 200),
    product=8192,
    tokens=4680,
    keys=32760,
    heads=12,
    head_dim=128,
    width=1536,
    hidden=8960,
    copied=2**31,
    films=2,
    film_chunks=16,
)
_TINY = WanBench(
    "small",
    "frame-2step",
    (32, 48),
    layers=1,
    policies=("camr",),
    budget=3,
    summary=2,
    history=(4,),
    repeats=1,
    words=4,
)
TINY = Sizes(
    chunkwise=replace(_TINY, mode="chunk-2step", policies=("camr", "full")),
    framewise=_TINY,
    large=_TINY,
    late_layers=1,
    late=(4, 6),
    product=64,
    tokens=12,
    keys=24,
    heads=2,
    head_dim=32,
    width=64,
    hidden=128,
    copied=2**16,
    films=1,
    film_chunks=6,
)
