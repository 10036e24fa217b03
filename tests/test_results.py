"""The index, the pooled tables and the report: what a sweep measured comes back unchanged, with
honest intervals."""

import json
import os
from importlib import resources

import numpy as np
import pandas as pd
import pytest

from cinelab.errors import CinelabError
from cinelab.files import write_json
from cinelab.lab.reports.cost_figures import front, pareto_figure
from cinelab.lab.reports.index import index, scan
from cinelab.lab.reports.number_text import csv_text, text_of
from cinelab.lab.reports.query import column_table, overview, query, save_answer, telling
from cinelab.lab.reports.report import html_table, render_report, report, safe_json, section, texts
from cinelab.lab.reports.report_figures import metric_figure, shots_figure
from cinelab.lab.reports.sweep_cells import load_cells
from cinelab.lab.reports.sweep_table import compared, comparisons, costs, pooled
from cinelab.metrics.rows import Row, row_table, save_rows
from cinelab.metrics.stats import holm, sign_flip
from cinelab.stream.video import write_mp4


def cell(root, sweep, policy, seed, mean, away=3, films=8, shots=1, done=True, film=False, **more):
    """A finished cell as a sweep leaves it; value of film i is `mean` plus a wave that all policies
    share."""
    folder = root / sweep / f"away={away},policy={policy},seed={seed}"
    parameters = {"policy": policy, "away": away, "seed": seed, "budget": 5}
    folder.mkdir(parents=True)
    (folder / "output.txt").write_text("")
    write_json(folder / "config.json", parameters)
    if not done:
        return folder
    wave = 0.1 * np.sin(np.arange(films) + seed)
    if policy != "full":  # pairs that all differ by the same would say nothing of what others do
        wave = wave + 0.001 * (np.cos(np.arange(films)) - np.cos(np.arange(films)).mean())
    rows = [
        (film, shot, "identity", mean + wave[film], "model")
        for film in range(films)
        for shot in range(shots)
    ]
    rows += [(film, 0, "identity", 0.25, "chance") for film in range(films)] + [
        (film, 0, "identity", 1.0, "truth") for film in range(films)
    ]
    pd.DataFrame(rows, columns=["film", "shot", "metric", "value", "source"]).assign(
        seed=seed
    ).to_parquet(folder / "rows.parquet")
    write_json(
        folder / "cell.json",
        {
            "policy": policy,
            "budget": 5,
            "history": 12,
            "speed": {"cpu_s_per_frame": 0.1 + mean, "kv_mib": 1.0},
        },
    )
    write_json(
        folder / "done.json",
        {
            "parameters": parameters,
            "notebook": "x.ipynb",
            "git": "abc",
            "seconds": 2.0,
            "peak_memory_mb": 100,
            "hardware": {"device": "cpu", "cores": 2, "torch": "2"},
        }
        | more,
    )
    if film:
        write_mp4(
            folder / "film.mp4",
            np.random.default_rng(0).integers(0, 256, (6, 48, 64, 3), dtype=np.uint8),
            8,
            1,
        )
    return folder


@pytest.fixture
def results(tmp_path):
    for seed in range(3):
        for policy, mean in (("full", 0.8), ("camr", 0.78), ("window", 0.3)):
            cell(tmp_path, "memory", policy, seed, mean, film=seed == 0)
    cell(tmp_path, "memory", "sink", 0, 0.3, done=False)
    return tmp_path


def test_the_index_finds_every_run_and_notices_a_change(results):
    runs, measured = index(results)
    assert len(runs) == 10 and (runs["status"] == "done").sum() == 9
    one = measured.set_index("path").loc["memory/away=3,policy=camr,seed=0"]
    assert (
        one["value"] == pytest.approx(0.78 + (0.1 * np.sin(np.arange(8))).mean())
        and one["low"] < one["value"] < one["high"]
    )
    folder = results / "memory" / "away=3,policy=camr,seed=0"
    rows = pd.read_parquet(folder / "rows.parquet")
    (folder / "rows.parquet").unlink()
    rows.assign(value=0.5).to_parquet(folder / "rows.parquet")
    assert (
        index(results)[1].set_index("path").loc["memory/away=3,policy=camr,seed=0", "value"] == 0.5
    )
    assert overview(runs).loc[0, "other"] == "1 unfinished"


def test_films_have_names_and_the_seconds_they_took(tmp_path):
    for place, seconds in (("twins", [1.5, 0.5]), ("films/home", None)):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        (folder / "film.json").write_text('{"title": "Twins", "seed": 4}')
        if seconds:
            pd.DataFrame({"chunk": [0, 1], "dit": seconds, "decode": [0.25, 0.25]}).to_parquet(
                folder / "timings.parquet"
            )
    runs, measured = index(tmp_path)
    lines = overview(runs).set_index("folder")
    assert lines.loc["twins", "seconds"] == 2.5 and set(lines.index) == {"twins", "films"}
    assert lines["seconds"].isna().loc["films"], "not known is not nothing"
    assert list(telling(query(tmp_path, "kind = 'film'"))["name"]) == ["home", "twins"]


def test_a_setting_of_runs_that_are_not_here_is_said(tmp_path):
    (tmp_path / "twins").mkdir()
    (tmp_path / "twins" / "film.json").write_text('{"title": "Twins"}')
    with pytest.raises(CinelabError, match="'away', which no run here has.*--columns"):
        query(tmp_path, "away = 9")


def test_questions_in_sql(results):
    found = query(results, "policy = 'camr' and away = 3")
    assert sorted(found["seed"]) == [0, 1, 2] and "identity" in found
    assert list(telling(found)["seed"]) == [0, 1, 2] and list(telling(found, ["policy"])) == [
        "policy"
    ]
    mean = query(
        results,
        sql="select policy, avg(identity) as m from wide where status = 'done' group by policy "
        "order by m desc",
    )
    assert list(mean["policy"]) == ["full", "camr", "window"]
    assert "identity" in set(column_table(found)["column"])
    with pytest.raises(CinelabError, match="polcy"):
        query(results, "polcy = 'camr'")
    with pytest.raises(CinelabError, match="--columns"):
        telling(found, ["nope"])
    with pytest.raises(CinelabError, match="a .csv or a .parquet"):
        save_answer(found, results / "x.txt")
    with pytest.raises(CinelabError, match="no such folder"):
        index(results / "nowhere")


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("a = 6", 1),
        ("a > 5", 2),
        ("a = '6'", 1),
        ("a = 'all'", 1),
        ("a in ('6', 'all')", 2),
        ("a between 5 and 12 and seed = 0", 2),
        ("a = 6 -- said", 1),
    ],
)
def test_a_column_of_numbers_and_texts_is_compared_as_it_is_asked(tmp_path, where, count):
    mixed(tmp_path)
    assert len(query(tmp_path, where)) == count


def mixed(root):
    for value in (6, 12, "all"):
        folder = root / "s" / f"a={value}"
        write_json(folder / "config.json", {"a": value, "seed": 0})
        (folder / "output.txt").write_text("")


def test_a_comparison_that_cannot_be_meant_says_how(tmp_path):
    mixed(tmp_path)
    with pytest.raises(CinelabError, match=r"\"a\" holds both.*a in \('6', 'all'\)"):
        query(tmp_path, "a in (6, 'all')")
    with pytest.raises(CinelabError, match="polcy"):
        query(tmp_path, "polcy = 1")


READS = (
    "select * from read_text('/etc/passwd')",
    "select * from '/etc/passwd'",
    "select * from glob('/*')",
    "select * from runs_",
    "",
    "copy runs to '{0}'",
    "attach '{0}' as d",
    "install httpfs",
    "load httpfs",
    "pragma version",
    "set memory_limit = '9GB'",
    "export database '{0}'",
    "create table t as select 1",
    "drop view wide",
    "delete from runs",
    "select 1; select 2",
    "call pragma_version()",
    "from read_csv('/etc/passwd')",
)


@pytest.mark.parametrize("sql", READS)
def test_questions_only_read(tmp_path, sql):
    mixed(tmp_path)
    with pytest.raises(CinelabError, match="^The question "):
        query(tmp_path, sql=sql.format(tmp_path / "written"))
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize(
    "where",
    [
        "1=1; copy (select 42) to '{0}'",
        "1=1) to '{0}' --",
        "a in (select content from read_text('/etc/passwd'))",
    ],
)
def test_a_condition_is_only_a_condition(tmp_path, where):
    mixed(tmp_path)
    with pytest.raises(CinelabError, match="^The question "):
        query(tmp_path, where.format(tmp_path / "written"))
    assert not (tmp_path / "written").exists()


def test_a_question_without_end_is_stopped(tmp_path, monkeypatch):
    mixed(tmp_path)
    monkeypatch.setattr("cinelab.lab.reports.query.MOST_SECONDS", 0.2)
    with pytest.raises(CinelabError, match="took more than 0.2 seconds"):
        query(
            tmp_path, sql="select sum(a.range * b.range) from range(10000000) a, range(10000000) b"
        )


def test_results_of_others_can_be_read(results, monkeypatch):
    def readonly(*_):
        raise CinelabError("no")

    monkeypatch.setattr("cinelab.lab.reports.index.write_atomic", readonly)
    assert len(query(results, "policy = 'camr' and away = 3"))


def test_runs_that_cannot_be_read_are_listed_and_the_others_go_on(results):
    broken = results / "memory" / "away=3,policy=full,seed=0"
    (broken / "done.json").write_text("{")
    old = results / "memory" / "away=3,policy=full,seed=1"
    pd.DataFrame({"score": [1.0]}).to_parquet(old / "rows.parquet")
    evaluation = results / "eval" / "x"
    evaluation.mkdir(parents=True)
    pd.DataFrame({"value": [1.0]}).to_parquet(evaluation / "rows.parquet")
    for _ in range(2):  # once measured, once from the kept index
        runs = index(results)[0].set_index("path")
        assert runs.loc["memory/away=3,policy=full,seed=0", "status"] == "unreadable"
        assert "run it again" in runs.loc["memory/away=3,policy=full,seed=1", "detail"]
        assert "schema none" in runs.loc["eval/x", "detail"]
        assert (runs["status"] == "done").sum() == 7


def test_evaluations_are_runs_too(results):
    (results / "eval" / "mine").mkdir(parents=True)
    save_rows(
        row_table([Row("a", 0, "cut F1", 1.0), Row("b", 0, "cut F1", 0.5)]),
        results / "eval" / "mine" / "rows.parquet",
    )
    assert query(results, "kind = 'evaluation'")["cut F1"].tolist() == [0.75]


def test_pooling_resamples_films_and_knows_chance_and_truth(results):
    cells = load_cells(results / "memory")
    assert cells.varied == ["policy"] and cells.which == "policy" and not cells.trained
    found = pooled(cells).set_index("policy")
    assert found.loc["camr", "n"] == 24 and found.loc["camr", "seeds"] == 3
    assert found.loc["camr", "chance"] == 0.25 and found.loc["camr", "upper"] == 1.0


def test_pairs_see_what_the_pooled_intervals_cannot(results):
    cells = load_cells(results / "memory")
    table = pooled(cells).set_index("policy")
    assert table.loc["camr", "high"] > table.loc["full", "low"]  # the intervals overlap
    pair = compared(cells, "identity").set_index("policy")
    assert pair.loc["camr", "against"] == "full" and pair.loc[
        "camr", "difference"
    ] == pytest.approx(-0.02)
    assert pair.loc["camr", "high"] < 0 and pair.loc["camr", "p"] < 0.01
    assert compared(cells, "identity", base="camr").set_index("policy").loc[
        "full", "difference"
    ] == pytest.approx(0.02)


def test_where_cells_trained_something_seeds_are_resampled_first(results):
    pairs = compared(load_cells(results / "memory"), "identity")
    for folder in (results / "memory").glob("*seed=*"):
        (folder / "dmd").mkdir()
        (folder / "dmd" / "log.jsonl").write_text("{}\n")
    cells = load_cells(results / "memory")
    found = compared(cells, "identity")
    assert cells.trained and pairs.trainings.isna().all() and (found.trainings == 3).all()
    assert (found.high - found.low >= pairs.high - pairs.low).all() and (found.p <= 1).all()


def test_a_tables_verdicts_need_bounds_and_a_corrected_p(results):
    table = compared(load_cells(results / "memory"), "identity").set_index("policy")
    assert table.loc["window", "verdict"] == "below"
    assert table.loc["camr", "verdict"] == "below, by less than 0.05"  # -0.02 and sure
    assert (table["corrected p"] >= table.p).all() and (table.margin == 0.05).all()
    strict = compared(load_cells(results / "memory"), "identity", margin=0.01).set_index("policy")
    assert strict.loc["camr", "verdict"] == "below"


def test_p_is_corrected_over_all_metrics_that_are_looked_at(results):
    for path in (results / "memory").glob("*/rows.parquet"):
        rows = pd.read_parquet(path)
        noise = np.random.default_rng(len(str(path))).normal(0, 0.3, len(rows))
        more = [rows.assign(metric=f"other {i}", value=noise) for i in range(12)]
        pd.concat([rows, *more]).to_parquet(path)
    cells = load_cells(results / "memory")
    alone = compared(cells, "identity").set_index("policy")
    together = comparisons(cells, cells.metrics)
    assert len(together) == 13
    first = together["identity"].set_index("policy")
    assert first.loc["window", "corrected p"] > 5 * alone.loc["window", "corrected p"]
    assert first.loc["window", "verdict"] == "below"  # draws grow with looks: p can still be small


def test_runs_of_an_old_protocol_are_shown_and_withdrawn(tmp_path):
    for protocol in (None, 2):
        for init, mean in (("none", 0.5), ("bidirectional_ode", 0.4), ("causal_ode", 0.7)):
            folder = cell(tmp_path, f"sweep{protocol}", init, 0, mean)
            info = {"init": init} | ({"protocol": protocol} if protocol else {})
            write_json(folder / "cell.json", info)
            settings = {"init": init, "seed": 0}
            write_json(folder / "config.json", settings)
            done = json.loads((folder / "done.json").read_text())
            write_json(folder / "done.json", done | {"parameters": settings})
    cells = [load_cells(tmp_path / f"sweep{protocol}") for protocol in (None, 2)]
    old, new = (compared(one, "identity").verdict for one in cells)
    assert old.str.startswith("withdrawn: ").all() and not new.str.startswith("withdrawn").any()
    page = render_report([section([str(tmp_path / "sweepNone")])], "old").split("<script")[0]
    assert "withdrawn: the baseline had one noise level a clip" in page
    assert "withdrawn: its starts had" in page
    page = render_report([section([str(tmp_path / "sweep2")])], "new").split("<script")[0]
    assert "withdrawn: " not in page


def test_joined_sweeps_compare_what_they_share(results):
    for seed in range(3):
        cell(results, "later", "camr", seed, 0.6, away=9)
    cells = load_cells(results / "memory", results / "later")
    assert cells.varied == ["policy", "away"] and cells.name == "memory + later"
    assert len(pooled(cells)) == 4 and set(compared(cells, "identity")["away"]) == {3}


def test_costs_and_the_front(results):
    assert (
        costs(load_cells(results / "memory")).set_index("policy").loc["full", "chunks attended to"]
        == 12
    )
    assert front(np.array([1, 2, 3, 3]), np.array([0.1, 0.5, 0.4, 0.6])).tolist() == [
        True,
        True,
        False,
        True,
    ]
    assert front(np.array([1, 2]), np.array([0.5, 0.5]), "high").tolist() == [False, True]


def test_figures_hold_what_the_tables_say(results):
    cells = load_cells(results / "memory")
    axes = metric_figure(cells, "identity").figure.axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    dots = next(line for line in axes.lines if line.get_gid() == "series-0")
    drawn = {names[round(y)]: x for x, y in zip(dots.get_xdata(), dots.get_ydata(), strict=True)}
    assert drawn == dict(zip(pooled(cells)["policy"], pooled(cells)["value"], strict=True))
    assert pareto_figure(cells, "identity") is not None and shots_figure(cells, "identity") is None


def test_long_films_are_drawn_shot_by_shot(tmp_path):
    for policy in ("full", "window"):
        cell(tmp_path, "length", policy, 0, 0.5, shots=40)
    axes = shots_figure(load_cells(tmp_path / "length"), "identity").figure.axes[0]
    assert [line.get_label() for line in axes.lines] == ["full", "window"] and len(
        axes.lines[0].get_xdata()
    ) == 10
    assert axes.get_xlabel() == "shot (from 1)" and "mean of 4 shots" in axes.get_ylabel()


def test_folders_without_cells(tmp_path):
    with pytest.raises(CinelabError, match="no such folder"):
        load_cells(tmp_path / "nope")
    with pytest.raises(CinelabError, match="no measured cell"):
        load_cells(tmp_path)
    with pytest.raises(CinelabError, match="No sweep was named"):
        report([], tmp_path / "r.html")


def test_sign_flips_and_holm():
    assert sign_flip([1.0] * 5) == pytest.approx(2 / 2**5, abs=0.01)
    assert sign_flip([1, -1, 1, -1]) == 1
    rng = np.random.default_rng(0)
    under_null = [sign_flip(rng.normal(size=12), flips=400, seed=i) for i in range(200)]
    assert np.mean(np.array(under_null) <= 0.05) < 0.11
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_a_report_is_one_page_with_everything_in_it(results):
    page = report([results / "memory"], results / "r.html").read_text()
    assert page.count('<video src="data:video/mp4;base64,') == 3
    assert (
        "identity, paired" in page
        and "abc" in page
        and "<script src" not in page
        and "plotly" not in page
    )
    assert page.count("<figure class=") == page.count("<svg ") == 2 and len(page) < 200_000
    with pytest.raises(CinelabError, match="'speed' was not measured in memory; it has identity"):
        report([results / "memory"], results / "s.html", metrics=["speed"])


def test_json_in_a_page_cannot_end_its_script():
    assert "</script" not in safe_json({"a": "</script>"}) and safe_json([float("nan")]) == "[null]"


@pytest.mark.browser
def test_the_page_works_in_a_real_browser(results, browser):
    page = browser.new_page()
    errors = []
    page.on(
        "console", lambda message: errors.append(message.text) if message.type == "error" else None
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"file://{report([results / 'memory'], results / 'r.html')}")
    page.wait_for_selector("body[data-ready]")
    with page.expect_download() as saved:
        page.get_by_role("link", name="SVG").first.click()
    figure = saved.value.path().read_text()
    assert (
        saved.value.suggested_filename == "memory-identity.svg"
        and "var(" not in figure
        and "#1d2433" in figure
    )
    first = page.locator("tbody tr td").first.inner_text()
    page.locator("th").first.click()
    page.locator("th").first.click()
    assert page.locator("tbody tr td").first.inner_text() != first
    page.locator("select").nth(1).select_option("away=3,policy=window,seed=2")
    assert "window" in page.locator("[data-diff] table").inner_text()
    page.get_by_role("button", name="Play all together").click()
    page.wait_for_function(
        "[...document.querySelectorAll('video')].every(film => film.readyState >= 2 && "
        "film.currentTime > 0)"
    )
    assert errors == []


def test_a_table_for_reading_has_the_same_rows_and_no_endless_interval():
    table = pd.DataFrame(
        {
            "metric": ["kept", "cuts"],
            "low": [-np.inf, 0.25],
            "chance": [np.nan, 0.0416],
            "n": [1, 2],
            "p": [0.0, None],
        }
    )
    read = texts(table.tail(2))
    assert read.to_dict("list") == {
        "metric": ["kept", "cuts"],
        "low": ["", "0.25"],
        "chance": ["", "0.042"],
        "n": ["1", "2"],
        "p": ["< 0.001", ""],
    }
    assert list(read.index) == [0, 1] and texts(pd.DataFrame()).empty


def test_tables_say_no_minus_zero_and_no_endless_interval():
    text = html_table(
        pd.DataFrame(
            {"value": [-0.0004, 0.5], "low": [-np.inf, 0.4], "high": [np.inf, 0.6], "p": [0.0, 0.2]}
        )
    )
    assert (
        "<td>0</td><td></td><td></td>" in text
        and "inf" not in text
        and "-0" not in text
        and "0.001" in text
    )


def test_a_table_as_csv_has_no_minus_zero_and_no_endless_interval():
    table = pd.DataFrame(
        {
            "name": ["a", "b"],
            "n": [3, 4],
            "value": [-0.00001, 0.12345],
            "low": [-np.inf, 0.1],
            "high": [np.inf, 0.2],
        }
    )
    assert csv_text(table) == "name,n,value,low,high\na,3,0.0,,\nb,4,0.1234,0.1,0.2\n"


def test_tables_go_with_a_report(results):
    report([results / "memory"], results / "r.html", tables=results / "tables")
    found = {path.name: pd.read_csv(path) for path in (results / "tables").glob("*.csv")}
    assert set(found) == {"memory.csv", "memory_paired.csv", "memory_cost.csv"}
    rows = pd.read_parquet(results / "tables" / "memory_rows.parquet")
    assert len(rows) == len(load_cells(results / "memory").rows)
    assert {"clip", "seed", "value"} <= set(rows)
    assert found["memory.csv"].set_index("policy").loc["camr", "n"] == 24


def test_one_broken_cell_is_one_row_and_the_others_go_on(results, tmp_path):
    folder = results / "memory"
    for seed, (name, data) in enumerate(
        (("done.json", b"[]"), ("rows.parquet", b"PAR1"), ("cell.json", b'{"metrics": 5}'))
    ):
        (folder / f"away=3,policy=full,seed={seed}" / name).write_bytes(data)
    one = folder / "away=3,policy=camr,seed=0"
    (one / "storyboard.png").write_bytes(b"\x89PNG\r\n")
    runs, measured = index(results)
    # cell.json is not looked at here
    assert len(runs) == 10 and (runs["status"] == "unreadable").sum() == 2
    cells = load_cells(folder)
    broken = cells.table[cells.table["status"] == "unreadable"]
    assert (
        len(cells.table) == 10
        and [
            said in detail
            for said, detail in zip(
                ("holds a list", "cannot be read as", "'metrics' is 5"),
                broken["detail"],
                strict=True,
            )
        ]
        == [True] * 3
    )
    assert "storyboard.png cannot be shown" in render_report([section([str(folder)])], "t")
    for path in folder.glob("*/done.json"):
        path.write_text("5")
    with pytest.raises(CinelabError, match="done.json holds 5"):
        load_cells(folder)


@pytest.mark.browser
def test_a_table_of_many_metrics_is_no_wider_than_the_paper(browser):
    about = (
        "sharpness of truth",
        "temporal flickering",
        "drift of saturation",
        "identity kept above chance",
    )
    wide = pd.DataFrame(
        [
            {"policy": "window"}
            | {f"{name} {n}": "0.942 [0.880, 1.004]" for name in about for n in range(4)}
        ]
    )
    style = (
        resources.files("cinelab.lab.reports")
        .joinpath("report.html.j2")
        .read_text(encoding="utf-8")
        .partition("<style>")[2]
        .partition("</style>")[0]
    )
    page = browser.new_page(viewport={"width": 794, "height": 1123})
    page.set_content(
        f'<html lang="en"><style>{style}</style><main><div '
        f'class="scroll">{html_table(wide)}</div></main>'
    )
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 794
    page.close()


def test_a_folder_whose_name_is_not_utf8_is_listed_as_unreadable(tmp_path):
    (tmp_path / os.fsdecode(b"run\xff")).mkdir()
    found = scan(tmp_path)
    assert [(one.status, one.name) for one in found] == [
        ("unreadable", "run\\udcff")
    ] and "rename it" in found[0].detail


def test_lists_and_structs_of_an_answer_are_shown():
    shown = [
        text_of(value)
        for value in (
            np.array([1, 2]),
            [1, None],
            {"a": 1},
            np.array([]),
            None,
            float("nan"),
            0.5,
            "x",
        )
    ]
    assert shown == ["[1, 2]", "[1, None]", "{'a': 1}", "[]", "", "", "0.5", "x"]
