"""The later levels of a chunk replayed as one CUDA graph: a pass costs one launch, not hundreds.

    level 1          eager: routes, and gathers what it retrieves into buffers
    levels 2, 3, ... the same operations on the same memory: captured once, then replayed
    clean pass       eager: it routes anew

What a replayed pass reads lies in memory that stays: the latents, timesteps, prompts and rotations
of every chunk are copied there, and a chunk's buffers are the former chunk's, handed on once that
one is finished. A graph is captured when two chunks in a row had the same shapes, so when the
budget is filled. Policies that attend to the KV store itself are not replayed, since their keys
move with every chunk; neither is a pass with gradients, or one that joins two chunks.

Law: equal to the plain way to the bit, for the operations are the same.
"""

import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from cinelab.flow.condition import Condition, TextKV
from cinelab.memory.open_chunk import OpenChunk
from cinelab.memory.passes import LaidOut
from cinelab.ops.attention import AttentionContext, attention
from cinelab.ops.rope import Rope
from cinelab.readable import Readable

Pass = Callable[[Tensor, Tensor, Condition, AttentionContext], Tensor]
# records a pass, and returns what runs it again and the tensor that it writes
Capture = Callable[[Callable[[], Tensor]], tuple[Callable[[], object], Tensor]]


@dataclass(frozen=True)
class LaidOutContext(Readable):
    """The attention context of a pass whose retrieved keys and values are laid out already."""

    laid: LaidOut

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rope: Rope) -> Tensor:
        """Return the heads' outputs (B, T, h, d) from unrotated q, k, v (B, T, h, d)."""
        keys, values = self.laid.buffers[layer]
        own = keys.shape[1] - k.shape[1]
        keys[:, own:] = rope.rotate(k, self.laid.freqs)
        values[:, own:] = v
        return attention(rope.rotate(q, self.laid.freqs), keys, values)


@dataclass
class Recording(Readable):
    """A captured pass: the memory that it reads, and how it is run again."""

    x: Tensor
    t: Tensor
    condition: Condition
    laid: LaidOut
    stays: bool = False  # two chunks in a row had these shapes
    replay: Callable[[], object] | None = None
    out: Tensor | None = None

    def takes(self, x: Tensor, condition: Condition, laid: LaidOut) -> bool:
        """Whether another chunk fits: it is laid out in this memory, and its prompts are alike."""
        same = laid.buffers.keys() == self.laid.buffers.keys() and all(
            one is other
            for layer, pair in laid.buffers.items()
            for one, other in zip(pair, self.laid.buffers[layer], strict=True)
        )
        shapes = [part.shape for part in _parts(condition)]
        return (
            same
            and x.shape == self.x.shape
            and shapes == [part.shape for part in _parts(self.condition)]
        )

    def hand_on(self, condition: Condition, laid: LaidOut) -> None:
        """Copy another chunk's prompts and rotations to where its later levels read them."""
        for own, new in zip(_parts(self.condition), _parts(condition), strict=True):
            own.copy_(new)
        self.laid.freqs.copy_(laid.freqs)
        self.stays = True

    def run(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the velocity of x at t, under the prompts that were handed on."""
        self.x.copy_(x)
        self.t.copy_(t)
        assert self.replay is not None and self.out is not None
        self.replay()
        return self.out.clone()


class ReplayedLevels:
    """A network's forward pass that replays the later levels of each chunk."""

    def __init__(self, forward: Pass, capture: Capture):
        self.forward = forward
        self.capture = capture
        self.recording: Recording | None = None
        self.owner: Callable[[], OpenChunk | None] = lambda: None  # whose buffers they are now
        self.length = 0  # of its cache, when it was opened

    def __call__(
        self, x: Tensor, t: Tensor, condition: Condition, context: AttentionContext
    ) -> Tensor:
        if not isinstance(context, OpenChunk) or torch.is_grad_enabled():
            return self.forward(x, t, condition, context)
        if context.recording or isinstance(condition.text, Tensor):
            return self.forward(x, t, condition, context)
        if context.laid_out() is None:
            return self._first_level(x, t, condition, context)
        recording = self.recording
        if recording is None or self.owner() is not context or not recording.stays:
            return self.forward(x, t, condition, context)
        if recording.replay is None:
            self._record(recording)
        return recording.run(x, t)

    def _first_level(
        self, x: Tensor, t: Tensor, condition: Condition, context: OpenChunk
    ) -> Tensor:
        """Return the eager pass that lays out the chunk: in the former chunk's buffers, where that
        one is finished and the shapes are the same."""
        if not self._free():
            return self.forward(x, t, condition, context)
        recording = self.recording
        if recording is not None:
            context.lay_out_in(recording.laid)
        v = self.forward(x, t, condition, context)
        laid = context.laid_out()
        if laid is None:
            return v
        if recording is not None and recording.takes(x, condition, laid):
            recording.hand_on(condition, laid)
        else:
            own = replace(laid, freqs=laid.freqs.clone())
            self.recording = Recording(x.clone(), t.clone(), _copied(condition), own)
        self.owner = weakref.ref(context)
        self.length = context.cache.length
        return v

    def _free(self) -> bool:
        """Whether no open chunk needs the buffers: theirs was appended, or is gone."""
        owner = self.owner()
        return owner is None or owner.cache.length > self.length

    def _record(self, recording: Recording) -> None:
        context = LaidOutContext(recording.laid)
        pass_again = functools.partial(
            self.forward, recording.x, recording.t, recording.condition, context
        )
        recording.replay, recording.out = self.capture(pass_again)


def _parts(condition: Condition) -> list[Tensor]:
    """Return all tensors of a condition whose prompts are encoded."""
    text = cast(TextKV, condition.text)
    return [
        *(part for pair in text for part in pair),
        condition.slot,
        *(condition.controls[name] for name in sorted(condition.controls)),
    ]


def _copied(condition: Condition) -> Condition:
    """Return a condition in memory of its own."""
    text = [(k.clone(), v.clone()) for k, v in cast(TextKV, condition.text)]
    controls = {name: x.clone() for name, x in condition.controls.items()}
    return Condition(text, condition.slot.clone(), controls)


def cuda_graph(run: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
    """Capture a pass as a CUDA graph, after one that compiles and allocates on a side stream."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # the decoder may be at work in a thread of its own meanwhile
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        out = run()
    return graph.replay, out


def replay_levels(model: nn.Module, capture: Capture = cuda_graph) -> nn.Module:
    """Return the model (in place) with the later levels of each chunk replayed."""
    forward: Any = model.forward
    model.forward = functools.wraps(forward)(ReplayedLevels(forward, capture))
    return model
