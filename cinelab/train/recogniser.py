"""Train the recogniser on rendered shots, a share of them coded and decoded, degraded as generated
frames are.

    n clips   F frames a clip = 1 + STRIDE k   T frames a window   H W pixels   A attributes

The network is given by the caller (`cinelab.metrics.toybox.recogniser.Recogniser`), and so is the
codec: the network maps windows to a dictionary of logits. Neither is a film model's, so this is no
registered stage, and shares the training loop only.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as fn
from torch import Tensor, nn

from cinelab.checksums import read_arrays, write_arrays
from cinelab.errors import CinelabError
from cinelab.latent.codec import Codec, device_of, encoded, to_tensor, to_uint8
from cinelab.ops.tensors import to_device
from cinelab.readable import Readable
from cinelab.runs import Run
from cinelab.seeds import fork_rng
from cinelab.train.computing import Computing
from cinelab.train.loop import Columns, Learner
from cinelab.train.loop import train as run_loop
from cinelab.train.optim import Optim
from cinelab.world.plans import UNNAMED
from cinelab.world.worlds import world_named

HELD_OUT = 999  # seed of the clips that nothing is trained on


@dataclass(frozen=True)
class Degradation:
    """How a window is degraded before it is learnt from. Strengths are drawn evenly from 0 to the
    given one."""

    share: float = 0.6  # of the windows: degraded at all
    blur: float = 0.25  # weight of each neighbour in a three-tap blur, both ways
    noise: float = 0.08  # standard deviation, of frames in [-1, 1]
    light: float = 0.08  # added, either way
    contrast: float = 0.12  # multiplied, either way
    shift: int = 1  # pixels, every window, either way
    # windows of which only the first 3 to 5 frames differ, as in a short shot
    cut_short: float = 0.15


@dataclass(frozen=True)
class RecogniserTraining(Computing):
    """The settings of the recogniser's training."""

    optim: Optim = field(default_factory=lambda: Optim(lr=2e-3, ema=0.995))
    degradation: Degradation = field(default_factory=Degradation, metadata={"was": "soil"})
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
    world: str = UNNAMED  # the one whose attributes it reads

    def __post_init__(self) -> None:
        super().__post_init__()
        stride = world_named(self.world).stride
        if (self.frames - 1) % stride:
            raise CinelabError(
                f"frames {self.frames} do not fit 1 + {stride} k, which the codec needs."
            )
        if not 0 <= self.codec_share <= 1:
            raise CinelabError(f"codec_share {self.codec_share} is not a share; give 0 to 1.")


@dataclass(frozen=True)
class LabelledShots(Readable):
    """Single shots and their attributes."""

    frames: np.ndarray  # uint8 (n, F, H, W, 3)
    labels: np.ndarray  # int64 (n, A), in the order of the world's attributes

    def __len__(self) -> int:
        return len(self.frames)


def label(attributes: Mapping[str, str], known: Mapping[str, tuple[str, ...]]) -> list[int]:
    """Return the number of each attribute's value among those that are known, (A,)."""
    return [values.index(attributes[name]) for name, values in known.items()]


def rendered(
    seed: int,
    count: int,
    frames: int,
    *,
    world: str | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> LabelledShots:
    """Return `count` random shots of a world (None: the default one), the same for the same seed;
    one takes about a millisecond a frame. `progress` is called with the number rendered so far."""
    drawn = world_named(world)
    rendered_frames = np.empty((count, frames, *drawn.size, 3), np.uint8)
    labels = np.empty((count, len(drawn.attributes)), np.int64)
    for i in range(count):
        clip, attributes = drawn.random_shot(seed, i, frames)
        rendered_frames[i] = clip
        labels[i] = label(attributes, drawn.attributes)
        progress(i + 1)
    return LabelledShots(rendered_frames, labels)


@torch.inference_mode()
def reconstructed(codec: Codec, frames: np.ndarray, at_once: int = 16) -> np.ndarray:
    """Return clips (n, F, H, W, 3) encoded and decoded once, of the same shape."""
    coded = np.empty_like(frames)
    for i in range(0, len(frames), at_once):
        with torch.autocast(device_of(codec).type, torch.bfloat16):
            decoded, _ = codec.decode(encoded(codec, frames[i : i + at_once]))
        coded[i : i + at_once] = to_uint8(decoded)
    return coded


def labelled_shots(
    config: RecogniserTraining,
    folder: Path,
    codec: Codec | None = None,
    *,
    mark: str | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> LabelledShots:
    """Return all clips of a training, rendered once and stored in `folder` for the next time.

    `codec` is the one that the settings name, and `mark` the fingerprint of its weights. `progress`
    is called with the number rendered so far.
    """
    path = Path(folder) / f"clips-{_file_mark(config, mark)}.npz"
    if path.exists():
        arrays = read_arrays(path, ("frames", "labels"), "remove it, and it is rendered again")
        return LabelledShots(*arrays)
    clips = rendered(
        config.seed, config.clips, config.frames, world=config.world, progress=progress
    )
    if codec is not None and (some := round(config.clips * config.codec_share)):
        clips.frames[:some] = reconstructed(codec, clips.frames[:some])
    write_arrays(path, {"frames": clips.frames, "labels": clips.labels})
    return clips


def _file_mark(config: RecogniserTraining, mark: str | None) -> str:
    """Return a name that changes with everything the clips depend on, the codec's weights
    included."""
    known = world_named(config.world).attributes
    parts = (config.seed, config.clips, config.frames, mark, config.codec_share, known)
    return blake2b(repr(parts).encode(), digest_size=6).hexdigest()


def batch(
    config: RecogniserTraining, clips: LabelledShots, width: int, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return windows (batch, width, 3, H, W) in [-1, 1], degraded, and labels (batch, A)."""
    draw = np.random.default_rng(int(torch.randint(2**62, (), generator=rng)))
    picks = draw.integers(len(clips), size=config.batch)
    cut = np.stack([window(clips.frames[pick], width, config.degradation, draw) for pick in picks])
    return degraded(to_tensor(cut), config.degradation, rng), torch.from_numpy(clips.labels[picks])


def window(
    clip: np.ndarray, width: int, degradation: Degradation, draw: np.random.Generator
) -> np.ndarray:
    """Return a random window of a clip (F, H, W, 3), moved by `shift` pixels at most; at times
    only its first frames differ, as in a short shot."""
    keep = draw.integers(3, width) if draw.random() < degradation.cut_short else width
    start = draw.integers(0, len(clip) - width, endpoint=True)
    times = start + np.minimum(np.arange(width), keep - 1)
    moves = draw.integers(-degradation.shift, degradation.shift, size=2, endpoint=True)
    rows, columns = (
        np.clip(np.arange(n) + d, 0, n - 1) for n, d in zip(clip.shape[1:3], moves, strict=True)
    )
    cut: np.ndarray = clip[times].take(rows, axis=1).take(columns, axis=2)
    return cut


def degraded(frames: Tensor, degradation: Degradation, rng: torch.Generator) -> Tensor:
    """Return windows (B, T, 3, H, W), a share of them blurred, in another light and contrast, with
    noise."""
    dirty = torch.rand(len(frames), generator=rng) < degradation.share

    def strength(most: float, least: float = 0.0) -> Tensor:
        return least + (most - least) * torch.rand(int(dirty.sum()), 1, 1, 1, 1, generator=rng)

    some = blurred(frames[dirty], strength(degradation.blur))
    some = some * (1 + strength(degradation.contrast, -degradation.contrast)) + strength(
        degradation.light, -degradation.light
    )
    noise = torch.randn(some.shape, generator=rng)
    frames[dirty] = (some + strength(degradation.noise) * noise).clamp(-1, 1)
    return frames


def blurred(frames: Tensor, weight: Tensor) -> Tensor:
    """Return blurred frames: each pixel gives `weight` (B, 1, 1, 1, 1) to either neighbour, first
    in x, then in y."""
    batch = len(frames)
    for axis, pad in ((-1, (1, 1, 0, 0)), (-2, (0, 0, 1, 1))):
        padded = fn.pad(frames.flatten(0, 1), pad, "replicate")
        wide = padded.reshape(batch, -1, *padded.shape[1:])
        sides = wide.narrow(axis, 0, frames.shape[axis]) + wide.narrow(axis, 2, frames.shape[axis])
        frames = frames + weight * (sides - 2 * frames)
    return frames


def loss(model: nn.Module, frames: Tensor, labels: Tensor) -> tuple[Tensor, dict]:
    """Return the sum of the cross-entropies of all attributes, and the share of the batch that is
    read right."""
    logits = model(frames)
    pairs = list(zip(logits.values(), labels.unbind(1), strict=True))
    terms = [fn.cross_entropy(values.float(), wanted) for values, wanted in pairs]
    right = [(values.argmax(1) == wanted).float().mean() for values, wanted in pairs]
    return torch.stack(terms).sum(), {"right": torch.stack(right).mean()}


def train(
    config: RecogniserTraining, model: Any, clips: LabelledShots, run: Run
) -> Iterator[Columns]:
    """Yield one log row per step; resumes."""

    def stage_loss(
        model: Any, step: int, micro_batch: int, rng: torch.Generator
    ) -> tuple[Tensor, Columns]:
        frames, labels = batch(config, clips, model.config.frames, fork_rng(rng, micro_batch))
        device = next(model.parameters()).device
        on = (to_device(x, device) for x in (frames, labels))
        return loss(model, *on)

    return run_loop([Learner(model, stage_loss, config.optim)], config, run)


def accuracy(
    model: Any,
    seed: int = HELD_OUT,
    count: int = 1500,
    *,
    frames: int = 13,
    codec: Codec | None = None,
) -> dict[str, float]:
    """Return the share of `count` fresh shots whose attribute is read right, in a random window of
    each, by attribute; coded and decoded where there is a codec."""
    clips = rendered(seed, count, frames, world=model.world.name)
    shown = reconstructed(codec, clips.frames) if codec else clips.frames
    draw = np.random.default_rng(seed)
    clean = Degradation(shift=0, cut_short=0.0)
    cut = np.stack([window(clip, model.config.frames, clean, draw) for clip in shown])
    read = model.read(cut)
    return {
        name: round(float((read[name] == clips.labels[:, i]).mean()), 4)
        for i, name in enumerate(model.attributes)
    }


def measure_accuracy(config: RecogniserTraining, model: Any, codec: Codec | None = None) -> dict:
    """Set the recogniser's accuracy on held-out renders, and through the codec where there is one;
    returns its card."""
    held_out = partial(accuracy, model, count=config.held_out, frames=config.frames)
    model.accuracy = held_out()
    if codec is not None:
        model.accuracy_codec = held_out(codec=codec)
    card: dict = model.card()
    return card
