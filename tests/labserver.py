"""JupyterLab on a folder, for tests that drive it in a browser."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
OWN = (
    "JUPYTER_CONFIG_DIR JUPYTERLAB_SETTINGS_DIR JUPYTERLAB_WORKSPACES_DIR IPYTHONDIR "
    "JUPYTER_RUNTIME_DIR"
).split()


@contextmanager
def jupyter_lab(root, own, *more):
    """A server on a free port; yields its address. `own` is a folder for settings and log, `more`
    are further options."""
    env = (
        os.environ
        | dict.fromkeys(OWN, str(own))
        | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    )
    (own / "labconfig").mkdir()
    news = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (own / "labconfig/page_config.json").write_text(json.dumps(news))
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        "--IdentityProvider.token=",
        f"--ServerApp.root_dir={root}",
        *more,
    ]
    with open(own / "server.log", "w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for_server(server, address, own / "server.log")
        yield address
    finally:
        server.terminate()
        server.wait(30)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for_server(server, address, log):
    deadline = time.monotonic() + 60
    while True:
        try:
            return urllib.request.urlopen(f"{address}/api", timeout=1).read()
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)


def run_all(page) -> None:
    """Run every cell of the open notebook. The kernel's light says idle before there is a kernel;
    the line at the foot of the page is not so hasty."""
    page.wait_for_selector(
        ".jp-NotebookPanel-toolbar .jp-Notebook-ExecutionIndicator[data-status='idle']"
    )
    page.wait_for_selector("#jp-main-statusbar >> text=/ipykernel. . Idle/")
    page.click("li.lm-MenuBar-item:has-text('Run')")
    page.click("li.lm-Menu-item[data-command='runmenu:run-all']")
