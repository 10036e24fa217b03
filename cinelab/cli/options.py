"""The options that several commands share, and the bounds of their numbers.

The bounds are those of `cinelab.limits`, which files, notebooks and sessions obey as well. A value
outside them is refused before any work is done.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from cinelab.devices import device_of_process
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
    "Exit codes: 0 everything that was requested is done; 1 something failed on the way or is "
    "missing, and what was made stays; 2 bad input, refused in one sentence before any work; 130 "
    "stopped by Ctrl-C."
)
POLICIES = "camr, causalcine, full, window, sink, ..., or your own as module:Name"
ATTENDED = "history chunks that a chunk attends to"


def number_option(
    text: str, least: float | None = None, most: float | None = None, **bounds: Any
) -> Any:
    """Return an option with a number from `least` to `most`; `bounds` as in `check_number`."""
    return typer.Option(help=text, callback=_checked(least, most, bounds))


def _checked(least: float | None, most: float | None, bounds: dict[str, Any]) -> Callable:
    def check(param: typer.CallbackParam, value: Any) -> Any:
        if value is not None:
            check_number(param.opts[0], value, least, most, **bounds)
        return value

    return check


def budget_option(text: str = ATTENDED) -> Any:
    """Return an option with a budget: the history chunks that a chunk attends to."""
    return number_option(text, LEAST_BUDGET, BUDGET)


def seed_option(text: str) -> Any:
    """Return an option with the seed of a film."""
    return number_option(text, 0, below=SEED)


def output_option(text: str) -> Any:
    """Return the option -o, --output."""
    return typer.Option("-o", "--output", help=text)


def _steps_callback(value: str | None) -> str | None:
    levels_of(value)  # refuses a bad value before any file is read
    return value


def _speed_callback(value: str | None) -> str | None:
    known = ("exact", "compiled", "fast")  # those of scale.acceleration, which would import torch
    if value is not None and value not in known:
        raise CinelabError(f"--speed is {value[:60]!r}; use one of {', '.join(known)}.")
    return value


Budget = Annotated[int, budget_option()]
OwnBudget = Annotated[int | None, budget_option(f"{ATTENDED}; default: as in training, else 6")]
Policy = Annotated[str | None, typer.Option(help=f"{POLICIES}; default: as in training, else camr")]
Model = Annotated[str, typer.Option(help="shipped name, folder or weights file")]
Seed = Annotated[int | None, seed_option("default: the screenplay's")]
Steps = Annotated[
    str | None,
    typer.Option(
        help="sampling steps, or noise levels with commas: 1,0.6,0.3; default: the model's",
        callback=_steps_callback,
    ),
]


Speed = Annotated[
    str | None,
    typer.Option(
        help="exact, compiled (the model's precision, torch.compile) or fast (that, with linears "
        "and attention in eight bits); default: the model folder's cinelab.json, else exact",
        callback=_speed_callback,
    ),
]
Fallback = Annotated[
    bool, typer.Option(help="run as exact, with a warning, where --speed cannot be had")
]
Device = Annotated[
    str | None,
    typer.Option(
        help="auto, cpu, cuda or cuda:1; default: $CINELAB_DEVICE, else auto: a GPU where one is"
    ),
]


def on_device(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the option --device: all that it does and starts computes there."""

    @wraps(command)
    def run(*args: Any, device: str | None = None, **given: Any) -> None:
        with device_of_process(device):
            command(*args, **given)

    signature = inspect.signature(command)
    option = inspect.Parameter(
        "device", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Device
    )
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]  # typer reads it
        parameters=[*signature.parameters.values(), option]
    )
    run.__annotations__ = command.__annotations__ | {"device": Device}
    return run


def levels_of(text: str | None) -> int | tuple[float, ...] | None:
    """Read `--steps`: a number of steps, or the noise levels themselves. Raises CinelabError."""
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
    """Read `--seeds`: whole numbers with commas, each once. Raises CinelabError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 20 for part in parts):
        raise CinelabError(f"--seeds is {text[:60]!r}; give whole numbers with commas, like 0,1,2.")
    numbers = tuple(map(int, parts))
    for value in numbers:
        check_number("--seeds", value, 0, below=CARD_SEED)
    if len(set(numbers)) < len(numbers):
        raise CinelabError(f"--seeds is {text[:60]!r}; it names a seed twice, so keep one of them.")
    return numbers


def comma_names(text: str, option: str) -> tuple[str, ...]:
    """Read an option that takes several names with commas. Raises CinelabError where there is
    none."""
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not names:
        raise CinelabError(f"{option} is {text[:60]!r}; give names with commas.")
    return names


def frame_size(text: str) -> tuple[int, int]:
    """Read (height, width) in pixels from "480x832": whole multiples of 16. Raises CinelabError."""
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
