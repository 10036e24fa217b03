"""Many processes as one trainer: which micro-batches of a step each does, and how a model is
sharded among them. This is the training loop's `Processes` (see `cinelab.train.loop`) for many.

A step's batch is made of micro-batches, each drawn by its own number. The processes share them out
and average the gradients, so that a step is the same in any number of processes, and a smaller
machine does more of them one after another.

    parallel = Parallel.join(Layout(micro_batches=8))   under torchrun; `here` is one process
    model = parallel.shard(model)                       torch FSDP2: every block, then the rest
"""

import os
import select
import signal
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.utils.checkpoint import checkpoint

from cinelab.devices import chosen_device, device_of_rank
from cinelab.errors import CinelabError
from cinelab.readable import Readable
from cinelab.scale.sequence import Sequence as SequenceGroup

# the views are keys and values, which nothing changes in place
warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")


# in the environment: standard input ends when whoever started the training does
WATCHED = "CINELAB_WATCHED"


@dataclass(frozen=True)
class Layout:
    """How a step is divided and what is traded for memory."""

    # of a step, shared out among the processes
    micro_batches: int = field(default=1, metadata={"was": "parts"})
    sequence: int = 1  # processes that share the tokens of one clip
    # store a block's input only, and compute the block again in the backward pass
    activation_checkpointing: bool = field(default=False, metadata={"was": "recompute"})
    reshard: bool = True  # free a block's gathered weights after its forward pass
    # reduce gradients once a step, not once a micro-batch: less traffic, but whole gradients in
    # memory
    defer: bool = False

    def __post_init__(self):
        for name in ("micro_batches", "sequence"):
            if getattr(self, name) < 1:
                raise CinelabError(f"layout.{name} is {getattr(self, name)}; at least 1 is needed.")


@dataclass(frozen=True)
class Parallel(Readable):
    """One process among `world`. With one, everything here does nothing."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"
    layout: Layout = Layout()
    mesh: DeviceMesh | None = None
    group: Any = None  # of the processes that share my clip
    stops: list[int] = field(default_factory=list, compare=False)  # signals to end that have come

    def __post_init__(self):
        micro_batches = self.layout.micro_batches
        sequence = self.layout.sequence
        if self.world % sequence:
            raise CinelabError(
                f"layout.sequence is {sequence}, which does not divide the {self.world} processes; "
                "start another number of processes or change it."
            )
        if micro_batches % self.teams:
            raise CinelabError(
                f"layout.micro_batches is {micro_batches}, which {self.teams} processes (or groups "
                "of them) do not divide; give a multiple, or start fewer processes."
            )

    @classmethod
    def here(cls, layout: Layout = Layout(), device: str = "cpu") -> "Parallel":
        """Return this process alone."""
        return cls(device=device, layout=layout)

    @classmethod
    def join(cls, layout: Layout = Layout()) -> "Parallel":
        """Return one of torchrun's processes: NCCL where there are GPUs, gloo where there are
        none."""
        world = int(os.environ.get("WORLD_SIZE", 1))
        local = int(os.environ.get("LOCAL_RANK", 0))
        device = chosen_device() if world == 1 else device_of_rank(local)
        cuda = device.startswith("cuda")
        if cuda and world > 1:
            torch.cuda.set_device(device)
        if world == 1:
            return cls.here(layout, device)
        rank = int(os.environ["RANK"])
        cls(rank, world, device, layout)  # refuse a bad layout before anybody waits for anybody
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
        mesh = init_device_mesh("cuda" if cuda else "cpu", (world,))
        return cls(rank, world, device, layout, mesh, _team(rank, world, layout.sequence))

    def with_layout(self, layout: Layout) -> "Parallel":
        """Return the same processes, dividing their work in another way."""
        return replace(self, layout=layout, group=_team(self.rank, self.world, layout.sequence))

    def leave(self) -> None:
        """End the process group, if there is one."""
        if self.world > 1:
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    @property
    def teams(self) -> int:
        """How many clips are worked on at a time."""
        return self.world // self.layout.sequence

    @property
    def micro_batches(self) -> range:
        """The numbers of a step's micro-batches that this process does."""
        first = self.rank // self.layout.sequence
        return range(first, self.layout.micro_batches, self.teams)

    def shard(self, model: Any, *, bf16: bool = True) -> Any:
        """Return `model` (a backbone with `blocks`, in place) on this process's device, sharded
        over all processes, computing as the layout says.

        On GPUs weights are gathered as bf16 and gradients reduced in fp32 if `bf16`; on a CPU
        autocast does the rounding.
        """
        if self.layout.activation_checkpointing:
            for block in model.blocks:
                block.forward = partial(
                    checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False
                )
        if self.layout.sequence > 1:
            SequenceGroup(self.group, self.layout.sequence).join(model)
        if self.world == 1:
            meta = next(model.parameters()).is_meta
            return model if meta else model.to(self.device)
        # t and the path stay fp32
        half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        how: dict[str, Any] = {"mesh": self.mesh, "reshard_after_forward": self.layout.reshard}
        how |= {"mp_policy": half} if bf16 and self.device != "cpu" else {}
        for block in model.blocks:
            fully_shard(block, **how)
            register_fsdp_forward_method(block, "key_value")
        # the root too: its weights change between passes
        fully_shard(model, **how | {"reshard_after_forward": True})
        register_fsdp_forward_method(model, "encode_text")
        return model

    def before_backward(self, model: nn.Module, *, last: bool) -> None:
        """Tell FSDP whether a micro-batch is this process's last of the step."""
        if isinstance(model, FSDPModule):
            model.set_is_last_backward(last)
            model.set_requires_gradient_sync(last or not self.layout.defer)

    def mean(self, values: Sequence[float]) -> list[float]:
        """Return the mean over all processes of each of some numbers."""
        if self.world == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums)
        return (sums / self.world).tolist()

    def mean_of_columns(self, columns: Sequence[dict]) -> dict:
        """Return the columns of all micro-batches as one row: floats as their mean, the rest as it
        is in the first."""
        row = dict(columns[0])
        # one process may have left them on its device, as tensors
        names = [name for name, value in row.items() if isinstance(value, float | Tensor)]
        means = self.mean([sum(one[name] for one in columns) / len(columns) for name in names])
        return row | dict(zip(names, means, strict=True))

    def once(self, do: Callable[[], Any]) -> Any:
        """Let the first process `do` something: all get its answer, or its refusal."""
        if self.world == 1:
            return do()
        answer: list = [None, None]
        if self.first:
            try:
                answer[0] = do()
            except CinelabError as error:
                answer[1] = str(error)
        dist.broadcast_object_list(answer)
        if answer[1] is not None:
            raise CinelabError(answer[1])
        return answer[0]

    def all(self, do: Callable[[], Any]) -> list:
        """Let every process `do` something: all get the answers of all, or the first refusal."""
        if self.world == 1:
            return [do()]
        mine: list = [None, None]
        try:
            mine[0] = do()
        except CinelabError as error:
            mine[1] = str(error)
        answers: list = [None] * self.world
        dist.all_gather_object(answers, mine)
        if refused := next((why for _, why in answers if why is not None), None):
            raise CinelabError(refused)
        return [answer for answer, _ in answers]

    def listen(self) -> None:
        """Let SIGTERM and SIGINT end the training with a save from now on, and the end of the
        process that started it too, where that gave this one a pipe (see
        `cinelab.lab.training.launch`)."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda got, _: self.stops.append(got))
        if os.environ.get(WATCHED):
            threading.Thread(target=self._stop_with_starter, daemon=True).start()

    def _stop_with_starter(self) -> None:
        poll = select.poll()
        poll.register(0, 0)  # hanging up alone: nothing is ever written there
        poll.poll()
        self.stops.append(signal.SIGHUP)

    def stop_requested(self) -> bool:
        """Whether any process has had a signal to end; the same answer in all."""
        return self.any(bool(self.stops))

    def any(self, flag: bool, /) -> bool:
        """Whether the flag is set in any process; the same answer in all."""
        return self.mean([float(flag)])[0] > 0


def _team(rank: int, world: int, size: int) -> Any:
    """The process group of the `size` neighbours that share a clip."""
    teams = (
        [dist.new_group(list(range(start, start + size))) for start in range(0, world, size)]
        if size > 1
        else []
    )
    return teams[rank // size] if teams else None
