"""Fusion: what torch.compile makes of a function, counted without compiling it.

The operations of a compiled function are collected and grouped as inductor groups them. A product,
a convolution or an attention stays a kernel of its own. Of all others a result is written to memory
only where it must be: it leaves the function, a kernel of its own reads it, or it is a reduction.
What is written nowhere is computed again where it is read. A reduction and what is made of it, with
no kernel of its own between them, are one kernel.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from cinelab.readable import Readable
from cinelab.scale.ledger_ops import Op, gpu_tensors, precision_of, tensor_bytes

ALONE = ("self attention", "cross attention", "product", "host", "other")
REDUCING = ("norm", "reduction")
Place = int  # a storage


@dataclass(eq=False)
class TracedOp(Readable):
    """One operation with the tensors that it reads and writes."""

    op: Op
    reads: Sequence[Tensor]
    writes: Sequence[Tensor]
    depth: int = 0  # kernels of their own on the longest way to it
    alone: bool = False
    # what it reads of memory, once what is computed again has been put into it
    sources: dict[Place, int] = field(default_factory=dict)


class Region:
    """The operations of one compiled function, in order; `fused` gives its kernels.

    The region holds all tensors of the function, so that no storage takes another's place.
    """

    def __init__(self) -> None:
        self.nodes: list[TracedOp] = []

    def add(self, op: Op, reads: Iterable[Tensor], writes: Iterable[Tensor]) -> None:
        """Take in the next operation."""
        self.nodes.append(TracedOp(op, list(reads), list(writes), alone=op.kind in ALONE))

    def fused(self, out: Any) -> list[Op]:
        """Return the kernels of the function, whose result is `out`."""
        makers = self._makers()
        stored = self._stored(gpu_tensors(tree_leaves(out)))
        self._trace(makers, stored)
        groups = self._groups(makers, stored)
        used = self._used(groups, gpu_tensors(tree_leaves(out)))
        return [_kernel(members, used) for members in groups]

    def _makers(self) -> dict[Place, TracedOp]:
        """Return which operation made each storage; of several that wrote to it, the last."""
        return {_place(x): node for node in self.nodes for x in node.writes}

    def _stored(self, results: Sequence[Tensor]) -> set[Place]:
        """Return the storages that are written to memory."""
        found = {_place(x) for x in results}
        made: set[Place] = set()
        for node in self.nodes:
            if node.alone:
                found |= {_place(x) for x in (*node.reads, *node.writes)}
            written = {_place(x) for x in node.writes}
            if node.op.kind in REDUCING:
                found |= written
            known = {_place(x) for x in node.reads}
            found |= written & known - made  # in place, on what was there before
            made |= written
        return found

    def _trace(self, makers: dict[Place, TracedOp], stored: set[Place]) -> None:
        """Find each node's depth, and what it reads of memory."""
        for node in self.nodes:
            for x in node.reads:
                maker = makers.get(_place(x))
                before = maker if maker is not node else None
                if before is not None:
                    node.depth = max(node.depth, before.depth)
                if before is None or _place(x) in stored:
                    _read(node.sources, x)
                else:
                    node.sources |= before.sources
            node.depth += node.alone

    def _groups(self, makers: dict[Place, TracedOp], stored: set[Place]) -> list[list[TracedOp]]:
        """Return the nodes that write to memory, those of one kernel together."""
        groups: list[list[TracedOp]] = []
        for node in self.nodes:
            if not any(_place(x) in stored for x in node.writes):
                continue
            near = [makers[place] for place in node.sources if place in makers]
            joined = [
                group
                for group in groups
                if not node.alone
                and any(one in near and not one.alone and one.depth == node.depth for one in group)
            ]
            groups = [group for group in groups if group not in joined]
            groups.append([one for group in joined for one in group] + [node])
        return groups

    def _used(self, groups: list[list[TracedOp]], results: Sequence[Tensor]) -> set[Place]:
        """Return the storages that somebody reads after the kernel that writes them."""
        found = {_place(x) for x in results}
        for group in groups:
            own = {_place(x) for node in group for x in node.writes}
            found |= {place for node in group for place in node.sources} - own
        return found


def _kernel(members: Sequence[TracedOp], used: set[Place]) -> Op:
    """Return the one operation that a group of nodes is."""
    if members[0].alone:
        return replace(members[0].op, compiled=True)
    own = {_place(x): x for node in members for x in node.writes}
    sources: dict[Place, int] = defaultdict(int)
    for node in members:
        for place, size in node.sources.items():
            sources[place] = max(sources[place], size)
    read = sum(size for place, size in sources.items() if place not in own)
    written = sum(tensor_bytes(x) for place, x in own.items() if place in used)
    precision = precision_of(list(own.values()))
    fused = Op("elementwise", "fused", precision, launches=1, compiled=True)
    return replace(fused, read=read, written=written)


def _read(sources: dict[Place, int], x: Tensor) -> None:
    """Add a tensor to what is read of its storage, which is read once at most."""
    place = _place(x)
    sources[place] = min(sources.get(place, 0) + tensor_bytes(x), x.untyped_storage().nbytes())


def _place(x: Tensor) -> Place:
    return x.untyped_storage()._cdata
