"""Checksums beside or within what promises bits: a file that changes later (a flipped bit, a half
copy) is noticed when it is read.

    checksums.json     beside weights and their config.json: blake2b of each by name
    "seal"             within an index of ours (JSON): blake2b of all else that it says
    an entry "blake2b"  within a file of numpy's (.npz): blake2b of each array by name
    of shards          as the index beside them says (cinelab.latent.clips)

What has no checksum was written before there were any, and is read as it is.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np

from cinelab.config import mapping, read_mapping
from cinelab.errors import CinelabError, reason
from cinelab.files import to_json, write_atomic, write_json
from cinelab.texts import RECORD, Kind, check_regular, parse_json

CHECKSUMS = "checksums.json"
SEAL = "seal"
ARRAYS = "blake2b"


def checksum(path: str | Path, size: int = 16) -> str:
    """Return blake2b of a file's bytes, of `size` bytes in hexadecimal digits."""
    check_regular(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=size)).hexdigest()


def checksum_of(*parts: bytes | memoryview, size: int = 16) -> str:
    """Return blake2b of bytes, one part after another, of `size` bytes in hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=size)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


# ---- within a JSON file


def write_sealed(path: str | Path, values: dict) -> None:
    """Write a dictionary as JSON with its seal."""
    write_json(path, values | {SEAL: seal_of(values)})


def read_sealed(path: str | Path, remedy: str | Kind, /, **wanted: Any) -> dict:
    """What `write_sealed` wrote, without the seal, or a mapping of before there were seals;
    `wanted` as in `cinelab.config.read_mapping`. CinelabError with the remedy (of a kind of text)
    where anything of it has changed."""
    kind = replace(RECORD, remedy=remedy) if isinstance(remedy, str) else remedy
    values = read_mapping(path, kind)
    remedy = kind.remedy
    # the seal counts under any name: a bit of that may be the one that flipped
    for key, value in sorted(values.items(), key=lambda item: item[0] != SEAL):
        if isinstance(value, str) and len(value) == 32 and seal_of(without(values, key)) == value:
            return mapping(without(values, key), path, remedy, **wanted)
    if SEAL in values:
        raise CinelabError(
            f"{path} has changed since it was written (its seal does not fit what it says); "
            f"{remedy}."
        )
    return mapping(values, path, remedy, **wanted)


def seal_of(values: dict) -> str:
    """blake2b of what a dictionary says as JSON, in whatever order."""
    plain = json.dumps(parse_json(to_json(values)), sort_keys=True)
    return checksum_of(plain.encode())


def without(values: dict, key: str) -> dict:
    """A dictionary without one of its keys."""
    return {name: value for name, value in values.items() if name != key}


# ---- within a file of numpy's


def write_arrays(path: str | Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a .npz that knows the name and the checksum of each of its arrays."""
    sums = {"name": Path(path).name} | {name: array_digest(array) for name, array in arrays.items()}
    whole: dict[str, Any] = arrays | {
        ARRAYS: np.frombuffer(json.dumps(sums, sort_keys=True).encode(), np.uint8)
    }
    write_atomic(path, lambda temporary: np.savez(temporary, **whole))


def read_arrays(path: str | Path, names: Iterable[str], remedy: str) -> list[np.ndarray]:
    """Some arrays of a .npz; nothing else of it is read. CinelabError with the remedy where one is
    absent, broken or another one than was written, or where the file is one of another name."""
    path = Path(path)
    check_regular(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            sums = parse_json(file[ARRAYS].tobytes()) if ARRAYS in file else {}
            found = {name: file[name] for name in names}
    except OSError as error:
        raise CinelabError(f"{path} cannot be read ({reason(error)}); {remedy}.") from error
    except Exception as error:  # numpy and zipfile raise many kinds
        raise CinelabError(
            f"{path} is cut short or broken ({type(error).__name__}); {remedy}."
        ) from error
    if odd := next(
        (name for name in found if sums and sums.get(name) != array_digest(found[name])), None
    ):
        raise CinelabError(
            f"{path} has changed since it was written: {odd} is another array; {remedy}."
        )
    if sums and sums.get("name") != path.name:
        raise CinelabError(f"{path} was written as {sums.get('name')}; {remedy}.")
    return list(found.values())


def stated_digests(file: ZipFile) -> dict[str, str]:
    """Return what an opened .npz states of itself: its own name, and the checksum of each of its
    arrays; {} of one that was written before there were any."""
    if f"{ARRAYS}.npy" not in file.namelist():
        return {}
    with file.open(f"{ARRAYS}.npy") as entry:
        stated: dict[str, str] = parse_json(np.lib.format.read_array(entry).tobytes())
    return stated


def array_digest(array: np.ndarray) -> str:
    """Return the checksum of an array: of its kind, its shape and its numbers."""
    return checksum_of(f"{array.dtype} {array.shape}".encode(), np.ascontiguousarray(array).data)


# ---- beside files


def write_checksums(folder: str | Path, names: Iterable[str]) -> None:
    """Write checksums.json of the named files of a folder."""
    write_sealed(
        Path(folder) / CHECKSUMS,
        {"blake2b": {name: checksum(Path(folder) / name) for name in names}},
    )


def changed(folder: str | Path, name: str) -> bool:
    """Whether a file is another one than checksums.json says; reads all of it. False where nothing
    is stated of it."""
    folder = Path(folder)
    if not (folder / CHECKSUMS).exists():
        return False
    sealed = read_sealed(
        folder / CHECKSUMS, "copy the folder again, or remove this file if it alone is broken"
    )
    if not isinstance(known := sealed.get("blake2b"), dict):
        raise CinelabError(
            f"{folder / CHECKSUMS} names no checksums; copy the folder again, or remove this file."
        )
    return name in known and checksum(folder / name) != known[name]


def check_unchanged(folder: str | Path, name: str) -> None:
    """Raise CinelabError where a file is another one than checksums.json says."""
    if changed(folder, name):
        raise CinelabError(
            f"{Path(folder) / name} has changed since it was written, for its checksum is another; "
            f"copy it again, or remove {CHECKSUMS} beside it if you have put other weights there."
        )
