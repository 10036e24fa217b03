"""KV store of one byte a number.

Law: a number is off by half a step of its scale at most (int8), or by 1/16 of itself (fp8, e4m3).

Retrieved pages are gathered in bytes and dequantised straight into the buffer in which they are
attended to: 4 bytes of traffic a number (int8), as a gather of bf16 has, or 9 (fp8, which must be
cast before it can be multiplied); 21 in version 0.2.0. `compiled`, on a GPU and in device memory,
gathers and dequantises in one kernel: 3 bytes a number. At 1.3B a page of a layer is 14.4 MB of
bytes and 0.45 MB of scales in place of 28.8 MB.

    B films   n pages   U tokens a page   h heads   d head size   k retrieved pages
"""

from collections.abc import Callable
from functools import cache
from typing import TypeGuard

import torch
from torch import Tensor

from cinelab.memory.store import DeviceKVStore, KVStore, refuse_gradients
from cinelab.ops.compiling import UNCOMPILED, Compiled
from cinelab.ops.tensors import to_device

LARGEST = {"int8": 127.0, "fp8": 448.0}
KINDS = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}


class QuantizedKVStore:
    """Bytes, and for each token and head the scale that its largest number sets.

    Both lie in stores of their own, on the device or in host memory.
    """

    def __init__(
        self,
        packing: str,
        numbers: KVStore,
        scales: KVStore,
        *,
        dtype: torch.dtype = torch.float32,
        compiled: bool = False,
    ):
        self.packing = packing
        self.numbers = numbers
        self.scales = scales
        self.dtype = dtype  # of the pages that are returned
        self.compiled = compiled  # where one kernel can do it: gather and dequantise at once

    def append(self, pages: Tensor, length: int) -> "QuantizedKVStore":
        refuse_gradients(f"packing {self.packing!r}", "use 'none'", pages)
        numbers, scales = quantize(pages, self.packing)
        return QuantizedKVStore(
            self.packing,
            self.numbers.append(numbers, length),
            self.scales.append(scales, length),
            dtype=pages.dtype,
            compiled=self.compiled,
        )

    def take(self, picks: Tensor, length: int, out: Tensor | None = None) -> Tensor:
        buffers = [one.buffer for one in (self.numbers, self.scales) if _on_gpu(one)]
        if self.compiled and len(buffers) == 2 and picks.shape[1] == 1:
            return gather_dequantized(
                buffers[0], buffers[1], picks, packing=self.packing, dtype=self.dtype, out=out
            )
        numbers = self.numbers.take(picks, length)
        scales = self.scales.take(picks, length)
        return dequantize(numbers, scales, self.packing, self.dtype, out=out)

    def view(self, first: int, length: int) -> None:
        """Return None: bytes are not attended to."""

    def expect(self, picks: Tensor, length: int) -> None:
        """Pass on which pages will probably be taken next."""
        for store in (self.numbers, self.scales):
            store.expect(picks, length)

    def all(self, length: int) -> Tensor:
        numbers = self.numbers.all(length)
        return dequantize(numbers, self.scales.all(length), self.packing, self.dtype)

    def page_bytes(self) -> int:
        return self.numbers.page_bytes() + self.scales.page_bytes()


def _on_gpu(store: KVStore) -> TypeGuard[DeviceKVStore]:
    """Whether a store has its pages in one buffer on a GPU."""
    return isinstance(store, DeviceKVStore) and store.buffer.is_cuda


def quantize(x: Tensor, packing: str) -> tuple[Tensor, Tensor]:
    """Return x (..., d) as bytes (..., d), and fp32 scales (..., 1).

    On a GPU that is five kernels over x: absolute values, their largest, a division, rounding, a
    cast.
    """
    x = x.detach()
    largest = x.abs().amax(-1, keepdim=True).float()
    scale = largest.clamp_min(1e-12) / LARGEST[packing]
    scaled = torch.div(x, scale)  # in fp32, as the scale is
    if packing == "int8":
        scaled.round_()
    return scaled.to(KINDS[packing]).view(torch.uint8), scale


def dequantize(
    numbers: Tensor,
    scale: Tensor,
    packing: str,
    dtype: torch.dtype,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Return the numbers (..., d) of bytes (..., d) and scales (..., 1), in `out` where it is
    given. They are multiplied in fp32 and rounded once."""
    number = numbers.view(KINDS[packing])
    if packing == "fp8":
        number = number.to(torch.bfloat16)  # exact, and a kind that can be multiplied
    if out is None:
        out = torch.empty(numbers.shape, dtype=dtype, device=numbers.device)
    return torch.mul(number, scale, out=out)


def gather_dequantized(
    numbers: Tensor,
    scales: Tensor,
    picks: Tensor,
    *,
    packing: str,
    dtype: torch.dtype,
    out: Tensor | None = None,
    backend: str = "inductor",
) -> Tensor:
    """Return the picked pages (B, k U, h, d) of bytes (B, n, U, h, d) and scales (B, n, U, h, 1),
    gathered and dequantised in one kernel that torch.compile makes; picks (B or 1, 1, k)."""
    batch, pages, tokens, heads, size = numbers.shape
    if out is None:
        shape = (batch, picks.shape[-1] * tokens, heads, size)
        out = torch.empty(shape, dtype=dtype, device=numbers.device)
    first = torch.arange(batch, device=numbers.device)[:, None] * pages
    rows = first + to_device(picks, numbers.device)[:, 0]  # (B, k)
    gather = _compiled(backend)
    gather(numbers.flatten(0, 1), scales.flatten(0, 1), rows, packing=packing, out=out)
    return out


def _gather_dequantized(
    numbers: Tensor, scales: Tensor, rows: Tensor, *, packing: str, out: Tensor
) -> None:
    """Write pages `rows` (B, k) of bytes (n, U, h, d) and scales (n, U, h, 1) to `out`."""
    picked = numbers[rows].view(KINDS[packing]).float() * scales[rows]
    out.copy_(picked.flatten(1, 2))


@cache
def _compiled(backend: str) -> Callable[..., None]:
    # one compilation for any number of stored and of picked pages
    return Compiled(_gather_dequantized, remedy=UNCOMPILED, dynamic=True, backend=backend)
