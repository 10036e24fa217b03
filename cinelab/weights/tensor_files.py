"""One file of tensors, read lazily: safetensors, or what torch.save wrote.

Names, shapes and dtypes are read at once; a tensor is read when it is needed, and the file backs
it. A file that is neither is refused in one sentence, which says what it is."""

import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cinelab.checksums import check_unchanged
from cinelab.errors import CinelabError
from cinelab.readable import Readable
from cinelab.texts import check_regular

PICKLES = (".pt", ".pth", ".ckpt", ".bin")
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
AGAIN = "copy or download it again"
NO_WEIGHTS = "is no file of weights"


@dataclass(frozen=True)
class Stored(Readable):
    """A tensor on disk: what is known before it is read, and how to read it. `dtype` is a name
    where torch has none."""

    shape: tuple[int, ...]
    dtype: torch.dtype | str
    read: Callable[[], Tensor]


@dataclass
class Opened:
    """A safetensors file that is open. It is compared with its checksum, where one lies beside it,
    before its first tensor is read."""

    file: Path
    handle: Any
    compared: bool = False

    def read(self, key: str) -> Tensor:
        if not self.compared:
            check_unchanged(self.file.parent, self.file.name)
            self.compared = True
        return self.handle.get_tensor(key)


def read_safetensors(files: list[Path]) -> dict[str, Stored]:
    """Every tensor of the files; two files with one name contradict each other."""
    found: dict[str, Stored] = {}
    home: dict[str, Path] = {}
    for file in files:
        check_regular(file)
        try:
            handle = safe_open(file, "pt")
        except (SafetensorError, OSError) as error:
            raise broken(file, error) from error
        opened = Opened(file, handle)
        for key in handle.keys():
            if key in found:
                raise CinelabError(
                    f"{file} and {home[key]} both hold {key!r}; keep the files of one download in "
                    "a folder."
                )
            part = handle.get_slice(key)
            found[key] = Stored(
                tuple(part.get_shape()),
                FLOATS.get(part.get_dtype(), part.get_dtype()),
                partial(opened.read, key),
            )
            home[key] = file
    return found


def read_pickle(path: Path) -> dict[str, Any]:
    """What torch.save wrote: tensors as they lie in the file, and no code is run."""
    if (kind := file_kind(path)) not in ("zip", "unknown"):
        raise broken(path)
    if kind == "unknown":
        raise CinelabError(
            f"{path} is no zip file as torch.save writes since torch 1.6: it is of the older "
            f"format (load it and save it again with torch) or broken ({AGAIN})."
        )
    try:
        held = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except RuntimeError as error:
        raise broken(path, error) from error
    except Exception as error:  # UnpicklingError, and whatever a hostile pickle raises
        what = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise CinelabError(
            f"{path} holds more than tensors ({what[1] if what else first_line_of(error)}), which "
            "would have to be run to be read; save its weights alone, e.g. "
            "torch.save({'generator': checkpoint['generator']}, ...), where it was made."
        ) from error
    if not isinstance(held, dict):
        raise CinelabError(
            f"{path} holds a {type(held).__name__}; a dictionary of tensors is expected, so save "
            "model.state_dict()."
        )
    return {str(key): value for key, value in held.items()}


def file_kind(path: Path) -> str:
    """What a file's first bytes say that it is: zip (torch.save), safetensors, or a kind that is
    not read; else unknown."""
    check_regular(path)
    try:
        with open(path, "rb") as opened:
            head = opened.read(64)
    except OSError as error:
        raise CinelabError(
            f"{path} cannot be read ({error.strerror}); check its permissions."
        ) from error
    kinds = {
        "empty": not head,
        "zip": head.startswith(b"PK"),
        "GGUF": head.startswith(b"GGUF"),
        "HDF5": head.startswith(b"\x89HDF"),
        "Git LFS pointer": head.startswith(b"version https://git-lfs"),
        "web page": head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")),
        "safetensors": head[8:].lstrip()[:1] == b"{"
        and int.from_bytes(head[:8], "little") < path.stat().st_size,
    }
    return next((kind for kind, is_it in kinds.items() if is_it), "unknown")


def broken(path: Path, error: Exception | None = None) -> CinelabError:
    """The sentence for a file that cannot be read as what its name says."""
    kind = file_kind(path)
    own = path.suffix == ".safetensors"
    problems = {
        "empty": f"{'is cut short or broken' if own else 'is no zip file as torch.save writes'} "
        f"(it is empty); {AGAIN}",
        "Git LFS pointer": "is a Git LFS pointer and not the file itself; fetch it with git lfs "
        "pull",
        "web page": "is a web page and no weights; download the file itself",
        "GGUF": "is a GGUF file, which is quantised; take the weights as .safetensors or .pt",
        "HDF5": "is an HDF5 file; take the weights as .safetensors or .pt",
    }
    if own and kind == "zip":
        problems["zip"] = (
            "is a file of torch.save (or another zip) under the name of a .safetensors; rename it "
            "to .pt"
        )
    if not own and kind == "safetensors":
        problems["safetensors"] = (
            "is a safetensors file under another name; rename it to .safetensors"
        )
    if (
        kind == "zip"
        and not own
        and zipfile.is_zipfile(path)
        and not any(name.endswith("data.pkl") for name in zipfile.ZipFile(path).namelist())
    ):
        problems["zip"] = (
            "is a zip file, but none that torch.save wrote; take the weights as .safetensors or .pt"
        )
    unknown = f"is cut short or broken ({first_line_of(error)})" if error else NO_WEIGHTS
    return CinelabError(f"{path} {problems.get(kind, f'{unknown}; {AGAIN}')}.")


def first_line_of(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0].rstrip(".")


def stored(tensors: dict[str, Any]) -> dict[str, Stored]:
    """Tensors of a loaded dictionary as lazily read ones; other things in it (extra states) are
    none."""
    return {
        str(key): Stored(tuple(value.shape), value.dtype, partial(_same, value))
        for key, value in tensors.items()
        if isinstance(value, Tensor)
    }


def _same(tensor: Tensor) -> Tensor:
    return tensor.detach()
