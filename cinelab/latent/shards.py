"""The latents of a store, read clip by clip from its shards: a store need not fit into memory.

    n films   F latent frames a film   C h w latent shape   B clips

A shard is a .npz of numpy's, whose arrays lie in it as they are in memory; so the latent frames of
a clip are one stretch of bytes, which is read at its place. Each shard is compared with its
checksum when it is first read. What is read often stays in the system's cache of files.
"""

import zipfile
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cinelab.checksums import array_digest, stated_digests
from cinelab.errors import CinelabError, reason
from cinelab.texts import check_regular

AGAIN = "remove it and build the store again"
LOCAL_HEADER = 30  # bytes of a zip entry before its name; the lengths of name and extra end it


@dataclass(frozen=True)
class StoredArray:
    """Where an array lies in a .npz: `digest` is its checksum, None in files without any."""

    path: Path
    name: str
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]
    digest: str | None

    @property
    def nbytes(self) -> int:
        """Return the bytes of the array."""
        return prod(self.shape) * self.dtype.itemsize

    def read(self, begin: int, into: np.ndarray) -> np.ndarray:
        """Fill an array with the numbers from number `begin` on. Return it."""
        wanted = into.reshape(-1).view(np.uint8).data
        try:
            with open(self.path, "rb", buffering=0) as file:
                file.seek(self.offset + begin * self.dtype.itemsize)
                count = file.readinto(wanted)
        except OSError as error:
            raise CinelabError(f"{self.path} cannot be read ({reason(error)}); {AGAIN}.") from error
        if count != len(wanted):
            raise CinelabError(f"{self.path} is cut short or broken; {AGAIN}.")
        return into

    def whole(self) -> np.ndarray:
        """Return the array, compared with its checksum. Raises CinelabError where it differs."""
        array = self.read(0, np.empty(self.shape, self.dtype))
        if self.digest not in (None, array_digest(array)):
            raise CinelabError(
                f"{self.path} has changed since it was written: {self.name} is another array; "
                f"{AGAIN}."
            )
        return array


def stored_arrays(path: Path) -> dict[str, StoredArray]:
    """Return the arrays of a .npz by name; nothing of them is read yet. Raises CinelabError where
    the file is broken, or written under another name."""
    check_regular(path)
    try:
        with zipfile.ZipFile(path) as file, open(path, "rb") as data:
            stated = stated_digests(file)
            found = [_stored_array(path, entry, data, stated) for entry in file.infolist()]
    except OSError as error:
        raise CinelabError(f"{path} cannot be read ({reason(error)}); {AGAIN}.") from error
    except CinelabError:
        raise
    except Exception as error:  # zipfile and numpy raise many kinds
        raise CinelabError(
            f"{path} is cut short or broken ({type(error).__name__}); {AGAIN}."
        ) from error
    if stated and stated.get("name") != path.name:
        raise CinelabError(f"{path} was written as {stated.get('name')}; {AGAIN}.")
    return {array.name: array for array in found}


def array_of(shard: dict[str, StoredArray], name: str) -> StoredArray:
    """Return an array of a shard. Raises CinelabError where the shard lacks it."""
    if name not in shard:
        where = next((one.path for one in shard.values()), "A shard")
        raise CinelabError(f"{where} holds no {name}; {AGAIN}.")
    return shard[name]


def in_memory(shards: list[dict[str, StoredArray]], name: str) -> Tensor:
    """Return an array of all shards in memory, one shard after another, each compared with its
    checksum."""
    return torch.from_numpy(np.concatenate([array_of(one, name).whole() for one in shards]))


def _stored_array(path: Path, entry: zipfile.ZipInfo, data: Any, stated: dict) -> StoredArray:
    name = entry.filename.removesuffix(".npy")
    if entry.compress_type != zipfile.ZIP_STORED:
        raise CinelabError(f"{path} is compressed, and {name} cannot be read in parts; {AGAIN}.")
    data.seek(entry.header_offset + LOCAL_HEADER - 4)
    lengths = np.frombuffer(data.read(4), "<u2")
    data.seek(int(lengths.sum()), 1)
    version = np.lib.format.read_magic(data)
    header = {(1, 0): np.lib.format.read_array_header_1_0}.get(
        version, np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = header(data)
    if fortran and len(shape) > 1:
        raise ValueError("columns come first")
    return StoredArray(path, name, data.tell(), dtype, shape, stated.get(name))


class StoredLatents:
    """The latents (n, F, C, h, w) of the shards of a store, on disk.

    `latents[...]` reads all of them, as the tensor that they were in earlier versions.
    """

    device = torch.device("cpu")

    def __init__(self, parts: list[StoredArray]):
        first = parts[0]
        for part in parts:
            if part.shape[1:] != first.shape[1:] or part.dtype != first.dtype:
                raise CinelabError(
                    f"{part.path} holds latents {part.shape[1:]} of {part.dtype}, and "
                    f"{first.path.name} {first.shape[1:]} of {first.dtype}; {AGAIN}."
                )
        self.parts = parts
        self._ends = list(accumulate(part.shape[0] for part in parts))
        self._compared: set[int] = set()
        self.shape = torch.Size((self._ends[-1], *first.shape[1:]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Tensor:
        return self.whole()[key]

    @property
    def nbytes(self) -> int:
        """Return the bytes of all latents."""
        return sum(part.nbytes for part in self.parts)

    @cached_property
    def dtype(self) -> torch.dtype:
        """Return the precision in which they are stored."""
        return torch.from_numpy(np.empty(0, self.parts[0].dtype)).dtype

    def gather(self, films: Tensor, starts: Tensor, frames: int) -> Tensor:
        """Return `frames` latent frames (B, frames, C, h, w) of films (B,) from starts (B,) on."""
        found = np.empty((len(films), frames, *self.shape[2:]), self.parts[0].dtype)
        for row, (film, start) in enumerate(zip(films.tolist(), starts.tolist(), strict=True)):
            self._read_clip(film, start, found[row])
        return torch.from_numpy(found)

    def _read_clip(self, film: int, start: int, into: np.ndarray) -> None:
        number = bisect_right(self._ends, film)
        part = self.parts[number]
        if number not in self._compared:
            part.whole()
            self._compared.add(number)
        place = film - (self._ends[number - 1] if number else 0)
        numbers = prod(self.shape[2:])
        part.read((place * self.shape[1] + start) * numbers, into)

    def each(self) -> Iterator[Tensor]:
        """Yield the latents of one shard after another, compared with their checksums."""
        for number, part in enumerate(self.parts):
            yield torch.from_numpy(part.whole())
            self._compared.add(number)

    def to(self, device: torch.device | str) -> Tensor:
        """Return all latents on a device; the host holds one shard at a time."""
        whole = torch.empty(self.shape, dtype=self.dtype, device=device)
        begin = 0
        for part in self.each():
            whole[begin : begin + len(part)] = part
            begin += len(part)
        return whole

    def whole(self) -> Tensor:
        """Return all latents in memory."""
        return self.to("cpu")
