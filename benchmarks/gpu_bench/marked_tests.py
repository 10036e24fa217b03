"""The tests marked gpu, where pytest is there."""

import os
import subprocess
import sys
from importlib.util import find_spec
from xml.etree import ElementTree

from benchmarks.gpu_bench.machine import ROOT
from benchmarks.gpu_bench.one import Task

NEEDED = ("pytest", "xdist")
FOLDER = "tests/gpu"  # the rest of the suite needs packages that a bare machine lacks


def run(task: Task) -> None:
    """Record how many passed, failed and were skipped, and the failures by name."""
    if absent := [name for name in NEEDED if find_spec(name) is None]:
        task.rows.note(
            "tests marked gpu", None, error=f"{', '.join(absent)} is not installed", refused=True
        )
        return
    report = task.work / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu"]
    command += ["--collect-only"] * task.rehearsed
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command += [
        f"--junitxml={report}",
        FOLDER if (ROOT / FOLDER).is_dir() else "tests/test_fast.py",
    ]
    code = subprocess.run(command, cwd=ROOT, env=env).returncode
    if task.rehearsed:
        task.rows.note("tests marked gpu, exit code of collecting", code)
        return
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [case for case in cases if {one.tag for one in case} & {"failure", "error"}]
    skipped = sum(case.find("skipped") is not None for case in cases)
    names = [f"{case.get('classname')}::{case.get('name')}" for case in failed]
    passed = len(cases) - len(failed) - skipped
    task.rows.note("tests marked gpu, passed", passed, ok=not failed, failed=names, skipped=skipped)
