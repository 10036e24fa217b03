"""A tiny decoder (and encoder) for live video: the published `taew2_1` weights of TAEHV behind the
`Codec` protocol.

    B batch   N latent frames   F = 1 + 4 (N - 1) frames   C = 16 channels
    T frames at a layer   c features   x y positions

11.3 M parameters against the VAE's 127 M. Three layers mix frames in time: a `MemBlock` reads each
frame beside the one before it, `TPool` folds two frames into one, `TGrow` unfolds one into two. So
the state of decoding is one frame a MemBlock. Latents are those of the diffusion model, without
mean and deviation; frames are in [0, 1] inside, in [-1, 1] outside.
"""

from pathlib import Path

import torch
import torch.nn.functional as fn
from einops import rearrange
from torch import Tensor, nn

from cinelab.errors import CinelabError
from cinelab.latent.checkpoint import fill, on_meta, read_weights
from cinelab.latent.codec import DecoderState
from cinelab.latent.wan_codec import check_size
from cinelab.ops.compiling import UNCOMPILED, Compiled
from cinelab.texts import check_regular

CHANNELS = 16
Past = tuple[Tensor | None, ...]  # a frame (B, c, x, y) for every MemBlock


def conv3(inner: int, outer: int, **more) -> nn.Conv2d:
    return nn.Conv2d(inner, outer, 3, padding=1, **more)


class MemBlock(nn.Module):
    """Three convolutions of a frame and the one before it, added to the frame."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Sequential(
            conv3(2 * width, width), nn.ReLU(), conv3(width, width), nn.ReLU(), conv3(width, width)
        )

    def forward(self, x: Tensor, last: Tensor | None) -> Tensor:
        """(B, T, c, x, y), and the frame before them or None at the beginning -> same shape."""
        films, frames, width = x.shape[:3]
        shape = (films * frames, 2 * width, *x.shape[3:])
        # written once, in the layout that the convolution reads
        pairs = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout_of(self))
        both = pairs.unflatten(0, (films, frames))
        both[:, :, :width] = x
        both[:, 1:, width:] = x[:, :-1]
        both[:, 0, width:] = 0 if last is None else last
        return fn.relu(self.conv(pairs).unflatten(0, (films, frames)) + x)


class TPool(nn.Module):
    """`stride` frames to one by a mix of their features."""

    def __init__(self, width: int, stride: int):
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width * stride, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return frames_through(
            self.conv, rearrange(x, "b (t s) c x y -> b t (s c) x y", s=self.stride)
        )


class TGrow(nn.Module):
    """One frame to `stride` frames."""

    def __init__(self, width: int, stride: int):
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width, width * stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(
            frames_through(self.conv, x), "b t (s c) x y -> b (t s) c x y", s=self.stride
        )


class Frames(nn.Module):
    """A layer without parameters, on every frame."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return frames_through(self.function, x)


def layout_of(part: nn.Module) -> torch.memory_format:
    """Return how a part's weights are laid out: channels last, or as torch does."""
    weight = next(part.parameters())
    last = not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def frames_through(layer, x: Tensor) -> Tensor:
    return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def encoder() -> nn.ModuleList:
    """Build the layers from frames to latents; time is halved in the first two of three steps.
    Indices in the list are the published names."""
    layers = [conv3(3, 64), Frames(fn.relu)]
    for stride in (2, 2, 1):
        layers += [
            TPool(64, stride),
            conv3(64, 64, stride=2, bias=False),
            *(MemBlock(64) for _ in range(3)),
        ]
    return nn.ModuleList([*layers, conv3(64, CHANNELS)])


def decoder() -> nn.ModuleList:
    """Build the layers from latents to frames; time is doubled in the last two of three steps."""
    layers = [Frames(lambda x: 3 * torch.tanh(x / 3)), conv3(CHANNELS, 256), Frames(fn.relu)]
    for width, after, stride in ((256, 128, 1), (128, 64, 2), (64, 64, 2)):
        larger = Frames(lambda x: fn.interpolate(x, scale_factor=2))
        layers += [
            *(MemBlock(width) for _ in range(3)),
            larger,
            TGrow(width, stride),
            conv3(width, after, bias=False),
        ]
    return nn.ModuleList([*layers, Frames(fn.relu), conv3(64, 3)])


def run_layers(layers: nn.ModuleList, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
    """Run frames (B, T, c, x, y) through all layers, continuing from `past`; return the output and
    the past that the next frames continue from."""
    before = iter(past or ())
    after = []
    for layer in layers:
        if isinstance(layer, MemBlock):
            after.append(x[:, -1])
            x = layer(x, next(before, None))
        else:
            x = frames_through(layer, x) if isinstance(layer, nn.Conv2d) else layer(x)
    return x, tuple(after)


class TinyCodec(nn.Module):
    """Encoder and decoder with the parameter names and shapes of `taew2_1`."""

    stride = 4
    scale = 8
    channels = CHANNELS

    def __init__(self):
        super().__init__()
        self.encoder: nn.ModuleList | None = encoder()
        self.decoder = decoder()
        self._run = run_layers

    @classmethod
    def load(cls, path: str | Path, dtype: torch.dtype = torch.float32) -> "TinyCodec":
        """Read taew2_1.safetensors or taew2_1.pth. A file with the decoder alone is taken too; then
        nothing can be encoded."""
        path = Path(path)
        state = _read(path)
        made = on_meta(cls, dtype)
        if not any(key.startswith("encoder.") for key in state):
            made.encoder = None
        return fill(
            made,
            state,
            path,
            "use taew2_1.safetensors or taew2_1.pth of madebyollin/taehv, the ones for Wan2.1.",
            assign=True,
        )

    @property
    def dtype(self) -> torch.dtype:
        return next(self.decoder.parameters()).dtype

    def channels_last(self) -> "TinyCodec":
        """Lay out weights, and so all activations, with their channels last, which a GPU's
        convolutions read in place: the same frames to rounding."""
        for weight in self.parameters():
            if weight.dim() == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        return self

    def compiled_decoder(self) -> "TinyCodec":
        """Compile the decoder, once for the film's first latent and once for all others: the same
        frames to rounding, so fast and not exact."""
        self._run = Compiled(run_layers, remedy=UNCOMPILED, dynamic=False)
        return self

    def encode(self, frames: Tensor) -> Tensor:
        """Frames (B, 1 + 4n, 3, H, W) in [-1, 1] -> latents (B, 1 + n, C, h, w).

        As published, the clip is filled up at its end with its last frame, so each latent depends
        on up to three later frames.
        """
        if self.encoder is None:
            raise CinelabError(
                "This tiny codec has no encoder in its file; use the VAE, or the whole taew2_1 "
                "file."
            )
        count = frames.shape[1]
        if count % self.stride != 1:
            raise CinelabError(
                f"{count} frames do not fit 1 + {self.stride} n; pad or cut the clip."
            )
        check_size(frames.shape[3:], 2 * self.scale)
        whole = torch.cat([frames, frames[:, -1:].expand(-1, self.stride - 1, -1, -1, -1)], dim=1)
        return run_layers(self.encoder, ((whole + 1) / 2).to(self.dtype), None)[0].float()

    def decode(self, latents: Tensor, state: DecoderState = None) -> tuple[Tensor, DecoderState]:
        """Latents (B, N, C, h, w) -> frames (B, F, 3, H, W) in [-1, 1] and the state for the next
        call.

        Latent by latent, so that any split gives the same bits; of the film's first latent only the
        last frame counts.
        """
        if latents.shape[2] != self.channels:
            raise CinelabError(
                f"Latents {tuple(latents.shape)} do not fit: wanted (B, N, {self.channels}, h, w)."
            )
        parts = []
        for latent in latents.to(self.dtype).split(1, dim=1):
            frames, after = self._run(self.decoder, latent, state)
            parts.append(frames[:, -1:] if state is None else frames)
            state = after
        return torch.cat(parts, dim=1).clamp(0, 1) * 2 - 1, state

    def decode_at_once(self, latents: Tensor) -> Tensor:
        """Decode a whole film in one pass: more memory, the same frames to rounding."""
        return (
            run_layers(self.decoder, latents.to(self.dtype), None)[0][:, self.stride - 1 :].clamp(
                0, 1
            )
            * 2
            - 1
        )


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CinelabError(
            f"Tiny codec {path} is not there; get taew2_1.safetensors from the repository "
            "madebyollin/taehv."
        )
    if path.suffix == ".safetensors":
        return read_weights(path)
    check_regular(path)
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        return (
            dict(held)
            if all(isinstance(value, Tensor) for value in held.values())
            else held["state_dict"]
        )
    except Exception as error:  # torch raises many kinds for a broken or a foreign file
        raise CinelabError(
            f"Weights {path} are cut short, broken or not plain tensors ({type(error).__name__}); "
            "copy the file again."
        ) from error
