"""Recording: real code runs on `meta` tensors, which have shapes and no numbers, and every
operation is written down as a GPU would have it.

    with OpRecording() as recording:
        net(x, t, condition, context)
    recording.ops, recording.events

Tensors on `meta` stand for a GPU's, tensors on the CPU are the host's. Where the code reads a
number back from the GPU, the recording hands it zeros and counts that the host waited.
"""

import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as fn
from torch import Tensor
from torch.fx.experimental import _config as config
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from cinelab.scale.ledger_fusion import Region
from cinelab.scale.ledger_memory import LiveBytes
from cinelab.scale.ledger_ops import (
    Op,
    attention_op,
    download,
    gpu_tensors,
    norm_op,
    op_kind,
    op_of,
    upload,
)

# the cause of what an operator of these kinds makes; of all others it is activations
CAUSES = {"gather": "laid out", "concatenation": "laid out"}
RESERVING = ("empty", "new_empty")  # buffers, which something is laid out in


# what autocast computes in bfloat16
AUTOCAST: tuple[Callable[..., Any], ...] = (
    fn.linear,
    fn.scaled_dot_product_attention,
    torch.matmul,
    torch.bmm,
    torch.einsum,
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
)


class OpRecording:
    """The operations of all that runs inside, in order: `events` are numbers of `ops`.

    words    keys of a call that is cross-attention: those of a prompt
    memory   what follows the live bytes, where they are wanted
    """

    def __init__(self, words: int = 512, memory: LiveBytes | None = None):
        self.words = words
        self.memory = memory
        self.numbers: dict[Op, int] = {}
        self.events: list[int] = []
        self.waited: Counter[str] = Counter()  # where the host waited: file and line
        self.half = False  # autocast is on
        self._halves = WeakTensorKeyDictionary()  # of weights
        self._region: Region | None = None
        self._stack = ExitStack()

    @property
    def ops(self) -> tuple[Op, ...]:
        """The operations that differ from each other, in the order of their first use."""
        return tuple(self.numbers)

    def add(self, op: Op, reads: Iterable[Tensor] = (), writes: Iterable[Tensor] = ()) -> None:
        """Write down one operation; inside a compiled function, with the tensors that it reads and
        writes."""
        if op.waits:
            self.waited[_caller()] += 1
        if self._region is not None:
            self._region.add(op, reads, writes)
        else:
            self.events.append(self.numbers.setdefault(op, len(self.numbers)))

    def cast(self, x: Any) -> Any:
        """Return a tensor in bfloat16, as autocast hands it to a product; of weights the copy is
        made once."""
        if not (isinstance(x, Tensor) and x.is_meta and x.dtype == torch.float32):
            return x
        if not (x.is_leaf and x.requires_grad):
            return x.to(torch.bfloat16)
        if x not in self._halves:
            self._halves[x] = x.to(torch.bfloat16)
        return self._halves[x]

    @contextmanager
    def autocast(self, device: str, *settings: Any, enabled: bool = True, **more: Any) -> Iterator:
        """Stand in for torch.autocast, which knows no `meta` tensors."""
        before = self.half
        self.half = enabled
        try:
            yield
        finally:
            self.half = before
            self._halves.clear()

    def see(self, tensors: Iterable[Any], cause: str) -> None:
        """Follow the storages of new tensors; what a compiled function makes on its way lies
        nowhere."""
        if self.memory is not None and self._region is None:
            self.memory.see(tensors, cause)

    def compiled(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run a function, and write down the kernels that torch.compile would make of it."""
        if self._region is not None:
            return function(*args, **kwargs)
        region = Region()
        self._region = region
        try:
            with patch.object(torch.compiler, "is_compiling", lambda: True):
                out = function(*args, **kwargs)
        finally:
            self._region = None
        for op in region.fused(out):
            self.add(op)
        self.see(tree_leaves(out), "activations")
        return out

    def __enter__(self) -> "OpRecording":
        self._stack.enter_context(_named(self))
        # some functions are compiled when they are first called
        self._stack.enter_context(counted_compilation())
        self._stack.enter_context(patch.object(torch, "autocast", self.autocast))
        self._stack.enter_context(patch.object(config, "meta_nonzero_assume_all_nonzero", True))
        self._stack.enter_context(_Calls(self))
        self._stack.enter_context(_Operators(self))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()


def _caller() -> str:
    """Return the line of the package that runs, outside of the ledger itself."""
    frames = reversed(traceback.extract_stack())
    own = (f for f in frames if "cinelab" in f.filename and "/ledger_" not in f.filename)
    found = next(own, None)
    return f"{Path(found.filename).name}:{found.lineno}" if found else "outside"


_recording: ContextVar[OpRecording | None] = ContextVar("recording", default=None)


@contextmanager
def _named(recording: OpRecording) -> Iterator[None]:
    """Make this the recording that compiled functions find."""
    before = _recording.set(recording)
    try:
        yield
    finally:
        _recording.reset(before)


@contextmanager
def counted_compilation() -> Iterator[None]:
    """Let torch.compile, inside, return functions that a recording counts as compiled ones."""

    def stand_in(function: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            recording = _recording.get()
            if recording is None:
                return function(*args, **kwargs)
            return recording.compiled(function, args, kwargs)

        return call

    with patch.object(torch, "compile", stand_in):
        yield


class _Calls(TorchFunctionMode):
    """Functions of torch that are one kernel on a GPU and several operators on `meta`."""

    def __init__(self, recording: OpRecording):
        super().__init__()
        self.recording = recording

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and torch.device(kwargs.get("device") or "cpu").type == "meta":
            made = func(*args, **kwargs)
            self.recording.add(upload(made, waits=True))
            return made
        if not args or not isinstance(args[0], Tensor) or not args[0].is_meta:
            return func(*args, **kwargs)
        if self.recording.half and func in AUTOCAST:
            args, kwargs = tree_map(self.recording.cast, (args, kwargs))
        if func is fn.scaled_dot_product_attention:
            return _Attention.apply(*args[:3], self.recording)
        if func in (fn.rms_norm, torch.rms_norm):
            weight = kwargs.get("weight", args[2] if len(args) > 2 else None)
            return _RmsNorm.apply(args[0], weight, self.recording)
        return func(*args, **kwargs)


class _Operators(TorchDispatchMode):
    """Every operator that reaches a device."""

    def __init__(self, recording: OpRecording):
        super().__init__()
        self.recording = recording

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False  # there is no GPU to pin memory for
        name = func._schema.name.removeprefix("aten::")
        answer = READ_BACK.get(name)
        if answer and gpu_tensors(tree_leaves(args)):
            return answer(self.recording, args, kwargs)
        if name in ("_to_copy", "copy_"):
            copied = self._crossing(name, args, kwargs)
            if copied is not None:
                return copied
        out = func(*args, **kwargs)
        made = tree_leaves(out)
        if gpu_tensors(made) or (out is None and gpu_tensors(tree_leaves(args))):
            self._write_down(func, args, kwargs, out)
        cause = "laid out" if name in RESERVING else CAUSES.get(op_kind(name), "activations")
        self.recording.see(made, cause)
        return out

    def _write_down(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Add an operator's uploads and its kernels."""
        hosts = [
            x
            for x in tree_leaves((args, kwargs))
            if isinstance(x, Tensor) and not x.is_meta and x.ndim
        ]
        waits = not _non_blocking(func._schema.name.removeprefix("aten::"), args, kwargs)
        for x in hosts:
            self.recording.add(upload(x, waits=waits))
        if func._schema.name in ("aten::index", "aten::index_put_") and _by_mask(args[1]):
            self.recording.add(download("nonzero", 8))
        copied = hosts and func._schema.name in ("aten::_to_copy", "aten::copy_")
        if not copied and (op := op_of(func, args, kwargs, out, words=self.recording.words)):
            ins = gpu_tensors(tree_leaves((args, kwargs)))
            self.recording.add(op, ins, gpu_tensors(tree_leaves(args[0] if out is None else out)))

    def _crossing(self, name: str, args: Any, kwargs: Any) -> Tensor | None:
        """Return a copy on the host of a tensor on the GPU, or None where that is not asked."""
        source = args[0] if name == "_to_copy" else args[1]
        target = kwargs.get("device") if name == "_to_copy" else args[0].device
        if not source.is_meta or target is None or torch.device(target).type == "meta":
            return None
        waits = not _non_blocking(name, args, kwargs)
        self.recording.add(download("download", source.nbytes, waits=waits))
        if name == "copy_":
            return args[0]
        return torch.zeros(source.shape, dtype=kwargs.get("dtype") or source.dtype)


def _by_mask(indices: Any) -> bool:
    """Return whether an index is a mask on the GPU, whose True values the host must count."""
    return any(x.dtype == torch.bool for x in gpu_tensors(list(indices)))


def _non_blocking(name: str, args: Any, kwargs: Any) -> bool:
    """Return whether a copy does not make the host wait, said by name or, in `copy_`, by place."""
    return bool(kwargs.get("non_blocking") or (name == "copy_" and args[2:3] == (True,)))


def _scalar(recording: OpRecording, args: Any, kwargs: Any) -> float | int | bool:
    """Answer `.item()`, `int(x)`, `bool(x)`: the host waits for one number."""
    x = args[0]
    recording.add(download("item", x.element_size()))
    return torch.zeros((), dtype=x.dtype).item()


def _same(recording: OpRecording, args: Any, kwargs: Any) -> bool:
    """Answer `torch.equal`."""
    recording.add(download("equal", 1))
    return True


def _all_of(recording: OpRecording, args: Any, kwargs: Any) -> Any:
    """Answer `nonzero` and a boolean index: as if all were True."""
    x = args[0]
    recording.add(download("nonzero", 8))
    return torch.empty((x.numel(), x.ndim), dtype=torch.long, device="meta")


def _all_differ(recording: OpRecording, args: Any, kwargs: Any) -> Any:
    """Answer `unique`: as if all differed."""
    x = args[0]
    recording.add(download("unique", 8))
    return x.flatten().clone(), x.new_empty(x.shape, dtype=torch.long), x.new_empty(0)


READ_BACK = {
    "_local_scalar_dense": _scalar,
    "equal": _same,
    "nonzero": _all_of,
    "_unique2": _all_differ,
}


class _Attention(torch.autograd.Function):
    """Fused attention on `meta`: one operation, and one in backward."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        q, k, v, recording = inputs
        ctx.recording = recording
        ctx.save_for_backward(q, k, v)
        out = torch.empty_like(q)
        recording.add(attention_op(q, k, v, words=recording.words), (q, k, v), (out,))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q, k, v = ctx.saved_tensors
        words = ctx.recording.words
        ctx.recording.add(attention_op(q, k, v, words=words, backward=True))
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), None


class _RmsNorm(torch.autograd.Function):
    """RMS norm on `meta`: one kernel, as on a GPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, recording: OpRecording) -> Tensor:
        ctx.recording = recording
        ctx.weight = weight
        ctx.save_for_backward(x)
        out = torch.empty_like(x)
        recording.add(norm_op(x), (x,), (out,))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        ctx.recording.add(norm_op(x, backward=True))
        weight = None if ctx.weight is None else torch.empty_like(ctx.weight)
        return torch.empty_like(x), weight, None
