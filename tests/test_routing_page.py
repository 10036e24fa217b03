"""routing.html: the page shows, without a network, which earlier chunks every chunk retrieved, what
was asked for and when."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from cinelab import CAMR, Director, Screenplay, load
from cinelab.lab.reports.routing_page import RoutingView, routing_page, shots_of, write_routing_page
from cinelab.lab.reports.routing_plots import KINDS
from cinelab.memory.policy import Full, RandomTopK, Sink
from cinelab.memory.policy_registry import policy_dict
from cinelab.script import PromptChange, Shot

RABBIT = "medium shot of a blue rabbit that {} in the forest by day"
JUMPS = PromptChange(0.75, RABBIT.format("jumps"), recache=True)
PLAY = Screenplay(
    "Twins </script> & <b>",
    (
        Shot(RABBIT.format("waves"), 1.5),
        Shot("close up of a red ghost that dances in the city at night", 1),
        Shot(RABBIT.format("waits"), 1.5, changes=(JUMPS,)),
        Shot(RABBIT.format("dances"), 0.5, "continue"),
    ),
)


@pytest.fixture(scope="module")
def film():
    return Director(load("toybox-1step"), policy=CAMR(budget=3), seed=1).render(PLAY)


def data_of(page: str, name: str = "data"):
    return json.loads(page.split(f'id="{name}">')[1].split("</script>")[0])


def test_every_chunk_lists_what_it_retrieved(film):
    chunks = data_of(routing_page(film))["chunks"]
    assert len(chunks) == len(film.timeline.slots) and chunks[0]["seen"] == []
    for number, chunk in enumerate(chunks[1:], 1):
        wanted = set(film.routing[film.routing["chunk"] == number]["kept_chunk"])
        assert {row[0] for row in chunk["seen"]} == wanted and wanted and max(wanted) < number
        assert sum(row[1] for row in chunk["seen"]) == pytest.approx(1, abs=0.01)
        assert [row[1] for row in chunk["seen"]] == sorted(
            (row[1] for row in chunk["seen"]), reverse=True
        )


def test_a_recache_leaves_on_record_what_the_shot_retrieved_before(film):
    start, end = (film.timeline.slots[place].index for place in (0, -1))
    assert set(film.routing["chunk"]) == set(range(start + 1, end + 1))


def test_prompts_cuts_and_changes_are_told(film):
    shots = shots_of(film)
    assert [shot["first"] for shot in shots] == [
        slot.index for slot in film.timeline.slots if slot.cut or slot.index == 0
    ]
    assert [line["text"] for line in shots[2]["prompts"]] == [
        RABBIT.format("waits"),
        RABBIT.format("jumps") + ", recache",
        RABBIT.format("dances"),
    ]
    assert [line["at"] for line in shots[2]["prompts"]] == pytest.approx([0, 0.75, 1.5])
    assert shots[-1]["end"] == pytest.approx(len(film.frames) / film.fps)


def test_the_page_needs_no_network_is_small_and_escapes_titles(film, tmp_path):
    write_routing_page(film, tmp_path / "routing.html")
    page = (tmp_path / "routing.html").read_text()
    assert len(page) < 250_000 and not re.search(r"(src|href)=.?https?:|url\(http|@import", page)
    assert "Twins &lt;/script&gt; &amp; &lt;b&gt;" in page and "</script> & <b>" not in page
    assert [path.name for path in tmp_path.iterdir()] == ["routing.html"]


@pytest.mark.parametrize(
    ("policy", "legend", "scored"),
    [
        (CAMR(), ["window", "routed"], True),
        (Sink(sink=1, window=2), ["sink", "window"], False),
        (RandomTopK(), ["window", "routed"], False),
    ],
)
def test_the_legend_has_only_what_the_film_has(film, policy, legend, scored):
    made = replace(film, info=film.info | {"policy": policy_dict(policy)})
    if isinstance(policy, Sink):
        routing = film.routing.assign(
            kind=["sink" if chunk == 0 else "window" for chunk in film.routing["kept_chunk"]]
        )
        made = replace(made, routing=routing)
    page = routing_page(made)
    said = page.split('class="legend">')[1].split("</ul>")[0]
    assert re.findall("#[0-9a-fA-F]{6}", said) == [KINDS[kind] for kind in legend]
    assert ("by the policy's own score" in page) is scored
    assert ("drawn at random" in said) is isinstance(policy, RandomTopK)


def test_a_film_in_a_notebook_lists_its_shots_and_its_page_is_a_cell(film):
    shown = film._repr_html_()
    assert (
        "<video" in shown
        and shown.count("<li>") == 4
        and "at 0.8 s: " + RABBIT.format("jumps") + ", recache" in shown
    )
    view = RoutingView(film)
    assert (
        view._repr_html_().startswith("<iframe")
        and "&lt;!doctype html&gt;" in view._repr_html_()
        and len(repr(view)) < 40
    )


def test_a_film_without_memory_says_so(film):
    page = routing_page(replace(film, routing=film.routing.iloc[:0], info={"model": "m"}))
    assert "No chunk retrieved anything" in page and all(
        chunk["seen"] == [] for chunk in data_of(page)["chunks"]
    )


def test_a_long_film_stays_small(film):
    from cinelab.script.timeline import plan

    long = Screenplay("long", tuple(Shot("a", 30) for _ in range(10)))
    line = plan(long, 8, 2, 1)
    frames = np.broadcast_to(np.zeros((1, 48, 64, 3), np.uint8), (line.pixel_frames, 48, 64, 3))
    page = routing_page(replace(film, frames=frames, timeline=line, screenplay=long))
    assert data_of(page)["sprite"]["every"] == 5 and len(page) < 500_000


@pytest.mark.browser
@pytest.mark.parametrize(("scheme", "size"), [("light", (1500, 1000)), ("dark", (390, 844))])
def test_the_page_in_a_browser(film, tmp_path, browser, scheme, size):
    write_routing_page(
        replace(film, info=film.info | {"policy": policy_dict(Full())}), tmp_path / "r.html"
    )
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, offline=True
    )
    page = context.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: message.type == "error" and errors.append(message.text))
    page.goto(f"file://{tmp_path / 'r.html'}")
    page.wait_for_selector("body[data-ready]")
    assert page.locator(".shot").count() == 3 and page.locator("#shots .chunk").count() == len(
        film.timeline.slots
    )
    assert "at 0.8 s" in page.locator(".shot").nth(2).inner_text(), "the change is told"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
        "nothing runs over the edge"
    )
    box = page.locator("#cells").bounding_box()
    # the row of chunk 1
    page.locator("#cells").hover(position={"x": box["width"] * 0.75, "y": box["height"] - 3})
    assert (
        page.locator("#tip").is_visible() and "looked back to" in page.locator("#tip").inner_text()
    )
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert (
        sum(map(int, re.findall(r"\d+", ink)[:3])) < sum(map(int, re.findall(r"\d+", paper)[:3]))
    ) is (scheme == "light")
    page.locator("#cells").click(position={"x": box["width"] - 3, "y": 3})
    assert page.locator(".chunk.here").count() == 1 and not errors
    context.close()
