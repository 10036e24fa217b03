"""A user's own module: a stage, a backbone and a codec, each found by its decorator alone."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from cinelab import register
from cinelab.model.wan import CausalWan, WanConfig
from cinelab.seeds import fork_rng
from cinelab.train.bidirectional import BidirectionalTraining
from cinelab.train.bidirectional import loss as velocity_loss
from cinelab.train.loop import Learner
from cinelab.train.sizes import SMOKE
from cinelab.train.stage import STUDENT, TEACHER, Role, Stage


@register.stage("own_images")
class OwnImages(Stage):
    """Single latent frames only."""

    config = BidirectionalTraining

    def presets(self, seed):
        return {"few": BidirectionalTraining(SMOKE, steps=3, save_every=2, seed=seed)}

    def learners(self, config, data, networks):
        def loss(model, step, micro_batch, rng):
            clips = data.clips(2, 1, fork_rng(rng, micro_batch))
            return velocity_loss(model, clips, config, rng), {"frames": 1}

        return [Learner(networks["student"], loss, config.optim)]

    def span(self, config):
        return 8


@register.stage("own_taught")
class OwnTaught(OwnImages):
    """With a frozen teacher and a clip that is shown twice, as a distillation has them."""

    roles = (STUDENT, Role("guide", TEACHER, trained=False, title="guide"))
    doubled = True

    def passes(self, back, chunks):
        return back + 1


@dataclass(frozen=True)
class WiderConfig(WanConfig):
    """Wan's shape and one number more."""

    gain: float = 1.0


@register.backbone("own_wider")
class Wider(CausalWan):
    """Wan's transformer whose velocity is scaled by a weight."""

    Config = WiderConfig

    def __init__(self, config):
        super().__init__(config)
        self.gain = nn.Parameter(torch.tensor(config.gain))

    def forward(self, *inputs):
        return super().forward(*inputs) * self.gain


WIDER = WiderConfig(**{**vars(SMOKE), "gain": 2.0})


@register.stage("own_network")
class OwnNetwork(OwnImages):
    """The same stage for the own backbone."""

    def presets(self, seed):
        few = super().presets(seed)["few"]
        return {"few": replace(few, model=WIDER)}


@register.codec("own_mean")
class MeanCodec:
    """A latent cell is the mean of its pixels; frames come back as flat cells. No weights."""

    channels = 24
    scale = 8
    stride = 2

    def __init__(self, level=0.0):
        self.level = level

    def encode(self, frames):
        cells = nn.functional.avg_pool3d(frames.movedim(2, 1)[:, :, :: self.stride], (1, 8, 8))
        return cells.movedim(1, 2).repeat(1, 1, 8, 1, 1)

    def decode(self, latents, state=None):
        frames = latents[:, :, :3].repeat_interleave(8, -1).repeat_interleave(8, -2) + self.level
        frames = frames.repeat_interleave(self.stride, 1)
        return (frames[:, 1:] if state is None else frames).clamp(-1, 1), True
