"""`cinelab doctor`: what this machine has for each feature."""

import typer

from cinelab.printing import say
from cinelab.progress import SHORT, progress

STATES = {True: ("ok", "green"), None: ("--", "yellow"), False: ("no", "red")}


def doctor_command():
    """What this machine has, and what is missing for which feature."""
    with progress("examining this machine", SHORT):
        from cinelab.lab.doctor import examine

        findings = examine()
    pad = max(len(finding.what) for finding in findings)
    for finding in findings:
        say(STATES[finding.ok], f"  {finding.what.ljust(pad)}  {finding.found}")
        if not finding.ok and finding.remedy:
            # on a line of its own, never wrapped: it may be a command
            say(f"      {finding.remedy}")
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(1)
