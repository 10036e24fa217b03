"""Frames to latents and back: the interface of every codec, and the toybox's small learned causal
one.

    B batch   F frames = 1 + STRIDE (N - 1)   N latent frames   C latent channels
    H W size in pixels   h w size in latent cells

As in Wan's VAE, the first latent frame holds one frame and each later one `stride` frames, the
codec is causal in time, and decoding latent by latent with a carried state equals decoding all at
once.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as fn
from einops import rearrange
from torch import Tensor, nn

# What the decoding of the next latent needs of the past, None at a film's beginning. A value that
# is never changed: storing one is a snapshot, and decoding from one twice gives two films.
DecoderState = Any


class Codec(Protocol):
    """A video autoencoder between frames and latents: the toybox's, Wan's (`wan_codec`), or a tiny
    one (`taehv`)."""

    stride: int  # frames per latent frame after the first
    scale: int  # pixels per latent cell and axis
    channels: int

    def encode(self, frames: Tensor) -> Tensor: ...

    def decode(
        self, latents: Tensor, state: DecoderState = None
    ) -> tuple[Tensor, DecoderState]: ...


@dataclass(frozen=True)
class ToyCodecConfig:
    channels: int = 24  # of the latent
    width: int = 96  # features at a quarter of the resolution
    deep: int = 128  # features at latent resolution
    stride: int = 2  # frames per latent frame


class Residual(nn.Module):
    """Norm, SiLU, 3x3 convolution, twice, added to the input. (X, c, y, x) -> same."""

    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Lookback(nn.Module):
    """A causal convolution of two in time: each latent frame reads itself and the one before it."""

    def __init__(self, width: int):
        super().__init__()
        self.now = nn.Conv2d(width, width, 3, padding=1)
        self.before = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor, last: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, N, c, h, w) and the previous frame's input (B, c, h, w) or None -> same shape, new
        last."""
        first = torch.zeros_like(x[:, 0]) if last is None else last
        shifted = torch.cat([first[:, None], x[:, :-1]], dim=1)
        batch = x.shape[0]
        y = self.now(x.flatten(0, 1)) + self.before(shifted.flatten(0, 1))
        return x + y.unflatten(0, (batch, -1)), x[:, -1]


class ToyCodec(nn.Module):
    """8x8 in space, 2x in time, 24 channels; about 3 M parameters. Latents have zero mean and unit
    variance."""

    scale = 8

    def __init__(self, config: ToyCodecConfig):
        super().__init__()
        self.config = config
        self.stride = config.stride
        self.channels = config.channels
        width = config.width
        deep = config.deep
        pixels = 3 * 16 * config.stride
        self.stem = nn.Sequential(
            nn.Conv2d(pixels, width, 3, padding=1), Residual(width), Residual(width)
        )
        self.down = nn.Sequential(nn.Conv2d(width, deep, 4, stride=2, padding=1), Residual(deep))
        self.encode_past = Lookback(deep)
        self.to_latent = nn.Sequential(
            Residual(deep), nn.GroupNorm(8, deep), nn.SiLU(), nn.Conv2d(deep, config.channels, 1)
        )
        self.whiten = nn.BatchNorm2d(config.channels, affine=False, momentum=0.02)
        self.from_latent = nn.Conv2d(config.channels, deep, 3, padding=1)
        self.decode_past = Lookback(deep)
        self.deep = nn.Sequential(
            Residual(deep), Residual(deep), nn.Conv2d(deep, 4 * width, 1), nn.PixelShuffle(2)
        )
        self.head = nn.Sequential(
            Residual(width),
            Residual(width),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, pixels, 3, padding=1),
            nn.PixelShuffle(4),
        )

    def encode(self, frames: Tensor) -> Tensor:
        """Frames (B, F, 3, H, W) in [-1, 1] -> latents (B, N, C, H/8, W/8)."""
        groups = grouped(frames, self.stride)
        x = self.down(self.stem(fn.pixel_unshuffle(groups, 4)))
        x, _ = self.encode_past(x.unflatten(0, (frames.shape[0], -1)), None)
        return self.whiten(self.to_latent(x.flatten(0, 1))).unflatten(0, (frames.shape[0], -1))

    def decode(self, latents: Tensor, state: DecoderState = None) -> tuple[Tensor, DecoderState]:
        """Latents (B, N, C, h, w) -> frames (B, F, 3, H, W) in [-1, 1] and the state for the next
        call.

        Latent by latent, so that any split of a film gives the same bits.
        """
        return decoded_in_turn(self, latents, state)

    def decode_groups(self, latents: Tensor, state: DecoderState = None) -> tuple[Tensor, Tensor]:
        """Decode all latents in one pass, unclamped, `stride` frames for each (those of the first
        are a still)."""
        batch = latents.shape[0]
        x = self.from_latent(latents.flatten(0, 1)).unflatten(0, (batch, -1))
        x, state = self.decode_past(x, state)
        x = self.head(self.deep(x.flatten(0, 1)))
        return rearrange(x, "(b n) (s c) h w -> b (n s) c h w", b=batch, s=self.stride), state


def grouped(frames: Tensor, stride: int) -> Tensor:
    """Return frames (B, F, 3, H, W) as the groups of latent frames (B N, 3 stride, H, W): the first
    frame is a group by itself, as a still. ValueError for a number of frames that does not fit."""
    count = frames.shape[1]
    if (count - 1) % stride:
        raise ValueError(f"{count} frames do not fit 1 + {stride} n; pad or cut the clip")
    still = frames[:, :1].expand(-1, stride - 1, -1, -1, -1)
    whole = torch.cat([still, frames], 1)
    return rearrange(whole, "b (n s) c h w -> (b n) (s c) h w", s=stride)


def decoded_in_turn(
    codec: Any, latents: Tensor, state: DecoderState
) -> tuple[Tensor, DecoderState]:
    """Return frames (B, F, 3, H, W) in [-1, 1] and the state for the next call of latents
    (B, N, C, h, w), by the codec's `decode_groups` of one after another."""
    parts = []
    for latent in latents.unbind(1):
        frames, after = codec.decode_groups(latent[:, None], state)
        parts.append((frames[:, -1:] if state is None else frames).clamp(-1, 1))
        state = after
    return torch.cat(parts, dim=1), state


def device_of(codec: Codec) -> torch.device:
    """Return the device that a codec computes on."""
    return next(codec.parameters()).device if isinstance(codec, nn.Module) else torch.device("cpu")


@torch.no_grad()
def encoded(codec: Codec, frames: Any) -> Tensor:
    """Return the latents (B, N, C, h, w) of frames uint8 (B, F, H, W, 3), on the codec's device."""
    return codec.encode(to_tensor(frames).to(device_of(codec)))


def state_to(state: DecoderState, device: torch.device | str) -> DecoderState:
    """Return a decoder's state on another device; itself where it is there already."""
    if isinstance(state, tuple):
        return tuple(state_to(entry, device) for entry in state)
    return state.to(device) if isinstance(state, Tensor) else state


def to_tensor(frames) -> Tensor:
    """uint8 (..., F, H, W, 3) -> float (..., F, 3, H, W) in [-1, 1]."""
    return torch.as_tensor(frames).movedim(-1, -3).float() / 127.5 - 1


def to_uint8(frames: Tensor):
    """Float (..., F, 3, H, W) in [-1, 1] -> numpy uint8 (..., F, H, W, 3)."""
    return (
        ((frames.float().clamp(-1, 1) + 1) * 127.5)
        .round()
        .to(torch.uint8)
        .movedim(-3, -1)
        .contiguous()
        .cpu()
        .numpy()
    )
