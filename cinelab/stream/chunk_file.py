"""A finished chunk on the disk: its latents, and which history every layer retrieved while it was
made.

A file holds `latents` (1, c, C, h, w) and, where anything was retrieved, `layers` (L,), `picks` and
`fixed` (L, 1, G, k), and `scores` of the same shape where pages competed: k retrieved pages for
each of G groups of heads. Its checksum is blake2b of the whole file.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from cinelab.checksums import checksum_of
from cinelab.errors import CinelabError, reason
from cinelab.files import write_atomic
from cinelab.texts import check_regular

REMEDY = "restore it, or branch from a chunk before it."


def write_chunk(path: Path, latents: Tensor, decisions: Iterable[dict] = ()) -> str:
    """Write a chunk, whole or not at all, and return its checksum. Raise CinelabError where it
    cannot be written."""
    data = save({"latents": latents.cpu().contiguous(), **_packed(list(decisions))})
    write_atomic(path, lambda to: to.write_bytes(data))
    return checksum_of(data)


def read_chunk(path: Path, known: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a chunk. Raise CinelabError where the file has not the checksum `known`
    (None: it was written before there were checksums), or holds no finite latents."""
    check_regular(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CinelabError(f"{path} cannot be read ({reason(error)}); {REMEDY}") from error
    if known is not None and checksum_of(data) != known:
        raise CinelabError(
            f"{path} has changed since it was written (its checksum differs); {REMEDY}"
        )
    try:
        tensors = load(data)
    except Exception as error:  # safetensors raises its own, and others, on damaged files
        raise CinelabError(f"{path} cannot be read ({error}); {REMEDY}") from error
    latents = tensors.get("latents")
    if latents is None or latents.dim() != 5 or not latents.is_floating_point():
        raise CinelabError(f"{path} holds no latents (1, c, C, h, w) of numbers; {REMEDY}")
    if not bool(latents.isfinite().all()):
        raise CinelabError(f"{path} holds latents that are not finite; {REMEDY}")
    return tensors


def decisions_in(tensors: dict[str, Tensor], chunk: int, shot: int) -> tuple[dict, ...]:
    """Return the routing decisions that a chunk's file holds, as in `KVCache.decisions`."""
    if "layers" not in tensors:
        return ()
    shots = torch.tensor([shot])
    scores = tensors.get("scores")
    return tuple(
        {
            "chunk": chunk,
            "shot": shots,
            "layer": int(layer),
            "clean": False,
            "picks": tensors["picks"][place].long(),
            "fixed": tensors["fixed"][place],
            "scores": None if scores is None else scores[place],
        }
        for place, layer in enumerate(tensors["layers"])
    )


def _packed(decisions: list[dict]) -> dict[str, Tensor]:
    """Return decisions as tensors, a layer each along the first axis."""
    if not decisions:
        return {}
    packed = {
        "layers": torch.tensor([one["layer"] for one in decisions]),
        "picks": _stacked(decisions, "picks").int(),
        "fixed": _stacked(decisions, "fixed"),
    }
    if decisions[0]["scores"] is not None:
        packed["scores"] = _stacked(decisions, "scores").float()
    return packed


def _stacked(decisions: list[dict], part: str) -> Tensor:
    return torch.stack([one[part] for one in decisions]).cpu().contiguous()
