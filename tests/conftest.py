"""What several test files share, and how their tests are dealt out to the workers of `pytest
-n`."""

import os
import shutil
import signal

import pytest

try:
    from xdist.scheduler import LoadScopeScheduling
except ImportError:  # one process, as on a machine where nothing is installed for the tests
    LoadScopeScheduling = object

# A worker has its share of the cores. Said before cinelab is imported, and that before any test
# imports torch, which reads it.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    os.environ.setdefault(
        "CINELAB_CORES", str(max(1, cores // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))
    )

# The same everywhere: a machine's GPU is for the tests that ask for it (the fixture `gpu`).
os.environ["CINELAB_DEVICE"] = "cpu"
# "pretend": the tests of a GPU are rehearsed on the CPU, on a device of tests/pretend.py
GPU = os.environ.get("CINELAB_TEST_GPU", "cuda")
NO_GPU = "needs a GPU"

from cinelab import threads  # noqa: E402
from cinelab.devices import why_no_gpu  # noqa: E402

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update "
    "--disable-sync"
).split()
MOST = 8  # workers; each holds torch, and some of them a browser or two trainings
ALONE = (
    "test_notebooks.py",
    "test_sweep.py",
    "test_cli.py",
    "test_cluster.py",
    "test_launch.py",
    "test_fast.py",
    "test_outside.py",
)


class ByFile(LoadScopeScheduling):
    """The tests of a file go to one worker, which makes what they share once; those of the files in
    ALONE share nothing that is expensive and go one by one. Most tests come first, so single ones
    fill up the end."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.split("::", 1)[0]
        return nodeid if path.endswith(ALONE) else path


def pytest_xdist_make_scheduler(config, log):
    return ByFile(config, log) if config.getvalue("dist") == "load" else None


def pytest_xdist_auto_num_workers(config):
    """`-n auto`: a worker for each core that we may use."""
    return min(threads.cores(), MOST)


def pytest_collection_modifyitems(items):
    """Skip the tests that are marked `gpu` where there is none. Nothing else asks for one."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    if GPU == "pretend":
        import pretend

        pretend.install()
    elif why := why_no_gpu():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=f"{NO_GPU}: {why}"))


def pytest_terminal_summary(terminalreporter):
    """State how many tests did not run for want of a GPU."""
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum(NO_GPU in str(report.longrepr) for report in skipped)
    if count:
        terminalreporter.section("NO GPU", sep="=", yellow=True, bold=True)
        terminalreporter.line(
            f"{count} test{'s need' if count > 1 else ' needs'} a GPU and did not run; on a "
            "machine with one: pytest -m gpu",
            yellow=True,
        )


@pytest.fixture
def device():
    """The device of a test that is the same on all of them: the CPU."""
    return "cpu"


@pytest.fixture
def gpu(monkeypatch):
    """The GPU of a test that is marked `gpu`: all that names no device computes on it. In the
    rehearsal it is the pretended one."""
    monkeypatch.setenv("CINELAB_DEVICE", GPU)
    return GPU


@pytest.fixture
def cuda(gpu):
    """A GPU that is no pretended one, for what only a real one can show."""
    if gpu == "pretend":
        pytest.skip(f"{NO_GPU}, and no pretended one")
    return gpu


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium, headless, driven by Playwright; without it the browser tests are skipped,
    loudly."""
    path = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if not path:
        pytest.skip(
            "NO BROWSER: install chromium (apt-get install chromium) to run the browser tests"
        )
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_works():
    """A shell that starts the tests in the background has Ctrl-C ignored, and what the tests start
    would inherit that."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk():
    """Writes wait for the disk so that they outlive a power cut, which no test can try: here they
    need not."""
    real = os.fsync
    os.fsync = lambda handle: None
    yield
    os.fsync = real
