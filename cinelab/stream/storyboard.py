"""A storyboard: one card per shot with a few of its frames, its number, its time, its prompt and
what changed in it."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from cinelab.errors import CinelabError
from cinelab.files import replacing
from cinelab.script.timeline import Turn
from cinelab.stream.frames import check_frames

PAPER = "#f4f3ef"
CARD = "#ffffff"
INK = "#1d2433"
QUIET = "#7a8191"
ACCENT = "#3b5bdb"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
OTHER_SCRIPTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msyh.ttc")


@dataclass(frozen=True)
class StoryboardLayout:
    """Measures in pixels; made to be shown at half its size, so it is sharp on any screen."""

    width: int = 2000  # of the image
    margin: int = 56  # around the image
    gap: int = 36  # between cards
    pad: int = 28  # inside a card
    strip_gap: int = 8  # between the frames of a card
    radius: int = 20
    title_size: int = 46
    label_size: int = 27
    caption_size: int = 27
    leading: float = 1.36  # line height, in font sizes


def storyboard(
    frames: np.ndarray,
    spans: Sequence[tuple[int, int]],
    captions: Sequence[str],
    columns: int | None = None,
    title: str | None = None,
    fps: float = 8.0,
    stills: int = 3,
    layout: StoryboardLayout = StoryboardLayout(),
    turns: Sequence[Sequence[Turn]] | None = None,
) -> Image.Image:
    """Draw the film as cards, `columns` in a row (2, or 1 for a single shot), RGB.

    frames uint8 (F, H, W, 3); spans (first, end) of every shot, end exclusive; one caption per
    shot; `stills` frames are shown of each: the first, the last and what lies evenly between.
    `turns` are the changes inside every shot: each is written under a frame from the end of its
    stretch.
    """
    check_frames(frames)
    _check_shots(frames, spans, captions, turns, columns, stills)
    columns = columns or min(2, len(spans))
    inner = layout.width - 2 * layout.margin - (columns - 1) * layout.gap
    cards = [
        _card(
            number,
            frames,
            span,
            _panels(span, caption, changes, stills),
            inner // columns,
            fps,
            stills,
            layout,
        )
        for number, (span, caption, changes) in enumerate(
            zip(spans, captions, turns or [()] * len(spans), strict=True), 1
        )
    ]
    rows = [cards[i : i + columns] for i in range(0, len(cards), columns)]
    return _page(rows, title, layout)


def save_png(image: Image.Image, path: str | Path) -> None:
    """Write an image in one atomic step; a failure leaves an older file as it was."""
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")  # optimize=True saves 4 % and takes five times as long


def _check_shots(frames, spans, captions, turns, columns, stills) -> None:
    if not spans:
        raise CinelabError("spans: a storyboard needs at least one shot, found none")
    for name, given in (("captions", captions), ("turns", turns)):
        if given is not None and len(spans) != len(given):
            raise CinelabError(f"{name}: {len(given)} for {len(spans)} shots, give one per shot")
    for number, (first, end) in enumerate(spans, 1):
        if not 0 <= first < end <= len(frames):
            raise CinelabError(
                f"spans: shot {number} is ({first}, {end}), but it needs 0 <= first < end <= "
                f"{len(frames)}, the frames of the film"
            )
    for name, value in (("columns", columns), ("stills", stills)):
        if value is not None and value < 1:
            raise CinelabError(f"{name}: {value} is too few, give 1 or more")


def _card(number, frames, span, panels, width, fps, stills, layout) -> Image.Image:
    """One shot as a white card of `width` pixels, as high as its rows of stills and their captions
    need."""
    rows = [panels[i : i + stills] for i in range(0, len(panels), stills)]
    strips = [_strip(frames, row, stills, width - 2 * layout.pad, layout) for row in rows]
    top = layout.pad + round(layout.label_size * 1.9)
    height = (
        top + sum(strip.height for strip in strips) + layout.pad // 2 * (len(rows) - 1) + layout.pad
    )
    card = Image.new("RGB", (width, height), CARD)
    _header(card, number, span, fps, _font(layout.label_size), layout)
    for strip in strips:
        card.paste(strip, (layout.pad, top))
        top += strip.height + layout.pad // 2
    return card


def _panels(span, caption: str, turns: Sequence[Turn], stills: int) -> list[tuple[int, str]]:
    """The frames that are shown of a shot, each with the caption below it: its first frame under
    its prompt, and the last frame of what follows every change under that change."""
    ends = [*(turn.frame - 1 for turn in turns), span[1] - 1]
    opening = np.linspace(span[0], ends[0], max(1, stills - len(turns))).round().astype(int)
    shown = [(int(frame), caption if place == 0 else "") for place, frame in enumerate(opening)]
    return shown + [(end, turn.line) for end, turn in zip(ends[1:], turns, strict=True)]


def _header(
    card: Image.Image, number: int, span, fps: float, font, layout: StoryboardLayout
) -> None:
    """The shot's number in a badge at the left, its seconds at the right."""
    pen = ImageDraw.Draw(card)
    size = round(layout.label_size * 1.45)
    text = str(number)
    wide = max(size, round(pen.textlength(text, font=font)) + size // 2)
    badge = _rounded((wide, size), size // 2)
    card.paste(ACCENT, (layout.pad, layout.pad), badge)
    middle = layout.pad + size / 2
    pen.text((layout.pad + wide / 2, middle), text, font=font, fill="white", anchor="mm")
    first, end = (frame / fps for frame in span)
    times = f"{first:.1f} to {end:.1f} s"
    pen.text((card.width - layout.pad, middle), times, font=font, fill=QUIET, anchor="rm")


def _strip(frames, panels, stills: int, width: int, layout: StoryboardLayout) -> Image.Image:
    """Stills side by side, `width` pixels, `stills` of them where all are there, and below each its
    caption, as wide as the way to the next one. A short shot may show a frame twice."""
    edges = np.linspace(0, width + layout.strip_gap, stills + 1).round().astype(int)
    tall = round((edges[1] - layout.strip_gap) * frames.shape[1] / frames.shape[2])
    notes = _notes([note for _, note in panels], edges, layout)
    line = round(layout.caption_size * layout.leading)
    below = max((len(lines) for _, lines, _ in notes), default=0)
    full = tall + (layout.pad * 2 // 3 + line * below if below else 0)
    strip = Image.new("RGB", (width, full), CARD)
    for (index, _), left, right in zip(panels, edges, edges[1:], strict=False):
        size = (int(right - left) - layout.strip_gap, tall)
        # Lanczos keeps anti-aliased outlines round when 64 pixels become 300.
        still = Image.fromarray(frames[index]).resize(size, Image.Resampling.LANCZOS)
        strip.paste(still, (int(left), 0), _rounded(size, layout.radius // 2))
    pen = ImageDraw.Draw(strip)
    for left, lines, font in notes:
        for row, text in enumerate(lines):
            pen.text((left, tall + layout.pad * 2 // 3 + row * line), text, font=font, fill=INK)
    return strip


def _notes(
    captions: Sequence[str], edges, layout: StoryboardLayout
) -> list[tuple[int, list[str], Font]]:
    """Where each caption of a row begins, and its lines, which end before the next caption."""
    starts = [column for column, caption in enumerate(captions) if caption]
    found = []
    for column, after in zip(starts, [*starts, len(edges) - 1][1:], strict=True):
        font = _font(layout.caption_size, captions[column])
        wide = (
            int(edges[after] - edges[column])
            - layout.strip_gap
            - (layout.pad if after < len(edges) - 1 else 0)
        )
        found.append((int(edges[column]), _wrap(captions[column], font, wide), font))
    return found


def _page(
    rows: list[list[Image.Image]], title: str | None, layout: StoryboardLayout
) -> Image.Image:
    """Cards on paper, row by row, each row as high as its highest card."""
    font = _font(layout.title_size, title or "")
    lines = _wrap(title, font, layout.width - 2 * layout.margin) if title else []
    line = round(layout.title_size * layout.leading)
    heights = [max(card.height for card in row) for row in rows]
    head = layout.margin + (line * len(lines) + layout.gap // 2 if lines else 0)
    total = head + sum(heights) + layout.gap * (len(rows) - 1) + layout.margin
    page = Image.new("RGB", (layout.width, total), PAPER)
    for number, text in enumerate(lines):
        place = (layout.margin, layout.margin + number * line)
        ImageDraw.Draw(page).text(place, text, font=font, fill=INK)
    top = head
    for cards, height in zip(rows, heights, strict=True):
        left = layout.margin
        for card in cards:
            _lay(page, card, (left, top), height, layout)
            left += card.width + layout.gap
        top += height + layout.gap
    return page


def _lay(
    page: Image.Image, card: Image.Image, place, height: int, layout: StoryboardLayout
) -> None:
    """Put a card with round corners and a soft shadow on the page, stretched to `height`."""
    full = Image.new("RGB", (card.width, height), CARD)
    full.paste(card, (0, 0))
    shape = _rounded(full.size, layout.radius)
    blur = 14
    shadow = Image.new("L", (full.width + 4 * blur, full.height + 4 * blur), 0)
    shadow.paste(26, (2 * blur, 2 * blur), shape)
    shadow = shadow.filter(ImageFilter.GaussianBlur(blur))
    page.paste("#1d2433", (place[0] - 2 * blur, place[1] - 2 * blur + 6), shadow)
    page.paste(full, place, shape)


def _rounded(size: tuple[int, int], radius: int) -> Image.Image:
    """A mask with round, anti-aliased corners: drawn four times larger, then shrunk."""
    large = Image.new("L", (size[0] * 4, size[1] * 4), 0)
    box = (0, 0, large.width - 1, large.height - 1)
    ImageDraw.Draw(large).rounded_rectangle(box, radius * 4, fill=255)
    return large.resize(size, Image.Resampling.BOX)


def _font(size: int, text: str = "") -> Font:
    """Pillow's own font, the same image on every machine; a system font for other scripts."""
    own = ImageFont.load_default(size)
    if not _lacks(own, text):
        return own
    for name in OTHER_SCRIPTS:
        with suppress(OSError):
            if not _lacks(font := ImageFont.truetype(name, size), text):
                return font
    return own


def _lacks(font: Font, text: str) -> bool:
    """Whether a letter of `text` would be drawn as the empty box that stands for no letter."""
    box = bytes(font.getmask("\uffff"))
    return any(bytes(font.getmask(letter)) == box for letter in set(text) if not letter.isspace())


def _wrap(text: str, font, width: int) -> list[str]:
    """Break `text` into lines of at most `width` pixels; a longer word is broken too."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        lines += [""] if lines[-1] else []
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines
