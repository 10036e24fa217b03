"""Solvers: from noise to a clean chunk along falling levels.

    B films   c latent frames a chunk   C channels

A solver is a registered function of the velocity v(x, t), the noise x (B, c, C, H, W) at level 1,
the levels (n + 1,) and, where it takes one more, `renoise`, whose renoise(i) is the noise of level
i > 0. It returns the clean chunk, or yields the state at every level after the first.
"""

import inspect
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from cinelab.errors import CinelabError
from cinelab.registry import Registry

SOLVERS = Registry("solver")

Velocity = Callable[[Tensor, float], Tensor]  # of x (B, c, C, H, W) at timestep t
Renoise = Callable[[int], Tensor]  # number of a level -> noise (B, c, C, H, W)


def check_solver(name: str, *, states: bool = False) -> None:
    """Refuse a solver that nobody knows; with `states`, also one that gives only the end of its
    way."""
    try:
        solver = SOLVERS.get(name)
    except CinelabError as error:
        raise CinelabError(f"sampling.{error}") from error
    if states and not inspect.isgeneratorfunction(solver):
        raise CinelabError(
            f"solver is {name!r}, which gives no state on its way; use one that yields every "
            "state, such as ab2."
        )


def solve(
    velocity: Velocity,
    x: Tensor,
    levels: Tensor,
    solver: str,
    renoise: Renoise | None = None,
) -> Tensor:
    """Return the clean chunk: dx/dt = v(x, t) integrated along `levels` by a registered solver."""
    made = _call(velocity, x, levels, solver, renoise)
    if not isinstance(made, Tensor):
        last = deque(made, maxlen=1)
        made = last[0] if last else x
    if not isinstance(made, Tensor) or made.shape != x.shape:
        found = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise CinelabError(
            f"Solver {solver!r} gives {found}; return the chunk, {tuple(x.shape)}, or yield it at "
            "every level."
        )
    return made


def trajectory(
    velocity: Velocity, x: Tensor, levels: Tensor, solver: str
) -> Iterator[tuple[Tensor, float]]:
    """Yield the states of `solve` one after another, with their timesteps; the first is x
    itself."""
    check_solver(solver, states=True)
    yield x, float(levels[0])
    states = iter(_call(velocity, x, levels, solver))
    for t_next in levels[1:].tolist():
        state = next(states, None)
        if state is None:
            raise CinelabError(
                f"Solver {solver!r} yields too few states; yield one for every level after the "
                "first."
            )
        yield state, t_next


def _call(
    velocity: Velocity, x: Tensor, levels: Tensor, solver: str, renoise: Renoise | None = None
) -> Any:
    function = SOLVERS.get(solver)
    parameters = inspect.signature(function).parameters.values()
    needed = [one for one in parameters if one.default is one.empty]
    if len(needed) <= 3:
        return function(velocity, x, levels)
    if renoise is None:
        raise CinelabError(
            f"Solver {solver!r} wants fresh noise at every level, and there is none here; use one "
            "that follows the flow, such as ab2."
        )
    return function(velocity, x, levels, renoise)


def steps_of(levels: Tensor) -> Iterator[tuple[float, float]]:
    """Return (t, t_next) of every step along `levels`."""
    return zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True)


@SOLVERS.add("euler")
def euler(velocity: Velocity, x: Tensor, levels: Tensor) -> Iterator[Tensor]:
    """Yield the states of Euler's method, of first order."""
    for t, t_next in steps_of(levels):
        x = x + (t_next - t) * velocity(x, t)
        yield x


@SOLVERS.add("ab2")
def ab2(velocity: Velocity, x: Tensor, levels: Tensor) -> Iterator[Tensor]:
    """Yield the states of Adams-Bashforth's method of second order, for steps of uneven length.

    x' = x + dt (v + dt / (2 dt_prev) (v - v_prev)): the velocity is extrapolated along the line
    through its last two values. The first step is Euler's, and a step costs one velocity, as
    Euler's does.
    """
    v_prev: Tensor | None = None
    dt_prev = 1.0
    for t, t_next in steps_of(levels):
        v = velocity(x, t)
        dt = t_next - t
        slope = v
        if v_prev is not None:
            slope = v + 0.5 * dt / dt_prev * (v - v_prev)
        x = x + dt * slope
        v_prev = v
        dt_prev = dt
        yield x


def consistency_sampling(
    velocity: Velocity,
    x: Tensor,
    levels: Tensor,
    renoise: Renoise,
    exit_at: float | None = None,
) -> Tensor:
    """Return the chunk by multistep consistency sampling: predict it clean, renoise it, predict
    again.

    `exit_at` in [0, 1) ends at that share of the levels (Self Forcing's random exit step); None is
    the last level. Only the prediction that is returned keeps its graph. (Consistency Models,
    arXiv 2303.01469, Algorithm 1, on the flow's path.)
    """
    times = levels[:-1].tolist()
    final = len(times) - 1 if exit_at is None else int(exit_at * len(times))
    with torch.no_grad():
        for level, (t, t_next) in enumerate(zip(times[:final], times[1:], strict=False), 1):
            x0 = x - t * velocity(x, t)
            x = (1 - t_next) * x0 + t_next * renoise(level)
    return x - times[final] * velocity(x, times[final])


SOLVERS.add("consistency", consistency_sampling)
