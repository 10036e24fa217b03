"""Faster ways to run the same model: compiled blocks, linears in eight bits. Each changes rounding
only, and by how much is tested."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from cinelab.errors import CinelabError
from cinelab.model.wan import CausalWan
from cinelab.ops.attention import KERNELS, available, fastest, use_kernel

LINEARS = ("full", "fp8", "fp8-weights", "int8-weights")


@dataclass(frozen=True)
class Speed:
    """How a model is run.

    kernel     attention's, one of `cinelab.ops.attention.KERNELS`
    compiled   whether torch compiles what a block does before and after attention
    linears    the precision in which the blocks' matrices are stored and multiplied: `fp8` needs a
               GPU that multiplies it, the `-weights` ones save memory anywhere and multiply in the
               model's own precision
    """

    kernel: str = "auto"
    compiled: bool = False
    linears: str = "full"

    def __post_init__(self):
        for name, known in (("kernel", KERNELS), ("linears", LINEARS)):
            if getattr(self, name) not in known:
                raise CinelabError(
                    f"speed.{name} is {getattr(self, name)!r}; use one of {', '.join(known)}."
                )


def accelerate(model: CausalWan, speed: Speed) -> CausalWan:
    """Return the model (in place), run as `speed` says. For inference: weights in eight bits have
    no gradient."""
    if not available(speed.kernel):
        raise CinelabError(
            f"Kernel {speed.kernel!r} does not run here; use 'auto', or see `cinelab doctor`."
        )
    # chosen before compilation: a kernel is probed by calls that torch need not compile
    chosen = speed.kernel == "auto" and speed.compiled and next(model.parameters()).is_cuda
    with_kernel(model, fastest() if chosen else speed.kernel)
    if speed.linears != "full":
        quantise(model, speed.linears)
    return compile_blocks(model) if speed.compiled else model


def with_kernel(model: nn.Module, kernel: str) -> nn.Module:
    """Return the model with its forward pass under one attention kernel."""
    forward = model.forward

    @functools.wraps(forward)
    def under_kernel(*args: Any, **kwargs: Any) -> Tensor:
        with use_kernel(kernel):
            return forward(*args, **kwargs)

    model.forward = under_kernel
    return model


def compile_blocks(model: CausalWan) -> CausalWan:
    """Compile what a block does before and after attention; attention itself is the context's.

    All blocks share their code, so that it is compiled once for every shape.
    """
    for block in cast(Iterable[Any], model.blocks):
        block.pre_attention = torch.compile(block.pre_attention)
        block.post_attention = torch.compile(block.post_attention)
    return model


def quantise(model: CausalWan, linears: str) -> CausalWan:
    """Return the model (in place) with the linears of all blocks in eight bits, by torchao;
    embeddings, norms and the output stay as they are."""
    from torch.cuda import get_device_capability, is_available

    if linears == "fp8" and not (is_available() and get_device_capability() >= (8, 9)):
        raise CinelabError(
            "speed.linears is 'fp8', which needs a GPU of compute capability 8.9 or newer (Ada, "
            "Hopper, Blackwell); "
            "use 'fp8-weights' to save memory alone."
        )
    quantize, config = _torchao(linears)
    quantize(model.blocks, config(), filter_fn=lambda module, name: isinstance(module, nn.Linear))
    return model


def _torchao(linears: str) -> tuple[Callable, Callable]:
    try:
        from torchao import quantization as ao
    except ImportError as error:
        raise CinelabError(
            f"speed.linears is {linears!r}, which needs torchao: pip install 'cinelab[fp8]'."
        ) from error
    configs = {
        "fp8": lambda: ao.Float8DynamicActivationFloat8WeightConfig(granularity=ao.PerRow()),
        "fp8-weights": ao.Float8WeightOnlyConfig,
        "int8-weights": ao.Int8WeightOnlyConfig,
    }
    return ao.quantize_, configs[linears]
