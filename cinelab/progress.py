"""What a long command is doing: one line that moves on a terminal, elsewhere a line now and then.

    with progress("making the film") as show:
        show.at(12, 40, "chunk")            chunk 12 of 40, 9.8 a second, 2.9 s to go
        show.stage("scoring")               the next part of the work
        show("3 of 8: results/a.mp4")       the third of eight begins, so `tell=show` is enough
        show("passed over: notes.txt")      any other text is a line that stays

The clock ticks while nothing arrives, and the time to go is never 0 while work goes on.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import mean

from cinelab.printing import Console, Live, Text, err, moves, out, say, visible

OFTEN = 10.0  # seconds between two plain lines of one stage
SHORT = 2.0  # seconds in which a command needs not say what it does
TURNING = "|/-\\"
COUNTED = re.compile(r"(\d+) of (\d+): (.*)", re.DOTALL)


class Progress:
    """The stages of a command's work, and how far the present one is. See the head of the file."""

    def __init__(self, text: str, quiet: float = 0.0, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.quiet = quiet
        self.lives = False
        # when the last plain line was printed, and of which stage
        self.shown: tuple[float, str] | None = None
        self.began = clock()
        self._begin(text)

    def _begin(self, text: str) -> None:
        self.text = text
        self.what = ""
        self.unit = ""
        self.done = 0
        self.total: int | None = None
        self.first: int | None = None  # what was done when counting began
        self.since = self.clock()  # when it began
        self.last = self.since  # when `done` last grew

    def stage(self, text: str) -> None:
        """Another part of the work begins."""
        self._begin(text)
        self._plain()

    def at(self, done: int, total: int | None = None, unit: str = "", what: str = "") -> None:
        """So many are done, of how many if that is known; `what` is the one at work."""
        if self.first is None:
            self.first, self.since = done, self.clock()
        if done != self.done:
            self.last = self.clock()
        self.done = done
        self.total = total
        self.unit = unit
        self.what = what
        self._plain()

    def __call__(self, text: str) -> None:
        """A text like "3 of 8: name" moves the present stage; any other is a line that stays."""
        if counted := COUNTED.fullmatch(text):
            self.at(int(counted[1]) - 1, int(counted[2]), what=counted[3])
        else:
            say((text, "dim"))

    def line(self) -> str:
        """Where the work stands now."""
        return ", ".join(filter(None, [f"{self.text}{self._count()}", self._pace(), self._left()]))

    def _count(self) -> str:
        if self.what:  # the next one is at work
            return f": {self.done + 1} of {self.total}, {self.what}"
        of = f" of {self.total}" if self.total else ""
        return f": {self.unit or 'step'} {self.done}{of}" if self.done or self.total else ""

    def _each(self) -> float | None:
        """Seconds that one takes; None before two are known."""
        made = self.done - (self.first or 0)
        return (self.last - self.since) / made if made > 0 and self.last > self.since else None

    def _pace(self) -> str:
        each = self._each()
        if each is None:
            return ""
        return f"{1 / each:.3g} a second" if each < 1 else f"{spoken(each)} each"

    def _left(self) -> str:
        each = self._each()
        if not self.total or each is None or self.done >= self.total:
            return ""
        seconds = (self.total - self.done - 1) * each + still([each], self.clock() - self.last)
        return f"{duration_text(seconds)} to go"

    def render(self) -> Text:
        """The line that moves, cut to the terminal's width: nothing in it is to be copied."""
        spent = self.clock() - self.began
        turn = TURNING[int(8 * spent) % len(TURNING)]
        line = visible(f"{turn} {self.line()} ({spoken(spent)})")
        return Text(line, no_wrap=True, overflow="ellipsis")

    def _plain(self) -> None:
        """Print a line where no line moves: at once for a new stage, then every OFTEN seconds."""
        now = self.clock()
        fresh = self.shown is None or self.shown[1] != self.text or now - self.shown[0] >= OFTEN
        if fresh and not self.lives and now - self.began >= self.quiet:
            self.shown = (now, self.text)
            say((self.line(), "dim"))


@contextmanager
def progress(text: str, quiet: float = 0.0, often: float = 8.0) -> Iterator[Progress]:
    """Show what is done inside; the moving line, drawn `often` a second, is gone afterwards.

    Where no line moves, nothing is printed in the first `quiet` seconds.
    """
    shown = Progress(text, quiet)
    screen = terminal()
    if screen is None:
        shown._plain()
        yield shown
        return
    shown.lives = True
    with Live(
        console=screen, get_renderable=shown.render, refresh_per_second=often, transient=True
    ):
        yield shown


def terminal() -> Console | None:
    """The console on which a line can move: stdout's, stderr's where only stdout is no terminal, or
    None."""
    return next((one for one in (out, err) if moves(one)), None)


def still(durations: Sequence[float], spent: float) -> float:
    """Seconds that work which has taken `spent` goes on, by what others took; never 0.

    The mean of those that took longer says it; for the slowest so far it is half as long again.
    """
    longer = [one for one in durations if one > spent]
    return mean(longer) - spent if longer else spent / 2


def spoken(seconds: float) -> str:
    """Seconds in words: 31.2 s, 3 min 12 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def duration_text(seconds: float) -> str:
    """A forecast in words, which is never 0."""
    if seconds < 1:
        return "under 1 s"
    return f"{seconds:.0f} s" if seconds < 59.5 else spoken(max(60, seconds))
