"""Self-Forcing's own CausalWanModel (github.com/guandeh17/Self-Forcing) with random weights, in
turns with ours: the same shapes, the same attention kernel, one process.

A chunk is one call a level and one at t = 0, over a KV cache that holds the keys of a clip of 21
latent frames with the chunk's own. Their cross-attention asks for flash-attn; so that both models
run the same kernel, theirs is given the one switch of ours (`cinelab.ops.attention`).
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_bench.clock import seconds
from benchmarks.gpu_bench.one import Task
from benchmarks.gpu_bench.speed import asks
from cinelab.bench.wan_speed import CHANNELS, Maker, random_history
from cinelab.errors import CinelabError
from cinelab.ops.attention import attention

MODULE = Path("wan") / "modules" / "causal_model.py"
CLASS = "CausalWanModel"
TURNS = 5
FRAMES = 21  # of the clip that their KV cache holds
WANTED = 1.5  # times as fast


def run(task: Task) -> None:
    """Record seconds a chunk of both, and their ratio."""
    bench = task.sizes.chunkwise
    with _importable(checked(task.official)), task.rows.trying("official"):
        theirs = their_chunk(task)
        maker = Maker.of(bench, task.device)
        history = FRAMES // bench.chunk - 1
        turns = []
        for _ in range(2 if task.rehearsed else TURNS):
            spent = seconds(theirs, task.device, repeats=1, warm=0)
            cache = random_history(bench, bench.policy("full"), history, task.device)
            turns.append((spent, sum(maker.chunk(cache)[1].values())))
        other, own = (median(times[1:]) for times in zip(*turns, strict=True))
        about = asks(bench, "full", history, "exact")
        task.rows.note("official, Self-Forcing's CausalWanModel", other, "s a chunk")
        task.rows.note("official, ours, full attention", own, "s a chunk", asks=about)
        task.rows.note("official, ours is times as fast", other / own, "times", wanted=WANTED)


def checked(path: Path | None) -> Path:
    """Return the checkout's folder; CinelabError where it is none."""
    if path is None or not (path / MODULE).is_file():
        raise CinelabError(
            f"--official is {path}, where {MODULE} is not found; give the root of a checkout of "
            "Self-Forcing (or Causal-Forcing), the folder that holds wan/."
        )
    return path


def their_chunk(task: Task) -> Callable[[], None]:
    """Return a call that makes one chunk with their model."""
    bench = task.sizes.chunkwise
    config = bench.config
    model = their_model(task)
    channels, rows, columns = bench.latent
    tokens = bench.tokens // bench.chunk  # of a latent frame
    start = (FRAMES - bench.chunk) * tokens
    heads = (config.num_attention_heads, config.attention_head_dim)
    numbers: dict[str, Any] = {"device": task.device, "dtype": torch.bfloat16}
    caches = [_kv(1, FRAMES * tokens, heads, start, **numbers) for _ in range(config.num_layers)]
    crossed = [_crossed(bench.words, heads, **numbers) for _ in range(config.num_layers)]
    x = torch.randn(1, channels, bench.chunk, rows, columns, **numbers)
    words = [torch.randn(bench.words, config.text_dim, **numbers)]
    levels = [1000.0 * t for t in bench.sampling.filled().at or ()] + [0.0]

    @torch.no_grad()
    def chunk() -> None:
        for t in levels:
            times = torch.full((1, bench.chunk), t, device=task.device)
            model(
                x,
                t=times,
                context=words,
                seq_len=FRAMES * tokens,
                kv_cache=caches,
                crossattn_cache=crossed,
                current_start=start,
            )

    return chunk


def their_model(task: Task) -> Any:
    """Return their model at our size, with random weights in bf16 on the device."""
    module = import_module("wan.modules.causal_model")
    for name in ("wan.modules.attention", "wan.modules.model", "wan.modules.causal_model"):
        _use_our_switch(sys.modules[name])
    config = task.sizes.chunkwise.config
    with torch.device(task.device):
        model = getattr(module, CLASS)(
            model_type="t2v",
            text_len=task.sizes.chunkwise.words,
            in_dim=CHANNELS,
            out_dim=CHANNELS,
            dim=config.width,
            ffn_dim=config.ffn_dim,
            freq_dim=config.freq_dim,
            text_dim=config.text_dim,
            num_heads=config.num_attention_heads,
            num_layers=config.num_layers,
        )
    return model.to(torch.bfloat16).eval().requires_grad_(False)


def whole_attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Tensor:
    """Return attention (B, T, h, d) over whole keys, as their functions of that name do."""
    return attention(q, k, v).contiguous()


def _use_our_switch(module: ModuleType) -> None:
    for name in ("attention", "flash_attention"):
        if callable(getattr(module, name, None)):
            setattr(module, name, whole_attention)


def _kv(batch: int, length: int, heads: tuple[int, int], end: int, **numbers: Any) -> dict:
    place = torch.tensor([end], dtype=torch.long, device=numbers["device"])
    return {
        "k": torch.randn(batch, length, *heads, **numbers),
        "v": torch.randn(batch, length, *heads, **numbers),
        "global_end_index": place,
        "local_end_index": place.clone(),
    }


def _crossed(words: int, heads: tuple[int, int], **numbers: Any) -> dict:
    shape = (1, words, *heads)
    return {
        "k": torch.zeros(shape, **numbers),
        "v": torch.zeros(shape, **numbers),
        "is_init": False,
    }


@contextmanager
def _importable(path: Path) -> Iterator[None]:
    """Make `wan.modules.causal_model` importable without running the packages' own __init__, which
    import the text encoder, the VAE and what they need."""
    for name in ("wan", "wan.modules"):
        package = ModuleType(name)
        package.__path__ = [str(path.joinpath(*name.split(".")))]
        sys.modules[name] = package
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "wan"]:
            del sys.modules[name]
