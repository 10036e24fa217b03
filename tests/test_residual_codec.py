"""Toybox 2's codec: causal, streamed exactly, and trained by pixels and features."""

import pytest
import torch

from cinelab.latent.residual_codec import CELL, ResidualCodec, ResidualCodecConfig
from cinelab.seeds import rng_at
from cinelab.train.codec import CodecTraining, feature_distance, loss

SMALL = ResidualCodecConfig(channels=8, fine=8, width=16, deep=32, blocks=1, deep_blocks=1)


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    made = ResidualCodec(SMALL).eval()
    for weight in made.parameters():  # also those that begin at zero
        weight.data += 0.05 * torch.randn_like(weight)
    return made


FRAMES = torch.rand(2, 9, 3, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def test_shapes(codec):
    latents = codec.encode(FRAMES)
    assert latents.shape == (2, 5, 8, 32 // CELL, 48 // CELL)
    frames, _ = codec.decode(latents)
    assert frames.shape == FRAMES.shape and frames.abs().max() <= 1


@torch.no_grad()
@pytest.mark.parametrize("split", [[5], [1, 4], [2, 2, 1], [1, 1, 1, 1, 1]])
def test_any_split_of_a_film_decodes_to_the_same_bits(codec, split):
    latents = codec.encode(FRAMES)
    whole, _ = codec.decode(latents)
    state = None
    parts = []
    for part in latents.split(split, dim=1):
        frames, state = codec.decode(part, state)
        parts.append(frames)
    assert torch.equal(torch.cat(parts, dim=1), whole)


@torch.no_grad()
def test_one_pass_decodes_as_the_stream_does(codec):
    latents = codec.encode(FRAMES)
    groups, _ = codec.decode_groups(latents)
    stream, _ = codec.decode(latents)
    assert torch.allclose(groups[:, 1:].clamp(-1, 1), stream, atol=1e-5)


@torch.no_grad()
def test_it_is_causal(codec):
    changed = FRAMES.clone()
    changed[:, 5:] = 0
    before, after = codec.encode(FRAMES), codec.encode(changed)
    assert torch.allclose(before[:, :3], after[:, :3], atol=1e-6)
    assert not torch.allclose(before[:, 3], after[:, 3])


def test_a_count_that_does_not_fit_is_refused(codec):
    with pytest.raises(ValueError, match="do not fit 1 \\+ 2 n"):
        codec.encode(FRAMES[:, :8])


def test_features_of_equal_frames_are_no_distance_apart():
    conv = torch.nn.Conv2d(3, 4, 3)
    frames = FRAMES[0]
    assert feature_distance(lambda x: [conv(x)], frames, frames) < 1e-9
    assert feature_distance(lambda x: [conv(x)], frames, -frames) > 0.1


def test_a_judge_adds_its_distance_and_its_gradient(codec):
    config = CodecTraining(perceptual=1.0, judged=1, noise=0.0)
    conv = torch.nn.Conv2d(3, 4, 3).requires_grad_(False)
    plain = loss(codec, FRAMES, config, rng_at(0, "x"))
    judged = loss(codec, FRAMES, config, rng_at(0, "x"), lambda x: [conv(x)])
    assert judged > plain
    judged.backward()
    assert all(
        weight.grad is not None and torch.isfinite(weight.grad).all()
        for weight in codec.parameters()
    )
