"""The pages are what the tables say: claims of the papers with verdicts, tables of the pages, and
the one command that makes both."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from typer.main import get_command

from cinelab.cli.commands import app
from cinelab.errors import CinelabError, Failed
from cinelab.files import write_json
from cinelab.lab.reports import claims_page, evidence, page_tables, reference_tables, withdrawn
from cinelab.lab.reports.paper_claims import CLAIMS_OF_PAPERS, PAPERS, PaperClaim, Source
from cinelab.lab.sweeps.grid import load_sweep
from cinelab.lab.sweeps.notebook import check_parameters

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "results" / "reference"
# written by studies that are not items of the evidence yet


# The claims of the papers


def test_every_claim_has_a_test_or_a_reason():
    names = [claim.name for claim in CLAIMS_OF_PAPERS]
    assert len(set(names)) == len(names) and {c.paper for c in CLAIMS_OF_PAPERS} == set(PAPERS)
    for claim in CLAIMS_OF_PAPERS:
        assert bool(claim.looks) != bool(claim.untested), claim.name
        assert claim.states.endswith(".") and claim.refuted_by and claim.where


def test_every_table_of_claims_is_made_by_an_item():
    texts = (ROOT / evidence.ITEMS).read_text() + Path(reference_tables.__file__).read_text()
    for source in {one.table for claim in CLAIMS_OF_PAPERS for one in claim.looks}:
        stem = re.sub(r"(_claims|_course)?\.csv$", "", source)
        assert stem in texts, source


def table(folder, rows, name="t.csv"):
    columns = ["claim", "value", "low", "high", "margin", "films", "trainings", "p", "verdict"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / name, index=False)


def verdict_of(folder, *looks):
    claim = PaperClaim("x", "CausalCine", "here", "States.", "nothing", looks)
    [found] = claims_page.judged_claims(folder, [claim])
    return found


UP = ("a is ahead", 0.2, 0.1, 0.3, "> 0", 96, 3, 0.001, "confirmed")
DOWN = ("b is ahead", -0.2, -0.3, -0.1, "> 0", 96, 3, 0.001, "refuted")


def test_a_claim_is_decided_where_all_its_looks_agree(tmp_path):
    table(tmp_path, [UP, DOWN, ("c is ahead", *UP[1:6], 1, *UP[7:])])
    a, b, c, d = (Source("t.csv", f"{name} is ahead") for name in "abcd")
    assert verdict_of(tmp_path, a).verdict == "confirmed"
    assert verdict_of(tmp_path, b).verdict == "refuted"
    assert verdict_of(tmp_path, a, b).verdict == "undecided"
    assert verdict_of(tmp_path, c).looks[0]["verdict"] == "undecided: 1 training"
    assert verdict_of(tmp_path, d).verdict == "not measured"
    assert verdict_of(tmp_path, a, d).verdict == "undecided"
    assert verdict_of(tmp_path, Source("none.csv", "x")).verdict == "not measured"


def test_p_is_corrected_over_all_looks_of_the_page(tmp_path):
    rows = [(f"look {n} is ahead", *UP[1:7], 0.02, "confirmed") for n in range(5)]
    table(tmp_path, rows)
    alone = verdict_of(tmp_path, Source("t.csv", "look 0"))
    assert alone.verdict == "confirmed"
    crowd = verdict_of(tmp_path, Source("t.csv", "is ahead"))
    assert [row["corrected p"] for row in crowd.looks] == ["0.100"] * 5
    assert crowd.verdict == "undecided"


def test_what_is_withdrawn_has_no_verdict(tmp_path):
    table(tmp_path, [(*UP[:8], "withdrawn: unequal")])
    found = verdict_of(tmp_path, Source("t.csv", "a is ahead"))
    assert found.verdict == "withdrawn, and not measured again"
    assert found.looks[0]["verdict"] == "withdrawn: unequal"


def test_a_margin_that_cannot_be_read_is_refused(tmp_path):
    table(tmp_path, [(*UP[:4], "about 0", *UP[5:])])
    with pytest.raises(CinelabError, match="A margin is 'about 0'"):
        verdict_of(tmp_path, Source("t.csv", "a is ahead"))


# The pages


@pytest.mark.parametrize("page", page_tables.PAGES)
def test_the_tables_of_a_page_are_those_of_the_reference(page):
    text = (ROOT / page).read_text()
    assert page_tables.BLOCK.search(text)
    assert page_tables.with_tables(text, REFERENCE) == text, "run cinelab evidence --pages"


def test_every_table_is_on_a_page():
    pages = [ROOT / page for page in (*page_tables.PAGES,)]
    used = {found[2] for page in pages for found in page_tables.BLOCK.finditer(page.read_text())}
    assert used == set(page_tables.BLOCKS)


def test_the_page_of_claims_is_what_the_tables_say():
    assert (ROOT / claims_page.PAGE).read_text() == claims_page.claims_markdown(REFERENCE), (
        "run cinelab evidence --pages"
    )


@pytest.mark.parametrize("page", page_tables.PAGES)
def test_a_figure_in_the_text_has_a_row_in_a_table(page):
    text = (ROOT / page).read_text()
    assert page_tables.unsourced(text, REFERENCE) == []
    made_up = text + "\nwhich is 0.123 [0.111, 0.222]\n"
    assert page_tables.unsourced(made_up, REFERENCE) == ["0.123 [0.111, 0.222]"]


def test_images_of_the_pages_are_there():
    for page in ("docs/results.md", "docs/benchmark.md", "README.md"):
        path = ROOT / page
        for image in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", path.read_text()):
            assert (path.parent / image).exists(), image


def test_an_unknown_or_missing_table_is_one_sentence(tmp_path):
    with pytest.raises(CinelabError, match="has a table 'nothing'; known are"):
        page_tables.with_tables("<!-- table: nothing -->\n<!-- /table -->", tmp_path)
    with pytest.raises(CinelabError, match="is not here; make it with `cinelab evidence`"):
        page_tables.with_tables("<!-- table: routing -->\n<!-- /table -->", tmp_path)


def test_what_is_withdrawn_has_a_page():
    text = (ROOT / "docs" / "withdrawn.md").read_text()
    assert all(f"| {one.claim} | {one} |" in text for one in withdrawn.CLAIMS)


# The one command


def test_the_items_name_what_is_there():
    items = evidence.load_items()
    assert len({item.name for item in items}) == len(items) > 5
    commands = get_command(app)
    for item in items:
        for sweep in item.sweeps:
            load_sweep(ROOT / "experiments" / f"{sweep}.yaml")
        for step in item.then:
            if "notebook" in step:
                notebook = ROOT / "notebooks" / f"{step['notebook']}.ipynb"
                check_parameters(notebook, step["parameters"])
            else:
                words = step["command"].split()
                known = {name for one in commands.commands[words[0]].params for name in one.opts}
                assert {word for word in words if word.startswith("-")} <= known
    with pytest.raises(CinelabError, match="There is no evidence 'all'; name one of cards, "):
        evidence.load_items(only="all")


ITEM = evidence.Item("guidance", "a test", ("toybox-base",), ("guidance",), (), 4.0)


def test_the_plan_counts_cells_and_learns_their_time(tmp_path):
    [plan] = evidence.planned_items([ITEM], tmp_path)
    assert (plan.cells, plan.finished, plan.minutes, plan.measured) == (18, 0, 4.0, "stated")
    assert plan.hours == pytest.approx(18 * 4 / 60)
    cell = tmp_path / "guidance" / "guidance=1.0,seed=0"
    write_json(cell / "done.json", {"parameters": {}, "notebook": "x", "seconds": 30.0})
    [plan] = evidence.planned_items([ITEM], tmp_path)
    assert (plan.finished, plan.minutes, plan.measured) == (1, 0.5, "1 cells here")
    evidence._note_time(plan, tmp_path)
    shutil.rmtree(tmp_path / "guidance")
    [plan] = evidence.planned_items([ITEM], tmp_path)
    assert plan.minutes == 0.5 and plan.measured.startswith("on ")


@pytest.fixture
def steps(monkeypatch):
    """The commands that an item runs, each of which ends at once."""
    ran = []

    def run(words):
        ran.append(words[3:])
        return type("Done", (), {"returncode": int("fail" in words)})()

    monkeypatch.setattr(evidence.subprocess, "run", run)
    return ran


def test_an_item_that_is_made_is_skipped(tmp_path, steps):
    item = replace(ITEM, sweeps=(), then=({"command": "score toybox-base"},))
    assert evidence.make_item(item, tmp_path)
    assert steps == [["score", "toybox-base"]]
    assert not evidence.make_item(item, tmp_path) and len(steps) == 1
    assert evidence.planned_items([item], tmp_path)[0].hours == 0


def test_a_step_that_fails_leaves_the_item_unmade(tmp_path, steps):
    item = replace(ITEM, sweeps=(), then=({"command": "fail"},))
    with pytest.raises(Failed, match="guidance: `cinelab fail` failed"):
        evidence.make_item(item, tmp_path)
    assert not (tmp_path / item.stamp).exists()


def test_other_weights_of_the_same_name_are_refused(tmp_path, steps):
    item = replace(ITEM, sweeps=(), then=({"command": "score toybox-base"},))
    evidence.make_item(item, tmp_path)
    for name in (item.stamp, "evidence/guidance.begun.json"):
        write_json(tmp_path / name, {"models": {"toybox-base": "other"}})
        with pytest.raises(CinelabError, match="measured with other weights of toybox-base; move"):
            evidence.make_item(item, tmp_path)
        (tmp_path / name).unlink()


def test_pages_are_written_where_their_tables_changed(tmp_path):
    pages = ("docs/results.md", "docs/withdrawn.md")
    for page in (*pages, "docs/claims.md", "docs/memory.svg"):
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / page, tmp_path / page)
    shutil.copytree(REFERENCE, tmp_path / "results" / "reference")
    race = tmp_path / "results" / "reference" / "race.json"
    rows = json.loads(race.read_text())
    rows["rows"][1]["frames/s"] = 99.5
    write_json(race, rows)
    changed = evidence.write_pages(tmp_path, pages)
    assert changed == [tmp_path / "docs" / "results.md"]
    assert "| 99.5 |" in changed[0].read_text()
    assert evidence.write_pages(tmp_path, pages) == []


def test_what_students_keep_has_verdicts():
    found = reference_tables.student_claims(REFERENCE)
    assert {"toybox-4step keeps 0.95 of the base's prompt"} <= set(found["claim"])
    assert (found["corrected p"] >= found["p"]).all() and (found["films"] > 50).all()
    with pytest.raises(CinelabError, match="--tables is 'all'; use one of students"):
        reference_tables.write_reference_table("all", Path("results"))
