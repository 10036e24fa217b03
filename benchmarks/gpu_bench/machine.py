"""What the figures have to be read beside: the device, its driver, torch, the code's revision."""

import hashlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from cinelab.errors import CinelabError
from cinelab.runs import hardware

ROOT = Path(__file__).parents[2]
PACKAGES = ("diffusers", "torchao", "flash-attn", "sageattention", "triton", "av", "pytest")
REHEARSE = "or add --rehearse to run everything on the CPU at tiny sizes"


def machine() -> dict:
    """Return the device, driver, torch, cores, packages and revision of this sitting."""
    found = hardware() | {
        "python": platform.python_version(),
        "revision": revision(),
        "packages": {name: _version(name) for name in PACKAGES},
    }
    if torch.cuda.is_available():
        found |= {
            "driver": _driver(),
            "CUDA": torch.version.cuda,
            "cuDNN": torch.backends.cudnn.version(),
            "memory GiB": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1),
        }
    return found


def require_gpu() -> None:
    """Raise CinelabError where no GPU can be used."""
    if torch.cuda.is_available():
        return
    if torch.version.cuda is None:
        why = f"torch {torch.__version__} is a build without CUDA; install a build with CUDA"
    else:
        why = (
            f"torch {torch.__version__} was built for CUDA {torch.version.cuda}, and no device "
            "answers; check `nvidia-smi` and the driver"
        )
    raise CinelabError(f"No GPU is usable here: {why}, {REHEARSE}.")


def revision() -> str:
    """Return the commit; where there is no repository, a hash of the sources."""
    commit = _said(["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"])
    if commit:
        changed = _said(["git", "-C", str(ROOT), "status", "--porcelain", "-uno"])
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
    return _said(query).partition("\n")[0]


def _said(command: list[str]) -> str:
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
