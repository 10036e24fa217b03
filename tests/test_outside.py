"""Tools in environments of their own: a half-made one is no environment, and a worker that dies
says why and where."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import yaml

from cinelab.errors import CinelabError
from cinelab.metrics.external import environments as outside
from cinelab.metrics.external.environments import (
    TOOLS,
    VBENCH,
    Tool,
    find_python,
    find_tool,
    python_of,
    ready,
    requirements,
    run_worker,
    setup,
)

ROOT = Path(__file__).parents[1]
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
WORKERS = ROOT / "cinelab" / "metrics" / "external" / "workers"


def tool_of(
    folder: Path, code: str = "", version: str = HERE, wanted: tuple[str, ...] = ()
) -> Tool:
    """A tool whose list asks for nothing and whose worker is `code`, run by our own python."""
    listing = folder / "environment-tiny.yml"
    listing.write_text(
        yaml.safe_dump(
            {"name": "tiny", "dependencies": [f"python={version}", {"pip": list(wanted)}]}
        )
    )
    worker = folder / "worker.py"
    worker.write_text(
        f"import sys\nsys.path.insert(0, {str(WORKERS)!r})\nfrom plumbing import report_line, "
        f"run_worker_job\n{code}\n"
    )
    return Tool("tiny", listing, worker, "tests")


def make(tool: Tool) -> None:
    """An environment that is our own: a link to this python, and the stamp."""
    python = outside._python(outside.folder(tool))
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (outside.folder(tool) / outside.STAMP).write_text(json.dumps({"list": outside._digest(tool)}))


@pytest.fixture(autouse=True)
def envs(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CINELAB_ENVS", str(tmp_path / "envs"))
    # where the logs of failed workers stay
    monkeypatch.setattr(outside.tempfile, "tempdir", str(tmp_path))
    return tmp_path / "envs"


def test_every_tool_has_its_list_its_worker_and_a_python():
    for name, tool in TOOLS.items():
        python, wanted = requirements(tool)
        assert tool.worker.is_file() and find_tool(name) is tool
        assert python.count(".") == 1 and any(line.startswith("torch==") for line in wanted)
    assert "vbench==0.1.5" in requirements(VBENCH)[1]
    with pytest.raises(
        CinelabError, match="'vbnch' is not known; the tools are vbench, visionreward"
    ):
        find_tool("vbnch")


def test_setup_makes_an_environment_that_works_and_is_not_made_twice(tmp_path):
    tool = tool_of(tmp_path, wanted=("pip",))
    told = []
    python = setup(tool, told.append)
    said = subprocess.run(
        [str(python), "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True
    )
    assert Path(said.stdout.strip()) == outside.folder(tool) and python_of(tool) == python
    before = len(told)
    assert setup(tool, told.append) == python and told[before:] == [
        f"{outside.folder(tool)} is ready"
    ]


def test_a_missing_environment_names_the_command(tmp_path):
    with pytest.raises(
        CinelabError, match="is not there; make it with `cinelab eval setup vbench`"
    ):
        python_of(VBENCH)
    with pytest.raises(CinelabError, match="cinelab eval setup tiny"):
        run_worker(tool_of(tmp_path), {})


def test_a_half_made_environment_is_never_taken_for_a_finished_one(tmp_path):
    tool = tool_of(tmp_path)
    make(tool)
    assert ready(tool)
    (outside.folder(tool) / outside.STAMP).unlink()
    with pytest.raises(CinelabError, match="is only half made"):
        python_of(tool)


def test_a_setup_that_fails_names_its_log_and_the_next_one_goes_on(tmp_path, envs):
    broken = tool_of(tmp_path, wanted=("no-such-file-here.whl",))
    with pytest.raises(CinelabError, match="run the setup again") as error:
        setup(broken, lambda text: None)
    log = envs / "tiny.log"
    assert (
        str(log) in str(error.value)
        and "no-such-file-here" in log.read_text()
        and not ready(broken)
    )
    made = outside._python(outside.folder(broken)).stat().st_ino
    good = tool_of(tmp_path)
    good = replace(good, environment=good.environment)
    listing = yaml.safe_load(good.environment.read_text())
    listing["dependencies"][1]["pip"] = ["pip"]
    good.environment.write_text(yaml.safe_dump(listing))
    setup(good, lambda text: None)
    assert ready(good) and outside._python(outside.folder(good)).stat().st_ino == made, (
        "what was made was made anew"
    )


def test_another_list_of_requirements_is_another_environment(tmp_path):
    tool = tool_of(tmp_path)
    make(tool)
    tool_of(tmp_path, wanted=("wheel",))
    assert not ready(tool)
    with pytest.raises(CinelabError, match="of an older list"):
        python_of(tool)


def test_a_python_that_is_not_here_is_one_clear_sentence(tmp_path, monkeypatch):
    signpost = tmp_path / "bin" / "python3.4"
    signpost.parent.mkdir()
    signpost.write_text("#!/bin/sh\necho 'no such version' >&2\nexit 127\n")
    signpost.chmod(0o755)
    monkeypatch.setenv("PATH", f"{signpost.parent}:{os.environ['PATH']}")
    with pytest.raises(
        CinelabError, match="python 3.4: not found on this machine; install it"
    ) as error:
        setup(tool_of(tmp_path, version="3.4"), lambda text: None)
    assert "uv" in str(error.value)
    assert find_python(HERE) == sys.executable


@pytest.mark.parametrize(
    "text", ["", "name: x", "dependencies: [pip]", "dependencies: ['python=3.11']", "a: [", "7"]
)
def test_a_list_that_cannot_be_read_is_named(tmp_path, text):
    tool = tool_of(tmp_path)
    tool.environment.write_text(text)
    with pytest.raises(CinelabError, match="environment-tiny.yml"):
        requirements(tool)


def test_the_answer_comes_back_and_marked_lines_are_told(tmp_path):
    code = (
        "def work(job):\n"
        "    report_line('half way'); print('not for you')\n"
        "    return {'sum': sum(job['numbers'])}\n"
        "run_worker_job(work)"
    )
    tool = tool_of(tmp_path, code)
    told = []
    make(tool)
    assert run_worker(tool, {"numbers": [1, 2, 3]}, told.append) == {"sum": 6}
    assert told == ["half way"]


def test_a_crash_is_the_last_line_of_a_log_that_is_kept(tmp_path):
    tool = tool_of(
        tmp_path,
        "def work(job):\n    print('warming up')\n    raise ValueError('no weights for "
        "you')\nrun_worker_job(work)",
    )
    make(tool)
    with pytest.raises(CinelabError, match="ValueError: no weights for you") as error:
        run_worker(tool, {}, lambda text: None)
    log = Path(str(error.value).rsplit("its log is ", 1)[1].rstrip("."))
    assert "warming up" in log.read_text() and "Traceback" in log.read_text()


def test_a_killed_worker_and_a_silent_one_are_told_apart(tmp_path):
    tool = tool_of(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    make(tool)
    with pytest.raises(CinelabError, match="signal 9, often a lack of memory"):
        run_worker(tool, {}, lambda text: None)
    tool.worker.write_text("pass\n")
    with pytest.raises(CinelabError, match="it printed nothing"):
        run_worker(tool, {}, lambda text: None)


def test_progress_bars_do_not_hide_the_last_line(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("RuntimeError: out of luck\n 33%|###\r100%|####\r\n----\n")
    assert outside.last_line(log) == "RuntimeError: out of luck"


@pytest.mark.skipif(os.name == "nt", reason="kills a process the POSIX way")
def test_a_worker_ends_when_we_are_killed(tmp_path):
    code = (
        "import os, time\n"
        "def work(job):\n"
        "    open(job['file'], 'w').write(str(os.getpid()))\n"
        "    time.sleep(600)\n"
        "run_worker_job(work)"
    )
    tool = tool_of(tmp_path, code)
    file = tmp_path / "pid"
    make(tool)
    script = f"""
from pathlib import Path
from cinelab.metrics.external.environments import Tool, run_worker
tool = Tool("tiny", Path({str(tool.environment)!r}), Path({str(tool.worker)!r}), "")
run_worker(tool, {{"file": {str(file)!r}}})
"""
    caller = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, env=os.environ | {"TMPDIR": str(tmp_path)}
    )
    _until(lambda: file.exists() and file.read_text())
    worker = psutil.Process(int(file.read_text()))
    caller.kill()
    caller.wait()
    _until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


def _until(true, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.05)


def test_uv_does_not_choose_torch_beside_a_cpu_build(tmp_path, monkeypatch):
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\nexit 0\n")
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(outside.importlib.metadata, "version", lambda name: "2.13.0+cpu")
    assert outside._uv() is None
    monkeypatch.setattr(outside.importlib.metadata, "version", lambda name: "2.13.0")
    assert outside._uv() == str(uv)
    uv.write_text("#!/bin/sh\nexit 1\n")
    assert outside._uv() is None
