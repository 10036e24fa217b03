"""Sheets of the toybox and of what the codec does to it. Everything is saved as PNG and
returned."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from cinelab.latent.codec import ToyCodec, encoded, to_uint8
from cinelab.stream.storyboard import save_png, storyboard
from cinelab.world import casting, render
from cinelab.world.vocab import ATTRIBUTES

ZOOM = 3  # screen pixels per frame pixel
PLAIN = {
    "kind": "cat",
    "colour": "red",
    "pattern": "belly",
    "accessory": "hat",
    "second": "white",
    "setting": "meadow",
    "landmark": "house",
    "side": "left",
    "time": "day",
    "size": "medium",
    "action": "stand",
    "camera": "static",
}


def toybox_still(seconds: float = 0.0, **attributes: str) -> np.ndarray:
    """One frame with the given attributes, plain ones for the rest: uint8 (H, W, 3)."""
    plan = casting.ShotPlan(PLAIN | attributes, "", 1, 0, 0, 0)
    return render.render_shot(plan, 1 + round(seconds * render.FPS))[0][-1]


def sheet(rows: list[tuple[str, list[np.ndarray]]]) -> Image.Image:
    """Rows of frames, each with a label on its left."""
    height, width = rows[0][1][0].shape[:2]
    columns = max(len(frames) for _, frames in rows)
    label = 132
    gap = 6
    size = (label + columns * (width * ZOOM + gap), len(rows) * (height * ZOOM + gap))
    page = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(page)
    font = ImageFont.load_default(size=16)
    for j, (name, frames) in enumerate(rows):
        top = j * (height * ZOOM + gap)
        pen.text((6, top + height * ZOOM / 2), name, fill="#333", font=font, anchor="lm")
        for i, frame in enumerate(frames):
            big = Image.fromarray(frame).resize(
                (width * ZOOM, height * ZOOM), Image.Resampling.LANCZOS
            )
            page.paste(big, (label + i * (width * ZOOM + gap), top))
    return page


def _saved(page: Image.Image, folder: str | Path, name: str) -> Image.Image:
    save_png(page, Path(folder) / name)
    return page


def cast_sheet(folder: str | Path) -> Image.Image:
    """Kinds by pattern, colours, accessories, second colours, sizes and actions."""
    rows = [
        (
            kind,
            [
                toybox_still(kind=kind, pattern=pattern, accessory=accessory)
                for pattern, accessory in zip(
                    ATTRIBUTES["pattern"], ATTRIBUTES["accessory"], strict=True
                )
            ],
        )
        for kind in ATTRIBUTES["kind"]
    ]
    rows += [
        ("colour", [toybox_still(colour=value) for value in ATTRIBUTES["colour"]]),
        (
            "second",
            [
                toybox_still(second=value, kind="ghost", colour="green")
                for value in ATTRIBUTES["second"]
            ],
        ),
        ("size", [toybox_still(size=value, kind="rabbit") for value in ATTRIBUTES["size"]]),
        (
            "action",
            [toybox_still(0.6, action=value, kind="robot") for value in ATTRIBUTES["action"]],
        ),
    ]
    return _saved(sheet(rows), folder, "cast.png")


def set_sheet(folder: str | Path) -> Image.Image:
    """Settings by day and night, each with one of the landmarks."""
    landmarks = [*ATTRIBUTES["landmark"], *ATTRIBUTES["landmark"]]
    rows = [
        (
            time,
            [
                toybox_still(setting=setting, time=time, landmark=mark, size="wide", side=side)
                for setting, mark, side in zip(
                    ATTRIBUTES["setting"], landmarks, ("left", "right") * 3, strict=False
                )
            ],
        )
        for time in ATTRIBUTES["time"]
    ]
    return _saved(sheet(rows), folder, "sets.png")


def film_sheet(plan: casting.FilmPlan) -> Image.Image:
    """A planned film as a storyboard."""
    line = casting.plan_timeline(plan, render.FPS, render.STRIDE)
    return storyboard(
        render.render(plan).frames, line.entry_spans, [shot.caption for shot in plan.shots]
    )


@torch.no_grad()
def before_after(codec: ToyCodec, clips: np.ndarray) -> Image.Image:
    """Clips (n, F, H, W, 3) above what comes back from the codec."""
    rows = []
    for number, clip in enumerate(clips, 1):
        back = to_uint8(codec.decode(encoded(codec, clip[None]))[0])[0]
        rows += [(f"clip {number}", list(clip[:6])), ("codec", list(back[:6]))]
    return sheet(rows)
