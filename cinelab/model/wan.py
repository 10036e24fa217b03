"""CausalWan: Wan2.1's video transformer (arXiv 2503.20314) as a plain function of named tensors.

Architecture and parameter names are those of diffusers' `WanTransformer3DModel`, so that its
checkpoints load with no map. What a token attends to is not decided here: an *attention context*
is handed in (see `cinelab.memory.context` and `cinelab.memory.cache`), and does the attention.

    B films   F latent frames   N tokens a frame   T = F N   S prompts   L words   D width   h heads

Each latent frame has its own timestep and reads its own prompt; nothing here knows of chunks, cuts
or stages. What steers all other activations (norms, modulation, time) is computed in fp32.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import cast as typed

import torch
import torch.nn.functional as fn
from einops import rearrange
from torch import Tensor, nn

from cinelab.errors import CinelabError
from cinelab.flow.condition import Condition, TextKV
from cinelab.ops.attention import AttentionContext, attention
from cinelab.ops.rope import Rope, rope_for

# unrotated q, k, v, each (B, T, h, D/h) -> the heads' outputs, like q
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class WanConfig:
    """Shape of the transformer; field names and defaults as in diffusers (defaults are
    Wan2.1-T2V-14B)."""

    num_attention_heads: int = 40
    attention_head_dim: int = 128
    num_layers: int = 40
    ffn_dim: int = 13824
    in_channels: int = 16
    out_channels: int = 16
    text_dim: int = 4096
    freq_dim: int = 256
    patch_size: tuple[int, int, int] = (1, 2, 2)
    cross_attn_norm: bool = True
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.patch_size[0] != 1:
            raise CinelabError(
                f"patch_size is {self.patch_size}; its time part must be 1 for a causal model."
            )
        if self.attention_head_dim % 2:
            raise CinelabError(
                f"attention_head_dim is {self.attention_head_dim}; it must be even for RoPE."
            )

    @property
    def width(self) -> int:
        """The width D of the tokens."""
        return self.num_attention_heads * self.attention_head_dim


WAN_1_3B = WanConfig(num_attention_heads=12, num_layers=30, ffn_dim=8960)
WAN_14B = WanConfig()


class TimestepEmbedding(nn.Module):
    """Two linears around a SiLU, under diffusers' parameter names."""

    def __init__(self, inner: int, width: int):
        super().__init__()
        self.linear_1 = nn.Linear(inner, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(fn.silu(self.linear_1(x)))


class TextProjection(nn.Module):
    """Two linears around a GELU, under diffusers' parameter names."""

    def __init__(self, inner: int, width: int):
        super().__init__()
        self.linear_1 = nn.Linear(inner, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(fn.gelu(self.linear_1(x), approximate="tanh"))


class Conditioner(nn.Module):
    """The embeddings of time and text, at the model's width.

    Time is given in [0, 1] and embedded at Wan's 0..1000.
    """

    def __init__(self, config: WanConfig):
        super().__init__()
        self.freq_dim = config.freq_dim
        self.time_embedder = TimestepEmbedding(config.freq_dim, config.width)
        self.time_proj = nn.Linear(config.width, 6 * config.width)
        self.text_embedder = TextProjection(config.text_dim, config.width)

    def time(self, t: Tensor) -> Tensor:
        """Return the embedding (B, F, D) of timesteps t (B, F): sines and cosines, two linears."""
        half = self.freq_dim // 2
        octaves = torch.arange(half, device=t.device, dtype=torch.float32)
        rates = torch.exp(-math.log(10000.0) * octaves / half)
        angle = 1000.0 * t.float()[..., None] * rates  # Wan's timesteps are 0..1000
        waves = torch.cat([angle.cos(), angle.sin()], dim=-1)
        return self.time_embedder(waves.to(self.time_embedder.linear_1.weight.dtype))

    def modulation(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Return an embedding (B, F, D), and the blocks' modulation (B, F, 6, D), both fp32."""
        activated = fn.silu(embedding).to(self.time_proj.weight.dtype)
        return embedding.float(), self.time_proj(activated).float().unflatten(-1, (6, -1))


class Attention(nn.Module):
    """The projections of an attention, with RMS norm of q and k over the whole width, before heads
    are split."""

    def __init__(self, config: WanConfig):
        super().__init__()
        width = config.width
        self.heads = config.num_attention_heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        self.norm_q = nn.RMSNorm(width, eps=config.eps)
        self.norm_k = nn.RMSNorm(width, eps=config.eps)

    @property
    def out(self) -> nn.Linear:
        """The output projection, which diffusers has in a list."""
        return typed(nn.Linear, self.to_out[0])

    def query_key_value(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return normed queries and keys, and values (..., h, D/h) of x (..., D), unrotated."""
        k, v = self.to_k(x), self.to_v(x)
        return self.normed_heads(self.to_q(x), k, v)

    def normed_heads(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return projections (..., D) with q and k normed, cut into heads (..., h, D/h)."""
        heads = (self.heads, -1)
        q = rms(self.norm_q, q).type_as(v)
        k = rms(self.norm_k, k).type_as(v)
        return q.unflatten(-1, heads), k.unflatten(-1, heads), v.unflatten(-1, heads)

    def query(self, x: Tensor) -> Tensor:
        """Return normed queries (..., h, D/h) of x (..., D), unrotated."""
        return rms(self.norm_q, self.to_q(x)).unflatten(-1, (self.heads, -1))

    def key_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return normed keys and values (..., h, D/h) of x (..., D), unrotated."""
        k, v = rms(self.norm_k, self.to_k(x)), self.to_v(x)
        return k.type_as(v).unflatten(-1, (self.heads, -1)), v.unflatten(-1, (self.heads, -1))


class FeedForward(nn.Module):
    """Two linears around a GELU, under diffusers' parameter names."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.net = nn.ModuleList([Gate(width, inner), nn.Identity(), nn.Linear(inner, width)])

    def forward(self, x: Tensor) -> Tensor:
        gate, _, out = self.net
        return out(gate(x))


class Gate(nn.Module):
    """The first linear and its GELU."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        return fn.gelu(self.proj(x), approximate="tanh")


class Block(nn.Module):
    """Self-attention, cross-attention to the frame's own prompt, feed-forward.

    Shifts, scales and gates are a latent frame's own, since each has its own timestep (adaLN, DiT,
    arXiv 2212.09748). A block is cut in two at self-attention, which is the context's: the halves
    can be compiled, and no context need be.
    """

    def __init__(self, config: WanConfig):
        super().__init__()
        width = config.width
        eps = config.eps
        self.norm1 = nn.LayerNorm(width, eps, elementwise_affine=False)
        self.attn1 = Attention(config)
        self.norm2 = nn.LayerNorm(width, eps) if config.cross_attn_norm else nn.Identity()
        self.attn2 = Attention(config)
        self.norm3 = nn.LayerNorm(width, eps, elementwise_affine=False)
        self.ffn = FeedForward(width, config.ffn_dim)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, width) / width**0.5)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        attend: Attend,
        text_kv: tuple[Tensor, Tensor],
        slot: Tensor,
    ) -> Tensor:
        """Return x (B, F, N, D) after the block.

        modulation  (B, F, 6, D), fp32: shift, scale, gate of self-attention, then of feed-forward
        attend      unrotated q, k, v -> the heads' outputs, as the context computes them
        text_kv     keys and values (B, S, L, h, D/h) of all prompts
        slot        (B, F) which prompt each latent frame reads
        """
        heads = attend(*self.pre_attention(x, modulation))
        return self.post_attention(x, heads.reshape(x.shape), modulation, text_kv, slot)

    def key_value(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of embedded prompts, for cross-attention."""
        return self.attn2.key_value(words)

    def pre_attention(self, x: Tensor, modulation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return unrotated queries, keys and values (B, T, h, D/h) of self-attention."""
        shift, scale = (self.scale_shift_table + modulation)[:, :, :2, None].unbind(2)
        y = (fp32_norm(self.norm1, x) * (1 + scale) + shift).type_as(x).flatten(1, 2)  # (B, T, D)
        return self.attn1.query_key_value(y)

    def post_attention(
        self,
        x: Tensor,
        heads: Tensor,
        modulation: Tensor,
        text_kv: tuple[Tensor, Tensor],
        slot: Tensor,
    ) -> Tensor:
        """Return what follows self-attention, whose heads' outputs are `heads` (B, F, N, D)."""
        gate, shift, scale, c_gate = (self.scale_shift_table + modulation)[:, :, 2:, None].unbind(2)
        x = (x + self.attn1.out(heads) * gate).type_as(x)
        x = x + self._cross_attention(fp32_norm(self.norm2, x).type_as(x), text_kv, slot)
        y = (fp32_norm(self.norm3, x) * (1 + scale) + shift).type_as(x)
        return (x + self.ffn(y) * c_gate).type_as(x)

    def _cross_attention(self, y: Tensor, text_kv: tuple[Tensor, Tensor], slot: Tensor) -> Tensor:
        k, v = text_kv
        if k.shape[1] == 1:  # one prompt, which all latent frames of a film read
            k, v, tokens = k[:, 0], v[:, 0], y.flatten(1, 2)
        else:  # each latent frame reads its own, as if it were a film of one frame
            k, v, tokens = pick_prompts(k, slot), pick_prompts(v, slot), y.flatten(0, 1)
        q = self.attn2.query(tokens).type_as(v)
        return self.attn2.out(attention(q, k, v).flatten(-2)).reshape(y.shape)


def rms(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    """Return the RMS norm of x in x's own precision: autocast hands in bf16, weights are fp32."""
    return fn.rms_norm(x, norm.normalized_shape, norm.weight.type_as(x), norm.eps)


def fp32_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Return the layer norm of x in fp32, in whatever precision its weights are stored."""
    x = x.float()
    if isinstance(norm, nn.Identity):
        return x
    if not isinstance(norm, nn.LayerNorm):
        raise TypeError(f"a layer norm is expected, not {type(norm).__name__}")
    weight = None if norm.weight is None else norm.weight.float()
    bias = None if norm.bias is None else norm.bias.float()
    return fn.layer_norm(x, list(norm.normalized_shape), weight, bias, norm.eps)


def pick_prompts(part: Tensor, slot: Tensor) -> Tensor:
    """Return keys or values (B F, L, h, d) of each frame's own prompt, from those of all prompts
    (B, S, L, h, d), by slot (B, F)."""
    # a product, since indexing has a slow backward on a CPU
    choice = fn.one_hot(slot, part.shape[1]).type_as(part)
    return (choice @ part.flatten(2)).unflatten(-1, part.shape[2:]).flatten(0, 1)


class CausalWan(nn.Module):
    """The network: the velocity of noisy latents under a condition, within an attention context."""

    def __init__(self, config: WanConfig):
        super().__init__()
        self.config = config
        width = config.width
        patch = config.patch_size
        self.patch_embedding = nn.Conv3d(config.in_channels, width, patch, patch)
        self.condition_embedder = Conditioner(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm_out = nn.LayerNorm(width, config.eps, elementwise_affine=False)
        self.proj_out = nn.Linear(width, config.out_channels * math.prod(patch))
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, width) / width**0.5)

    def forward(
        self, x: Tensor, t: Tensor, condition: Condition, context: AttentionContext
    ) -> Tensor:
        """Return the velocity (B, F, C, H, W) of noisy latents x (B, F, C, H, W).

        t          (B, F) timestep of each latent frame, 0 = data, 1 = noise
        condition  prompts, which of them each latent frame reads, and controls
        context    what each token attends to
        """
        tokens, grid = self.patchify(x)
        time, modulation = self.time_embedding(t, condition)
        text_kv = self.text_kv(condition)
        rope = self.rope(grid, x.device)
        for layer, block in enumerate(self.blocks):
            attend = partial(context.attend, layer, rope=rope)
            tokens = block(tokens, modulation, attend, text_kv[layer], condition.slot)
        out = self.unpatchify(tokens, time, grid)
        # under autocast the velocity stays bf16; a model whose weights are bf16 returns it in the
        # precision of the latents, which are integrated in fp32
        return out if self.patch_embedding.weight.dtype == x.dtype else out.to(x.dtype)

    def patchify(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return the tokens (B, F, N, D) of latents (B, F, C, H, W), and their rows and columns."""
        _, rows, columns = self.config.patch_size
        grid = self._grid(x)
        patch = self.patch_embedding.weight.flatten(1)
        patches = rearrange(x, "b f c (h p) (w q) -> b f (h w) (c p q)", p=rows, q=columns)
        # the weights may be of half the precision of the latents
        return fn.linear(patches.to(patch.dtype), patch, self.patch_embedding.bias), grid

    def rope(self, grid: tuple[int, int], device: torch.device) -> Rope:
        """Return the rotary positions of a grid of tokens, rows and columns."""
        return rope_for(self.config.attention_head_dim, *grid, device)

    def time_embedding(self, t: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """Return the embedding (B, F, D) and the block modulation (B, F, 6, D) of t (B, F).

        A subclass adds what it makes of the condition's controls to the embedding.
        """
        return self.condition_embedder.modulation(self.condition_embedder.time(t))

    def unpatchify(self, tokens: Tensor, time: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the velocity (B, F, C, H, W) of the last block's tokens (B, F, N, D)."""
        _, rows, columns = self.config.patch_size
        shift, scale = (self.scale_shift_table + time[:, :, None])[:, :, :, None].unbind(2)
        modulated = fp32_norm(self.norm_out, tokens) * (1 + scale) + shift
        out = self.proj_out(modulated.type_as(tokens))
        pattern = "b f (h w) (p q c) -> b f c (h p) (w q)"
        return rearrange(out, pattern, h=grid[0], p=rows, q=columns)

    def text_kv(self, condition: Condition) -> TextKV:
        """Return every layer's keys and values of the condition's prompts."""
        text = condition.text
        return self._encode(text) if isinstance(text, Tensor) else text

    def encode_text(self, text: Tensor) -> TextKV:
        """Return every layer's keys and values of prompts (B, S, L, text_dim).

        Callers compute them once a prompt and hand them in as the condition's text.
        """
        return self._encode(text)

    def _encode(self, text: Tensor) -> TextKV:
        words = self.condition_embedder.text_embedder(text.to(self.patch_embedding.weight.dtype))
        blocks = typed(Iterable[Block], self.blocks)
        return [block.key_value(words) for block in blocks]

    def _grid(self, x: Tensor) -> tuple[int, int]:
        _, rows, columns = self.config.patch_size
        if x.shape[2] != self.config.in_channels or x.shape[3] % rows or x.shape[4] % columns:
            raise CinelabError(
                f"Latents {tuple(x.shape)} do not fit: wanted (B, F, {self.config.in_channels}, H, "
                f"W) with H divisible by {rows} and W by {columns}."
            )
        return x.shape[3] // rows, x.shape[4] // columns


FULL_PRECISION = ("time_embedder", "scale_shift_table", "norm1", "norm2", "norm3")


def parameter_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """Return the precision of a parameter by its name, in a model of `dtype`: what steers all the
    others stays in fp32."""
    return torch.float32 if any(part in FULL_PRECISION for part in name.split(".")) else dtype


def cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return the model (in place) in `dtype`, but for the few parameters that stay in fp32."""
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(parameter_dtype(name, dtype))
    return model


def init_toy(model: CausalWan) -> CausalWan:
    """Return the model (in place) with weights to train from scratch: gates and output zero, so
    that every block begins as the identity (adaLN-Zero, DiT, arXiv 2212.09748, section 3.2)."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.xavier_uniform_(model.patch_embedding.weight.view(model.config.width, -1))
    nn.init.zeros_(model.condition_embedder.time_proj.weight)
    nn.init.zeros_(model.proj_out.weight)
    for block in model.blocks:
        if isinstance(block, Block):
            nn.init.zeros_(block.scale_shift_table)
            nn.init.zeros_(block.attn2.out.weight)
    nn.init.zeros_(model.scale_shift_table)
    return model
