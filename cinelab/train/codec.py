"""Train the toy codec on rendered clips: absolute plus squared error, latents made robust by a
little noise."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as fn
from torch import Tensor

from cinelab.latent.codec import ToyCodec, ToyCodecConfig, to_tensor
from cinelab.readable import Readable
from cinelab.runs import Run
from cinelab.seeds import rng_at
from cinelab.train.optim import Ema, Optim, adamw, descend
from cinelab.world import casting, render


@dataclass(frozen=True)
class CodecTraining(Readable):
    codec: ToyCodecConfig = field(default_factory=ToyCodecConfig)
    optim: Optim = field(default_factory=lambda: Optim(lr=2e-3, ema=0.995))
    steps: int = 3200
    batch: int = 12
    latents: int = 3  # latent frames per clip
    clips: int = 5000  # rendered once, then drawn from
    noise: float = 0.05  # standard deviation added to the unit-variance latents
    seed: int = 0
    save_every: int = 250


def clip(seed: int, index: int, latents: int) -> np.ndarray:
    """A short clip with a cut in it more often than not: uint8 (F, H, W, 3)."""
    return render.render(casting.cast_film(seed, index, latents, (1, latents))).frames


def pool(config: CodecTraining, tell: Callable[[int], None] = lambda done: None) -> np.ndarray:
    """All clips, uint8 (clips, F, H, W, 3), the same for the same seed. `tell` hears how many are
    rendered."""
    clips = []
    for index in range(config.clips):
        clips.append(clip(config.seed, index, config.latents))
        tell(index + 1)
    return np.stack(clips)


def loss(model: ToyCodec, frames: Tensor, noise: float, rng: torch.Generator) -> Tensor:
    """Reconstruction error of frames (B, F, 3, H, W)."""
    latents = model.encode(frames)
    latents = latents + noise * torch.randn(latents.shape, generator=rng)
    pictures, _ = model.decode_groups(latents)
    target = torch.cat([frames[:, :1].expand(-1, model.stride - 1, -1, -1, -1), frames], dim=1)
    error = pictures.float() - target
    return error.abs().mean() + 4 * error.square().mean()


def train(config: CodecTraining, run: Run, clips: np.ndarray) -> Iterator[dict]:
    """Yield one log row per step; calling it again on the same run resumes it."""
    try:
        yield from _train(config, run, clips)
    finally:
        run.leave()


def _train(config: CodecTraining, run: Run, clips: np.ndarray) -> Iterator[dict]:
    torch.manual_seed(config.seed)
    model = ToyCodec(config.codec).train()
    optim = config.optim
    ema = Ema(model, optim.ema, optim.ema_warm, optim.ema_from)
    optimizer = adamw(model, optim)
    run.restore(model=model, ema=ema, optimizer=optimizer)
    for step in range(run.step, config.steps):
        rng = rng_at(config.seed, "codec", step)
        picks = torch.randint(len(clips), (config.batch,), generator=rng).numpy()
        with torch.autocast("cpu", torch.bfloat16):
            error = loss(model, to_tensor(clips[picks]), config.noise, rng)
        norm = descend(optimizer, error, config.optim, step, config.steps)
        ema.update(model, step)
        row = run.log(step=step, loss=error.item(), grad_norm=norm, seconds=round(run.wall, 2))
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            run.save(step + 1, model=model, ema=ema, optimizer=optimizer)
        yield row
    run.finish()


@torch.no_grad()
def psnr(model: ToyCodec, clips: np.ndarray) -> Tensor:
    """Peak signal-to-noise ratio in dB of each clip, through encode and streaming decode;
    (clips,)."""
    model.eval()
    values = []
    for one in clips:
        frames = to_tensor(one)[None]
        pictures, _ = model.decode(model.encode(frames))
        mse = fn.mse_loss((pictures + 1) / 2, (frames + 1) / 2)
        values.append(-10 * torch.log10(mse))
    return torch.stack(values)
