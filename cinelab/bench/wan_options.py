"""What each option for speed or memory does to a chunk, all in one run: its time over the plain
way's, the memory it takes, and whether it is exact or fast (`cinelab.scale.acceleration`).

Every option has its turn between two of the plain way, so that a machine that slows down does not
speak for or against it.
"""

import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import median

import pandas as pd
import torch

from cinelab.bench.wan_speed import Maker, WanBench, memory_of, random_history
from cinelab.memory.store import Storage
from cinelab.ops.attention import EIGHT_BITS, FASTEST, available
from cinelab.runs import hardware
from cinelab.scale.acceleration import SPEEDS, Speed

FUSED = "clean pass fused"


def options(bench: WanBench) -> dict[str, WanBench]:
    """Return what can be tried on this machine, each by its name."""
    found = {
        name: replace(bench, speed=speed)
        for name, speed in speed_options(bench.speed).items()
        if runs_here(speed)
    }
    found["history in host memory"] = replace(bench, storage=Storage("host"))
    found |= {
        f"history {kind}": replace(bench, storage=Storage(packing=kind)) for kind in ("int8", "fp8")
    }
    return found | {
        "history fp8 in host memory": replace(bench, storage=Storage("host", "fp8")),
        FUSED: bench,
    }


def speed_options(plain: Speed) -> dict[str, Speed]:
    """Return every way to run the model that is compared, by its name."""
    compiled = replace(plain, compiled=True)
    return {
        **{f"kernel {name}": replace(plain, kernel=name) for name in (*FASTEST, *EIGHT_BITS)},
        "graphs": replace(plain, graphs=True),
        "one product for q, k, v": replace(plain, fused_qkv=True),
        "compiled blocks": compiled,
        "compiled blocks, graphs": replace(compiled, graphs=True),
        "compiled blocks, linears fp8": replace(compiled, linears="fp8"),
        **{
            f"linears {kind}": replace(plain, linears=kind)
            for kind in ("fp8-weights", "int8-weights")
        },
        **{f"speed {name}": speed for name, speed in SPEEDS.items() if name != "exact"},
    }


def runs_here(speed: Speed) -> bool:
    """Return whether this machine runs a model so: its kernel, its GPU, its packages."""
    gpu = torch.cuda.is_available()
    if not available(speed.kernel) or (speed.graphs and not gpu):
        return False
    if speed.linears == "fp8":
        return gpu and torch.cuda.get_device_capability() >= (8, 9)
    return speed.linears == "full" or importlib.util.find_spec("torchao") is not None


def way_of(setting: WanBench) -> str:
    """Return whether a setting is exact or fast: a packed history is rounded, one in host memory is
    not."""
    return "fast" if setting.storage.packing != "none" else setting.speed.mode


def measure_options(
    bench: WanBench,
    device: str = "cpu",
    units: int = 12,
    tell: Callable[[str], None] = lambda text: None,
) -> pd.DataFrame:
    """A row an option: seconds a chunk after `units` others under CAMR, and over the mean of the
    plain turns around it."""
    plain = Maker.of(replace(bench, speed=Speed()), device)
    before = _turn(plain, units)
    rows = []
    for name, setting in options(replace(bench, speed=Speed(), storage=Storage())).items():
        maker = (
            replace(plain, bench=setting) if setting.speed == Speed() else Maker.of(setting, device)
        )
        spent = _turn(maker, units, fused=name == FUSED)
        after = _turn(plain, units)
        rows.append(
            {
                "option": name,
                "way": way_of(setting),
                "chunk s": spent,
                "plain s": (before + after) / 2,
                "times as fast": (before + after) / 2 / spent,
            }
            | {"history MiB": round(_history(setting, units, device) / 2**20, 2)}
            | memory_of(device)
        )
        tell(f"{name}: {rows[-1]['times as fast']:.2f} times as fast")
        before = after
    return pd.DataFrame(rows).assign(
        model=bench.model, mode=bench.mode, layers=bench.config.num_layers, **hardware()
    )


def _turn(maker: Maker, units: int, *, fused: bool = False) -> float:
    """Median seconds of a chunk, the first two left out: they compile and allocate."""
    ends = [0.0]
    for end in _running(maker, units, maker.bench.repeats + 2, fused=fused):
        ends.append(end)
    return (
        median(later - earlier for earlier, later in zip(ends[2:], ends[3:], strict=False))
        * maker.bench.scaled
    )


def _running(maker: Maker, units: int, chunks: int, *, fused: bool) -> Iterator[float]:
    """Make so many chunks after `units` others; when each was made."""
    cache = random_history(maker.bench, maker.bench.policy("camr"), units, maker.device)
    before = None
    for _ in range(chunks):
        made, _ = maker.chunk(cache, before, wait=fused)
        before = made if fused else None
        yield time.perf_counter()


def _history(setting: WanBench, units: int, device: str) -> int:
    """Bytes of keys and values that are kept of `units` chunks."""
    cache = random_history(setting, setting.policy("camr"), 2, device)
    return units * sum(store.page_bytes() for pair in cache.layers.values() for store in pair)
