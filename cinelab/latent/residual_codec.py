"""Toybox 2's learned causal codec: 16x16 in space, 2 in time.

    B batch   F frames = 1 + STRIDE (N - 1)   N latent frames   C latent channels
    H W size in pixels   h w size in latent cells = H / 16, W / 16

Every change of resolution has a shortcut without weights, in which channels are averaged or
repeated, so that what the layers learn is a residual: at so high a compression an autoencoder is
hard to train otherwise (DC-AE, arXiv 2410.10733, section 3.1). Convolutions hold their weights as
matrices, which Muon orthogonalises (`cinelab.train.muon`).

As in Wan's VAE, the first latent frame holds one frame and each later one `stride` frames, the
codec is causal in time, and decoding latent by latent with a carried state equals decoding all at
once.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as fn
from einops import rearrange
from torch import Tensor, nn

from cinelab.latent.codec import DecoderState, decoded_in_turn, grouped

KIND = "residual"
CELL = 16  # pixels a latent cell and axis
GROUPS = 8  # of channels, normalised together


@dataclass(frozen=True)
class ResidualCodecConfig:
    """The size of the codec."""

    channels: int = 32  # of the latent
    fine: int = 48  # features at a quarter of the frames' resolution, in the decoder
    width: int = 96  # at an eighth
    deep: int = 192  # at the latent's
    blocks: int = 2  # residual blocks at an eighth, in encoder and decoder
    deep_blocks: int = 4  # at the latent's, in the decoder
    stride: int = 2  # frames a latent frame


class Conv(nn.Module):
    """A convolution whose weights are a matrix (outer, inner k k)."""

    def __init__(self, inner: int, outer: int, size: int = 3, *, step: int = 1, zero: bool = False):
        super().__init__()
        like = nn.Conv2d(inner, outer, size)
        self.shape = like.weight.shape
        self.step = step
        self.pad = (size - step + 1) // 2
        self.weight = nn.Parameter(like.weight.detach().flatten(1))
        self.bias = nn.Parameter(torch.zeros(outer))
        if zero:
            nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(X, inner, y, x) -> (X, outer, y / step, x / step)."""
        return fn.conv2d(x, self.weight.view(self.shape), self.bias, self.step, self.pad)


class ConvBlock(nn.Module):
    """Norm, SiLU, 3x3 convolution, twice, added to the input. (X, c, y, x) -> same."""

    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(GROUPS, width),
            nn.SiLU(),
            Conv(width, width),
            nn.GroupNorm(GROUPS, width),
            nn.SiLU(),
            Conv(width, width, zero=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class PastConv(nn.Module):
    """A causal convolution of two in time: each latent frame reads itself and the one before it."""

    def __init__(self, width: int):
        super().__init__()
        self.now = Conv(width, width, zero=True)
        self.before = Conv(width, width, zero=True)

    def forward(self, x: Tensor, last: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, N, c, h, w) and the previous frame's input (B, c, h, w) or None -> same shape, new
        last."""
        first = torch.zeros_like(x[:, 0]) if last is None else last
        shifted = torch.cat([first[:, None], x[:, :-1]], dim=1)
        y = self.now(x.flatten(0, 1)) + self.before(shifted.flatten(0, 1))
        return x + y.unflatten(0, (x.shape[0], -1)), x[:, -1]


class Narrow(nn.Module):
    """Half the resolution. (X, inner, y, x) -> (X, outer, y / 2, x / 2)."""

    def __init__(self, inner: int, outer: int):
        super().__init__()
        self.outer = outer
        self.conv = Conv(inner, outer, 4, step=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + mean_channels(fn.pixel_unshuffle(x, 2), self.outer)


class Widen(nn.Module):
    """Twice the resolution. (X, inner, y, x) -> (X, outer, 2 y, 2 x)."""

    def __init__(self, inner: int, outer: int):
        super().__init__()
        self.conv = Conv(inner, 4 * outer, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return fn.pixel_shuffle(y + repeat_channels(x, y.shape[1]), 2)


def mean_channels(x: Tensor, channels: int) -> Tensor:
    """Return (X, channels, y, x): the means of groups of neighbouring channels."""
    return x.unflatten(1, (channels, -1)).mean(2)


def repeat_channels(x: Tensor, channels: int) -> Tensor:
    """Return (X, channels, y, x): each channel so many times, one after another."""
    return x.repeat_interleave(channels // x.shape[1], 1)


class ResidualCodec(nn.Module):
    """16x16 in space, 2x in time; about 6.9 M parameters. Latents have zero mean
    and unit variance."""

    scale = CELL

    def __init__(self, config: ResidualCodecConfig):
        super().__init__()
        self.config = config
        self.stride = config.stride
        self.channels = config.channels
        width = config.width
        deep = config.deep
        pixels = 3 * 64 * config.stride
        self.stem = nn.Sequential(
            Conv(pixels, width), *(ConvBlock(width) for _ in range(config.blocks))
        )
        self.down = nn.Sequential(Narrow(width, deep), ConvBlock(deep))
        self.encode_past = PastConv(deep)
        self.after_past = ConvBlock(deep)
        self.to_latent = nn.Sequential(
            nn.GroupNorm(GROUPS, deep), nn.SiLU(), Conv(deep, config.channels, 1)
        )
        self.whiten = nn.BatchNorm2d(config.channels, affine=False, momentum=0.02)
        self.from_latent = Conv(config.channels, deep)
        self.decode_past = PastConv(deep)
        self.deep = nn.Sequential(
            *(ConvBlock(deep) for _ in range(config.deep_blocks)), Widen(deep, width)
        )
        self.middle = nn.Sequential(
            *(ConvBlock(width) for _ in range(config.blocks)), Widen(width, config.fine)
        )
        self.head = nn.Sequential(
            ConvBlock(config.fine),
            ConvBlock(config.fine),
            nn.GroupNorm(GROUPS, config.fine),
            nn.SiLU(),
            Conv(config.fine, 3 * 16 * config.stride),
            nn.PixelShuffle(4),
        )

    def hidden_matrices(self) -> list[str]:
        """Return the names of the weights between the first and the last layers, which Muon may
        train."""
        ends = ("stem.0.", "to_latent.", "from_latent.", "head.4.")
        return [
            name
            for name, weight in self.named_parameters()
            if weight.ndim == 2 and not name.startswith(ends)
        ]

    def encode(self, frames: Tensor) -> Tensor:
        """Frames (B, F, 3, H, W) in [-1, 1] -> latents (B, N, C, h, w)."""
        batch = frames.shape[0]
        groups = grouped(frames, self.stride)
        x = self.down(self.stem(fn.pixel_unshuffle(groups, 8)))
        x, _ = self.encode_past(x.unflatten(0, (batch, -1)), None)
        x = self.after_past(x.flatten(0, 1))
        latents = self.to_latent(x) + mean_channels(x, self.channels)
        return self.whiten(latents).unflatten(0, (batch, -1))

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
        flat = latents.flatten(0, 1)
        x = self.from_latent(flat) + repeat_channels(flat, self.config.deep)
        x, state = self.decode_past(x.unflatten(0, (batch, -1)), state)
        x = self.head(self.middle(self.deep(x.flatten(0, 1))))
        return rearrange(x, "(b n) (s c) h w -> b (n s) c h w", b=batch, s=self.stride), state
