"""Faster ways to run the same model, each named by `Speed` and each either exact or fast.

    exact   the model's own precision by eager kernels: the same bits from run to run
    fast    compiled, or in eight bits: rounded otherwise; `cinelab bench --noise` measures how far
            its films are from exact ones

`SPEEDS` has three ways by name: `exact`, `compiled` (the model's precision, what a block does
around attention compiled whole) and `fast` (that, with linears and attention in eight bits).
"""

import copy
import functools
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn

from cinelab.errors import CinelabError
from cinelab.model.wan import Attention, CausalWan
from cinelab.ops.attention import (
    EIGHT_BITS,
    KERNELS,
    REMEDY,
    available,
    fastest,
    use_kernel,
)
from cinelab.ops.compiling import RUN_AS, UNCOMPILED, Compiled, run_as
from cinelab.ops.rope import Rope
from cinelab.scale.epilogues import fuse_gelu
from cinelab.scale.fp8_linears import Fp8Linear, check_sides
from cinelab.scale.graphs import replay_levels

LINEARS = ("full", "fp8", "fp8-weights", "int8-weights")
FALLBACKS = ("none", "exact")


@dataclass(frozen=True)
class Speed:
    """How a model is run.

    kernel     attention's, one of `cinelab.ops.attention.KERNELS`: exact, but for `eight-bits`,
               `flash3-fp8` and `sage`, which are fast
    compiled   fast: torch compiles what a block does before and after attention, and the rotation
               of queries and keys, for the shapes that come
    linears    the blocks' matrices; exact: `full`. Fast: `fp8` rounds weights and inputs, on a GPU
               that multiplies fp8, and needs `compiled`; the `-weights` ones save memory anywhere
               and multiply in the model's own precision
    graphs     exact: the later levels of a chunk are replayed as one CUDA graph, where the policy
               retrieves (see `cinelab.scale.graphs`); off by default, since it has not run on a
               GPU yet
    fused_qkv  fast: queries, keys and values of self-attention by one product
    fallback   `exact` runs the model as exact where this way fails to build; `none` refuses
    """

    kernel: str = "auto"
    compiled: bool = False
    linears: str = "full"
    graphs: bool = False
    fused_qkv: bool = False
    fallback: str = "none"

    def __post_init__(self):
        known = {"kernel": KERNELS, "linears": LINEARS, "fallback": FALLBACKS}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise CinelabError(
                    f"speed.{name} is {getattr(self, name)!r}; use one of {', '.join(values)}."
                )
        if self.linears == "fp8" and not self.compiled:
            raise CinelabError(
                "speed.linears is 'fp8' without compiled, which was measured 0.67 times as fast as "
                "'full' on an H200; set compiled too, or use 'fp8-weights' to save memory."
            )

    @property
    def mode(self) -> str:
        """Whether films are `exact` or `fast`."""
        fast = self.compiled or self.fused_qkv or self.linears != "full"
        return "fast" if fast or self.kernel in ("eight-bits", *EIGHT_BITS) else "exact"


SPEEDS = {
    "exact": Speed(),
    "compiled": Speed(compiled=True, fused_qkv=True),
    "fast": Speed("eight-bits", True, "fp8", fused_qkv=True),
}


def speed_named(name: str, **changes: Any) -> Speed:
    """Return the way of SPEEDS under this name, with whatever of `changes` differs from a `Speed`'s
    defaults. Raise CinelabError for another name."""
    if name not in SPEEDS:
        raise CinelabError(f"speed is {name!r}; use one of {', '.join(SPEEDS)}.")
    plain = asdict(Speed())
    own = {key: value for key, value in changes.items() if value != plain[key]}
    if own.get("linears", "full") not in ("full", "fp8"):
        own.setdefault("fused_qkv", False)  # torchao stores each linear on its own
    return replace(SPEEDS[name], **own)


def running_speed(model: nn.Module) -> Speed:
    """Return how a model is run: what `accelerate` made of it, or the plain way."""
    return run_as(model) or Speed()


def accelerate(model: CausalWan, speed: Speed) -> CausalWan:
    """Return the model (in place), run as `speed` says. For inference: weights in eight bits have
    no gradient.

    Where it cannot be run so, raise CinelabError; with `speed.fallback` exact, warn and leave the
    model as it is. A model on meta tensors takes every way but compilation, so that it can be
    counted.
    """
    before = running_speed(model)
    if before == speed != Speed():
        return model
    if before != Speed():
        raise CinelabError(
            f"This model already runs at another speed ({before}); load it again to run it at "
            f"{speed}."
        )
    try:
        check_speed(model, speed)
    except CinelabError as error:
        if speed.fallback != "exact":
            raise
        warnings.warn(f"{error} The model runs as exact, as fallback says.", stacklevel=2)
        return model
    meta = next(model.parameters()).is_meta
    # chosen before compilation: a kernel is probed by calls that torch need not compile
    chosen = speed.kernel == "auto" and speed.compiled and next(model.parameters()).is_cuda
    with_kernel(model, fastest() if chosen else speed.kernel)
    if speed.fused_qkv:
        fuse_qkv(model)
    if speed.linears != "full":
        quantise(model, speed.linears)
    if speed.compiled and not meta:
        compile_blocks(model, fallback=speed.fallback == "exact")
    if speed.graphs and not meta:
        replay_levels(model)
    setattr(model, RUN_AS, speed)
    return model


def check_speed(model: CausalWan, speed: Speed) -> None:
    """Raise CinelabError where this machine or this model cannot be run so."""
    if next(model.parameters()).is_meta:
        return
    if not available(speed.kernel):
        remedy = REMEDY[speed.kernel]
        raise CinelabError(
            f"Kernel {speed.kernel!r} does not run here, for it needs {remedy}; use 'auto', or see "
            "`cinelab doctor`."
        )
    if speed.graphs and not next(model.parameters()).is_cuda:
        raise CinelabError(
            "speed.graphs replays CUDA graphs, and the model is not on a GPU; leave it out."
        )
    if speed.linears == "fp8":
        _check_fp8(model)
    elif speed.linears != "full":
        _torchao(speed.linears)
    if speed.fused_qkv:
        for block in cast(Iterable[Any], model.blocks):
            _check_plain_linears(block.attn1)


def with_kernel(model: nn.Module, kernel: str) -> nn.Module:
    """Return the model with its forward pass under one attention kernel."""
    forward = cast(MethodType, model.forward).__func__

    @functools.wraps(forward)
    def under_kernel(self: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        with use_kernel(kernel):
            return cast(Tensor, forward(self, *args, **kwargs))

    model.forward = MethodType(under_kernel, model)  # which a copy of the model binds to itself
    return model


def compile_blocks(model: CausalWan, *, fallback: bool = False) -> CausalWan:
    """Compile what a block does before and after attention, and the rotation of queries and keys;
    attention itself is the context's, and the feed-forward's GELU its product's epilogue.

    All blocks share their code, so that it is compiled once for every shape.
    """
    fuse_gelu(model)
    how: dict[str, Any] = {"remedy": UNCOMPILED, "fallback": fallback}
    for block in cast(Iterable[Any], model.blocks):
        for name in ("pre_attention", "post_attention"):
            half = Compiled(getattr(block, name), dynamic=False, fullgraph=True, **how)
            setattr(block, name, half)
    rope = model.rope

    @functools.cache
    def compiled_rope(grid: tuple[int, int], device: torch.device) -> Rope:
        found: Any = copy.copy(rope(grid, device))
        # retrieved keys come in every length until the budget is filled
        found.rotate = Compiled(found.rotate, **how)
        found.rotate_into = Compiled(found.rotate_into, **how)
        return cast(Rope, found)

    cast(Any, model).rope = compiled_rope
    return model


class FusedAttention(Attention):
    """An attention whose queries, keys and values come of one product.

    The three linears' weights are views of the product's, so the state dict stays as it was. They
    are joined anew where they are moved, copied or loaded as tensors of their own.
    """

    to_qkv: nn.Module

    def join(self, *_: Any) -> None:
        """Make the product of the three linears' weights, unless eight bits have replaced it."""
        if hasattr(self, "to_q"):
            self.to_qkv = OneProduct([self.to_q, self.to_k, self.to_v])

    def _apply(self, *args: Any, **given: Any) -> "FusedAttention":
        super()._apply(*args, **given)
        self.join()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.join()

    def query_key_value(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.normed_heads(*self.to_qkv(x).chunk(3, dim=-1))


class OneProduct(nn.Module):
    """Several linears of one input as a single product; its buffers are in no state dict."""

    weight: Tensor
    bias: Tensor

    def __init__(self, linears: Iterable[nn.Linear]):
        super().__init__()
        parts = list(linears)
        for name in ("weight", "bias"):
            whole = torch.cat([getattr(part, name).detach() for part in parts])
            self.register_buffer(name, whole, persistent=False)
            for part, rows in zip(parts, whole.chunk(len(parts)), strict=True):
                getattr(part, name).data = rows

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


def fuse_qkv(model: CausalWan) -> CausalWan:
    """Return the model (in place) with queries, keys and values of self-attention by one product;
    cross-attention's keys and values are computed once a prompt and stay as they are."""
    for block in cast(Iterable[Any], model.blocks):
        attention = block.attn1
        _check_plain_linears(attention)
        attention.__class__ = FusedAttention
        attention.join()
        attention.register_load_state_dict_post_hook(FusedAttention.join)
    return model


def _check_plain_linears(attention: Attention) -> None:
    """Refuse to join what is no linear, or trained."""
    for name in ("to_q", "to_k", "to_v"):
        part = getattr(attention, name)
        if type(part) is not nn.Linear or part.bias is None:
            raise CinelabError(
                f"speed.fused_qkv joins linears, and {name} is a {type(part).__name__}; merge "
                "adapters first (`cinelab convert --lora`), or leave it out."
            )


def quantise(model: CausalWan, linears: str) -> CausalWan:
    """Return the model (in place) with the linears of all blocks in eight bits; embeddings, norms
    and the output stay as they are. Its state dict can be taken no more."""
    if linears == "fp8":
        for block in cast(Iterable[nn.Module], model.blocks):
            _to_fp8(block)
    else:
        quantize, config = _torchao(linears)
        quantize(model.blocks, config(), filter_fn=lambda part, name: isinstance(part, nn.Linear))
    model.register_state_dict_pre_hook(_refuse_to_save)
    return model


def _to_fp8(part: nn.Module) -> None:
    """Put linears in fp8 in the place of all linears below `part`; what a joint product has
    replaced is freed."""
    for name, child in list(part.named_children()):
        if isinstance(child, nn.Linear | OneProduct):
            setattr(part, name, Fp8Linear(child))
        else:
            _to_fp8(child)
    if isinstance(part, FusedAttention):
        del part.to_q, part.to_k, part.to_v


def _refuse_to_save(*_: Any) -> None:
    raise CinelabError(
        "This model's linears were rounded to eight bits for inference, and its weights cannot be "
        "saved; save the model that it was made from."
    )


def _check_fp8(model: CausalWan) -> None:
    from torch.cuda import get_device_capability

    weight = next(model.parameters())
    if not weight.is_cuda or get_device_capability(weight.device) < (8, 9):
        raise CinelabError(
            "speed.linears is 'fp8', which needs a GPU of compute capability 8.9 or newer (Ada, "
            "Hopper, Blackwell); "
            "use 'fp8-weights' to save memory alone."
        )
    for name, part in model.blocks.named_modules():
        if isinstance(part, nn.Linear):
            check_sides(f"blocks.{name}", part)


def _torchao(linears: str) -> tuple[Callable, Callable]:
    try:
        from torchao import quantization as ao
    except ImportError as error:
        raise CinelabError(
            f"speed.linears is {linears!r}, which needs torchao: pip install 'cinelab[fp8]'."
        ) from error
    configs = {"fp8-weights": ao.Float8WeightOnlyConfig, "int8-weights": ao.Int8WeightOnlyConfig}
    return ao.quantize_, configs[linears]
