"""Options of the command line whose numbers have bounds: the same that files, notebooks and
sessions have."""

from collections.abc import Callable
from typing import Any

import typer

from cinelab.errors import CinelabError
from cinelab.limits import (
    BUDGET,
    CARD_SEED,
    LEAST_BUDGET,
    SEED,
    SIDE,
    STEPS,
    check_levels,
    check_number,
)

EXIT_CODES = (
    "Exit codes: 0 all that was asked is done; 1 something failed on the way or is missing, and "
    "what was made is kept; "
    "2 bad input, said in one sentence before any work; 130 stopped by Ctrl-C."
)


def number(text: str, least: float | None = None, most: float | None = None, **bounds: Any) -> Any:
    """An option with a number from `least` to `most`; more bounds as `check_number` has them."""
    return typer.Option(help=text, callback=_checked(least, most, bounds))


def _checked(least: float | None, most: float | None, bounds: dict[str, Any]) -> Callable:
    def check(param: typer.CallbackParam, value: Any) -> Any:
        if value is not None:
            check_number(param.opts[0], value, least, most, **bounds)
        return value

    return check


def budget_option(text: str = "history chunks that may be seen at once") -> Any:
    return number(text, LEAST_BUDGET, BUDGET)


def seed_option(text: str) -> Any:
    return number(text, 0, below=SEED)


def steps_option() -> Any:
    """`--steps`, refused before anything is read; `levels_of` is what it says."""
    text = "sampling steps, or levels with commas: 1,0.6,0.3; default: the model's"
    return typer.Option(help=text, callback=lambda value: (levels_of(value), value)[1])


def levels_of(text: str | None) -> int | tuple[float, ...] | None:
    """What `--steps` says: a number of steps, or the levels themselves. Raises CinelabError."""
    if text is None:
        return None
    try:
        found = (
            tuple(float(part) for part in text.split(",") if part.strip())
            if "," in text
            else int(text)
        )
    except ValueError:
        raise CinelabError(
            f"--steps is {text[:60]!r}; give a whole number, or levels that fall with commas, "
            "like 1,0.6,0.3."
        ) from None
    if isinstance(found, int):
        check_number("--steps", found, 1, STEPS)
    else:
        check_levels(found, "--steps")
    return found


def seed_list(text: str) -> tuple[int, ...]:
    """The numbers of a `--seeds` option, each once."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 20 for part in parts):
        raise CinelabError(f"--seeds is {text[:60]!r}; give whole numbers with commas, like 0,1,2.")
    numbers = tuple(map(int, parts))
    for value in numbers:
        check_number("--seeds", value, 0, below=CARD_SEED)
    if len(set(numbers)) < len(numbers):
        raise CinelabError(f"--seeds is {text[:60]!r}; it names a seed twice, so keep one of them.")
    return numbers


def names_of(text: str, option: str) -> tuple[str, ...]:
    """The names of an option that takes several with commas. Raises CinelabError where there is
    none."""
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not names:
        raise CinelabError(f"{option} is {text[:60]!r}; give names with commas.")
    return names


def size_of(text: str) -> tuple[int, int]:
    """(height, width) of "480x832": whole multiples of 16 pixels."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(
        part.isascii() and part.isdigit() and len(part) < 9 for part in parts
    ):
        raise CinelabError(f"--size is {text[:60]!r}; give height x width, like 480x832.")
    height, width = map(int, parts)
    if min(height, width) < 16 or height % 16 or width % 16:
        raise CinelabError(f"--size is {text!r}; both sides must be whole multiples of 16 pixels.")
    for side in (height, width):
        check_number("A side of --size", side, 16, SIDE)
    return height, width
