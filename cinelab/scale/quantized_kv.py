"""KV store of one byte a number.

Law: a number is off by half a step of its scale at most (int8), or by 1/16 of itself (fp8, e4m3).

    B films   n pages   U tokens a page   h heads   d head size   k retrieved pages
"""

import torch
from torch import Tensor

from cinelab.memory.store import KVStore, refuse_gradients

LARGEST = {"int8": 127.0, "fp8": 448.0}


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
    ):
        self.packing = packing
        self.numbers = numbers
        self.scales = scales
        self.dtype = dtype  # of the pages that are returned

    def append(self, pages: Tensor, length: int) -> "QuantizedKVStore":
        refuse_gradients(f"packing {self.packing!r}", "use 'none'", pages)
        numbers, scales = quantize(pages, self.packing)
        return QuantizedKVStore(
            self.packing,
            self.numbers.append(numbers, length),
            self.scales.append(scales, length),
            dtype=pages.dtype,
        )

    def take(self, picks: Tensor, length: int, out: Tensor | None = None) -> Tensor:
        numbers = self.numbers.take(picks, length)
        made = dequantize(numbers, self.scales.take(picks, length), self.packing, self.dtype)
        return made if out is None else out.copy_(made)

    def all(self, length: int) -> Tensor:
        numbers = self.numbers.all(length)
        return dequantize(numbers, self.scales.all(length), self.packing, self.dtype)

    def view(self, first: int, length: int) -> None:
        """Return None: pages are brought elsewhere to be attended to."""

    def expect(self, picks: Tensor, length: int) -> None:
        """Hear nothing yet."""

    def page_bytes(self) -> int:
        return self.numbers.page_bytes() + self.scales.page_bytes()


def quantize(x: Tensor, packing: str) -> tuple[Tensor, Tensor]:
    """Return x (..., d) as bytes (..., d), and fp32 scales (..., 1)."""
    scale = x.detach().float().abs().amax(-1, keepdim=True).clamp_min(1e-12) / LARGEST[packing]
    scaled = x.detach().float() / scale
    if packing == "int8":
        return scaled.round().to(torch.int8).view(torch.uint8), scale
    return scaled.to(torch.float8_e4m3fn).view(torch.uint8), scale


def dequantize(numbers: Tensor, scale: Tensor, packing: str, dtype: torch.dtype) -> Tensor:
    """Return the numbers (..., d) of bytes (..., d) and scales (..., 1)."""
    kind = torch.int8 if packing == "int8" else torch.float8_e4m3fn
    return (numbers.view(kind).float() * scale).to(dtype)
