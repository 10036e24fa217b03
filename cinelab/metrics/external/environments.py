"""Tools that live in environments of their own, because their pins and ours cannot be met by one.

`setup(tool)` makes the environment from its environment-*.yml, `run_worker(tool, job)` runs the
tool's worker script there: job.json in, answer.json out. An environment counts as made only when
its stamp, written last, names the very list of requirements it was made from; a half-made one is
gone on with.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cinelab.assets import assets_root
from cinelab.config import read_mapping
from cinelab.errors import CinelabError
from cinelab.files import kept_in, write_json
from cinelab.metrics.external.workers.plumbing import SHOWN
from cinelab.outputs import AT_ONCE, writing
from cinelab.texts import ENVIRONMENT, read_json, read_yaml

WORKERS = Path(__file__).parent / "workers"
STAMP = "cinelab.json"
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Tool:
    """`environment` is the conda-like list of its requirements, `worker` the script its python
    runs."""

    name: str
    environment: Path
    worker: Path
    purpose: str


VBENCH = Tool(
    "vbench",
    assets_root() / "environment-vbench.yml",
    WORKERS / "vbench_worker.py",
    "the 16 dimensions of VBench on films of ours or on its own prompts",
)
VISIONREWARD = Tool(
    "visionreward",
    assets_root() / "environment-visionreward.yml",
    WORKERS / "visionreward_worker.py",
    "VisionReward and instruction following, by its video-language model",
)
TOOLS = {tool.name: tool for tool in (VBENCH, VISIONREWARD)}


def find_tool(name: str) -> Tool:
    """The tool of that name."""
    if name not in TOOLS:
        raise CinelabError(f"Tool {name!r} is not known; the tools are {', '.join(TOOLS)}.")
    return TOOLS[name]


def home() -> Path:
    """Where the environments are: $CINELAB_ENVS, else <the user's cache>/cinelab/envs."""
    return kept_in("CINELAB_ENVS", "cinelab", "envs")


def folder(tool: Tool) -> Path:
    return home() / tool.name


def requirements(tool: Tool) -> tuple[str, list[str]]:
    """(python version such as "3.11", pip requirements) of the tool's environment file."""
    try:
        parts = read_yaml(tool.environment, ENVIRONMENT)["dependencies"]
        python = next(part for part in parts if str(part).startswith("python=")).removeprefix(
            "python="
        )
        return python, next(part["pip"] for part in parts if isinstance(part, dict))
    except (KeyError, TypeError, StopIteration) as error:
        raise CinelabError(
            f"{tool.environment}: names no python=VERSION or no pip list; check the file out again."
        ) from error


def ready(tool: Tool) -> bool:
    """Is the environment made, whole, and of today's list of requirements?"""
    with suppress(OSError, CinelabError):  # without a home folder there is none
        return (
            read_mapping(folder(tool) / STAMP).get("list") == _digest(tool)
            and _python(folder(tool)).exists()
        )
    return False


def python_of(tool: Tool) -> Path:
    """The python of the tool's environment; a CinelabError says how to make it."""
    if ready(tool):
        return _python(folder(tool))
    state = "is only half made or of an older list" if folder(tool).exists() else "is not there"
    raise CinelabError(
        f"The environment of {tool.name}, {folder(tool)}, {state}; make it with `cinelab eval "
        f"setup {tool.name}`."
    )


def packages(tool: Tool) -> Path:
    """The environment's site-packages, whether or not it is there."""
    python, _ = requirements(tool)
    return folder(tool) / "lib" / f"python{python}" / "site-packages"


def setup(tool: Tool, tell: Tell = print) -> Path:
    """Make the environment, or go on making it, and return its python. What pip printed is in
    <environment>.log."""
    place, (version, wanted) = folder(tool), requirements(tool)
    if ready(tool):
        tell(f"{place} is ready")
        return _python(place)
    log = place.with_name(f"{tool.name}.log")
    uv = _uv()
    with (
        writing(place.parent, AT_ONCE, f".lock-{tool.name}"),
        open(log, "w", encoding="utf-8") as file,
    ):
        (place / STAMP).unlink(missing_ok=True)
        if not _runs(_python(place), version):
            tell(f"{place}: an environment with python {version}")
            _run(_venv(uv, version, place), file, log)
        tell(f"{place}: installing {', '.join(wanted)} (some GB; {log})")
        pip = (
            [uv, "pip", "install", "--python", str(_python(place))]
            if uv
            else [str(_python(place)), "-m", "pip", "install"]
        )
        _run([*pip, *wanted], file, log)
        check = (
            [uv, "pip", "check", "--python", str(_python(place))]
            if uv
            else [str(_python(place)), "-m", "pip", "check"]
        )
        _run(check, file, log)
    write_json(place / STAMP, {"list": _digest(tool), "python": version, "requirements": wanted})
    tell(f"{place} is ready")
    return _python(place)


def run_worker(tool: Tool, job: dict, tell: Tell = print) -> dict:
    """Run the tool's worker on `job` and return its answer.

    The worker's output goes to a log in a temporary folder, which is kept, and named, only when the
    worker fails. Its lines that begin with "[cinelab] " are passed on at once. The worker ends when
    we do, however we end.
    """
    python = python_of(tool)
    work = Path(tempfile.mkdtemp(prefix=f"cinelab-{tool.name}-"))
    write_json(work / "job.json", job)
    log = work / "log.txt"
    answer = work / "answer.json"
    code = _follow([str(python), str(tool.worker), str(work / "job.json"), str(answer)], log, tell)
    if code or not answer.exists():
        how = f"signal {-code}, often a lack of memory" if code < 0 else last_line(log)
        raise CinelabError(f"The worker of {tool.name} ended early ({how}); its log is {log}.")
    found = read_json(answer)
    shutil.rmtree(work, ignore_errors=True)
    return found


def last_line(log: Path) -> str:
    """The last line of a log that has a letter in it; progress bars overwrite theirs with a
    carriage return."""
    lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
    return next(
        (line.strip() for line in reversed(lines) if any(map(str.isalpha, line))),
        "it printed nothing",
    )


def _follow(command: list[str], log: Path, tell: Tell) -> int:
    """Run to the end with the output in `log`; the exit code. Our end of its standard input is its
    sign of our life."""
    with open(log, "wb") as file, open(log, encoding="utf-8", errors="replace") as seen:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONNOUSERSITE": "1", "PYTHONUNBUFFERED": "1"},
        )
        try:
            while process.poll() is None:
                _tell_new(seen, tell)
                time.sleep(0.05)
            _tell_new(seen, tell)
        finally:
            if process.stdin:
                process.stdin.close()
            process.kill()  # nothing to kill unless we are interrupted
            process.wait()
    return process.returncode


def _tell_new(seen, tell: Tell) -> None:
    for line in seen.readlines():
        if line.startswith(SHOWN):
            tell(line.removeprefix(SHOWN).strip())


def _digest(tool: Tool) -> str:
    return hashlib.blake2b(json.dumps(requirements(tool)).encode(), digest_size=8).hexdigest()


def _python(place: Path) -> Path:
    return place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _uv() -> str | None:
    """uv, where it is there, runs, and may choose torch: it does not look where pip finds a CPU
    build of it."""
    found = shutil.which("uv")
    if not found or "+cpu" in importlib.metadata.version("torch"):
        return None
    return (
        found if subprocess.run([found, "--version"], capture_output=True).returncode == 0 else None
    )


def _venv(uv: str | None, version: str, place: Path) -> list[str]:
    if uv:
        return [uv, "venv", "--clear", "--python", version, str(place)]
    return [find_python(version), "-m", "venv", "--clear", str(place)]


def find_python(version: str) -> str:
    """A python of that version ("3.11"): ours, or one on the PATH that really starts."""
    for name in (
        sys.executable,
        shutil.which(f"python{version}"),
        shutil.which("python3"),
        shutil.which("python"),
    ):
        if name and _runs(Path(name), version):
            return name
    raise CinelabError(
        f"python {version}: not found on this machine; install it so that `python{version}` "
        "starts, "
        "or install uv, which brings its own."
    )


def _runs(python: Path, version: str) -> bool:
    """Some `python3.10` on a PATH are only signposts that fail: ask it."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    with suppress(OSError, subprocess.TimeoutExpired):
        answer = subprocess.run(
            [str(python), "-c", code], capture_output=True, text=True, timeout=60
        )
        return answer.returncode == 0 and answer.stdout.strip() == version
    return False


def _run(command: list[str], file, log: Path) -> None:
    """One step of a setup, its output appended to the log."""
    file.flush()
    code = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
    ).returncode
    if code:
        raise CinelabError(
            f"`{' '.join(command[-3:])}` failed ({last_line(log)}); see {log}, then run the setup "
            "again to go on."
        )
