"""A bidirectional teacher that is given the true past, so that against the autoregressive teacher
only "it attends to the future" differs. The control is ours; no paper has it.

    training   the first k frames of a clip stay clean at t = 0, k uniform below F, the rest is
               noised at the clip's t and alone has a loss
    pairs      for every chunk that counts an ODE of its own: the frames before it are the truth at
               t = 0, it and all later frames begin as noise; of that ODE only this chunk is stored

The autoregressive teacher's chunk is driven by its own state and the true past; here it is driven
by the noisy future too. Later chunks of the same ODE have a past that was made, so they do not
count.

    B clips   F latent frames   C channels   H, W latent size
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from cinelab.flow.solvers import trajectory
from cinelab.seeds import integers, rng_at, uniform

TRUE_PAST = "bidirectional_true_past"  # the kind of teacher

Velocity = Callable[[Tensor, float | Tensor], Tensor]


def draw_true_past(
    shape: tuple[int, int], share: float, rng: torch.Generator, device: torch.device | str
) -> Tensor:
    """Return which frames (B, F) = `shape` of training clips are given as the truth: in a `share`
    of the clips the first k, k uniform from 0 to F - 1."""
    batch, frames = shape
    known = integers(frames, (batch, 1), rng, device)
    chosen = uniform((batch, 1), rng, device) < share
    return (torch.arange(frames, device=device)[None] < known) & chosen


def mean_over(counted: Tensor) -> Tensor:
    """Return weights (B, F), fp32, under which a mean over all frames is one over those that
    count."""
    return counted.float() * (counted.numel() / counted.sum().clamp(min=1))


def counted_chunks(chunks: int, counted: int, seed: int, shard: int) -> list[int]:
    """Return the numbers of the chunks of a shard that count, in order: `counted` of `chunks` at
    random, addressed by the shard; all for 0."""
    if not counted:
        return list(range(chunks))
    drawn = torch.randperm(chunks, generator=rng_at(seed, "counted chunks", shard))
    return sorted(drawn[:counted].tolist())


def true_past_states(
    velocity: Velocity,
    truth: Tensor,
    noise: Tensor,
    *,
    levels: Tensor,
    solver: str,
    chunks: Iterable[int],
    chunk: int,
) -> list[Tensor]:
    """Return the states (B, F, C, H, W) at every level, each chunk of `chunks` from the ODE that
    begins with it. Frames of other chunks hold what the first of these ODEs made of them.

    `truth` and `noise` are (B, F, C, H, W), `levels` (n + 1,) from 1 to 0, `chunk` latent frames.
    """
    made: list[Tensor] = []
    for number in chunks:
        own = slice(number * chunk, (number + 1) * chunk)
        states = list(
            _states(velocity, truth, noise, levels=levels, solver=solver, known=own.start)
        )
        made = made or [state.clone() for state in states]
        for stored, state in zip(made, states, strict=True):
            stored[:, own] = state[:, own]
    return made


def _states(
    velocity: Velocity, truth: Tensor, noise: Tensor, *, levels: Tensor, solver: str, known: int
) -> Iterator[Tensor]:
    """Yield the states of one ODE whose first `known` frames are the truth at t = 0."""
    given = torch.arange(truth.shape[1], device=truth.device) < known
    start = torch.where(given[None, :, None, None, None], truth, noise)
    for state, _ in trajectory(beside_the_truth(velocity, given), start, levels, solver):
        yield state


def beside_the_truth(velocity: Velocity, given: Tensor) -> Velocity:
    """Return the velocity v(x, t) under which the frames `given` (F,) stand still at t = 0."""

    def held(x: Tensor, t: float | Tensor) -> Tensor:
        times = torch.full(given.shape, float(t), device=x.device).masked_fill(given, 0.0)
        return velocity(x, times).masked_fill(given[None, :, None, None, None], 0.0)

    return held
