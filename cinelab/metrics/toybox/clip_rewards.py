"""Computes the rewards of a student's clips: decodes them, reads them, and asks each reward.

reward = ClipRewards(bundle, ["identity", "motion"], reader)
reward(sample, clips, made)            name -> (B,)

B clips   F latent frames   C channels   H, W latent size   N pixel frames
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.latent.codec import Codec, to_uint8
from cinelab.latent.store import Clips
from cinelab.metrics.toybox.recogniser import Recogniser, load_recogniser, windows
from cinelab.script.prompts import TextEncoder, WordEncoder
from cinelab.script.shotlist import ListedShot
from cinelab.train.rewards import REWARDS, ShownClips
from cinelab.world.worlds import World, world_named

AT_ONCE = 16  # clips decoded together


class ClipRewards:
    """The rewards of these names for clips of a codec and a text encoder of a world (None: the
    default one). Nothing of it is trained, and no gradient flows through it. `reader`: None is the
    world's recogniser, where one is needed."""

    def __init__(
        self,
        codec: Codec,
        encoder: TextEncoder,
        names: Sequence[str],
        *,
        world: str | World | None = None,
        reader: Recogniser | None = None,
        device: str | None = None,
    ):
        if not isinstance(encoder, WordEncoder):
            raise CinelabError(
                "This text encoder's prompts cannot be read back, so that nothing says what a clip "
                "is to show; exact rewards need a model of the toybox."
            )
        self.world = world_named(world)
        self.codec = codec
        self.encoder = encoder
        self.terms = [REWARDS.term(name) for name in names]
        self.needs = {need for one in self.terms for need in one.needs}
        if reader is None and "reader" in self.needs:
            reader = load_recogniser(device=device, world=self.world)
        self.reader = reader

    @torch.no_grad()
    def __call__(self, sample: Tensor, clips: Clips, made: Tensor) -> dict[str, Tensor]:
        """Return each reward (B,) of a sample (B, F, C, H, W) that was made under the clips'
        prompts and cuts; the student made the latent frames `made` (F,)."""
        with torch.autocast(sample.device.type, enabled=False):
            shown = self.shown(sample.detach().float(), clips, made)
        return {one.name: one.values(shown).to(sample.device) for one in self.terms}

    def shown(self, sample: Tensor, clips: Clips, made: Tensor) -> ShownClips:
        """Return what a sample shows, with all that the rewards need."""
        frames = self.decoded(sample)
        shots = self.listed(clips)
        return ShownClips(
            frames,
            shots,
            self.pixel_frames(made),
            self.decoded(clips.latents) if "truth" in self.needs else None,
            self.read(frames, shots) if "reader" in self.needs else None,
            self.world,
        )

    def decoded(self, latents: Tensor) -> np.ndarray:
        """Return the frames uint8 (B, N, Y, X, 3) of latents (B, F, C, H, W), decoded some clips
        at a time: a codec's activations are large."""
        parts = [to_uint8(self.codec.decode(part)[0]) for part in latents.split(AT_ONCE)]
        return np.concatenate(parts)

    def listed(self, clips: Clips) -> tuple[tuple[ListedShot, ...], ...]:
        """Return the shots of every clip, one a prompt, with what these name."""
        return tuple(self._listed(clips, clip) for clip in range(len(clips.slot)))

    def _listed(self, clips: Clips, clip: int) -> tuple[ListedShot, ...]:
        slots = clips.slot[clip].tolist()
        cuts = clips.shot[clip].tolist()
        begins = [0, *(i for i in range(1, len(slots)) if slots[i] != slots[i - 1]), len(slots)]
        prompts = [self.encoder.decode(clips.text[clip, slots[begin]]) for begin in begins[:-1]]
        return tuple(
            ListedShot(
                self.first_frame(begin),
                self.first_frame(end),
                prompt,
                shows=self.world.read_prompt(prompt),
                cut=begin == 0 or cuts[begin] != cuts[begin - 1],
            )
            for (begin, end), prompt in zip(pairwise(begins), prompts, strict=True)
        )

    def first_frame(self, latent: int) -> int:
        """Return the first frame that a latent frame holds: the first holds one, later ones the
        codec's stride."""
        return 1 + (latent - 1) * self.codec.stride if latent else 0

    def pixel_frames(self, made: Tensor) -> np.ndarray:
        """Return which frames (N,) a mask of latent frames (F,) is of."""
        counts = np.full(len(made), self.codec.stride)
        counts[0] = 1
        return np.repeat(made.cpu().numpy(), counts)

    def read(self, frames: np.ndarray, shots: Any) -> tuple[tuple[dict[str, str], ...], ...]:
        """Return what the reader sees in every shot of every clip: attribute -> value."""
        assert self.reader is not None  # loaded where a reward needs it
        spans = [[shot.span for shot in listed] for listed in shots]
        cut = [windows(film, where) for film, where in zip(frames, spans, strict=True)]
        names = self.reader.names(np.concatenate(cut))
        ends = np.cumsum([0, *map(len, spans)])
        return tuple(tuple(names[a:b]) for a, b in pairwise(ends))
