"""What the figures have to be read beside: the device, its driver, torch, the code's revision."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from cinelab.devices import why_no_gpu
from cinelab.errors import CinelabError
from cinelab.files import to_json
from cinelab.runs import hardware

ROOT = Path(__file__).parents[2]
PACKAGES = ("diffusers", "torchao", "flash-attn", "sageattention", "triton", "av", "pytest")
REHEARSE = "mend that, or add --rehearse to run everything on the CPU at tiny sizes"


def machine() -> dict:
    """Return the device, driver, torch, cores, packages and revision of this sitting, and in words
    what keeps torch from a GPU (`lacks`, "" where nothing does)."""
    found = hardware() | {
        "python": platform.python_version(),
        "revision": revision(),
        "packages": {name: _version(name) for name in PACKAGES},
        "lacks": why_no_gpu(),
    }
    if not found["lacks"]:
        found |= {
            "driver": _driver(),
            "CUDA": torch.version.cuda,
            "cuDNN": torch.backends.cudnn.version(),
            "memory GiB": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1),
        }
    return found


def machine_with_gpu() -> dict:
    """Return what `machine` does, asked of a process that ends again: whoever asks a GPU holds
    some of its memory. Raise CinelabError where no GPU can be used."""
    done = subprocess.run(
        [sys.executable, "-m", __name__], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        raise CinelabError(f"The machine cannot be described: {done.stderr.strip()[-300:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    if lacks := found["lacks"].rstrip("."):
        raise CinelabError(f"No GPU is used here: {lacks}; {REHEARSE}.")
    return found


def revision() -> str:
    """Return the commit; where there is no repository, a hash of the sources."""
    commit = _output(["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"])
    if commit:
        changed = _output(["git", "-C", str(ROOT), "status", "--porcelain", "-uno"])
        return commit + (" with changes" if changed else "")
    digest = hashlib.blake2b(digest_size=6)
    for path in sorted((ROOT / "cinelab").rglob("*.py")):
        digest.update(path.read_bytes())
    return f"sources {digest.hexdigest()}"


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return _output(query).partition("\n")[0]


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    print(to_json(machine()))
