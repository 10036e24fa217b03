"""The published recipes: what the presets and the stages share with Self Forcing and Causal Forcing, in numbers."""

from dataclasses import replace

import pytest
import torch
from test_train import Fake

from cinelab.errors import CinelabError
from cinelab.memory.policy import FULL
from cinelab.seeds import rng_at
from cinelab.train import consistency, ode, presets
from cinelab.train.optim import Ema


class Seen:
    """A network that answers with zeros and keeps the times that it was asked at."""

    def __init__(self):
        self.times = []

    def __call__(self, x, t, *rest):
        self.times.append(t[:, -FRAMES:])  # of the noisy half, where the clean one goes before it
        return torch.zeros_like(x)


FRAMES, CHUNK = 24, 3


def ode_times(history, levels="chunk"):
    """The times (B, F) of the noisy frames in one step of ODE regression."""
    teacher = "autoregressive" if history == "truth" else "bidirectional"
    pairs = replace(presets.pairs("toy", teacher), frames=FRAMES, chunk=CHUNK)
    config = replace(presets.ode("toy", teacher), pairs=pairs, history=history, levels=levels)
    clips, seen = Fake().clips(4, FRAMES, rng_at(0)), Seen()
    states = torch.zeros(4, 4, FRAMES, 24, 6, 8)
    ode.loss(seen, clips, states, states[:, 0], config, rng_at(1))
    return seen.times[0]


# Stage 2a: who draws a level


@pytest.mark.parametrize("history", ode.HISTORIES)
def test_every_chunk_of_an_ode_step_has_a_level_of_its_own(history):
    """Self Forcing's `uniform_timestep=False`: a noisy history holds pasts less noisy than the chunk, too."""
    chunks = ode_times(history)[:, ::CHUNK]
    assert torch.equal(chunks.repeat_interleave(CHUNK, 1), ode_times(history))  # one level inside a chunk
    assert all(len(set(clip.tolist())) > 1 for clip in chunks)
    steps = chunks.diff(dim=1)
    assert (steps > 0).any() and (steps < 0).any()


@pytest.mark.parametrize("history", ode.HISTORIES)
def test_one_level_a_clip_is_asked_for_by_name(history):
    times = ode_times(history, "clip")
    assert all(len(set(clip.tolist())) == 1 for clip in times) and len(set(times[:, 0].tolist())) > 1


def test_all_kept_levels_are_drawn_by_chunks():
    config = presets.ode("toy", "bidirectional")
    assert config.levels == "chunk" and set(ode_times("noisy").flatten().tolist()) == set(config.pairs.times().float().tolist())


@pytest.mark.parametrize("config", [presets.ode("smoke"), presets.consistency("smoke")], ids=["ode", "consistency"])
def test_an_unknown_drawing_is_refused(config):
    with pytest.raises(CinelabError, match="levels is 'film'; use one of chunk, clip"):
        replace(config, levels="film")


# Stage 2b: the grid


def consistency_times(**changes):
    """The upper and lower times that 200 steps of consistency distillation ask for, and the grid."""
    config = replace(presets.consistency("smoke"), frames=FRAMES, chunk=CHUNK, grid=(6,), guidance=1.0, bf16=False, **changes)
    clips, grid, uppers, lowers = Fake().clips(1, FRAMES, rng_at(0)), consistency.grid_at(config, 0), [], []
    frozen = Ema(torch.nn.Linear(1, 1), 0.9)
    for step in range(60):
        seen = Seen()
        seen.encode_text = lambda text: text
        frozen.worn = lambda model: torch.no_grad()
        consistency.loss(seen, frozen, seen, clips, grid, config, (FULL, False), rng_at(step))
        uppers.append(seen.times[-1]), lowers.append(seen.times[-2])
    return torch.cat(uppers), torch.cat(lowers), grid


def test_the_papers_consistency_draws_one_level_a_clip_and_leaves_out_the_last_interval():
    upper, lower, grid = consistency_times(levels="clip", last_interval=False)
    assert all(len(set(clip.tolist())) == 1 for clip in upper)
    assert set(upper.flatten().tolist()) == set(grid[:-2].tolist()) and lower.min() == grid[-2] > 0


def test_the_toyboxs_consistency_draws_a_level_a_chunk_from_the_whole_grid():
    upper, lower, grid = consistency_times()
    assert any(len(set(clip.tolist())) > 1 for clip in upper)
    assert set(upper.flatten().tolist()) == set(grid[:-1].tolist()) and lower.min() == grid[-1] == 0
