"""Computes the rewards of a student's clips: decodes them, reads them, and asks each reward.

reward = RewardModel(bundle, ["identity", "motion"], reader)
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
from cinelab.latent.store import Clips
from cinelab.metrics.toybox.attributes import LOOKS
from cinelab.metrics.toybox.recogniser import Recogniser, windows
from cinelab.script.prompts import WordEncoder
from cinelab.script.shotlist import ListedShot
from cinelab.stream.batch import decode
from cinelab.train.rewards import REWARDS, ShownClips
from cinelab.world.vocab import read_prompt
from cinelab.zoo.bundle import Bundle


class RewardModel:
    """The rewards of these names for clips of a bundle's codec and text encoder. Nothing of it is
    trained, and no gradient flows through it."""

    def __init__(self, bundle: Bundle, names: Sequence[str], reader: Recogniser | None = None):
        self.bundle = bundle
        self.reader = reader
        self.terms = [REWARDS.term(name) for name in names]
        if not isinstance(bundle.encoder, WordEncoder):
            raise CinelabError(
                f"{bundle.name} has a text encoder whose prompts cannot be read back; exact "
                "rewards need a model of the toybox."
            )
        self.encoder = bundle.encoder
        if reader is None and (asking := [one.name for one in self.terms if "reader" in one.needs]):
            raise CinelabError(
                f"Reward {asking[0]!r} needs a recogniser; give one (see load_recogniser)."
            )

    @torch.no_grad()
    def __call__(self, sample: Tensor, clips: Clips, made: Tensor) -> dict[str, Tensor]:
        """Return each reward (B,) of a sample (B, F, C, H, W) that was made under the clips'
        prompts and cuts; the student made the latent frames `made` (F,)."""
        with torch.autocast(sample.device.type, enabled=False):
            shown = self.shown(sample.detach().float(), clips, made)
        return {one.name: one.values(shown).to(sample.device) for one in self.terms}

    def shown(self, sample: Tensor, clips: Clips, made: Tensor) -> ShownClips:
        """Return what a sample shows, with all that the rewards need."""
        frames = decode(self.bundle, sample)
        shots = self.listed(clips)
        needs = {need for one in self.terms for need in one.needs}
        return ShownClips(
            frames,
            shots,
            self.pixel_frames(made),
            decode(self.bundle, clips.latents) if "truth" in needs else None,
            self.read(frames, shots) if "reader" in needs else None,
            LOOKS,
        )

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
                shows=read_prompt(prompt),
                cut=begin == 0 or cuts[begin] != cuts[begin - 1],
            )
            for (begin, end), prompt in zip(pairwise(begins), prompts, strict=True)
        )

    def first_frame(self, latent: int) -> int:
        """Return the first frame that a latent frame holds: the first holds one, later ones the
        codec's stride."""
        return 1 + (latent - 1) * self.bundle.codec.stride if latent else 0

    def pixel_frames(self, made: Tensor) -> np.ndarray:
        """Return which frames (N,) a mask of latent frames (F,) is of."""
        counts = np.full(len(made), self.bundle.codec.stride)
        counts[0] = 1
        return np.repeat(made.cpu().numpy(), counts)

    def read(self, frames: np.ndarray, shots: Any) -> tuple[tuple[dict[str, str], ...], ...]:
        """Return what the reader sees in every shot of every clip: attribute -> value."""
        assert self.reader is not None  # checked where the rewards were named
        spans = [[shot.span for shot in listed] for listed in shots]
        cut = [windows(film, where) for film, where in zip(frames, spans, strict=True)]
        names = self.reader.names(np.concatenate(cut))
        ends = np.cumsum([0, *map(len, spans)])
        return tuple(tuple(names[a:b]) for a, b in pairwise(ends))
