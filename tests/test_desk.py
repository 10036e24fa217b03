"""The desk in a real browser: JupyterLab, its notebook, a kernel, and everything that a director
does.

With CINELAB_SHOTS set to a folder, screenshots are left there.
"""

import os
from pathlib import Path

import pytest
from directing import until
from labserver import jupyter_lab, run_all

from cinelab.stream.video import read_video

pytestmark = [pytest.mark.browser, pytest.mark.slow]
ROOT = Path(__file__).parents[1]
CAT = "wide shot of a red cat that waves in the meadow by day"
JUMP = CAT.replace("waves", "jumps")
ROBOT = "close shot of a blue robot that dances in the city at night"
LONG = 60_000  # milliseconds that anything may take on a busy machine


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on a free port, on a folder with a copy of the notebook: (address, folder)."""
    root = tmp_path_factory.mktemp("lab")
    own = tmp_path_factory.mktemp("settings")
    text = (ROOT / "notebooks/40_direct_live.ipynb").read_text()
    (root / "desk.ipynb").write_text(text.replace("../results/live/first", str(root / "film")))
    with jupyter_lab(root, own) as address:
        yield address, root


class Stage:
    """The notebook's page: what a director sees and does."""

    def __init__(self, page, address, film):
        self.page = page
        self.address = address
        self.film = film
        self.errors = []
        page.set_default_timeout(LONG)
        page.on("console", self.note)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def note(self, message):
        """Keep an error; what JupyterLab's own debugger says of a kernel that is restarted is not
        the desk's."""
        if message.type == "error" and "debugger" not in message.text:
            self.errors.append(message.text)

    def open(self):
        self.page.goto(f"{self.address}/lab/tree/desk.ipynb?reset")
        self.page.wait_for_selector(".jp-Notebook")
        self.run_all()

    def run_all(self):
        run_all(self.page)
        self.page.wait_for_selector(".cinelab-desk")

    def menu(self, name, command):
        self.page.click(f"li.lm-MenuBar-item:has-text('{name}')")
        self.page.click(f"li.lm-Menu-item[data-command='{command}']")

    def say(self, text, key="Enter"):
        self.page.fill(".cd-prompt", text)
        self.page.press(".cd-prompt", key)

    def press(self, name):
        self.page.click(f".cd-button.cd-{name}")

    def wait_said(self, text):
        self.page.wait_for_function(
            "text => document.querySelector('.cd-state')?.textContent.includes(text)", arg=text
        )

    def count(self, selector):
        return self.page.locator(selector).count()

    def wait_count(self, selector, count):
        self.page.wait_for_function(
            "([s, n]) => document.querySelectorAll(s).length === n", arg=[selector, count]
        )

    def picture(self):
        return self.page.evaluate("document.querySelector('.cd-canvas').toDataURL()")

    def wait_new_picture(self, before):
        self.page.wait_for_function(
            "old => document.querySelector('.cd-canvas').toDataURL() !== old", arg=before
        )

    def playing(self):
        return self.count(".cinelab-desk.cd-playing") == 1

    def pause(self):
        self.press("play")
        self.page.wait_for_selector(".cinelab-desk:not(.cd-playing)")

    def go_on_from(self, selector):
        """Watch a take, and make its end the film's."""
        self.page.click(selector)
        self.page.click(".cd-goon:has-text('its end')")

    def chunks(self):
        return len(list((self.film / "chunks").glob("*.safetensors")))

    def shot(self, name):
        if folder := os.environ.get("CINELAB_SHOTS"):
            self.page.locator(".cinelab-desk").scroll_into_view_if_needed()
            self.page.screenshot(path=Path(folder) / f"{name}.png")


@pytest.fixture(scope="module")
def stage(browser, lab):
    """One page for the whole module: the tests below are one session, in order."""
    address, root = lab
    context = browser.new_context(viewport={"width": 1500, "height": 1000})
    stage = Stage(context.new_page(), address, root / "film")
    stage.open()
    yield stage
    context.close()


def test_all_of_the_desk_is_seen_at_once_with_a_prompt_that_can_be_played(stage):
    stage.shot("1_empty")
    stage.page.wait_for_function("""() => {
        const box = selector => document.querySelector(selector).getBoundingClientRect();
        const window = box(".jp-WindowedPanel-outer");
        const parts = [".cinelab-desk", ".cd-canvas", ".cd-play", ".cd-state", ".cd-timeline"];
        return parts.map(box).every(one => one.top >= window.top && one.bottom <= window.bottom);
    }""")
    assert (
        stage.page.input_value(".cd-prompt")
        == "medium shot of a red cat that waves in the meadow by day"
    )


def test_the_desk_says_what_is_wrong_in_one_line(stage):
    stage.say("")
    stage.wait_said("Prompt is empty")
    assert stage.count(".cinelab-desk.cd-wrong") == 1 and not stage.playing()
    stage.press("retake")
    stage.wait_said("no shot to take again")
    stage.shot("2_error")


def test_a_prompt_plays_and_pictures_change(stage):
    blank = stage.picture()
    stage.say(CAT)
    stage.wait_new_picture(blank)
    stage.wait_new_picture(stage.picture())
    assert stage.playing() and stage.count(".cinelab-desk.cd-wrong") == 0
    stage.page.wait_for_function(
        "document.querySelector('.cd-readout').textContent.includes('frames/s')"
    )


def test_words_are_completed_and_strange_ones_named(stage):
    stage.page.fill(".cd-prompt", "")
    stage.page.type(".cd-prompt", "wide sh")
    stage.page.press(".cd-prompt", "Tab")
    assert stage.page.input_value(".cd-prompt") == "wide shot "
    stage.page.type(".cd-prompt", "of a zebra ")
    assert "left out: zebra" in stage.page.inner_text(".cd-hints")
    stage.page.fill(".cd-prompt", "")
    stage.page.press(".cd-prompt", "ArrowUp")
    assert stage.page.input_value(".cd-prompt") == CAT


def test_a_prompt_in_mid_shot_stays_in_the_shot(stage):
    stage.page.select_option(".cd-switch", "recache")
    stage.say(JUMP)
    stage.page.wait_for_selector(".cd-latency:not(:empty)")
    stage.page.type(".cd-prompt", " and cl")
    stage.shot("3_playing")
    assert stage.count(".cd-shot") == 1


def test_a_cut_opens_a_shot(stage):
    stage.say(ROBOT, "Control+Enter")
    stage.wait_count(".cd-shot:not(.cd-next)", 2)
    stage.page.wait_for_selector(".cd-grid i[title*='shot 2']")


def test_a_retake_keeps_the_old_take_and_a_click_goes_back_to_it(stage):
    made = stage.chunks()
    stage.press("retake")
    stage.wait_count(".cd-take", 2)
    stage.page.wait_for_selector(".cd-take:nth-child(2).cd-on")
    stage.pause()
    stage.shot("4_takes")
    before = stage.picture()
    stage.go_on_from(".cd-take:first-child")
    stage.wait_said("Going on from shot 2")
    stage.page.wait_for_selector(".cd-take:first-child.cd-on")
    stage.wait_new_picture(before)
    assert stage.chunks() > made


def test_an_earlier_shot_is_watched_and_the_film_stays_as_it_is(stage):
    log = (stage.film / "log.jsonl").read_text()
    stage.page.click(".cd-shot:first-child .cd-face")
    stage.page.wait_for_selector(".cd-title:has-text('Watching shot 1, take 1')")
    stage.page.wait_for_function("document.querySelector('.cd-film video')?.readyState >= 2")
    stage.shot("4_watching")
    stage.page.keyboard.press("Escape")
    stage.wait_count(".cd-film", 0)
    assert stage.count(".cd-shot") == 2 and (stage.film / "log.jsonl").read_text() == log


def test_to_go_on_from_an_earlier_shot_leaves_the_later_ones_in_sight(stage):
    stage.go_on_from(".cd-shot:first-child .cd-face")
    stage.wait_count(".cd-shot", 1)
    stage.wait_count(".cd-others .cd-take", 2)
    stage.shot("5_other_ways")
    stage.go_on_from(".cd-others .cd-take:first-child")
    stage.wait_count(".cd-shot", 2)
    stage.wait_count(".cd-others", 0)


def test_keys_work_on_the_desk_and_not_in_the_box(stage):
    cells = stage.count(".jp-Cell")
    stage.page.click(".cd-readout")
    stage.page.keyboard.press("c")
    stage.wait_said("A cut comes with the next chunk")
    stage.wait_count(".cd-next", 1)
    stage.page.keyboard.press("u")
    stage.wait_said("Undone")
    stage.wait_count(".cd-next", 0)
    stage.page.focus(".cd-prompt")
    stage.page.keyboard.type("cue u")
    assert stage.page.input_value(".cd-prompt").endswith("cue u") and stage.count(".cd-next") == 0
    stage.page.keyboard.press("Escape")
    stage.page.keyboard.press("Space")
    stage.page.wait_for_selector(".cinelab-desk.cd-playing")
    assert stage.count(".jp-Cell") == cells


def test_jupyterlabs_combinations_work_at_the_desk(stage):
    dirty = stage.page.locator(".jp-NotebookPanel.jp-mod-dirty")
    for place in (".cinelab-desk", ".cd-prompt"):
        stage.page.click(".jp-Notebook-ExecutionIndicator")
        stage.page.evaluate("place => document.querySelector(place).focus()", place)
        stage.page.keyboard.press("Control+s")
        dirty.wait_for(state="detached")
        stage.page.keyboard.press("Control+b")
        stage.page.wait_for_selector("#jp-left-stack", state="hidden")
        stage.page.keyboard.press("Control+b")
        stage.page.wait_for_selector("#jp-left-stack", state="visible")


def test_settings_hold_and_wrong_ones_are_refused(stage):
    stage.page.fill(".cd-seed", "7")
    stage.page.press(".cd-seed", "Tab")
    stage.wait_said("The seed is 7")
    stage.page.fill(".cd-budget", "1")
    stage.page.press(".cd-budget", "Tab")
    stage.wait_said("Budget is 1")
    stage.page.wait_for_function("document.querySelector('.cd-budget').value === '6'")


def test_a_button_is_answered_while_it_plays(stage):
    for _ in range(5):
        stage.press("play")
        stage.page.wait_for_selector(".cinelab-desk:not(.cd-playing)")
        stage.press("play")
        stage.page.wait_for_selector(".cinelab-desk.cd-playing")


def test_an_export_has_its_files_and_plays_in_place(stage):
    stage.press("export")
    stage.wait_said("Exported to")
    stage.page.wait_for_function("document.querySelector('.cd-film video')?.readyState >= 2")
    stage.shot("6_export")
    folder = stage.film / "export-1"
    names = {path.name for path in folder.iterdir()}
    assert {"film.mp4", "storyboard.png", "screenplay.yaml", "film.shots.json"} <= names
    assert len(read_video(folder / "film.mp4")[0]) > 4
    assert stage.page.locator(".cd-download").all_inner_texts() == [
        "film",
        "storyboard",
        "screenplay",
    ]
    stage.page.click(".cd-back")
    assert stage.count(".cd-film") == 0
    stage.page.wait_for_selector(".cinelab-desk.cd-playing")


def test_a_tab_that_is_closed_pauses_the_film_and_opened_again_shows_the_desk(stage):
    stage.menu("File", "docmanager:save")
    shots = stage.count(".cd-shot")
    saved = stage.page.locator(".jp-NotebookPanel.jp-mod-dirty")
    saved.wait_for(state="detached")
    assert stage.playing()
    stage.page.goto("about:blank")
    until(lambda: '"do": "pause"' in (stage.film / "log.jsonl").read_text().splitlines()[-1])
    stage.page.goto(f"{stage.address}/lab/tree/desk.ipynb")
    stage.page.wait_for_selector(".cinelab-desk")
    stage.wait_said("Paused: nobody was watching")
    stage.wait_count(".cd-shot", shots)
    stage.page.wait_for_selector(".cd-note", state="hidden")
    stage.page.wait_for_selector(".cd-face img[src^='blob:']")
    stage.shot("7_reopened")


def test_after_a_restart_of_the_kernel_the_session_goes_on(stage):
    made = stage.chunks()
    shots = stage.count(".cd-shot")
    lines = len((stage.film / "log.jsonl").read_text().splitlines())
    stage.menu("Kernel", "kernelmenu:restart")
    stage.page.click(".jp-Dialog button.jp-mod-accept")
    stage.wait_said("The kernel has ended; run the cell again")
    assert (
        stage.count(".cinelab-desk.cd-dead") == 1 and stage.page.locator(".cd-play").is_disabled()
    )
    stage.shot("8_dead")
    stage.run_all()
    stage.wait_said("goes on from")
    stage.wait_count(".cd-shot", shots)
    assert not stage.playing() and stage.chunks() == made
    assert len((stage.film / "log.jsonl").read_text().splitlines()) == lines
    stage.page.wait_for_selector(".cd-note", state="hidden")
    stage.shot("8_restarted")
    before = stage.picture()
    stage.press("play")
    stage.wait_new_picture(before)
    stage.pause()
    assert stage.chunks() > made


def test_in_jupyterlabs_dark_theme_the_desk_is_dark(stage):
    paper = "getComputedStyle(document.querySelector('.cinelab-desk')).backgroundColor"
    assert stage.page.evaluate(paper) == "rgb(255, 255, 255)"
    stage.page.click("li.lm-MenuBar-item:has-text('Settings')")
    stage.page.hover("li.lm-Menu-item:has-text('Theme')")
    stage.page.click(
        "li.lm-Menu-item[data-command='apputils:change-theme']:has-text('JupyterLab Dark')"
    )
    stage.page.wait_for_function(f"{paper} === 'rgb(33, 33, 33)'")
    stage.shot("9_dark")


def test_nothing_went_wrong_that_only_the_console_tells(stage):
    assert stage.errors == []
