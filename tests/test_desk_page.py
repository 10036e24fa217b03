"""The desk's page alone, in a browser, with the kernel's part spoken by the test: how it looks and
what it sends in every state."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from cinelab.lab.desk.page import HERE, SCRIPTS, STYLE
from cinelab.lab.desk.view import EXAMPLES, SWITCHES
from cinelab.stream.video import write_mp4

pytestmark = pytest.mark.browser
CAT = EXAMPLES["cat, meadow"]
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<link rel="stylesheet" href="/desk.css"><style>body {{ margin: 8px }} {style}</style>
<body {body}><div id="desk"></div><script type="module">
import desk from "/desk.js";
const listeners = {{ "msg:custom": [], "change:view": [] }};
window.state = {state}; window.sent = []; window.leaked = [];
window.model = {{
  get: name => state[name],
  on: (event, call) => listeners[event].push(call),
  off: () => 0,
  send: message => sent.push(message),
}};
const decoded = text => Uint8Array.from(atob(text), c => c.charCodeAt());
window.say = (message, bytes = []) =>
  listeners["msg:custom"].forEach(call => call(message, bytes.map(decoded)));
window.put = changes => {{
  state.view = {{ ...state.view, ...changes }};
  listeners["change:view"].forEach(call => call());
}};
document.addEventListener("keydown", event =>  // as JupyterLab decides
  event.target.closest("[data-lm-suppress-shortcuts]") || leaked.push(event.key), true);
desk.render({{ model, el: document.getElementById("desk") }});
window.ready = true;
</script>"""
DARK_LAB = (
    "body { --jp-layout-color0: #111; --jp-layout-color1: #212121; --jp-ui-font-color0: #fff; "
    "--jp-border-color1: #616161;"
    " --jp-border-color2: #424242; background: #111 }"
)
LIGHT_LAB = (
    "body { --jp-layout-color0: #fff; --jp-layout-color1: #fff; --jp-ui-font-color0: "
    "rgba(0,0,0,1); --jp-border-color1: #bdbdbd;"
    " --jp-border-color2: #e0e0e0; background: #fff }"
)
ABOUT = {
    "model": "toybox-2step",
    "size": [48, 64],
    "fps": 8,
    "steps": 2,
    "chunk_seconds": 0.25,
    "trained_seconds": 6,
    "examples": [{"name": name, "text": text} for name, text in EXAMPLES.items()],
    "policies": ["camr", "full"],
    "switches": SWITCHES,
    "words": sorted(set(" ".join(EXAMPLES.values()).split())),
    "phrases": ["wide shot"],
    "little": [],
}
NEW = {
    "playing": False,
    "message": "",
    "error": "",
    "readout": "nothing made since the desk was opened",
    "chunks": 0,
    "cut": False,
    "shots": [],
    "closed": False,
    "attended": {"rows": []},
    "earlier": [],
    "remembering": None,
    "retake": None,
    "settings": {
        "prompt": "",
        "seed": 24,
        "policy": "camr",
        "budget": 6,
        "steps": None,
        "switch": "keep",
    },
}


def take(line, last, on=True, shot=0):
    return {"line": line, "last": last, "on": on, "changes": [], "prompt": CAT, "shot": shot}


FILM = NEW | {
    "chunks": 9,
    "settings": NEW["settings"] | {"prompt": CAT},
    "message": "Paused.",
    "retake": {"shot": 2, "seed": 25},
    "attended": {"rows": [[0.25, 1.0], [0, 0.5]]},
    "shots": [
        {
            "shot": 0,
            "line": 0,
            "last": 4,
            "chunks": 5,
            "prompt": CAT,
            "changes": [{"at": 4, "what": "waves → jumps"}],
            "takes": [take(0, 4), take(7, 8, on=False)],
        },
        {
            "shot": 1,
            "line": 5,
            "last": 6,
            "chunks": 2,
            "prompt": CAT,
            "changes": [],
            "takes": [take(5, 6, shot=1)],
        },
    ],
}


class Page:
    """A page with a desk, and what the kernel would say to it."""

    def __init__(self, page, view, style="", body="", about=None):
        self.page = page
        self.errors = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on(
            "console", lambda message: message.type == "error" and self.errors.append(message.text)
        )
        html = PAGE.format(
            style=style, body=body, state=json.dumps({"about": ABOUT | (about or {}), "view": view})
        )
        self.parts = {"/": ("text/html", html)}
        for name in (*SCRIPTS, STYLE):
            kind = "text/css" if name == STYLE else "text/javascript"
            self.parts[f"/{name}"] = (kind, (HERE / name).read_text(encoding="utf-8"))
        page.route("http://desk/**", self.serve)

    def serve(self, route):
        kind, body = self.parts.get(
            route.request.url.removeprefix("http://desk"), ("text/plain", "")
        )
        route.fulfill(body=body, content_type=kind)

    def open(self):
        self.page.goto("http://desk/")
        self.page.wait_for_function("window.ready")
        return self

    def say(self, message, *files):
        self.page.evaluate(
            "([message, files]) => say(message, files)",
            [message, [base64.b64encode(one).decode() for one in files]],
        )

    def put(self, **news):
        self.page.evaluate("news => put(news)", news)

    def sent(self, kind="do"):
        found = [message for message in self.page.evaluate("sent") if message["kind"] == kind]
        return [
            {
                name: value
                for name, value in message.items()
                if name not in ("kind", "play") or value is True
            }
            for message in found
        ]

    def answer(self, text="", error="", playing=False):
        number = self.page.evaluate("sent.filter(message => message.id).at(-1).id")
        self.say(
            {
                "kind": "answer",
                "id": number,
                "message": text,
                "error": error,
                "playing": playing,
                "next": 0,
            }
        )

    def state(self):
        return self.page.inner_text(".cd-state")


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Ten frames, each brighter than the one before, as mp4."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write_mp4(
        path,
        np.repeat(np.arange(0, 250, 25, dtype=np.uint8), 48 * 64 * 3).reshape(10, 48, 64, 3),
        8,
    )
    return path.read_bytes()


@pytest.fixture
def desk(browser):
    contexts = []
    pages = []

    def start(view=NEW, width=1200, height=900, scheme="light", clock=False, **more):
        contexts.append(
            browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        )
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        if clock:
            page.clock.install()
        pages.append(Page(page, view, **more).open())
        return pages[-1]

    yield start
    errors = [error for page in pages for error in page.errors]
    for context in contexts:
        context.close()
    assert errors == []


# ---- a new film


def test_play_on_an_empty_desk_says_the_prompt_that_stands_in_the_box(desk):
    new = desk()
    assert new.page.input_value(".cd-prompt") == CAT
    new.page.click(".cd-play")
    assert new.sent() == [
        {"command": "prompt", "value": {"text": CAT, "switch": "keep"}, "play": True, "id": 1}
    ]


def test_an_example_fills_the_box_and_the_dice_draw_a_seed(desk):
    new = desk()
    new.page.click("text=robot, city")
    assert new.page.input_value(".cd-prompt") == EXAMPLES["robot, city"] and not new.sent()
    new.page.click(".cd-dice")
    command = new.sent()[0]
    assert command["command"] == "seed" and 0 <= command["value"]["value"] < 10_000


def test_a_film_that_is_opened_again_shows_its_own_prompt(desk):
    assert (
        desk(FILM | {"settings": FILM["settings"] | {"prompt": "a ghost"}}).page.input_value(
            ".cd-prompt"
        )
        == "a ghost"
    )


# ---- what stands in the state line


def test_a_kernel_that_says_nothing_any_more_looks_dead_and_comes_back_to_life(desk):
    film = desk(FILM | {"playing": True}, clock=True)
    film.page.clock.run_for(6000)
    assert film.page.locator(".cd-dead").count() == 0
    film.page.clock.run_for(3000)
    assert film.state() == "The kernel has ended; run the cell again to go on."
    assert film.page.locator(".cd-dead:not(.cd-playing)").count() == 1
    for part in (
        ".cd-play",
        ".cd-retake",
        ".cd-prompt",
        ".cd-seed",
        ".cd-dice",
        ".cd-take",
        ".cd-face",
    ):
        assert film.page.locator(part).first.is_disabled()
    film.page.keyboard.press("c")
    assert not film.sent()
    film.say({"kind": "alive"})
    assert film.page.locator(".cd-dead").count() == 0 and film.page.locator(".cd-play").is_enabled()
    assert film.page.inner_text(".cd-play") == "Pause" and film.state() == "Paused."


def test_an_answer_is_not_undone_by_a_view_that_it_has_overtaken(desk):
    film = desk(FILM | {"playing": True, "revision": 7})
    film.page.click(".cd-play")
    film.say(
        {
            "kind": "answer",
            "id": 1,
            "message": "Paused.",
            "error": "",
            "playing": False,
            "revision": 9,
            "next": 9,
        }
    )
    film.put(revision=8)
    assert film.page.inner_text(".cd-play") == "Play"
    film.put(revision=10)
    assert film.page.inner_text(".cd-play") == "Pause"


def test_signs_of_life_keep_it_alive_and_a_busy_kernel_is_told_from_a_dead_one(desk):
    film = desk(FILM, clock=True)
    film.page.click(".cd-cut")
    for _ in range(6):
        film.page.clock.run_for(2000)
        film.say({"kind": "alive"})
    film.page.clock.run_for(1000)
    assert (
        film.state().startswith("Waiting for the kernel")
        and film.page.locator(".cd-cut").is_enabled()
    )
    film.answer("A cut comes with the next chunk.")
    assert film.state() == "A cut comes with the next chunk."


def test_a_desk_that_was_closed_stays_closed(desk):
    film = desk(FILM)
    film.put(closed=True)
    film.say({"kind": "alive"})
    assert (
        film.state().startswith("Closed; run the cell again")
        and film.page.locator(".cd-export").is_disabled()
    )


def test_a_connection_that_is_lost_greys_the_desk_until_it_is_there_again(desk):
    film = desk(FILM)
    film.say({"kind": "lost", "message": "The connection is lost; trying again."})
    assert (
        film.state() == "The connection is lost; trying again."
        and film.page.locator(".cd-export").is_disabled()
    )
    film.put(message="Playing.", playing=True)
    assert film.state() == "Playing." and film.page.locator(".cd-export").is_enabled()


def test_who_only_watches_pauses_nothing_and_cannot_go_on_from_a_take(desk, film):
    page = desk(FILM | {"playing": True}, about={"role": "watch"})
    page.page.click(".cd-take >> nth=1")
    assert not page.sent() and page.sent("watch")
    page.say({"kind": "take", "of": 1, "chunks": [7, 8], "ends": [5, 10]}, film)
    page.page.wait_for_selector(".cd-film video")
    assert page.page.locator(".cd-goon").count() == 0


def test_who_only_watches_is_offered_nothing_that_would_be_refused(desk):
    page = desk(FILM | {"playing": True}, about={"role": "watch"})
    for part in (".cd-play", ".cd-retake", ".cd-export", ".cd-examples", ".cd-hints", ".cd-dice"):
        assert page.page.locator(part).is_hidden()
    for part in (".cd-prompt", ".cd-seed", ".cd-policy", ".cd-budget", ".cd-levels", ".cd-switch"):
        assert page.page.locator(part).is_visible() and page.page.locator(part).is_disabled()
    page.page.focus(".cinelab-desk")
    for key in ("c", "r", "u", "e", " "):
        page.page.keyboard.press(key)
    assert not page.sent() and not page.sent("export")
    page.say({"kind": "lost", "message": "The connection is lost."})
    page.say({"kind": "alive"})
    assert (
        page.page.locator(".cd-prompt").is_disabled()
        and page.page.locator(".cd-take").first.is_enabled()
    )


def test_who_only_watches_an_empty_film_is_not_told_to_play(desk):
    assert "Nothing has been made yet" in desk(about={"role": "watch"}).page.inner_text(".cd-note")
    assert "Press Play" in desk(about={"role": "direct"}).page.inner_text(".cd-note")


def test_the_memorys_axes_have_names(desk):
    ticks = desk(FILM).page.locator(".cd-tick").all_inner_texts()
    assert ticks == ["layer 2", "1", "shot", "1", "2"]


@pytest.mark.parametrize("size", [(1500, 1000), (1040, 700), (390, 844)])
def test_all_six_layers_of_the_memory_and_its_axes_are_seen(desk, size):
    page = desk(FILM | {"attended": {"rows": [[0.5, 1.0]] * 6}}, width=size[0], height=size[1]).page
    assert page.evaluate(
        "(() => { const one = document.querySelector('.cd-strip'); return one.scrollHeight <= "
        "one.clientHeight; })()"
    )


@pytest.mark.parametrize("width", [390, 1200])
def test_a_card_shows_what_its_shot_does_and_when_it_changed(desk, width):
    """Two lines of a prompt, and one of a change, are seen whole: neither beside nor below the
    card's edge."""
    page = desk(
        FILM | {"shots": [FILM["shots"][0] | {"prompt": "close shot of a blue robot that dances"}]},
        width=width,
    ).page
    assert page.evaluate("""[...document.querySelectorAll(".cd-text")].every(
        one => one.scrollWidth <= one.clientWidth && one.scrollHeight <= one.clientHeight + 1)""")
    assert page.evaluate(
        "(() => { const one = document.querySelector('.cd-timeline'); return one.scrollHeight <= "
        "one.clientHeight; })()"
    )


def test_on_a_phone_nothing_is_cut_that_can_be_wrapped(desk):
    page = desk(
        FILM
        | {
            "readout": "first frame 0.09 s, 11 frames/s, text 0 %, model 40 %, memory 27 %, decode "
            "16 %, rest 17 %"
        },
        width=390,
    ).page
    assert page.evaluate("""[".cd-readout", ".cd-strip .cd-label", ".cd-state"].every(name => {
        const one = document.querySelector(name);
        return one.scrollWidth <= one.clientWidth + 1; })""")
    fits = page.evaluate("""[...document.querySelectorAll(".cd-hints span")]
        .filter(one => one.offsetTop < document.querySelector(".cd-hints").offsetTop + 20)
        .every(one => one.scrollWidth <= one.clientWidth + 1)""")
    assert fits, "a hint that does not fit is left out whole"


def test_a_page_that_is_no_notebook_waits_for_no_kernel(desk):
    film = desk(FILM, clock=True, about={"waits": "Waiting for the server."})
    film.page.click(".cd-cut")
    film.page.clock.run_for(4000)
    assert film.state() == "Waiting for the server."


def test_remembering_has_a_bar_and_numbers(desk):
    film = desk(FILM | {"playing": True, "message": "Playing.", "remembering": [130, 230]})
    assert film.state() == "Remembering 130 of 230 chunks."
    assert film.page.evaluate(
        "[...document.querySelectorAll('progress')].map(one => [one.hidden, one.value, one.max])"
    ) == [[False, 130, 230]]
    film.put(remembering=[1, 2])
    assert film.state() == "Playing." and film.page.locator("progress").is_hidden(), (
        "too short to be message"
    )
    film.put(remembering=None, message="Paused: nobody was watching. Play goes on.")
    assert film.state().startswith("Paused: nobody was watching")


def test_a_shot_longer_than_training_is_hinted_once(desk):
    film = desk(FILM | {"playing": True})
    long = [FILM["shots"][0] | {"chunks": 25}]
    film.put(shots=long)
    assert "Clips in training lasted up to 6.0 s" in film.state()
    film.put(message="A cut comes with the next chunk.")
    film.put(shots=[long[0] | {"chunks": 26}])
    assert film.state() == "A cut comes with the next chunk."


# ---- takes


def test_a_retake_says_which_shot_and_a_card_what_changed_in_it(desk):
    film = desk(FILM)
    assert film.page.inner_text(".cd-retake") == "Retake 2"
    assert film.page.get_attribute(".cd-retake", "title").startswith(
        "Shot 2 again from its beginning, with seed 25"
    )
    assert film.page.inner_text(".cd-changed >> nth=0") == "1.0 s: waves → jumps"
    assert film.page.get_attribute(".cd-shot >> nth=0", "title") == f"{CAT}\n1.0 s: waves → jumps"


def test_a_take_is_watched_stepped_through_and_left(desk, film):
    page = desk(FILM | {"playing": True})
    page.page.click(".cd-take >> nth=1")
    assert [message["command"] for message in page.sent()] == ["pause"] and page.sent("watch") == [
        {"chunk": 8, "id": 2}
    ]
    page.say({"kind": "take", "of": 2, "chunks": [7, 8], "ends": [5, 10]}, film)
    page.answer("Paused.")
    assert page.page.inner_text(".cd-title") == "Watching shot 1, take 2"
    page.page.wait_for_function("document.querySelector('.cd-film video').currentTime > 0")
    page.page.keyboard.press("Space")
    page.page.evaluate("document.querySelector('.cd-film video').currentTime = 0")
    for _ in range(3):
        page.page.keyboard.press("ArrowRight")
    page.page.wait_for_selector(".cd-goon:text('go on from 0.4 s')")
    page.page.keyboard.press("Escape")
    assert page.page.locator(".cd-film").count() == 0 and page.sent()[-1]["command"] == "resume", (
        "as before"
    )


@pytest.mark.parametrize("steps, chunk", [(None, 8), (0, 7), (6, 8)])
def test_it_goes_on_from_the_frame_that_is_shown_or_from_the_end(desk, film, steps, chunk):
    page = desk(FILM)
    page.page.click(".cd-take >> nth=1")
    page.say({"kind": "take", "of": 1, "chunks": [7, 8], "ends": [5, 10]}, film)
    page.page.wait_for_function("document.querySelector('.cd-film video').readyState >= 2")
    if steps is not None:
        page.page.evaluate(
            "s => { const v = document.querySelector('.cd-film video'); v.pause(); v.currentTime "
            "= (s + 0.5) / 8; }",
            steps,
        )
        page.page.wait_for_selector(f".cd-goon:text('go on from {steps / 8:.1f} s')")
    page.page.click(".cd-goon")
    assert page.sent()[-1] == {"command": "branch", "value": {"chunk": chunk}, "id": 2}
    assert page.page.locator(".cd-film").count() == 0


def test_a_take_that_another_view_asked_for_is_not_shown(desk, film):
    page = desk(FILM)
    page.say({"kind": "take", "of": 99, "chunks": [0], "ends": [10]}, film)
    assert page.page.locator(".cd-film").count() == 0


def test_an_export_can_be_downloaded(desk, film):
    page = desk(FILM | {"playing": True})
    page.page.click(".cd-export")
    page.say(
        {"kind": "film", "names": ["film.mp4", "storyboard.png", "screenplay.yaml"]},
        film,
        b"png",
        b"yaml",
    )
    page.say(
        {
            "kind": "answer",
            "id": 1,
            "message": "Exported to export-1",
            "error": "",
            "playing": True,
            "next": 9,
        }
    )
    page.answer("Paused.")  # what is watched stands in the way of the live film
    page.put(message="Paused.", playing=False)
    assert [message["command"] for message in page.sent()] == [
        "pause"
    ] and page.state() == "Exported to export-1"
    with page.page.expect_download() as download:
        page.page.click(".cd-download >> nth=0")
    assert (
        download.value.suggested_filename == "film.mp4"
        and Path(download.value.path()).read_bytes() == film
    )
    assert page.page.locator(".cd-download").all_inner_texts() == [
        "film",
        "storyboard",
        "screenplay",
    ]
    page.page.click(".cd-back")
    assert page.sent()[-1]["command"] == "resume" and page.state() == "Paused."


# ---- keys


def test_only_our_own_keys_are_kept_from_jupyterlab(desk):
    page = desk(FILM)
    page.page.focus(".cinelab-desk")
    for key in ("c", "r", "Space", "d", "Control+Enter"):
        page.page.keyboard.press(key)
    assert [key for key in page.page.evaluate("leaked") if key != "Control"] == []
    for key in ("Control+s", "Control+Shift+c", "Meta+s", "Alt+x"):
        page.page.keyboard.press(key)
    page.page.focus(".cd-prompt")
    page.page.keyboard.press("Control+s")
    single = [key for key in page.page.evaluate("leaked") if len(key) == 1]
    assert single == ["s", "c", "s", "x", "s"]
    assert [message["command"] for message in page.sent()] == ["cut", "retake", "resume"]


def test_a_question_mark_lists_every_key(desk):
    page = desk(FILM)
    page.page.focus(".cinelab-desk")
    page.page.keyboard.press("?")
    listed = page.page.locator(".cd-keys kbd").all_inner_texts()
    assert {"Space", "c", "r", "u", "e", "f", "?", "Enter", "Ctrl+Enter", "Tab"} <= set(listed)
    page.page.keyboard.press("c")
    assert not page.sent(), "a list is read, not the desk"
    page.page.keyboard.press("Escape")
    assert page.page.locator(".cd-keys").is_hidden()
    page.page.keyboard.press("f")
    page.page.wait_for_function("document.fullscreenElement?.className === 'cd-stage'")


# ---- colours, sizes, names

TEXTS = (
    (
        "state readout latency title label hints prompt chip button settings-label seed text "
        "changed head back download goon"
    )
    .replace("settings-label", "settings>label")
    .split()
)
CONTRAST = """selector => {
  const numbers = colour => {
    const c = document.createElement("canvas").getContext("2d");
    c.fillStyle = colour;
    c.fillRect(0, 0, 1, 1);
    return [...c.getImageData(0, 0, 1, 1).data].map(one => one / 255); };
  const over = (a, b) => [0, 1, 2].map(k => a[k] * a[3] + b[k] * (1 - a[3])).concat(1);
  const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = c => {
    const [r, g, b] = c.map(linear);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = element => { const own = numbers(getComputedStyle(element).backgroundColor);
    const whole = own[3] >= 1 || !element.parentElement;
    return over(own, whole ? [1, 1, 1, 1] : behind(element.parentElement)); };
  const shown = [...document.querySelectorAll(selector)].filter(one => one.checkVisibility());
  return shown.flatMap(one => {
    const back = behind(one), inks = [getComputedStyle(one).color];
    if (one.placeholder) inks.push(getComputedStyle(one, "::placeholder").color);
    return inks.map(ink => { const a = light(over(numbers(ink), back)), b = light(back);
      return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); });
  });
}"""
THEMES = {
    "light": {},
    "dark": {"scheme": "dark"},
    "JupyterLab Light": {
        "scheme": "dark",
        "style": LIGHT_LAB,
        "body": 'data-jp-theme-light="true"',
    },
    "JupyterLab Dark": {"style": DARK_LAB, "body": 'data-jp-theme-light="false"'},
}


@pytest.mark.parametrize("theme", THEMES)
def test_every_text_can_be_read(desk, film, theme):
    page = desk(FILM, **THEMES[theme])
    page.page.click(".cd-take >> nth=1")
    page.say({"kind": "take", "of": 1, "chunks": [7, 8], "ends": [5, 10]}, film)
    page.page.fill(".cd-prompt", "")
    page.page.type(".cd-prompt", "wide sh")
    for error in ("", "budget is 1; give at least 3."):
        page.put(error=error, message="Paused.")
        for name in TEXTS:
            worst = min(page.page.evaluate(CONTRAST, f".cd-{name}".replace(">", " ")), default=99)
            assert worst >= 4.5, (name, error)
    dark = page.page.evaluate(
        "getComputedStyle(document.querySelector('.cinelab-desk')).colorScheme"
    )
    assert dark == ("dark" if theme in ("dark", "JupyterLab Dark") else "light")
    empty, full = (
        page.page.evaluate(
            "s => getComputedStyle(document.querySelector(s)).backgroundColor",
            f".cd-grid i[title*='{share} %']",
        )
        for share in (0, 100)
    )
    assert empty != full


def test_it_fits_a_phone_and_a_screen(desk):
    for width, height, view in ((390, 844, FILM), (390, 844, NEW), (1500, 1000, FILM)):
        page = desk(view, width=width, height=height).page
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert (
            page.evaluate(
                "(() => { const d = "
                "document.querySelector('.cinelab-desk').getBoundingClientRect().right;"
                " return [...document.querySelectorAll('.cd-button, .cd-stage, .cd-settings *, "
                ".cd-prompt')]"
                ".filter(one => one.getBoundingClientRect().right > d).length; })()"
            )
            == 0
        )


def test_everything_that_can_be_pressed_has_a_name(desk, film):
    page = desk(FILM)
    page.page.click(".cd-take >> nth=1")
    page.say({"kind": "take", "of": 1, "chunks": [7, 8], "ends": [5, 10]}, film)
    nameless = page.page.evaluate(
        "[...document.querySelectorAll('button, input, select, textarea, dialog, canvas')]"
        ".filter(one => !(one.getAttribute('aria-label') || one.textContent.trim())).map(one => "
        "one.outerHTML)"
    )
    assert nameless == []
    assert page.page.get_attribute(".cd-state", "aria-live") == "polite"
