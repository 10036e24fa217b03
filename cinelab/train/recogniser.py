"""Train the recogniser on rendered shots, a share of them seen through the codec, soiled as
generated frames are.

    n clips   F frames a clip = 1 + STRIDE k   T frames a window   H W pixels   A attributes

The network is given by the caller (cinelab.metrics.toybox.recogniser.Recogniser): it maps windows to a
dictionary of logits.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as fn
from torch import Tensor, nn

from cinelab.checksums import read_arrays, write_arrays
from cinelab.errors import CinelabError
from cinelab.latent.codec import Codec, to_tensor, to_uint8
from cinelab.readable import Readable
from cinelab.runs import Run
from cinelab.seeds import fork_rng
from cinelab.train.loop import Learner
from cinelab.train.loop import train as run_loop
from cinelab.train.optim import Optim
from cinelab.world import casting, render
from cinelab.world.vocab import ATTRIBUTES, PROMPTED
from cinelab.zoo import checkpoints as zoo

HELD_OUT = 999  # seed of the clips that nothing is trained on


@dataclass(frozen=True)
class Soil:
    """What happens to a window before it is learnt from. Strengths are drawn evenly from 0 to the
    given one."""

    share: float = 0.6  # windows that are soiled at all
    blur: float = 0.25  # weight of each neighbour in a three-tap blur, both ways
    noise: float = 0.08  # standard deviation, of frames in [-1, 1]
    light: float = 0.08  # added, either way
    contrast: float = 0.12  # multiplied, either way
    shift: int = 1  # pixels, every window, either way
    # windows of which only the first 3 to 5 frames differ, as in a short shot
    cut_short: float = 0.15


@dataclass(frozen=True)
class RecogniserTraining(Readable):
    optim: Optim = field(default_factory=lambda: Optim(lr=2e-3, ema=0.995))
    soil: Soil = field(default_factory=Soil)
    steps: int = 1800
    batch: int = 64
    clips: int = 6000  # rendered once, then windows are drawn from them
    frames: int = 13  # of a clip
    codec: str | None = "toybox-codec"  # the one that a share of the clips goes through
    codec_share: float = 0.5
    held_out: int = 1500  # clips that accuracy is measured on
    seed: int = 0
    save_every: int = 200
    bf16: bool = True

    def __post_init__(self):
        if (self.frames - 1) % render.STRIDE:
            raise CinelabError(
                f"frames {self.frames} do not fit 1 + {render.STRIDE} k, which the codec needs."
            )
        if not 0 <= self.codec_share <= 1:
            raise CinelabError(f"codec_share {self.codec_share} is not a share; give 0 to 1.")


@dataclass(frozen=True)
class Clips(Readable):
    """Single shots and what they show."""

    frames: np.ndarray  # uint8 (n, F, H, W, 3)
    labels: np.ndarray  # int64 (n, A), in the order of ATTRIBUTES

    def __len__(self) -> int:
        return len(self.frames)


def label(attributes: dict[str, str]) -> list[int]:
    """The place of each value in ATTRIBUTES, (A,)."""
    return [values.index(attributes[name]) for name, values in ATTRIBUTES.items()]


def shot(seed: int, index: int, frames: int) -> tuple[np.ndarray, dict[str, str]]:
    """A random single shot, uint8 (frames, H, W, 3), and its attributes; every second one goes on
    from another."""
    rng = casting.rng_for(seed, index)
    (character,), (place,) = casting.hire(rng, 1), casting.scout(rng, 1)
    plan = casting.shoot(
        rng, character, place, (0, 0), rng.choice(PROMPTED["time"]), 1 + frames // render.STRIDE
    )
    before = render.Carry(rng.uniform(0, 2), rng.uniform(-0.7, 0.7)) if rng.random() < 0.5 else None
    return render.render_shot(plan, frames, before)[0], plan.attributes


def shots(seed: int, count: int, frames: int) -> Iterator[tuple[np.ndarray, dict[str, str]]]:
    """`count` random shots, one by one: about a millisecond a frame."""
    return (shot(seed, index, frames) for index in range(count))


def rendered(
    seed: int, count: int, frames: int, tell: Callable[[int], None] = lambda done: None
) -> Clips:
    """`count` random shots; the same for the same seed. `tell` hears how many are done."""
    pictures = np.empty((count, frames, render.HEIGHT, render.WIDTH, 3), np.uint8)
    labels = np.empty((count, len(ATTRIBUTES)), np.int64)
    for i, (clip, attributes) in enumerate(shots(seed, count, frames)):
        pictures[i], labels[i] = clip, label(attributes)
        tell(i + 1)
    return Clips(pictures, labels)


@torch.inference_mode()
def through(codec: Codec, frames: np.ndarray, at_once: int = 16) -> np.ndarray:
    """Clips (n, F, H, W, 3) encoded and decoded once, same shape."""
    seen = np.empty_like(frames)
    for i in range(0, len(frames), at_once):
        with torch.autocast("cpu", torch.bfloat16):
            pictures, _ = codec.decode(codec.encode(to_tensor(frames[i : i + at_once])))
        seen[i : i + at_once] = to_uint8(pictures)
    return seen


def pool(
    config: RecogniserTraining, folder: Path, tell: Callable[[int], None] = lambda done: None
) -> Clips:
    """All clips of a training; rendered once and kept in `folder` for the next sitting. `tell`
    hears how many are rendered."""
    path = Path(folder) / f"clips-{_pool_name(config)}.npz"
    if path.exists():
        return Clips(
            *read_arrays(path, ("frames", "labels"), "remove it, and it is rendered again")
        )
    clips = rendered(config.seed, config.clips, config.frames, tell)
    if some := round(config.clips * config.codec_share) if config.codec else 0:
        clips.frames[:some] = through(zoo.load_codec(config.codec), clips.frames[:some])
    write_arrays(path, {"frames": clips.frames, "labels": clips.labels})
    return clips


def _pool_name(config: RecogniserTraining) -> str:
    """Changes with everything that the clips depend on, the codec's weights included."""
    codec = zoo.fingerprint(config.codec) if config.codec else None
    parts = (config.seed, config.clips, config.frames, codec, config.codec_share, ATTRIBUTES)
    return blake2b(repr(parts).encode(), digest_size=6).hexdigest()


def batch(
    config: RecogniserTraining, clips: Clips, width: int, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Windows (batch, width, 3, H, W) in [-1, 1], soiled, and labels (batch, A)."""
    draw = np.random.default_rng(int(torch.randint(2**62, (), generator=rng)))
    picks = draw.integers(len(clips), size=config.batch)
    cut = np.stack([window(clips.frames[pick], width, config.soil, draw) for pick in picks])
    return soiled(to_tensor(cut), config.soil, rng), torch.from_numpy(clips.labels[picks])


def window(clip: np.ndarray, width: int, soil: Soil, draw: np.random.Generator) -> np.ndarray:
    """A random window of a clip (F, H, W, 3), moved by a pixel or so; at times its end stands
    still."""
    keep = draw.integers(3, width) if draw.random() < soil.cut_short else width
    start = draw.integers(0, len(clip) - width, endpoint=True)
    times = start + np.minimum(np.arange(width), keep - 1)
    moves = draw.integers(-soil.shift, soil.shift, size=2, endpoint=True)
    rows, columns = (
        np.clip(np.arange(n) + d, 0, n - 1) for n, d in zip(clip.shape[1:3], moves, strict=True)
    )
    return clip[times].take(rows, axis=1).take(columns, axis=2)


def soiled(frames: Tensor, soil: Soil, rng: torch.Generator) -> Tensor:
    """Blur, light, contrast and noise for a share of the windows (B, T, 3, H, W)."""
    dirty = torch.rand(len(frames), generator=rng) < soil.share

    def strength(most: float, least: float = 0.0) -> Tensor:
        return least + (most - least) * torch.rand(int(dirty.sum()), 1, 1, 1, 1, generator=rng)

    some = blurred(frames[dirty], strength(soil.blur))
    some = some * (1 + strength(soil.contrast, -soil.contrast)) + strength(soil.light, -soil.light)
    noise = torch.randn(some.shape, generator=rng)
    frames[dirty] = (some + strength(soil.noise) * noise).clamp(-1, 1)
    return frames


def blurred(frames: Tensor, weight: Tensor) -> Tensor:
    """Each pixel gives `weight` (B, 1, 1, 1, 1) to either neighbour, first in x, then in y."""
    batch = len(frames)
    for axis, pad in ((-1, (1, 1, 0, 0)), (-2, (0, 0, 1, 1))):
        wide = fn.pad(frames.flatten(0, 1), pad, "replicate").unflatten(0, (batch, -1))
        sides = wide.narrow(axis, 0, frames.shape[axis]) + wide.narrow(axis, 2, frames.shape[axis])
        frames = frames + weight * (sides - 2 * frames)
    return frames


def loss(model: nn.Module, frames: Tensor, labels: Tensor) -> tuple[Tensor, dict]:
    """Sum of the cross-entropies of all attributes; and the share of the batch that is read
    right."""
    logits = model(frames)
    terms = [
        fn.cross_entropy(logits[name].float(), labels[:, i]) for i, name in enumerate(ATTRIBUTES)
    ]
    right = [
        (logits[name].argmax(1) == labels[:, i]).float().mean() for i, name in enumerate(ATTRIBUTES)
    ]
    return torch.stack(terms).sum(), {"right": round(torch.stack(right).mean().item(), 4)}


def train(config: RecogniserTraining, model: nn.Module, clips: Clips, run: Run) -> Iterator[dict]:
    """Yield one log row per step; resumes."""

    def stage_loss(
        model: nn.Module, step: int, part: int, rng: torch.Generator
    ) -> tuple[Tensor, dict]:
        return loss(model, *batch(config, clips, model.config.frames, fork_rng(rng, part)))

    return run_loop([Learner(model, stage_loss, config.optim)], config, run)


def accuracy(
    model: nn.Module,
    seed: int = HELD_OUT,
    count: int = 1500,
    frames: int = 13,
    codec: Codec | None = None,
) -> dict[str, float]:
    """Attribute -> share read right, in a random window of each of `count` fresh shots, through
    `codec` if given."""
    clips = rendered(seed, count, frames)
    pictures = through(codec, clips.frames) if codec else clips.frames
    draw = np.random.default_rng(seed)
    clean = Soil(shift=0, cut_short=0.0)
    cut = np.stack([window(clip, model.config.frames, clean, draw) for clip in pictures])
    read = model.read(cut)
    return {
        name: round(float((read[name] == clips.labels[:, i]).mean()), 4)
        for i, name in enumerate(ATTRIBUTES)
    }


def measure(config: RecogniserTraining, model: nn.Module) -> dict:
    """Set the model's held-out accuracy on renders, and through the codec if it has one; returns
    its card."""
    model.accuracy = accuracy(model, count=config.held_out, frames=config.frames)
    if config.codec:
        model.accuracy_codec = accuracy(
            model, count=config.held_out, frames=config.frames, codec=zoo.load_codec(config.codec)
        )
    return model.card()
