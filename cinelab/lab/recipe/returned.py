"""What came back from a training elsewhere: a recipe's folder, the archives or the work folder of a
sitting on a GPU (`benchmarks/gpu.py`), or one checkpoint.

    with returned("results/gpu") as found:
        [one.name for one in found]
"""

import gzip
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cinelab.checksums import read_sealed
from cinelab.config import read_mapping
from cinelab.errors import CinelabError
from cinelab.lab.recipe.records import STEPS, lineage_of
from cinelab.lab.recipe.steps import STORE
from cinelab.outputs import passing_folder
from cinelab.zoo import checkpoints as zoo

PIECE = re.compile(r"(.*)\.([0-9]+)-of-([0-9]+)")  # of a file that was larger than an archive
ARCHIVES = "results-*.tar.gz"
MOST = 4 * 2**30  # bytes that are unpacked


@dataclass(frozen=True)
class Returned:
    """A checkpoint that came back. `codec` is the hash of the codec that its films were encoded
    with, "" where nothing says it; `lineage` what it was made of."""

    name: str
    folder: Path
    codec: str = ""
    lineage: dict[str, dict] = field(default_factory=dict)


@contextmanager
def returned(folder: str | Path) -> Iterator[list[Returned]]:
    """Yield the checkpoints that a folder holds. Archives are unpacked for as long as the context
    lasts. Raises CinelabError where there is none."""
    folder = Path(folder)
    if archives := sorted(folder.glob(ARCHIVES)):
        with passing_folder("adopt") as place:
            unpack(archives, place)
            yield _found(place, folder)
    else:
        yield _found(folder, folder)


def _found(place: Path, given: Path) -> list[Returned]:
    """Return the checkpoints below a place, in the order in which they were made."""
    for kind in (_of_recipe, _of_sitting, _alone):
        if found := kind(place):
            return found
    raise CinelabError(
        f"{given} holds no checkpoint; give a folder of `cinelab recipe`, the output or the work "
        "folder of benchmarks/gpu.py, or a checkpoint's own folder."
    )


def _of_recipe(place: Path) -> list[Returned]:
    if not (place / STEPS).is_dir():
        return []
    lineage = lineage_of(place)
    made = sorted(
        (name for name, step in lineage.items() if step.get("kind") != STORE),
        key=lambda name: (place / STEPS / f"{name}.json").stat().st_mtime_ns,
    )
    return [
        Returned(
            name, place / name, codec_in(lineage, name), {name: lineage[name] for name in chain}
        )
        for name in made
        for chain in [ancestors(lineage, name)]
    ]


def ancestors(lineage: dict[str, dict], name: str) -> list[str]:
    """Return the names of a step and of all that it was made of, the first ones first."""
    before: dict[str, None] = {}
    for need in lineage.get(name, {}).get("needs", {}):
        before |= dict.fromkeys(ancestors(lineage, need))
    return [*before, name] if name in lineage else list(before)


def codec_in(lineage: dict[str, dict], name: str) -> str:
    """Return the hash of the codec that a step's films were encoded with; "" where it has none."""
    for one in ancestors(lineage, name):
        settings = lineage[one]["settings"]
        if settings["stage"] == STORE and settings.get("codec"):
            return str(lineage[one]["needs"][settings["codec"]])
    return ""


def _of_sitting(place: Path) -> list[Returned]:
    place = place / "training" if (place / "training").is_dir() else place
    found = []
    for weights in sorted(place.glob(f"*/result/{zoo.WEIGHTS}"), key=lambda x: x.stat().st_mtime):
        folder = weights.parent
        job_file = place / f"{folder.parent.name}.json"
        job = read_mapping(job_file) if job_file.is_file() else {}
        index = place / Path(str(job.get("store", {}).get("path", ""))).name / "store.json"
        films = read_sealed(index, "copy it again") if index.is_file() else {}
        lineage = {"job": job, "films": films}
        found.append(Returned(folder.parent.name, folder, str(films.get("codec", "")), lineage))
    return found


def _alone(place: Path) -> list[Returned]:
    if not (place / zoo.WEIGHTS).is_file():
        return []
    zoo.find(place)  # refuses a folder without its config.json
    lineage = read_mapping(place / zoo.CONFIG).get("lineage", {})
    return [Returned(place.resolve().name, place, "", lineage)]


def unpack(archives: list[Path], place: Path) -> None:
    """Unpack a sitting's archives; files that were cut into pieces are joined. Raises CinelabError
    where an archive is broken, or a piece is missing."""
    pieces: dict[str, dict[int, bytes]] = defaultdict(dict)
    wanted: dict[str, int] = {}
    size = 0
    for archive in archives:
        for name, data in _members(archive):
            size += len(data)
            if size > MOST:
                raise CinelabError(f"{archive} unpacks to more than {MOST >> 30} GiB; check it.")
            piece = PIECE.fullmatch(name)
            whole, number, of = (piece[1], int(piece[2]), int(piece[3])) if piece else (name, 1, 1)
            pieces[whole][number] = data
            wanted[whole] = of
    for name, parts in pieces.items():
        if len(parts) != wanted[name]:
            raise CinelabError(
                f"{archives[0].parent} lacks {wanted[name] - len(parts)} of {wanted[name]} pieces "
                f"of {name}; copy all of its archives."
            )
        _write(place, name, b"".join(parts[number] for number in sorted(parts)))


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(archive) as file:
            for member in file:
                if member.isfile() and (data := file.extractfile(member)) is not None:
                    yield member.name, data.read()
    except (tarfile.TarError, EOFError, OSError, gzip.BadGzipFile) as error:
        raise CinelabError(
            f"{archive} is cut short or broken ({type(error).__name__}); copy it again."
        ) from error


def _write(place: Path, name: str, data: bytes) -> None:
    packed = name.endswith(".gz") and not name.endswith(".json.gz")
    path = place / (name.removesuffix(".gz") if packed else name)
    if not path.resolve().is_relative_to(place.resolve()):
        raise CinelabError(
            f"An archive holds {name!r:.80}, which lies outside of it; do not use it."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.decompress(data) if packed else data)
