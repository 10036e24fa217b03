"""Checksums beside or within what promises bits: a file that changes later (a flipped bit, a half copy) is noticed when it is read.

    checksums.json     beside weights and their config.json: blake2b of each by name
    "seal"             within an index of ours (JSON): blake2b of all else that it says
    shards             as their index or an entry of their own says (cinelab.latent.clips, cinelab.latent.store)

What has no checksum was written before there were any, and is read as it is.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cinelab.config import mapping, read_mapping
from cinelab.errors import CinelabError
from cinelab.files import to_json, write_json
from cinelab.texts import RECORD, Kind

CHECKSUMS, SEAL = "checksums.json", "seal"
BLOCK = 2**22  # bytes hashed at a time


def checksum(path: str | Path) -> str:
    """blake2b of a file's bytes, 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


# ---- within a JSON file


def write_sealed(path: str | Path, values: dict) -> None:
    """Write a dictionary as JSON with its seal."""
    write_json(path, values | {SEAL: seal_of(values)})


def read_sealed(path: str | Path, remedy: str | Kind, /, **wanted: Any) -> dict:
    """What `write_sealed` wrote, without the seal, or a mapping of before there were seals; `wanted` as in
    `cinelab.config.read_mapping`. CinelabError with the remedy (of a kind of text) where anything of it has changed."""
    kind = replace(RECORD, remedy=remedy) if isinstance(remedy, str) else remedy
    said, remedy = read_mapping(path, kind), kind.remedy
    for key, value in said.items():  # the seal counts under any name: a bit of that may be the one that flipped
        if isinstance(value, str) and len(value) == 32 and seal_of(without(said, key)) == value:
            return mapping(without(said, key), path, remedy, **wanted)
    if SEAL in said:
        raise CinelabError(f"{path} has changed since it was written (its seal does not fit what it says); {remedy}.")
    return mapping(said, path, remedy, **wanted)


def seal_of(values: dict) -> str:
    """blake2b of what a dictionary says as JSON, in whatever order."""
    plain = json.dumps(json.loads(to_json(values)), sort_keys=True)
    return hashlib.blake2b(plain.encode(), digest_size=16).hexdigest()


def without(values: dict, key: str) -> dict:
    """A dictionary without one of its keys."""
    return {name: value for name, value in values.items() if name != key}


# ---- beside files


def write_checksums(folder: str | Path, names: Iterable[str]) -> None:
    """Write checksums.json of the named files of a folder."""
    write_sealed(Path(folder) / CHECKSUMS, {"blake2b": {name: checksum(Path(folder) / name) for name in names}})


def changed(folder: str | Path, name: str) -> bool:
    """Whether a file is another one than checksums.json says; reads all of it. False where nothing is said of it."""
    folder = Path(folder)
    if not (folder / CHECKSUMS).exists():
        return False
    said = read_sealed(folder / CHECKSUMS, "copy the folder again, or remove this file if it alone is broken")
    known = said.get("blake2b") if isinstance(said, dict) else None
    if not isinstance(known, dict):
        raise CinelabError(f"{folder / CHECKSUMS} names no checksums; copy the folder again, or remove this file.")
    return name in known and checksum(folder / name) != known[name]


def check_unchanged(folder: str | Path, name: str) -> None:
    """Raise CinelabError where a file is another one than checksums.json says."""
    if changed(folder, name):
        raise CinelabError(f"{Path(folder) / name} has changed since it was written, for its checksum is another; copy it again, or "
                           f"remove {CHECKSUMS} beside it if you have put other weights there.")
