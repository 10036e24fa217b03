"""docs/claims.md: every claim of the three papers with its verdict, from the tables of claims in
results/reference. `python -m cinelab.lab.reports.claims_page` writes it.

A claim's verdict is that of all its looks: confirmed or refuted where every look says so, else
undecided. p is corrected by Holm over all looks of all claims together; a look's own table corrects
over its study only, so a verdict here may be more careful than there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from cinelab.errors import CinelabError
from cinelab.files import write_text
from cinelab.lab.reports.number_text import interval, rounded_text
from cinelab.lab.reports.paper_claims import CLAIMS_OF_PAPERS, PAPERS, PaperClaim, Source
from cinelab.lab.reports.reference import table_of
from cinelab.lab.reports.verdicts import (
    CONFIRMED,
    NOT_MEASURED,
    REFUTED,
    UNDECIDED,
    Look,
    p_text,
    verdict,
)
from cinelab.lab.reports.withdrawn import NOTE
from cinelab.metrics.stats import Estimate, holm

REFERENCE = Path("results/reference")
CARD = "toybox-base.json"  # whose chance and upper bound stand beside a look
PAGE = Path("docs/claims.md")
HEAD = """# Every claim of the three papers

Made by `cinelab evidence --pages` from `results/reference`; the list, in our words, is
`cinelab/lab/reports/paper_claims.py`. A claim is confirmed or refuted where every look at it lies
on one side of its margin with its whole 95 % interval, and p, corrected by Holm over all looks of
this page, is at most 0.05; all else is undecided. Trainings are resampled before films where there
are several. "Not measured" is a test that is written and has not been run since its study changed.
"""
COLUMNS = (
    "look",
    "trainings",
    "n",
    "estimate",
    "margin",
    "chance",
    "upper",
    "corrected p",
    "verdict",
)


@dataclass(frozen=True)
class JudgedClaim:
    """A claim with its looks, as rows of COLUMNS, and its verdict."""

    claim: PaperClaim
    looks: list[dict[str, str]]
    verdict: str


def judged_claims(
    folder: str | Path = REFERENCE, claims: Sequence[PaperClaim] = CLAIMS_OF_PAPERS
) -> list[JudgedClaim]:
    """Every claim with its verdict, from the tables in `folder`."""
    folder = Path(folder)
    found = [[(source, _looks(folder, source)) for source in one.looks] for one in claims]
    flat = [look for one in found for _, looks in one for look in looks]
    corrected = iter(_corrected(flat))
    table = []
    for claim, sources in zip(claims, found, strict=True):
        rows = [
            _row(folder, source, look, next(corrected))
            for source, looks in sources
            for look in looks
        ]
        table.append(JudgedClaim(claim, rows, _together(claim, [row["verdict"] for row in rows])))
    return table


def _looks(folder: Path, source: Source) -> list[Look]:
    """The looks of a source; one that was not measured where its table or row is not there."""
    path = folder / source.table
    table = table_of(path) if path.exists() else pd.DataFrame(columns=["claim"])
    rows = table[table["claim"].str.contains(source.contains, regex=False)] if len(table) else table
    return [_look(row) for row in rows.to_dict("records")] or [Look(source.contains)]


def _look(row: dict) -> Look:
    """A row of a table of claims as a look."""
    kind, margin = _margin(str(row.get("margin", "> 0")))
    old = str(row["verdict"]) if str(row["verdict"]).startswith(NOTE) else ""
    if pd.isna(row.get("value")):  # not measured, or of a table that had no numbers of their own
        return Look(row["claim"], kind=kind, margin=margin, withdrawn=old)
    films = int(row["films"])
    p = row["p"]
    half = 0.5 if pd.isna(p) else float(p) / 2
    trainings = row["trainings"]
    return Look(
        row["claim"],
        Estimate(row["value"], row["low"], row["high"], films),
        half,
        half,
        kind,
        margin,
        films,
        None if pd.isna(trainings) else int(trainings),
        withdrawn=old,
    )


def _margin(text: str) -> tuple[str, float]:
    """'> 0.95' and '+- 0.05' as kind and margin."""
    sign, _, number = text.partition(" ")
    try:
        return {"+-": "level", ">": "above"}[sign], float(number)
    except (KeyError, ValueError):
        raise CinelabError(f"A margin is {text!r}; write '> 0.95' or '+- 0.05'.") from None


def _corrected(looks: Sequence[Look]) -> list[float | None]:
    """Holm's p over all looks that were measured and stand."""
    counted = [look.estimate is not None and not look.withdrawn for look in looks]
    raw = [look.p for look, counts in zip(looks, counted, strict=True) if counts]
    found = iter(holm(raw) if raw else [])
    return [next(found) if counts else None for counts in counted]


def _row(folder: Path, source: Source, look: Look, corrected: float | None) -> dict[str, str]:
    e = look.estimate
    chance, upper = _bounds(folder, source.bounds)
    return {
        "look": look.claim,
        "trainings": "" if look.trainings is None else str(look.trainings),
        "n": str(look.films or ""),
        "estimate": rounded_text(e.value) + interval(e.low, e.high) if e else "",
        "margin": f"{'+-' if look.kind == 'level' else '>'} {look.margin:g}" if e else "",
        "chance": chance if e else "",
        "upper": upper if e else "",
        "corrected p": p_text(corrected),
        "verdict": verdict(look, corrected),
    }


def _bounds(folder: Path, metric: str) -> tuple[str, str]:
    """Chance and upper bound of a metric of the reference card."""
    path = folder / CARD
    if not metric or not path.exists():
        return "", ""
    return _bounds_of(path).get(metric, ("", ""))


@cache
def _bounds_of(path: Path) -> dict[str, tuple[str, str]]:
    from cinelab.lab.reports.cards import read_card

    def text(value: float | None) -> str:
        return "" if value is None else rounded_text(value)

    card = read_card(path)
    return {
        name: (text(row["chance"]), text(row["upper"])) for name, row in card["metrics"].items()
    }


def _together(claim: PaperClaim, words: Sequence[str]) -> str:
    """The verdict of a claim from those of its looks."""
    if claim.untested:
        return f"not tested here: {claim.untested}"
    for word in (CONFIRMED, REFUTED):
        if set(words) == {word}:
            return word
    if all(word.startswith(NOTE) for word in words):
        return "withdrawn, and not measured again"
    if all(word == NOT_MEASURED or word.startswith(NOTE) for word in words):
        return NOT_MEASURED
    return UNDECIDED


def claims_markdown(folder: str | Path = REFERENCE) -> str:
    """The page's text."""
    table = judged_claims(folder)
    parts = [HEAD, _summary(table)]
    for paper, number in PAPERS.items():
        parts.append(f"## {paper}\n\narXiv [{number}](https://arxiv.org/abs/{number})\n")
        parts += [_section(one) for one in table if one.claim.paper == paper]
    return "\n".join(parts)


def _summary(table: Sequence[JudgedClaim]) -> str:
    """A line a claim."""
    lines = ["| paper | where | claim | verdict |", "|---|---|---|---|"]
    for one in table:
        claim = one.claim
        word = "not tested here" if claim.untested else one.verdict
        lines.append(f"| {claim.paper} | {claim.where} | {claim.states} | {word} |")
    return "\n".join(lines) + "\n"


def _section(one: JudgedClaim) -> str:
    """A claim with what would refute it, and its looks."""
    claim = one.claim
    lines = [f"**{claim.states}** ({claim.where})\n", f"Refuted by {claim.refuted_by}.", ""]
    if claim.untested:
        return "\n".join([*lines, f"Not tested here: {claim.untested}.", ""])
    lines += ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(row[name] for name in COLUMNS) + " |" for row in one.looks]
    return "\n".join([*lines, "", f"Verdict: **{one.verdict}**.", ""])


def claims_table(folder: str | Path = REFERENCE) -> pd.DataFrame:
    """Every look of every claim as a table: claim, paper, where, refuted by, COLUMNS and the
    claim's verdict."""
    rows = []
    for one in judged_claims(folder):
        claim = one.claim
        about = {"claim": claim.states, "paper": claim.paper, "where": claim.where}
        about |= {"refuted by": claim.refuted_by}
        for look in one.looks or [dict.fromkeys(COLUMNS, "")]:
            rows.append({**about, **look, "claim's verdict": one.verdict})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    write_text(PAGE, claims_markdown())
