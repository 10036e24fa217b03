"""Levels, solvers and THE roll-out: training, streaming and evaluation all make chunks here.

The network is any callable net(x, t, text, slot, sight) -> velocity; the memory is a sight with
begin / record / commit (see cinelab.memory.cache). Neither is imported.

    B films   c frames a chunk   C channels   S prompts (the last one is the empty prompt)
"""

import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from cinelab.errors import CinelabError
from cinelab.flow.path import guided, shifted
from cinelab.limits import STEPS, check_levels, check_number, is_number, short
from cinelab.readable import Readable
from cinelab.registry import Registry
from cinelab.seeds import rng_at

SOLVERS = Registry("solver")


@dataclass(frozen=True)
class Sampling:
    """How a chunk is made from noise. The many-step model follows its flow (euler, or
    Adams-Bashforth of second order: ab2). A few-step student predicts the clean chunk and noises it
    afresh to the next level (consistency).

    What is None is the model's own: `Sampling(at=(1.0, 0.6, 0.3))` changes the levels of a student
    and leaves its solver, its shift and its guidance as they are. Without a model (in training, or
    at the sampler itself) None is 8 steps of ab2 with shift 2 and guidance 2; a consistency
    student's guidance is 1, since it is distilled in. `filled` is the one place where that is
    decided.
    """

    steps: int | None = None  # with `at`: as many as it has
    solver: str | None = None  # a registered name or an import path (see SOLVERS)
    guidance: float | None = None  # 1 = off
    shift: float | None = None  # of the timesteps
    # the levels themselves, before the shift; () = `steps` of them, evenly from 1 down
    at: tuple[float, ...] = ()
    # steps of the film's first chunk, where there is no history to lean on; None = the same
    first_steps: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "at", tuple(self.at))
        for name, steps in (("steps", self.steps), ("first_steps", self.first_steps)):
            if steps is not None:
                check_number(f"sampling.{name}", steps, 1, STEPS)
        if self.solver is not None:
            check_solver(self.solver)
        for name, value in (("guidance", self.guidance), ("shift", self.shift)):
            if value is not None and not is_number(value):
                raise CinelabError(f"sampling.{name} is {short(value)}; give a number.")
        if (self.shift is not None and not 0 < self.shift < inf) or (
            self.guidance is not None and not 0 <= self.guidance < inf
        ):
            raise CinelabError(
                f"sampling.shift is {self.shift} and guidance {self.guidance}; "
                "the shift must be above 0 and the guidance at least 0."
            )
        if self.at:
            check_levels(self.at, "sampling.at")
            if len(self.at) != (self.steps or len(self.at)):
                raise CinelabError(
                    f"sampling.at has {len(self.at)} levels, but sampling.steps is {self.steps}; "
                    "make them agree."
                )
            object.__setattr__(self, "steps", len(self.at))

    @property
    def whole(self) -> bool:
        """Whether nothing is left to a model."""
        return None not in (self.steps, self.solver, self.guidance, self.shift)

    def filled(self, own: "Sampling | None" = None) -> "Sampling":
        """The same with what is None taken from `own`, the settings of the model that is
        sampled."""
        if self.whole:
            return self
        if own is None:
            solver = self.solver or "ab2"
            own = Sampling(8, solver, 1.0 if solver == "consistency" else 2.0, 2.0)
        own = own.filled()
        levels = {}
        if self.steps is None:
            levels = {
                "steps": own.steps,
                "at": own.at,
                "first_steps": self.first_steps or own.first_steps,
            }
        given = {name: getattr(self, name) for name in ("solver", "guidance", "shift")}
        return replace(
            self,
            **levels,
            **{
                name: getattr(own, name) if value is None else value
                for name, value in given.items()
            },
        )

    def altered(self, changes: Mapping[str, Any]) -> "Sampling":
        """The same with some fields changed. Another number of steps has levels of its own, evenly
        spaced; other levels are as many as they are."""
        if "at" in changes and "steps" not in changes:
            changes = {**changes, "steps": None if changes["at"] else self.steps}
        elif "steps" in changes and "at" not in changes:
            changes = {**changes, "at": ()}
        return replace(self, **changes)

    def levels(self, first: bool = False) -> Tensor:
        """(steps + 1,) times, falling to 0; `first` = those of the film's first chunk."""
        whole = self.filled()
        steps = whole.first_steps if first and whole.first_steps else None
        if steps is None and whole.at:
            return shifted(torch.tensor([*whole.at, 0.0], dtype=torch.float64), whole.shift)
        return shifted(
            torch.linspace(1, 0, (steps or whole.steps) + 1, dtype=torch.float64), whole.shift
        )

    def with_steps(self, steps: int) -> "Sampling":
        """The same with another number of evenly spaced steps."""
        return replace(self, steps=steps, at=())


def check_solver(name: str, states: bool = False) -> None:
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


# what `steps` may be wherever a model is sampled
Steps = int | Sequence[float] | Sampling | Mapping | None


Field = Callable[[Tensor, float], Tensor]  # velocity of x (B, c, C, H, W) at time t


def solve(
    field_: Field,
    x: Tensor,
    levels: Tensor,
    solver: str,
    fresh: Callable[[int], Tensor] | None = None,
) -> Tensor:
    """Integrate dx/dt = field(x, t) along `levels` from noise x (B, c, C, H, W) to data, by a
    registered solver.

    A solver is a function of the field, x, the levels (n + 1,) and, where it takes one more,
    `fresh`, whose fresh(i) is the noise of level i > 0. It returns the clean chunk, or yields the
    state at every level after the first.
    """
    made = _begun(field_, x, levels, solver, fresh)
    if not isinstance(made, Tensor):
        for made in made:  # noqa: B007, B020
            pass
    if not isinstance(made, Tensor) or made.shape != x.shape:
        found = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise CinelabError(
            f"Solver {solver!r} gives {found}; return the chunk, {tuple(x.shape)}, or yield it at "
            "every level."
        )
    return made


def _begun(
    field_: Field, x: Tensor, levels: Tensor, solver: str, fresh: Callable | None = None
) -> Any:
    function = SOLVERS.get(solver)
    takes = [
        one for one in inspect.signature(function).parameters.values() if one.default is one.empty
    ]
    if len(takes) > 3 and fresh is None:
        raise CinelabError(
            f"Solver {solver!r} wants fresh noise at every level, and there is none here; use one "
            "that follows the flow, such as ab2."
        )
    return function(field_, x, levels, fresh) if len(takes) > 3 else function(field_, x, levels)


def walk(field_: Field, x: Tensor, levels: Tensor, solver: str) -> Iterator[tuple[Tensor, float]]:
    """The states of `solve` one after another, with their times; the first is x itself."""
    check_solver(solver, states=True)
    yield x, float(levels[0])
    states = iter(_begun(field_, x, levels, solver))
    for there in levels[1:].tolist():
        if (x := next(states, None)) is None:
            raise CinelabError(
                f"Solver {solver!r} yields too few states; yield one for every level after the "
                "first."
            )
        yield x, there


def steps_of(levels: Tensor) -> Iterator[tuple[float, float]]:
    """(here, there) of every step along `levels`."""
    return zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True)


@SOLVERS.add("euler")
def euler(field_: Field, x: Tensor, levels: Tensor) -> Iterator[Tensor]:
    """Euler's method, first order."""
    for here, there in steps_of(levels):
        x = x + (there - here) * field_(x, here)
        yield x


@SOLVERS.add("ab2")
def ab2(field_: Field, x: Tensor, levels: Tensor) -> Iterator[Tensor]:
    """Adams-Bashforth of second order, for uneven steps; the first one is Euler's."""
    before: tuple[Tensor, float] | None = None
    for here, there in steps_of(levels):
        v = field_(x, here)
        step = there - here
        slope = v
        if before is not None:
            old, old_step = before
            slope = v + 0.5 * step / old_step * (v - old)
        x = x + step * slope
        before = (v, step)
        yield x


def refine(
    field_: Field,
    x: Tensor,
    levels: Tensor,
    fresh: Callable[[int], Tensor],
    depth: float | None = None,
) -> Tensor:
    """Consistency sampling of a chunk x (B, c, C, H, W): predict it clean, noise it afresh, predict
    again.

    `fresh(n)` is the noise of level n. `depth` in [0, 1) ends early, at that share of the levels
    (Self Forcing's random exit); None goes to the last. Only the prediction that is returned keeps
    its graph.
    """
    times = levels[:-1].tolist()
    final = len(times) - 1 if depth is None else int(depth * len(times))
    with torch.no_grad():
        for level, (here, there) in enumerate(zip(times[:final], times[1:], strict=False), 1):
            x0 = x - here * field_(x, here)
            x = (1 - there) * x0 + there * fresh(level)
    return x - times[final] * field_(x, times[final])


SOLVERS.add("consistency", refine)


class Prompts:
    """Encoded prompts of B films as the net takes them: keys and values (B, S, L, h, d) of every
    layer."""

    def __init__(self, net: Any, text: Tensor):
        self.plain = net.encode_text(text)

    @cached_property
    def twice(self) -> list:
        """For a doubled batch."""
        return [(torch.cat([k, k]), torch.cat([v, v])) for k, v in self.plain]

    def at(self, *slots: Tensor) -> list:
        """One prompt (B, 1, L, h, d) a film by slot (B,), chosen once for a whole chunk; several
        slots widen the batch."""
        count = self.plain[0][0].shape[1]
        # (B, 1, S)
        choices = [one_hot(slot, count).to(self.plain[0][0])[:, None] for slot in slots]
        pick = lambda part: torch.cat(
            [(c @ part.flatten(2)).unflatten(-1, part.shape[2:]) for c in choices]
        )  # noqa: E731
        return [(pick(k), pick(v)) for k, v in self.plain]


@dataclass(frozen=True)
class Script(Readable):
    """What the roll-out needs to know of a timeline, for a batch of films with equally many chunks.

    slot and shot are (B, chunks): the prompt and the shot number of every chunk of every film.
    """

    slot: Tensor
    shot: Tensor
    chunk: int  # latent frames a chunk
    null: int  # index of the empty prompt

    def to(self, device: torch.device) -> "Script":
        return replace(self, slot=self.slot.to(device), shot=self.shot.to(device))


@dataclass
class Chunk(Readable):
    """One finished chunk of latents (B, c, C, H, W), and where the time went (seconds by cause)."""

    index: int
    latents: Tensor
    seconds: dict[str, float] = field(default_factory=dict)


def noise_for(seeds: Sequence[int], chunk: int, shape: tuple[int, ...], level: int = 0) -> Tensor:
    """Noise (B, *shape) of chunk number `chunk`, where it starts (level 0) or is noised afresh:
    film i's depends on its own seed alone."""
    place = ("noise", chunk) if level == 0 else ("noise", chunk, level)
    return torch.stack([torch.randn(shape, generator=rng_at(seed, *place)) for seed in seeds])


def denoise(
    net: Any,
    memory: Any,
    text: Any,
    script: Script,
    index: int,
    noise: Callable[[int], Tensor],
    sampling: Sampling,
    depth: float | None = None,
) -> Tensor:
    """One chunk (B, c, C, H, W) from its noise(level) under the open memory; `depth` as in
    `refine`."""
    sampling = sampling.filled()
    start = noise(0)
    levels = sampling.levels(first=index == 0)
    batch, frames = start.shape[:2]
    slot = script.slot[:, index]
    # guided calls show each film with its prompt and without
    times = 1 if sampling.guidance == 1 else 2
    words = text.at(slot, torch.full_like(slot, script.null)) if times == 2 else text.at(slot)
    only = torch.zeros(times * batch, frames, dtype=torch.long, device=start.device)

    def velocity(x: Tensor, t: float) -> Tensor:
        v = net(x.repeat(times, 1, 1, 1, 1), x.new_full(only.shape, t), words, only, memory)
        return v if times == 1 else guided(*v.chunk(2), sampling.guidance)

    if sampling.solver == "consistency":
        return refine(velocity, start, levels, noise, depth)
    return solve(velocity, start, levels, sampling.solver, noise)


def remember_and_denoise(
    net: Any,
    memory: Any,
    before: tuple[Tensor, list],
    text: Any,
    script: Script,
    index: int,
    noise: Callable[[int], Tensor],
    sampling: Sampling,
    policy: Any = None,
) -> Tensor:
    """`remember` the chunk before and `denoise` this one, with one call fewer: the clean pass and
    the first level go together.

    before  the chunk before, latents (B, c, C, H, W), and its prompt as `text.at` gives it. It must be open in the memory.
    The same to rounding as one after the other; not for guided calls, which show each film twice.
    """
    sampling = sampling.filled()
    if sampling.guidance != 1:
        raise CinelabError(
            f"sampling.guidance is {sampling.guidance}; the clean pass joins the first level of "
            "unguided calls only."
        )
    clean, words_before = before
    memory.record()
    memory.follow(index, script.shot[:, index], policy)

    def joined(x: Tensor, t: Tensor, words: list, slot: Tensor, memory: Any) -> Tensor:
        if memory.opened:
            return net(x, t, words, slot, memory)
        both = [
            (torch.cat([k0, k1], 1), torch.cat([v0, v1], 1))
            for (k0, v0), (k1, v1) in zip(words_before, words, strict=True)
        ]
        v = net(
            torch.cat([clean.type_as(x), x], 1),
            torch.cat([torch.zeros_like(t), t], 1),
            both,
            torch.cat([slot, slot + 1], 1),
            memory,
        )
        memory.commit()
        return v[:, x.shape[1] :]

    return denoise(joined, memory, text, script, index, noise, sampling)


@torch.no_grad()
def remember(net: Any, memory: Any, text: Any, script: Script, index: int, latents: Tensor) -> None:
    """Show the clean chunk once (t = 0) and put its keys and values into the memory."""
    memory.record()
    only = torch.zeros(latents.shape[:2], dtype=torch.long, device=latents.device)
    net(latents, latents.new_zeros(latents.shape[:2]), text.at(script.slot[:, index]), only, memory)
    memory.commit()


def rollout(
    net: Any,
    memory: Any,
    text: Any,
    script: Script,
    seeds: Sequence[int],
    shape: tuple[int, ...],
    sampling: Sampling,
    start: int = 0,
    given: Tensor | None = None,
    device: str = "cpu",
    depth: float | None = None,
    truth: Tensor | None = None,
) -> Iterator[Chunk]:
    """Yield the chunks of B films one after another, from chunk `start` on.

    text    see `Prompts`
    shape   (c, C, H, W) of a chunk        seeds   one a film
    given   latents (B, frames, C, H, W): these chunks are not made but taken (a known history)
    depth   where few-step chunks end (see `refine`)
    truth   latents (B, frames, C, H, W) that are remembered in place of what was made (teacher forcing)

    With gradients on, each chunk keeps the graph of its last prediction; the memory keeps none.
    """
    for index in range(start, script.slot.shape[1]):
        began = time.perf_counter()
        memory.begin(index, script.shot[:, index])
        part = slice(index * script.chunk, (index + 1) * script.chunk)
        if given is not None and part.stop <= given.shape[1]:
            latents = given[:, part]
        else:
            noise = lambda level, index=index: noise_for(seeds, index, shape, level).to(device)  # noqa: E731
            latents = denoise(net, memory, text, script, index, noise, sampling, depth)
        made = time.perf_counter()
        remember(net, memory, text, script, index, latents if truth is None else truth[:, part])
        seconds = {"dit": made - began, "memory": time.perf_counter() - made}
        yield Chunk(index, latents, seconds)
