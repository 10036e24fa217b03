"""Progress of long commands: what it says, with which rate and time to go; plain lines where no
line can move."""

import io

import pytest

from cinelab import printing, progress
from cinelab.progress import Progress, duration_text, spoken, still


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def show(clock):
    return Progress("making the film", clock=clock)


def count(show, clock, upto, of=40, seconds=0.5):
    for done in range(1, upto + 1):
        clock.now += seconds
        show.at(done, of, "chunk")


def test_a_count_has_a_rate_and_a_time_to_go(show, clock):
    assert show.line() == "making the film"
    count(show, clock, 20)
    assert show.line() == "making the film: chunk 20 of 40, 2 a second, 10 s to go"
    clock.now += 0.3  # the clock ticks while nothing arrives
    assert show.line().endswith("9 s to go") or show.line().endswith("10 s to go")


def test_the_time_to_go_is_never_frozen_or_nothing_while_one_is_at_work(show, clock):
    count(show, clock, 39)
    seen = []
    for _ in range(6):
        clock.now += 4
        seen.append(show.line().split(", ")[-1])
    assert len(set(seen)) == 6 and all(
        text.endswith("to go") and not text.startswith("0") for text in seen
    )


def test_what_was_done_before_sets_no_pace(show, clock):
    show.at(900, 1000, "film")
    clock.now += 10
    show.at(901, 1000, "film")
    assert "10.0 s each" in show.line() and "16 min 30 s to go" in show.line()


def test_named_parts_are_counted_and_other_texts_stay(show, clock, capsys):
    show("3 of 8: films/a.mp4")
    assert show.line() == "making the film: 3 of 8, films/a.mp4"
    show("passed over notes.txt")
    assert "passed over notes.txt\n" in capsys.readouterr().out


def test_where_no_line_moves_there_is_one_a_stage_and_one_every_ten_seconds(clock, capsys):
    with progress.progress("loading") as show:
        show.clock = clock
        show.began = 0.0
        show.shown = None
        show.stage("making the film")
        count(show, clock, 40, seconds=0.5)
        show.stage("scoring")
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "loading",
        "making the film",
        "making the film",
        "making the film",
        "scoring",
    ]
    assert "chunk 20 of 40" in lines[2] and all(line.isascii() for line in lines)


def test_a_short_command_says_nothing_in_a_pipe(capsys):
    with progress.progress("reading the runs", quiet=2.0) as show:
        show.at(1, 3, "run")
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_one_line_that_is_gone_afterwards(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(
        progress,
        "out",
        printing.Plain(file=screen, force_terminal=True, width=40, legacy_windows=False),
    )
    with progress.progress("a very long description of what is being done here just now") as show:
        assert show.lives
        show("this stays")
    drawn = screen.getvalue()
    assert "…" in drawn and drawn.rstrip().endswith("\x1b[2K"), (
        "cut to one line, and removed at the end"
    )


@pytest.mark.parametrize(
    "name, value", [("FORCE_COLOR", "1"), ("TTY_COMPATIBLE", "1"), ("TERM", "dumb")]
)
def test_a_file_gets_no_moving_line_whatever_the_environment_says(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    file = io.StringIO()
    for one in ("out", "err"):
        monkeypatch.setattr(progress, one, printing.Plain(file=file))
    assert progress.terminal() is None


def test_others_times_foretell_what_is_still_to_come():
    assert still([10, 20, 30], 15) == 10 and still([10], 4) == 6
    assert still([10], 12) == 6 and still([10], 30) == 15  # the slowest so far: a guess that grows


def test_times_as_one_says_them():
    assert [spoken(s) for s in (0.04, 59.9, 192, 7500)] == [
        "0.0 s",
        "59.9 s",
        "3 min 12 s",
        "2 h 5 min",
    ]
    assert [duration_text(s) for s in (0.0, 0.4, 31.2, 59.7, 192)] == [
        "under 1 s",
        "under 1 s",
        "31 s",
        "1 min 0 s",
        "3 min 12 s",
    ]
