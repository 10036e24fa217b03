"""CausalWan: Wan2.1's video transformer as a plain function of named tensors.

Architecture and parameter names are those of diffusers' `WanTransformer3DModel`, so its checkpoints
load with no map. What a frame may attend to is not decided here: a *sight* (see
`cinelab.memory.context`) is handed in.

    B batch   F frames (latent)   N tokens a frame   T = F N   S prompts   L words   D width   h heads
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as fn
from einops import rearrange
from torch import Tensor, nn

from cinelab.errors import CinelabError
from cinelab.ops.attention import attention
from cinelab.ops.rope import Rope, rope_for

Look = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor, Tensor | None]]
# unrotated (q, k, v), each (B, T, h, D/h) -> attention's output, like q
See = Callable[[Tensor, Tensor, Tensor], Tensor]
TextKV = list[tuple[Tensor, Tensor]]  # per layer: keys and values (B, S, L, h, D/h) of every prompt


class Sight(Protocol):
    """Decides what queries see. `layer(i, rope)` gives a function of unrotated (q, k, v), each (B,
    T, h, D/h), that returns rotated q and k, v and a mask for `attention`; the result is reshaped
    back to q's shape."""

    def layer(self, index: int, rope: Rope) -> Look: ...


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

    def __post_init__(self):
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
        return self.num_attention_heads * self.attention_head_dim


WAN_1_3B = WanConfig(num_attention_heads=12, num_layers=30, ffn_dim=8960)
WAN_14B = WanConfig()


class TimestepEmbedding(nn.Module):
    def __init__(self, inner: int, width: int):
        super().__init__()
        self.linear_1 = nn.Linear(inner, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(fn.silu(self.linear_1(x)))


class TextProjection(nn.Module):
    def __init__(self, inner: int, width: int):
        super().__init__()
        self.linear_1 = nn.Linear(inner, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(fn.gelu(self.linear_1(x), approximate="tanh"))


class Conditioner(nn.Module):
    """Time and text to model width. Time is given in [0, 1] and embedded at Wan's 0..1000."""

    def __init__(self, config: WanConfig):
        super().__init__()
        self.freq_dim = config.freq_dim
        self.time_embedder = TimestepEmbedding(config.freq_dim, config.width)
        self.time_proj = nn.Linear(config.width, 6 * config.width)
        self.text_embedder = TextProjection(config.text_dim, config.width)

    def time(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """t (B, F) -> embedding (B, F, D) and block modulation (B, F, 6, D), both fp32."""
        half = self.freq_dim // 2
        rates = torch.exp(
            -math.log(10000.0) * torch.arange(half, device=t.device, dtype=torch.float32) / half
        )
        angle = 1000.0 * t.float()[..., None] * rates
        waves = torch.cat([angle.cos(), angle.sin()], dim=-1).to(
            self.time_embedder.linear_1.weight.dtype
        )
        embedding = self.time_embedder(waves)
        turned = fn.silu(embedding).to(self.time_proj.weight.dtype)
        return embedding.float(), self.time_proj(turned).float().unflatten(-1, (6, -1))


class Attention(nn.Module):
    """Projections with q/k RMS norm over the whole width; heads are split by the caller's
    `heads`."""

    def __init__(self, config: WanConfig):
        super().__init__()
        width = config.width
        self.heads = config.num_attention_heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        self.norm_q = nn.RMSNorm(width, eps=config.eps)
        self.norm_k = nn.RMSNorm(width, eps=config.eps)

    def query(self, x: Tensor) -> Tensor:
        return rms(self.norm_q, self.to_q(x)).unflatten(-1, (self.heads, -1))

    def key_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        k, v = rms(self.norm_k, self.to_k(x)), self.to_v(x)
        return k.type_as(v).unflatten(-1, (self.heads, -1)), v.unflatten(-1, (self.heads, -1))


class FeedForward(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        gate = nn.Module()
        gate.proj = nn.Linear(width, inner)
        self.net = nn.ModuleList([gate, nn.Identity(), nn.Linear(inner, width)])

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](fn.gelu(self.net[0].proj(x), approximate="tanh"))


class Block(nn.Module):
    """Self-attention, cross-attention to the frame's own prompt, feed-forward; AdaLN per frame."""

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
        see: See,
        text_kv: tuple[Tensor, Tensor],
        slot: Tensor,
        kernel: str,
    ) -> Tensor:
        """x (B, F, N, D), modulation (B, F, 6, D) -> (B, F, N, D)."""
        seen = see(*self.pre_attention(x, modulation)).reshape(x.shape)
        return self.post_attention(x, seen, modulation, text_kv, slot, kernel)

    def key_value(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of embedded prompts, for cross-attention."""
        return self.attn2.key_value(words)

    def pre_attention(self, x: Tensor, modulation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, T, h, D/h), before anybody has looked."""
        shift, scale = (self.scale_shift_table + modulation)[:, :, :2, None].unbind(2)
        y = (fp32_norm(self.norm1, x) * (1 + scale) + shift).type_as(x).flatten(1, 2)  # (B, T, D)
        k, v = self.attn1.key_value(y)
        return self.attn1.query(y).type_as(v), k, v

    def post_attention(
        self,
        x: Tensor,
        seen: Tensor,
        modulation: Tensor,
        text_kv: tuple[Tensor, Tensor],
        slot: Tensor,
        kernel: str,
    ) -> Tensor:
        """All that follows self-attention, whose heads' outputs are `seen` (B, F, N, D)."""
        gate, shift, scale, c_gate = (self.scale_shift_table + modulation)[:, :, 2:, None].unbind(2)
        x = (x + self.attn1.to_out[0](seen) * gate).type_as(x)
        x = x + self._read(fp32_norm(self.norm2, x).type_as(x), text_kv, slot, kernel)
        y = (fp32_norm(self.norm3, x) * (1 + scale) + shift).type_as(x)
        return (x + self.ffn(y) * c_gate).type_as(x)

    def _read(self, y: Tensor, text_kv: tuple[Tensor, Tensor], slot: Tensor, kernel: str) -> Tensor:
        k, v = (pick_prompts(part, slot) for part in text_kv)  # (B F, L, h, D/h)
        q = self.attn2.query(y.flatten(0, 1)).type_as(v)  # (B F, N, h, D/h)
        return self.attn2.to_out[0](attention(q, k, v, None, kernel).flatten(-2)).reshape(y.shape)


def attend(look: Look, kernel: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Self-attention (B, T, h, D/h) of what a sight lets through."""
    rotated_q, k, v, mask = look(q, k, v)
    return attention(rotated_q, k, v, mask, kernel).reshape(q.shape)


def rms(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    """RMS norm in the input's own precision (autocast hands in half, the weight is full)."""
    return fn.rms_norm(x, norm.normalized_shape, norm.weight.type_as(x), norm.eps)


def fp32_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Layer norm in full precision, whatever its weights are kept in."""
    x = x.float()
    if isinstance(norm, nn.Identity):
        return x
    weight, bias = (None if part is None else part.float() for part in (norm.weight, norm.bias))
    return fn.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)


def pick_prompts(part: Tensor, slot: Tensor) -> Tensor:
    """Keys or values (B, S, L, h, d) of all prompts -> (B F, L, h, d), each frame its own by slot
    (B, F)."""
    if part.shape[1] == 1:
        return part.expand(-1, slot.shape[1], -1, -1, -1).flatten(0, 1)
    # a product, since indexing has a slow backward on a CPU
    choice = fn.one_hot(slot, part.shape[1]).type_as(part)
    return (choice @ part.flatten(2)).unflatten(-1, part.shape[2:]).flatten(0, 1)


class CausalWan(nn.Module):
    """Velocity of latents under a sight. `kernel` names the attention kernel (see
    `model.attention`)."""

    def __init__(self, config: WanConfig, kernel: str = "auto"):
        super().__init__()
        self.config = config
        self.kernel = kernel
        self.sequence: Any = None  # where processes share a clip's frames (see train.sequence)
        width = config.width
        patch = config.patch_size
        self.patch_embedding = nn.Conv3d(config.in_channels, width, patch, patch)
        self.condition_embedder = Conditioner(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm_out = nn.LayerNorm(width, config.eps, elementwise_affine=False)
        self.proj_out = nn.Linear(width, config.out_channels * math.prod(patch))
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, width) / width**0.5)

    def forward(
        self, x: Tensor, t: Tensor, text: Tensor | TextKV, slot: Tensor, sight: Sight
    ) -> Tensor:
        """Velocity (B, F, C, H, W) of noisy latents x (B, F, C, H, W).

        t      (B, F) noise level of each frame, 0 = data, 1 = noise
        text   (B, S, L, text_dim) prompts, or what `encode_text` made of them
        slot   (B, F) which prompt each frame reads
        sight  what each token may attend to
        """
        _, rows, columns = self.config.patch_size
        height, width = self._grid(x)
        share = self.sequence.share(x.shape[1]) if self.sequence else None
        if share:
            x = share.mine(x)
            t = share.mine(t)
            slot = share.mine(slot)
            if hasattr(sight, "average"):  # it retrieves: a layer's heads choose together
                sight.average = share.average
        # weights may be of half the precision of the latents
        patch = self.patch_embedding.weight.flatten(1)
        given = x.dtype
        tokens = rearrange(x, "b f c (h p) (w q) -> b f (h w) (c p q)", p=rows, q=columns).to(
            patch.dtype
        )
        tokens = fn.linear(tokens, patch, self.patch_embedding.bias)
        embedding, modulation = self.condition_embedder.time(t)
        # a sharded one gathers, which is done
        text_kv = CausalWan.encode_text(self, text) if isinstance(text, Tensor) else text
        rope = rope_for(self.config.attention_head_dim, height, width, x.device)
        for index, block in enumerate(self.blocks):
            see = partial(attend, sight.layer(index, rope), self.kernel)
            tokens = block(
                tokens,
                modulation,
                share.around(see) if share else see,
                text_kv[index],
                slot,
                self.kernel,
            )
        shift, scale = (self.scale_shift_table + embedding[:, :, None])[:, :, :, None].unbind(2)
        out = self.proj_out(
            (fp32_norm(self.norm_out, tokens) * (1 + scale) + shift).type_as(tokens)
        )
        out = rearrange(out, "b f (h w) (p q c) -> b f c (h p) (w q)", h=height, p=rows, q=columns)
        out = out if patch.dtype == given else out.to(given)
        return share.whole(out) if share else out

    def encode_text(self, text: Tensor) -> TextKV:
        """Prompts (B, S, L, text_dim) -> keys and values of every layer; compute once per
        prompt."""
        words = self.condition_embedder.text_embedder(text.to(self.patch_embedding.weight.dtype))
        return [block.key_value(words) for block in self.blocks]

    def _grid(self, x: Tensor) -> tuple[int, int]:
        _, rows, columns = self.config.patch_size
        if x.shape[2] != self.config.in_channels or x.shape[3] % rows or x.shape[4] % columns:
            raise CinelabError(
                f"Latents {tuple(x.shape)} do not fit: wanted (B, F, {self.config.in_channels}, "
                "H, W) "
                f"with H divisible by {rows} and W by {columns}."
            )
        return x.shape[3] // rows, x.shape[4] // columns


# as diffusers keeps them
FULL_PRECISION = ("time_embedder", "scale_shift_table", "norm1", "norm2", "norm3")


def kept_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """What a parameter is kept in, in a model of `dtype`: what steers all the others stays in
    fp32."""
    return torch.float32 if any(part in FULL_PRECISION for part in name.split(".")) else dtype


def cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model in `dtype`, but for the few parameters that stay in full precision."""
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(kept_dtype(name, dtype))
    return model


def init_toy(model: CausalWan) -> CausalWan:
    """DiT-style start for training from scratch: gates and output zero, so that every block begins
    as identity."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.xavier_uniform_(model.patch_embedding.weight.view(model.config.width, -1))
    nn.init.zeros_(model.condition_embedder.time_proj.weight)
    nn.init.zeros_(model.proj_out.weight)
    for block in model.blocks:
        nn.init.zeros_(block.scale_shift_table)
        nn.init.zeros_(block.attn2.to_out[0].weight)
    nn.init.zeros_(model.scale_shift_table)
    return model
