"""What the card can do: products, attention, copies, and what a launch and a wait cost the host."""

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.gpu_bench.clock import seconds
from benchmarks.gpu_bench.one import Task
from cinelab.errors import CinelabError
from cinelab.ops.attention import KERNELS, attention

BACKENDS = {
    "default": None,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "FlashAttention-2": SDPBackend.FLASH_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
}
LAUNCHES = 2000


@torch.no_grad()
def run(task: Task) -> None:
    """Record every ceiling."""
    for measure in (products, eight_bit_products, backends, own_kernels, copies, host_costs):
        with task.rows.trying(f"ceilings: {measure.__name__}"):
            measure(task)


def products(task: Task) -> None:
    """Record TFLOP/s of a square product and of the feed-forward's two, in bf16."""
    sizes = task.sizes
    side = sizes.product
    shapes = {
        f"product {side}^3 bf16": (side, side, side),
        "feed-forward, first product": (sizes.tokens, sizes.width, sizes.hidden),
        "feed-forward, second product": (sizes.tokens, sizes.hidden, sizes.width),
        "projection": (sizes.tokens, sizes.width, sizes.width),
    }
    for name, (rows, inner, columns) in shapes.items():
        a = _random(task, rows, inner)
        b = _random(task, inner, columns)
        spent = seconds(partial(torch.matmul, a, b), task.device)
        task.rows.note(
            name,
            _rate(rows, inner, columns, spent),
            "TFLOP/s",
            asks={"product": [rows, inner, columns]},
        )


def eight_bit_products(task: Task) -> None:
    """Record TFLOP/s of the square product in fp8, with a scale for the whole of each matrix."""
    side = task.sizes.product
    a = _random(task, side, side).to(torch.float8_e4m3fn)
    b = _random(task, side, side).to(torch.float8_e4m3fn).t()
    one = torch.ones((), device=task.device)

    def call() -> Tensor:
        return torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    spent = seconds(call, task.device)
    name = f"product {side}^3 fp8"
    task.rows.note(name, _rate(side, side, side, spent), "TFLOP/s", asks=_of("fp8"))


def backends(task: Task) -> None:
    """Record TFLOP/s of every SDPA backend over the keys of a chunk under full attention."""
    q, k, v = (x.transpose(1, 2) for x in _heads(task))
    for name, backend in BACKENDS.items():

        def call() -> Tensor:
            return scaled_dot_product_attention(q, k, v)

        def chosen(backend: SDPBackend | None = backend) -> Tensor:
            if backend is None:
                return call()
            try:
                with sdpa_kernel(backend):
                    return call()
            except RuntimeError as error:
                raise CinelabError(f"SDPA has no such backend here ({error}).") from error

        with task.rows.trying(f"SDPA {name}"):
            _attention_rate(task, f"SDPA {name}", chosen)


def own_kernels(task: Task) -> None:
    """Record TFLOP/s of every kernel behind the one switch that runs here."""
    q, k, v = _heads(task)
    for kernel in KERNELS:
        if kernel in ("math", "flex"):
            continue  # the scores of one would take 3.7 GB, the other is for masks and compiles
        with task.rows.trying(f"kernel {kernel}"):
            call = partial(attention, q, k, v, None, kernel)
            _attention_rate(task, f"kernel {kernel}", call)


def copies(task: Task) -> None:
    """Record the bandwidth of a copy on the device (read and write), and of one over PCIe."""
    source = torch.empty(task.sizes.copied, dtype=torch.uint8, device=task.device)
    target = torch.empty_like(source)
    spent = seconds(lambda: target.copy_(source), task.device)
    task.rows.note(
        "copy on the device", 2 * source.nbytes / spent / 1e12, "TB/s", asks=_of("bandwidth")
    )
    pinned = torch.empty(task.sizes.copied // 4, dtype=torch.uint8)
    pinned = pinned.pin_memory() if task.device == "cuda" else pinned
    part = target[: len(pinned)]
    for name, call in (
        ("pinned host to device", lambda: part.copy_(pinned, non_blocking=True)),
        ("device to pinned host", lambda: pinned.copy_(part, non_blocking=True)),
    ):
        spent = seconds(call, task.device, repeats=5)
        task.rows.note(name, pinned.nbytes / spent / 1e9, "GB/s", asks=_of("pcie"))


def host_costs(task: Task) -> None:
    """Record microseconds of a small launch, by the host and by the device, and of a wait."""
    x = torch.zeros(16, device=task.device)
    count = LAUNCHES if task.device == "cuda" else 50

    def launches() -> None:
        for _ in range(count):
            x.add_(1)

    launches()
    _wait(task)
    began = time.perf_counter()
    launches()
    issued = time.perf_counter() - began
    _wait(task)
    done = time.perf_counter() - began
    task.rows.note("launch, by the host", 1e6 * issued / count, "us", asks=_of("host launch"))
    task.rows.note("launch, to its end", 1e6 * done / count, "us", asks=_of("launch gap"))
    began = time.perf_counter()
    for _ in range(count):
        x.add_(1)
        float(x[0])
    spent = time.perf_counter() - began
    task.rows.note("value read back", 1e6 * spent / count, "us", asks=_of("synchronisation"))


def _attention_rate(task: Task, name: str, call: Callable[[], Tensor]) -> None:
    sizes = task.sizes
    work = 4 * sizes.tokens * sizes.keys * sizes.heads * sizes.head_dim
    spent = seconds(call, task.device, repeats=10)
    about = {"attention": [sizes.tokens, sizes.keys, sizes.heads, sizes.head_dim]}
    task.rows.note(name, work / spent / 1e12, "TFLOP/s", asks=about, ms=1000 * spent)


def _heads(task: Task) -> tuple[Tensor, Tensor, Tensor]:
    sizes = task.sizes
    lengths = (sizes.tokens, sizes.keys, sizes.keys)
    q, k, v = (_random(task, 1, length, sizes.heads, sizes.head_dim) for length in lengths)
    return q, k, v


def _random(task: Task, *shape: int) -> Tensor:
    return torch.randn(shape, device=task.device, dtype=torch.bfloat16)


def _rate(rows: int, inner: int, columns: int, spent: float) -> float:
    return 2 * rows * inner * columns / spent / 1e12


def _of(ceiling: str) -> dict:
    return {"ceiling": ceiling}


def _wait(task: Task) -> None:
    if task.device == "cuda":
        torch.cuda.synchronize()
