"""routing.html: which earlier chunks every new chunk retrieved, shown as frames.

One page of plain HTML with a little script and the film's stills in one JPEG: it needs no network,
and a film of 12 s takes about 200 KB. Shots and chunks count from 1, as at the desk.
"""

import html
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from cinelab.errors import CinelabError
from cinelab.files import write_text
from cinelab.lab.reports.routing_plots import KINDS
from cinelab.lab.reports.templates import filled_template, jpeg_uri, safe_json
from cinelab.memory.policy import RandomTopK
from cinelab.memory.policy_io import policy_from_dict
from cinelab.memory.policy_registry import label_of
from cinelab.script.timeline import Timeline
from cinelab.stream.attention_shares import attention_shares, scores_attention
from cinelab.stream.director import Film

MOST_STILLS = 240  # of a long film, every second, third ... chunk lends its still
# retrieved chunks that are listed of a chunk, those with most attention; the others are summed up
MOST_SEEN = 24
ACROSS = 16  # stills in a row of the image that holds them all
WHY = {
    "routed": "retrieved because it was relevant",
    "window": "one of the newest chunks, which are always kept",
    "sink": "one of the first chunks of the film or the shot, which are always kept",
}


def write_routing_page(film: Film, path: str | Path) -> None:
    """Write the page of a film in one atomic step."""
    write_text(Path(path), routing_page(film))


class RoutingView:
    """The page of a film in a notebook's cell, in a frame of its own."""

    def __init__(self, film: Film, height: int = 900):
        self.page = routing_page(film)
        self.height = height

    def __repr__(self) -> str:
        return f"RoutingView({len(self.page) // 1024} KiB)"

    def _repr_html_(self) -> str:
        style = f"width: 100%; height: {self.height}px; border: 0"
        return f'<iframe srcdoc="{html.escape(self.page)}" style="{style}"></iframe>'


def routing_page(film: Film) -> str:
    """The text of the page of a film."""
    scored, chance = _scoring(film)
    shares = attention_shares(film.routing, scored)
    data = {
        "shots": shots_of(film),
        "chunks": _chunks(film, shares),
        "sprite": _sprite(film.frames, film.timeline),
    }
    kinds = [kind for kind in KINDS if kind in set(shares["kind"])]
    legend = [
        {
            "kind": kind,
            "colour": KINDS[kind],
            "why": "drawn at random" if chance and kind == "routed" else WHY[kind],
        }
        for kind in kinds
    ]
    return filled_template(
        "routing_page.html.j2",
        title=film.screenplay.title or "A film",
        about=_about(film),
        legend=legend,
        scored=scored,
        colours=safe_json(KINDS),
        data=safe_json(data),
        empty=shares.empty,
    )


def _scoring(film: Film) -> tuple[bool, bool]:
    """Whether the routing scores of the whole film are shares of attention, and whether chance
    chose."""
    if any(slot.turn is not None and slot.turn.policy is not None for slot in film.timeline.slots):
        return False, False  # the policy changes inside the film
    try:
        policy = policy_from_dict(film.info["policy"], "film.json")
    except (CinelabError, KeyError):
        return False, False
    return scores_attention(policy), isinstance(policy, RandomTopK)


def _about(film: Film) -> str:
    """Model, policy, seed and size of a film in one line."""
    info = film.info
    try:
        policy = label_of(info["policy"])
    except (CinelabError, KeyError):
        policy = str(info.get("policy", {}).get("name", "a policy of its own"))
    if budget := info.get("policy", {}).get("budget"):
        policy += f" with a budget of {budget}"
    return (
        f"{info.get('model', '')}, {policy}, seed {info.get('seed', '')}: "
        f"{len(film.timeline.slots)} chunks, "
        f"{len(film.frames) / film.fps:.1f} s"
    )


def shots_of(film: Film) -> list[dict[str, Any]]:
    """Every shot between cuts: its seconds, its chunks, and what was prompted, when."""
    line = film.timeline
    lines = _entry_lines(film)
    found = []
    for shot, (start, end) in enumerate(line.shot_spans):
        slots = [slot for slot in line.slots if slot.shot == shot]
        prompts = [
            (frame, text)
            for entry in dict.fromkeys(slot.entry for slot in slots)
            for frame, text in lines[entry]
        ]
        found.append(
            {
                "start": start / film.fps,
                "end": end / film.fps,
                "first": slots[0].index,
                "last": slots[-1].index,
                "prompts": [
                    {"at": (frame - start) / film.fps, "text": text} for frame, text in prompts
                ],
            }
        )
    return found


def _entry_lines(film: Film) -> list[list[tuple[int, str]]]:
    """For every entry of the screenplay: what is prompted, and from which frame on."""
    spans = film.timeline.entry_spans
    turns = film.timeline.turns
    return [
        [(span[0], shot.prompt), *((turn.frame, turn.text) for turn in changes)]
        for shot, span, changes in zip(film.screenplay.shots, spans, turns, strict=True)
    ]


def _chunks(film: Film, shares: pd.DataFrame) -> list[dict[str, Any]]:
    """Every chunk: when it begins, its shot, and [chunk, share, share of heads, kind] of what it
    retrieved, most first."""
    by_chunk = dict(list(shares.groupby("chunk")))
    line = film.timeline
    nothing = shares.iloc[:0]
    found = []
    for slot in line.slots:
        seen = by_chunk.get(slot.index, nothing).sort_values(
            "share", ascending=False, kind="stable"
        )
        rows = [
            [row.kept_chunk, round(row.share, 4), round(row.heads, 3), row.kind]
            for row in seen[:MOST_SEEN].itertuples()
        ]
        rest = seen[MOST_SEEN:]["share"]
        start = line.pixel_span(slot.first)[0] / film.fps
        found.append(
            {
                "shot": slot.shot,
                "start": start,
                "seen": rows,
                "more": [len(rest), round(float(rest.sum()), 4)],
            }
        )
    return found


def _sprite(frames: np.ndarray, line: Timeline) -> dict[str, Any]:
    """One image with a still from the middle of every chunk (of a long film, of every few)."""
    every = -(-len(line.slots) // MOST_STILLS)
    chosen = line.slots[::every]
    wide = 128 if len(chosen) <= MOST_STILLS // 2 else 96
    size = wide, max(1, round(wide * frames.shape[1] / frames.shape[2]))
    columns = min(ACROSS, len(chosen))
    rows = -(-len(chosen) // columns)
    page = Image.new("RGB", (columns * size[0], rows * size[1]))
    for place, slot in enumerate(chosen):
        first, last = (
            line.pixel_span(slot.first)[0],
            line.pixel_span(slot.first + slot.frames - 1)[1],
        )
        still = Image.fromarray(frames[(first + last - 1) // 2]).resize(
            size, Image.Resampling.LANCZOS
        )
        page.paste(still, (place % columns * size[0], place // columns * size[1]))
    return {
        "uri": jpeg_uri(page, 78),
        "columns": columns,
        "rows": rows,
        "every": every,
        "ratio": size[1] / size[0],
    }
