"""How much memory a codec takes beside the network: its weights, the past of its decoder, and what
decoding a chunk takes while it runs. Arithmetic on the shapes of the two published decoders.

    A cells of a latent frame   8 x 8 pixels a cell   4 frames a latent frame
"""

from dataclasses import dataclass

from cinelab.errors import CinelabError
from cinelab.latent.taehv import TinyCodec
from cinelab.latent.wan_codec import WanCodec
from cinelab.readable import Readable


@dataclass(frozen=True)
class CodecFootprint(Readable):
    """Bytes of a codec on the device."""

    weights: int
    state: int  # of one film between two chunks
    decoding: int  # while a chunk is decoded, beside the state that it begins from


# Every causal convolution of Wan2.1's decoder keeps two frames of its input. Numbers a latent cell,
# by resolution: 1, 4, 16 and 64 positions a cell (AutoencoderKLWan of diffusers, base_dim 96).
VAE_STATE = 2 * (4_240 + 4 * 2_496 + 16 * 1_152 + 64 * 672)
# Its widest stage is the last: 96 channels of four frames at full size, of which about six are
# alive at once (the block's input, its norm, the padded input of a convolution and its output).
VAE_WIDEST = 6 * 4 * 96 * 64
VAE_WEIGHTS = 126_892_531
# The tiny decoder (TAEHV): one frame at the input of each of nine blocks, and in its last stage 64
# channels of four frames, about two and a half of which are alive at once.
TINY_STATE = 3 * (256 + 4 * 128 + 16 * 64)
TINY_WIDEST = int(2.52 * 4 * 64 * 64)
TINY_WEIGHTS = 11_315_539


def codec_kind(codec: object) -> str:
    """Return the name by which `codec_footprint` knows a codec; "none" for one of few megabytes."""
    if isinstance(codec, WanCodec):
        return "vae"
    return "tiny" if isinstance(codec, TinyCodec) else "none"


def codec_footprint(
    codec: str, size: tuple[int, int], latents: int, *, number: int = 2
) -> CodecFootprint:
    """Return what a codec takes: "vae" (Wan2.1's), "tiny" (TAEHV) or "none".

    size     height and width in pixels
    latents  latent frames of a chunk
    number   bytes a number
    """
    cells = size[0] // 8 * (size[1] // 8)
    if codec == "none":
        return CodecFootprint(0, 0, 0)
    if codec == "tiny":
        state = TINY_STATE * cells * number
        return CodecFootprint(TINY_WEIGHTS * number, state, TINY_WIDEST * cells * number + state)
    if codec != "vae":
        raise CinelabError(f'codec is {codec!r}; use "vae", "tiny" or "none".')
    state = VAE_STATE * cells * number
    # a latent frame makes a new state while the one before it is still held
    held = state * min(latents, 2)
    return CodecFootprint(VAE_WEIGHTS * number, state, held + VAE_WIDEST * cells * number)
