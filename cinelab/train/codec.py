"""Train the toy codec on rendered clips: absolute plus squared error, and where there is a network
to judge by, the distance of its features; latents made robust by a little noise.

Features are compared as LPIPS compares them (arXiv 1801.03924, Eq. 1, without learnt weights): each
place's features are scaled to length 1. The network is a recogniser of the same world, so no
weights are fetched from outside.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as fn
from torch import Tensor

from cinelab.latent.codec import ToyCodecConfig, device_of, to_tensor
from cinelab.latent.codecs import made_codec
from cinelab.latent.residual_codec import ResidualCodecConfig
from cinelab.ops.tensors import to_device
from cinelab.readable import Readable
from cinelab.runs import Run
from cinelab.seeds import integers, normal
from cinelab.train.loop import Learner
from cinelab.train.loop import train as run_loop
from cinelab.train.optim import Optim
from cinelab.world.plans import UNNAMED
from cinelab.world.worlds import world_named


@dataclass(frozen=True)
class CodecTraining(Readable):
    """The settings of the codec's training."""

    codec: ToyCodecConfig = field(default_factory=ToyCodecConfig)
    optim: Optim = field(default_factory=lambda: Optim(lr=2e-3, ema=0.995))
    steps: int = 3200
    batch: int = 12
    latents: int = 3  # latent frames per clip
    clips: int = 5000  # rendered once, then drawn from
    noise: float = 0.05  # standard deviation added to the unit-variance latents
    # the recogniser whose features are compared, a checkpoint; None = pixels alone
    judge: str | None = None
    perceptual: float = 0.1  # weight of its features
    judged: int = 2  # frames of a clip that it judges
    seed: int = 0
    save_every: int = 250
    bf16: bool = True
    world: str = UNNAMED  # the one whose films it encodes


def clip(seed: int, index: int, latents: int, world: str | None = None) -> np.ndarray:
    """Return a short clip of a world (None: the default one): uint8 (F, H, W, 3)."""
    return world_named(world).random_clip(seed, index, latents)


def render_clips(
    config: CodecTraining, progress: Callable[[int], None] = lambda done: None
) -> np.ndarray:
    """Render all clips, uint8 (clips, F, H, W, 3), the same for the same seed. `progress` is called
    with the number rendered so far."""
    clips = []
    for index in range(config.clips):
        clips.append(clip(config.seed, index, config.latents, config.world))
        progress(index + 1)
    return np.stack(clips)


@dataclass(frozen=True)
class ResidualCodecTraining(CodecTraining):
    """The settings of the training of Toybox 2's codec."""

    codec: ResidualCodecConfig = field(default_factory=ResidualCodecConfig)  # type: ignore[assignment]


# frames (X, 3, H, W) in [-1, 1] -> maps of features (X, c, y, x)
FeatureMaps = Callable[[Tensor], list[Tensor]]


def feature_distance(maps: FeatureMaps, made: Tensor, true: Tensor) -> Tensor:
    """Return how far the features of frames (X, 3, H, W) are from those of the true ones: the mean
    over maps and places of the squared distance of directions."""
    with torch.no_grad():
        goals = maps(true)
    gaps = [
        (fn.normalize(a.float(), dim=1) - fn.normalize(b.float(), dim=1)).square().sum(1).mean()
        for a, b in zip(maps(made), goals, strict=True)
    ]
    return torch.stack(gaps).mean()


def loss(
    model: Any,
    frames: Tensor,
    config: CodecTraining,
    rng: torch.Generator,
    maps: FeatureMaps | None = None,
) -> Tensor:
    """Return the reconstruction error of frames (B, F, 3, H, W): absolute plus 4 times squared, and
    the distance of features on some frames of each clip.

    A codec decodes `stride` frames from every latent frame, of which a clip's first one holds one
    frame only: the target repeats it.
    """
    latents = model.encode(frames)
    latents = latents + config.noise * normal(latents.shape, rng, latents.device)
    decoded, _ = model.decode_groups(latents)
    target = torch.cat([frames[:, :1].expand(-1, model.stride - 1, -1, -1, -1), frames], dim=1)
    error = decoded.float() - target
    pixels = error.abs().mean() + 4 * error.square().mean()
    if maps is None:
        return pixels
    judged = integers(target.shape[1], (config.judged,), rng).tolist()
    made, true = (x[:, judged].flatten(0, 1) for x in (decoded, target))
    return pixels + config.perceptual * feature_distance(maps, made, true)


class CodecLearner(Learner):
    """The codec under training. Its runs are older than the one loop, and keep the address of
    their random numbers and the name of their optimizer's part."""

    address = ("codec",)
    optimizer_part = "optimizer"


def train(
    config: CodecTraining,
    run: Run,
    clips: np.ndarray,
    *,
    maps: FeatureMaps | None = None,
    device: str = "cpu",
) -> Iterator[dict]:
    """Yield one log row per step on `device`; resumes. `clips` is uint8 (clips, F, H, W, 3), `maps`
    the features of the judge, where there is one."""

    def stage_loss(
        model: Any, step: int, micro_batch: int, rng: torch.Generator
    ) -> tuple[Tensor, dict]:
        picks = integers(len(clips), (config.batch,), rng).numpy()
        frames = to_device(to_tensor(clips[picks]), device)
        return loss(model, frames, config, rng, maps), {}

    torch.manual_seed(config.seed)
    model = made_codec(config.codec).train().to(device)
    return run_loop([CodecLearner(model, stage_loss, config.optim)], config, run)


@torch.no_grad()
def psnr(model: Any, clips: np.ndarray) -> Tensor:
    """Return the peak signal-to-noise ratio (clips,) in dB of each clip, encoded and decoded as in
    streaming."""
    model.eval()
    values = []
    for one in clips:
        frames = to_tensor(one)[None].to(device_of(model))
        decoded, _ = model.decode(model.encode(frames))
        mse = fn.mse_loss((decoded + 1) / 2, (frames + 1) / 2)
        values.append(-10 * torch.log10(mse))
    return torch.stack(values).cpu()
