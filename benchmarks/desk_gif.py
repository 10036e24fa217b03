"""The README's animation: a short session at the desk, in a real browser. `python
benchmarks/desk_gif.py docs/desk.gif`"""

import asyncio
import io
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from cinelab.lab.desk.demo import serve_demo
from cinelab.lab.desk.hosting import FilmHost
from cinelab.zoo.checkpoints import load

# pixels; seconds between two frames
WIDTH = 720
EVERY = 0.25
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport={"width": 1040, "height": 700})
        page.goto(address(Path(folder)))
        page.wait_for_selector("body[data-ready=yes] canvas")
        frames = [Image.open(io.BytesIO(shot)).convert("RGB") for shot in session(page)]
        browser.close()
    height = round(frames[0].height * WIDTH / frames[0].width)
    small = [
        frame.resize((WIDTH, height), Image.Resampling.LANCZOS).quantize(
            104, dither=Image.Dither.NONE
        )
        for frame in frames
    ]
    small[0].save(
        sys.argv[1],
        save_all=True,
        append_images=small[1:],
        duration=round(1000 * EVERY),
        loop=0,
        optimize=True,
    )


def address(folder: Path) -> str:
    """A demo of its own in a thread."""
    addresses: list[str] = []
    films = FilmHost(folder, load("toybox-2step"))
    threading.Thread(
        target=lambda: asyncio.run(serve_demo(films, "127.0.0.1", 0, announce=addresses.append)),
        daemon=True,
    ).start()
    while not addresses:
        time.sleep(0.05)
    return addresses[0]


def session(page):
    """Images of the desk while it is directed."""

    def say(text: str, key: str):
        page.locator("textarea").fill(text)
        yield from watch(page, 2)
        page.locator("textarea").press(key)
        yield from watch(page, 9)

    yield from say("medium shot of a red cat that waves in the meadow by day", "Enter")
    yield from say("close shot of a blue robot that dances in the city at night", "Control+Enter")
    page.get_by_role("button", name="Retake").click()
    yield from watch(page, 9)
    yield from say("medium shot of a red cat that jumps in the meadow by day", "Control+Enter")


def watch(page, count: int):
    for _ in range(count):
        began = time.time()
        yield page.locator("#desk").screenshot(type="png")
        time.sleep(max(0.0, EVERY - (time.time() - began)))


if __name__ == "__main__":
    main()
