"""summary.json and summary.md: every figure beside the ledger's prediction and what is wanted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_bench import predictions
from benchmarks.gpu_bench.sections import SECTIONS
from cinelab.files import read_lines, write_json, write_text

NAMES = ("summary.md", "summary.json")


def rows_of(work: Path) -> list[dict]:
    """Return all rows that the sections have written, in the order of the sections."""
    files = (work / "rows" / f"{section.name}.jsonl" for section in SECTIONS)
    return [row for file in files for row in read_lines(file)]


def write_summary(
    work: Path, folder: Path, machine: dict, *, outcomes: Sequence[dict], plan: str
) -> None:
    """Write both files to `folder` from what is in `work`."""
    known = predictions.read(work)
    rows = [row | {"predicted": predicted(row, known)} for row in rows_of(work)]
    record = {"machine": machine, "sections": list(outcomes), "rows": rows}
    write_json(folder / "summary.json", record)
    parts = [heading(machine), failures(rows), sections(outcomes), figures(rows)]
    write_text(folder / "summary.md", "\n\n".join([*parts, f"```\n{plan}\n```"]) + "\n")


def predicted(row: dict, known: dict[str, Any]) -> Any:
    """Return the prediction of a row, or that there is none."""
    asks = row.get("asks")
    value = known.get(predictions.key_of(asks)) if asks else None
    return predictions.NONE if value is None else value


def heading(machine: dict) -> str:
    """Return the title and the machine."""
    packages = machine.get("packages", {})
    facts = {name: value for name, value in machine.items() if name != "packages"}
    lines = [f"- {name}: {value}" for name, value in facts.items()]
    there = ", ".join(f"{name} {value or 'absent'}" for name, value in packages.items())
    return "\n".join(["# One sitting on a GPU", "", *lines, f"- packages: {there}"])


def failures(rows: Sequence[dict]) -> str:
    """Return what did not hold and what could not be measured."""
    wrong = [row for row in rows if row.get("ok") is False]
    errors = sorted((row for row in rows if row.get("error")), key=lambda row: bool(row["refused"]))
    checks = sum("ok" in row for row in rows)
    lines = [f"## Checks: {checks - len(wrong)} of {checks} hold"]
    lines += [
        f"- {row['name']}: {shown(row['value'])}, at most {shown(row.get('wanted'))} is expected"
        f"{', failed: ' + ', '.join(row['failed']) if row.get('failed') else ''}"
        for row in wrong
    ]
    lines += [
        f"- {'refused' if row['refused'] else 'failed'}, {row['name']}: {row['error']}"
        for row in errors
    ]
    return "\n".join(lines)


def sections(outcomes: Sequence[dict]) -> str:
    """Return how each section ended."""
    rows = [(one["name"], one["state"], shown(one.get("seconds")), one["why"]) for one in outcomes]
    return "## Sections\n\n" + table(("section", "state", "seconds", ""), rows)


def figures(rows: Sequence[dict]) -> str:
    """Return a table of all figures for each section."""
    parts = ["## Figures"]
    for section in dict.fromkeys(row["section"] for row in rows):
        own = [row for row in rows if row["section"] == section and not row.get("error")]
        lines = [
            (
                row["name"],
                f"{shown(row['value'])} {row['unit']}".strip(),
                shown(row["predicted"]),
                shown(row.get("wanted")),
            )
            for row in own
        ]
        parts.append(f"### {section}\n\n" + table(("", "measured", "predicted", "wanted"), lines))
    return "\n\n".join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell(text) for text in line) + " |" for line in lines)


def cell(text: Any) -> str:
    """Return a text that does not end its cell."""
    return str(text).replace("|", "\\|").replace("\n", " ")


def shown(value: Any) -> str:
    """Return a figure for a table."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
