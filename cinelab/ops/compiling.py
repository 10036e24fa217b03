"""Functions that torch compiles, for films and for trainings: where the compiler fails, one
sentence says so, and what may run instead."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from cinelab.errors import CinelabError

UNCOMPILED = "use speed 'exact', or a newer driver, compiler or torch"  # a film's remedy
RUN_AS = "accelerated_as"  # the attribute of a network that holds its speed
SHAPES = 64  # that one function is compiled for
COMPILERS = ("torch._dynamo", "torch._inductor", "torch._functorch", "triton")


class Compiled:
    """A function that torch compiles at its first call.

    Where the compiler fails, raise CinelabError, which ends in `remedy`; with `fallback`, warn and
    call the plain function from then on. `options` are torch.compile's.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        remedy: str,
        fallback: bool = False,
        **options: Any,
    ):
        self.plain = function
        self.remedy = remedy
        self.fallback = fallback
        self.options = options
        self.call = torch.compile(function, **options)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Compiled":
        """Return what compiles the copied object's own function."""
        function = copy.deepcopy(self.plain, memo)
        return Compiled(function, remedy=self.remedy, fallback=self.fallback, **self.options)

    def __call__(self, *args: Any, **named: Any) -> Any:
        try:
            return self._compiled(*args, **named)
        except Exception as error:  # the compiler raises many kinds
            if not build_failed(error):
                raise
            lines = str(error).strip().splitlines() or [""]
            sentence = (
                f"torch could not compile this model here ({type(error).__name__}: "
                f"{lines[0]:.120}); {self.remedy}."
            )
            if not self.fallback:
                raise CinelabError(sentence) from error
            warnings.warn(f"{sentence} It runs uncompiled, as fallback says.", stacklevel=2)
            self.call = self.plain
            return self.plain(*args, **named)

    def _compiled(self, *args: Any, **named: Any) -> Any:
        """Call the compiled function. Torch compiles at most eight shapes of one function, of all
        models in a process together; a demo or a benchmark meets more."""
        try:
            return self.call(*args, **named)
        except Exception as error:
            if type(error).__name__ != "FailOnRecompileLimitHit":
                raise
            with torch._dynamo.config.patch(recompile_limit=SHAPES):
                return self.call(*args, **named)


def build_failed(error: BaseException) -> bool:
    """Return whether an error is the compiler's or the driver's, and not the function's own."""
    return type(error).__module__.startswith(COMPILERS) or "Triton Error" in str(error)


def run_as(model: nn.Module) -> Any:
    """Return the `Speed` that a network was accelerated to (`cinelab.scale.acceleration`), None
    where it is run as it is."""
    return getattr(model, RUN_AS, None)


def speed_record(model: nn.Module) -> dict[str, Any]:
    """Return what the record of a film says of how it was made: {} where that was the plain way,
    else `speed` with the settings and their mode."""
    speed = run_as(model)
    if speed is None or speed == type(speed)():
        return {}
    return {"speed": {"mode": speed.mode, **asdict(speed)}}
