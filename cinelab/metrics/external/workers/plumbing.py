"""What every worker script shares: read job.json, do the work, write answer.json, and end when the
caller does.

    python worker.py job.json answer.json

Only the standard library: this runs under the tool's own python (3.10 or newer), where cinelab is
not installed.
"""

import json
import os
import sys
import threading
from pathlib import Path

SHOWN = "[cinelab] "  # lines of the log that begin so are shown while the work goes on


def report_line(text: str) -> None:
    """Print a line that the caller shows at once."""
    print(f"{SHOWN}{text}", flush=True)


def run_worker_job(work) -> None:
    """Call `work(job) -> answer` on the two paths of the command line; the answer appears whole or
    not at all."""
    job, answer = map(Path, sys.argv[1:3])
    threading.Thread(target=_end_with_caller, daemon=True).start()
    found = work(json.loads(job.read_text(encoding="utf-8")))
    partial = answer.with_suffix(".partial")
    partial.write_text(json.dumps(found), encoding="utf-8")
    partial.replace(answer)


def _end_with_caller() -> None:
    """The caller holds our standard input open as long as it lives."""
    while os.read(0, 1):
        pass
    os._exit(1)
