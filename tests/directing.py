"""What the tests of directing share: two prompts, and waiting for what another thread does."""

import time

CAT = "wide shot of a red cat that waves in the meadow by day"
ROBOT = "close shot of a blue robot that dances in the city at night"


def until(condition, seconds=60):
    """Wait for it; fail when the time is up."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)
