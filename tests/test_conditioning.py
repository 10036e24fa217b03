"""A new kind of conditioning touches the data and the network, and nothing between: here a number a
latent frame, which is added to the time embedding."""

from dataclasses import replace

import pytest
import torch
from test_train import Fake
from torch import nn

from cinelab.flow.condition import Condition
from cinelab.flow.rollout import ChunkModel, ChunkRequest, NumberedPrompts, RolloutState, rollout
from cinelab.flow.sampler import Sampling
from cinelab.memory.cache import KVCache
from cinelab.memory.context import CausalContext
from cinelab.memory.policy import CAMR, Full
from cinelab.model.wan import CausalWan, init_toy
from cinelab.runs import Run
from cinelab.stream.generator import ChunkGenerator
from cinelab.train import (
    bidirectional,
    consistency,
    dmd,
    presets,
    self_rollout,
    teacher_forcing,
)
from cinelab.zoo.checkpoints import load

FILMS, FRAMES = 2, 6


class SpeedWan(CausalWan):
    """CausalWan that also reads `speed` (B, F), a number a latent frame."""

    def __init__(self, config):
        super().__init__(config)
        self.speed = nn.Linear(1, config.width)

    def time_embedding(self, t, condition):
        embedder = self.condition_embedder
        speed = self.speed(condition.controls["speed"][..., None])
        return embedder.modulation(embedder.time(t) + speed)


class Speeds(Fake):
    """Clips with a speed a latent frame."""

    def clips(self, count, frames, rng):
        clips = super().clips(count, frames, rng)
        return replace(clips, controls={"speed": torch.rand(count, frames, generator=rng)})


def net(seed=0):
    torch.manual_seed(seed)
    model = init_toy(SpeedWan(presets.SMOKE))
    nn.init.normal_(model.proj_out.weight, std=0.02)
    nn.init.normal_(model.condition_embedder.time_proj.weight, std=0.02)
    return model


@pytest.mark.parametrize("stage", [bidirectional, teacher_forcing, consistency, dmd])
def test_three_steps_of_every_stage_train_it(stage, tmp_path):
    name = stage.__name__.rpartition(".")[2]
    config = replace(getattr(presets, name)("smoke"), model=presets.SMOKE, steps=3, bf16=False)
    student = net()
    before = student.speed.weight.detach().clone()
    frozen = [net(1).requires_grad_(False)] if name in ("consistency", "dmd") else []
    critic = [net(2)] if name == "dmd" else []
    rows = list(stage.train(config, student, *frozen, *critic, Speeds(), Run(tmp_path, config)))
    assert len(rows) == 3
    assert not torch.equal(student.speed.weight, before)


def films(model, speeds, policy):
    """Latents (B, F, C, h, w) of films that are streamed with `speeds` (B, F)."""
    clips = Speeds().clips(FILMS, FRAMES, torch.Generator().manual_seed(0))
    clips = replace(clips, controls={"speed": speeds})
    condition = clips.condition.encoded(model)
    maker = ChunkModel(
        model,
        NumberedPrompts(condition, 1),
        (1, *clips.latents.shape[2:]),
        sampling=Sampling(2, "consistency", 1.0),
    )
    requests = self_rollout.clip_requests(clips, [3, 4], 1)
    chunks = rollout(maker, RolloutState(0, KVCache(policy, 1)), requests)
    return torch.cat([chunk.latents for chunk in chunks], 1)


@torch.no_grad()
def test_it_streams_and_every_frame_has_its_own():
    model = net()
    speeds = torch.rand(FILMS, FRAMES, generator=torch.Generator().manual_seed(5))
    other = speeds.clone()
    other[:, -1] += 1
    policy = CAMR(budget=3)
    one, two = films(model, speeds, policy), films(model, other, policy)
    assert torch.equal(one[:, :-1], two[:, :-1])
    assert not torch.equal(one[:, -1], two[:, -1])


@torch.no_grad()
def test_streaming_attends_and_reads_as_the_masked_pass_does():
    model = net()
    clips = Speeds().clips(FILMS, FRAMES, torch.Generator().manual_seed(1))
    condition = clips.condition.encoded(model)
    zeros = torch.zeros(FILMS, FRAMES)
    whole = model(clips.latents, zeros, condition, CausalContext(Full(), clips.shot, 1))
    cache = KVCache(Full(), 1)
    parts = []
    for index in range(FRAMES):
        part = slice(index, index + 1)
        clean = cache.open(index, clips.shot[:, index]).record()
        parts.append(model(clips.latents[:, part], zeros[:, part], condition.frames(part), clean))
        cache.append(clean)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_generator_of_films_hands_it_on():
    """A request's controls reach the network; a film's other parts know nothing of them."""
    bundle = load("toybox-2step")
    model = SpeedWan(bundle.model.config)
    model.load_state_dict(bundle.model.state_dict(), strict=False)
    generator = ChunkGenerator(replace(bundle, model=model.eval()))
    made = []
    for speed in (0.0, 1.0):
        controls = {"speed": torch.full((1,), speed)}
        request = ChunkRequest("a red cat waves in the meadow by day", controls=controls)
        _, chunk = generator.step(generator.begin(), request)
        made.append(chunk.latents)
    assert not torch.equal(*made)


def test_guidance_keeps_the_controls_and_drops_the_prompt():
    condition = Condition(
        torch.randn(2, 3, 5, 8), torch.zeros(2, 4, dtype=torch.long), {"speed": torch.rand(2, 4)}
    )
    both = condition.guided()
    assert torch.equal(both.controls["speed"], condition.controls["speed"].repeat(2, 1))
    assert both.slot.tolist() == 2 * [4 * [0]] + 2 * [4 * [2]]
