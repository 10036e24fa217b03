"""The counter-based generator: Philox 4x32-10 as published, addressed by place, the same in any
split and on any device."""

import math

import numpy as np
import pytest
import torch

from cinelab.seeds import CounterGenerator, fork_rng, integers, normal, philox, rng_at, uniform

# Random123 (Salmon et al. 2011), known answers of philox4x32 with 10 rounds: counter, key, words
KNOWN = [
    (
        "00000000 00000000 00000000 00000000",
        "00000000 00000000",
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    ),
    (
        "ffffffff ffffffff ffffffff ffffffff",
        "ffffffff ffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def numbers(text):
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize("counter, key, words", KNOWN)
def test_philox_gives_the_published_words(counter, key, words):
    first, *rest = numbers(counter)
    found = philox((torch.tensor([first]), *rest), tuple(numbers(key)))
    assert [int(word) for word in found] == numbers(words)


def philox_of_numpy(seed, draw, count):
    """The same algorithm in unsigned 64-bit integers of numpy, block by block."""
    blocks = np.arange(-(-count // 4), dtype=np.uint64)
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    x = [blocks & mask, blocks >> half, np.full_like(blocks, draw), np.zeros_like(blocks)]
    key = [np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32)]
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * x[0], np.uint64(0xCD9E8D57) * x[2]
        x = [(b >> half) ^ x[1] ^ key[0], b & mask, (a >> half) ^ x[3] ^ key[1], a & mask]
        key = [(key[0] + np.uint64(0x9E3779B9)) & mask, (key[1] + np.uint64(0xBB67AE85)) & mask]
    return np.stack(x, axis=-1).ravel()[:count]


def counters(*place):
    return rng_at(3, *place, kind=CounterGenerator)


def test_words_and_normals_are_those_of_a_reference():
    rng = counters("step", 7)
    rng.words(5, "cpu")  # the first draw; what is compared is the second and third
    words = philox_of_numpy(rng.initial_seed(), 1, 1003)
    assert rng.words(1003, "cpu").tolist() == words.tolist()
    words = philox_of_numpy(rng.initial_seed(), 2, 1004).astype(np.float64)
    share = ((words + 0.5) / 2**32).reshape(-1, 2)
    radius = np.sqrt(-2 * np.log(share[:, 0]))
    angle = 2 * math.pi * share[:, 1]
    expected = np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1).ravel()[:1003]
    found = normal((17, 59), rng).double().numpy().ravel()
    np.testing.assert_allclose(found, expected, atol=5e-6)


def test_a_word_depends_on_its_address_and_place_alone():
    whole = counters("a").words(1000, "cpu")
    parts = [
        counters("a").words(count, "cpu", start) for start, count in ((0, 3), (3, 600), (603, 397))
    ]
    assert torch.equal(torch.cat(parts), whole)
    far = counters("a").words(6, "cpu", 2**34 + 1)  # beyond 32 bits of blocks
    assert torch.equal(counters("a").words(2, "cpu", 2**34 + 5), far[4:])
    assert not torch.equal(far[:4], whole[1:5])
    assert not torch.equal(counters("b").words(1000, "cpu"), whole)


def test_draws_of_one_generator_differ_and_are_repeated_by_another():
    rng = counters("a")
    first, second = normal((4, 5), rng), normal((4, 5), rng)
    again = counters("a")
    assert not torch.equal(first, second)
    assert torch.equal(normal((4, 5), again), first) and torch.equal(normal((4, 5), again), second)


def test_micro_batches_have_generators_of_their_own_of_the_same_kind():
    rng = counters("a")
    assert fork_rng(rng, 0) is rng
    other = fork_rng(rng, 1)
    assert (
        isinstance(other, CounterGenerator) and type(fork_rng(rng_at(3, "a"), 1)) is torch.Generator
    )
    assert not torch.equal(other.words(8, "cpu"), counters("a").words(8, "cpu"))


def test_moments_and_independence():
    """Of 2^20 numbers, so that five standard errors of a mean are 0.005."""
    rng = counters("moments")
    x = normal((1 << 20,), rng).double()
    assert abs(x.mean()) < 0.005 and abs(x.var() - 1) < 0.01
    assert abs((x**3).mean()) < 0.02 and abs((x**4).mean() - 3) < 0.05
    y = normal((1 << 20,), rng).double()
    for a, b in ((x, y), (x[:-1], x[1:]), (x[::2], x[1::2]), (x[::2] ** 2 - 1, x[1::2] ** 2 - 1)):
        assert abs((a * b).mean()) < 0.01
    u = uniform((1 << 20,), rng)
    assert 0 <= u.min() and u.max() < 1 and abs(u.mean() - 0.5) < 0.002
    assert abs(u.double().var() - 1 / 12) < 0.001


def test_integers_are_below_their_bound_and_even():
    drawn = integers(7, (70_000,), counters("choices"))
    counts = drawn.bincount(minlength=7)
    assert len(counts) == 7 and (counts - 10_000).abs().max() < 500
    assert integers(2**31, (1000,), counters("choices")).max() < 2**31


def test_torchs_generator_draws_what_it_did():
    for draw, plain in (
        (lambda rng: normal((3, 4), rng), lambda rng: torch.randn(3, 4, generator=rng)),
        (lambda rng: uniform((3, 4), rng), lambda rng: torch.rand(3, 4, generator=rng)),
        (lambda rng: integers(9, (5,), rng), lambda rng: torch.randint(9, (5,), generator=rng)),
    ):
        assert torch.equal(draw(rng_at(1, "x")), plain(rng_at(1, "x")))


def test_a_counter_draws_on_the_device_and_waits_for_nothing():
    for draw in (normal, uniform):
        assert draw((8, 3), counters("a"), "meta").device.type == "meta"
    assert integers(5, (8, 3), counters("a"), "meta").device.type == "meta"
    # own stages may hand it to torch
    assert torch.randn(3, generator=counters("a")).shape == (3,)
