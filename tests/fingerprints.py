"""Hashes and coarse fingerprints of results, and the conditions under which hashes must agree."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from cinelab.runs import conditions, hardware

SAMPLES = 16  # values of a fingerprint, evenly spaced
TOLERANCE = 1e-2  # of a fingerprint, relative to its largest value
# Half precision rounds differently on every kind of CPU; one shot read differently moves a score.
TOLERANCES = {"toybox-2step-bf16": 0.25, "card": 0.25, "validation": 0.25}


def present_conditions() -> dict:
    """Return what bits depend on: torch, threads, CPU capability and kind of CPU."""
    return conditions() | {"processor": hardware()["device"], "vectors": vector_instructions()}


def vector_instructions() -> str:
    """Return the CPU's family, model and vector instructions; an empty text where they are unknown.

    Virtual CPUs of several generations share one name, and their bits differ.
    """
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return ""
    first = path.read_text().split("\n\n")[0]
    lines = {
        name.strip(): value.strip()
        for name, _, value in (line.partition(":") for line in first.splitlines())
    }
    flags = [
        flag for flag in lines.get("flags", "").split() if flag.startswith(("avx", "amx", "fma"))
    ]
    return " ".join([lines.get("cpu family", ""), lines.get("model", ""), *sorted(flags)])


def summary(result: object) -> dict:
    """Return the SHA-256 of a result, its shape, and a fingerprint of its numbers."""
    if not isinstance(result, (np.ndarray, torch.Tensor)):
        return {
            "sha256": sha256(json.dumps(result).encode()),
            "values": samples(numbers_in(result)),
        }
    array = torch.as_tensor(result).detach().cpu().contiguous().numpy()
    return {"sha256": sha256(array.tobytes()), "shape": list(array.shape), "values": samples(array)}


def weights_summary(tensors: Iterable[torch.Tensor]) -> dict:
    """Return the same of a network's tensors, whatever their names and order.

    Digests and numbers are sorted.
    """
    arrays = [tensor.detach().cpu().contiguous().numpy() for tensor in tensors]
    digests = sorted(sha256(array.tobytes()) for array in arrays)
    values = np.sort(np.concatenate([array.ravel() for array in arrays]))
    return {
        "sha256": sha256("".join(digests).encode()),
        "shape": [values.size],
        "values": samples(values),
    }


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def samples(numbers: np.ndarray | list) -> list[float]:
    """Return the mean and 16 evenly spaced numbers, to four significant digits."""
    flat = np.asarray(numbers, dtype=np.float64).ravel()
    if not flat.size:
        return []
    places = np.linspace(0, flat.size - 1, min(SAMPLES, flat.size)).round().astype(int)
    return [float(f"{value:.4g}") for value in (flat.mean(), *flat[places])]


def numbers_in(result: object) -> list[float]:
    """Return the numbers of nested lists, in order; texts are left out."""
    if isinstance(result, (list, tuple)):
        return [number for part in result for number in numbers_in(part)]
    return [float(result)] if isinstance(result, (int, float)) else []


def numbers_of_rows(rows: Iterable[dict]) -> list:
    """Return the numbers of each row, sorted; times are left out."""
    return [sorted(float(row[name]) for name in row if _counts(name, row[name])) for row in rows]


def _counts(name: str, value: object) -> bool:
    return name != "seconds" and isinstance(value, (int, float)) and value == value


def rounded(values: Iterable[float], digits: int = 6) -> list[float]:
    """Return the values, sorted and rounded to so many significant digits."""
    return sorted(float(f"{float(value):.{digits}g}") for value in values)


def difference(found: dict, recorded: dict, tolerance: float | None) -> str:
    """Return how a result differs from the recorded one, or an empty text.

    Without a tolerance the hashes must agree, with one the fingerprints.
    """
    if found == recorded:
        return ""
    if found.get("shape") != recorded.get("shape"):
        return f"its shape is {found.get('shape')}, recorded was {recorded.get('shape')}"
    largest = max(map(abs, recorded["values"]), default=0.0)
    atol = (tolerance or 0.0) * largest
    near = np.allclose(found["values"], recorded["values"], rtol=0, atol=atol)
    if tolerance is None or not near:
        return f"it is {found}, recorded was {recorded}"
    return ""
