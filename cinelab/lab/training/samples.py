"""Samples of a training stage: what the averaged weights make of held-out captions."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cinelab.flow.rollout import noise_for
from cinelab.flow.sampler import Sampling
from cinelab.flow.solvers import solve
from cinelab.lab.reports.toybox_figures import sheet
from cinelab.latent.codec import Codec, encoded, to_uint8
from cinelab.latent.store import Clips
from cinelab.memory.policy import Policy
from cinelab.metrics.card import HELD_OUT
from cinelab.readable import Readable
from cinelab.script.unconditional import unconditional_text
from cinelab.stream.batch import decode, inference_mode, make, policy_for
from cinelab.stream.storyboard import storyboard
from cinelab.train.pairs import teacher_velocity
from cinelab.world.worlds import world_named
from cinelab.zoo.bundle import Bundle
from cinelab.zoo.checkpoints import load


@dataclass(frozen=True)
class Sample(Readable):
    """A film made with the weights that a training saved at `step`: frames uint8 (F, H, W, 3), a
    caption a shot."""

    step: int
    frames: np.ndarray
    fps: float
    captions: tuple[str, ...]


def looped(frames: np.ndarray, fps: float, height: int = 192) -> bytes:
    """Encode frames uint8 (F, H, W, 3) as an endless WebP about `height` pixels high: some 50 kB a
    film of the toybox."""
    scale = max(1, round(height / frames.shape[1]))
    size = frames.shape[2] * scale, frames.shape[1] * scale
    images = [Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC) for frame in frames]
    with BytesIO() as buffer:
        images[0].save(
            buffer,
            "WEBP",
            save_all=True,
            append_images=images[1:],
            duration=round(1000 / fps),
            loop=0,
            quality=75,
            method=0,
        )
        return buffer.getvalue()


def held_out_film(bundle: Bundle, step: int, shots: int = 2, index: int = 0) -> Sample:
    """Make a film of held-out captions with a causal model, in shots of 6 latent frames, which suit
    every chunk size up to 3."""
    world = bundle.world
    plan = world.cast_film(HELD_OUT, index, 6 * shots, shot_latents=(6, 6), grain=6)
    line = world.timeline(plan, bundle.chunk)
    latents, _ = make(bundle, [line], policy_for(bundle), [index])
    return Sample(
        step, decode(bundle, latents)[0], bundle.fps, tuple(shot.caption for shot in plan.shots)
    )


def held_out_clip(bundle: Bundle, step: int, frames: int = 4, index: int = 0) -> Sample:
    """Make a clip of a held-out caption with a bidirectional model."""
    caption = bundle.world.cast_film(HELD_OUT, index, 2).shots[0].caption
    latents = bidirectional_clips(bundle, [caption], frames, seeds=[index])
    return Sample(step, decode(bundle, latents)[0], bundle.fps, (caption,))


@torch.no_grad()
def through_codec(codec: Codec, clip: np.ndarray, step: int, *, fps: float) -> Sample:
    """Show a clip uint8 (F, H, W, 3) beside its reconstruction by a codec."""
    back = to_uint8(codec.decode(encoded(codec, clip[None]))[0])[0]
    return Sample(
        step,
        np.concatenate([clip, back], axis=2),
        fps,
        ("left: the rendered clip, right: the codec's",),
    )


def bidirectional_clips(
    bundle: Bundle,
    captions: list[str],
    frames: int,
    *,
    seeds: list[int],
    sampling: Sampling | None = None,
) -> torch.Tensor:
    """Make clips (B, F, C, h, w) all at once with a bidirectional model; one caption a clip."""
    sampling = bundle.levels(sampling)
    guidance = sampling.guidance
    solver = sampling.solver
    assert guidance is not None and solver is not None  # a bundle's sampling is complete
    with inference_mode(True, bundle.device):
        text = bundle.encoder.encode(captions)[:, None]
        compared = bundle.encoder.encode([unconditional_text(bundle.unconditional)]).expand_as(
            text[:, 0]
        )
        noise = noise_for(seeds, 0, (frames, *bundle.latent_shape))
        slot = torch.zeros(len(captions), frames, dtype=torch.long)
        clips = Clips(noise, torch.cat([text, compared[:, None]], dim=1), slot, slot).to(
            bundle.device
        )
        field = teacher_velocity(bundle.model, clips, "bidirectional", guidance, chunk=1)
        return solve(field, clips.latents, sampling.levels(), solver)


def sample_clips(checkpoint: str | Path, clips: int = 4, frames: int = 4) -> Image.Image:
    """Draw the clips that a stage 0 checkpoint makes of held-out captions."""
    bundle = load(checkpoint)
    world = bundle.world
    captions = [world.cast_film(HELD_OUT, index, 2).shots[0].caption for index in range(clips)]
    latents = bidirectional_clips(bundle, captions, frames, seeds=list(range(clips)))
    films = decode(bundle, latents)
    for number, caption in enumerate(captions, 1):
        print(f"clip {number}: {caption}")
    return sheet([(f"clip {number}", list(film)) for number, film in enumerate(films, 1)])


def sample_film(
    checkpoint: str | Path, shots: int = 6, policy: Policy | str | None = None, index: int = 0
) -> Image.Image:
    """Draw the storyboard of a held-out film, made by a stage 1 checkpoint."""
    bundle = load(checkpoint)
    plan = bundle.world.cast_film(HELD_OUT, index, 4 * shots, shot_latents=(4, 4))
    line = bundle.world.timeline(plan)
    latents, _ = make(bundle, [line], policy or policy_for(bundle), [index])
    return storyboard(
        decode(bundle, latents)[0], line.entry_spans, [shot.caption for shot in plan.shots]
    )


def versus(
    checkpoints: dict[str, str | Path],
    shots: int = 4,
    stills: int = 2,
    *,
    index: int = 0,
    policy: Policy | str | None = None,
) -> Image.Image:
    """Draw the same held-out film from the same noise by several models (label -> checkpoint), a
    row each; truth on top."""
    bundles = {label: load(checkpoint) for label, checkpoint in checkpoints.items()}
    world = next((bundle.world for bundle in bundles.values()), world_named())
    plan = world.cast_film(HELD_OUT, index, 6 * shots, shot_latents=(6, 6), grain=6)
    spans = world.timeline(plan).entry_spans
    rows = [("truth", _stills(world.render(plan).frames, spans, stills))]
    for label, bundle in bundles.items():
        line = world.timeline(plan, bundle.chunk)
        latents, _ = make(bundle, [line], policy or policy_for(bundle), [index])
        rows.append((label, _stills(decode(bundle, latents)[0], spans, stills)))
    for number, shot in enumerate(plan.shots, 1):
        print(f"shot {number}: {shot.caption}")
    return sheet(rows)


def _stills(frames: np.ndarray, spans: list[tuple[int, int]], count: int) -> list[np.ndarray]:
    """Return `count` frames of every shot, the last one among them."""
    return [
        frames[first + (end - 1 - first) * i // max(1, count - 1)]
        for first, end in spans
        for i in range(count)
    ]
