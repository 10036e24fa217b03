"""diffusers' transformer and VAE against ours on the same random weights, and decoding in parts
against decoding at once."""

from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_bench.codecs import taehv, wan_vae
from benchmarks.gpu_bench.one import Task
from cinelab.flow.condition import Condition
from cinelab.memory.context import BidirectionalContext
from cinelab.model.wan import CausalWan, WanConfig
from cinelab.optional import need

CONFIG = WanConfig(
    num_attention_heads=4,
    attention_head_dim=64,
    num_layers=2,
    ffn_dim=512,
    text_dim=32,
)
FRAMES = 3
ROWS, COLUMNS = 16, 24


@torch.no_grad()
def run(task: Task) -> None:
    """Record the largest differences, in fp32 without TF32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    for check in (transformer, vae, streamed_vae, streamed_taehv):
        with task.rows.trying(f"parity: {check.__name__}"):
            check(task)


def transformer(task: Task) -> None:
    """Compare a call of diffusers' transformer with ours."""
    diffusers = need("diffusers", extra="wan", what="The comparison with diffusers")
    ours = small_network(task.device)
    theirs = diffusers.WanTransformer3DModel(**{**vars(CONFIG), "rope_max_seq_len": 64})
    theirs.load_state_dict(ours.state_dict())
    theirs = theirs.to(task.device).eval()
    x, t, words = _inputs(task.device)
    wanted = theirs(x.transpose(1, 2), t[:, 0] * 1000, words[:, 0], return_dict=False)[0]
    found = small_call(ours, task.device)
    gap = (found - wanted.transpose(1, 2)).abs().max().item()
    task.rows.check("diffusers' transformer", gap, 1e-4)


def vae(task: Task) -> None:
    """Compare diffusers' decoder with ours."""
    codec = _codec(task)
    latents = _latents(task.device)
    scaled = latents.transpose(1, 2) * codec.deviation + codec.mean
    wanted = codec.vae.decode(scaled).sample.transpose(1, 2)
    found, _ = codec.decode(latents)
    task.rows.check("diffusers' VAE", (found - wanted).abs().max().item(), 1e-4)


def streamed_vae(task: Task) -> None:
    """Compare decoding latent by latent with decoding at once, to the bit."""
    _in_parts(task, "VAE, latent by latent", _codec(task))


def streamed_taehv(task: Task) -> None:
    """Compare TAEHV's decoding latent by latent with decoding at once, to the bit."""
    torch.manual_seed(1)
    _in_parts(task, "TAEHV, latent by latent", taehv(task.device, torch.float32))


def small_network(device: str) -> CausalWan:
    """Return a small network with the same random weights each time."""
    torch.manual_seed(0)
    return CausalWan(CONFIG).eval().requires_grad_(False).to(device)


@torch.no_grad()
def small_call(model: CausalWan, device: str) -> Tensor:
    """Return the velocity (1, F, C, H, W) of fixed inputs under bidirectional attention."""
    x, t, words = _inputs(device)
    slot = torch.zeros(1, FRAMES, dtype=torch.long, device=device)
    frames = torch.arange(FRAMES, device=device)
    return model(x, t, Condition(words, slot), BidirectionalContext(frames))


def _inputs(device: str) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1, FRAMES, CONFIG.in_channels, ROWS, COLUMNS, generator=generator)
    words = torch.randn(1, 1, 7, CONFIG.text_dim, generator=generator)
    return x.to(device), torch.full((1, FRAMES), 0.6, device=device), words.to(device)


def _codec(task: Task) -> Any:
    torch.manual_seed(1)
    width = 8 if task.rehearsed else 32
    return wan_vae(task.device, torch.float32, base_dim=width, num_res_blocks=1)


def _latents(device: str) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(1, FRAMES, 16, 8, 12, generator=generator).to(device)


def _in_parts(task: Task, name: str, codec: Any) -> None:
    latents = _latents(task.device)
    whole, _ = codec.decode(latents)
    parts = []
    state = None
    for latent in latents.split(1, dim=1):
        frames, state = codec.decode(latent, state)
        parts.append(frames)
    task.rows.check(name, (torch.cat(parts, dim=1) - whole).abs().max().item(), 0.0)
