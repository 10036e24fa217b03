"""What one operation costs a GPU: arithmetic, bytes, kernel launches, and traffic with the host.

The shapes alone decide, so tensors on the `meta` device are enough. A view costs nothing.

    B batch   h heads   T queries   S keys   d head size
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

KINDS = (
    "self attention",
    "cross attention",
    "product",
    "gather",
    "concatenation",
    "copy",
    "elementwise",
    "norm",
    "reduction",
    "host",
    "other",
)
PRODUCTS = {
    "cinelab::linear_gelu",
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "_scaled_mm",
    "convolution",
    "convolution_backward",
}
GATHERS = {"index", "index_select", "gather", "embedding", "index_put_", "index_put", "index_copy_"}
GATHERS |= {"scatter", "scatter_", "index_add"}
CONCATENATIONS = {"cat", "stack"}
COPIES = {
    "_to_copy",
    "clone",
    "copy_",
    "copy",
    "repeat",
    "_foreach_copy_",
    "slice_backward",
    "select_backward",
}
NORMS = {"native_layer_norm", "native_layer_norm_backward", "_fused_rms_norm", "native_group_norm"}
NORMS |= {"rms_norm", "rms_norm_backward", "_fused_rms_norm_backward"}
REDUCTIONS = {"sum", "mean", "amax", "amin", "max", "min", "topk", "sort", "_softmax", "cumsum"}
REDUCTIONS |= {"_adaptive_avg_pool2d", "any", "all", "argmax", "linalg_vector_norm", "var_mean"}
REDUCTIONS |= {"_softmax_backward_data", "_adaptive_avg_pool2d_backward", "_unique2", "nonzero"}
OTHERS = {"randn", "rand", "normal_", "bernoulli_", "uniform_", "_fused_adamw_"}
# they reserve memory, or look at what is there, and launch nothing
FREE = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "detach", "alias"}
FREE |= {"lift_fresh", "_unsafe_view", "_reshape_alias", "resize_", "set_", "is_same_size"}
# kernels of an operation that torch launches several for: copies of the operands, fills
SEVERAL = {
    "slice_backward": 2,
    "select_backward": 2,
    "topk": 2,
    "sort": 3,
    "cumsum": 1,
    "_adaptive_avg_pool2d": 2,
    "convolution_backward": 3,
}
# attention (B, T, h, d) in eight bits, by packages: the operator, and in what it multiplies
EIGHT_BITS = {"cinelab::sage_attention": "int8", "cinelab::flash3_fp8_attention": "float8_e4m3fn"}
SPLIT = 16_384
# what an operation that writes into an argument does not read of it
OVERWRITING = {"copy_", "fill_", "zero_", "normal_", "uniform_", "bernoulli_"}


@dataclass(frozen=True, order=True)
class Op:
    """One operation on a GPU, or one crossing between host and GPU.

    precision  of its operands, such as bfloat16
    flops      a multiplication and an addition count as two
    read       bytes of all operands, each once; what is broadcast counts once
    written    bytes
    tiles      of 128 x 128 outputs of a product, or of 128 queries of an attention; 0 for others
    scattered  whether rows are read or written out of order
    crossing   bytes that cross PCIe; `to_host` says in which direction
    waits      whether the host waits until the GPU has done all that was asked of it
    compiled   whether torch.compile launches it
    """

    kind: str
    name: str
    precision: str = ""
    flops: int = 0
    read: int = 0
    written: int = 0
    launches: int = 0
    tiles: int = 0
    scattered: bool = False
    crossing: int = 0
    to_host: bool = False
    waits: bool = False
    compiled: bool = False

    @property
    def bytes(self) -> int:
        """The bytes read and written."""
        return self.read + self.written


def tensor_bytes(x: Tensor) -> int:
    """Return the bytes of a tensor that differ from each other in place: what is expanded counts
    once."""
    count = 1
    for size, stride in zip(x.shape, x.stride(), strict=True):
        count *= size if stride or size < 2 else 1
    return count * x.element_size()


def op_of(func: Any, args: Any, kwargs: Any, out: Any, *, words: int = 0) -> Op | None:
    """Return what an operator of torch costs; None for a view, or one that launches nothing. A
    prompt has `words` keys."""
    name = func._schema.name.removeprefix("aten::")
    if func.is_view or name in FREE:
        return None
    if name.startswith("_scaled_dot_product_") or name in EIGHT_BITS:
        return _attention_of(name, args, words)
    ins = on_device(tree_leaves((args, kwargs)))
    # what works on lists of tensors in place returns nothing
    outs = on_device(tree_leaves(args[0] if out is None else out))
    if not any(x.numel() for x in (*ins, *outs)):
        return None
    changed = [x for x in outs if any(x is one for one in ins)]
    read = sum(tensor_bytes(x) for x in ins if not any(x is one for one in changed))
    if changed and name not in OVERWRITING and func._overloadname != "out":
        read += sum(map(tensor_bytes, changed))
    written = sum(map(tensor_bytes, outs))
    if name in ("index", "index_select", "gather", "embedding"):
        read = written  # not of what is passed over
    return Op(
        op_kind(name),
        name,
        precision_of(ins or outs),
        flops_of(func, args, kwargs, out),
        read,
        written,
        SEVERAL.get(name, 1),
        tiles_of(outs[0], ins) if name in PRODUCTS and outs else 0,
        op_kind(name) == "gather" or name == "cat" and not all(map(Tensor.is_contiguous, ins)),
    )


def _attention_of(name: str, args: Any, words: int) -> Op:
    """Return a fused attention that is an operator of its own: torch's, or one in eight bits."""
    if name in EIGHT_BITS:
        q, k, v = (x.transpose(1, 2) for x in args[:3])
        return replace(attention_op(q, k, v, words=words), precision=EIGHT_BITS[name])
    backward = name.endswith("_backward")
    q, k, v = args[1:4] if backward else args[:3]
    return attention_op(q, k, v, words=words, backward=backward)


def op_kind(name: str) -> str:
    """Return the kind of an operator by its name."""
    groups = {
        "product": PRODUCTS,
        "gather": GATHERS,
        "concatenation": CONCATENATIONS,
        "copy": COPIES,
        "norm": NORMS,
        "reduction": REDUCTIONS,
        "other": OTHERS,
    }
    return next((kind for kind, names in groups.items() if name in names), "elementwise")


def flops_of(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    """Return the operations of a product or convolution, by torch's own formulas; 0 for others."""
    formula = flop_registry.get(func._overloadpacket)
    return int(formula(*args, **kwargs, out_val=out)) if formula else 0


def tiles_of(out: Tensor, ins: Sequence[Tensor]) -> int:
    """Return how many tiles of 128 x 128 cover a product's output (..., rows, columns), or a
    convolution's (B, channels, ...).

    A product whose sums are longer than SPLIT, such as a weight's gradient, is cut along them too.
    """
    if out.ndim > 3:
        rows = out.numel() // out.shape[1]
        columns = out.shape[1]
        batches = 1
    else:
        rows, columns = out.shape[-2:]
        summed = ins[-2].shape[-1]  # of the first of the two factors
        batches = out.numel() // (rows * columns) * max(1, summed // SPLIT)
    return batches * -(-rows // 128) * -(-columns // 128)


def precision_of(tensors: Sequence[Tensor]) -> str:
    """Return the precision of the largest operand."""
    largest = max(tensors, key=lambda x: x.numel())
    return str(largest.dtype).removeprefix("torch.")


def on_device(leaves: Sequence[Any]) -> list[Tensor]:
    """Return the tensors that stand for a GPU's."""
    return [x for x in leaves if isinstance(x, Tensor) and x.is_meta]


def attention_op(q: Tensor, k: Tensor, v: Tensor, *, words: int, backward: bool = False) -> Op:
    """Return one fused attention of q (B, h, T, d) over k, v (B, h, S, d), or its backward, which
    multiplies five times where forward multiplies twice.

    It is cross-attention where the keys are the `words` of a prompt.
    """
    batch, heads, queries, size = q.shape
    forward = 4 * batch * heads * queries * k.shape[2] * size
    inputs = sum(map(tensor_bytes, (q, k, v)))
    return Op(
        "cross attention" if k.shape[2] == words else "self attention",
        "attention backward" if backward else "attention",
        precision_of([q]),
        forward * 5 // 2 if backward else forward,
        inputs + 2 * tensor_bytes(q) if backward else inputs,
        inputs if backward else tensor_bytes(q),
        3 if backward else 1,
        batch * heads * -(-queries // 128),
    )


def norm_op(x: Tensor, *, backward: bool = False) -> Op:
    """Return one RMS norm of x (..., D) in a kernel of its own, or its backward."""
    name = "rms_norm_backward" if backward else "rms_norm"
    size = tensor_bytes(x)
    launches = 2 if backward else 1
    return Op("norm", name, precision_of([x]), 0, size * launches, size, launches)


def upload(x: Tensor, *, waits: bool) -> Op:
    """Return a copy of a host tensor to the GPU."""
    return Op("host", "upload", launches=1, written=x.nbytes, crossing=x.nbytes, waits=waits)


def download(name: str, count: int, *, waits: bool = True) -> Op:
    """Return a copy of `count` bytes to the host."""
    return Op("host", name, launches=1, read=count, crossing=count, to_host=True, waits=waits)
