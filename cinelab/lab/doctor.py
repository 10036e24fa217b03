"""What this machine has, and what is missing for which feature."""

import importlib.util
import os
import shutil
from dataclasses import dataclass

import psutil
import torch

from cinelab import threads
from cinelab.devices import VARIABLE, device_choice, device_name
from cinelab.errors import CinelabError, reason
from cinelab.metrics.external.environments import TOOLS, folder, ready
from cinelab.ops.attention import REMEDY, available
from cinelab.optional import EXTRA_OF
from cinelab.runs import hardware
from cinelab.zoo.checkpoints import SHIPPED, shipped

KERNELS = {
    "auto": "attention everywhere",
    "cudnn": "faster attention on a GPU",
    "flash": "faster attention on a GPU",
    "flash3": "the fastest attention on a Hopper GPU",
    "flex": "masked attention in training",
    "flash3-fp8": "attention in eight bits on a Hopper GPU",
    "sage": "attention in eight bits on a GPU",
}
WATCHED = 0.3  # seconds that the machine's other work is watched


@dataclass(frozen=True)
class Finding:
    """One line of the report. `ok` None = optional and absent."""

    what: str
    ok: bool | None
    found: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Every check, in the order a newcomer meets the features."""
    return [
        _torch(),
        _threads(),
        _others(),
        _device(),
        *(_kernel(name, what) for name, what in KERNELS.items()),
        _encoder(),
        *_checkpoints(),
        *_packages(),
        *_evaluators(),
        _chromium(),
        _disk(),
    ]


def _torch() -> Finding:
    here = hardware("cpu")
    return Finding("torch", True, f"{here['torch']} on {here['device']}, {here['cores']} cores")


def _threads() -> Finding:
    here = f"{torch.get_num_threads()} on {threads.cores()} cores; {threads.wait_policy()}"
    if threads.late:
        return Finding(
            "threads",
            None,
            here,
            "import cinelab before torch, or set OMP_WAIT_POLICY=PASSIVE: threads that spin take "
            "ten "
            "times as long beside other work",
        )
    return Finding(
        "threads", True, here + ("" if threads.own(threads.NUMBER) else "; a toybox film takes one")
    )


def _others() -> Finding:
    """Whether other processes keep the machine's cores busy, watched for a while, and which of them
    the most."""
    before = {process.pid: _seconds(process) for process in psutil.process_iter()}
    busy = sum(psutil.cpu_percent(WATCHED, percpu=True)) / 100
    grown = {
        process: _seconds(process) - before.get(process.pid, 0.0)
        for process in psutil.process_iter()
    }
    ours = grown.pop(psutil.Process(), 0.0) / WATCHED
    taken = max(0.0, busy - ours)
    first = max(grown, key=lambda process: grown[process], default=None)
    found = f"{taken:.1f} of {psutil.cpu_count()} cores are taken"
    if taken < 0.5:
        return Finding("other work", True, found)
    most = (
        f", most by {_name(first)} (process {first.pid})"
        if first and grown[first] > 0.1 * WATCHED
        else ""
    )
    return Finding(
        "other work",
        None,
        found + most,
        "films, desks and trainings are slower meanwhile; do not measure now",
    )


def _seconds(process: psutil.Process) -> float:
    """Seconds of a core that a process has had; 0 where that is not ours to see."""
    try:
        return sum(process.cpu_times()[:2])
    except psutil.Error:
        return 0.0


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return "one that has ended"


def _device() -> Finding:
    """The device that everything computes on, and why it is this one."""
    try:
        choice = device_choice()
    except CinelabError as error:
        return Finding("device", False, str(error), f"correct {VARIABLE}, or leave it out")
    if not choice.device.startswith("cuda"):
        slow = "the toybox needs no GPU; Wan-sized models do"
        return Finding("device", None, f"{choice.device}: {choice.why}", slow)
    where = torch.device(choice.device)
    size = torch.cuda.get_device_properties(where).total_memory / 2**30
    named = f"{device_name(where)}, {size:.0f} GiB"
    return Finding("device", True, f"{choice.device}: {choice.why} ({named})")


def _kernel(name: str, what: str) -> Finding:
    if available(name):
        return Finding(f"kernel {name}", True, what)
    return Finding(f"kernel {name}", None, f"absent ({what})", f"it needs {REMEDY[name]}")


def _encoder() -> Finding:
    if not _installed("av"):
        return Finding("video encoder", None, "absent (film.mp4)", _remedy("av"))
    from cinelab.stream.video import pick_encoder

    try:
        return Finding("video encoder", True, f"{pick_encoder()} writes film.mp4")
    except Exception as error:
        return Finding(
            "video encoder", False, str(error), "reinstall PyAV: pip install --force-reinstall av"
        )


def _checkpoints() -> list[Finding]:
    names = shipped()
    wanted = {
        "toybox-codec": "films",
        "toybox-2step": "films",
        "toybox-1step": "films in one step",
        "toybox-4step": "films in four steps",
        "toybox-chunk-4step": "chunk-wise films",
        "toybox-base": "stage 2",
        "toybox-bidirectional": "stage 1",
        "toybox-bidirectional-24": "stage 3",
        "toybox-recogniser": "scores",
    }
    return [
        Finding(
            name,
            name in names,
            _size(name) if name in names else f"absent: no {need}",
            ""
            if name in names
            else "check the repository out in full, or train it (notebooks 10 to 16)",
        )
        for name, need in wanted.items()
    ]


def _size(name: str) -> str:
    total = sum(path.stat().st_size for path in (SHIPPED / name).glob("*"))
    return f"{total / 2**20:.1f} MiB"


def _packages() -> list[Finding]:
    needs = {
        "papermill": "make film, sweeps",
        "jupyterlab": "make lab",
        "ipywidgets": "live notebooks",
        "anywidget": "the directing desk",
        "tornado": "cinelab demo",
        "plotly": "figures in notebooks",
        "matplotlib": "figures of reports",
        "scenedetect": "the second cut detector",
        "diffusers": "Wan weights",
        "transformers": "Wan's text encoder",
        "peft": "LoRA training",
        "duckdb": "cinelab results",
        "jinja2": "cinelab report",
        "playwright": "browser tests",
    }
    return [
        Finding(name, True, what)
        if _installed(name)
        else Finding(name, None, f"absent ({what})", _remedy(name))
        for name, what in needs.items()
    ]


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _remedy(name: str) -> str:
    """The command that installs a package: its extra, where it belongs to one."""
    extra = EXTRA_OF.get(name)
    return f"pip install 'cinelab[{extra}]'" if extra else f"pip install {name}"


def _evaluators() -> list[Finding]:
    """Judges of videos that are no part of the package: all optional, each with what it needs."""
    found = [
        Finding(
            f"{name} environment",
            ready(tool) or None,
            str(folder(tool)) if ready(tool) else f"absent ({tool.purpose})",
            f"cinelab eval setup {name}",
        )
        for name, tool in TOOLS.items()
    ]
    if _installed("cv2"):
        found += _weights()
    for name, what in (("submitit", "sweeps on a cluster"), ("torchao", "eight-bit linears")):
        here = _installed(name)
        found.append(
            Finding(name, here or None, what if here else f"absent ({what})", _remedy(name))
        )
    return found


def _weights() -> list[Finding]:
    """The published networks that judge videos, each in the user's folder or absent."""
    from cinelab.metrics.video.features import PUBLISHED, missing, weights_folder

    return [
        Finding(
            f"{name} weights",
            None if missing(name) else True,
            "absent" if missing(name) else str(weights_folder(name)),
            missing(name).partition(": ")[2] or missing(name),
        )
        for name in PUBLISHED
    ]


def _chromium() -> Finding:
    path = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    return Finding(
        "browser", True if path else None, path or "none", "only the browser tests need one"
    )


def _disk() -> Finding:
    try:
        free = shutil.disk_usage(os.curdir).free / 2**30
    except OSError as error:
        return Finding(
            "free disk", False, f"unknown ({reason(error)})", "change to a folder that is there"
        )
    return Finding(
        "free disk",
        free > 2,
        f"{free:.1f} GiB",
        "films are small, training stores take about 0.5 GiB",
    )
