"""The toy codec: streaming decode is the full decode, nothing looks ahead, and the shipped one is
good enough."""

import numpy as np
import pytest
import torch

from cinelab.latent.codec import ToyCodec, ToyCodecConfig, to_tensor, to_uint8
from cinelab.train.codec import clip, psnr
from cinelab.zoo.checkpoints import load_codec


def small() -> ToyCodec:
    torch.manual_seed(0)
    return ToyCodec(ToyCodecConfig(width=16, deep=16)).eval()


@pytest.mark.parametrize("split", [[1, 1, 1, 1], [2, 2], [1, 3], [3, 1]])
@torch.no_grad()
def test_streaming_decode_equals_full_decode_bitwise(split):
    codec = small()
    latents = torch.randn(1, 4, 24, 6, 8)
    whole, _ = codec.decode(latents)
    parts = []
    state = None
    for part in latents.split(split, dim=1):
        pictures, state = codec.decode(part, state)
        parts.append(pictures)
    assert torch.equal(torch.cat(parts, 1), whole)
    assert whole.shape == (1, 1 + 3 * codec.stride, 3, 48, 64)


@torch.no_grad()
def test_one_pass_decode_equals_latent_by_latent():
    codec = small()
    latents = torch.randn(2, 3, 24, 6, 8)
    streamed, _ = codec.decode(latents)
    at_once, _ = codec.decode_groups(latents)
    assert (at_once[:, codec.stride - 1 :].clamp(-1, 1) - streamed).abs().max() <= 1e-5


@torch.no_grad()
def test_latents_never_depend_on_later_frames():
    codec = small()
    frames = torch.rand(1, 7, 3, 48, 64) * 2 - 1
    other = frames.clone()
    other[:, 3:] = -other[:, 3:]
    a, b = codec.encode(frames), codec.encode(other)
    assert torch.allclose(a[:, :2], b[:, :2], atol=1e-6)
    assert not torch.allclose(a[:, 2:], b[:, 2:], atol=1e-3)


def test_frames_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="4 frames do not fit 1 \\+ 2 n"):
        small().encode(torch.zeros(1, 4, 3, 48, 64))


def test_pixels_survive_the_tensor_round_trip():
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5, 3), dtype=np.uint8)
    assert np.array_equal(to_uint8(to_tensor(frames)), frames)


def test_shipped_codec_on_films_it_has_never_seen():
    codec = load_codec()
    held = np.stack([clip(4242, index, 3) for index in range(12)])
    value = psnr(codec, held)
    assert value.mean() >= 25.0  # dB; the measured figure is in the README
    latents = codec.encode(to_tensor(held))
    assert 0.8 <= latents.std() <= 1.2 and latents.mean().abs() <= 0.1
