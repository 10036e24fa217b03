"""Every attention kernel against the plain formula in fp32, with and without masks, and the
precision of products in eight bits."""

import torch
from torch import Tensor

from benchmarks.gpu_bench.one import Task
from cinelab.ops.attention import KERNELS, SMALL, attention
from cinelab.scale.acceleration import LINEARS, Speed, accelerate

MOST = {torch.float32: 1e-4, torch.bfloat16: 0.03}
# tried where a kernel has shown that it runs here
OTHERS = ((torch.bfloat16, True), (torch.float32, False), (torch.float32, True))
EIGHT_BITS = 0.1  # of an attention output whose deviation is about 0.1
QUERIES = 192
KEYS = SMALL + 128  # with fewer, kernels in eight bits are not what is used


@torch.no_grad()
def run(task: Task) -> None:
    """Record the largest error of each kernel, and of each kind of linears."""
    for kind in LINEARS[1:]:
        with task.rows.trying(f"linears {kind}"):
            one_kind(task, kind)
    for kernel in sorted(KERNELS, key=lambda name: name == "flex"):  # which compiles for a minute
        with task.rows.trying(f"kernel {kernel}"):
            one_kernel(task, kernel, torch.bfloat16, masked=False)
            for dtype, masked in OTHERS:
                with task.rows.trying(f"kernel {kernel}, {dtype}{', masked' * masked}"):
                    one_kernel(task, kernel, dtype, masked=masked)


def one_kernel(task: Task, kernel: str, dtype: torch.dtype, *, masked: bool) -> None:
    """Compare a kernel with the formula in fp32 on the CPU."""
    q, k, v = (_numbers(place, length) for place, length in enumerate((QUERIES, KEYS, KEYS)))
    mask = _numbers(3, KEYS)[:, None, None, :, 0, 0] > -0.5 if masked else None
    wanted = attention(q, k, v, mask, "math")
    q, k, v = (x.to(task.device, dtype) for x in (q, k, v))
    mask = None if mask is None else mask.to(task.device)
    found = attention(q, k, v, mask, kernel).float().cpu()
    most = EIGHT_BITS if kernel in ("sage", "flash3-fp8", "eight-bits") else MOST[dtype]
    name = f"kernel {kernel}, {str(dtype)[6:]}{', masked' * masked}"
    task.rows.check(name, (found - wanted).abs().max().item(), most)


def one_kind(task: Task, kind: str) -> None:
    """Compare a network with linears in eight bits with the same one in full."""
    from benchmarks.gpu_bench.parity import small_call, small_network

    plain = small_network(task.device)
    speed = Speed(linears=kind, compiled=kind == "fp8")  # which pays with torch.compile only
    found = small_call(accelerate(small_network(task.device), speed), task.device)
    wanted = small_call(plain, task.device)
    relative = ((found - wanted).norm() / wanted.norm()).item()
    task.rows.check(f"linears {kind}, relative error", relative, 0.1)


def _numbers(place: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(place)
    return torch.randn(1, length, 4, 64, generator=generator)
