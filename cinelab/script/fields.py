"""The rules that the fields of a screenplay obey. A check that fails raises a FieldError of one
sentence."""

from __future__ import annotations

import difflib
from dataclasses import is_dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NoReturn

from cinelab.errors import CinelabError
from cinelab.limits import BUDGET, LEAST_BUDGET, SECONDS, SEED, SHOTS, STEPS
from cinelab.texts import HALF_PAIR

if TYPE_CHECKING:
    from cinelab.script.screenplay import PromptChange, Shot

MAX_SHOTS = SHOTS
MAX_SECONDS = SECONDS
MAX_TEXT = 2000  # characters in a prompt, a caption or a title
Field = tuple[str | int, ...]  # a place in the screenplay, such as ("shots", 2, "seconds")


class FieldError(CinelabError):
    """A refused value: `field` is its place below the object, `problem` the rest of the
    sentence."""

    def __init__(self, field: Field, problem: str):
        super().__init__(field, problem)
        self.field = field
        self.problem = problem

    def __str__(self) -> str:
        return f"{field_label(self.field)} {self.problem}"


def refuse_field(field: Field, value: Any, remedy: str) -> NoReturn:
    raise FieldError(
        field, f"is {short_value(value)}; {remedy}{'' if remedy.endswith('?') else '.'}"
    )


def check_text(field: str, value: Any, remedy: str) -> None:
    """Refuse what no screenplay holds as a prompt, a caption or a title. Raises FieldError."""
    if value is None or (isinstance(value, str) and not value.strip()):
        refuse_field((field,), None, remedy)
    if not isinstance(value, str):
        refuse_field((field,), value, "write text, in quotes")
    if len(value) > MAX_TEXT:
        raise FieldError((field,), f"has {len(value)} characters; keep it to {MAX_TEXT} at most.")
    if HALF_PAIR.search(value):
        raise FieldError((field,), "holds half of a character pair; type that character again.")


def check_seconds(field: str, value: Any) -> None:
    known = isinstance(value, Real) and not isinstance(value, bool)
    if not (known and 0 < value <= MAX_SECONDS):  # not a number (nan) fails both comparisons
        refuse_field((field,), value, f"give a number of seconds above 0 and at most {MAX_SECONDS}")


def check_change_times(changes: tuple[PromptChange, ...], seconds: float) -> None:
    last = 0.0
    for i, change in enumerate(changes):
        place = ("changes", i, "at")
        if change.at >= seconds:
            refuse_field(
                place, change.at, f"give a time inside its shot, below {short_value(seconds)}"
            )
        if change.at <= last:
            refuse_field(
                place, change.at, f"give a time after the change before it, {short_value(last)}"
            )
        last = change.at


def check_shots(shots: tuple[Shot, ...]) -> None:
    if not shots:
        refuse_field(("shots",), None, "add at least one shot with a prompt and seconds")
    if len(shots) > MAX_SHOTS:
        problem = f"lists {len(shots)} shots and the limit is {MAX_SHOTS}; split the film."
        raise FieldError(("shots",), problem)
    if shots[0].cut == "continue":
        refuse_field(("shots", 0, "cut"), "continue", "leave it out, since nothing comes before")


def check_settings(part: Any) -> None:
    if part.seed is not None:
        check_seed(part.seed)
    if isinstance(part.policy, str) or _is_empty(part.policy):
        check_text("policy", part.policy, "name a memory policy, such as camr")
    elif part.policy is not None and not is_policy(part.policy):
        refuse_field(
            ("policy",), part.policy, "name a memory policy, such as camr, or give a Policy"
        )
    if isinstance(part.steps, (list, tuple)) and part.steps:
        object.__setattr__(part, "steps", tuple(map(float, _numbers("steps", part.steps))))
    # a policy of one's own may keep fewer
    least_budget = 0 if is_policy(part.policy) else LEAST_BUDGET
    for name, least, most in (("budget", least_budget, BUDGET), ("steps", 0, STEPS)):
        if name == "steps" and (
            is_sampling(part.steps) or (isinstance(part.steps, tuple) and part.steps)
        ):
            continue
        value = getattr(part, name)
        if value is not None and (
            not isinstance(value, Integral)
            or isinstance(value, bool)
            or not least <= int(value) <= most
        ):
            refuse_field(
                (name,), value, f"give a whole number of at least {least} and at most {most}"
            )


def _is_empty(value: Any) -> bool:
    return value in ([], {})


def is_policy(value: Any) -> bool:
    """Whether a value is a memory policy, which this room does not know by class."""
    return (
        is_dataclass(value)
        and callable(getattr(value, "budget_at", None))
        and not isinstance(value, type)
    )


def is_sampling(value: Any) -> bool:
    """Whether a value says how chunks are sampled, in a class that this room does not know."""
    return (
        is_dataclass(value)
        and callable(getattr(value, "with_steps", None))
        and not isinstance(value, type)
    )


def _numbers(field: str, values: Any) -> Any:
    for value in values:
        if not isinstance(value, Real) or isinstance(value, bool):
            refuse_field(
                (field,), value, "give levels as numbers that fall, such as [1.0, 0.6, 0.3]"
            )
    return values


def check_seed(value: Any) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or not 0 <= int(value) < SEED:
        refuse_field(("seed",), value, "give a whole number, 0 or above and below 2**63")


def checked_parts(field: str, value: Any, kind: type) -> tuple:
    """The value as a tuple of `kind`; lists are taken too. Raises FieldError."""
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)):
        refuse_field((field,), value, f"write a list of {field}")
    for i, part in enumerate(value):
        if not isinstance(part, kind):
            refuse_field((field, i), part, f"make it a {kind.__name__}")
    return tuple(value)


def field_label(field: Field) -> str:
    """("shots", 2, "changes", 0, "at") -> "shot 3, change 1: at"."""
    places = [
        f"{str(field[i - 1])[:-1]} {n + 1}" for i, n in enumerate(field) if isinstance(n, int)
    ]
    name = [field[-1]] if field and isinstance(field[-1], str) else []
    return ": ".join([", ".join(places)] * bool(places) + name) or "the screenplay"


def short_value(value: Any) -> str:
    """Return any value in short, on one line."""
    if value is None:
        return "empty"
    if isinstance(value, (list, tuple, dict)):
        return "a mapping" if isinstance(value, dict) else "a list"
    try:
        text = repr(value) if isinstance(value, str) else " ".join(str(value).split())
    except ValueError:  # Python refuses to print an int of more than 4300 digits
        return "a huge number"
    return text if len(text) <= 60 else f"{text[:57]}..."


def guess(word: Any, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(str(word).lower(), known, 1, 0.5)
    return f"did you mean {near[0]!r}?" if near else ""
