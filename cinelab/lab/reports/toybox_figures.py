"""Sheets of the toybox and of what the codec does to it. Everything is saved as PNG and
returned."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from cinelab.latent.codec import ToyCodec, encoded, to_uint8
from cinelab.stream.storyboard import save_png, storyboard
from cinelab.world.plans import FilmPlan
from cinelab.world.worlds import world_named, world_of

ZOOM = 3  # screen pixels per frame pixel


def toybox_still(
    seconds: float = 0.0, *, world: str | None = None, **attributes: str
) -> np.ndarray:
    """One frame of a world (None: the default one) with the given attributes, plain ones for the
    rest: uint8 (H, W, 3)."""
    drawn = world_named(world)
    frame = round(seconds * drawn.fps)
    plan = drawn.shot_of(attributes, 1 + -(-frame // drawn.stride))
    return drawn.render(plan).frames[frame]


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


def cast_sheet(folder: str | Path, world: str | None = None) -> Image.Image:
    """Kinds by pattern, colours, accessories, second colours, sizes and actions of a world (None:
    the default one)."""
    known = world_named(world).attributes
    still = partial(toybox_still, world=world)
    rows = [
        (
            kind,
            [
                still(kind=kind, pattern=pattern, accessory=accessory)
                for pattern, accessory in zip(known["pattern"], known["accessory"], strict=True)
            ],
        )
        for kind in known["kind"]
    ]
    rows += [
        ("colour", [still(colour=value) for value in known["colour"]]),
        (
            "second",
            [still(second=value, kind="ghost", colour="green") for value in known["second"]],
        ),
        ("size", [still(size=value, kind="rabbit") for value in known["size"]]),
        (
            "action",
            [still(0.6, action=value, kind="robot") for value in known["action"]],
        ),
    ]
    return _saved(sheet(rows), folder, "cast.png")


def set_sheet(folder: str | Path, world: str | None = None) -> Image.Image:
    """Settings of a world (None: the default one) by day and night, each with one of the
    landmarks."""
    known = world_named(world).attributes
    still = partial(toybox_still, world=world)
    landmarks = [*known["landmark"], *known["landmark"]]
    rows = [
        (
            time,
            [
                still(setting=setting, time=time, landmark=mark, size="wide", side=side)
                for setting, mark, side in zip(
                    known["setting"], landmarks, ("left", "right") * 3, strict=False
                )
            ],
        )
        for time in known["time"]
    ]
    return _saved(sheet(rows), folder, "sets.png")


def film_sheet(plan: FilmPlan) -> Image.Image:
    """A planned film as a storyboard."""
    world = world_of(plan)
    spans = world.timeline(plan).entry_spans
    return storyboard(world.render(plan).frames, spans, [shot.caption for shot in plan.shots])


@torch.no_grad()
def before_after(codec: ToyCodec, clips: np.ndarray) -> Image.Image:
    """Clips (n, F, H, W, 3) above what comes back from the codec."""
    rows = []
    for number, clip in enumerate(clips, 1):
        back = to_uint8(codec.decode(encoded(codec, clip[None]))[0])[0]
        rows += [(f"clip {number}", list(clip[:6])), ("codec", list(back[:6]))]
    return sheet(rows)
