"""Which sections fit into the minutes, in their order of worth."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.gpu_bench.sections import SECTIONS, TRAINING, Section, section_named
from cinelab.errors import CinelabError

RESERVE = 15.0  # seconds for the summary and the archive
LEAST = 60.0  # seconds of training below which no job is begun


@dataclass(frozen=True)
class Slot:
    """A section in the schedule; `left_out` says why it is none of this sitting's."""

    section: Section
    expected: float
    limit: float
    left_out: str = ""


def chosen(names: Sequence[str]) -> list[Section]:
    """Return the sections of these names in order of worth; all where none is named."""
    wanted = {section_named(name).name for name in names}
    return [one for one in SECTIONS if not wanted or one.name in wanted]


def planned(
    sections: Sequence[Section], seconds: float, have: dict[str, object], *, rehearsed: bool = False
) -> list[Slot]:
    """Return the schedule of so many seconds. `have` holds the options that a section may need.

    A section is taken while its expected seconds fit. Training takes what is left.
    Raises CinelabError where no section fits.
    """
    left = seconds - RESERVE * (not rehearsed)
    slots = []
    for section in sections:
        expected, limit = section.spans(rehearsed=rehearsed)
        if section.needs and not have.get(section.needs):
            slots.append(Slot(section, expected, limit, f"it needs --{section.needs} PATH"))
            continue
        if section.name == TRAINING and not rehearsed:
            expected = limit = max(left, 0.0)
        short = left < (LEAST if section.name == TRAINING and not rehearsed else expected)
        if short:
            why = f"it needs {expected or LEAST:.0f} s and {max(left, 0):.0f} s are left"
            slots.append(Slot(section, expected, limit, why))
            continue
        slots.append(Slot(section, expected, limit))
        left -= expected
    if all(slot.left_out for slot in slots):
        raise CinelabError(too_short(slots, seconds))
    return slots


def too_short(slots: Sequence[Slot], seconds: float) -> str:
    """Return the sentence for minutes that are too few for anything."""
    able = [slot for slot in slots if not slot.left_out.startswith("it needs --")]
    if not able:
        name = slots[0].section.name
        return f"Section {name} is all that was chosen, and {slots[0].left_out}; give that option."
    least = min((slot.expected or LEAST) + RESERVE for slot in able)
    return (
        f"--minutes {seconds / 60:g} are too few for any section: the shortest needs "
        f"{least / 60:.1f} minutes; give more."
    )


def plan_text(slots: Sequence[Slot], seconds: float) -> str:
    """Return the schedule as a table, and whether it fits."""
    rows = [("section", "expected s", "limit s", "writes")]
    for slot in slots:
        if slot.left_out:
            rows.append((slot.section.name, "-", "-", f"left out: {slot.left_out}"))
        else:
            numbers = f"{slot.expected:.0f}", f"{slot.limit:.0f}"
            rows.append((slot.section.name, *numbers, slot.section.writes))
    wide = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        f"{name:<{wide[0]}}  {expected:>{wide[1]}}  {limit:>{wide[2]}}  {writes}"
        for name, expected, limit, writes in rows
    ]
    used = sum(slot.expected for slot in slots if not slot.left_out)
    out = [slot.section.name for slot in slots if slot.left_out]
    fits = f"{used:.0f} of {seconds:.0f} s are planned, {RESERVE:.0f} s are for the archive"
    lines.append(fits + (f"; left out: {', '.join(out)}." if out else "; everything fits."))
    return "\n".join(lines)
