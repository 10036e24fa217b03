"""A training step of the toybox's stage 1 on `meta` tensors, for the ledger: forward, backward,
clipping, AdamW and EMA, by the training loop's own code.

    predict_seconds(step_counts(256, 24), card_named("H100"))
"""

from dataclasses import replace

import torch

from cinelab.bench.true_size import DEVICE, shallow_and_deep
from cinelab.latent.store import Clips
from cinelab.memory.context import FULL_HISTORY
from cinelab.model.wan import CausalWan
from cinelab.scale.ledger import Counts, Trace
from cinelab.scale.ledger_mode import OpRecording
from cinelab.train import teacher_forcing
from cinelab.train.loop import Launching, Learner, OneProcess, optimization_step
from cinelab.train.stage import stage_named

GRID = (6, 8)  # of the toybox's latents
PROMPTS = 4  # of a clip, the empty one included
WORDS = 12  # of a prompt


def step_counts(clips: int, frames: int) -> Counts:
    """Return the counts of one step on so many clips of so many latent frames, in bfloat16 by
    autocast, with full memory."""
    layers = stage_named("teacher_forcing").preset("toy").model.num_layers
    return Counts(*shallow_and_deep(lambda few: step_trace(clips, frames, layers=few)), layers)


def step_trace(clips: int, frames: int, *, layers: int) -> Trace:
    """Return the trace of the second step, which has an optimizer with its moments."""
    toy = stage_named("teacher_forcing").preset("toy")
    config = replace(toy, curriculum=(frames,), model=replace(toy.model, num_layers=layers))
    batch = meta_clips(clips, frames, config.model.in_channels, config.model.text_dim)
    with torch.device(DEVICE):
        model = CausalWan(config.model)

    def loss(net, step, micro_batch, rng):
        return teacher_forcing.loss(net, batch, config, FULL_HISTORY, rng), {}

    learner = Learner(model, loss, config.optim)
    for group in learner.optimizer.param_groups:
        group.update(foreach=True, fused=False)  # as on a GPU
    how = Launching(OneProcess(), late=True)
    with OpRecording(WORDS) as recording:
        optimization_step(learner, 0, config, how)
        recording.events.clear()
        optimization_step(learner, 1, config, how)
    return Trace(recording.ops, tuple(recording.events))


def meta_clips(clips: int, frames: int, channels: int, text: int) -> Clips:
    """Return clips of the toybox's shapes without numbers."""
    slots = torch.zeros(clips, frames, dtype=torch.long, device=DEVICE)
    return Clips(
        torch.empty(clips, frames, channels, *GRID, device=DEVICE),
        torch.empty(clips, PROMPTS, WORDS, text, device=DEVICE),
        slots,
        slots,
    )
