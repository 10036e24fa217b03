"""The desk in a real browser: JupyterLab, its notebook, a kernel, and everything that a director does.

With CINELAB_SHOTS set to a folder, screenshots are left there.
"""

import os
from pathlib import Path

import pytest
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
    root, own = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("settings")
    text = (ROOT / "notebooks/40_direct_live.ipynb").read_text()
    (root / "desk.ipynb").write_text(text.replace("../results/live/first", str(root / "film")))
    with jupyter_lab(root, own) as address:
        yield address, root


class Stage:
    """The notebook's page: what a director sees and does."""

    def __init__(self, page, address, film):
        self.page, self.address, self.film, self.errors = page, address, film, []
        page.set_default_timeout(LONG)
        page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))

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
        self.page.wait_for_function("text => document.querySelector('.cd-state')?.textContent.includes(text)", arg=text)

    def count(self, selector):
        return self.page.locator(selector).count()

    def wait_count(self, selector, count):
        self.page.wait_for_function("([s, n]) => document.querySelectorAll(s).length === n", arg=[selector, count])

    def picture(self):
        return self.page.evaluate("document.querySelector('.cd-canvas').toDataURL()")

    def wait_new_picture(self, before):
        self.page.wait_for_function("old => document.querySelector('.cd-canvas').toDataURL() !== old", arg=before)

    def playing(self):
        return self.count(".cinelab-desk.cd-playing") == 1

    def pause(self):
        self.press("play")
        self.page.wait_for_selector(".cinelab-desk:not(.cd-playing)")

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
    context = browser.new_context(viewport={"width": 1440, "height": 1100})
    stage = Stage(context.new_page(), address, root / "film")
    stage.open()
    yield stage
    context.close()


def test_the_desk_appears_and_says_what_is_wrong_in_one_line(stage):
    stage.shot("1_empty")
    stage.say("")
    stage.wait_said("The prompt is empty")
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
    stage.page.wait_for_function("document.querySelector('.cd-readout').textContent.includes('pictures/s')")


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
    stage.page.click(".cd-take:first-child")
    stage.wait_said("Going on from shot 2")
    stage.page.wait_for_selector(".cd-take:first-child.cd-on")
    stage.wait_new_picture(before)
    assert stage.chunks() > made


def test_a_click_on_an_earlier_shot_leaves_the_later_ones_in_sight(stage):
    stage.page.click(".cd-shot:first-child .cd-face")
    stage.wait_count(".cd-shot", 1)
    stage.wait_count(".cd-others .cd-take", 2)
    stage.shot("5_other_ways")
    stage.page.click(".cd-others .cd-take:first-child")
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


def test_settings_hold_and_wrong_ones_are_refused(stage):
    stage.page.fill(".cd-seed", "7")
    stage.page.press(".cd-seed", "Tab")
    stage.wait_said("The seed is 7")
    stage.page.fill(".cd-budget", "1")
    stage.page.press(".cd-budget", "Tab")
    stage.wait_said("budget is 1")
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
    stage.page.click(".cd-back")
    assert stage.count(".cd-film") == 0


def test_a_tab_that_is_closed_and_opened_again_shows_the_desk(stage):
    stage.pause()
    stage.menu("File", "docmanager:save")
    shots, saved = stage.count(".cd-shot"), stage.page.locator(".jp-NotebookPanel.jp-mod-dirty")
    saved.wait_for(state="detached")
    stage.page.reload()
    stage.page.wait_for_selector(".cinelab-desk")
    stage.wait_count(".cd-shot", shots)
    stage.page.wait_for_selector(".cd-note", state="hidden")
    stage.page.wait_for_selector(".cd-face img[src^='blob:']")
    stage.shot("7_reopened")


def test_after_a_restart_of_the_kernel_the_session_goes_on(stage):
    made, shots = stage.chunks(), stage.count(".cd-shot")
    lines = len((stage.film / "log.jsonl").read_text().splitlines())
    stage.menu("Kernel", "kernelmenu:restart")
    stage.page.click(".jp-Dialog button.jp-mod-accept")
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


def test_nothing_went_wrong_that_only_the_console_tells(stage):
    assert stage.errors == []
