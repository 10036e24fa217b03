"""A pretended GPU: tensors that compute on the CPU and say that they stand on another device.

    install()                  once in a process; then torch knows the device "pretend"
    x.to("pretend")            a tensor there, which refuses one of the CPU as one of CUDA does

Whatever would fail on a machine with a GPU for want of a `.to(...)` or a `.cpu()` fails here too.
`synchronisations` counts what would make the host wait for the device.
"""

from typing import Any

import torch
import torch.utils.backend_registration as backends
from torch.utils._device import _device_constructors
from torch.utils._pytree import tree_leaves, tree_map

NAME = "pretend"
BRIDGES = {"copy_", "_to_copy", "set_"}  # operations that take tensors of two devices
# these take indices of the CPU, which CUDA copies while the host waits
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}
# what autocast computes in half precision
HALF = ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "conv1d", "conv2d", "conv3d")
synchronisations: list[str] = []
_registered: list[torch.library.Library] = []


class PretendTensor(torch.Tensor):
    """A tensor that says it is on the pretended device; `inner` is its content, on the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "PretendTensor":
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=torch.device(NAME, 0),
        )

    def __init__(self, inner: torch.Tensor):
        self.inner = inner

    def __repr__(self) -> str:
        return f"PretendTensor({self.inner})"

    def tolist(self) -> Any:
        synchronisations.append("tolist")
        return self.inner.tolist()

    def __reduce_ex__(self, protocol: int) -> Any:
        return self.inner.__reduce_ex__(protocol)  # as a file's tensor that is read on the CPU

    def __getitem__(self, index: Any) -> torch.Tensor:
        return super().__getitem__(_placed(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_placed(index), value)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


class Module(backends._DummyBackendModule):
    """What torch asks of a device's module."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


def _placed(index: Any) -> Any:
    """An index whose lists are tensors of the device: torch moves them past the dispatcher."""
    if isinstance(index, tuple):
        return tuple(map(_placed, index))
    return torch.tensor(index).to(NAME) if isinstance(index, list) else index


def install() -> None:
    """Make torch know the device "pretend"."""
    if _registered:
        return
    backends._setup_privateuseone_for_python_backend(NAME, backend_module=Module())
    every = torch.library.Library("_", "IMPL")
    every.fallback(lambda op, *args, **kwargs: compute(op, args, kwargs), "PrivateUse1")
    every.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    aten = torch.library.Library("aten", "IMPL")
    for name in HALF:
        packet = getattr(torch.ops.aten, name)
        aten.impl(name, in_half(packet), "AutocastPrivateUse1")
    _registered.extend([every, aten])
    # what `with torch.device(...)` places is looked up once, by the functions that they are now
    _device_constructors()
    # these two leave the dispatcher aside
    torch.tensor = _made_and_moved(torch.tensor)
    torch.as_tensor = _made_and_moved(torch.as_tensor)
    torch.empty = _unpinned(torch.empty)


def _made_and_moved(make: Any) -> Any:
    def call(*args, device=None, **kwargs):
        pretended = device is not None and torch.device(device).type == NAME
        found = make(*args, **kwargs | ({} if pretended else {"device": device}))
        return found.to(device) if pretended else found

    return call


def _unpinned(make: Any) -> Any:
    """Without a GPU no memory is pinned."""
    return lambda *args, pin_memory=False, **kwargs: make(*args, **kwargs)


def in_half(packet: Any) -> Any:
    """Return an operation that computes in autocast's precision."""
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def call(*args, **kwargs):
        kind = torch.get_autocast_dtype(NAME)
        with torch._C._ExcludeDispatchKeyGuard(key):
            args, kwargs = tree_map(
                lambda x: (
                    x.to(kind) if isinstance(x, torch.Tensor) and x.is_floating_point() else x
                ),
                (args, kwargs),
            )
            return packet(*args, **kwargs)

    return call


def compute(func: Any, args: tuple, kwargs: dict) -> Any:
    """Run an operation on the content of its tensors, and return tensors of the device that it says
    it computes on. RuntimeError where a GPU would raise one."""
    name = func.overloadpacket.__name__
    leaves = tree_leaves((args, kwargs))
    ours = [x for x in leaves if isinstance(x, PretendTensor)]
    _refuse_mixture(name, leaves, ours)
    stays = _stays(name, args, kwargs, ours)
    if name == "_local_scalar_dense" or (ours and not stays):
        synchronisations.append(name)
    given, named = tree_map(_content, (args, kwargs))
    out = func(*given, **named)
    if not stays:
        # a copy to the CPU is a new tensor
        return out.clone() if any(out is x.inner for x in ours) else out
    return tree_map(lambda x: _wrapped(x, ours), out)


def _refuse_mixture(name: str, leaves: list, ours: list) -> None:
    others = [
        x
        for x in leaves
        if isinstance(x, torch.Tensor) and not isinstance(x, PretendTensor) and x.dim()
    ]
    if ours and others and name in INDEXED and isinstance(leaves[0], PretendTensor):
        synchronisations.append(f"{name} by the host's numbers")
    elif ours and others and name not in BRIDGES:
        shapes = ", ".join(str(tuple(x.shape)) for x in others)
        raise RuntimeError(
            f"Expected all tensors to be on the same device: {name} has {shapes} of the CPU "
            "beside tensors of the pretended GPU"
        )


def _stays(name: str, args: tuple, kwargs: dict, ours: list) -> bool:
    """Return whether the result is on the pretended device."""
    if name == "copy_":
        return isinstance(args[0], PretendTensor)
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"]).type == NAME
    return bool(ours)


def _content(x: Any) -> Any:
    if isinstance(x, PretendTensor):
        return x.inner
    return torch.device("cpu") if isinstance(x, torch.device) and x.type == NAME else x


def _wrapped(x: Any, ours: list) -> Any:
    if not isinstance(x, torch.Tensor):
        return x
    # what is written in place is the tensor that it was
    written = [one for one in ours if one.inner is x]
    return written[0] if written else PretendTensor(x)
