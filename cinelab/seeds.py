"""Addressed randomness: the same numbers for the same place, in any order, on any device.

Noise is drawn on the CPU and then moved, so every device makes the same film.
"""

import hashlib

import torch


def rng_at(seed: int, *place: int | str) -> torch.Generator:
    """A CPU generator for one place, e.g. `rng_at(seed, "noise", chunk, step)`."""
    text = "/".join(map(str, (seed, *place)))
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    return torch.Generator().manual_seed(number >> 1)


def fork_rng(rng: torch.Generator, part: int) -> torch.Generator:
    """Return the generator of one micro-batch of a step: the first goes on with `rng`, every other
    has its own."""
    return rng if part == 0 else rng_at(rng.initial_seed(), "part", part)
