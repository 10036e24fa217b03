"""The file of a checkpoint: parts of a training by name, with a checksum of each of their tensors.

sealed_state   the state with its checksums, to be written
read_state     the same read again and compared
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cinelab.checksums import checksum_of
from cinelab.config import mapping
from cinelab.errors import CinelabError
from cinelab.limits import short
from cinelab.texts import check_regular

CHECKS = "blake2b"  # in a checkpoint: digests of its tensors by place, and at "" of all else


def save_pickle(value: Any, path: Path) -> None:
    """torch.save whose bytes do not depend on the file's name, which torch writes into the file
    that it names itself."""
    with open(path, "wb") as file:
        torch.save(value, file)


def read_state(path: Path, *, mapped: bool = False) -> dict:
    """What `Run.save` wrote; `mapped` = its tensors stay on the disk until they are used, and
    `whole_part` checks them then."""
    check_regular(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        raise CinelabError(
            f"Checkpoint {path} cannot be read ({type(error).__name__}); {_remedy(path)}"
        ) from error
    state = mapping(state, f"Checkpoint {path}", _remedy(path).rstrip("."), step=int, parts=dict)
    if CHECKS in state and dict(state[CHECKS]).get("") != _digest_of_rest(state):
        raise CinelabError(
            f"Checkpoint {path} has changed since it was written (its step, names or numbers); "
            f"{_remedy(path)}"
        )
    if not mapped:
        for name in state["parts"]:
            whole_part(state, name, path)
    return state


def part_of(state: dict, name: str, path: Path) -> Any:
    """A part of what `read_state` returned. Raises CinelabError where the checkpoint has none of
    that name."""
    if name not in state["parts"]:
        raise CinelabError(
            f"Checkpoint {path} holds no {name!r} ({short(list(state['parts']))}); {_remedy(path)}"
        )
    return state["parts"][name]


def whole_part(state: dict, name: str, path: Path) -> Any:
    """A part of a state, after every tensor of it was compared with its checksum. States of before
    there were any pass."""
    known = state.get(CHECKS) or {}
    for place, tensor in _tensors(part_of(state, name, path), name) if known else ():
        if known.get(place) != _digest(tensor):
            raise CinelabError(
                f"Checkpoint {path} has changed since it was written: {place} is another tensor; "
                f"{_remedy(path)}"
            )
    return part_of(state, name, path)


def sealed_state(state: dict) -> dict:
    """A state with the checksums of its tensors, and of all else in it."""
    found = {
        place: _digest(tensor)
        for name, part in state["parts"].items()
        for place, tensor in _tensors(part, name)
    }
    return state | {CHECKS: found | {"": _digest_of_rest(state)}}


def _tensors(value: Any, place: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested dictionaries and lists, by its place."""
    if isinstance(value, Tensor):
        yield place, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _tensors(item, f"{place}/{key}")
    elif isinstance(value, (list, tuple)):
        for key, item in enumerate(value):
            yield from _tensors(item, f"{place}/{key}")


def _digest(tensor: Tensor) -> str:
    flat = tensor.detach().contiguous().flatten().view(torch.uint8)
    kind = f"{tensor.dtype} {tuple(tensor.shape)}"
    return checksum_of(kind.encode(), flat.cpu().numpy().data)


def _digest_of_rest(state: dict) -> str:
    """Of all that is no tensor: names, steps, settings of an optimiser."""
    text = repr(_plain({key: value for key, value in state.items() if key != CHECKS}))
    return checksum_of(text.encode())


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return ""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _remedy(path: Path) -> str:
    best = path.parent / "best.pt"
    other = f", begin another run from {best}" if path.name != best.name and best.exists() else ""
    return f"copy it again{other}, or remove it to start this run afresh."
