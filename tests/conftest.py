"""What several test files share."""

import shutil
import signal

import pytest

import cinelab  # noqa: F401 - before any test imports torch, whose threads it makes sleep while they wait

FLAGS = ("--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
         "--disable-sync").split()


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium, headless, driven by Playwright; without it the browser tests are skipped, loudly."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not path:
        pytest.skip("NO BROWSER: install chromium (apt-get install chromium) to run the browser tests")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_works():
    """A shell that starts the tests in the background has Ctrl-C ignored, and what the tests start would inherit that."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
