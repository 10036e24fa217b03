"""What is printed, in one place: text as it is. Whatever stands in a title, a path or an error, no
console here reads markup or emoji codes in it, and control characters are shown and not sent to the
terminal.

Styles are given apart from the text: say(("Error: ", "red"), str(error)). Nothing that may be
copied is cut or wrapped.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

__all__ = [
    "Console",
    "Group",
    "Live",
    "Plain",
    "Table",
    "Text",
    "err",
    "moves",
    "out",
    "say",
    "show_table",
    "speakable",
    "visible",
]

UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
# how tables may look
LINED: dict[str, Any] = {}
BARE: dict[str, Any] = {
    "box": box.SIMPLE_HEAD,
    "show_edge": False,
    "pad_edge": False,
    "padding": (0, 1, 0, 0),
}
# of a record's lines, between its fields
INDENT = "  "
APART = "   "
Cell = str | tuple[str, str]  # text, or text and its style


def visible(text: object) -> str:
    """Text in which control characters, overrides of the writing direction and half characters are
    written out."""
    return UNSEEN.sub(
        lambda found: found[0].encode("unicode_escape").decode(), str(text).replace("\r\n", "\n")
    )


class Plain(Console):
    """A console that takes every text as it is."""

    def __init__(self, **more):
        super().__init__(markup=False, emoji=False, highlight=False, **more)

    def print(self, *objects, **how) -> None:
        """As rich prints. An OSError names the stream; where its reader has gone it is a
        BrokenPipeError."""
        try:
            super().print(*objects, **how)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OSError(
                error.errno, error.strerror, "standard error" if self.stderr else "standard output"
            ) from error

    def render_str(self, text: str, *, style="", justify=None, overflow=None, **_) -> Text:
        return Text(visible(text), style=style, justify=justify, overflow=overflow)


out = Plain()
err = Plain(stderr=True)


def say(*parts: Cell, to: Console = out) -> None:
    """One line, never wrapped: texts, and texts with a style."""
    to.print(Text.assemble(*map(_text, parts)), soft_wrap=True)


def _text(part: Cell) -> Text:
    text, style = part if isinstance(part, tuple) else (part, "")
    return Text(visible(text), style=style)


def show_table(
    columns: Sequence[str], rows: Iterable[Sequence[Cell]], title: str = "", console: Console = out
) -> None:
    """A table as wide as it needs to be; where the terminal is narrower without lines, else some
    lines a row. Nothing is cut."""
    lines = [[_text(cell) for cell in row] for row in rows]
    most = console.width if _narrow(console) else None
    for look in (LINED, BARE):
        table = Table(title=_text(title) if title else None, title_justify="left", **look)
        for name in columns:
            table.add_column(_text(name))
        for line in lines:
            table.add_row(*line)
        width = console.measure(table, options=console.options.update(max_width=10**6)).maximum
        if most is None or width <= most:
            with _as_wide(console, width):
                console.print(table, soft_wrap=True)
            return
    _show_records(columns, lines, title, console)


def moves(console: Console) -> bool:
    """Whether a line can be drawn anew in place: not in a file, which FORCE_COLOR alone makes look
    like a terminal."""
    if not console.is_terminal or console.is_dumb_terminal:
        return False
    return bool(console._force_terminal) or console.file.isatty()


def _narrow(console: Console) -> bool:
    """Whether somebody sees lines of a certain width: a file or a pipe takes lines of any."""
    return console.is_terminal or "COLUMNS" in os.environ


@contextmanager
def _as_wide(console: Console, width: int) -> Iterator[None]:
    before = console._width
    console.width = max(width, console.width)
    try:
        yield
    finally:
        console._width = before


def _show_records(
    columns: Sequence[str], rows: list[list[Text]], title: str, console: Console
) -> None:
    """A row's first value, and below it the others with their names, as many on a line as fit."""
    if title:
        say((title, "italic"), to=console)
    for row in rows:
        first, *others = zip(columns, row, strict=True)
        fields = [_field(name, cell) for name, cell in others if cell.plain]
        console.print(
            Text.assemble(first[1] if first[1].plain else _field(*first), style="bold"),
            soft_wrap=True,
        )
        for line in _filled(fields, console.width - len(INDENT)):
            console.print(Text(INDENT) + line, soft_wrap=True)


def _field(name: str, cell: Text) -> Text:
    return Text.assemble((f"{visible(name)}: ", "dim"), cell) if name else cell.copy()


def _filled(fields: list[Text], width: int) -> list[Text]:
    """Fields on lines of at most `width`; one that is longer has a line of its own, which is not
    wrapped."""
    lines: list[Text] = []
    for field in fields:
        if lines and lines[-1].cell_len + len(APART) + field.cell_len <= width:
            lines[-1] = Text.assemble(lines[-1], APART, field)
        else:
            lines.append(field)
    return lines


def speakable() -> None:
    """Let the standard streams write out what their encoding cannot hold, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
