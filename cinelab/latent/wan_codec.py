"""Wan2.1's video autoencoder behind the `Codec` protocol: normalised latents, and decoding that
streams exactly.

    B batch   F = 1 + 4 (N - 1) frames   N latent frames   C = 16 channels
    H W size in pixels   h = H / 8, w = W / 8

diffusers' `AutoencoderKLWan` holds the past of its causal convolutions in itself, for one film at a
time. Here the past is a value that goes in and comes out, a tuple with an entry a convolution, so
that any number of films and branches share one codec.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from cinelab.config import read_mapping
from cinelab.errors import CinelabError
from cinelab.latent.checkpoint import fill, on_meta, read_weights
from cinelab.latent.codec import DecoderState
from cinelab.ops.compiling import UNCOMPILED, Compiled

GRAIN = 16  # pixels: eight a latent cell, two cells a token
VAE_WEIGHTS = "diffusion_pytorch_model.safetensors"


class WanCodec(nn.Module):
    """`AutoencoderKLWan` with the published mean and deviation of its latents inside. Latents are
    float32, frames `dtype`."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, vae: nn.Module, dtype: torch.dtype = torch.float32):
        super().__init__()
        config: Any = vae.config
        if config.patch_size not in (None, 1) or config.is_residual:
            raise CinelabError(
                f"The VAE has patch_size {config.patch_size} and {config.z_dim} channels, which is "
                "Wan2.2's; give the one of a Wan2.1 folder, without patches and with 16 channels."
            )
        self.vae: Any = nn.Module.to(vae, dtype).eval().requires_grad_(False)
        self.dtype = dtype
        self.channels = config.z_dim
        self.stride = 2 ** sum(config.temperal_downsample)
        self.scale = 2 ** (len(config.dim_mult) - 1)
        for name, values in (("mean", config.latents_mean), ("deviation", config.latents_std)):
            self.register_buffer(
                name,
                torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1, 1),
                persistent=False,
            )
        self._layout = torch.preserve_format
        self._compiled: Callable[..., Tensor] | None = None
        self._pasts = {part: _count(getattr(vae, part)) for part in ("encoder", "decoder")}

    @classmethod
    def load(cls, folder: str | Path, dtype: torch.dtype = torch.float32) -> "WanCodec":
        """From the folder `vae` of a diffusers model folder. CinelabError where it is absent,
        broken or another model's."""
        from diffusers import AutoencoderKLWan

        folder = Path(folder)
        if not (folder / "config.json").is_file() or not (folder / VAE_WEIGHTS).is_file():
            raise CinelabError(
                f"{folder} holds no VAE: config.json and {VAE_WEIGHTS} are expected; copy the "
                "folder vae of a "
                'Wan2.1 diffusers model, or use a tiny decoder with codec="tiny:<file>".'
            )
        config = read_mapping(folder / "config.json")
        kind = config.get("_class_name")
        if kind != "AutoencoderKLWan":
            raise CinelabError(
                f"{folder / 'config.json'} describes a {kind!r}, not an AutoencoderKLWan; copy the "
                "folder vae of a Wan2.1 diffusers model."
            )
        made = cls(on_meta(lambda: AutoencoderKLWan.from_config(config), dtype), dtype)
        fill(made.vae, read_weights(folder / VAE_WEIGHTS), folder / VAE_WEIGHTS, assign=True)
        return made.eval()

    def channels_last(self) -> "WanCodec":
        """Lay out weights, and so all activations, with their channels last, which a GPU's
        convolutions read in place: the same frames to rounding."""
        self._layout = torch.channels_last_3d
        layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
        for weight in self.vae.parameters():
            if weight.dim() in layouts:
                weight.data = weight.data.contiguous(memory_format=layouts[weight.dim()])
        return self

    def compiled_decoder(self) -> "WanCodec":
        """Compile the decoder, once for the film's first latent, its second and all others: the
        same frames to rounding, so fast and not exact."""
        forward = self.vae.decoder.forward
        self._compiled = Compiled(forward, remedy=UNCOMPILED, dynamic=False)
        return self

    def encode(self, frames: Tensor) -> Tensor:
        """Frames (B, 1 + 4n, 3, H, W) in [-1, 1] -> latents (B, 1 + n, C, h, w), near zero mean and
        unit variance."""
        return self.encode_part(frames)[0]

    def encode_part(
        self, frames: Tensor, state: DecoderState = None
    ) -> tuple[Tensor, DecoderState]:
        """The next frames of a clip, 1 + 4n at its beginning and 4n later: their latents, and the
        state for the next call."""
        count = frames.shape[1]
        first = 1 if state is None else 0
        if count < 1 or (count - first) % self.stride:
            raise CinelabError(
                f"{count} frames do not fit {'1 + ' * first}{self.stride} n; pad or cut the clip."
            )
        check_size(frames.shape[3:], 2 * self.scale)
        parts = []
        for group in frames.split(
            [1] * first + [self.stride] * ((count - first) // self.stride), dim=1
        ):
            past = list(state) if state is not None else [None] * self._pasts["encoder"]
            x = rearrange(group, "b f c h w -> b c f h w")
            x = x.to(self.dtype, memory_format=self._layout)
            parts.append(self.vae.quant_conv(self.vae.encoder(x, feat_cache=past, feat_idx=[0])))
            state = tuple(past)
        # the other half is the deviation of a sample
        mean = torch.cat(parts, dim=2).float().chunk(2, dim=1)[0]
        return rearrange((mean - self.mean) / self.deviation, "b c n h w -> b n c h w"), state

    def decode(self, latents: Tensor, state: DecoderState = None) -> tuple[Tensor, DecoderState]:
        """Latents (B, N, C, h, w) -> frames (B, F, 3, H, W) in [-1, 1] and the state for the next
        call.

        The film's first latent is one frame, each later one four. Latent by latent, so that any
        split gives the same bits.
        """
        if latents.shape[2] != self.channels:
            raise CinelabError(
                f"Latents {tuple(latents.shape)} do not fit: wanted (B, N, {self.channels}, h, w)."
            )
        decoder = self._compiled or self.vae.decoder
        parts = []
        for latent in latents.split(1, dim=1):
            z = rearrange(latent, "b n c h w -> b c n h w").float() * self.deviation + self.mean
            past = list(state) if state is not None else [None] * self._pasts["decoder"]
            z = z.to(self.dtype, memory_format=self._layout)
            x = self.vae.post_quant_conv(z)
            parts.append(decoder(x, feat_cache=past, feat_idx=[0], first_chunk=state is None))
            state = tuple(past)
        return rearrange(torch.cat(parts, dim=2).clamp(-1, 1), "b c f h w -> b f c h w"), state


def _count(part: nn.Module) -> int:
    """Count the causal convolutions, each of which has a past."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

    return sum(isinstance(module, WanCausalConv3d) for module in part.modules())


def legal_size(height: int, width: int, grain: int = GRAIN) -> tuple[int, int]:
    """Return the nearest size in pixels that the codec and the model's patches divide."""
    rows = max(1, round(height / grain))
    columns = max(1, round(width / grain))
    return rows * grain, columns * grain


def check_size(size: Sequence[int], grain: int = GRAIN) -> tuple[int, int]:
    """Return `size` (height, width) if it is legal; else raise CinelabError with the nearest legal
    one."""
    height, width = size
    if (height, width) != (near := legal_size(height, width, grain)):
        raise CinelabError(
            f"The size {height}x{width} is not in whole multiples of {grain} pixels; use "
            f"{near[0]}x{near[1]}."
        )
    return height, width
