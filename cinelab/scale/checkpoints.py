"""A run that several processes train: one of them writes the log, each writes its shard of the
state.

    checkpoints/step-000200/   torch.distributed.checkpoint: a file a process; any number of
                               processes can read it
    checkpoints/last.json      which of them is whole
    checkpoints/last.pt        the same state as one file, as a single process writes it

Either kind is resumed by any number of processes; the newer one counts, and the older one is
removed. last.json holds a checksum of every file of its folder, last.pt one of every tensor; they
are compared when a training is resumed or exported.
"""

import json
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from cinelab.checksums import checksum, read_sealed, write_sealed
from cinelab.errors import CinelabError
from cinelab.files import replacing
from cinelab.latent.checkpoint import as_dtype
from cinelab.runs import Run, take_threads
from cinelab.scale.parallel import Parallel
from cinelab.states import read_state, whole_part
from cinelab.weights.load import dtype_of

AT_ONCE = 2**30  # bytes that are read together
AFRESH = "copy the run's checkpoints again, or remove them to start it afresh"


class SharedRun(Run):
    """`Run` for every one of the processes; with one process it is a `Run` that also reads what
    several have saved."""

    def __init__(
        self, folder: str | Path, config: Any, parallel: Parallel, about: dict | None = None
    ):
        """`about` is stored with the settings, and refused like them where it is another on
        resume."""
        self.parallel = parallel
        self.device = parallel.device
        self.about = about or {}
        super().__init__(folder, config)

    def _check_config(self, new: dict) -> None:
        self.parallel.once(lambda: super(SharedRun, self)._check_config(new | self.about))

    def trains_on(self, data: dict | None) -> None:
        self.parallel.once(lambda: super(SharedRun, self).trains_on(data))

    def draws_at(self, wanted: str, here: str) -> str:
        place: str = self.parallel.once(lambda: super(SharedRun, self).draws_at(wanted, here))
        return place

    def claim(self) -> None:
        self.parallel.once(super().claim)

    def log(self, **row: Any) -> dict:
        return super().log(**row) if self.parallel.first else row

    def finish(self) -> None:
        self.parallel.once(super().finish)

    def save(self, step: int, **parts: Any) -> None:
        """Write the state after `step` finished steps: together, or alone as `Run` does."""
        if self.parallel.world == 1:
            super().save(step, **parts)
            return self._tidy(keep="last.pt")
        self.step = step
        name = f"step-{step:06d}"
        place = self.folder / "checkpoints" / name
        self.parallel.once(self._check_writer)
        self.parallel.once(lambda: shutil.rmtree(place, ignore_errors=True))
        dcp.save(_tree(parts), checkpoint_id=place)
        sums = self.parallel.all(lambda: {path.name: checksum(path) for path in self._share(place)})
        note = {
            "step": step,
            "seconds": self.wall,
            "folder": name,
            "blake2b": {k: v for part in sums for k, v in part.items()},
        }
        self.parallel.once(lambda: write_sealed(self.folder / "checkpoints" / "last.json", note))
        self.parallel.once(lambda: self._tidy(keep=name))

    def _share(self, place: Path) -> list[Path]:
        """Return the files of a state whose checksums this process makes and compares: every
        process has its own ones."""
        files = sorted(path for path in place.iterdir() if path.is_file())
        return files[self.parallel.rank :: self.parallel.world]

    def restore(self, **parts: Any) -> None:
        """Load every part from the newest state, whoever wrote it; else leave them as they are."""
        self.claim()
        take_threads()
        note = self.parallel.once(lambda: newest(self.folder))
        self.parallel.once(
            lambda: self._note_conditions(note["folder"] is not None, self.parallel.world)
        )
        if note["folder"] is None:
            return self.parallel.once(lambda: self._truncate_log(0))
        place = self.folder / "checkpoints" / note["folder"]
        if place.is_dir():
            self.parallel.all(lambda: _check_files(place, note, self._share(place)))
            tree = _tree(parts)
            _read(tree, place)
        else:
            state = read_state(place, mapped=True)
            tree = {
                name: _placed(part, whole_part(state, name, place)) for name, part in parts.items()
            }
        for name, part in parts.items():
            part.load_state_dict(tree[name])
        self.step = note["step"]
        self.seconds = note["seconds"]
        self._began = time.perf_counter()
        self.parallel.once(lambda: self._truncate_log(self.step))

    def _tidy(self, keep: str) -> None:
        """Remove every state but one."""
        for place in (self.folder / "checkpoints").iterdir():
            if place.is_dir() and place.name != keep:
                shutil.rmtree(place, ignore_errors=True)
            elif place.name == ("last.json" if keep == "last.pt" else "last.pt"):
                place.unlink()


def newest(folder: Path) -> dict:
    """Return step, seconds and name of a run's newest whole state; the name is None where there is
    none."""
    found: list[dict[str, Any]] = [{"step": 0, "seconds": 0.0, "folder": None}]
    note = Path(folder) / "checkpoints" / "last.json"
    single = Path(folder) / "checkpoints" / "last.pt"
    if note.exists():
        found.append(read_sealed(note, AFRESH, step=int, seconds=float, folder=str))
        if not (note.parent / found[-1]["folder"] / ".metadata").exists():
            raise CinelabError(
                f"{note} names the state {found[-1]['folder']}, which is not there or not whole; "
                "copy the run again, or remove its checkpoints to start it afresh."
            )
    if single.exists():
        state = read_state(single, mapped=True)
        found.append({"step": state["step"], "seconds": state["seconds"], "folder": "last.pt"})
    return max(found, key=lambda one: (one["step"], one["folder"] is not None))


def _check_files(place: Path, note: dict, files: Iterable[Path]) -> None:
    """Compare files of a state with their checksums; states of before there were any pass."""
    known = note.get("blake2b") or {}
    for path in files if known else ():
        if known.get(path.name) != checksum(path):
            raise CinelabError(
                f"State {place} has changed since it was written: {path.name} is another file; "
                f"{AFRESH}."
            )


def weights_in(folder: str | Path, part: str = "ema") -> Iterator[tuple[str, Tensor]]:
    """Yield name and tensor, one after another, of the averaged weights (or another part) of a
    run's newest state. About 1 GiB is in memory at a time, and no other process is needed."""
    shapes, read = _stored(Path(folder), part)
    batch: list[str] = []
    size = 0
    for name, like in shapes.items():
        batch.append(name)
        size += like.nbytes
        if size > AT_ONCE:
            yield from read(batch).items()
            batch = []
            size = 0
    yield from read(batch).items()


def _stored(
    folder: Path, part: str
) -> tuple[dict[str, Tensor], Callable[[list[str]], dict[str, Tensor]]]:
    """Return what a part of a run's newest state holds, as meta tensors by name, and a function
    that reads some of them."""
    note = newest(folder)
    if note["folder"] is None:
        raise CinelabError(f"Run {folder} has no checkpoint yet; train first.")
    place = folder / "checkpoints" / note["folder"]
    if not place.is_dir():
        whole = read_state(place, mapped=True)
        _check_part(part, whole["parts"], place)
        state = whole_part(whole, part, place)
        state = state.get("values", state)
        return {name: value.to("meta") for name, value in state.items()}, lambda names: {
            name: state[name] for name in names
        }
    _check_files(place, note, sorted(place.iterdir()))
    known: dict[str, Any] = dict(dcp.FileSystemReader(place).read_metadata().state_dict_metadata)
    head = f"{part}.values."
    head = head if any(name.startswith(head) for name in known) else f"{part}."
    _check_part(part, {name.partition(".")[0] for name in known}, place)
    shapes = {
        name.removeprefix(head): torch.empty(
            about.size, dtype=about.properties.dtype, device="meta"
        )
        for name, about in sorted(known.items())
        if name.startswith(head)
    }

    def read(names: list[str]) -> dict[str, Tensor]:
        values = {head + name: torch.empty_like(shapes[name], device="cpu") for name in names}
        _read(values, place, no_dist=True)
        return {name.removeprefix(head): value for name, value in values.items()}

    return shapes, read


def _check_part(part: str, parts: Iterable[str], place: Path) -> None:
    """Raise CinelabError unless `part` is one of the parts of a state."""
    if part not in parts:
        raise CinelabError(
            f"{place} has no part {part!r}; choose one of {', '.join(sorted(parts))}."
        )


def export(
    folder: str | Path, path: str | Path, part: str = "ema", dtype: torch.dtype | str = "bf16"
) -> Path:
    """Write a run's averaged weights (or another part) as one safetensors file, streamed; it is
    written whole or not at all.

    `dtype` is fp32, bf16 or fp16. Overflow names the first weight that is not finite, or that
    `dtype` cannot hold.
    """
    kinds = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
    if (kind := dtype_of(dtype)) is None:
        raise CinelabError("dtype is None; export as fp32, bf16 or fp16.")
    header = {}
    end = 0
    for name, like in _stored(Path(folder), part)[0].items():
        start, end = end, end + like.numel() * kind.itemsize
        header[name] = {
            "dtype": kinds[kind],
            "shape": list(like.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, value in weights_in(folder, part):
            file.write(
                as_dtype(value.detach(), kind, f"Run {folder}: {name}")
                .contiguous()
                .flatten()
                .view(torch.uint8)
                .numpy()
                .data
            )
    return Path(path)


def load_tensors(
    model: nn.Module, tensors: Iterator[tuple[str, Tensor]], where: str | Path, partly: bool = False
) -> nn.Module:
    """Fill `model`, sharded or not, from full tensors one after another: all of its weights
    (adapters apart) and nothing else; `partly` = whatever comes. A weight that has an adapter goes
    by its plain name too."""
    state = model.state_dict()
    places = state | {name.replace(".base_layer.", "."): value for name, value in state.items()}
    wanted = {name.replace(".base_layer.", ".") for name in state if ".lora_" not in name}
    named = set()
    odd = []
    for name, value in tensors:
        named.add(name)
        if name not in places:
            odd.append(f"{name} is unknown")
        elif places[name].shape != value.shape:
            odd.append(f"{name} is {tuple(value.shape)}, expected {tuple(places[name].shape)}")
        elif not places[name].is_meta:
            _copy(places[name], value)
    missing = [] if partly else [f"{name} is missing" for name in sorted(wanted - named)]
    if odd or missing:
        raise CinelabError(
            f"Weights {where} do not fit the model: {len(odd)} unknown or of another shape, "
            f"{len(missing)} missing (first: {(odd or missing)[0]}); give the weights of this "
            "architecture, or convert them."
        )
    return model


def _tree(parts: dict[str, Any]) -> dict:
    """Return the parts' states as nested dictionaries; an optimizer that has not stepped yet is
    given its zeros, so that there is something to read into."""
    for part in parts.values():
        if isinstance(part, torch.optim.Optimizer) and not part.state:
            for weight in (weight for group in part.param_groups for weight in group["params"]):
                zeros = {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")}
                part.state[weight] = {"step": torch.zeros(())} | zeros
    return {name: part.state_dict() for name, part in parts.items()}


def _read(tree: dict, place: Path, no_dist: bool = False) -> None:
    try:
        with warnings.catch_warnings(action="ignore"):  # of reading in one process, as intended
            dcp.load(tree, checkpoint_id=place, no_dist=no_dist)
    except (dcp.api.CheckpointException, RuntimeError, OSError, EOFError, ValueError) as error:
        raise CinelabError(
            f"State {place} cannot be read into this training ({type(error).__name__}): a file is "
            "missing or it is of another model; copy it again, or remove checkpoints to start "
            "afresh."
        ) from error


def _placed(part: Any, state: Any) -> Any:
    """Return a state of whole tensors as `part` holds it: this process's shards of them where it is
    sharded."""
    return _like(_tree({"part": part})["part"], state)


def _like(mine: Any, theirs: Any) -> Any:
    if isinstance(theirs, dict):
        return {key: _like(mine.get(key), value) for key, value in theirs.items()}
    if isinstance(mine, Tensor):
        _copy(mine, theirs)
        return mine
    return theirs


@torch.no_grad()
def _copy(mine: Tensor, theirs: Tensor) -> None:
    """Copy a full tensor into a tensor, or its part into this process's shard of one."""
    if isinstance(mine, DTensor):
        theirs = theirs.to(mine.dtype).to(mine.device)
        mine.copy_(distribute_tensor(theirs, mine.device_mesh, mine.placements, src_data_rank=None))
    else:
        mine.copy_(theirs)
