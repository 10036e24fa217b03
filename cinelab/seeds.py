"""Addressed randomness: the same numbers for the same place, in any order, on any device.

    rng_at(seed, "step", 7)                            torch's generator on the CPU
    rng_at(seed, "step", 7, kind=CounterGenerator)     Philox 4x32-10, on whatever device
    normal(shape, rng, device), uniform, integers      draws of either

What torch's generator draws is drawn on the CPU and then moved, so every device makes the same
film. What is drawn by the million in a step of a training comes from a counter-based generator
(Salmon, Moraes, Dror and Shaw, Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011): number i of a
draw is a function of the address and of i alone. It is made where it is used, it is the same in any
split of a batch, and it is the same on every device: integers and uniform numbers to the bit,
normal ones to rounding.
"""

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

Words = tuple[Tensor | int, ...]

WORD = 0xFFFFFFFF  # 32 bits; words are held in int64, of which torch has all operations
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # what the key grows by from round to round
ROUNDS = 10


class CounterGenerator(torch.Generator):
    """Philox 4x32-10: the key is the seed, a counter is (number of the block, number of the draw).

    To torch's own functions it is a generator on the CPU with that seed.
    """

    draws = 0  # how many there were: each has counters of its own

    def words(self, count: int, device: torch.device | str, start: int = 0) -> Tensor:
        """Return words start .. start + count (count,) of the next draw, int64 in [0, 2^32). A
        word depends on its place in the draw alone, so that a batch may be drawn in parts."""
        first = start // 4
        blocks = torch.arange(first, -(-(start + count) // 4), device=device)
        seed = self.initial_seed()
        counter = (blocks & WORD, blocks >> 32, self.draws, 0)
        self.draws += 1
        drawn = torch.stack(philox(counter, (seed & WORD, seed >> 32)), dim=-1).flatten()
        return drawn[start - 4 * first :][:count]


def philox(counter: Words, key: tuple[int, int]) -> list[Tensor]:
    """Return the four random words (n,) of counters, four words (n,) or numbers of which the first
    is a tensor, under a key (the paper, section 4.3, and its Table 2 for the constants).

    A product of two words wraps around in int64, but its low and high words are right.
    """
    x = list(counter)
    for turn in range(ROUNDS):
        first, second = (m * word for m, word in zip(MULTIPLIERS, x[::2], strict=True))
        k0, k1 = ((k + turn * weyl) & WORD for k, weyl in zip(key, WEYL, strict=True))
        x = [
            (second >> 32 & WORD) ^ x[1] ^ k0,
            second & WORD,
            (first >> 32 & WORD) ^ x[3] ^ k1,
            first & WORD,
        ]
    return [torch.as_tensor(word) for word in x]


def rng_at(
    seed: int, *place: int | str, kind: type[torch.Generator] = torch.Generator
) -> torch.Generator:
    """Return a generator for one place, e.g. `rng_at(seed, "noise", chunk, step)`."""
    text = "/".join(map(str, (seed, *place)))
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    return kind().manual_seed(number >> 1)


def fork_rng(rng: torch.Generator, part: int) -> torch.Generator:
    """Return the generator of one micro-batch of a step, of the same kind: the first goes on with
    `rng`, every other has its own."""
    return rng if part == 0 else rng_at(rng.initial_seed(), "part", part, kind=type(rng))


def normal(
    shape: Sequence[int], rng: torch.Generator, device: torch.device | str = "cpu"
) -> Tensor:
    """Return normal numbers of a shape on a device, fp32.

    Those of a counter are Box and Muller's (Annals of Mathematical Statistics 29, 1958), two of two
    words; the farthest from 0 is 6.8.
    """
    if not isinstance(rng, CounterGenerator):
        return torch.randn(tuple(shape), generator=rng).to(device)
    count = math.prod(shape)
    # words as fp32 in (0, 1]: never 0, of which there is no logarithm
    share = rng.words(count + count % 2, device).float() * 2.0**-32 + 2.0**-33
    first, second = share.view(-1, 2).unbind(-1)
    radius = (-2 * first.log()).sqrt()
    angle = 2 * math.pi * second
    pair = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)
    return pair.flatten()[:count].view(tuple(shape))


def uniform(
    shape: Sequence[int], rng: torch.Generator, device: torch.device | str = "cpu"
) -> Tensor:
    """Return uniform numbers in [0, 1) of a shape on a device, fp32; those of a counter are
    multiples of 2^-24."""
    if not isinstance(rng, CounterGenerator):
        return torch.rand(tuple(shape), generator=rng).to(device)
    words = rng.words(math.prod(shape), device)
    return ((words >> 8).float() * 2.0**-24).view(tuple(shape))


def integers(
    below: int, shape: Sequence[int], rng: torch.Generator, device: torch.device | str = "cpu"
) -> Tensor:
    """Return integers in [0, below) of a shape on a device, int64.

    Those of a counter are words scaled down, for `below` up to 2^31: none is likelier than another
    by more than below / 2^32.
    """
    if not isinstance(rng, CounterGenerator):
        return torch.randint(below, tuple(shape), generator=rng).to(device)
    words = rng.words(math.prod(shape), device)
    return (words * below >> 32).view(tuple(shape))
