"""The decoders with random weights, at their true sizes or small ones."""

from typing import Any

import torch

from cinelab.latent.taehv import TinyCodec
from cinelab.optional import need


def wan_vae(device: str, dtype: torch.dtype, **size: Any) -> Any:
    """Return Wan2.1's VAE; `size` changes diffusers' settings of it."""
    diffusers = need("diffusers", extra="wan", what="Wan's VAE")
    from cinelab.latent.wan_codec import WanCodec

    return WanCodec(diffusers.AutoencoderKLWan(**size), dtype).to(device)


def taehv(device: str, dtype: torch.dtype) -> TinyCodec:
    """Return the tiny autoencoder."""
    return TinyCodec().eval().requires_grad_(False).to(device, dtype)


def decoders(device: str, *, small: bool = False, compiled: bool = False) -> dict[str, Any]:
    """Return both as films have them: on a GPU in bf16, channels last; and compiled, in turn, for
    the modes that compile."""
    gpu = device == "cuda"
    dtype = torch.bfloat16 if gpu else torch.float32
    size = {"base_dim": 8, "num_res_blocks": 1} if small else {}
    found: dict[str, Any] = {"vae": wan_vae(device, dtype, **size), "taehv": taehv(device, dtype)}
    if gpu:
        found = {name: codec.channels_last() for name, codec in found.items()}
    if compiled:
        found = {name: codec.compiled_decoder() for name, codec in found.items()}
    return found
